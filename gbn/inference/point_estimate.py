"""Point estimates of the latents: what observed vertices send, and the energies and answers at a point."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gbn.errors import InferenceError
from gbn.gaussian import LOG_2PI, Covariance
from gbn.linearize import Linearization, Rule
from gbn.net import GaussianBayesNet

__all__ = [
    "FixedPoint",
    "LivePoint",
    "PointEstimate",
    "always",
    "clamped_messages",
    "energies",
    "noise_of_observed",
    "sweep",
]

Array = np.ndarray[Any, Any]


def always(message: Array | None) -> Rule:
    """The rule of a vertex that sends the same whatever it hears."""
    return lambda _: message


def noise_of_observed(net: GaussianBayesNet, name: str) -> Covariance:
    """Q of an observed vertex, no label.

    Raises:
        InferenceError: it is deterministic.
    """
    noise = net.noise(name)
    if noise is None:
        raise InferenceError(
            f"evidence on {name!r}, a deterministic vertex: predictive coding would need infinite precision; "
            f"give it noise with net.set_noise({{{name!r}: cov}}), or use engine='exact'"
        )
    return noise


def clamped_messages(point: Linearization) -> dict[str, Array]:
    """λ of wholly observed vertices: Λ ε, or the score of a label.

    Raises:
        InferenceError: evidence on a deterministic vertex.
    """
    net, clamped = point.net, {}
    for name, value in point.evidence.values.items():
        vertex = net[name]
        if vertex.kind == "likelihood":
            clamped[name] = net.label_of(name).score(point.values[vertex.parents[0]], value)
            continue
        noise = noise_of_observed(net, name)
        if point.closed(name):
            clamped[name] = noise.solve(point.errors[name])
    return clamped


def sweep(
    point: Linearization,
    wanted: Iterable[str],
    latent: Mapping[str, Array | None] | None = None,
    sign: float | Array = 1,
) -> dict[str, Array]:
    """λ of one reverse pass from what is observed.

    Args:
        wanted: vertices whose messages are asked for.
        latent: what latents send (on their latent entries) instead of what they hear; left out: they pass it on, which
            is backprop's recursion, the fixed point of fixed prediction.
        sign: -1 gives -λ; messages are linear in what is sent, so it is turned there, where arrays are small.  Any
            other factor serves, too, also one for each row, shape (samples,).
    """
    latent = latent or {}
    rules = {name: always(None if message is None else _times(sign, message)) for name, message in latent.items()}
    rules |= {name: always(_times(sign, message)) for name, message in clamped_messages(point).items()}
    rules |= {name: _partly(point, name, rules.get(name), sign) for name in point.evidence.conditionals}
    return point.pull(rules, wanted)


def _times(factor: float | Array, message: Array) -> Array:
    """Factors of all rows, or of each."""
    if isinstance(factor, np.ndarray):
        return factor.astype(message.dtype).reshape(-1, *(1,) * (message.ndim - 1)) * message
    return factor * message


def _partly(point: Linearization, name: str, latent: Rule | None, sign: float | Array) -> Rule:
    """The rule of a partly observed vertex, given that of its latent entries."""
    error, conditional = _times(sign, point.errors[name]), point.evidence.conditionals[name]

    def send(pulled: Array | None) -> Array | None:
        message = pulled if latent is None else latent(pulled)
        return conditional.messages(error, np.zeros_like(error) if message is None else message)

    return send


def energies(point: Linearization, errors: Mapping[str, Array], name: str) -> Array:
    """A vertex's share of F: ½ (εᵀ Λ ε + log |2πQ|), or -log p of a label.  Shape: (samples,); () when shared."""
    net, evidence = point.net, point.evidence
    vertex = net[name]
    if vertex.kind == "likelihood":
        if name not in evidence.values:
            return np.zeros(evidence.samples, net.dtype)
        return -net.label_of(name).log_prob(point.values[vertex.parents[0]], evidence.values[name])
    noise = net.noise(name)
    lead = (evidence.samples,) if vertex.plated else ()
    if noise is None or name in evidence.do:
        return np.zeros(lead, net.dtype)
    constant = 0.5 * (noise.logdet + vertex.size * LOG_2PI)
    if name not in errors:
        return np.full(lead, constant, net.dtype)
    error = errors[name]
    return 0.5 * (error * noise.solve(error)).reshape(*lead, -1).sum(axis=-1) + constant


class PointEstimate:
    """A point as a Solution: means, messages and energies, no variances."""

    point: Linearization
    errors: Mapping[str, Array]

    def mean(self, name: str) -> Array:
        raise NotImplementedError

    def messages(self) -> Mapping[str, Array]:
        raise NotImplementedError

    def _refuse(self, what: str) -> InferenceError:
        return InferenceError(
            f"predictive coding gives point estimates, no {what}; "
            "use engine='exact' (with operating_point='equilibrium' for the Laplace approximation at this point)"
        )

    def variance(self, name: str) -> Array:
        raise self._refuse("variances")

    def covariance(self, a: str, b: str) -> Array:
        raise self._refuse("covariances")

    def sample(self, n: int, rng: np.random.Generator, names: Sequence[str]) -> dict[str, Array]:
        raise self._refuse("samples")

    def log_evidence(self) -> Array:
        raise self._refuse("log-evidence")

    def surprise(self, name: str) -> Array:
        return energies(self.point, self.errors, name)

    def free_energy(self) -> Array:
        net = self.point.net
        noisy = [name for name, vertex in net.vertices.items() if vertex.random or vertex.kind == "likelihood"]
        parts = [self.surprise(name) for name in noisy]
        plated = sum((part for part in parts if part.ndim), np.zeros(self.point.evidence.samples, net.dtype))
        shared = [part for part in parts if not part.ndim]
        return plated.sum() + sum(shared) if shared else plated


class FixedPoint(PointEstimate):
    """Fixed prediction: v_i = f_i + Q_i λ_i at random vertices, the forward pass elsewhere."""

    def __init__(self, point: Linearization, messages: Mapping[str, Array]) -> None:
        self.point, self._heard = point, messages
        net, evidence = self.point.net, self.point.evidence
        self.errors = {
            name: self.point.errors[name] if self.point.closed(name) else net.noise(name).apply(messages[name])  # type: ignore[union-attr]
            for name, vertex in net.vertices.items()
            if vertex.random and name not in evidence.do and (name in messages or self.point.closed(name))
        }

    def messages(self) -> Mapping[str, Array]:
        return self.point.everywhere(self._heard)

    def mean(self, name: str) -> Array:
        point = self.point
        if point.net[name].kind == "likelihood":
            return _label_mean(point, name)
        if name not in self.errors or point.closed(name):
            return point.values[name]
        moved = point.values[name] - point.errors.get(name, 0) + self.errors[name]
        mask = point.evidence.masks.get(name)
        return moved if mask is None else np.where(mask, point.evidence.values[name], moved)


class LivePoint(PointEstimate):
    """Live prediction: the values of the point itself, and λ by one sweep there."""

    def __init__(self, point: Linearization) -> None:
        self.point, self.errors = point, point.errors
        self._messages: Mapping[str, Array] | None = None

    def messages(self) -> Mapping[str, Array]:
        if self._messages is None:
            self._messages = self.point.everywhere(sweep(self.point, self.point.net.vertices))
        return self._messages

    def mean(self, name: str) -> Array:
        return _label_mean(self.point, name) if self.point.net[name].kind == "likelihood" else self.point.values[name]


def _label_mean(point: Linearization, name: str) -> Array:
    net = point.net
    probabilities = net.label_of(name).mean(point.values[net[name].parents[0]])
    known = point.evidence.values.get(name)
    return probabilities if known is None else np.where(np.isnan(known), probabilities, known)
