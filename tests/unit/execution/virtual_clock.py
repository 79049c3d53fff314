"""Time that passes only in sleeps."""

from dataclasses import dataclass, field

from evermodel.execution.retry import RetryPolicy


@dataclass
class VirtualClock:
    now: float = 0.0
    lines: list[str] = field(default_factory=list)  # progress that was reported

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def policy(self, **changes: float) -> RetryPolicy:
        settings = {"patience_seconds": 60.0, **changes}
        return RetryPolicy(sleep=self.sleep, clock=lambda: self.now, **settings)
