"""Questions put to an engine by way of a larger net, and its answers seen as those of the net that was asked.

Every engine answers them without knowing of them: soft evidence is hard evidence on a noisy copy, and a counterfactual
world is a second set of vertices that share the noises of the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gbn.errors import EvidenceError, InferenceError, UnknownNameError
from gbn.evidence import Evidence, named_arrays
from gbn.net import GaussianBayesNet, Vertex
from gbn.posterior import Posterior, Solution

__all__ = ["seen_as", "twin", "with_soft"]

Array = np.ndarray[Any, Any]


def with_soft(net: GaussianBayesNet, values: Any, do: Any, soft: Mapping[str, Any]) -> Evidence:
    """Evidence on a copy of the net, where each vertex x with soft evidence has a child N(x, cov), observed at value.

    Args:
        soft: vertex -> (value, cov); value of shape (samples, *event) or one row, NaN where there is none; cov a
            number, an array over the event, or a matrix.

    Raises:
        UnknownNameError, EvidenceError, ShapeError, CovarianceError: naming the vertex.
    """
    if not isinstance(soft, Mapping):
        raise EvidenceError(f"soft: got {type(soft).__name__}, expected a mapping name -> (value, cov)")
    augmented = net.copy()
    augmented.set_outputs(net.outputs)
    given = named_arrays(net, values)
    for name, pair in soft.items():
        if name not in net.vertices:
            raise UnknownNameError("vertex in soft", name, [n for n, v in net.vertices.items() if _gaussian(v)])
        vertex = net[name]
        if vertex.kind == "likelihood":
            raise EvidenceError(f"soft evidence on {name!r}, a label: give class probabilities as evidence instead")
        if not vertex.plated:
            raise EvidenceError(
                f"soft evidence on {name!r}, a {vertex.kind} shared by all samples: give it a prior with "
                f"net.set_noise({{{name!r}: cov}}) instead"
            )
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or pair[1] is None or isinstance(pair[1], str):
            raise EvidenceError(f"soft evidence on {name!r}: expected a pair (value, cov)")
        copy = _fresh(augmented, f"{name} (soft evidence)")
        augmented.add(copy, "Identity", [name], cov=pair[1])
        given[copy] = pair[0]
    return Evidence.read(augmented, given, named_arrays(net, do, "do"))


def twin(
    net: GaussianBayesNet, values: Any, do: Any, targets: Sequence[str]
) -> tuple[Evidence, Evidence, dict[str, str]]:
    """The net with a second, counterfactual world beside its own (Pearl, *Causality*, 2009, section 7.1).

    What ``do`` reaches has a counterpart v', whose noise is the factual one, e = v - f(v_pa):

        v' = f(v'_pa) + (v - f(v_pa)),      v' = do(v) where it is set

    Counterparts are deterministic functions of the factual vertices, so evidence on those stays as it is.

    Returns:
        the evidence on the larger net; what it amounts to in the counterfactual world, on ``net``; and vertex -> the
        name of its counterpart.

    Raises:
        InferenceError: a target is a label that the action reaches, for label noise is not additive.
        UnknownNameError, EvidenceError, ShapeError: naming the vertex.
    """
    values, do = named_arrays(net, values), named_arrays(net, do, "do")
    action = Evidence.read(net, do=do).do
    world, set_to = net.copy(), dict[str, Array]()
    world.set_outputs(net.outputs)
    counterpart: dict[str, str] = {}
    for name, vertex in net.vertices.items():
        if name in action:
            counterpart[name] = copy = _fresh(world, f"{name} (counterfactual)")
            if vertex.plated:
                world.add_input(copy, vertex.shape)
                set_to[copy] = action[name]
            else:
                world.add_constant(copy, action[name])
        elif counterpart.keys() & set(vertex.parents):
            if vertex.kind == "op":
                counterpart[name] = _counterpart(world, vertex, counterpart)
            elif name in targets:
                raise InferenceError(
                    f"the label {name!r} has no counterfactual value: its noise is not additive; ask for its logits "
                    f"{vertex.parents[0]!r}"
                )
    facts = Evidence.read(world, values, set_to)
    shown = Evidence(
        net,
        facts.samples,
        {n: v for n, v in facts.values.items() if n not in counterpart},
        {n: v for n, v in facts.masks.items() if n not in counterpart},
        {n: v for n, v in facts.do.items() if n in net.vertices and n not in action}
        | {n: facts.do.get(counterpart[n], value) for n, value in action.items()},
    )
    return facts, shown, counterpart


def _counterpart(world: GaussianBayesNet, vertex: Vertex, counterpart: Mapping[str, str]) -> str:
    """Add v' to the net; with the factual noise, where the vertex has one."""
    parents = [counterpart.get(parent, parent) for parent in vertex.parents]
    copy, op = _fresh(world, f"{vertex.name} (counterfactual)"), str(vertex.op)
    if vertex.noise is None:
        return world.add(copy, op, parents, **vertex.attributes)
    mean = world.add(_fresh(world, f"{vertex.name} (mean)"), op, vertex.parents, **vertex.attributes)
    error = world.add(_fresh(world, f"{vertex.name} (error)"), "Sub", [vertex.name, mean])
    moved = world.add(_fresh(world, f"{vertex.name} (counterfactual mean)"), op, parents, **vertex.attributes)
    return world.add(copy, "Add", [moved, error])


def _gaussian(vertex: Vertex) -> bool:
    return vertex.plated and vertex.kind != "likelihood"


def _fresh(net: GaussianBayesNet, name: str) -> str:
    """A name that is free: this one, or with primes."""
    while name in net.vertices or name in net.noises:
        name += "'"
    return name


def seen_as(
    post: Posterior, evidence: Evidence, targets: Sequence[str], names: Mapping[str, str] | None = None
) -> Posterior:
    """An answer of a larger net as one about ``evidence.net``: other vertices are hidden, ``names`` replaced.

    names: vertex of ``evidence.net`` -> the vertex of the larger net that is meant.
    """
    seen = Posterior(
        evidence.net,
        evidence,
        post.engine,
        targets,
        _Seen(post._solution, evidence.net, names or {}),
        converged=post.converged,
        history=post.history,
        diagnostics=post.diagnostics,
    )
    seen.asked, seen.options = post.asked, post.options
    return seen


class _Seen:
    """A solution under other names.  Figures of the evidence (messages, energies) are those of the larger net."""

    def __init__(self, solution: Solution, net: GaussianBayesNet, names: Mapping[str, str]) -> None:
        self._solution, self._net, self._names = solution, net, names
        self.surprise, self.log_evidence, self.free_energy = (
            solution.surprise,
            solution.log_evidence,
            solution.free_energy,
        )

    def _name(self, name: str) -> str:
        return self._names.get(name, name)

    def mean(self, name: str) -> Array:
        return self._solution.mean(self._name(name))

    def variance(self, name: str) -> Array:
        return self._solution.variance(self._name(name))

    def covariance(self, a: str, b: str) -> Array:
        return self._solution.covariance(self._name(a), self._name(b))

    def sample(self, n: int, rng: np.random.Generator, names: Sequence[str]) -> dict[str, Array]:
        draws = self._solution.sample(n, rng, [self._name(name) for name in names])
        return {name: draws[self._name(name)] for name in names}

    def messages(self) -> Mapping[str, Array]:
        messages = self._solution.messages()
        return {name: messages[name] for name in self._net.vertices}
