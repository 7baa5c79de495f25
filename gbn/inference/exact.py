"""Engine "exact": the posterior of the net linearised at an operating point, by the cheaper of two linear systems.

Observation space (:mod:`gbn.inference.observation_space`) is small where little is observed; the information form
(:mod:`gbn.inference.information`) is cheap where the net is a long chain of narrow layers.  Both give the same answer.
A net with nonlinearities is first linearised: by Taylor expansion or by regression, at a point of the user's choice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gbn.errors import IllConditionedError, InferenceError
from gbn.evidence import Evidence
from gbn.graph import linear_given
from gbn.inference import regression
from gbn.inference.factors import Factors, one_row_a_pattern
from gbn.inference.guarded import Guarded
from gbn.inference.hidden import Structure
from gbn.inference.information import InformationPosterior
from gbn.inference.jacobians import is_entrywise
from gbn.inference.observation_space import ObservationPosterior
from gbn.inference.operating_point import Arrival, arrived, refuse_random_parameters
from gbn.inference.operating_point import operating_point as chosen_point
from gbn.inference.plan import Plan
from gbn.inference.posterior_linearization import at_posterior
from gbn.inference.solution import LinearizedPosterior, coordinates_observed
from gbn.linearize import Linearization
from gbn.maps import Contraction
from gbn.net import GaussianBayesNet
from gbn.posterior import Posterior, Solution

__all__ = ["SOLVERS", "Repeated", "messages_at", "solve"]

Array = np.ndarray[Any, Any]
Patterns = tuple[Linearization, Array] | None
SOLVERS = ("auto", "observations", "information", "cg")
OPERATING_POINTS = ("forward", "equilibrium", "posterior")
_DENSE_LIMIT = 1024
# Multiplications that take as long as one vertex's visit by a sweep, and by an elimination and what belongs to it.
_VISIT, _ELIMINATION = 3e4, 2e5
_MOST_ENTRIES = 3e8


def solve(
    net: GaussianBayesNet,
    evidence: Evidence,
    targets: Sequence[str],
    *,
    operating_point: str = "forward",
    linearization: str | None = None,
    solver: str = "auto",
    damping: float | None = None,
    max_rounds: int | None = None,
    tol: float = 1e-6,
    dense_limit: int = _DENSE_LIMIT,
    callback: Callable[[int, Mapping[str, float]], Any] | None = None,
    progress: bool | None = None,
) -> Posterior:
    """Engine "exact".

    Args:
        operating_point: where a nonlinear net is linearised.  "forward": the forward pass with the evidence clamped;
            "equilibrium": the minimum of the free energy (the Laplace approximation); "posterior": where the posterior
            of the linearised net is (iterated posterior linearisation; with Taylor expansions, Gauss-Newton towards the
            equilibrium).  Where all that is uncertain enters linearly, they give the same, exact posterior.
        linearization: "taylor" (nonlinearities are expanded) or "moment" (entry-wise nonlinearities are regressed under
            a Gaussian of their parent, by closed-form moments or quadrature, and what the regression leaves over counts
            as independent noise: wider, and nearer to the mean where the noise is large; others are expanded).  The
            Gaussian is that of the prior with the evidence clamped, at the forward point, or the posterior.  Default:
            "moment" at the posterior, else "taylor".  ``diagnostics["regressed"]`` and ``["expanded"]`` say which
            vertices were which.
        solver: "observations" (a system over what is observed), "information" (block elimination of what is hidden;
            not where nonlinearities were regressed, for what is left over may have no precision), "cg" (conjugate
            gradients over what is observed: means, covariances and samples, no log-evidence), or "auto": the one of
            least estimated cost, and "information" where "observations" turns out to lose digits (a sharp posterior
            under a vague prior); ``diagnostics["solver"]`` says which.
        damping: at the posterior, the share of the old means and variances that stays, in [0, 1); None: 0, and more
            for samples that oscillate.
        max_rounds: most rounds of an iterated operating point (None: 100 at the posterior, 1000 at the equilibrium).
        tol: of an iterated operating point: the gradient of the free energy relative to that at the forward pass, at
            the equilibrium; at the posterior, the largest move of a mean in prior standard deviations, and of a
            variance in prior variances.
        dense_limit: observed coordinates above which "observations" becomes "cg".
        callback: called with the round and its figures; returning True stops.
        progress: show a bar (None: on a terminal only).

    Raises:
        InferenceError: random parameters, unknown options, options that do not go together, or a solver that cannot
            serve.
        SingularEvidenceError: the observed quantities determine one another (raised when S is first needed).
        IllConditionedError: the information form is spoilt by rounding, and observation space is too large.
    """
    linearization = linearization or ("moment" if operating_point == "posterior" else "taylor")
    _check(operating_point, linearization, solver, damping, max_rounds, callback)
    refuse_random_parameters(net, evidence, "exact")
    linear = linear_given(evidence)
    iterated: dict[str, Any] = {"tol": tol, "callback": callback, "progress": progress}
    if max_rounds is not None:
        iterated["max_rounds"] = max_rounds
    if operating_point == "posterior" and not linear:

        def infer(point: Linearization, asked: Sequence[str]) -> LinearizedPosterior:
            return _chosen(point, asked, None, solver, dense_limit)[0]

        use_moments = linearization == "moment"
        point, outcome, found = at_posterior(
            evidence, targets, infer, use_moments=use_moments, damping=damping, **iterated
        )
        arrival = arrived(outcome, found)
    elif operating_point == "equilibrium":
        point, arrival = chosen_point(evidence, operating_point, **iterated)
    else:
        point = regression.forward(evidence)[0] if linearization == "moment" else Linearization.forward(evidence)
        arrival = Arrival() if operating_point == "forward" else Arrival(diagnostics={"stopped": "nothing to iterate"})
    patterns = one_row_a_pattern(point) if net.is_linear() else None
    first, figures = _chosen(point, targets, patterns, solver, dense_limit)
    solution: Solution = _guarded(first, figures, point, targets, patterns, solver)
    post = Posterior(
        net,
        evidence,
        "exact",
        targets,
        solution,
        converged=arrival.converged,
        history=arrival.history,
        diagnostics={
            "operating_point": operating_point,
            "linearization": linearization,
            **arrival.diagnostics,
            **figures,
            **_statement(point, operating_point, linear),
        },
    )
    if isinstance(solution, Guarded):
        solution.figures = post.diagnostics
    return post


def _check(
    operating_point: str, linearization: str, solver: str, damping: float | None, max_rounds: int | None, callback: Any
) -> None:
    choices = {
        "solver": (solver, SOLVERS),
        "operating_point": (operating_point, OPERATING_POINTS),
        "linearization": (linearization, ("taylor", "moment")),
    }
    _check_choices(choices)
    if operating_point == "equilibrium" and linearization == "moment":
        raise InferenceError(
            "linearization='moment' needs the spread of a posterior, and the equilibrium is a point without one; use "
            "operating_point='posterior', or linearization='taylor'"
        )
    if damping is not None and operating_point != "posterior":
        raise InferenceError(f"damping belongs to operating_point='posterior', got {operating_point!r}")
    if damping is not None and not 0 <= damping < 1:
        raise InferenceError(f"damping: got {damping}, expected a number of at least 0 and below 1")
    if operating_point == "forward" and (max_rounds is not None or callback is not None):
        option = "max_rounds" if max_rounds is not None else "callback"
        raise InferenceError(f"{option}: the forward point takes no rounds; use operating_point='posterior'")


def _check_choices(choices: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    for option, (got, expected) in choices.items():
        if got not in expected:
            listed = ", ".join(map(repr, expected)) if len(expected) > 2 else " or ".join(map(repr, expected))
            raise InferenceError(f"{option}: got {got!r}, expected {'one of ' * (len(expected) > 2)}{listed}")


def _statement(point: Linearization, operating_point: str, linear: bool) -> dict[str, Any]:
    """What is exact, what is not, and by which vertices."""
    regressed = [name for name in point.net.vertices if name in point.spread]
    by_vertex = {"regressed": regressed, "expanded": regression.expanded(point.evidence, regressed)}
    if linear:
        given = "" if point.net.is_linear() else ", given this evidence"
        return {"exact": f"everything: the net is linear-Gaussian{given}", "approximate": "nothing", **by_vertex}
    how = f"the net is replaced by its linearisation at the {operating_point} point"
    if regressed:
        under = "posterior" if operating_point == "posterior" else "prior, evidence clamped"
        how += f"; what regressions under the {under} leave over counts as independent Gaussian noise"
    return {"exact": "the posterior of the linearised net", "approximate": how, **by_vertex}


def messages_at(point: Linearization) -> tuple[Mapping[str, Array], int]:
    """λ of the posterior of the net linearised at any point, and how many observed coordinates it took.

    Returns:
        vertex -> shape (samples, *event); the number of coordinates.
    """
    size = coordinates_observed(point)
    return ObservationPosterior(point, (), None, size <= _DENSE_LIMIT).messages(), size


def _chosen(
    point: Linearization, targets: Sequence[str], patterns: Patterns, solver: str, dense_limit: int
) -> tuple[LinearizedPosterior, dict[str, Any]]:
    """The posterior by the solver asked for, or the cheaper one, with its diagnostics."""
    return _solved(_choice(point, targets, patterns, solver, dense_limit), point, targets, patterns)


def _guarded(
    first: LinearizedPosterior,
    figures: Mapping[str, Any],
    point: Linearization,
    targets: Sequence[str],
    patterns: Patterns,
    solver: str,
) -> LinearizedPosterior | Guarded:
    """The posterior, or where it is that of observation space one that notices when digits are lost."""
    if not (isinstance(first, ObservationPosterior) and first.dense):
        return first
    other = solver == "auto" and "information_form" not in figures
    return Guarded(first, lambda: _information(point, targets, patterns) if other else None)


class Repeated:
    """Exact inference for one evidence in nets that differ in their numbers alone, as learning asks for it.

    What the numbers do not decide, patterns and the plan of the elimination, is found once, and the solver with it.

    Args:
        evidence, targets, solver, dense_limit: as in :func:`solve`.

    Raises:
        InferenceError: no such solver.
    """

    def __init__(
        self, evidence: Evidence, targets: Sequence[str], *, solver: str = "auto", dense_limit: int = _DENSE_LIMIT
    ) -> None:
        _check_choices({"solver": (solver, SOLVERS)})
        self.evidence, self.targets, self.solver, self.dense_limit = evidence, targets, solver, dense_limit
        self.choice: _Choice | None = None
        self.some: tuple[Evidence, Array] | None = None
        if evidence.net.is_linear():
            rows, pattern = evidence.patterns()
            self.some = (evidence.rows(rows), pattern)

    def __call__(self, net: GaussianBayesNet) -> LinearizedPosterior | Guarded:
        """The posterior in one such net.

        Raises:
            As :func:`solve`.
        """
        point = Linearization.forward(replace(self.evidence, net=net))
        patterns: Patterns = None
        if self.some is not None:
            few, pattern = self.some
            if few.samples == self.evidence.samples:
                patterns = point, np.arange(few.samples)
            else:
                patterns = Linearization.forward(replace(few, net=net)), pattern
        if self.choice is None:
            self.choice = _choice(point, self.targets, patterns, self.solver, self.dense_limit)
        first, figures = _solved(self.choice, point, self.targets, patterns)
        return _guarded(first, figures, point, self.targets, patterns, self.solver)


@dataclass(frozen=True)
class _Choice:
    """A solver and what it needs.

    structure, plan: for the information form; None where it was not chosen.
    dense: whether observation space may be factored.
    forced: whether nothing else will do where rounding spoils the information form.
    """

    structure: Structure | None
    plan: Plan | None
    dense: bool
    forced: bool
    figures: Mapping[str, Any]


def _choice(point: Linearization, targets: Sequence[str], patterns: Patterns, solver: str, dense_limit: int) -> _Choice:
    """The solver asked for, or the cheaper one; the net's numbers have no say in it."""
    size = coordinates_observed(point)
    dense = solver != "cg" and size <= dense_limit
    figures: dict[str, Any] = {"observed_coordinates": size}
    certain = _certain(point)
    forced = solver == "information"
    if forced and certain:
        raise InferenceError(
            f"deterministic vertex {certain[0]!r} is observed, and has no precision; use solver='observations', or "
            f"give it noise with net.set_noise({{{certain[0]!r}: cov}})"
        )
    if forced and point.spread:
        raise InferenceError(
            f"solver='information' needs a precision of every noise, and what the regression of "
            f"{next(iter(point.spread))!r} leaves over may have none; use solver='observations' or 'cg', or "
            "linearization='taylor'"
        )
    if not forced and (solver != "auto" or certain or point.spread or not size):
        return _Choice(None, None, dense, False, figures)
    start = time.perf_counter()
    structure = Structure.of(point, targets)
    systems = (patterns[0] if patterns else point).evidence.samples
    plan, known = structure.plan(systems, -(-point.evidence.samples // systems))
    seconds = time.perf_counter() - start
    costs = _costs(patterns[0] if patterns else point, structure, plan, targets, size)
    if not forced and not (costs["information"] <= costs["observations"] and plan.entries):
        return _Choice(None, None, dense, False, figures)
    figures |= {
        "solver": "information",
        "hidden_coordinates": plan.size,
        "stored_entries": plan.entries * systems,
        "plan_seconds": seconds,
        "plan_cached": known,
    }
    return _Choice(structure, plan, dense, forced, figures)


def _solved(
    choice: _Choice, point: Linearization, targets: Sequence[str], patterns: Patterns
) -> tuple[LinearizedPosterior, dict[str, Any]]:
    """The posterior by the solver chosen, with its diagnostics."""
    figures = dict(choice.figures)
    if choice.structure is not None and choice.plan is not None:
        solution = InformationPosterior(Factors(point, patterns, choice.structure), targets, choice.plan)
        try:
            # In one go, so that what rounding spoils here can still be asked of the other solver.
            _ = solution.factorization
            return solution, figures
        except IllConditionedError as error:
            if choice.forced or not choice.dense:
                raise
            figures = {"observed_coordinates": figures["observed_coordinates"], "information_form": str(error)}
    figures["solver"] = "dense" if choice.dense else "conjugate gradients"
    return ObservationPosterior(point, targets, patterns, choice.dense), figures


def _information(point: Linearization, targets: Sequence[str], patterns: Patterns) -> InformationPosterior | None:
    """The posterior by the information form; None where there is none, or it is too large."""
    try:
        choice = _choice(point, targets, patterns, "information", 0)
        if choice.figures["stored_entries"] > _MOST_ENTRIES:
            return None
        solution = _solved(choice, point, targets, patterns)[0]
    except InferenceError:
        return None
    return solution if isinstance(solution, InformationPosterior) else None


def _certain(point: Linearization) -> list[str]:
    """Observed vertices without noise."""
    net = point.net
    return [n for n in point.evidence.values if net[n].kind != "likelihood" and net.noise(n) is None]


def _costs(
    point: Linearization, structure: Structure, plan: Plan, targets: Sequence[str], observed: int
) -> dict[str, float]:
    """Multiplications of each solver for means and variances of the targets, its overhead counted in."""
    net, batch = point.net, point.evidence.samples
    if "work" not in structure.notes:
        structure.notes["work"] = _work(point, structure)
    sweep, composed, elements = structure.notes["work"]
    wanted = sum(net.vertices[n].size for n in targets if net.vertices[n].plated)
    visits = len(structure.vertices)
    dense = 2 * (observed + wanted) * sweep + observed**3 + wanted * float(observed) ** 2
    too_much = plan.entries * batch > _MOST_ENTRIES
    information = batch * (3 * plan.flops + elements + composed) + _ELIMINATION * visits
    return {
        "observations": batch * dense + 2 * _VISIT * visits * (1 + len(targets)),
        "information": float("inf") if too_much else information,
    }


def _work(point: Linearization, structure: Structure) -> tuple[float, float, float]:
    """Multiplications of a sweep, of the total Jacobians, and of the elements, for one row."""
    net = point.net
    sweep = composed = elements = 0.0
    for name in structure.vertices:
        size = net.vertices[name].size
        for position, parent in enumerate(point.parents(name)):
            if not net.vertices[parent].plated:
                continue
            inner = net.vertices[parent].size
            map_ = point.map(name, position)
            if map_ is None or is_entrywise(map_):
                sweep += size
                continue
            one = float(size * inner) if isinstance(map_, Contraction) else 10.0 * (size + inner)
            sweep += one
            # Blocks of a general map are pulled row by row; then they meet the totals of what lies above.
            composed += (0 if isinstance(map_, Contraction) else size * one) + float(size) * inner * inner
    for name, variables in zip(structure.factors, structure.variables, strict=True):
        elements += net.vertices[name].size * float(sum(structure.sizes[v] for v in variables)) ** 2
    return sweep, composed, elements
