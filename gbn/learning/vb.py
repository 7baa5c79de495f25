"""Method "vb": variational Bayes, for weights and noises with posteriors instead of points.

q(latents) Π q(weights) q(noise precisions) maximises a lower bound of the log-evidence (the ELBO) by coordinate ascent:
the latents by exact inference in a net that takes the uncertainty of weights into account
(:mod:`gbn.learning.widened`), weights and precisions in closed form (:mod:`gbn.learning.beliefs`).  The bound never
falls; a round that lowers it by more than rounding stops the fit and is reported as a defect.  Where nothing is hidden
and priors scale with the noise, q is the exact posterior, the bound the log-evidence, and one round is enough.

Source: Attias, *A variational Bayesian framework for graphical models* (2000); Ghahramani & Beal, *Propagation
algorithms for variational Bayesian learning* (2001).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import LearningError
from gbn.graph import nonlinear_given
from gbn.learning.assumed import Assumptions, Settings, posterior_net
from gbn.learning.beliefs import Beliefs
from gbn.learning.condensation import condensed
from gbn.learning.counted import groups_of, parts_of
from gbn.learning.data import Data
from gbn.learning.expectations import Expectation, estep
from gbn.learning.named_options import NamedOptions
from gbn.learning.numbers import Frozen, numbers, with_numbers
from gbn.learning.precisions import packed, unpacked
from gbn.learning.regressions import Family, read_families
from gbn.learning.rotation import rotations
from gbn.learning.stepwise import check_reached, check_steps
from gbn.learning.vb_options import check, noise_rates, precisions, relevant, roots_kept, without_priors
from gbn.learning.weights_posterior import WeightPosterior
from gbn.learning.widened import Widened

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = ["VariationalBayes", "learner"]

Array = np.ndarray[Any, Any]
Figures = dict[str, float]


def learner(
    net: GaussianBayesNet,
    data: Data,
    frozen: Frozen,
    rng: np.random.Generator,
    *,
    max_iter: int = 1000,
    tol: float | None = 1e-7,
    weight_precision: float | Mapping[str, float] = 1e-3,
    conjugate: bool = True,
    px: bool = True,
    noise_shape: float = 1e-3,
    noise_rate: float | Mapping[str, float] | None = None,
    ard: bool | Sequence[str] = False,
    ard_shape: float = 1e-3,
    ard_rate: float = 1e-3,
    mask: Mapping[str, Any] | None = None,
    fixed_noise: bool | Sequence[str] | None = None,
    prior: WeightPosterior | None = None,
    batch_size: int | None = None,
    epochs: int = 15,
    step_size: float | None = None,
    step_decay: float = 0.45,
    linearisations: int = 1,
    samples: int | None = 4,
) -> VariationalBayes:
    """Variational Bayes at work on a net: on all rows in every iteration, or with ``batch_size`` stepwise
    (:mod:`gbn.learning.vb_stepwise`), which also takes nets that are nonlinear in what is hidden.

    The result's ``.posterior`` (:class:`gbn.learning.weights_posterior.WeightPosterior`) holds what was learned; its
    ``.net`` has the weights at their mean, and noises of the mean precision.  Latent roots, of which nothing is
    observed, keep their prior.  A parameter with a prior of its own (``net.add_parameter(..., cov=...)``) has that one.

    Figures of a round: ``elbo``, the lower bound of the log-evidence of all rows, in nats; ``change``, what the round
    gained in nats per observed number.

    Args:
        max_iter: iterations at most.
        tol: stop when an iteration gains no more than this, in nats per observed number; None: make all iterations.
        weight_precision: κ of the prior of every weight, bias and prior mean, for all or by parameter: N(0, Q / κ)
            where conjugate, so that the prior counts as κ rows of unit regressors, and N(0, 1 / κ) elsewhere.
        conjugate: let priors of weights scale with the noise Q of their vertex wherever q(weights, noise) then has a
            closed form: unless weights are tied over several noises or entries of them, are masked under a full noise,
            or have a prior of their own.
        px: parameter expansion: latent roots are turned and stretched after each round so that the bound rises most
            (:mod:`gbn.learning.rotation`).
        noise_shape, noise_rate: of the Gamma prior of each noise's precision (of a full noise: Wishart with
            ν = size - 1 + 2 shape and S = 2 rate I).  rate None: shape times the mean variance of what was observed of
            the noise's vertices (where nothing was, the initial variance); a number, or numbers by noise.
        ard: automatic relevance determination: True (all weights with a column for each regressor, as those of a layer)
            or names of parameters.  Each of these columns then has a precision of its own, learned, in place of κ, and
            useless columns shrink to nothing.
        ard_shape, ard_rate: of the Gamma prior of these precisions.
        mask: parameter -> array of its shape, True at the entries that are learned; the others stay.
        fixed_noise: True, or names of vertices or noises: covariances that are not learned.  None: none, but in
            batches all of them.
        prior: the posterior of an earlier fit of such a net, which takes the place of the priors above for all that it
            knows: one fit after the other then equals one fit of all rows, where conjugate and with nothing hidden
            (and noise_rate a number, for its default looks at the rows).
        batch_size: rows for each step; None: all, in every iteration.  What follows is of batches, which have no use
            for max_iter, tol and px.
        epochs, step_size, step_decay, linearisations, samples: as of stepwise EM, :func:`gbn.learning.em.learner`.

    Raises:
        LearningError: CPDs that are no regressions on what is learned, a net that is nonlinear in what is hidden, or
            options that cannot be used.
        UnknownNameError, ShapeError: names and masks.
    """
    check(max_iter, tol, noise_shape, ard_shape, ard_rate)
    at = nonlinear_given(data.evidence) if batch_size is None else None
    if at is not None:
        raise LearningError(
            f"{at!r} ({data.evidence.net[at].title}) is nonlinear in what is hidden, and method 'vb' is for nets that "
            "are linear-Gaussian given the data; give batch_size= (rounds in batches, of the net linearised), observe "
            "what it reads, or linearise the net with net.linearize"
        )
    plain, centred = without_priors(net)
    data = data.of(plain)
    kept = roots_kept(plain, data, frozen)
    families = read_families(plain, kept, by_positions=False)
    options = NamedOptions(plain, families, frozen)
    fixed = (
        options.fixed(batch_size is not None if fixed_noise is None else fixed_noise)
        | roots_kept(plain, data, frozen).noises
    )
    settings = Settings(
        precisions=precisions(options, families, weight_precision),
        centred={n: pair for n, pair in centred.items() if n in options.learned},
        masks=options.masks(mask or {}),
        fixed=fixed,
        noise_shape=noise_shape,
        noise_rates=noise_rates(options, plain, data, families, noise_shape, noise_rate),
        ard=relevant(options, plain, ard, centred),
        named=not isinstance(ard, bool),
        ard_shape=ard_shape,
        ard_rate=ard_rate,
        conjugate=conjugate,
        before=prior,
    )
    if batch_size is not None:
        from gbn.learning.vb_stepwise import VariationalSteps

        check_steps(epochs, batch_size, step_size, step_decay, linearisations, samples)
        check_reached(plain, families, frozen)
        return VariationalSteps(
            plain, data, families, settings, rng,
            epochs=epochs, batch_size=batch_size, step_size=step_size, step_decay=step_decay,
            linearisations=linearisations, samples=samples,
        )  # fmt: skip
    return VariationalBayes(plain, data, families, settings, max_iter=max_iter, tol=tol, px=px)


class VariationalBayes:
    """The learner: one round of coordinate ascent a round; see :class:`gbn.learning.training.Learner`."""

    unit = "iterations"
    measure = "change"
    objective = "elbo"

    def __init__(
        self,
        net: GaussianBayesNet,
        data: Data,
        families: list[Family],
        settings: Settings,
        *,
        max_iter: int,
        tol: float | None,
        px: bool,
    ) -> None:
        self.net, self.data, self.families, self.tol, self.rounds = net, data, families, tol, max_iter
        self.remedy = f"raise max_iter (now {max_iter}), or tol (now {tol})"
        self.given, self.work = net, _double(net)
        rows = self._taken(data)
        self.groups = groups_of(rows.evidence, families)
        self.assumed = Assumptions(self.work, families, self.groups, settings)
        self.couplings, self.prior = self.assumed.couplings()
        self.rotations = rotations(self.assumed, self.couplings, self.prior, rows) if px else []
        self.rows = _Rows(rows, families, self.groups)
        self.observed = max(data.facts.observed, 1.0)
        self.q = self.assumed.start(self.couplings, self.prior, rows.counts)
        self.value, self.change, self.iteration = -np.inf, np.inf, 0
        self._failure: str | None = None
        self._others: dict[Data, _Rows] = {}
        # The best round by its own bound, and by held-out rows: the loop decides which of them counts.
        self.best: dict[str, tuple[float, GaussianBayesNet, Beliefs, float]] = {}

    def _taken(self, data: Data) -> Data:
        """Rows as the E-step takes them."""
        return _few(data, self.work)

    def begin(self) -> Figures:
        return self._expect(self.q)

    def step(self) -> Figures:
        q = self.couplings.update(self.q, self.prior, self.statistics)
        for rotation in self.rotations:
            q = rotation.apply(q, self.prior, self.couplings, self.statistics[rotation.number])
        before = self.value
        figures = self._expect(q)
        self.iteration += 1
        self.change = (self.value - before) / self.observed
        self._watch(before)
        return figures | {"change": self.change}

    def _expect(self, q: Beliefs) -> Figures:
        """q of the latents at a q of everything else, which becomes the learner's, and the bound there."""
        bound, self.statistics = self.rows.expect(self, q)
        self.q, self.value = q, bound - self.couplings.divergence(q, self.prior)
        self.net = self._mean_net(q)
        self._note("elbo", self.value)
        return {"elbo": self.value, "change": np.inf}

    def _mean_net(self, q: Beliefs) -> GaussianBayesNet:
        return posterior_net(self.given, self.learned(q), q.noises)

    def work_net(self, q: Beliefs) -> GaussianBayesNet:
        """The net at the mean of q, in double precision."""
        return posterior_net(self.work, self.learned(q), q.noises)

    def learned(self, q: Beliefs) -> dict[str, Array]:
        """The parameters and prior means that are learned, at the mean of q."""
        values = self.couplings.values(q.mean)
        return {name: values[name] for name in self.assumed.where}

    def _note(self, by: str, value: float) -> None:
        if by not in self.best or value > self.best[by][0]:
            self.best[by] = value, self.net, self.q, self.value

    def _watch(self, before: float) -> None:
        """Note a fall of the bound that rounding does not explain."""
        resolution = 1e-9 if self.given.dtype == np.float64 else 1e-7
        if self.value < before - resolution * (abs(before) + self.observed):
            self._failure = (
                f"the bound fell from {before:.12g} to {self.value:.12g} in iteration {self.iteration}, which "
                "coordinate ascent never does: a defect of gbn, please report it; the best round is returned"
            )

    def arrived(self) -> str | None:
        if self.tol is not None and self.change <= self.tol:
            return f"gained {self.change:.2g} nats per observed number in iteration {self.iteration}"
        return None

    def failed(self) -> str | None:
        return self._failure

    def score(self, data: Data) -> float:
        """A lower bound of the log-predictive density of other rows, per unit of weight."""
        found = self._rows_of(data).expect(self, self.q)[0] / data.total
        self._note("validation", found)
        return found

    def _rows_of(self, data: Data) -> _Rows:
        if data not in self._others:
            rows = self._taken(data.of(self.given))
            self._others[data] = _Rows(rows, self.families, groups_of(rows.evidence, self.families))
        return self._others[data]

    def state(self) -> dict[str, Any]:
        best = {by: [value, numbers(net), _packed(q), elbo] for by, (value, net, q, elbo) in self.best.items()}
        return {
            "q": _packed(self.q),
            "change": self.change,
            "iteration": self.iteration,
            "failure": self._failure,
            "best": best,
        }

    def restore(self, net: GaussianBayesNet, state: Mapping[str, Any]) -> None:
        self._expect(_unpacked(state["q"]))
        self._restore(state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.q = _unpacked(state["q"])
        self.change, self.iteration, self._failure = state["change"], state["iteration"], state["failure"]
        self.best = {
            by: (value, with_numbers(self.given, held), _unpacked(q), elbo)
            for by, (value, held, q, elbo) in state["best"].items()
        }

    def diagnostics(self, best: GaussianBayesNet) -> dict[str, Any]:
        chosen = next((kept for kept in self.best.values() if _same(kept[1], best)), None)
        _, net, q, elbo = chosen or (0.0, self.net, self.q, self.value)
        conjugate = [key for number, key in enumerate(self.couplings.keys) if self._owns(number)]
        return {
            "posterior": self._posterior(net, q, elbo),
            "conjugate": conjugate,
            "expanded": tuple(self.families[rotation.number].name for rotation in self.rotations),
            "exact": "the bound of every round",
            "approximate": "q is a product of latents, weights and precisions"
            + ("; where conjugate, weights and their noise are one factor" if conjugate else ""),
        }

    def _owns(self, number: int) -> bool:
        return bool((self.couplings.owner == number).any())

    def _posterior(self, net: GaussianBayesNet, q: Beliefs, elbo: float) -> WeightPosterior:
        relevance = {}
        for name, number in self.assumed.relevant.items():
            kept = np.unique(number)
            relevance[name] = q.relevance_shape[kept], q.relevance_rate[kept]
        return WeightPosterior(
            net=net,
            elbo=elbo,
            values=self.learned(q),
            where=self.assumed.where,
            blocks=self.couplings.blocks,
            theta=q.mean,
            precision=q.precision,
            keys=tuple(self.couplings.keys),
            owner=self.couplings.owner,
            row=self.couplings.row,
            noises=q.noises,
            relevance=relevance,
        )


class _Rows:
    """Rows, their E-step, and what they add to the bound."""

    def __init__(self, data: Data, families: Sequence[Family], groups: Any) -> None:
        self.families, self.groups = families, groups
        self.widened = Widened(data, families, groups)
        self.data = self.widened.data

    @cached_property
    def estep(self) -> Expectation:
        return estep(self.data, self.families, "exact", {})

    def expect(self, learner: VariationalBayes, q: Beliefs) -> tuple[float, Any]:
        """Σ w E log p(row | weights, noises) + H[q(latents)], and the statistics of every family."""
        couplings = learner.couplings
        spreads = [couplings.spread(q, number) for number in range(len(self.families))]
        expected = self.estep(self.widened.net(learner.work_net(q), spreads))
        statistics = parts_of(expected, self.families, self.groups, self.data.counts)
        total = expected.objective(self.data.counts) + self.widened.constant
        return total + self.widened.rest(q.noises, spreads, statistics), statistics


def _few(data: Data, net: GaussianBayesNet) -> Data:
    """The rows in double precision, as few as say the same."""
    rows = data.of(net)
    return in_double(condensed(rows) if net.is_linear() else rows, net)


def in_double(data: Data, net: GaussianBayesNet) -> Data:
    """Rows in double precision, for a net that is."""
    rows = data.of(net)
    evidence, held = rows.evidence, {}
    for kind in ("values", "do"):
        held[kind] = {n: np.asarray(a, np.float64) for n, a in getattr(evidence, kind).items()}
    return Data(replace(evidence, values=held["values"], do=held["do"]), rows.weights)


def _double(net: GaussianBayesNet) -> GaussianBayesNet:
    """The net in double precision."""
    if net.dtype == np.float64:
        return net
    out = net.copy()
    out.dtype = np.dtype(np.float64)
    for name, vertex in net.vertices.items():
        if vertex.value is not None:
            out.vertices[name] = replace(vertex, value=np.asarray(vertex.value, np.float64))
    return out


def _packed(q: Beliefs) -> dict[str, Any]:
    out = {f.name: getattr(q, f.name) for f in fields(q) if f.name != "noises"}
    return out | {"noises": {key: packed(noise) for key, noise in q.noises.items()}}


def _unpacked(held: Mapping[str, Any]) -> Beliefs:
    return Beliefs(**{**held, "noises": {key: unpacked(noise) for key, noise in held["noises"].items()}})


def _same(a: GaussianBayesNet, b: GaussianBayesNet) -> bool:
    if a is b:
        return True
    first, second = numbers(a), numbers(b)
    return all(np.array_equal(first[kind][n], second[kind][n]) for kind in first for n in first[kind])
