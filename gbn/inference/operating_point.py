"""Where a net is linearised, and what engines of linearised nets have to refuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gbn.errors import InferenceError
from gbn.evidence import Evidence
from gbn.inference import predictive_coding
from gbn.inference.loop import Outcome
from gbn.linearize import Linearization
from gbn.net import GaussianBayesNet

__all__ = ["Arrival", "arrived", "operating_point", "refuse_random_parameters"]


@dataclass(frozen=True)
class Arrival:
    """How an operating point was reached."""

    converged: bool = True
    history: Sequence[Mapping[str, float]] = ()
    diagnostics: Mapping[str, Any] = field(default_factory=dict)


def arrived(outcome: Outcome, figures: Mapping[str, Any]) -> Arrival:
    """How an iteration ended, with its figures."""
    return Arrival(outcome.converged, outcome.history, {**figures, "stopped": outcome.reason})


def operating_point(evidence: Evidence, chosen: str, **iterated: Any) -> tuple[Linearization, Arrival]:
    """The net linearised there.

    Args:
        chosen: "forward" (the forward pass with the evidence clamped) or "equilibrium" (the minimum of the free
            energy).
        iterated: of :func:`gbn.inference.predictive_coding.equilibrium`.

    Raises:
        InferenceError: another name.
    """
    if chosen == "forward":
        return Linearization.forward(evidence), Arrival()
    if chosen == "equilibrium":
        point, outcome, figures = predictive_coding.equilibrium(evidence, **iterated)
        return point, arrived(outcome, figures)
    raise InferenceError(f"operating_point: got {chosen!r}, expected 'forward' or 'equilibrium'")


def refuse_random_parameters(net: GaussianBayesNet, evidence: Evidence, engine: str) -> None:
    """Raise InferenceError at a parameter with a prior that is not set from outside."""
    random = [name for name, vertex in net.vertices.items() if vertex.random and not vertex.plated]
    uncertain = [name for name in random if name not in evidence.do]
    if uncertain:
        raise InferenceError(
            f"parameter {uncertain[0]!r} has a prior, which couples all samples and makes the net bilinear; engine "
            f"{engine!r} needs plain parameters (net.set_noise({{name: None}})); engine='pc' takes them as they are"
        )
