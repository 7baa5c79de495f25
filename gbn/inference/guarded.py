"""The answer of observation space, or of the information form where rounding spoils the former.

Observation space takes what the evidence explains from the prior: where that is nearly all of a variance, the digits
of what is left are lost.  The information form adds precisions, and keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from gbn.errors import SingularEvidenceError
from gbn.inference.information import InformationPosterior
from gbn.inference.observation_space import ObservationPosterior
from gbn.inference.solution import LinearizedPosterior

__all__ = ["Guarded"]

Array = np.ndarray[Any, Any]
T = TypeVar("T")


class Guarded:
    """A Solution: each figure is asked of observation space, and once digits are lost all are asked of the other.

    Args:
        first: the posterior in observation space.
        instead: gives that of the information form; None where there is none.
    """

    def __init__(self, first: ObservationPosterior, instead: Callable[[], InformationPosterior | None]) -> None:
        self.point, self._first, self._instead = first.point, first, instead
        self._other: InformationPosterior | None = None
        self._tried = False
        self.figures: dict[str, Any] = {}

    def _ask(self, question: Callable[[LinearizedPosterior], T], names: Sequence[str] = ()) -> T:
        """names: the vertices whose covariances the answer is made of."""
        if self._other is not None:
            return question(self._other)
        try:
            found = question(self._first)
            if self._tried or self._first.sound(names):
                return found
        except SingularEvidenceError:
            if self._tried or self._switched() is None:
                raise
        else:
            if self._switched() is None:
                return found
        return self._ask(question)

    def _switched(self) -> InformationPosterior | None:
        self._tried = True
        self._other = self._instead()
        self.figures["rounding"] = "observation space lost digits of a sharp posterior under a vague prior"
        if self._other is not None:
            self.figures["solver"] = "information"
        return self._other

    def mean(self, name: str) -> Array:
        return self._ask(lambda s: s.mean(name))

    def variance(self, name: str) -> Array:
        return self._ask(lambda s: s.variance(name), [name])

    def covariance(self, a: str, b: str) -> Array:
        return self._ask(lambda s: s.covariance(a, b), [a, b])

    def covariance_by_pattern(self, a: str, b: str) -> Array:
        return self._ask(lambda s: s.covariance_by_pattern(a, b), self._uncertain([(a, b)]))

    def summed_covariance(self, pairs: Sequence[tuple[str, str]], counts: Array) -> Array | None:
        return self._ask(lambda s: s.summed_covariance(pairs, counts), self._uncertain(pairs))

    def known(self, name: str) -> bool:
        return self._first.known(name)

    def _uncertain(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        return [name for name in dict.fromkeys(n for pair in pairs for n in pair) if not self.known(name)]

    def sample(self, n: int, rng: np.random.Generator, names: Sequence[str]) -> dict[str, Array]:
        return self._ask(lambda s: s.sample(n, rng, names))

    def messages(self) -> Mapping[str, Array]:
        return self._ask(lambda s: s.messages())

    def log_evidence(self) -> Array:
        return self._ask(lambda s: s.log_evidence())

    def surprise(self, name: str) -> Array:
        return self._ask(lambda s: s.surprise(name))

    def free_energy(self) -> Array:
        return self._ask(lambda s: s.free_energy())
