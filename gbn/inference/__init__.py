"""Engines: one file each, behind one query."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gbn.errors import UnknownNameError
from gbn.evidence import Evidence, offered
from gbn.options import check_arguments, check_options

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet
    from gbn.posterior import Posterior

__all__ = ["ENGINES", "gradient", "query", "solver"]

ENGINES = {
    "exact": "gbn.inference.exact",
    "bp": "gbn.inference.bp",
    "pc": "gbn.inference.predictive_coding",
    "vmp": "gbn.inference.vmp",
}


def solver(name: str) -> Callable[..., Posterior]:
    """The engine of that name: a function of net, evidence, targets and options.

    Raises:
        UnknownNameError: there is no such engine.
    """
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ENGINES)
    module = sys.modules.get(ENGINES[name]) or import_module(ENGINES[name])
    solve: Callable[..., Posterior] = module.solve
    return solve


def query(
    net: GaussianBayesNet,
    targets: str | Sequence[str] | None = None,
    evidence: Any = None,
    do: Any = None,
    engine: str = "exact",
    *,
    soft: Mapping[str, Any] | None = None,
    **options: Any,
) -> Posterior:
    """The posterior of some vertices given others.

    Args:
        targets: names (None: every vertex that has a value per sample).
        evidence: name -> array of shape (samples, *event), NaN where missing; labels as integers or one-hot rows.
            Or a pandas DataFrame (a Series for one row) with a column for each vertex, or entry ``name[i, j]``: see
            :func:`gbn.evidence.named_arrays`.
        do: in the same forms, complete; interventions, which cut the vertex off from its parents.
        engine: "exact" (the linear-Gaussian posterior at an operating point), "pc" (predictive coding),
            "bp" (Gaussian belief propagation) or "vmp" (mean-field variational message passing).
        soft: vertex -> (value, cov): the likelihood N(value; x, cov) of a Gaussian vertex x, with noise or without.
            value as in ``evidence`` (NaN: nothing is said of that entry); cov a number, an array over the event, or
            a matrix.  It counts as evidence in ``log_evidence``.
        options: of the engine.

    Raises:
        UnknownNameError: unknown vertex, engine or option, with near matches.
        ArgumentTypeError: options of other types than the engine's.
        EvidenceError, ShapeError, CovarianceError: unusable evidence, naming the vertex.
        InferenceError: the engine cannot answer this query.
    """
    solve = solver(engine)
    check_arguments(query, {"targets": targets})
    check_options(solve, options, f"engine {engine!r}")
    # The answer is lazy, and must stay that of the net as it is now.
    net = net.copy()
    read = Evidence.read(net, evidence, do) if not soft else _with_soft(net, evidence, do, soft)
    names = [targets] if isinstance(targets, str) else targets
    chosen = [n for n, v in net.vertices.items() if v.plated] if names is None else list(names)
    for name in chosen:
        if name not in net.vertices:
            raise UnknownNameError("target", name, offered(net, name))
    post = solve(read.net, read, chosen, **options)
    post.options = options
    if not soft:
        return post
    from gbn.inference.augment import seen_as

    return seen_as(post, Evidence.read(net, evidence, do, read.samples), chosen)


def _with_soft(net: GaussianBayesNet, evidence: Any, do: Any, soft: Mapping[str, Any]) -> Evidence:
    from gbn.inference.augment import with_soft

    return with_soft(net, evidence, do, soft)


def gradient(net: GaussianBayesNet, evidence: Evidence | Mapping[str, Any], names: Any = None) -> dict[str, Any]:
    """∂F/∂θ by one sweep of local messages; see :func:`gbn.inference.predictive_coding.gradient`."""
    from gbn.inference import predictive_coding

    return predictive_coding.gradient(net, evidence, names)
