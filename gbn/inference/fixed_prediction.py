"""Rounds of fixed prediction: single-vertex updates in several orders, over lines that may lose or delay messages.

Predictions and Jacobians stay at the forward pass (Millidge, Tschantz & Buckley, arXiv 2006.04182).  With errors ε as
state and v_i ← v_i + η Q_i (-λ_i + pull_i), the covariance cancels and the state is λ itself::

    λ_i ← λ_i + η (pull_i - λ_i),       pull_i = Σ_{c ∈ ch(i)} J_{c←i}ᵀ λ_c

A deterministic vertex passes on what it hears.  λ of a vertex depends on its descendants alone, so every order of
updates, and every pattern of losses and bounded delays that lets each line through again and again, ends at the same
fixed point: backprop's recursion (asynchronous iteration: Bertsekas & Tsitsiklis, *Parallel and Distributed
Computation*, section 6.2).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbn.errors import InferenceError
from gbn.inference.point_estimate import FixedPoint, clamped_messages, sweep
from gbn.linearize import Linearization

__all__ = ["SCHEDULES", "Channel", "LossyChannel", "Rounds", "Schedule"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Schedule:
    """When vertices move.

    order: from all vertices in topological order, those of one round in the order of their updates.
    step_size: η unless told otherwise.
    together: latents speak from their state before the round, as if all moved at once.
    lossy: lines lose and delay messages.
    random: the order, or a loss, is drawn.
    remedy: what helps when the rounds run out.
    """

    order: Callable[[Sequence[str], np.random.Generator], Sequence[str]]
    step_size: float = 1.0
    together: bool = False
    lossy: bool = False
    random: bool = False
    remedy: str = "Raise max_rounds or step_size, or use schedule='sweep'."


def _backward(names: Sequence[str], _: np.random.Generator) -> Sequence[str]:
    return names[::-1]


def _forward(names: Sequence[str], _: np.random.Generator) -> Sequence[str]:
    return names


def _shuffled(names: Sequence[str], rng: np.random.Generator) -> Sequence[str]:
    return [names[k] for k in rng.permutation(len(names))]


SCHEDULES = {
    "sweep": Schedule(_backward),
    "parallel": Schedule(_backward, step_size=0.1, together=True),
    "random": Schedule(_shuffled, random=True),
    "forward": Schedule(_forward),
    "asynchronous": Schedule(
        _shuffled, lossy=True, random=True, remedy="Raise max_rounds or step_size, or lower drop or delay."
    ),
}


class Channel:
    """What each vertex said last; everyone hears it at once.

    spoken: vertex -> its last message λ.
    sent, dropped: messages so far, one for each line from a child to a parent and each time it speaks.
    """

    def __init__(self) -> None:
        self.spoken: dict[str, Array] = {}
        self.sent = self.dropped = 0

    def speak(self, name: str, message: Array, listeners: Sequence[str]) -> None:
        """Send a message to every listener."""
        self.spoken[name] = message
        self.sent += len(listeners)

    def heard_by(self, name: str) -> Mapping[str, Array]:
        """Child -> the last message of it that has come to this vertex."""
        return self.spoken

    def tick(self) -> None:
        """A round begins."""


class LossyChannel(Channel):
    """Lines that lose each message with probability ``drop`` and deliver it up to ``delay`` rounds late.

    Delays are uniform on 0..delay; what arrives after a younger message is ignored.

    Raises:
        InferenceError: no probability below 1, or no number of rounds.
    """

    def __init__(self, drop: float, delay: int, rng: np.random.Generator) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise InferenceError(f"drop: got {drop}, expected a probability below 1")
        if isinstance(delay, bool) or not isinstance(delay, int | np.integer) or delay < 0:
            raise InferenceError(f"delay: got {delay!r}, expected a whole number of rounds, 0 or more")
        self._drop, self._delay, self._rng = drop, delay, rng
        self._now = 0
        self._inbox: dict[str, dict[str, Array]] = defaultdict(dict)
        self._stamps: dict[tuple[str, str], int] = {}
        self._under_way: dict[int, list[tuple[int, str, str, Array]]] = defaultdict(list)

    def speak(self, name: str, message: Array, listeners: Sequence[str]) -> None:
        super().speak(name, message, listeners)
        for listener in listeners:
            if self._rng.random() < self._drop:
                self.dropped += 1
            else:
                late = int(self._rng.integers(self._delay + 1))
                self._under_way[self._now + late].append((self._now, listener, name, message))
        self._deliver()

    def heard_by(self, name: str) -> Mapping[str, Array]:
        return self._inbox[name]

    def tick(self) -> None:
        self._now += 1
        self._deliver()

    def _deliver(self) -> None:
        for stamp, listener, name, message in self._under_way.pop(self._now, ()):
            if stamp >= self._stamps.get((listener, name), -1):
                self._stamps[listener, name] = stamp
                self._inbox[listener][name] = message


class Rounds:
    """The state λ of the latents, moved vertex by vertex.

    Args:
        point: the forward pass.
        schedule: one of :data:`SCHEDULES`.
        eta: step size.
        channel: how messages travel.
        rng: for random orders.
        wanted: vertices that hear their children in each round (default: those on the way to the latents).
    """

    def __init__(
        self,
        point: Linearization,
        schedule: Schedule,
        eta: float,
        channel: Channel,
        rng: np.random.Generator,
        wanted: Iterable[str] | None = None,
    ) -> None:
        self.point, self.channel, self.passes = point, channel, 1
        self._schedule, self._eta, self._rng = schedule, eta, rng
        net, evidence = point.net, point.evidence
        self.latents = {n for n, v in net.vertices.items() if v.random and n not in evidence.do and not point.closed(n)}
        self.clamped: Mapping[str, Array] = clamped_messages(point)
        self._on_the_way = point.downstream(self.latents)
        concerned = self._on_the_way if wanted is None else point.downstream(wanted)
        self.visited = [n for n in net.vertices if n in concerned and (n in self.clamped or not point.closed(n))]
        self._listeners = {n: [p for p in point.listeners(n) if p in concerned] for n in self.visited}
        self.state: dict[str, Array] = {}
        self._aside: dict[str, Array] = {}
        self._gap = self._scale = 0.0
        # What is observed is known before the first round, and said.
        for name in self.visited:
            if name in self.clamped or name in evidence.conditionals:
                self._speak(name, self.clamped.get(name))

    def step(self, _round: int) -> Mapping[str, float]:
        """One round, and its figures.

        gap: how far λ was from its fixed-point equation before it, relative to the largest message.
        free_energy: of the errors Q λ after it, in nats, mean over samples (of all together, where random parameters
            couple them).
        """
        self._gap = self._scale = 0.0
        self.passes += 1
        self.channel.tick()
        for name in self._schedule.order(self.visited, self._rng):
            self.update(name)
        self.state.update(self._aside)
        return {
            "gap": self._gap / self._scale if self._scale > 0 else 0.0,
            "free_energy": float(np.mean(FixedPoint(self.point, self._present()).free_energy())),
            "passes": self.passes,
            "messages": self.channel.sent,
            "dropped": self.channel.dropped,
        }

    def update(self, name: str) -> None:
        """One vertex hears its children, moves, and speaks to its parents."""
        if name in self.clamped:
            self._speak(name, self.clamped[name])
            return
        pulled = self._pulled(name, self.channel.heard_by(name))
        old = self.state.get(name) if name in self.latents else self.channel.spoken.get(name)
        self._measure(name, pulled, old)
        if name not in self.latents:
            self._speak(name, pulled)
            return
        if pulled is not None:
            moved = self._eta * pulled if old is None else old + self._eta * (pulled - old)
            (self._aside if self._schedule.together else self.state)[name] = moved
        self._speak(name, self.state.get(name))

    def messages(self, wanted: Iterable[str]) -> dict[str, Array]:
        """λ from the present state: latents keep it, all others hear them at once."""
        self.passes += 1
        return sweep(self.point, wanted, {name: self.state.get(name) for name in self.latents})

    def _pulled(self, name: str, heard: Mapping[str, Array]) -> Array | None:
        """What a vertex hears, on its latent entries."""
        pulled, mask = self.point.hear(name, heard), self.point.evidence.masks.get(name)
        return pulled if pulled is None or mask is None else np.where(mask, pulled.dtype.type(0), pulled)

    def _measure(self, name: str, pulled: Array | None, old: Array | None) -> None:
        """The gap is judged by what the children said, whether it has arrived or not."""
        if name not in self._on_the_way:
            return
        if self._schedule.lossy:
            pulled = self._pulled(name, self.channel.spoken)
        if pulled is not None:
            change = pulled if old is None else pulled - old
            self._gap = max(self._gap, float(np.abs(change).max(initial=0)))
            self._scale = max(self._scale, float(np.abs(pulled).max(initial=0)))

    def _speak(self, name: str, message: Array | None) -> None:
        if name in self.point.evidence.conditionals:
            message = self._partly(name)
        if message is not None:
            self.channel.speak(name, message, self._listeners[name])

    def _partly(self, name: str) -> Array:
        """λ of a partly observed vertex, from the state of its latent entries."""
        error = self.point.errors[name]
        state = self.state.get(name)
        return self.point.evidence.conditionals[name].messages(error, np.zeros_like(error) if state is None else state)

    def _present(self) -> dict[str, Array]:
        return {**self.state, **{name: self._partly(name) for name in self.point.evidence.conditionals}}
