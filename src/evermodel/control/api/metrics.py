"""The Prometheus metrics of the control service: the ledger's present state, and how far the rollout is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from evermodel.control import queries
from evermodel.control.service import RolloutController, Service

RUN_STATES = ("running", "promoted", "held", "rejected", "failed")


class LedgerCollector:
    """Reads the ledger at each scrape: nothing is counted twice, and a restart loses nothing."""

    def __init__(self, service: Service, rollout: RolloutController | None) -> None:
        self._service, self._rollout = service, rollout

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("evermodel_ledger_up", "1 if the ledger answers")
        try:
            metrics = list(self._ledger_metrics())
            up.add_metric([], 1)
        except Exception:  # `evermodel_ledger_up 0` must still be scraped
            metrics = []
            up.add_metric([], 0)
        yield up
        yield from metrics
        if self._rollout is not None:
            yield from self._rollout_metrics(self._rollout)

    def _ledger_metrics(self) -> Iterator[Metric]:
        age = GaugeMetricFamily("evermodel_champion_age_seconds", "Age since its promotion", labels=["use_case"])
        opened = GaugeMetricFamily("evermodel_alerts_open", "Alerts that no retrain answered", labels=["use_case"])
        runs = GaugeMetricFamily("evermodel_runs", "Training runs", labels=["use_case", "state"])
        measured = GaugeMetricFamily(
            "evermodel_window_metric", "Metric of the last window with labels", labels=["use_case", "metric"]
        )
        reference = GaugeMetricFamily(
            "evermodel_window_reference", "The champion's metric at its gate", labels=["use_case", "metric"]
        )
        ended = GaugeMetricFamily(
            "evermodel_window_end_seconds", "End of the last monitored window, since the epoch", labels=["use_case"]
        )
        chain = GaugeMetricFamily("evermodel_audit_chain_whole", "1 if the audit chain is whole", labels=["use_case"])
        ledger, now = self._service.ledger, self._service.clock()
        for name in self._service.use_case_files():
            promotions, reports = ledger.promotions(name), ledger.monitoring_reports(name)
            champion = promotions[-1].release.id if promotions else None
            if promotions:
                age.add_metric([name], (now - promotions[-1].at).total_seconds())
            opened.add_metric([name], len(queries.open_alerts(self._service, name, champion)))
            states = Counter(str(run.state) for run in ledger.runs(name))
            for state in RUN_STATES:
                runs.add_metric([name, state], states[state])
            if reports:
                ended.add_metric([name], reports[-1].window.end.timestamp())
            newest = next((report for report in reversed(reports) if report.performance is not None), None)
            if newest is not None and newest.performance is not None:
                measured.add_metric([name, newest.metric], newest.performance)
            if newest is not None and newest.reference is not None:
                reference.add_metric([name, newest.metric], newest.reference)
            chain.add_metric([name], 0 if ledger.verify_chain(name) else 1)
        yield from (age, opened, runs, measured, reference, ended, chain)

    def _rollout_metrics(self, rollout: RolloutController) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "evermodel_projection_lag_seconds",
            "Time since the promotion of a champion that serving does not have live",
            labels=["use_case"],
        )
        failed = GaugeMetricFamily(
            "evermodel_projection_failed", "1 if the champion failed to go live", labels=["use_case"]
        )
        for name, seconds in rollout.lag().items():
            lag.add_metric([name], seconds)
        for name, count in rollout.failed().items():
            failed.add_metric([name], count)
        yield from (lag, failed)


def render_metrics(service: Service, rollout: RolloutController | None) -> bytes:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(LedgerCollector(service, rollout))
    return bytes(generate_latest(registry))
