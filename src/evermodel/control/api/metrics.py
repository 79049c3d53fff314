"""What Prometheus scrapes of the control service: figures of the ledger at this instant, and of the projection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from evermodel.control.service import Service
from evermodel.control.ui import views

STATES = ("running", "promoted", "held", "rejected", "failed")


class Projection(Protocol):
    """What is asked of the projector."""

    def again(self, name: str) -> None:
        """Try the champion that failed once more."""
        ...

    def lag(self) -> dict[str, float]:
        """Seconds since the champion came that serving hasn't live yet, by use case; 0 where it has."""
        ...

    def failed(self) -> dict[str, int]:
        """1 for each use case whose champion serving didn't take, else 0."""
        ...


class Figures:
    """A collector that reads the ledger when it is asked: nothing is counted twice, and a restart forgets nothing."""

    def __init__(self, service: Service, projection: Projection | None) -> None:
        self._service, self._projection = service, projection

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("evermodel_ledger_up", "1 where the ledger answers")
        try:
            found = list(self._ledger())
            up.add_metric([], 1)
        except Exception:  # the figure that says so must get out
            found = []
            up.add_metric([], 0)
        yield up
        yield from found
        if self._projection is not None:
            yield from self._projected(self._projection)

    def _ledger(self) -> Iterator[Metric]:
        age = GaugeMetricFamily("evermodel_champion_age_seconds", "Since its promotion", labels=["use_case"])
        opened = GaugeMetricFamily("evermodel_alerts_open", "Not answered by a retrain", labels=["use_case"])
        runs = GaugeMetricFamily("evermodel_runs", "Training runs", labels=["use_case", "state"])
        figure = GaugeMetricFamily(
            "evermodel_window_metric", "Of the last window with labels", labels=["use_case", "metric"]
        )
        reference = GaugeMetricFamily(
            "evermodel_window_reference", "The champion's own at its gate", labels=["use_case", "metric"]
        )
        ended = GaugeMetricFamily(
            "evermodel_window_end_seconds", "End of the last monitored window, since the epoch", labels=["use_case"]
        )
        chain = GaugeMetricFamily("evermodel_audit_chain_whole", "1 where the chain is whole", labels=["use_case"])
        ledger, now = self._service.ledger, self._service.clock()
        for name in self._service.places():
            promotions, windows = ledger.promotions(name), ledger.monitoring_reports(name)
            champion = promotions[-1].release.id if promotions else None
            if promotions:
                age.add_metric([name], (now - promotions[-1].at).total_seconds())
            opened.add_metric([name], len(views.open_alerts(self._service, name, champion)))
            counted: Counter[str] = Counter(run.state for run in ledger.runs(name))
            for state in STATES:
                runs.add_metric([name, state], counted[state])
            if windows:
                ended.add_metric([name], windows[-1].window.end.timestamp())
            measured = [window for window in windows if window.performance is not None]
            if measured and measured[-1].performance is not None:
                figure.add_metric([name, measured[-1].metric], measured[-1].performance)
            if measured and measured[-1].reference is not None:
                reference.add_metric([name, measured[-1].metric], measured[-1].reference)
            chain.add_metric([name], 0 if ledger.verify_chain(name) else 1)
        yield from (age, opened, runs, figure, reference, ended, chain)

    def _projected(self, projection: Projection) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "evermodel_projection_lag_seconds", "Since a champion came that serving hasn't live", labels=["use_case"]
        )
        failed = GaugeMetricFamily(
            "evermodel_projection_failed", "1 where serving didn't take the champion", labels=["use_case"]
        )
        for name, seconds in projection.lag().items():
            lag.add_metric([name], seconds)
        for name, count in projection.failed().items():
            failed.add_metric([name], count)
        yield from (lag, failed)


def figures(service: Service, projection: Projection | None) -> bytes:
    """Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(Figures(service, projection))
    return bytes(generate_latest(registry))
