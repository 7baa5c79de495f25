"""Variational Bayes in batches, for nets that are nonlinear in what is hidden: a round for every batch.

q of a batch's latents is the posterior of the net linearised at the forward pass of the mean weights, wider by the
observations that stand for uncertain weights (:mod:`gbn.learning.widened`).  Its expected statistics, scaled to the
size of the data, enter running ones as in stepwise EM (:mod:`gbn.learning.stepwise`),

    S ← (1 - γ_t) S + γ_t (N / B) s,

and q of weights and noises is the optimal one for S: the natural-gradient step of stochastic variational inference
(Hoffman, Blei, Wang & Paisley, J. Mach. Learn. Res. 14, 2013).  The bound is that of the net as linearised, which may
fall.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import LearningError
from gbn.learning.counted import Part, parts_of
from gbn.learning.expectations import Moments
from gbn.learning.regressions import names_of
from gbn.learning.stepwise import Expected
from gbn.learning.vb import VariationalBayes, in_double

if TYPE_CHECKING:
    from gbn.learning.assumed import Settings
    from gbn.learning.beliefs import Beliefs
    from gbn.learning.data import Data
    from gbn.learning.regressions import Family
    from gbn.learning.widened import Widened
    from gbn.net import GaussianBayesNet

__all__ = ["VariationalSteps"]

Array = np.ndarray[Any, Any]
Figures = dict[str, float]
_MEASURED_AT_ONCE = 256


class VariationalSteps(VariationalBayes):
    """The learner: one pass over the data a round; see :class:`gbn.learning.training.Learner`."""

    unit = "epochs"
    measure = "elbo"
    # The bound of a net as linearised is no judge of it: without held-out data the last round is the result.
    objective = "steps"

    def __init__(
        self,
        net: GaussianBayesNet,
        data: Data,
        families: list[Family],
        settings: Settings,
        rng: np.random.Generator,
        *,
        epochs: int,
        batch_size: int,
        step_size: float | None,
        step_decay: float,
        linearisations: int,
        samples: int | None,
    ) -> None:
        super().__init__(net, data, families, settings, max_iter=epochs, tol=None, px=False)
        self.remedy = "raise the noise of the hidden vertices, or epochs"
        self.rng, self.batch_size, self.step_size, self.step_decay = rng, batch_size, step_size, step_decay
        self.linearisations, self.samples, self.steps = linearisations, samples, 0
        self.names = list(names_of(families))
        whole = [len(chosen) == 1 and chosen[0].seen is None for chosen in self.groups]
        if not all(whole):
            name = families[whole.index(False)].name
            raise LearningError(
                f"{name!r}: some rows say nothing of some of its entries, and learning in batches needs rows that do; "
                "leave these rows out, or give complete ones"
            )
        self.running: list[Moments] | None = None

    def _taken(self, data: Data) -> Data:
        return in_double(data, self.work)

    def begin(self) -> Figures:
        parts = self.rows.data.batches(_MEASURED_AT_ONCE, self.rng, shuffle=False)
        return self._moved_to(self.q, sum(self._measured(part, self.q, self.rows.widened, 1, 1)[0] for part in parts))

    def step(self) -> Figures:
        q, total = self.q, 0.0
        for batch in self.rows.data.batches(self.batch_size, self.rng):
            found, parts = self._measured(batch, q, self.rows.widened, self.linearisations, self.samples)
            total += found
            self.steps += 1
            share = self.step_size or (self.steps + 1) ** -self.step_decay
            q = self.couplings.update(q, self.prior, self._kept(parts, share, self.data.total / batch.total))
            if not math.isfinite(total):
                self._failure = f"the bound is {total} in epoch {self.iteration + 1}, step {self.steps}"
                return {"elbo": total, "steps": math.nan}
        self.iteration += 1
        return self._moved_to(q, total)

    def _moved_to(self, q: Beliefs, total: float) -> Figures:
        self.q, self.value = q, total - self.couplings.divergence(q, self.prior)
        self.net = self._mean_net(q)
        # The loop takes the last round: so does the posterior.
        self.best["elbo"] = self.value, self.net, q, self.value
        return {"elbo": self.value, "steps": float(self.steps)}

    def _measured(
        self, batch: Data, q: Beliefs, widened: Widened, linearisations: int, samples: int | None
    ) -> tuple[float, list[list[Part]]]:
        """E log p(rows) + H[q(latents)] of some rows, and their statistics."""
        spreads = [self.couplings.spread(q, number) for number in range(len(self.families))]
        evidence = replace(batch.evidence, net=widened.net(self.work_net(q), spreads))
        expected = Expected(evidence, self.names, linearisations, samples, self.rng)
        parts = parts_of(expected, self.families, self.groups, batch.counts)
        total = expected.objective(batch.counts) + widened.constant * batch.total / widened.data.total
        return total + widened.rest(q.noises, spreads, parts), parts

    def _kept(self, parts: Sequence[Sequence[Part]], share: float, scale: float) -> list[list[Part]]:
        """The running statistics, in rows of the whole data, with those of a batch taken in."""
        new = [part[0].moments.about_zero for part in parts]
        before, kept = self.running, 1 - share
        if before is None:
            before, kept, share = [replace(m, weight=0.0, second=np.zeros_like(m.second)) for m in new], 0.0, 1.0
        self.running = [
            replace(
                m,
                weight=kept * old.weight + share * scale * m.weight,
                second=kept * old.second + share * scale * m.second,
            )
            for old, m in zip(before, new, strict=True)
        ]
        return [[Part(part[0].rows, m)] for part, m in zip(parts, self.running, strict=True)]

    def arrived(self) -> str | None:
        return f"made all {self.rounds} epochs" if self.iteration >= self.rounds else None

    def score(self, data: Data) -> float:
        """The bound of the log-predictive density of other rows, of the net as linearised, per unit of weight."""
        rows = self._rows_of(data)
        total = sum(
            self._measured(part, self.q, rows.widened, 1, 1)[0]
            for part in rows.data.batches(_MEASURED_AT_ONCE, self.rng, shuffle=False)
        )
        self._note("validation", total / data.total)
        return total / data.total

    def state(self) -> dict[str, Any]:
        running = None if self.running is None else [[m.weight, m.second] for m in self.running]
        return super().state() | {"steps": self.steps, "running": running, "value": self.value}

    def restore(self, net: GaussianBayesNet, state: Mapping[str, Any]) -> None:
        self._restore(state)
        self.value, self.net, self.steps = state["value"], net, state["steps"]
        if state["running"] is not None:
            sizes = [f.size for f in self.families]
            self.running = [
                Moments(weight, second, np.zeros(len(second)), size)
                for (weight, second), size in zip(state["running"], sizes, strict=True)
            ]

    def diagnostics(self, best: GaussianBayesNet) -> dict[str, Any]:
        spread = "exact" if self.samples is None else f"from {self.samples} draws a row"
        return super().diagnostics(best) | {
            "steps": self.steps,
            "exact": "nothing: the bound is that of the net as linearised",
            "approximate": f"posteriors of latents are those of the net linearised {self.linearisations} times a batch",
            "covariances": f"of the linearised net, {spread}",
        }
