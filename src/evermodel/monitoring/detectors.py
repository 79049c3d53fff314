"""River's change detectors: the positions at which a stream changes. A thin layer: each result is river's own.

`adwin`, `kswin` and `page_hinkley` take numbers; `ddm`, `eddm`, `hddm_a` and `hddm_w` take a model's errors (1 wrong,
0 right). Parameters are river's, by its names (`delta`, `alpha`, `seed`, `warm_start`, …).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from evermodel.errors import DataError, nearest

DetectorName = Literal["adwin", "kswin", "page_hinkley", "ddm", "eddm", "hddm_a", "hddm_w"]
NAMES: tuple[str, ...] = get_args(DetectorName)
_ON_ERRORS = frozenset({"ddm", "eddm", "hddm_a", "hddm_w"})


def _build(name: str, parameters: dict[str, Any]) -> Any:
    from river import drift
    from river.drift import binary

    classes = {
        "adwin": drift.ADWIN,
        "kswin": drift.KSWIN,
        "page_hinkley": drift.PageHinkley,
        "ddm": binary.DDM,
        "eddm": binary.EDDM,
        "hddm_a": binary.HDDMA,
        "hddm_w": binary.HDDMW,
    }
    if name not in classes:
        raise DataError(f"no detector {name!r}; {nearest(name, classes)}")
    try:
        return classes[name](**parameters)
    except (TypeError, ValueError) as error:
        raise DataError(f"detector {name!r}: {error}") from None


def detect(name: str, stream: Iterable[float], **parameters: Any) -> list[int]:
    """The positions (from 0) at which the detector reports a change of the stream.

    DataError if the detector or a parameter is unknown, or if a detector on errors gets a value other than 0 or 1.
    """
    return _positions(name, stream, parameters, "drift_detected")


def warnings(name: str, stream: Iterable[float], **parameters: Any) -> list[int]:
    """The positions at which a detector on errors (`ddm`, `eddm`, `hddm_a`, `hddm_w`) starts to warn of a change."""
    if name not in _ON_ERRORS:
        raise DataError(f"detector {name!r} has no warning zone; {nearest(name, _ON_ERRORS)}")
    return _positions(name, stream, parameters, "warning_detected")


def _positions(name: str, stream: Iterable[float], parameters: dict[str, Any], flag: str) -> list[int]:
    detector = _build(name, parameters)
    found: list[int] = []
    for position, value in enumerate(stream):
        if name in _ON_ERRORS:
            if value not in (0, 1):
                raise DataError(f"detector {name!r} takes errors, 0 or 1; position {position} holds {value!r}")
            detector.update(bool(value))
        else:
            detector.update(float(value))
        if getattr(detector, flag):
            found.append(position)
    return found
