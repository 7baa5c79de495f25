"""Engines: one file each, behind one query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from gbn.errors import UnknownNameError
from gbn.evidence import Evidence

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet
    from gbn.posterior import Posterior

__all__ = ["ENGINES", "gradient", "query", "solver"]

ENGINES = {
    "bp": "gbn.inference.bp",
    "exact": "gbn.inference.exact",
    "pc": "gbn.inference.predictive_coding",
}


def solver(name: str) -> Callable[..., Posterior]:
    """The engine of that name: a function of net, evidence, targets and options.

    Raises:
        UnknownNameError: there is no such engine.
    """
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ENGINES)
    solve: Callable[..., Posterior] = import_module(ENGINES[name]).solve
    return solve


def query(
    net: GaussianBayesNet,
    targets: str | Sequence[str] | None = None,
    evidence: Mapping[str, Any] | None = None,
    do: Mapping[str, Any] | None = None,
    engine: str = "exact",
    **options: Any,
) -> Posterior:
    """The posterior of some vertices given others.

    Args:
        targets: names (None: every vertex that has a value per sample).
        evidence: name -> array of shape (samples, *event), NaN where missing; labels as integers or one-hot rows.
        do: name -> array; interventions, which cut the vertex off from its parents.
        engine: "exact" (the linear-Gaussian posterior at an operating point), "bp" (belief propagation) or "pc"
            (predictive coding).
        options: of the engine.

    Raises:
        UnknownNameError: unknown vertex, engine or option, with near matches.
        EvidenceError, ShapeError: unusable evidence, naming the vertex.
        InferenceError: the engine cannot answer this query.
    """
    solve = solver(engine)
    read = Evidence.read(net, evidence, do)
    names = [targets] if isinstance(targets, str) else targets
    chosen = [n for n, v in net.vertices.items() if v.plated] if names is None else list(names)
    for name in chosen:
        if name not in net.vertices:
            raise UnknownNameError("target", name, net.vertices)
    known = [p.name for p in signature(solve).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of engine {engine!r}", option, known)
    return solve(net, read, chosen, **options)


def gradient(net: GaussianBayesNet, evidence: Evidence | Mapping[str, Any], names: Any = None) -> dict[str, Any]:
    """∂F/∂θ by one sweep of local messages; see :func:`gbn.inference.predictive_coding.gradient`."""
    from gbn.inference import predictive_coding

    return predictive_coding.gradient(net, evidence, names)
