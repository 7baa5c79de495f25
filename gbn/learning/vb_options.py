"""The options of variational Bayes by name of a vertex, parameter or noise, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import LearningError
from gbn.learning.named_options import NamedOptions, floors
from gbn.learning.numbers import Frozen

if TYPE_CHECKING:
    from gbn.learning.data import Data
    from gbn.learning.regressions import Family
    from gbn.net import GaussianBayesNet

__all__ = ["check", "noise_rates", "precisions", "relevant", "roots_kept", "without_priors"]

Array = np.ndarray[Any, Any]


def without_priors(net: GaussianBayesNet) -> tuple[GaussianBayesNet, dict[str, Any]]:
    """The net with plain parameters, and the priors that some had."""
    centred = {}
    for name in net.parameters:
        noise = net.noise(name)
        if noise is not None:
            centred[name] = np.asarray(net[name].value, np.float64), noise
    out = net.copy()
    if centred:
        out.set_noise(dict.fromkeys(centred))
    return out, centred


def roots_kept(net: GaussianBayesNet, data: Data, frozen: Frozen) -> Frozen:
    """What is frozen, and the priors of roots of which nothing is observed."""
    seen = {*data.evidence.values, *data.evidence.do}
    roots = {n for n in net.inputs if net[n].random and n not in seen}
    others = {v.noise for n, v in net.vertices.items() if n not in roots}
    return Frozen(frozen.values | roots, frozen.noises | ({str(net[n].noise) for n in roots} - others))


def precisions(
    options: NamedOptions, families: Sequence[Family], given: float | Mapping[str, float]
) -> dict[str, float]:
    """κ by learned parameter, or input whose prior mean is learned."""
    learned = dict.fromkeys(p for f in families for p in f.learned)
    by_name = given if isinstance(given, Mapping) else dict.fromkeys(learned, given)
    found = dict.fromkeys(learned, 1e-3)
    found |= {(n if n in learned else options.parameter(n, "weight_precision")): float(k) for n, k in by_name.items()}
    if any(not (k > 0 and np.isfinite(k)) for k in found.values()):
        raise LearningError(f"weight_precision: got {given}, expected finite numbers above 0")
    return found


def noise_rates(
    options: NamedOptions, net: GaussianBayesNet, data: Data, families: Sequence[Family], shape: float, given: Any
) -> dict[str, float]:
    """The rate of each noise's Gamma prior."""
    found = floors(net, data.facts, families, shape)
    if given is not None:
        by_name = given if isinstance(given, Mapping) else dict.fromkeys(found, given)
        found |= {options.noise(n, "noise_rate"): float(rate) for n, rate in by_name.items()}
    if any(not (rate > 0 and np.isfinite(rate)) for rate in found.values()):
        raise LearningError(f"noise_rate: got {given}, expected finite numbers above 0")
    return found


def relevant(
    options: NamedOptions, net: GaussianBayesNet, given: bool | Sequence[str], centred: Mapping[str, Any]
) -> list[str]:
    """Parameters with relevance precisions."""
    if isinstance(given, bool):
        matrices = [n for n in net.parameters if n in options.learned and len(net[n].shape) > 1]
        return [n for n in matrices if n not in centred] if given else []
    names = [options.parameter(n, "ard") for n in ([given] if isinstance(given, str) else given)]
    both = [n for n in names if n in centred]
    if both:
        raise LearningError(f"ard: {both[0]!r} has a prior of its own; take it away, or leave {both[0]!r} out of ard")
    return names


def check(max_iter: int, tol: float | None, noise_shape: float, ard_shape: float, ard_rate: float) -> None:
    """Raise LearningError, with all that is wrong."""
    wrong = [
        f"{name}: got {value}, expected a number of at least 0"
        for name, value in (("max_iter", max_iter), ("tol", tol or 0))
        if not value >= 0
    ]
    wrong += [
        f"{name}: got {value}, expected a finite number above 0"
        for name, value in (("noise_shape", noise_shape), ("ard_shape", ard_shape), ("ard_rate", ard_rate))
        if not (value > 0 and np.isfinite(value))
    ]
    if wrong:
        raise LearningError("; ".join(wrong))
