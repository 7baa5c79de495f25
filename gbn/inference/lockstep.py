"""A net in lockstep: at every tick every vertex moves once, from what its neighbours were one tick before.

Nothing is instantaneous, not even a forward pass or a deterministic vertex.  With activities v and messages λ::

    p_i(t) = f_i(v_pa(i)(t-1))                                            what i is expected to be
    λ_i(t) = (1 - η) λ_i(t-1) + η Σ_{c ∈ ch(i)} J_{c←i}ᵀ λ_c(t-1)         latent (deterministic: η = 1)
    λ_i(t) = Λ_i (v_i(t-1) - p_i(t)), or the score                        observed
    v_i(t) = p_i(t)   or, live,   p_i(t) + Q_i λ_i(t);                    observed: what is shown at t

with Jacobians where the parents stood at t-1.  A weight is a vertex like any other: it hears the same sum, and what it
makes of it is its own affair.  While the same rows are shown and weights rest, activities climb one edge a tick and
messages come down one edge a tick, so that λ is exactly that of one sweep after :func:`delays`; live, the state
approaches the stationary point of F where η is small enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbn.errors import EvidenceError
from gbn.evidence import Evidence
from gbn.inference.fixed_prediction import Channel
from gbn.inference.point_estimate import noise_of_observed
from gbn.linearize import Linearization
from gbn.net import GaussianBayesNet
from gbn.ops import Maps

__all__ = ["Delays", "Lockstep", "check_shown", "delays"]

Array = np.ndarray[Any, Any]
# How a weight moves: from its name, its value and what it hears (-∂F/∂θ of all rows), to its next value.
Move = Callable[[str, Array, Array], Array]
# Children whose messages a vertex does not hear.
Deaf = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Delays:
    """How long signals are under way, in ticks from the one that shows a sample.

    activity: vertex -> ticks until its activity is that of the forward pass.
    message: vertex -> ticks until its message is that of one sweep; constants, and what no message reaches, are left
        out.  A weight moves by the gradient of the sample in that very tick, if what it reads still stands from the
        tick before.
    period: ticks for which a sample must be shown so that every weight hears its gradient: the longest way up from an
        input to what is observed, and down again to a weight.
    """

    activity: Mapping[str, int]
    message: Mapping[str, int]
    period: int


def delays(evidence: Evidence, deaf: Deaf | None = None, lag: int = 0) -> Delays:
    """The delays of signals through a net at step size 1 and fixed prediction, by the graph alone.

    Args:
        evidence: what is shown; only its names are read.
        deaf: vertex -> children whose messages it does not hear.
        lag: ticks by which what is observed, inputs excepted, follows the inputs.
    """
    net, deaf = evidence.net, deaf or {}
    point = Linearization(evidence, {}, {}, {})
    activity: dict[str, int] = {}
    expected: dict[str, int] = {}
    for name, vertex in net.vertices.items():
        above = [activity[p] for p in vertex.parents if net[p].plated]
        expected[name] = 1 + max(above) if above else 0
        activity[name] = 0 if name in evidence.do or point.closed(name) else expected[name]
    message: dict[str, int] = {}
    for name in reversed(net.vertices):
        if name in evidence.values:
            message[name] = max(message.get(name, 0), expected[name], 1 + (lag if net[name].kind != "input" else 0))
        if name not in message:
            continue
        for parent in point.listeners(name):
            if net[parent].kind != "constant" and name not in deaf.get(parent, ()):
                message[parent] = max(message.get(parent, 0), message[name] + 1)
    weights = [message[n] for n in net.parameters if n in message]
    return Delays(activity, message, max(weights, default=0))


class Lockstep:
    """The state of a net in time.

    At time 0 it is at rest: activities are those of the forward pass from inputs at zero (those with a prior at its
    mean), and nobody has said anything.

    Args:
        net: with plain parameters.
        samples: number of rows, each an environment of its own beside the others.
        step_size: η of latents, or vertex -> η.
        live: whether activities move with their errors.
        move: how weights move, by name of those that do.
        activities, messages: the lines up from parents to children, and those down to parents.
        deaf: vertex -> children whose messages it does not hear.

    Attributes:
        time: ticks made.
        shared: the present value of each parameter and constant, and of what is computed from them alone.
        evidence: what is shown since the last tick.
        point: what the vertices saw in the last tick: errors of what was observed, and Jacobians.
    """

    def __init__(
        self,
        net: GaussianBayesNet,
        samples: int,
        *,
        step_size: float | Mapping[str, float] = 1.0,
        live: bool = False,
        move: Mapping[str, Move] | None = None,
        activities: Channel | None = None,
        messages: Channel | None = None,
        deaf: Deaf | None = None,
    ) -> None:
        self.net, self.samples, self.live, self.time = net, samples, live, 0
        self.move, self.deaf = dict(move or {}), dict(deaf or {})
        self.activities, self.messages = activities or Channel(), messages or Channel()
        self._eta = step_size if isinstance(step_size, Mapping) else dict.fromkeys(net.vertices, step_size)
        self._children: dict[str, list[str]] = {name: [] for name in net.vertices}
        for name, vertex in net.vertices.items():
            for parent in dict.fromkeys(vertex.parents):
                self._children[parent].append(name)
        self.rest = _at_rest(net, samples)
        self.shared = {n: v for n, v in self.rest.items() if not net.vertices[n].plated}
        self.evidence = self.coming = Evidence(net, samples, {}, {}, {})
        self.point = Linearization(self.evidence, {}, {}, {})
        seeing = [n for n, v in net.vertices.items() if v.kind == "op" or (v.kind == "input" and v.value is not None)]
        self._means = {name: self.rest[name] for name in seeing}
        self._errors: dict[str, Array] = {}
        self._maps: dict[str, Maps] = {}
        self._next: dict[str, tuple[Array | None, Array | None]] = {}
        for name in self.rest.keys() - self.shared.keys():
            self.activities.speak(name, self.rest[name], self._children[name])

    def tick(self, evidence: Evidence) -> None:
        """All vertices move at once, from the state that stood; what is observed then shows this.

        Raises:
            EvidenceError: another number of rows; an input without a prior that is not shown.
            InferenceError: evidence on a deterministic vertex.
        """
        if evidence is not self.evidence:
            check_shown(self.net, self.samples, evidence)
        self.coming = evidence
        self.activities.tick()
        self.messages.tick()
        self._errors, self._maps, self._next = {}, {}, {}
        self.point = self.view(dict(self.activities.spoken), self._errors, self._maps)
        for name in self._means:
            self.look(name)
        for name in self.net.vertices:
            self.update(name)
        # All have read; now all are replaced.
        listeners = {name: self.point.listeners(name) for name in self._next}
        for name, (activity, message) in self._next.items():
            if activity is not None and name in self.shared:
                self.shared[name] = activity
            elif activity is not None:
                self.activities.speak(name, activity, self._children[name])
            if message is not None:
                self.messages.speak(name, message, listeners[name])
        self.evidence = evidence
        self.time += 1

    def view(self, values: dict[str, Array], errors: dict[str, Array], maps: dict[str, Maps]) -> Linearization:
        """The accessor through which vertices hear their children; errors and maps are filled as parents are seen."""
        return Linearization(self.evidence, values, errors, maps)

    def look(self, name: str) -> None:
        """One vertex sees its parents: what it is expected to be, and how that depends on them."""
        self._means[name], maps = self.net.mean_given(name, self._seen_by(name), self.samples)
        if maps:
            self._maps[name] = maps
        if name in self.evidence.values:
            error = self.evidence.values[name] - self._means[name]
            conditional = self.evidence.conditionals.get(name)
            self._errors[name] = error if conditional is None else conditional.implied(error)

    def update(self, name: str) -> None:
        """One vertex hears its children and puts aside its next activity and message."""
        vertex = self.net.vertices[name]
        if vertex.kind == "constant":
            return
        pulled = self.point.hear(name, self._heard_by(name))
        if vertex.kind == "parameter":
            moves = pulled is not None and name in self.move
            self._next[name] = self.move[name](name, self.shared[name], pulled) if moves else None, pulled  # type: ignore[arg-type]
        else:
            message = self._message(name, pulled)
            self._next[name] = self._activity(name, message), message

    def activity(self, name: str) -> Array:
        """What a vertex shows its children now.  Shape: (samples, *event), or the event of a shared vertex."""
        return self.shared[name] if name in self.shared else self.activities.spoken[name]

    def message(self, name: str) -> Array:
        """λ of a vertex now: zero where it has heard nothing yet."""
        said, vertex = self.messages.spoken.get(name), self.net.vertices[name]
        lead = (self.samples,) if vertex.plated else ()
        return np.zeros((*lead, *vertex.shape), self.net.dtype) if said is None else said

    def _seen_by(self, name: str) -> list[Array]:
        """The values of its parents that have come to a vertex."""
        come = self.activities.heard_by(name)
        parents = self.net.vertices[name].parents
        return [self.shared[p] if p in self.shared else come[p] if p in come else self.rest[p] for p in parents]

    def _heard_by(self, name: str) -> Mapping[str, Array]:
        """The messages of its children that have come to a vertex."""
        come, deaf = self.messages.heard_by(name), self.deaf.get(name)
        return come if deaf is None else {c: come[c] for c in self._children[name] if c not in deaf and c in come}

    def _message(self, name: str, pulled: Array | None) -> Array | None:
        evidence, vertex = self.evidence, self.net.vertices[name]
        if vertex.kind == "likelihood" and name in evidence.values:
            return self.net.label_of(name).score(self._seen_by(name)[0], evidence.values[name])
        if self.point.closed(name):
            return noise_of_observed(self.net, name).solve(self._errors[name])
        old = self.messages.spoken.get(name)
        if pulled is None:
            if old is None and name not in evidence.masks:
                return None
            pulled = np.zeros_like(self._errors[name] if old is None else old)
        if vertex.random and name not in evidence.do:
            eta = self._eta[name]
            pulled = eta * pulled if old is None else (1 - eta) * old + eta * pulled
        if name in evidence.masks:
            pulled = np.where(evidence.masks[name], pulled.dtype.type(0), pulled)
            return evidence.conditionals[name].messages(self._errors[name], pulled)
        return pulled

    def _activity(self, name: str, message: Array | None) -> Array | None:
        coming, vertex = self.coming, self.net.vertices[name]
        if vertex.kind == "likelihood":
            return None
        if name in coming.do:
            return coming.do[name]
        mask = coming.masks.get(name)
        if name in coming.values and mask is None:
            return coming.values[name]
        mean = self._means[name]
        if self.live and vertex.noise is not None and message is not None:
            mean = mean + self.net.noises[vertex.noise].apply(message)
        elif mask is not None:
            mean = mean + coming.conditionals[name].implied(coming.values[name] - mean)
        return mean if mask is None else np.where(mask, coming.values[name], mean)


def _at_rest(net: GaussianBayesNet, samples: int) -> dict[str, Array]:
    """The forward pass where nothing is shown; what is not finite there is at zero."""
    zeros = {n: np.zeros((samples, *v.shape), net.dtype) for n, v in net.vertices.items() if v.needs_data}
    with np.errstate(all="ignore"):
        values, _ = net.evaluate(zeros, samples)
        return {n: v if np.isfinite(v).all() else np.nan_to_num(v, posinf=0, neginf=0) for n, v in values.items()}


def check_shown(net: GaussianBayesNet, samples: int, evidence: Evidence) -> None:
    """Raise EvidenceError or InferenceError where a state of so many rows cannot be shown this."""
    if evidence.samples != samples:
        raise EvidenceError(
            f"got {evidence.samples} rows, expected {samples}: every row is an environment that goes on; give the "
            "same number at every tick, or begin a new stream"
        )
    unshown = [n for n, v in net.vertices.items() if v.needs_data and n not in evidence.do]
    if unshown:
        raise EvidenceError(
            f"input {unshown[0]!r} has no prior and was not given; show it at every tick, or call "
            f"net.set_prior({unshown[0]!r}, mean, cov)"
        )
    for name in evidence.values:
        if net.vertices[name].kind != "likelihood":
            noise_of_observed(net, name)
