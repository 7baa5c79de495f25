"""Options that speak of vertices, parameters and noises by name, and what they make of the noises to begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import LearningError, ShapeError, UnknownNameError
from gbn.learning.facts import variances
from gbn.learning.numbers import Frozen, with_noise

if TYPE_CHECKING:
    from gbn.learning.facts import Facts
    from gbn.learning.maximisation import Priors
    from gbn.learning.regressions import Family
    from gbn.net import GaussianBayesNet

__all__ = ["NamedOptions", "at_floor", "floors"]

Array = np.ndarray[Any, Any]


class NamedOptions:
    """Options by name of a vertex, parameter or noise, checked."""

    def __init__(self, net: GaussianBayesNet, families: Sequence[Family], frozen: Frozen) -> None:
        self.net, self.frozen = net, frozen
        self.learned = {p for f in families for p in f.learned if f.mean is not None}
        self.noises = {f.noise for f in families} - frozen.noises

    def parameter(self, name: str, option: str) -> str:
        """The name of a learned parameter, as it is."""
        if name not in self.learned:
            raise UnknownNameError(f"learned parameter in {option}", name, self.learned)
        return name

    def noise(self, name: str, option: str) -> str:
        """The noise of that name, or of the vertex of that name."""
        vertex = self.net.vertices.get(name)
        key = name if vertex is None else vertex.noise
        if key not in self.net.noises:
            raise UnknownNameError(f"noise in {option}", name, self.net.noises)
        return str(key)

    def ridge(self, given: float | Mapping[str, float]) -> dict[str, float]:
        """By parameter; a number is for all weights, biases excepted."""
        if isinstance(given, Mapping):
            found = {self.parameter(name, "ridge"): float(alpha) for name, alpha in given.items()}
        else:
            # A bias is what enters the constant alone: a vector, added.
            found = {n: float(given) for n in self.learned if given and len(self.net.vertices[n].shape) > 1}
        if any(not alpha >= 0 or not np.isfinite(alpha) for alpha in found.values()):
            raise LearningError(f"ridge: got {given}, expected finite numbers of at least 0")
        return found

    def masks(self, given: Mapping[str, Any]) -> dict[str, Array]:
        """By parameter, where not all of it is learned."""
        out = {}
        for name, mask in given.items():
            shape, array = self.net.vertices[self.parameter(name, "mask")].shape, np.asarray(mask)
            if array.shape != shape or array.dtype != bool:
                raise ShapeError(f"mask of {name!r}: got {array.dtype} of {array.shape}, expected booleans of {shape}")
            if not array.all():
                out[name] = array
        return out

    def fixed(self, given: bool | Sequence[str]) -> frozenset[str]:
        """The noises that are not learned."""
        if isinstance(given, bool):
            chosen = set(self.net.noises) if given else set()
        else:
            chosen = {self.noise(n, "fixed_noise") for n in ([given] if isinstance(given, str) else given)}
        return frozenset(chosen | self.frozen.noises)

    def noise_prior(self, given: Any) -> dict[str, tuple[float, float]]:
        """By noise: how many rows the prior counts for, and their variance."""
        if given is None:
            return {}
        by_name = given if isinstance(given, Mapping) else dict.fromkeys(self.noises, given)
        out = {}
        for name, pair in by_name.items():
            count, variance = map(float, pair)
            if not (count >= 0 and variance > 0 and np.isfinite(count + variance)):
                raise LearningError(
                    f"noise_prior of {name!r}: got {pair}, expected (count of at least 0, variance > 0)"
                )
            out[self.noise(name, "noise_prior")] = (count, variance)
        return out


def floors(net: GaussianBayesNet, facts: Facts, families: Sequence[Family], relative: float) -> dict[str, float]:
    """The least variance of each noise: ``relative`` times the mean variance of what was observed of its vertices."""
    sums: dict[str, Array] = {}
    for family in families:
        for vertex, _ in family.members:
            if vertex in facts.sums:
                sums[family.noise] = sums.get(family.noise, 0) + facts.sums[vertex]
    out = {}
    for noise in {f.noise for f in families}:
        scale = 0.0
        if noise in sums:
            scale = float(variances(sums[noise]).mean())
        out[noise] = relative * (scale or float(net.noises[noise].diagonal().mean()))
    return out


def at_floor(net: GaussianBayesNet, priors: Priors) -> GaussianBayesNet:
    """The net where EM may begin: what is below its floor is lifted to it, for from outside EM need not climb."""
    lifted = {}
    for name, floor in priors.floor.items():
        noise = net.noises[name]
        if name in priors.fixed:
            continue
        if noise.form != "full":
            low, value = noise.value.min() < floor, np.maximum(noise.value, floor)
        else:
            values, vectors = np.linalg.eigh(noise.value)
            low, value = values[0] < floor, (vectors * np.maximum(values, floor)) @ vectors.T
        if low:
            lifted[name] = value
    return with_noise(net, lifted) if lifted else net
