"""Stepwise EM: an M-step after every batch, from running averages of expected statistics; for nonlinear nets, too.

The E-step of a batch is the posterior of the net linearised at the forward pass, or again where that posterior lies
(Gauss-Newton).  The expected second moments s of a batch, covariances included, enter the running ones,

    S ← (1 - γ_t) S + γ_t s,        γ_t = (t + 1)^-α,

and the M-step takes S for the moments of all rows (Cappé & Moulines, J. R. Stat. Soc. B 71, 2009, section 2).  Every
CPD whose mean is affine in what it reads is then a regression, B = C_xu C_uu⁻¹; with noise on affine results (latents
"affine") so is every layer of a network.  A layer for each of whose unknowns a batch has r > 1 numbers (weights tied
over positions or steps) need not remember as much, and what it remembers is of weights that are no longer: its share is
r γ_t, at most 1.  The covariances are no ornament: they are what keeps weights from following
the noise of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import LearningError
from gbn.inference.live_prediction import Errors
from gbn.inference.observation_space import ObservationPosterior
from gbn.inference.solution import coordinates_observed
from gbn.learning.expectations import Moments, moments_of
from gbn.learning.maximisation import Priors, maximise
from gbn.learning.numbers import parameters_of, with_noise
from gbn.learning.regressions import names_of
from gbn.learning.rows import EVERYTHING, Index, fold, gather
from gbn.learning.scoring import observed_density
from gbn.learning.sharing import Group, parameter_groups
from gbn.linearize import Linearization

if TYPE_CHECKING:
    from gbn.evidence import Evidence
    from gbn.learning.data import Data
    from gbn.learning.numbers import Frozen
    from gbn.learning.regressions import Family
    from gbn.learning.row_blocks import Blocks
    from gbn.net import GaussianBayesNet

__all__ = ["Stepwise", "check_reached", "check_steps"]

Array = np.ndarray[Any, Any]
Figures = dict[str, float]
_DENSE_LIMIT = 1024
_MEASURED_AT_ONCE = 256


class Expected:
    """The posterior of a batch as learning needs it; see :class:`gbn.learning.expectations.Expected`.

    Args:
        linearisations: how often the net is linearised; the first time at the forward pass.
        samples: draws for each row, from which covariances are taken; None: exact ones.
    """

    def __init__(
        self,
        evidence: Evidence,
        names: Sequence[str],
        linearisations: int,
        samples: int | None,
        rng: np.random.Generator,
    ) -> None:
        problem = Errors(evidence)
        x, self.log_evidence = problem.start(), np.zeros(0)
        for _ in range(linearisations):
            point = problem.at(x)
            solution = _posterior(point, names)
            if not self.log_evidence.size:
                self.log_evidence = _log_evidence(solution)
            found = solution.system.pull(solution.coordinates.scatter(solution.multiplier), problem.names)
            whitened = {n: problem.whiten(n, found[n]) for n in problem.names if n in found}
            x = problem.join({**problem.split(np.zeros_like(x)), **whitened}, x)
        # Values are those of the net itself; covariances those of the last linearisation.
        self.point, self.solution = problem.at(x), solution
        self.moving = point.downstream(problem.names)
        self.draws = None if samples is None else self._centred(solution.draws(samples, rng))

    def _centred(self, draws: Mapping[str, Array]) -> dict[str, Array]:
        """Draws less the posterior mean.  Shape of each: (draws, samples, size)."""
        known = self.solution.deviations
        return {n: (d - known.get(n, 0)).reshape(*d.shape[:2], -1).astype(np.float64) for n, d in draws.items()}

    def mean(self, name: str) -> Array:
        return self.point.values[name]

    def summed_covariance(
        self, pairs: Sequence[tuple[str, str]], counts: Array, rows: tuple[Index, Index] = EVERYTHING
    ) -> Array | None:
        pairs = [(a, b) for a, b in pairs if self._uncertain(a) and self._uncertain(b)]
        if self.draws is None or not pairs:
            found = self.solution.summed_covariance(pairs, counts)
            return None if found is None else fold(found, *rows)
        total: Any = 0.0
        for a, b in pairs:
            for first, second in zip(self.draws[a], self.draws[b], strict=True):
                total = total + gather(first * counts[:, None], rows[0]).T @ gather(second, rows[1]) / len(
                    self.draws[a]
                )
        return np.asarray(total)

    def _uncertain(self, name: str) -> bool:
        return name in self.moving and not self.solution.known(name)

    def objective(self, counts: Array) -> float:
        """Log-evidence of the net linearised at the forward pass."""
        return float(counts @ self.log_evidence)


class Stepwise:
    """The learner: one pass over the data a round; see :class:`gbn.learning.training.Learner`."""

    unit = "epochs"
    measure = "log_evidence"
    # What a training set says of a net is no judge of it: without held-out data the last round is the result.
    objective = "steps"
    watched = ("log_evidence", 1)
    remedy = "raise the noise of the hidden vertices, or damping"

    def __init__(
        self,
        net: GaussianBayesNet,
        data: Data | Blocks,
        families: Sequence[Family],
        priors: Priors,
        rng: np.random.Generator,
        *,
        epochs: int,
        batch_size: int,
        step_size: float | None,
        step_decay: float,
        linearisations: int,
        samples: int | None,
        damping: float,
        noise_decay: float,
    ) -> None:
        check_steps(epochs, batch_size, step_size, step_decay, linearisations, samples, damping, noise_decay)
        self.net, self.data, self.families, self.priors, self.rng = net, data, list(families), priors, rng
        self.rounds, self.batch_size, self.step_size, self.step_decay = epochs, batch_size, step_size, step_decay
        self.linearisations, self.samples = linearisations, samples
        self.damping, self.noise_decay = damping, noise_decay
        self.groups, self.names = parameter_groups(families), list(names_of(families))
        observed = {net.vertices[n].noise for n in data.facts.sums}
        self.annealed = [n for n in {f.noise: None for f in families} if n in priors.fixed and n not in observed]
        values = {n: v.value for n, v in net.vertices.items() if v.value is not None}
        for family in self.families:
            # Found now, so that a fit that goes on from a checkpoint rounds as one that never stopped.
            if family.learned in family.blocks():
                family.as_function_of(family.learned, values)
        # One row's worth of agreement with the net as it is: what no row has told yet stays.
        self.running = [_agreeing(family, net, 1.0) for family in self.families]
        self.told = _numbers_per_unknown(net, self.families, self.groups)
        self.epoch = self.steps = 0
        self.notes: set[str] = set()
        self._failure: str | None = None

    def begin(self) -> Figures:
        return {"log_evidence": self.score(self.data), "steps": 0.0}

    def step(self) -> Figures:
        net, total = self.net, 0.0
        for batch in self.data.batches(self.batch_size, self.rng):
            net, found = self.absorb(net, batch, self.step_size)
            total += found
            if not math.isfinite(total):
                self._failure = f"the log-evidence is {found} in epoch {self.epoch + 1}, step {self.steps}"
                return {"log_evidence": total, "steps": math.nan}
        self.epoch += 1
        if self.noise_decay != 1 and self.annealed:
            net = with_noise(net, {n: net.noises[n].value * self.noise_decay for n in self.annealed})
        self.net = net
        # As the epoch went, each batch before its step.
        return {"log_evidence": total / self.data.total, "steps": float(self.steps)}

    def absorb(self, net: GaussianBayesNet, batch: Data, share: float | None) -> tuple[GaussianBayesNet, float]:
        """The net after one E-step and one M-step, and the log-evidence of the batch before them.

        Args:
            share: of the statistics of before, what the batch replaces; None: as the schedule of steps has it.
        """
        evidence = replace(batch.evidence, net=net)
        expected = Expected(evidence, self.names, self.linearisations, self.samples, self.rng)
        self.steps += 1
        step = (self.steps + 1) ** -self.step_decay
        zero = [np.zeros_like(m.shift) for m in self.running]
        for k, new in enumerate(moments_of(expected, self.families, batch, zero)):
            # In rows of a batch rather than shares, so that one row of the beginning counts as one.
            own = min(1.0, step * max(1.0, batch.total * self.told[k]))
            replaced = own if share is None else share
            old, kept = self.running[k], 1 - replaced
            self.running[k] = replace(old, weight=kept * old.weight + new.weight, second=kept * old.second + new.second)
        parts = [(f, self._damped(f, m, net)) for f, m in zip(self.families, self.running, strict=True)]
        return maximise(net, parts, self.groups, self.priors, self.notes), expected.objective(batch.counts)

    def _damped(self, family: Family, moments: Moments, net: GaussianBayesNet) -> Moments:
        """The moments with some more rows that agree with the net as it is."""
        rows = self.damping * float(np.trace(moments.uu)) / len(moments.uu)
        return replace(moments, second=moments.second + _agreeing(family, net, rows).second)

    def arrived(self) -> str | None:
        return f"made {self.epoch} epochs" if self.epoch >= self.rounds else None

    def failed(self) -> str | None:
        return self._failure

    def score(self, data: Data | Blocks) -> float:
        """Log-evidence of other rows in the net linearised at their forward pass, per unit of weight.

        Where more is observed than can be factored, what the forward pass alone says of it.
        """
        total = 0.0
        for batch in data.batches(_MEASURED_AT_ONCE, self.rng, shuffle=False):
            point = Linearization.forward(replace(batch.evidence, net=self.net))
            total += float(batch.counts @ _log_evidence(_posterior(point, ())))
        return total / data.total

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "weights": [m.weight for m in self.running],
            "moments": [m.second for m in self.running],
            "notes": sorted(self.notes),
            "failure": self._failure,
        }

    def restore(self, net: GaussianBayesNet, state: Mapping[str, Any]) -> None:
        self.net, self.epoch, self.steps = net, state["epoch"], state["steps"]
        kept = zip(self.running, state["weights"], state["moments"], strict=True)
        self.running = [replace(m, weight=weight, second=second) for m, weight, second in kept]
        self.notes, self._failure = set(state["notes"]), state["failure"]

    def diagnostics(self, best: GaussianBayesNet) -> dict[str, Any]:
        spread = "exact" if self.samples is None else f"from {self.samples} draws a row"
        return {
            "steps": self.steps,
            "approximate": f"posteriors are those of the net linearised {self.linearisations} times a batch",
            "covariances": f"of the linearised net, {spread}",
            "not_determined": sorted(self.notes),
        }


def _numbers_per_unknown(net: GaussianBayesNet, families: Sequence[Family], groups: Sequence[Group]) -> list[float]:
    """For each family how many numbers a row has for every unknown of the weights that it shares with others."""
    numbers = [float(f.size * len(f.members) * (1 if f.rows is None else f.rows.count)) for f in families]
    out = [0.0] * len(families)
    for group in groups:
        concerned = [k for k, family in enumerate(families) if not set(group.names).isdisjoint(family.learned)]
        share = sum(numbers[k] for k in concerned) / sum(net.vertices[name].size for name in group.names)
        for k in concerned:
            out[k] = max(out[k], share)
    return out


def _posterior(point: Linearization, names: Sequence[str]) -> ObservationPosterior:
    return ObservationPosterior(point, names, None, coordinates_observed(point) <= _DENSE_LIMIT)


def _log_evidence(solution: ObservationPosterior) -> Array:
    """Shape: (samples,)."""
    found = solution.log_evidence() if solution.dense else observed_density(solution.point)
    return found.astype(np.float64)


def _agreeing(family: Family, net: GaussianBayesNet, rows: float) -> Moments:
    """Moments about zero of rows whose regressors are independent, of unit size, and predict x without error."""
    values = {n: v.value for n, v in net.vertices.items() if v.value is not None}
    a = family.coefficients(values)
    second = np.block([[a @ a.T, a], [a.T, np.eye(family.columns)]])
    # They count as no rows for the noise: that they fit tells nothing of it.
    return Moments(0.0, rows * second, np.zeros(len(second)), family.size)


def check_reached(net: GaussianBayesNet, families: Sequence[Family], frozen: Frozen) -> None:
    """Raise LearningError where a parameter to be learned is part of no regression."""
    learned = {p for f in families for p in f.learned}
    missed = [n for n in net.parameters if n not in learned and n not in frozen.values]
    for name in missed:
        readers = [n for n, v in net.vertices.items() if v.plated and v.kind == "op" and name in parameters_of(net, n)]
        if readers:
            raise LearningError(
                f"parameter {name!r}: {readers[0]!r} has no noise and no other reader has, so that there is no "
                f"regression to learn it by; give it some, as with net.set_noise({{{readers[-1]!r}: 0.1}}), or freeze "
                f"{name!r}"
            )


def check_steps(
    epochs: int,
    batch_size: int,
    step_size: float | None,
    step_decay: float,
    linearisations: int,
    samples: int | None,
    damping: float = 0.0,
    noise_decay: float = 1.0,
) -> None:
    """Raise LearningError, with all that is wrong."""
    rules = [
        ("epochs", epochs, epochs >= 0, "a number of at least 0"),
        ("batch_size", batch_size, batch_size >= 1, "a number of at least 1"),
        ("step_size", step_size, step_size is None or 0 < step_size <= 1, "a number above 0 and at most 1, or None"),
        ("step_decay", step_decay, 0 < step_decay <= 1, "a number above 0 and at most 1"),
        ("linearisations", linearisations, linearisations >= 1, "a number of at least 1"),
        ("samples", samples, samples is None or samples >= 1, "a number of at least 1, or None"),
        ("damping", damping, 0 <= damping < math.inf, "a finite number of at least 0"),
        ("noise_decay", noise_decay, 0 < noise_decay <= 1, "a number above 0 and at most 1"),
    ]
    wrong = [f"{name}: got {value}, expected {expected}" for name, value, right, expected in rules if not right]
    if wrong:
        raise LearningError("; ".join(wrong))
