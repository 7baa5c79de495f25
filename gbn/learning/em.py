"""Method "em": exact expectation maximisation for nets that are linear-Gaussian given the data.

E-step: second moments of every CPD under the posterior (:mod:`gbn.learning.expectations`).  M-step: every CPD is a
regression on them (:mod:`gbn.learning.maximisation`).  The log-evidence never falls; a round that lowers it by more
than rounding stops the fit and is reported as a defect.

Source: Dempster, Laird & Rubin (1977); law and notation as in Ghahramani & Hinton, *Parameter estimation for linear
dynamical systems* (1996), of which a net with tied transitions is an instance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import CovarianceError, LearningError
from gbn.learning.data import Data
from gbn.learning.expansion import Gauge, find_gauges
from gbn.learning.maximisation import Priors, maximise
from gbn.learning.named_options import NamedOptions, at_floor, floors
from gbn.learning.numbers import Frozen, with_values
from gbn.learning.regressions import Family, read_families
from gbn.learning.sharing import parameter_groups
from gbn.learning.statistics import Statistics, statistics

if TYPE_CHECKING:
    from gbn.learning.row_blocks import Blocks
    from gbn.learning.stepwise import Stepwise
    from gbn.net import GaussianBayesNet

__all__ = ["EM", "learner", "sums_suffice"]

Array = np.ndarray[Any, Any]
Figures = dict[str, float]
TAKES_BLOCKS = True
# How far variances may lie apart for an exact E-step to keep digits.
_RESOLVED = 1e10


def sums_suffice(net: GaussianBayesNet, options: Mapping[str, Any]) -> bool:
    """Whether rows may be replaced by fewer ones with the same sums; see :mod:`gbn.learning.condensation`."""
    return net.is_linear() and options.get("batch_size") is None and options.get("engine", "exact") == "exact"


def learner(
    net: GaussianBayesNet,
    data: Data | Blocks,
    frozen: Frozen,
    rng: np.random.Generator,
    *,
    max_iter: int = 500,
    tol: float | None = 1e-7,
    engine: str = "exact",
    engine_options: Mapping[str, Any] | None = None,
    px: bool = True,
    restarts: int = 0,
    ridge: float | Mapping[str, float] = 0.0,
    mask: Mapping[str, Any] | None = None,
    fixed_noise: bool | Sequence[str] | None = None,
    noise_prior: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    variance_floor: float | None = None,
    standard_errors: bool = False,
    batch_size: int | None = None,
    epochs: int = 15,
    step_size: float | None = None,
    step_decay: float = 0.45,
    linearisations: int = 1,
    samples: int | None = 4,
    damping: float = 0.2,
    noise_decay: float = 1.0,
) -> EM | Stepwise:
    """EM at work on a net: on all rows in every iteration, or with ``batch_size`` stepwise
    (:mod:`gbn.learning.stepwise`), which also takes nets that are nonlinear in what is hidden.

    Figures of a round: ``log_evidence`` of all rows, in nats (``minus_free_energy`` with another engine than "exact");
    ``objective``, that plus the log-priors on weights and noises; ``change``, what the round gained in nats per
    observed number; ``start``, 0 or the number of a restart.

    Args:
        max_iter: iterations at most, for each start.
        tol: stop when an iteration gains no more than this, in nats per observed number; None: make all iterations.
        engine: of the E-step: "exact"; "vmp", whose bound is climbed instead; or "pc", whose posterior is a point.
        engine_options: of that engine.
        px: parameter expansion for latent roots whose children take up their mean and covariance (factor analysis);
            the root's own prior then stays as it is.  Otherwise priors of inputs are learned like everything else.
        restarts: further starts, from random weights of the size of the first ones; the best is returned.
        ridge: α of the prior N(0, 1/α) on weight entries (not on biases and prior means), for all or by parameter.
        mask: parameter -> array of its shape, True at the entries that are learned; the others stay bit for bit.
        fixed_noise: True, or names of vertices or noises: covariances that are not learned.  None: none, but with
            engine "pc" all of them: a point estimate has no spread, and noise learned from it shrinks to nothing.
        noise_prior: (count, variance): the noise counts so many further rows with errors of this variance; for all, or
            by vertex or noise.
        variance_floor: the least variance of any noise in any direction, relative to the mean variance of what was
            observed of its vertices (where nothing was, to its initial variance); learned noises below it begin there.
            None: 1e-9 (1.2e-5 in float32), or 1e-4 in batches, whose few rows a net can fit by chance.
        standard_errors: of all that was learned, from the observed information
            (:func:`gbn.learning.standard_errors.standard_errors`); costs two E-steps for each number learned.
        batch_size: rows for each step of stepwise EM, whose figure is the ``log_evidence`` a row of the net linearised
            at the forward pass, as the epoch went, by which ``patience`` judges unless there is validation, though
            the result is the last epoch's; None: plain EM.  What follows is of stepwise EM, which has no
            use for max_iter, tol, px, restarts and standard_errors, and no other engine than "exact".
        epochs: passes over the data.
        step_size: the share of the statistics that a batch replaces; None: (t + 1)^-step_decay at step t, times the
            numbers that the batch has for each unknown of a layer where they are more than one, and at most 1.
        step_decay: above 0 and at most 1.  Statistics converge for good above ½ (Cappé & Moulines); the default keeps
            forgetting those of earlier weights.
        linearisations: how often the net is linearised for a batch; once is at the forward pass.
        samples: posterior draws for each row, from which covariances are taken; None: exact ones, which cost as many
            sweeps as vertices have entries.
        damping: rows that agree with the net as it is, which every M-step adds to the running ones, relative to them.
        noise_decay: factor of hidden noises that are not learned, after every epoch.

    Raises:
        LearningError: CPDs that are no regressions on what is learned, a net that is nonlinear in what is hidden, or
            options that cannot be used.
        UnknownNameError, ShapeError: names and masks.
    """
    if variance_floor is None:
        # In float32 the E-step itself needs more.
        variance_floor = max(1e-9, 100 * float(np.finfo(net.dtype).eps)) if batch_size is None else 1e-4
    for name, number in (
        ("max_iter", max_iter),
        ("tol", tol or 0),
        ("restarts", restarts),
        ("variance_floor", variance_floor),
    ):
        if not 0 <= number < np.inf:
            raise LearningError(f"{name}: got {number}, expected a finite number of at least 0")
    families = read_families(net, frozen)
    options = NamedOptions(net, families, frozen)
    priors = Priors(
        ridge=options.ridge(ridge),
        masks=options.masks(mask or {}),
        noise=options.noise_prior(noise_prior),
        floor={} if not variance_floor else floors(net, data.facts, families, variance_floor),
        fixed=options.fixed(engine == "pc" if fixed_noise is None else fixed_noise),
    )
    net = at_floor(net, priors)
    if batch_size is not None:
        if engine != "exact" or engine_options or restarts or standard_errors:
            raise LearningError("batch_size: stepwise EM takes no other engine, no restarts and no standard_errors")
        from gbn.learning.stepwise import Stepwise, check_reached

        check_reached(net, families, frozen)
        return Stepwise(
            net, data, families, priors, rng,
            epochs=epochs, batch_size=batch_size, step_size=step_size, step_decay=step_decay,
            linearisations=linearisations, samples=samples, damping=damping, noise_decay=noise_decay,
        )  # fmt: skip
    return EM(
        net, data, families, priors, rng,
        engine=(engine, engine_options or {}), max_iter=max_iter, tol=tol, px=px, restarts=restarts,
        standard_errors=standard_errors,
    )  # fmt: skip


class EM:
    """The learner: one E-step and one M-step a round; see :class:`gbn.learning.training.Learner`."""

    unit = "iterations"
    measure = "change"
    objective = "objective"
    watched = ("objective", 1)

    def __init__(
        self,
        net: GaussianBayesNet,
        data: Data | Blocks,
        families: list[Family],
        priors: Priors,
        rng: np.random.Generator,
        *,
        engine: tuple[str, Mapping[str, Any]],
        max_iter: int,
        tol: float | None,
        px: bool,
        restarts: int,
        standard_errors: bool,
    ) -> None:
        self.net, self.initial, self.data, self.families, self.priors, self.rng = net, net, data, families, priors, rng
        self.engine, self.max_iter, self.tol, self.restarts = engine, max_iter, tol, restarts
        self.wants_errors = standard_errors
        self.rounds = max_iter * (restarts + 1)
        self.remedy = f"raise max_iter (now {max_iter}), or tol (now {tol})"
        self.groups = parameter_groups(families)
        self.statistics = statistics(data, families, *engine)
        self.gauges: list[Gauge] = find_gauges(net, data.facts.given, families, priors) if px else []
        self.observed = max(data.facts.observed, 1.0)
        self.notes: set[str] = set()
        self.start = self.iteration = 0
        self.change = np.inf
        self._failure: str | None = None
        self._others: dict[Data | Blocks, Statistics] = {}

    def begin(self) -> Figures:
        return self._expect(self.net)

    def step(self) -> Figures:
        if self._settled():
            return self._restart()
        roots = {gauge.root for gauge in self.gauges}
        parts = [(f, m) for f, m in zip(self.families, self.moments, strict=True) if f.name not in roots]
        notes: set[str] = set()
        try:
            net = maximise(self.net, parts, self.groups, self.priors, notes)
        except CovarianceError as error:
            raise LearningError(
                f"{error}; in iteration {self.iteration + 1} rows are fitted exactly, and leave no noise: give "
                "variance_floor=, noise_prior= or fixed_noise="
            ) from error
        for gauge in self.gauges:
            number = next(k for k, f in enumerate(self.families) if f.name == gauge.root)
            net = gauge.apply(net, self.moments[number])
        before = self.value
        figures = self._expect(net)
        self.iteration += 1
        self.notes = notes
        self.change = (self.value - before) / self.observed
        self._watch(before)
        return figures | {"change": self.change}

    def _expect(self, net: GaussianBayesNet) -> Figures:
        """The E-step at a net, which becomes the learner's."""
        sums = self.statistics(net)
        found = sums.objective
        self.net, self.moments, self.log_evidence = net, sums.moments, found
        self.value = found + self.priors.log_density(net)
        name = "log_evidence" if self.engine[0] == "exact" else "minus_free_energy"
        return {name: found, "objective": self.value, "start": float(self.start), "change": np.inf}

    def _restart(self) -> Figures:
        """The next start: weights of the size of the initial ones, noises and prior means as they were."""
        self.start += 1
        self.iteration, self.change = 0, np.inf
        drawn = {}
        for name in sorted({p for f in self.families for p in f.learned if f.mean is not None}):
            value = np.asarray(self.initial.vertices[name].value, np.float64)
            spread = float(np.sqrt((value * value).mean())) or 1 / np.sqrt(value.shape[-1] if value.ndim > 1 else 1)
            draw = spread * self.rng.standard_normal(value.shape)
            drawn[name] = np.where(self.priors.masks.get(name, True), draw, value)
        return self._expect(with_values(self.initial, drawn))

    def _watch(self, before: float) -> None:
        """Note a fall of the objective that rounding does not explain."""
        if self.value >= before:
            return
        # Rounding grows with the spread of the variances, as the condition of the posterior does.
        variances = [np.linalg.eigvalsh(q.value) if q.form == "full" else q.value for q in self.net.noises.values()]
        spread = max(v.max() for v in variances) / min(v.min() for v in variances)
        resolution = max(1e-9, 100 * float(np.finfo(self.net.dtype).eps) * min(spread, _RESOLVED))
        exact = self.engine[0] == "exact"
        if self.value >= before - resolution * (1 if exact else 1e3) * (abs(before) + self.observed):
            return
        if not exact:
            why = f": engine {self.engine[0]!r} did not arrive; let it go further (engine_options)"
        elif spread > _RESOLVED:
            why = f": variances {spread:.1g} times apart leave no digits; raise variance_floor, or rescale latents"
        else:
            why = ", which EM never does: a defect of gbn, please report it; the best round is returned"
        fell = f"the objective fell from {before:.12g} to {self.value:.12g} in iteration {self.iteration}"
        self._failure = fell + why

    def _settled(self) -> bool:
        """Whether this start has arrived or used up its iterations."""
        return self._steady() or self.iteration >= self.max_iter

    def _steady(self) -> bool:
        return self.tol is not None and self.change <= self.tol

    def arrived(self) -> str | None:
        if self._steady() and self.start >= self.restarts:
            return f"gained {self.change:.2g} nats per observed number in iteration {self.iteration}"
        return None

    def failed(self) -> str | None:
        return self._failure

    def score(self, data: Data | Blocks) -> float:
        """Log-evidence of other rows per unit of weight."""
        if data not in self._others:
            self._others[data] = statistics(data.of(self.net), self.families, *self.engine)
        return self._others[data].objective(self.net) / data.total

    def state(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "iteration": self.iteration,
            "change": self.change,
            "notes": sorted(self.notes),
            "failure": self._failure,
        }

    def restore(self, net: GaussianBayesNet, state: Mapping[str, Any]) -> None:
        self._expect(net)
        self.start, self.iteration, self.change = state["start"], state["iteration"], state["change"]
        self.notes, self._failure = set(state["notes"]), state["failure"]

    def diagnostics(self, best: GaussianBayesNet) -> dict[str, Any]:
        exact = self.engine[0] == "exact"
        out: dict[str, Any] = {
            "engine": self.engine[0],
            "exact": "the log-evidence of every round" if exact else "nothing: the E-step is an approximation",
            "expanded": tuple(gauge.root for gauge in self.gauges),
            "variance_floor": dict(self.priors.floor),
            "not_determined": sorted(self.notes),
        }
        if self.wants_errors:
            from gbn.learning.standard_errors import standard_errors

            expected = self.statistics if exact else statistics(self.data, self.families)
            out["standard_errors"] = standard_errors(
                best, expected, self.families, self.priors, [gauge.root for gauge in self.gauges]
            )
        return out
