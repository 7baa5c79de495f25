"""Online EM: a net that follows rows as they come, and forgets those that are long past.

Every block of rows is one E-step and one M-step (:mod:`gbn.learning.stepwise`), from running statistics in which a row
of n rows ago counts φⁿ:

    S ← φⁿ S + s,        s the expected second moments of a block of n rows

With complete data an M-step on S is exponentially weighted least squares; φ = 1 forgets nothing, and the whole past
counts alike.  What drifts more slowly than rows are forgotten is tracked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import LearningError
from gbn.inference.loop import Finished, iterate
from gbn.learning import em
from gbn.learning.data import Data
from gbn.learning.numbers import Frozen
from gbn.learning.result import FitResult, History
from gbn.learning.stepwise import Stepwise
from gbn.options import check_arguments, check_options, options_of

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = ["Online"]

Figures = dict[str, float]


class Online:
    """Stepwise EM on blocks of rows, however many will come::

        online = Online(net, half_life=500)
        for block in blocks:
            online.update(block)
        online.net

    Args:
        net: it is left as it is.
        half_life: rows after which a row counts half.
        forgetting: the same as a factor φ for each row, above 0 and at most 1; one of the two is needed.
        freeze: parameters and noises to leave alone, or vertices, which stand for their whole CPD.
        seed: of all chance, or a Generator.
        samples, damping: as in :func:`gbn.learning.em.learner`; None: exact covariances and no damping where the net is
            linear, 4 and 0.2 elsewhere.
        options: further ones of stepwise EM: ridge, mask, fixed_noise, noise_prior, variance_floor, linearisations.

    Raises:
        LearningError: options that cannot be used.  What the net does not allow is said at the first block.
        UnknownNameError, ArgumentTypeError: options that there are not, or of other types.
    """

    def __init__(
        self,
        net: GaussianBayesNet,
        *,
        half_life: float | None = None,
        forgetting: float | None = None,
        freeze: str | Iterable[str] = (),
        seed: int | np.random.Generator | None = 0,
        samples: int | None = None,
        damping: float | None = None,
        **options: Any,
    ) -> None:
        given = {"half_life": half_life, "forgetting": forgetting, "freeze": freeze, "seed": seed}
        check_arguments(Online.__init__, given | {"samples": samples, "damping": damping})
        check_options(em.learner, options, "online EM", without=options_of(em.learner).keys() - _OPTIONS)
        self.forgetting = _factor(half_life, forgetting)
        linear = net.is_linear()
        options["samples"] = samples if samples is not None or linear else 4
        options["damping"] = damping if damping is not None else 0.0 if linear else 0.2
        self._options, self._freeze, self._rng = options, freeze, np.random.default_rng(seed)
        self.net, self.rows, self.blocks = net.copy(), 0.0, 0
        self._learner: Stepwise | None = None

    def update(self, block: Any, weights: Any = None) -> Figures:
        """Learn from some more rows; ``net`` is then the one that has.

        Args:
            block: vertex -> array of shape (rows, *event), NaN where missing, or a DataFrame.
            weights: how often each row counts, shape (rows,); time passes by as many rows.

        Returns:
            ``log_evidence`` of the block before it was learned from, in nats a row; ``rows`` so far.

        Raises:
            EvidenceError, ShapeError, UnknownNameError: an unusable block; nothing was learned from it.
            LearningError: CPDs that are no regressions, or numbers that are not finite any more.
        """
        data = Data.read(self.net, block, weights)
        learner = self._learner or self._begin(data)
        net, found = learner.absorb(self.net, data, 1 - self.forgetting**data.total)
        if not math.isfinite(found):
            raise LearningError(f"the log-evidence of block {self.blocks + 1} is {found}; {learner.remedy}")
        self._learner, self.net = learner, net
        self.rows += data.total
        self.blocks += 1
        return {"log_evidence": found / data.total, "rows": self.rows}

    def _begin(self, data: Data) -> Stepwise:
        net = self.net
        made = em.learner(
            net, data, Frozen.read(net, self._freeze), self._rng, batch_size=data.samples, **self._options
        )
        if not isinstance(made, Stepwise):
            raise LearningError("online EM is stepwise EM")
        return made

    def run(
        self,
        source: Iterable[Any],
        blocks: int | None = None,
        *,
        callback: Callable[[int, Mapping[str, float]], Any] | None = None,
        progress: bool | None = None,
    ) -> FitResult:
        """Learn from blocks as long as they come; run again to go on.

        Args:
            source: iterable of blocks, see :meth:`update`; it may be endless, and is read one by one.
            blocks: how many to take at most; None: all that come.
            callback: called with the number of the block and its figures; returning True stops.
            progress: show a bar on stderr (None: on a terminal only).

        An interrupt (Ctrl-C) returns what was learned so far.

        Raises:
            As :meth:`update`.
        """
        reading, begun = iter(source), self.blocks

        def step(_: int) -> Figures:
            block = next(reading, None)
            if block is None:
                raise Finished(f"the source ended after {self.blocks - begun} blocks")
            return self.update(block)

        before = {"round": 0.0, "rows": self.rows}
        outcome = iterate(
            step,
            label="online EM",
            max_rounds=blocks,
            tol=None,
            remedy="",
            measure="log_evidence",
            callback=callback,
            progress=progress,
        )
        history = History([before, *({"round": float(n), **f} for n, f in enumerate(outcome.history, 1))])
        told = {} if self._learner is None else self._learner.diagnostics(self.net)
        told |= {"forgetting": self.forgetting, "rows": self.rows}
        return FitResult(self.net, "online", history, outcome.converged, outcome.reason, len(history) - 1, told)


_OPTIONS = {"ridge", "mask", "fixed_noise", "noise_prior", "variance_floor", "linearisations"}


def _factor(half_life: float | None, forgetting: float | None) -> float:
    if (half_life is None) == (forgetting is None):
        raise LearningError("give either half_life, in rows, or forgetting, a factor for each row (1: forget nothing)")
    if half_life is not None:
        if not half_life > 0:
            raise LearningError(f"half_life: got {half_life}, expected a number of rows above 0")
        return float(0.5 ** (1 / half_life))
    if forgetting is None or not 0 < forgetting <= 1:
        raise LearningError(f"forgetting: got {forgetting}, expected a number above 0 and at most 1")
    return float(forgetting)
