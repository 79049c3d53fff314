"""Which releases are served: each is loaded, verified and tried first, then swapped in by one assignment.

`ModelManager` holds one `Predictor` for each use case. A config (Serve's `user_config`) names releases, weights and arms.
If a ledger is watched, its champion replaces the config's release, because a promotion row is the commit. A release that
can't be loaded changes nothing: the current model keeps answering, and `status` says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from threading import Event, Lock, Thread
from typing import Any, Protocol, TypeVar

from pydantic import Field, ValidationError

from evermodel import storage
from evermodel.errors import ServingError, nearest
from evermodel.records import Release
from evermodel.scores import ServableRelease
from evermodel.serving.fallback import Fallback
from evermodel.serving.online_features import FeatureReader
from evermodel.serving.predictor import Arm, Predictor
from evermodel.serving.schemas import Schema, path_of
from evermodel.use_case import UseCase

LOAD_SECONDS = 60.0
LONGEST_WAIT = 30  # polls between tries of a champion that can't be loaded: 1, 2, 4, … of them


Loaded = TypeVar("Loaded")


class ArmConfig(Schema):
    """A release beside the champion, with a share of the units or as a shadow."""

    release: Release | str
    share: float = Field(0.0, ge=0, le=1)
    shadow: bool = False
    weights: dict[str, float] | None = None


class UseCaseConfig(Schema):
    """What is served for one use case. A release is its JSON, or the URI of its `release.json`."""

    release: Release | str | None = Field(None, description="absent: the ledger's champion")
    weights: dict[str, float] | None = Field(None, description="of the objectives; absent: the release's own")
    arms: dict[str, ArmConfig] = Field(default_factory=dict)
    salt: str = Field("", description="another salt assigns all units anew")


class ServingConfig(Schema):
    """Serve's `user_config`."""

    use_cases: dict[str, UseCaseConfig] = Field(default_factory=dict)


class ChampionSource(Protocol):
    """Where the champion is read from: the ledger."""

    def champion(self, use_case: str) -> Release | None: ...


class ModelManager:
    """The predictors of some use cases. Any thread may read; changes come one after another."""

    def __init__(
        self,
        use_cases: Mapping[str, UseCase],
        readers: Mapping[str, FeatureReader],
        *,
        opener: Callable[[Release], ServableRelease],
        clock: Callable[[], datetime],
        load_seconds: float = LOAD_SECONDS,
    ) -> None:
        self.use_cases = use_cases
        self._readers, self._opener, self._clock, self._load_seconds = readers, opener, clock, load_seconds
        self._pools = {name: ThreadPoolExecutor(4, thread_name_prefix=name) for name in use_cases}
        self._fallbacks = {name: Fallback(case) for name, case in use_cases.items()}
        self._configs: dict[str, UseCaseConfig] = {}
        self._champions: dict[str, Release] = {}
        self._predictors: dict[str, Predictor] = {}
        self._served: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, str] = {}
        self._lock = Lock()

    def get(self, name: str) -> Predictor | None:
        """The use case's current predictor, None before its first."""
        return self._predictors.get(name)

    def apply(self, config: Mapping[str, Any]) -> None:
        """Serve what the config says. Raises only if a use case would be left without any model; else see `status`."""
        try:
            wanted = ServingConfig.model_validate(config)
            for name in wanted.use_cases:
                if name not in self.use_cases:
                    raise ServingError("unknown_use_case", f"{name!r} is not served; {nearest(name, self.use_cases)}")
        except (ValidationError, ServingError) as error:
            self._errors["config"] = _summarize(error)
            if not self._predictors:
                raise
            return
        self._errors.pop("config", None)
        with self._lock:
            failures = [
                self._switch_or_keep(name, part, self._champions.get(name)) for name, part in wanted.use_cases.items()
            ]
        if first := next((error for error in failures if error is not None), None):
            raise first

    def promote(self, name: str, release: Release) -> bool:
        """Serve the ledger's champion; False if it can't be loaded and the current one stays. Never raises."""
        with self._lock:
            self._switch_or_keep(name, self._configs.get(name, UseCaseConfig()), release)
        return self.champion(name) == release.id

    def champion(self, name: str) -> str | None:
        """The id of the release that answers as champion."""
        return self._served.get(name, {}).get("release")

    def record_error(self, name: str, error: Exception) -> None:
        """Keep, for `status`, the last error of a use case."""
        self._errors[name] = _summarize(error)

    def status(self) -> dict[str, Any]:
        """`ready` (each use case has a model), and by use case: release, weights, arms, since, error."""
        cases = {
            name: {**self._served.get(name, _NOT_SERVED), "error": self._errors.get(name)} for name in self.use_cases
        }
        ready = all(name in self._predictors for name in self.use_cases)
        return {"ready": ready, "error": self._errors.get("config"), "use_cases": cases}

    def check(self) -> None:
        """Predict an example with every model; raises the model's exception. For health checks."""
        for predictor in tuple(self._predictors.values()):
            predictor.smoke(now=self._clock())

    def _switch_or_keep(self, name: str, config: UseCaseConfig, champion: Release | None) -> Exception | None:
        """Switch to the config and champion; the exception, if that leaves the use case without a model."""
        try:
            self._switch(name, config, champion)
        except Exception as error:  # whatever a load raises, the current model stays
            self.record_error(name, error)
            return None if name in self._predictors else error
        self._errors.pop(name, None)
        return None

    def _switch(self, name: str, config: UseCaseConfig, champion: Release | None) -> None:
        release = champion or self._run_in_time(lambda: _read_release(config.release))
        if release is None:
            self._configs[name] = config  # the ledger has no champion yet: not ready, and no error
            return
        predictor, arms = self._run_in_time(lambda: self._prepare(name, config, release))
        self._predictors[name] = predictor
        self._configs[name] = config
        if champion is not None:
            self._champions[name] = champion
        self._served[name] = {
            "release": release.id,
            "weights": dict(config.weights or release.weights),
            "arms": {
                arm.name: {"release": arm.model.release.id, "share": arm.share, "shadow": arm.shadow} for arm in arms
            },
            "since": self._clock().isoformat(),
        }

    def _prepare(self, name: str, config: UseCaseConfig, release: Release) -> tuple[Predictor, list[Arm]]:
        """The predictor and its arms, loaded and tried, but not yet served."""
        current = self._predictors.get(name)
        arms = [self._open_arm(name, arm, part, current) for arm, part in config.arms.items()]
        predictor = Predictor(
            self.use_cases[name],
            self._open(name, release, current),
            self._readers[name],
            weights=config.weights,
            arms=arms,
            fallback=self._fallbacks[name],
            salt=config.salt,
            pool=self._pools[name],
        )
        predictor.smoke(now=self._clock())
        return predictor, arms

    def _run_in_time(self, work: Callable[[], Loaded]) -> Loaded:
        """The result of `work`. A load that hangs stays on a thread of its own, so that the next one can be tried."""
        result: Future[Loaded] = Future()

        def run() -> None:
            try:
                result.set_result(work())
            except Exception as error:  # raised in the thread that waits
                result.set_exception(error)

        Thread(target=run, name="load", daemon=True).start()
        try:
            return result.result(self._load_seconds)
        except TimeoutError:
            if result.done():
                raise  # the load's own timeout, such as of the storage
            limit = f"{self._load_seconds:g} s"
            raise ServingError("load_timeout", f"the release wasn't loaded and tried within {limit}") from None

    def _open_arm(self, name: str, arm: str, config: ArmConfig, current: Predictor | None) -> Arm:
        release = _read_release(config.release)
        assert release is not None
        model = self._open(name, release, current)
        return Arm(arm, model, config.weights or release.weights, config.share, config.shadow)

    def _open(self, name: str, release: Release, current: Predictor | None) -> ServableRelease:
        """The release, opened and verified. An open one is reused: weights change without loading."""
        if release.use_case != name:
            raise ServingError("bad_release", f"release {release.id} is of {release.use_case}, not of {name}")
        open_releases = current.open_releases() if current else {}
        return open_releases.get(release.id) or self._opener(release)


class ChampionWatcher:
    """Asks the ledger every `seconds` for the champions, and serves them. `stop` ends its thread."""

    def __init__(self, source: ChampionSource, manager: ModelManager, *, seconds: float) -> None:
        self._source, self._manager, self._seconds = source, manager, seconds
        self._failed: dict[str, tuple[str, int, int]] = {}  # release, tries, polls to wait before the next one
        self._end = Event()
        self._thread = Thread(target=self._run, name="champion-watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()

    def poll(self) -> None:
        """Ask once for each use case. A champion that can't be loaded is tried again, at fewer and fewer polls."""
        for name in self._manager.use_cases:
            try:
                release = self._source.champion(name)
            except Exception as error:  # the ledger is down: the current model stays
                self._manager.record_error(name, error)
                continue
            if release is None or release.id == self._manager.champion(name):
                continue
            failed, tries, wait = self._failed.get(name, ("", 0, 0))
            if failed != release.id:
                tries, wait = 0, 0
            if wait > 0:
                self._failed[name] = (release.id, tries, wait - 1)
            elif self._manager.promote(name, release):
                self._failed.pop(name, None)
            else:  # a short overload is over at the next poll; a broken bundle isn't read again every second
                self._failed[name] = (release.id, tries + 1, min(2**tries, LONGEST_WAIT) - 1)

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self.poll()


_NOT_SERVED: dict[str, Any] = {"release": None, "weights": None, "arms": {}, "since": None}


def _read_release(value: Release | str | None) -> Release | None:
    return Release.from_json(storage.read_text(value)) if isinstance(value, str) else value


def _summarize(error: Exception) -> str:
    """One line for `/readyz`: what is wrong, and where; never a trace."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{path_of(first['loc'])}: {first['msg']}"
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]
