"""Gaussian belief propagation between the hidden vertices, each a block of the precision K (with h = K mean).

    K_{i\\j} = K_ii + Σ_{k≠j} P_{k→i},          h_{i\\j} = h_i + Σ_{k≠j} h_{k→i}
    P_{i→j} = -K_ji K_{i\\j}⁻¹ K_ij,            h_{i→j} = -K_ji K_{i\\j}⁻¹ h_{i\\j}
    belief:  K_i = K_ii + Σ_k P_{k→i},         mean K_i⁻¹ (h_i + Σ_k h_{k→i}),  covariance K_i⁻¹

On a forest two passes, to the roots and back, are exact (Pearl 1988; Weiss & Freeman, Neural Computation 2001).  With
loops the messages are repeated; where they settle the means are exact and the covariances are not, and where a
precision stops being positive definite there is no answer.  Walk-summability (Malioutov, Johnson & Willsky, JMLR
2006), here for blocks, guarantees that they settle::

    ρ < 1,   ρ the spectral radius of the matrix of norms ‖K_ii^{-1/2} K_ij K_jj^{-1/2}‖₂, i ≠ j
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gbn.errors import ConvergenceWarning, InferenceError
from gbn.evidence import Evidence
from gbn.inference.bp_beliefs import Beliefs
from gbn.inference.bp_messages import Density, Messages
from gbn.inference.factors import Factors, one_row_a_pattern
from gbn.inference.hidden import Structure
from gbn.inference.loop import Outcome, iterate
from gbn.inference.operating_point import operating_point as chosen_point
from gbn.inference.operating_point import refuse_random_parameters
from gbn.inference.precision import Precision
from gbn.net import GaussianBayesNet
from gbn.posterior import Posterior

__all__ = ["solve"]

_REMEDY = "Raise damping (0.5, say) or max_rounds, or use engine='exact'."


def solve(
    net: GaussianBayesNet,
    evidence: Evidence,
    targets: Sequence[str],
    *,
    operating_point: str = "forward",
    schedule: str = "auto",
    damping: float = 0.0,
    max_rounds: int = 500,
    tol: float = 1e-10,
    callback: Callable[[int, Mapping[str, float]], Any] | None = None,
    progress: bool | None = None,
) -> Posterior:
    """Engine "bp".

    Args:
        operating_point: "forward" or "equilibrium", as for engine "exact".
        schedule: "tree" (two passes; the hidden vertices must form a forest), "residual" (always the message that
            would change most: Elidan, McGraw & Koller, UAI 2006), "parallel" (all from those of the round before), or
            "auto": "tree" where possible, else "residual".  A round sends as many messages as a parallel one.
        damping: share of the old message that is kept, at least 0 and below 1.  Not for trees.
        max_rounds: of the messages, when there are loops.
        tol: stop when no message would change by more, relative to the precisions (and potentials) of its receiver.
        callback: called with the round and its figures; returning True stops.
        progress: show a bar (None: on a terminal only).

    Raises:
        InferenceError: random parameters, evidence on a deterministic vertex, options that do not fit, or beliefs that
            are no densities.
    """
    _check(net, evidence, schedule, damping)
    linear = net.is_linear()
    point, arrival = chosen_point(evidence, operating_point, progress=progress)
    factors = Factors(point, one_row_a_pattern(point) if linear else None, Structure.of(point, targets))
    messages = Messages(Precision(factors), damping)
    schedule = _scheduled(messages, schedule)
    radius = None
    if schedule == "tree":
        messages.two_passes()
        outcome = Outcome([], True, "two passes over a tree arrive")
    else:
        radius = _walk_summability(messages.system, loopy=messages.order is None)
        outcome = iterate(
            messages.parallel if schedule == "parallel" else messages.by_residual,
            label="belief propagation",
            max_rounds=max_rounds,
            tol=tol,
            remedy=_REMEDY,
            measure="residual",
            callback=callback,
            progress=progress,
        )
    diagnostics = {
        "operating_point": operating_point,
        "graph": "tree" if messages.order is not None else "loopy",
        "blocks": len(messages.system.hidden),
        "edges": len(messages.edges) // 2,
        "schedule": schedule,
        "rounds": 1 if schedule == "tree" else outcome.rounds,
        "messages": messages.sent,
        "walk_summability": radius,
        "residual": outcome.history[-1]["residual"] if outcome.history else 0.0 if schedule == "tree" else np.inf,
        "stopped": outcome.reason,
        **_claims(messages.order is not None, linear, operating_point),
    }
    return Posterior(
        net,
        evidence,
        "bp",
        targets,
        Beliefs(factors, targets, messages),
        converged=outcome.converged and arrival.converged,
        history=outcome.history,
        diagnostics=diagnostics,
    )


def _check(net: GaussianBayesNet, evidence: Evidence, schedule: str, damping: float) -> None:
    refuse_random_parameters(net, evidence, "bp")
    for name in evidence.values:
        if net[name].kind != "likelihood" and net.noise(name) is None:
            raise InferenceError(
                f"evidence on {name!r}, a deterministic vertex: its precision would be infinite; give it noise "
                f"with net.set_noise({{{name!r}: cov}}), or use engine='exact'"
            )
    if schedule not in ("auto", "tree", "residual", "parallel"):
        raise InferenceError(f"schedule: got {schedule!r}, expected 'auto', 'tree', 'residual' or 'parallel'")
    if not 0 <= damping < 1:
        raise InferenceError(f"damping: got {damping}, expected a number of at least 0 and below 1")


def _scheduled(messages: Messages, schedule: str) -> str:
    if schedule == "tree" and messages.order is None:
        blocks, edges = len(messages.system.hidden), len(messages.edges) // 2
        raise InferenceError(
            f"schedule: got 'tree', but the hidden vertices have loops ({blocks} of them, {edges} edges); parents of a "
            "common child are neighbours.  Use schedule='residual', or engine='exact'"
        )
    if schedule == "auto":
        return "residual" if messages.order is None else "tree"
    return schedule


def _claims(tree: bool, linear: bool, operating_point: str) -> dict[str, str]:
    replaced = "" if linear else f"the net is replaced by its linearisation at the {operating_point} point"
    if tree:
        exact = "everything: the net is linear-Gaussian" if linear else "the posterior of the linearised net"
        return {"exact": exact, "approximate": replaced or "nothing"}
    loops = "variances, covariances and the free energy (Bethe's) count loops more than once"
    return {
        "exact": "means, where the messages converged" + ("" if linear else ", of the linearised net"),
        "approximate": loops if linear else f"{loops}; {replaced}",
    }


def _walk_summability(system: Precision, loopy: bool) -> float:
    """ρ of the matrix of block norms, the largest of all samples; warns where loops need it and it is too large."""
    hidden = system.hidden
    roots = {i: Density(system.block(i, i), i).root for i in hidden}
    rows = max((len(block) for block in roots.values()), default=1)
    norms = np.zeros((rows, len(hidden), len(hidden)))
    for a, i in enumerate(hidden):
        for b, j in enumerate(hidden[:a]):
            if j in system.neighbours[i]:
                scaled = roots[i] @ system.block(i, j) @ np.swapaxes(roots[j], 1, 2)
                norms[:, a, b] = norms[:, b, a] = np.linalg.norm(scaled, ord=2, axis=(1, 2))
    radius = float(np.linalg.eigvalsh(norms)[:, -1].max()) if hidden else 0.0
    if radius >= 1 and loopy:
        warnings.warn(
            f"belief propagation: the hidden vertices have loops and ρ = {radius:.3g}, not below 1, so the messages "
            "may not converge; join small vertices into larger ones, or use engine='exact'",
            ConvergenceWarning,
            stacklevel=5,
        )
    return radius
