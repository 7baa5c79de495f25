"""Engine "exact": the posterior of the net linearised at an operating point, by the cheaper of two linear systems.

Observation space (:mod:`gbn.inference.observation_space`) is small where little is observed; the information form
(:mod:`gbn.inference.information`) is cheap where the net is a long chain of narrow layers.  Both give the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gbn.errors import IllConditionedError, InferenceError
from gbn.evidence import Evidence
from gbn.inference.factors import Factors, one_row_a_pattern
from gbn.inference.hidden import Structure
from gbn.inference.information import InformationPosterior
from gbn.inference.jacobians import is_entrywise
from gbn.inference.observation_space import ObservationPosterior
from gbn.inference.operating_point import operating_point as chosen_point
from gbn.inference.operating_point import refuse_random_parameters
from gbn.inference.plan import Plan
from gbn.inference.solution import LinearizedPosterior, coordinates_observed
from gbn.linearize import Linearization
from gbn.maps import Contraction
from gbn.net import GaussianBayesNet
from gbn.posterior import Posterior

__all__ = ["SOLVERS", "messages_at", "solve"]

Array = np.ndarray[Any, Any]
Patterns = tuple[Linearization, Array] | None
SOLVERS = ("auto", "observations", "information", "cg")
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
    solver: str = "auto",
    tol: float = 1e-6,
    dense_limit: int = _DENSE_LIMIT,
    progress: bool | None = None,
) -> Posterior:
    """Engine "exact".

    Args:
        operating_point: "forward" (the forward pass with the evidence clamped) or "equilibrium" (the minimum of the
            free energy: the Laplace approximation).  On linear-Gaussian nets both give the same, exact posterior.
        solver: "observations" (a system over what is observed), "information" (block elimination of what is hidden),
            "cg" (conjugate gradients over what is observed: means, covariances and samples, no log-evidence), or
            "auto": the one of least estimated cost; ``diagnostics["solver"]`` says which.
        tol: gradient of the free energy at the equilibrium, relative to that at the forward pass.
        dense_limit: observed coordinates above which "observations" becomes "cg".
        progress: show a bar (None: on a terminal only).

    Raises:
        InferenceError: random parameters, an unknown operating point or solver, or one that cannot serve.
        SingularEvidenceError: the observed quantities determine one another (raised when S is first needed).
        IllConditionedError: the information form is spoilt by rounding, and observation space is too large.
    """
    if solver not in SOLVERS:
        raise InferenceError(f"solver: got {solver!r}, expected one of {', '.join(map(repr, SOLVERS))}")
    refuse_random_parameters(net, evidence, "exact")
    point, arrival = chosen_point(evidence, operating_point, tol=tol, progress=progress)
    linear = net.is_linear()
    solution, figures = _chosen(point, targets, one_row_a_pattern(point) if linear else None, solver, dense_limit)
    diagnostics = {
        "operating_point": operating_point,
        **arrival.diagnostics,
        **figures,
        "exact": "everything: the net is linear-Gaussian" if linear else "the posterior of the linearised net",
        "approximate": "nothing"
        if linear
        else f"the net is replaced by its linearisation at the {operating_point} point",
    }
    return Posterior(
        net,
        evidence,
        "exact",
        targets,
        solution,
        converged=arrival.converged,
        history=arrival.history,
        diagnostics=diagnostics,
    )


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
    """The solver asked for, or the cheaper one, with its diagnostics."""
    size = coordinates_observed(point)
    figures: dict[str, Any] = {"observed_coordinates": size}
    certain = _certain(point)
    if solver == "information" and certain:
        raise InferenceError(
            f"deterministic vertex {certain[0]!r} is observed, and has no precision; use solver='observations', or "
            f"give it noise with net.set_noise({{{certain[0]!r}: cov}})"
        )
    if solver == "information" or (solver == "auto" and not certain and size):
        structure = Structure.of(point, targets)
        systems = (patterns[0] if patterns else point).evidence.samples
        plan, seconds, known = structure.plan(systems, -(-point.evidence.samples // systems))
        costs = _costs(patterns[0] if patterns else point, structure, plan, targets, size)
        dense = size <= dense_limit
        if solver == "information" or (costs["information"] <= costs["observations"] and plan.entries):
            solution = InformationPosterior(Factors(point, patterns, structure), targets, plan)
            found = figures | {
                "solver": "information",
                "hidden_coordinates": plan.size,
                "stored_entries": plan.entries * systems,
                "plan_seconds": seconds,
                "plan_cached": known,
            }
            try:
                # In one go, so that what rounding spoils here can still be asked of the other solver.
                _ = solution.factorization
                return solution, found
            except IllConditionedError as error:
                if solver == "information" or not dense:
                    raise
                figures["information_form"] = str(error)
    dense = solver != "cg" and size <= dense_limit
    figures["solver"] = "dense" if dense else "conjugate gradients"
    return ObservationPosterior(point, targets, patterns, dense), figures


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
