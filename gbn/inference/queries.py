"""What else can be asked: the most probable values, divergence from the prior, mutual information, counterfactuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gbn.errors import InferenceError, UnknownNameError
from gbn.evidence import Evidence, offered
from gbn.graph import linear_given
from gbn.inference import query, solver
from gbn.inference.augment import seen_as, twin
from gbn.joint import divergence
from gbn.net import GaussianBayesNet
from gbn.options import check_options
from gbn.posterior import Posterior

__all__ = ["counterfactual", "divergence_from_prior", "most_probable", "mutual_information"]

Array = np.ndarray[Any, Any]


def mutual_information(
    net: GaussianBayesNet,
    a: str | Sequence[str],
    b: str | Sequence[str],
    evidence: Any = None,
    do: Any = None,
    **options: Any,
) -> Array:
    """I(a; b | evidence) = ½ log (|C_a| |C_b| / |C_ab|) between two groups of vertices, in nats.

    From the posterior covariances: exact in a linear-Gaussian net, where it does not depend on the values observed;
    else that of the linearised net, sample by sample.

    Args:
        options: of :func:`gbn.inference.query`.

    Returns:
        shape (samples,); ∞ where one group determines a part of the other, 0 where a group is observed.

    Raises:
        As :func:`gbn.inference.query`.
    """
    first, second = ([names] if isinstance(names, str) else list(names) for names in (a, b))
    both = list(dict.fromkeys(first + second))
    return query(net, both, evidence, do, **options).joint(both).mutual_information(first, second)


def most_probable(post: Posterior) -> Mapping[str, Array]:
    """vertex -> the value where the posterior density of the noises is highest.

    The mean, where the answer is the exact posterior of a linear-Gaussian net, or was taken at the equilibrium (or, by
    Taylor expansions, at the posterior, which is the same point); else
    the point of least free energy, found by predictive coding.
    """
    told = post.diagnostics
    at_mode = told.get("operating_point") != "forward" and told.get("linearization") == "taylor"
    exact = post.engine == "exact" and (at_mode or linear_given(post.asked))
    if exact or (post.engine == "pc" and post.diagnostics.get("prediction") == "live"):
        return post.mean
    found = solver("pc")(post.asked.net, post.asked, post.targets, prediction="live")
    return {name: found.mean[name] for name in post.targets}


def divergence_from_prior(post: Posterior, name: str) -> Array:
    """KL(posterior ‖ prior) of one vertex; see :meth:`gbn.posterior.Posterior.kl`."""
    posterior = post.joint([name])
    before = Evidence(post.asked.net, post.asked.samples, {}, {}, post.asked.do)
    prior = solver(post.engine)(before.net, before, [name], **post.options)
    return divergence(posterior, prior.joint([name]))


def counterfactual(
    net: GaussianBayesNet,
    evidence: Any,
    do: Any,
    targets: str | Sequence[str] | None = None,
    engine: str = "exact",
    **options: Any,
) -> Posterior:
    """What would have been, had some vertices been set to other values: abduction, action, prediction.

    The evidence tells of the noises of each sample (abduction); under ``do`` (action) the same noises give other
    values (prediction).  Exact in linear-Gaussian nets, else of the net linearised at the engine's operating point.
    Source: Pearl, *Causality* (2009), theorem 7.1.7; both worlds are one net, see :func:`gbn.inference.augment.twin`.

    Args:
        evidence: what was observed in fact, as for a query; inputs without a prior too.
        do: what is set in the counterfactual world: vertices (also observed ones, and inputs), or weights.
        targets: names (None: every vertex with a value per sample, labels excepted).
        options: of the engine.

    Returns:
        the posterior of the vertices in the counterfactual world.  Vertices that the action does not reach are as in
        fact.  ``log_evidence``, ``free_energy``, ``messages`` and ``surprise`` are those of the facts.

    Raises:
        As :func:`gbn.inference.query`; InferenceError for labels that the action reaches.
    """
    names = [targets] if isinstance(targets, str) else targets
    chosen = [n for n, v in net.vertices.items() if v.plated and v.kind != "likelihood"]
    chosen = chosen if names is None else list(names)
    for name in chosen:
        if name not in net.vertices:
            raise UnknownNameError("target", name, offered(net, name))
    if "soft" in options:
        raise InferenceError("soft: a counterfactual takes hard evidence only; give a noisy copy of the vertex instead")
    if "moment" in (options.get("linearization"), options.get("moments")) or (
        options.get("operating_point") == "posterior" and options.get("linearization") != "taylor"
    ):
        raise InferenceError(
            "linearization='moment': a counterfactual keeps the noises of the net, and what a regression leaves over "
            "is none of them; use linearization='taylor'"
        )
    check_options(solver(engine), options, f"engine {engine!r}")
    facts, shown, counterpart = twin(net, evidence, do, chosen)
    asked = [counterpart.get(name, name) for name in chosen]
    post = solver(engine)(facts.net, facts, asked, **options)
    post.options = options
    return seen_as(post, shown, chosen, counterpart)
