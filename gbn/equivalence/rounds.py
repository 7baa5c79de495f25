"""How many rounds fixed prediction needs: from the graph and the step size, by the binomial law.

A message advances at each latent with the weight of one more round.  After t rounds at step η the gradient is

    λ(t) = Σ_k p_k(t) δ^(k),       p_k(t) = Pr[Binomial(t, η) ≥ k]                    ("parallel")
                                   p_k(t) = Pr[Binomial(t + k - 1, η) ≥ k]            ("sweep": a round passes it on)

δ^(k) being what the paths with exactly k latents bring; Σ_k δ^(k) is backprop's gradient.  The forward and the random
order delay messages at vertices without noise, too, and have no such law.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from gbn.errors import InferenceError, UnknownNameError
from gbn.evidence import Evidence
from gbn.inference.fixed_prediction import SCHEDULES, Channel, Rounds
from gbn.inference.point_estimate import clamped_messages
from gbn.linearize import Linearization, Rule
from gbn.net import GaussianBayesNet

__all__ = [
    "gradient_by_path_length",
    "gradients_by_round",
    "latents_on_paths",
    "predicted_errors",
    "rounds_needed",
]

Array = np.ndarray[Any, Any]
# Trials that a round has beyond one, for each latent after the first: in a sweep all of them move in one round.
_LEADS = {"parallel": 0, "sweep": 1}


def latents_on_paths(net: GaussianBayesNet, observed: Iterable[str] | None = None) -> dict[str, tuple[int, int]]:
    """Parameter -> the least and the most latents on its paths to what is observed.

    A latent is a vertex with noise that is not observed; paths end at observed vertices.  A plain parameter does not
    count itself, one with a prior does.  Parameters from which no path leads there are left out.

    Args:
        observed: names (default: the outputs, or the labels that hang below them).

    Raises:
        UnknownNameError: with near matches.
    """
    ends = _observed(net, observed)
    found: dict[str, tuple[int, int]] = dict.fromkeys(ends, (0, 0))
    children: dict[str, list[str]] = {name: [] for name in net.vertices}
    for name, vertex in net.vertices.items():
        for parent in vertex.parents:
            children[parent].append(name)
    for name in reversed(net.vertices):
        if name not in ends:
            below = [found[child] for child in children[name] if child in found]
            own = int(net[name].random)
            if below:
                found[name] = own + min(least for least, _ in below), own + max(most for _, most in below)
    return {name: found[name] for name in net.parameters if name in found}


def rounds_needed(
    net: GaussianBayesNet,
    step_size: float = 0.1,
    tol: float = 1e-3,
    *,
    observed: Iterable[str] | None = None,
    schedule: str = "parallel",
) -> int:
    """Rounds after which fixed prediction has backprop's gradient to a relative error of ``tol``, from the graph alone.

    The smallest t at which 1 - p_k(t) ≤ tol, k the most latents on any path from a parameter to what is observed.  It
    is exact for the deepest parameter of a layered net, where all its paths have k latents, and enough for all others;
    where paths differ in length, it holds unless what they bring cancels.

    Args:
        step_size: η, above 0 and at most 1.
        tol: above 0 and below 1.
        observed: as in :func:`latents_on_paths`.
        schedule: "parallel" or "sweep".

    Raises:
        InferenceError: numbers out of range; a schedule without a law; nothing to learn from what is observed.
        UnknownNameError: with near matches.
    """
    if not 0 < step_size <= 1 or not 0 < tol < 1:
        raise InferenceError(
            f"got step_size={step_size}, tol={tol}; expected a step above 0 and at most 1, a tolerance between 0 and 1"
        )
    paths = latents_on_paths(net, observed)
    if not paths:
        raise InferenceError("no parameter lies above what is observed; name other vertices in observed=")
    most = max(k for _, k in paths.values())
    high = 1
    while _missing(high, most, step_size, schedule) > tol:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _missing(middle, most, step_size, schedule) > tol else (low, middle)
    return high if most else 0


def gradient_by_path_length(
    net: GaussianBayesNet, evidence: Evidence | Mapping[str, Any], names: Iterable[str] | None = None
) -> dict[str, Array]:
    """δ^(k): what the paths with exactly k latents bring to the gradient ∂F/∂θ, in one sweep.

    Args:
        evidence: inputs and targets, as for a query.
        names: parameters (default: all).

    Returns:
        parameter -> shape (K + 1, *event); its sum over the first axis is backprop's gradient.
    """
    evidence = evidence if isinstance(evidence, Evidence) else Evidence.read(net, evidence)
    names = list(net.parameters) if names is None else list(names)
    point = Linearization.forward(evidence)
    clamped = clamped_messages(point)
    longest = sum(vertex.random for name, vertex in net.vertices.items() if name not in clamped)

    def first(message: Array) -> Rule:
        out = np.zeros((longest + 1, *message.shape), message.dtype)
        out[0] = -message
        return lambda _: out

    def later(pulled: Array | None) -> Array | None:
        return None if pulled is None else np.concatenate([np.zeros_like(pulled[:1]), pulled[:-1]])

    def partly(name: str) -> Rule:
        conditional, error = evidence.conditionals[name], -point.errors[name]

        def send(pulled: Array | None) -> Array:
            shifted = np.zeros((longest + 1, *error.shape), error.dtype) if pulled is None else later(pulled)
            return np.stack(
                [conditional.messages(error if k == 0 else np.zeros_like(error), s) for k, s in enumerate(shifted)]  # type: ignore[arg-type]
            )

        return send

    rules: dict[str, Rule] = {n: later for n, v in net.vertices.items() if v.random and n not in evidence.do}
    rules |= {name: first(message) for name, message in clamped.items()}
    rules |= {name: partly(name) for name in evidence.conditionals}
    found = point.pull(rules, names)
    return {n: found[n] if n in found else np.zeros((longest + 1, *net[n].shape), net.dtype) for n in names}


def predicted_errors(
    net: GaussianBayesNet,
    evidence: Evidence | Mapping[str, Any],
    step_size: float,
    rounds: int,
    *,
    schedule: str = "parallel",
) -> dict[str, Array]:
    """Relative error of each parameter's gradient after 0, 1, ..., ``rounds`` rounds, by the binomial law.

    Returns:
        parameter -> shape (rounds + 1,); parameters whose gradient is zero are left out.

    Raises:
        InferenceError: a schedule without a law.
    """
    out = {}
    for name, parts in gradient_by_path_length(net, evidence).items():
        parts = parts.reshape(len(parts), -1)
        whole = np.linalg.norm(parts.sum(axis=0))
        if whole > 0:
            missing = np.stack([_missing(np.arange(rounds + 1), k, step_size, schedule) for k in range(len(parts))], 1)
            out[name] = np.linalg.norm(missing @ parts, axis=1) / whole
    return out


def gradients_by_round(
    net: GaussianBayesNet,
    evidence: Evidence | Mapping[str, Any],
    rounds: int,
    *,
    schedule: str = "parallel",
    step_size: float | None = None,
    rng: np.random.Generator | int | None = None,
    names: Iterable[str] | None = None,
) -> Iterator[dict[str, Array]]:
    """∂F/∂θ as fixed prediction has it after 0, 1, ..., ``rounds`` rounds: the messages at the parameters, turned.

    Args:
        schedule, step_size, rng: as for engine "pc", of the schedules that lose nothing.
        names: parameters (default: all).

    Yields:
        parameter -> array of its shape.

    Raises:
        InferenceError: an unknown schedule, or one with losses.
    """
    lossless = [name for name, one in SCHEDULES.items() if not one.lossy]
    if schedule not in lossless:
        raise InferenceError(f"schedule: got {schedule!r}, expected one of {', '.join(map(repr, lossless))}")
    evidence = evidence if isinstance(evidence, Evidence) else Evidence.read(net, evidence)
    names = list(net.parameters) if names is None else list(names)
    chosen = SCHEDULES[schedule]
    eta = chosen.step_size if step_size is None else step_size
    state = Rounds(Linearization.forward(evidence), chosen, eta, Channel(), np.random.default_rng(rng))
    for number in range(rounds + 1):
        if number:
            state.step(number)
        messages = state.messages(names)
        yield {n: -messages[n] if n in messages else np.zeros(net[n].shape, net.dtype) for n in names}


def _missing(rounds: Any, latents: int, step_size: float, schedule: str) -> Any:
    """1 - p_k(t): the share of what k latents pass on that has not come yet."""
    from scipy.special import bdtr

    if schedule not in _LEADS:
        raise InferenceError(
            f"schedule: got {schedule!r}, which has no law; expected one of {', '.join(map(repr, _LEADS))}"
        )
    if latents == 0:
        return np.zeros(np.shape(rounds))
    trials = np.asarray(rounds) + _LEADS[schedule] * (latents - 1)
    # Below k trials none has k successes, a case that bdtr does not take.
    known = bdtr(latents - 1, np.maximum(trials, latents), step_size)
    # A sweep that has not been made has brought nothing, whatever the trials.
    return np.where((trials < latents) | (np.asarray(rounds) == 0), 1.0, known)


def _observed(net: GaussianBayesNet, observed: Iterable[str] | None) -> set[str]:
    if observed is None:
        labelled = {net[label].parents[0]: label for label in net.labels}
        return {labelled.get(name, name) for name in net.outputs}
    names = {observed} if isinstance(observed, str) else set(observed)
    for name in names:
        if name not in net.vertices:
            raise UnknownNameError("observed vertex", name, net.vertices)
    return names
