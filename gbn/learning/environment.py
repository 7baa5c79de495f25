"""What a stream meets: how long samples are shown, when their labels come, and samples at hand in endless order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbn.errors import LearningError, ShapeError
from gbn.evidence import Evidence

__all__ = ["Environment", "Late", "shuffled"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Environment:
    """What all of a net in lockstep lives by; see :class:`gbn.learning.stream.Stream`.

    Raises:
        LearningError: with all that is wrong.
    """

    period: int
    lag: int
    prediction: str
    scale: str | float
    settle: int
    drop: float
    delay: int
    align: int

    def __post_init__(self) -> None:
        rules = [
            ("period", self.period, self.period >= 1, "a number of ticks, 1 or more"),
            ("lag", self.lag, self.lag >= 0, "a number of ticks, 0 or more"),
            ("settle", self.settle, self.settle >= 0, "a number of ticks, 0 or more"),
            ("align", self.align, self.align >= 0, "a number of ticks, or 0 for never"),
            ("prediction", self.prediction, self.prediction in ("fixed", "live"), "'fixed' or 'live'"),
            ("scale", self.scale, self._scale_fits(), "'mean', 'sum', or a finite number above 0"),
        ]
        wrong = [f"{name}: got {value!r}, expected {expected}" for name, value, right, expected in rules if not right]
        if self.settle > self.period:
            wrong.append(
                f"settle: got {self.settle}, more than the {self.period} ticks of a period: nothing would move"
            )
        if wrong:
            raise LearningError("; ".join(wrong))

    def _scale_fits(self) -> bool:
        return self.scale in ("mean", "sum") if isinstance(self.scale, str) else 0 < self.scale < math.inf

    def factor(self, rows: int) -> float:
        """What the gradient of the sum over rows is multiplied by."""
        return 1.0 if self.scale == "sum" else (1.0 if isinstance(self.scale, str) else float(self.scale)) / rows


class Late:
    """Shows inputs at once, and everything else so many ticks after the inputs it belongs to.

    Args:
        lag: ticks.
    """

    def __init__(self, lag: int) -> None:
        self._passed: deque[Evidence] = deque(maxlen=lag + 1)

    def __call__(self, sample: Evidence) -> Evidence:
        """What is shown in this tick, of which the sample is the present one."""
        self._passed.append(sample)
        if self._passed.maxlen == 1:
            return sample
        whole = len(self._passed) == self._passed.maxlen
        then = self._passed[0] if whole else Evidence(sample.net, sample.samples, {}, {}, {})
        return Evidence(
            sample.net,
            sample.samples,
            self._merged(sample, sample.values, then.values),
            self._merged(sample, sample.masks, then.masks),
            sample.do,
        )

    @staticmethod
    def _merged(sample: Evidence, now: Mapping[str, Array], then: Mapping[str, Array]) -> dict[str, Array]:
        vertices = sample.net.vertices
        early = {name: array for name, array in now.items() if vertices[name].kind == "input"}
        return early | {name: array for name, array in then.items() if vertices[name].kind != "input"}


def shuffled(
    data: Mapping[str, Any], rows: int = 1, seed: int | np.random.Generator | None = 0
) -> Iterator[dict[str, Array]]:
    """An endless stream of samples from data at hand: so many rows at a time, all once in random order, and again.

    What is left over of a pass, fewer than ``rows``, is passed over.

    Args:
        data: vertex -> array of shape (samples, *event).

    Raises:
        ShapeError: arrays of different numbers of rows, or fewer than ``rows``.
    """
    arrays = {name: np.asarray(value) for name, value in data.items()}
    sizes = {len(array) for array in arrays.values()}
    if len(sizes) != 1 or not 1 <= rows <= max(sizes):
        raise ShapeError(
            f"got arrays of {sorted(sizes)} rows, expected the same number, and at least the {rows} of a sample"
        )
    return _endless(arrays, sizes.pop(), rows, np.random.default_rng(seed))


def _endless(
    arrays: Mapping[str, Array], total: int, rows: int, rng: np.random.Generator
) -> Iterator[dict[str, Array]]:
    while True:
        order = rng.permutation(total)
        for start in range(0, total - rows + 1, rows):
            yield {name: array[order[start : start + rows]] for name, array in arrays.items()}
