"""Method "local": gradient learning from messages.

At a parameter the messages of predictive coding add up to

    -∂F/∂θ = Σ_c J_{c←θ}ᵀ λ_c,

for the weight and bias of x = W u + b the Hebbian Σ_n λ_x uᵀ and Σ_n λ_x: presynaptic value times postsynaptic error.
An optimiser (:mod:`gbn.learning.optimizers`) moves θ along it.  With fixed prediction λ is backprop's error, for any
hidden noise, and learning is backprop's learning.

Zero-divergence learning (Z-IL: Song et al., NeurIPS 2020), where a weight moves in the round in which the error first
reaches it, is ``schedule="parallel", step_size=1, max_rounds=k``, k latents on the longest path: each λ is exact from
the round on that its path takes.  Incremental predictive coding (Salvatori et al., arXiv 2212.00720) moves latents and
weights in every round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import LearningError, UnknownNameError
from gbn.inference.point_estimate import sweep
from gbn.learning.facts import variances
from gbn.learning.messages import Inference, inference_of
from gbn.learning.messages import incremental as rounds
from gbn.learning.numbers import with_noise, with_values
from gbn.learning.optimizers import Optimizer, Slots, read_optimizer
from gbn.learning.scoring import free_energy, log_density
from gbn.linearize import Linearization

if TYPE_CHECKING:
    from gbn.learning.data import Data
    from gbn.learning.numbers import Frozen
    from gbn.learning.row_blocks import Blocks
    from gbn.net import GaussianBayesNet

__all__ = ["Local", "learner"]

Array = np.ndarray[Any, Any]
Figures = dict[str, float]
TAKES_BLOCKS = True
_MEASURED_AT_ONCE = 1024
_MOST_LOG_VARIANCE = 100.0


def learner(
    net: GaussianBayesNet,
    data: Data | Blocks,
    frozen: Frozen,
    rng: np.random.Generator,
    *,
    epochs: int = 10,
    batch_size: int | None = 32,
    shuffle: bool = True,
    optimizer: str | Optimizer = "adam",
    learning_rate: float | None = None,
    momentum: float | None = None,
    nesterov: bool | None = None,
    weight_decay: float | None = None,
    scale: str | float = "mean",
    prediction: str = "fixed",
    schedule: str | None = None,
    solver: str | None = None,
    step_size: float | None = None,
    max_rounds: int | None = None,
    tol: float | None = None,
    incremental: bool = False,
    learn_noise: bool | str | Sequence[str] = False,
    variance_floor: float = 1e-6,
) -> Local:
    """Gradient learning at work on a net.

    The result is the net of the last epoch, or with ``validation`` that of the best one.
    Without it ``patience`` judges by the ``free_energy`` of an epoch, as it went.

    Args:
        epochs: passes over the data.
        batch_size: rows for each step (None: all of them).
        shuffle: whether every epoch takes the rows in a new order.
        optimizer: "sgd", "adam", "adamw", or one of :mod:`gbn.learning.optimizers`, which then has its own numbers.
        learning_rate, momentum, nesterov, weight_decay: of the optimiser of that name; None: its default.
        scale: the gradient is that of F over the rows of a batch, summed ("sum"), their mean by weight ("mean"), or
            so many times the mean.  Of torch's losses with reduction "mean", cross_entropy of one label a row is
            "mean", and mse_loss of outputs with k entries and unit noise is 2 / k.
        prediction: "fixed" (λ from the forward pass, backprop's), or "live" (λ at the equilibrium of F).
        schedule, step_size, max_rounds, tol: of fixed prediction, see :func:`gbn.inference.predictive_coding.solve`;
            left out: one sweep.
        solver, step_size, max_rounds, tol: of live prediction.
        incremental: live prediction in ``max_rounds`` (default 10) gradient rounds of ``step_size`` (default a tenth of
            the smallest variance), and the weights move in every one of them.
        learn_noise: also the noises, by gradients in their log-variances: True for those of what was observed, or
            names of vertices or noises; hidden ones need live prediction, and shrink, for a point has no spread.
        variance_floor: the least variance, relative to the mean variance of what was observed of the noise's vertices
            (where nothing was, to its initial variance).

    Raises:
        LearningError: nothing to learn, nothing observed, or options that cannot be used.
        UnknownNameError: an optimiser or noise that there is not.
        InferenceError: options of predictive coding that do not fit.
    """
    numbers = {"learning_rate": learning_rate, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    chosen = read_optimizer(optimizer, numbers)
    parameters = [n for n in net.parameters if n not in frozen.values]
    noises = _noises_to_learn(net, data, frozen, learn_noise, prediction == "live" or incremental)
    _check(epochs, batch_size, scale, variance_floor, [*parameters, *noises], data)
    options = {"schedule": schedule, "solver": solver, "step_size": step_size, "max_rounds": max_rounds, "tol": tol}
    options = {name: value for name, value in options.items() if value is not None}
    inference = rounds(net, options) if incremental else inference_of(prediction, options, data, rng)
    floors = {name: variance_floor * _observed_variance(net, data, name) for name in noises}
    return Local(
        net, data, rng, inference, chosen, parameters, floors, epochs=epochs, batch_size=batch_size, shuffle=shuffle,
        scale=scale,
    )  # fmt: skip


class Local:
    """The learner: one pass over the data a round; see :class:`gbn.learning.training.Learner`."""

    unit = "epochs"
    measure = "free_energy"
    # Every epoch counts as better than the one before: what a training set says of itself is no judge.
    objective = "steps"
    watched = ("free_energy", -1)
    remedy = "lower learning_rate"

    def __init__(
        self,
        net: GaussianBayesNet,
        data: Data | Blocks,
        rng: np.random.Generator,
        inference: Inference,
        optimizer: Optimizer,
        parameters: Sequence[str],
        floors: Mapping[str, float],
        *,
        epochs: int,
        batch_size: int | None,
        shuffle: bool,
        scale: str | float,
    ) -> None:
        self.net, self.data, self.rng, self.inference, self.rounds = net, data, rng, inference, epochs
        self.optimizer, self.steady = optimizer, replace(optimizer, weight_decay=0.0)  # type: ignore[type-var]
        self.parameters, self.floors, self.scale = list(parameters), dict(floors), scale
        self.batch_size, self.shuffle = batch_size, shuffle
        self.epoch = self.steps = 0
        self.slots: dict[str, dict[str, Slots]] = {
            "values": {n: optimizer.start(_value(net, n)) for n in self.parameters},
            "noises": {n: optimizer.start(np.array(net.noises[n].value)) for n in self.floors},
        }
        self._failure: str | None = None

    def begin(self) -> Figures:
        total = 0.0
        for batch in self.data.batches(_MEASURED_AT_ONCE, self.rng, shuffle=False):
            total += float(batch.counts @ free_energy(Linearization.forward(replace(batch.evidence, net=self.net))))
        return {"free_energy": total / self.data.total, "steps": 0.0}

    def step(self) -> Figures:
        net, total = self.net, 0.0
        for batch in self.data.batches(self.batch_size, self.rng, self.shuffle):
            net, energy = self._batch(net, batch)
            total += energy
            if not math.isfinite(total):
                self._failure = f"the free energy is {energy} in epoch {self.epoch + 1}, step {self.steps}"
                return {"free_energy": total, "steps": math.nan}
        self.net = net
        self.epoch += 1
        # As the epoch went, each batch before its step: no further pass over the data.
        return {"free_energy": total / self.data.total, "steps": float(self.steps)}

    def _batch(self, net: GaussianBayesNet, batch: Data) -> tuple[GaussianBayesNet, float]:
        """The net after the steps of one batch, and F of its rows before the last of them."""
        factor: float | Array = 1.0
        if self.scale != "sum":
            factor = (1.0 if self.scale == "mean" else float(self.scale)) / batch.total
        factor = factor if batch.weights is None else factor * batch.weights
        steps = self.inference(replace(batch.evidence, net=net))
        # What an overflow makes of the numbers is reported by the free energy.
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                point, latent = next(steps)
                while True:
                    energy = float(batch.counts @ free_energy(point))
                    if not math.isfinite(energy):
                        return net, energy
                    slopes = sweep(point, self.parameters, latent, -factor)
                    net = self._move(net, slopes, {n: _noise_slope(point, n, factor) for n in self.floors})
                    point, latent = steps.send(net)
            except StopIteration:
                return net, energy

    def _move(
        self, net: GaussianBayesNet, slopes: Mapping[str, Array], noise_slopes: Mapping[str, Array]
    ) -> GaussianBayesNet:
        """One step of the optimiser along gradients of what is learned."""
        self.steps += 1
        values, kept = {}, self.slots["values"]
        for name, slope in slopes.items():
            values[name], kept[name] = self.optimizer.move(_value(net, name), slope, kept[name], self.steps)
        net = with_values(net, values)
        noises, kept = {}, self.slots["noises"]
        for name, slope in noise_slopes.items():
            now = np.log(net.noises[name].value)
            moved, kept[name] = self.steady.move(now, slope, kept[name], self.steps)
            noises[name] = np.exp(np.clip(moved, math.log(self.floors[name]), _MOST_LOG_VARIANCE))
        return with_noise(net, noises) if noises else net

    def arrived(self) -> str | None:
        return f"made {self.epoch} epochs" if self.epoch >= self.rounds else None

    def failed(self) -> str | None:
        return self._failure

    def score(self, data: Data | Blocks) -> float:
        return log_density(self.net, data)

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "steps": self.steps, "slots": self.slots, "failure": self._failure}

    def restore(self, net: GaussianBayesNet, state: Mapping[str, Any]) -> None:
        self.net, self.epoch, self.steps = net, state["epoch"], state["steps"]
        self.slots = {kind: dict(slots) for kind, slots in state["slots"].items()}
        self._failure = state["failure"]

    def diagnostics(self, best: GaussianBayesNet) -> dict[str, Any]:
        return {
            "optimizer": repr(self.optimizer),
            "steps": self.steps,
            "parameters": tuple(self.parameters),
            "noises": tuple(self.floors),
            "variance_floor": dict(self.floors),
            "at_floor": sorted(
                n for n, floor in self.floors.items() if best.noises[n].value.min() <= floor * (1 + 1e-9)
            ),
        }


def _value(net: GaussianBayesNet, name: str) -> Array:
    value = net.vertices[name].value
    if value is None:
        raise LearningError(f"parameter {name!r} has no value to start from; net.set_value({name!r}, value)")
    return value


def _noise_slope(point: Linearization, noise: str, factor: float | Array) -> Array:
    """∂F/∂ log q = ½ Σ (1 - ε²/q), over the entries of all vertices of a noise.  Shape: () or event."""
    net, q = point.net, point.net.noises[noise]
    total = np.zeros(q.event)
    for name, vertex in net.vertices.items():
        if vertex.noise != noise or not vertex.plated or name in point.evidence.do or name not in point.errors:
            continue
        error = point.errors[name].astype(np.float64)
        # What is missing in part says nothing of its noise.
        known = point.evidence.masks.get(name, np.ones(error.shape, bool))
        share = np.where(known, 0.5 * (1 - error * error / q.value), 0.0)
        total += (
            factor.reshape(-1, *(1,) * len(q.event)) * share if isinstance(factor, np.ndarray) else factor * share
        ).sum(axis=0)
    return total if q.form == "diagonal" else total.sum()


def _noises_to_learn(
    net: GaussianBayesNet, data: Data | Blocks, frozen: Frozen, chosen: bool | str | Sequence[str], live: bool
) -> list[str]:
    """Names of the noises that are asked for.

    Raises:
        UnknownNameError, LearningError: as :func:`learner`.
    """
    observed = {net.vertices[n].noise for n in data.facts.sums if net.vertices[n].noise is not None}
    if isinstance(chosen, bool):
        wanted = [str(n) for n in net.noises if chosen and n in observed and n not in frozen.noises]
    else:
        wanted = []
        for name in [chosen] if isinstance(chosen, str) else chosen:
            vertex = net.vertices.get(name)
            key = name if vertex is None else vertex.noise
            if key not in net.noises:
                raise UnknownNameError("noise in learn_noise", name, net.noises)
            wanted.append(str(key))
    for name in wanted:
        if net.noises[name].form == "full":
            raise LearningError(
                f"learn_noise: {name!r} has a full covariance, and gradients are taken in log-variances; give it a "
                "scalar or diagonal one, or use method='em'"
            )
        if name not in observed and not live:
            raise LearningError(
                f"learn_noise: nothing of {name!r} is observed, and fixed prediction gives hidden vertices no error; "
                "use prediction='live'"
            )
    return list(dict.fromkeys(wanted))


def _observed_variance(net: GaussianBayesNet, data: Data | Blocks, noise: str) -> float:
    """Mean variance of what was observed of a noise's vertices, else its own."""
    found = []
    for name, sums in data.facts.sums.items():
        if net.vertices[name].noise == noise:
            some = sums[:, sums[0] > 0]
            found.append(float(variances(some).mean()) if some.size else 0.0)
    return max(found, default=0.0) or float(net.noises[noise].diagonal().mean())


def _check(
    epochs: int, batch_size: int | None, scale: str | float, floor: float, learned: Sequence[str], data: Data | Blocks
) -> None:
    """Raise LearningError, with all that is wrong."""
    wrong = []
    if epochs < 0:
        wrong.append(f"epochs: got {epochs}, expected a number of at least 0")
    if batch_size is not None and batch_size < 1:
        wrong.append(f"batch_size: got {batch_size}, expected a number of at least 1, or None for all rows")
    if scale not in ("mean", "sum") and (isinstance(scale, str) or not 0 < scale < math.inf):
        wrong.append(f"scale: got {scale!r}, expected 'mean', 'sum', or a finite number above 0")
    if not 0 < floor < math.inf:
        wrong.append(f"variance_floor: got {floor}, expected a finite number above 0")
    if not learned:
        wrong.append("nothing is left to be learned: every parameter is frozen, or there is none; see freeze")
    if not data.facts.sums:
        wrong.append("data: nothing but inputs is given; give what was observed of an output, or of its label")
    if wrong:
        raise LearningError("; ".join(wrong))
