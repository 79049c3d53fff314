"""Which models are live: loaded, verified and tried before they answer, then swapped in one assignment.

`ModelManager` holds one `Predictor` for each use case. A config (Serve's `user_config`) names releases, weights and arms;
where a ledger is watched, its champion takes the config's release's place, for a promotion row is the commit. What can't
be loaded changes nothing: the model that answers goes on, and `status` says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import datetime
from threading import Event, Lock, Thread
from typing import Any, Protocol, TypeVar

from pydantic import Field, ValidationError

from evermodel import storage
from evermodel.errors import ServingError, nearest
from evermodel.records import Release
from evermodel.serving.fallback import Fallback
from evermodel.serving.predictor import Arm, FeatureReader, Predictor, Scorer
from evermodel.serving.schemas import Schema, path_of
from evermodel.use_case import UseCase

LOAD_SECONDS = 60.0
LONGEST_WAIT = 30  # polls between tries of a champion that can't be loaded: 1, 2, 4, … of them


Loaded = TypeVar("Loaded")


class ArmConfig(Schema):
    """A release beside the champion: with a share of the units, or as a shadow."""

    release: Release | str
    share: float = Field(0.0, ge=0, le=1)
    shadow: bool = False
    weights: dict[str, float] | None = None


class UseCaseConfig(Schema):
    """What is live of one use case. A release is its JSON, or the URI of its `release.json`."""

    release: Release | str | None = Field(None, description="absent: the ledger's champion")
    weights: dict[str, float] | None = Field(None, description="of the objectives; absent: the release's own")
    arms: dict[str, ArmConfig] = Field(default_factory=dict)
    salt: str = Field("", description="another salt assigns all units anew")


class LiveConfig(Schema):
    """Serve's `user_config`."""

    use_cases: dict[str, UseCaseConfig] = Field(default_factory=dict)


class Champions(Protocol):
    """Who is champion: the ledger."""

    def champion(self, use_case: str) -> Release | None: ...


class ModelManager:
    """The live predictors of some use cases. Any thread may read; changes come one after another."""

    def __init__(
        self,
        use_cases: Mapping[str, UseCase],
        readers: Mapping[str, FeatureReader],
        *,
        opener: Callable[[Release], Scorer],
        clock: Callable[[], datetime],
        load_seconds: float = LOAD_SECONDS,
    ) -> None:
        self.use_cases = use_cases
        self._readers, self._opener, self._clock, self._load_seconds = readers, opener, clock, load_seconds
        self._pools = {name: ThreadPoolExecutor(4, thread_name_prefix=name) for name in use_cases}
        self._fallbacks = {name: Fallback(case) for name, case in use_cases.items()}
        self._configs: dict[str, UseCaseConfig] = {}
        self._champions: dict[str, Release] = {}
        self._live: dict[str, Predictor] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, str] = {}
        self._lock = Lock()

    def get(self, name: str) -> Predictor | None:
        """The use case's live predictor, None before its first."""
        return self._live.get(name)

    def apply(self, config: Mapping[str, Any]) -> None:
        """Make the config live. Raises only where a use case would be left without any model; else see `status`."""
        try:
            wanted = LiveConfig.model_validate(config)
            for name in wanted.use_cases:
                if name not in self.use_cases:
                    raise ServingError("unknown_use_case", f"{name!r} is not served; {nearest(name, self.use_cases)}")
        except (ValidationError, ServingError) as error:
            self._errors["config"] = _brief(error)
            if not self._live:
                raise
            return
        self._errors.pop("config", None)
        with self._lock:
            failures = [self._try(name, part, self._champions.get(name)) for name, part in wanted.use_cases.items()]
        if first := next((error for error in failures if error is not None), None):
            raise first

    def promote(self, name: str, release: Release) -> bool:
        """Make the ledger's champion live; False where it can't be, and the one before goes on. Never raises."""
        with self._lock:
            self._try(name, self._configs.get(name, UseCaseConfig()), release)
        return self.champion(name) == release.id

    def champion(self, name: str) -> str | None:
        """The id of the release that answers as champion."""
        return self._told.get(name, {}).get("release")

    def note(self, name: str, error: Exception) -> None:
        """Remember, for `status`, what went wrong around a use case."""
        self._errors[name] = _brief(error)

    def status(self) -> dict[str, Any]:
        """`ready` (each use case has a live model), and by use case: release, weights, arms, since, error."""
        cases = {name: {**self._told.get(name, _NOTHING), "error": self._errors.get(name)} for name in self.use_cases}
        ready = all(name in self._live for name in self.use_cases)
        return {"ready": ready, "error": self._errors.get("config"), "use_cases": cases}

    def check(self) -> None:
        """Predict an example with every live model; raises what it raises. For health checks."""
        for predictor in tuple(self._live.values()):
            predictor.smoke(now=self._clock())

    def _try(self, name: str, config: UseCaseConfig, champion: Release | None) -> Exception | None:
        """Switch to the config and champion; what it failed of, where the use case is left without a model."""
        try:
            self._switch(name, config, champion)
        except Exception as error:  # whatever a load dies of, the live model goes on
            self.note(name, error)
            return None if name in self._live else error
        self._errors.pop(name, None)
        return None

    def _switch(self, name: str, config: UseCaseConfig, champion: Release | None) -> None:
        release = champion or self._in_time(lambda: _release(config.release))
        if release is None:
            self._configs[name] = config  # the ledger has no champion yet: not ready, and no error
            return
        predictor, arms = self._in_time(lambda: self._prepared(name, config, release))
        self._live[name] = predictor
        self._configs[name] = config
        if champion is not None:
            self._champions[name] = champion
        self._told[name] = {
            "release": release.id,
            "weights": dict(config.weights or release.weights),
            "arms": {
                arm.name: {"release": arm.scorer.release.id, "share": arm.share, "shadow": arm.shadow} for arm in arms
            },
            "since": self._clock().isoformat(),
        }

    def _prepared(self, name: str, config: UseCaseConfig, release: Release) -> tuple[Predictor, list[Arm]]:
        """Loaded and tried; nothing is live of it yet."""
        before = self._live.get(name)
        arms = [self._arm(name, arm, part, before) for arm, part in config.arms.items()]
        predictor = Predictor(
            self.use_cases[name],
            self._open(name, release, before),
            self._readers[name],
            weights=config.weights,
            arms=arms,
            fallback=self._fallbacks[name],
            salt=config.salt,
            pool=self._pools[name],
        )
        predictor.smoke(now=self._clock())
        return predictor, arms

    def _in_time(self, work: Callable[[], Loaded]) -> Loaded:
        """What `work` gives. A load that hangs is left behind, on a thread of its own: the next one can be tried."""
        done: Future[Loaded] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as error:  # raised where the load was asked for
                done.set_exception(error)

        Thread(target=run, name="load", daemon=True).start()
        try:
            return done.result(self._load_seconds)
        except FutureTimeout:
            if done.done():
                raise  # its own: what it was waiting for took too long
            limit = f"{self._load_seconds:g} s"
            raise ServingError("load_timeout", f"the release wasn't loaded and tried within {limit}") from None

    def _arm(self, name: str, arm: str, config: ArmConfig, before: Predictor | None) -> Arm:
        release = _release(config.release)
        assert release is not None
        scorer = self._open(name, release, before)
        return Arm(arm, scorer, config.weights or release.weights, config.share, config.shadow)

    def _open(self, name: str, release: Release, before: Predictor | None) -> Scorer:
        """The release, opened and verified; as it is where it is already live: weights change without loading."""
        if release.use_case != name:
            raise ServingError("bad_release", f"release {release.id} is of {release.use_case}, not of {name}")
        known = before.scorers() if before else {}
        return known.get(release.id) or self._opener(release)


class ChampionWatcher:
    """Asks the ledger every `seconds` who is champion, and makes it live: a thread that ends with `stop`."""

    def __init__(self, champions: Champions, live: ModelManager, *, seconds: float) -> None:
        self._champions, self._live, self._seconds = champions, live, seconds
        self._failed: dict[str, tuple[str, int, int]] = {}  # release, tries, polls to wait before the next one
        self._end = Event()
        self._thread = Thread(target=self._run, name="champion-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()

    def look(self) -> None:
        """Ask once for each use case. A champion that can't be loaded is tried again, but not at every look."""
        for name in self._live.use_cases:
            try:
                release = self._champions.champion(name)
            except Exception as error:  # the ledger is down: who answers goes on
                self._live.note(name, error)
                continue
            if release is None or release.id == self._live.champion(name):
                continue
            failed, tries, left = self._failed.get(name, ("", 0, 0))
            if failed != release.id:
                tries, left = 0, 0
            if left > 0:
                self._failed[name] = (release.id, tries, left - 1)
            elif self._live.promote(name, release):
                self._failed.pop(name, None)
            else:  # a busy moment passes by the next look; a broken bundle isn't read again every second
                self._failed[name] = (release.id, tries + 1, min(2**tries, LONGEST_WAIT) - 1)

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self.look()


_NOTHING: dict[str, Any] = {"release": None, "weights": None, "arms": {}, "since": None}


def _release(value: Release | str | None) -> Release | None:
    return Release.from_json(storage.read_text(value)) if isinstance(value, str) else value


def _brief(error: Exception) -> str:
    """One line for `/readyz`: what, and where; never a trace."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{path_of(first['loc'])}: {first['msg']}"
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]
