"""A net that learns from a stream, in lockstep: at every tick every vertex, weights among them, moves once.

The environment shows a sample, input and label, for ``period`` ticks and then replaces it, whether the net is done with
it or not.  Activities climb an edge a tick and messages come down an edge a tick (:mod:`gbn.inference.lockstep`); at
each tick a weight hears

    -∂F/∂θ = Σ_c J_{c←θ}ᵀ λ_c,        activities and messages as they stand one tick before,

and its optimiser moves it.  On a chain of L edges from the input to what is observed, a message has come back to the
first weight 2 L ticks after its sample appeared: with a period of 2 L or more, every weight moves by the exact gradient
at least once a sample (:meth:`Stream.delays` says when, for any graph).  At the other ticks, and at all of them where
the period is shorter, activities meet messages of another sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import LearningError
from gbn.evidence import Evidence
from gbn.inference.fixed_prediction import Channel, LossyChannel
from gbn.inference.lockstep import Delays, Lockstep, check_shown, delays
from gbn.inference.loop import Finished, iterate
from gbn.inference.predictive_coding import gradient
from gbn.learning.environment import Environment, Late, shuffled
from gbn.learning.numbers import Frozen, with_values
from gbn.learning.optimizers import Optimizer, Slots, read_optimizer
from gbn.learning.result import FitResult, History
from gbn.learning.scoring import observed_density
from gbn.options import check_arguments
from gbn.surgery import join

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = ["Stream", "shuffled"]

Array = np.ndarray[Any, Any]
Figures = dict[str, float]


@dataclass(frozen=True)
class _Wiring:
    """A net and what is told of its parts.

    optimizers: of every weight that moves.
    eta: step size of every vertex.
    deaf: vertex -> children whose messages it does not hear.
    parts: the nets it is made of, and the names of their vertices in it.
    """

    net: GaussianBayesNet
    optimizers: Mapping[str, Optimizer]
    eta: Mapping[str, float]
    deaf: Mapping[str, frozenset[str]]
    parts: tuple[tuple[GaussianBayesNet, Mapping[str, str]], ...]


class Stream:
    """A net in lockstep with its environment::

        stream = Stream(net, period=8, optimizer="sgd", learning_rate=0.1)
        result = stream.run(samples, ticks=10_000)        # samples: any iterable, of any length
        result.net, result.history.column("accuracy")

    Rows of a sample are environments side by side: each has activities and messages of its own, all share the weights.

    Args:
        net: with plain parameters; it is left as it is.
        period: ticks for which the environment shows a sample.
        lag: ticks by which what is observed, inputs excepted, follows the inputs it belongs to.  Where it is the delay
            of what the label is compared with, predictions always meet the label of their own sample.
        optimizer, learning_rate, momentum, nesterov, weight_decay: how weights move, as in
            :func:`gbn.learning.local.learner`; a step is made at every tick.
        scale: of the gradient over rows: "mean", "sum", or so many times the mean.
        freeze: parameters, or vertices, which stand for their whole CPD, that do not move.
        prediction: "fixed": activities are what they are expected to be; "live": they move with their errors.
        step_size: η, how much of what a latent hears replaces its message in a tick.  Live prediction needs it small
            where hidden noise is large.
        settle: weights rest until their sample has stood for so many ticks (0: they move at every tick).  With
            ``settle`` and ``period`` both at the delay that the net needs, learning is one gradient step a sample.
        drop: probability that an activity or a message is lost on its line; what came last then stands.
        delay: the most ticks by which either is late, beyond the one that every line takes.
        seed: of losses and delays, or a Generator.
        align: measure alignment at every so many ticks (0: never), for a forward pass and a sweep each: the cosine
            between the gradient that weights hear and that of one sweep on the sample that then stood.

    Raises:
        LearningError: options that cannot be used, a net with random parameters, or nothing to learn.
        InferenceError: unusable drop or delay.
        UnknownNameError: an optimiser, or a name in freeze, that there is not.
        ArgumentTypeError: options of other types.
    """

    def __init__(
        self,
        net: GaussianBayesNet,
        *,
        period: int = 1,
        lag: int = 0,
        optimizer: str | Optimizer = "adam",
        learning_rate: float | None = None,
        momentum: float | None = None,
        nesterov: bool | None = None,
        weight_decay: float | None = None,
        scale: str | float = "mean",
        freeze: str | Iterable[str] = (),
        prediction: str = "fixed",
        step_size: float = 1.0,
        settle: int = 0,
        drop: float = 0.0,
        delay: int = 0,
        seed: int | np.random.Generator | None = 0,
        align: int = 0,
    ) -> None:
        check_arguments(Stream.__init__, {k: v for k, v in locals().items() if k not in ("self", "net")})
        numbers: dict[str, Any] = {"learning_rate": learning_rate, "momentum": momentum, "nesterov": nesterov}
        chosen = read_optimizer(optimizer, numbers | {"weight_decay": weight_decay})
        frozen = Frozen.read(net, freeze).values
        random = [n for n in net.parameters if net[n].random]
        if random:
            raise LearningError(f"parameter {random[0]!r} is random; a stream learns plain weights")
        if not 0 < step_size <= 1:
            raise LearningError(f"step_size: got {step_size}, expected a number above 0 and at most 1")
        optimizers = {n: chosen for n in net.parameters if n not in frozen}
        if not optimizers:
            raise LearningError("nothing is left to be learned: every parameter is frozen, or there is none")
        names = {name: name for name in net.vertices}
        eta = dict.fromkeys(net.vertices, float(step_size))
        environment = Environment(period, lag, prediction, scale, settle, drop, delay, align)
        self._begin(_Wiring(net, optimizers, eta, {}, ((net, names),)), environment, np.random.default_rng(seed))

    def _begin(self, wiring: _Wiring, environment: Environment, rng: np.random.Generator) -> None:
        self._wiring, self._environment, self._rng = wiring, environment, rng
        self._late, self._sample = Late(environment.lag), Evidence(wiring.net, 1, {}, {}, {})
        self._lines()
        self.state: Lockstep | None = None
        self.samples = self._shown = self._steps = 0
        self._slots: dict[str, Slots] = {}
        self._heard: dict[str, tuple[Array, Slots | None]] = {}

    def _lines(self) -> tuple[Channel, Channel]:
        """Lines for activities and for messages."""
        drop, delay = self._environment.drop, self._environment.delay
        if not drop and not delay:
            return Channel(), Channel()
        return LossyChannel(drop, delay, self._rng), LossyChannel(drop, delay, self._rng)

    def chain(
        self,
        other: Stream,
        shared: Mapping[str, str],
        *,
        names: tuple[str, str] | None = None,
        feedback: bool = True,
    ) -> Stream:
        """Both nets as one, in lockstep: vertices of the first are what the second reads as its inputs.

        A sample shows what either observes, each by its name in the chain; a label of the first is evidence beside
        what the second tells it.  Each keeps its optimiser and step size; both begin anew, with the weights they have.

        Args:
            shared: vertex of the first -> input of the second.
            names: put before the names of the two, with a dot (see :func:`gbn.surgery.join`).
            feedback: whether messages of the second reach the first through the shared vertices.

        Raises:
            GraphError: nets that do not fit together.
            LearningError: environments that do not.
        """
        one, two = vars(self._environment), vars(other._environment)
        apart = [f"{key} ({one[key]} and {two[key]})" for key in one if one[key] != two[key]]
        if apart:
            raise LearningError(f"the two live in one environment; they differ in {', '.join(apart)}")
        joined = join(self.net, other.net, shared, names)
        a, b = joined.renamed
        deaf: dict[str, frozenset[str]] = {}
        for wiring, renamed in ((self._wiring, a), (other._wiring, b)):
            deaf |= {renamed[n]: frozenset(renamed[c] for c in children) for n, children in wiring.deaf.items()}
        if not feedback:
            for out, into in shared.items():
                readers = {b[n] for n, v in other._wiring.net.vertices.items() if into in v.parents}
                deaf[a[out]] = deaf.get(a[out], frozenset()) | readers
        made: Stream = object.__new__(type(self))
        parts = tuple(
            (net, {old: renamed[new] for old, new in names_.items()})
            for wiring, renamed in ((self._wiring, a), (other._wiring, b))
            for net, names_ in wiring.parts
        )
        optimizers = {a[n]: o for n, o in self._wiring.optimizers.items()}
        optimizers |= {b[n]: o for n, o in other._wiring.optimizers.items()}
        eta = {b[n]: e for n, e in other._wiring.eta.items()} | {a[n]: e for n, e in self._wiring.eta.items()}
        made._begin(_Wiring(joined.net, optimizers, eta, deaf, parts), self._environment, self._rng)
        return made

    @property
    def period(self) -> int:
        """Ticks for which the environment shows a sample."""
        return self._environment.period

    @property
    def time(self) -> int:
        """Ticks made."""
        return 0 if self.state is None else self.state.time

    @property
    def net(self) -> GaussianBayesNet:
        """A copy of the net with the weights as they are now."""
        return self._with(self._wiring.net, {name: name for name in self._wiring.optimizers})

    @property
    def nets(self) -> tuple[GaussianBayesNet, ...]:
        """The nets that were chained, each as it was given but for its weights."""
        moving = self._wiring.optimizers
        return tuple(
            self._with(part, {old: new for old, new in names.items() if new in moving})
            for part, names in self._wiring.parts
        )

    def _with(self, net: GaussianBayesNet, names: Mapping[str, str]) -> GaussianBayesNet:
        state = self.state
        return net.copy() if state is None else with_values(net, {a: state.shared[b] for a, b in names.items()})

    def delays(self, sample: Any) -> Delays:
        """When the signals of a sample arrive, at step size 1 and fixed prediction, and the period that this needs."""
        return delays(Evidence.read(self._wiring.net, sample), self._wiring.deaf, self._environment.lag)

    def tick(self, sample: Any = None) -> Figures:
        """One tick: everything moves once, and the environment then shows a sample.

        Args:
            sample: vertex -> array of shape (rows, *event), NaN where missing, or a DataFrame: the forms of evidence.
                None: the one that is shown already.

        Returns:
            ``surprise`` of what stood there before, in nats a row, given what its parents showed; ``alignment`` where
            it was measured.

        Raises:
            EvidenceError, ShapeError, UnknownNameError: an unusable sample, or one of another number of rows.
        """
        if sample is not None:
            shown = Evidence.read(self._wiring.net, sample)
            check_shown(self._wiring.net, shown.samples if self.state is None else self.state.samples, shown)
            self._sample = shown
        elif self.state is None:
            raise LearningError("tick: nothing is shown yet; give a sample")
        state = self._alive(self._sample.samples)
        before, stood, self._heard = self._shown, state.evidence, {}
        measured = bool(self._environment.align and before and state.time % self._environment.align == 0)
        net = self.net if measured else self._wiring.net
        # What an overflow makes of the numbers is reported by the surprise.
        with np.errstate(over="ignore", invalid="ignore"):
            state.tick(self._late(self._sample))
            surprise = -float(observed_density(state.point).mean())
        moved = {name: slots for name, (_, slots) in self._heard.items() if slots is not None}
        self._slots.update(moved)
        self._steps += bool(moved)
        self._shown = 1 if sample is not None else before + 1
        self.samples += sample is not None
        figures = {"surprise": surprise} if before else {}
        if measured:
            figures["alignment"] = self._alignment(gradient(net, replace(stood, net=net)))
        return figures

    def _alive(self, rows: int) -> Lockstep:
        """The state, which begins with the first sample."""
        if self.state is None:
            wiring = self._wiring
            up, down = self._lines()
            self.state = Lockstep(
                wiring.net,
                rows,
                step_size=wiring.eta,
                live=self._environment.prediction == "live",
                move=dict.fromkeys(wiring.optimizers, self._move),
                activities=up,
                messages=down,
                deaf=wiring.deaf,
            )
            self._slots = {n: o.start(self.state.shared[n]) for n, o in wiring.optimizers.items()}
        return self.state

    def _move(self, name: str, value: Array, pulled: Array) -> Array:
        """The next value of a weight, from what it hears."""
        slope = -self._environment.factor(self.state.samples if self.state else 1) * pulled
        if self._shown < max(self._environment.settle, 1):
            self._heard[name] = slope, None
            return value
        moved, slots = self._wiring.optimizers[name].move(value, slope, self._slots[name], self._steps + 1)
        self._heard[name] = slope, slots
        return moved

    def _alignment(self, exact: Mapping[str, Array]) -> float:
        """The cosine between what all weights hear and their gradients; 0 where one of the two is nothing."""
        heard = {name: slope for name, (slope, _) in self._heard.items()}
        inner = sum(float((heard[n] * exact[n]).sum()) for n in heard)
        norms = [sum(float((g[n] ** 2).sum()) for n in self._wiring.optimizers if n in g) for g in (heard, exact)]
        scale = math.sqrt(norms[0] * norms[1])
        return inner / scale if scale > 0 else 0.0

    def accuracy(self) -> float:
        """The share of the labels that are shown now which the net gives as it stands now; NaN where there is none."""
        if self.state is None:
            return math.nan
        right, total = 0, 0
        for name, value in self.state.evidence.values.items():
            vertex = self._wiring.net.vertices[name]
            if vertex.kind == "likelihood":
                found = self._wiring.net.label_of(name).mean(self.state.activity(vertex.parents[0]))
                hit = (
                    found.argmax(1) == value.argmax(1) if vertex.op == "categorical" else (found > 0.5) == (value > 0.5)
                )
                known = ~np.isnan(value).any(axis=1) if vertex.op == "categorical" else ~np.isnan(value)
                right, total = right + int(hit[known].sum()), total + int(known.sum())
        return right / total if total else math.nan

    def run(
        self,
        source: Iterable[Any],
        ticks: int | None = None,
        *,
        every: int = 1,
        callback: Callable[[int, Mapping[str, float]], Any] | None = None,
        progress: bool | None = None,
    ) -> FitResult:
        """Live through a source of samples, each shown for the period, until it or the ticks end; run again to go on.

        The history has a line for every ``every`` samples: ``tick`` after them; means over their ticks of ``surprise``
        and ``alignment``; and ``accuracy``, how much of each label the net gave when it stood for the last time: of
        short periods, that is the answer to a sample of before.

        Args:
            source: iterable of samples, see :meth:`tick`; it may be endless, and is read one by one.
            ticks: how many to make; the last sample may be cut short.  None: as long as the source goes on.
            callback: called with the line's number and its figures; returning True stops.
            progress: show a bar on stderr (None: on a terminal only).

        An interrupt (Ctrl-C) returns what was learned so far.

        Raises:
            As :meth:`tick`.
        """
        if every < 1 or (ticks is not None and ticks < 0):
            raise LearningError(f"got every={every}, ticks={ticks}; expected a number above 0, and one of at least 0")
        begun, samples, reading = self.time, self.samples, iter(source)
        trouble: list[str] = []

        def step(_: int) -> Figures:
            seen: list[Figures] = []
            while len(seen) < every and (ticks is None or self.time - begun < ticks):
                sample = next(reading, None)
                if sample is None:
                    break
                left = self.period if ticks is None else min(self.period, ticks - (self.time - begun))
                seen.append(self._show(sample, left))
            if not seen:
                shown = self.samples - samples
                raise Finished(
                    f"made {ticks} ticks" if self._at(begun, ticks) else f"the source ended after {shown} samples"
                )
            figures = _means(seen)
            if not math.isfinite(figures.get("surprise", 0.0)):
                trouble.append(
                    f"the surprise is {figures['surprise']} at tick {self.time}; lower learning_rate or step_size"
                )
            return {"tick": float(self.time), **figures}

        outcome = iterate(
            step,
            label="stream",
            max_rounds=None,
            tol=None,
            remedy="",
            measure="surprise",
            diverged=lambda: trouble[0] if trouble else None,
            callback=callback,
            progress=progress,
        )
        history = History([{"round": 0.0, "tick": float(begun)}])
        history += [{"round": float(n), **figures} for n, figures in enumerate(outcome.history, 1)]
        told = {"ticks": self.time - begun, "samples": self.samples - samples, "period": self.period, "nets": self.nets}
        return FitResult(self.net, "stream", history, outcome.converged, outcome.reason, max(len(history) - 1, 0), told)

    def _at(self, begun: int, ticks: int | None) -> bool:
        return ticks is not None and self.time - begun >= ticks

    def _show(self, sample: Any, ticks: int) -> Figures:
        """Show a sample for so many ticks, and say how they went."""
        seen = [self.tick(sample if k == 0 else None) for k in range(ticks)]
        accuracy = self.accuracy()
        return _means(seen) | ({} if math.isnan(accuracy) else {"accuracy": accuracy})


def _means(seen: Sequence[Figures]) -> Figures:
    """The mean of every figure over those that have it."""
    names = dict.fromkeys(name for figures in seen for name in figures)
    return {name: float(np.mean([figures[name] for figures in seen if name in figures])) for name in names}
