"""The free energy of live prediction as a function: of whitened errors, or of the latents themselves.

All latents of a sample form one row, so that the samples are many small problems side by side.  In whitened errors z
(v_i = f_i(v_pa) + R_i z_i, R_i R_iᵀ = Q_i) the gradient is z - Rᵀ pull, and a latent passes on what it hears: it
answers for what it causes below.  In the latents v it is λ_i - pull_i, and a latent sends its own λ_i = Λ_i ε_i:
neighbours are all it needs.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from gbn.errors import InferenceError
from gbn.evidence import Evidence
from gbn.gaussian import LOG_2PI
from gbn.inference.point_estimate import always, clamped_messages, energies
from gbn.linearize import Linearization, Rule

__all__ = ["Errors", "FreeEnergy", "States"]

Array = np.ndarray[Any, Any]


class FreeEnergy:
    """F and its gradient, all latents of a sample in one row.  Values: (N,); gradients: (N, dim).

    ``constant``: what F has beyond these values, ½ log |2πQ| of the latents; kept apart, for it would cost digits.

    Raises:
        InferenceError: random parameters, which couple the samples; evidence on a deterministic vertex.
    """

    def __init__(self, evidence: Evidence) -> None:
        net = evidence.net
        coupled = [name for name in net.parameters if net[name].random and name not in evidence.do]
        if coupled:
            raise InferenceError(f"parameter {coupled[0]!r} is random and couples the samples; use prediction='fixed'")
        self.evidence, self.net = evidence, net
        closed = {name for name in evidence.values if name not in evidence.masks}
        self.names = [n for n in net.latents if n not in closed and n not in evidence.do]
        self.ends = np.cumsum([0, *(net[n].size for n in self.names)])
        self._kept: tuple[Array, Self] | None = None
        logdets = sum(net.noises[str(net[n].noise)].logdet for n in self.names)
        self.constant = 0.5 * (LOG_2PI * int(self.ends[-1]) + logdets)

    def start(self) -> Array:
        """The forward pass."""
        raise NotImplementedError

    def at(self, x: Array) -> Linearization:
        """The net at this row of each sample."""
        raise NotImplementedError

    def energy(self, x: Array) -> tuple[Array, Array]:
        """F and its gradient."""
        point = self.at(x)
        rows, gradient = self.split(x), dict[str, Array]()

        def rule(name: str) -> Rule:
            def move(pulled: Array | None) -> Array | None:
                message, gradient[name] = self.latent(point, name, rows[name], pulled)
                return message

            return move

        clamped = {name: always(message) for name, message in clamped_messages(point).items()}
        point.pull({name: rule(name) for name in self.names} | clamped, self.names)
        for name in self.names:
            if name not in gradient:
                gradient[name] = self.latent(point, name, rows[name], None)[1]
        value = self.latent_energy(point, x)
        for name in self.evidence.values:
            if name not in self.evidence.conditionals:
                value = value + energies(point, point.errors, name)
        return value, self.join(gradient, x)

    def latent(self, point: Linearization, name: str, x: Array, pulled: Array | None) -> tuple[Array | None, Array]:
        """What a latent sends to its parents, and its gradient, from what it hears from its children."""
        raise NotImplementedError

    def latent_energy(self, point: Linearization, x: Array) -> Array:
        """The share of F of the vertices that are not wholly observed, less ``constant``.  Shape: (N,)."""
        raise NotImplementedError

    def part(self, rows: Array) -> Self:
        """The problem of some of the samples; the last part is kept, as it is asked for many times."""
        if len(rows) == self.evidence.samples:
            return self
        if self._kept is None or not np.array_equal(self._kept[0], rows):
            self._kept = rows, type(self)(self.evidence.rows(rows))
        return self._kept[1]

    def split(self, x: Array) -> dict[str, Array]:
        """Rows -> the latents' arrays, (N, *event)."""
        bounds = zip(self.names, self.ends[:-1], self.ends[1:], strict=True)
        return {n: x[:, a:b].reshape(len(x), *self.net[n].shape) for n, a, b in bounds}

    def join(self, arrays: dict[str, Array], x: Array) -> Array:
        """The latents' arrays -> rows like ``x``."""
        return np.concatenate([*(arrays[n].reshape(len(x), -1) for n in self.names), x[:, :0]], axis=1)

    def __call__(self, x: Array, rows: Array) -> tuple[Array, Array]:
        """F and its gradient for some of the samples."""
        return self.part(rows).energy(x)

    @property
    def lines(self) -> int:
        """Lines from children to parents on which messages travel."""
        point = Linearization(self.evidence, {}, {}, {})
        concerned = point.downstream(self.names)
        return sum(len(concerned.intersection(point.listeners(name))) for name in concerned)


class Errors(FreeEnergy):
    """F of whitened errors; in a partly observed vertex, of what its latent entries add to their conditional mean."""

    def start(self) -> Array:
        return np.zeros((self.evidence.samples, self.ends[-1]), self.net.dtype)

    def at(self, x: Array) -> Linearization:
        return Linearization.forward(self.evidence, self.split(x))

    def latent(self, point: Linearization, name: str, x: Array, pulled: Array | None) -> tuple[Array | None, Array]:
        conditional = self.evidence.conditionals.get(name)
        if conditional is None:
            return pulled, x if pulled is None else x - self.whiten(name, pulled)
        pulled = np.zeros_like(x) if pulled is None else pulled
        gradient = np.where(conditional.observed, x.dtype.type(0), x - self.whiten(name, pulled))
        heard = np.where(conditional.observed, 0, pulled).astype(x.dtype)
        return conditional.messages(point.errors[name], heard), gradient

    def whiten(self, name: str, message: Array) -> Array:
        """Rᵀ λ: the whitened error that belongs to a message."""
        conditional = self.evidence.conditionals.get(name)
        if conditional is not None:
            return conditional.root_adjoint(message)
        return self.net.noises[str(self.net[name].noise)].root_adjoint(message)

    def latent_energy(self, point: Linearization, x: Array) -> Array:
        energy = 0.5 * (x * x).sum(axis=1)
        for name, conditional in self.evidence.conditionals.items():
            energy = energy + 0.5 * conditional.energy(point.errors[name])
        return np.asarray(energy)


class States(FreeEnergy):
    """F of the latents themselves: standard predictive coding."""

    def start(self) -> Array:
        values = Linearization.forward(self.evidence).values
        return self.join(values, np.zeros((self.evidence.samples, 0), self.net.dtype))

    def at(self, x: Array) -> Linearization:
        return Linearization.at(self.evidence, self.split(x))

    def latent(self, point: Linearization, name: str, x: Array, pulled: Array | None) -> tuple[Array | None, Array]:
        message = self.net.noises[str(self.net[name].noise)].solve(point.errors[name])
        gradient = message if pulled is None else message - pulled
        mask = self.evidence.masks.get(name)
        return message, gradient if mask is None else np.where(mask, x.dtype.type(0), gradient)

    def latent_energy(self, point: Linearization, x: Array) -> Array:
        energy = np.zeros(len(x), x.dtype)
        for name in self.names:
            error = point.errors[name]
            message = self.net.noises[str(self.net[name].noise)].solve(error)
            energy = energy + 0.5 * (error * message).reshape(len(x), -1).sum(axis=1)
        return energy
