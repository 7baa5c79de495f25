"""Iterated posterior linearisation: linearise where the posterior is, infer, and again until both agree.

With moments, nonlinearities are regressed under the posterior marginals of their parents; with Taylor expansions, at
the posterior means, which is Gauss-Newton on the free energy (the iterated extended Kalman smoother, in a chain)::

    (m, V) → linearised net → its posterior (m', V')        the fixed point is the answer

Each sample iterates on its own.  A sample whose steps turn back without shrinking is damped: it oscillates.  Where
derivatives jump (at a kink of max pooling, say) there may be no fixed point: on either side the other one is aimed at.
The point settles at the kink then, under more and more damping, and the iteration says so.  Source:
García-Fernández, Svensson & Särkkä, *Iterated posterior linearization smoother* (IEEE Trans. Automatic Control 62,
2017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gbn.evidence import Evidence
from gbn.inference.loop import Outcome, iterate
from gbn.inference.regression import expanded, forward, regressed, regressions
from gbn.inference.solution import LinearizedPosterior
from gbn.linearize import Linearization

__all__ = ["at_posterior"]

Array = np.ndarray[Any, Any]
Infer = Callable[[Linearization, Sequence[str]], LinearizedPosterior]
State = dict[tuple[str, str], Array]
_BLOW_UP = 1e6
_MOST_DAMPING = 0.9999
# Steps that turn back, damped by more than this, do so where derivatives jump: there is no fixed point.
_KINK_DAMPING = 0.99
# Moves of a round, in prior standard deviations, below which such a point is left as it is.
_KINK_MOVE = 1e-3
# A step that turns back and is longer than this part of the one before tells of an oscillation.
_SHRINKING = 0.5


def at_posterior(
    evidence: Evidence,
    targets: Sequence[str],
    infer: Infer,
    *,
    use_moments: bool,
    damping: float | None = None,
    max_rounds: int = 100,
    tol: float | None = 1e-6,
    callback: Callable[[int, Mapping[str, float]], Any] | None = None,
    progress: bool | None = None,
) -> tuple[Linearization, Outcome, dict[str, Any]]:
    """The net linearised at its own posterior.

    Args:
        infer: the posterior of a linearisation, of which the vertices named will be asked.
        use_moments: regress nonlinearities; else expand them.
        damping: share of the old means and variances that stays, in [0, 1); None: 0, and more for each sample that
            oscillates.

    Returns:
        the linearisation, how the iteration ended, and its figures.
    """
    rounds = _Rounds(evidence, targets, infer, use_moments, damping, tol or 0.0)
    outcome = iterate(
        rounds.step,
        label="posterior linearisation",
        max_rounds=max_rounds,
        tol=tol,
        stalled=rounds.stalled,
        diverged=rounds.trouble,
        remedy=rounds.remedy,
        callback=callback,
        progress=progress,
    )
    figures = {"rounds": outcome.rounds, "damping": float(rounds.kept.max(initial=0))}
    return rounds.point, outcome, figures | {"kinks": int(rounds.at_kinks().sum())}


class _Rounds:
    """The state of the iteration: means of what is held, and with moments variances of the regressed ones' parents.

    scale: prior standard deviations of the means and prior variances, evidence clamped, by which moves are measured.
    """

    def __init__(
        self,
        evidence: Evidence,
        targets: Sequence[str],
        infer: Infer,
        use_moments: bool,
        damping: float | None,
        tol: float,
    ) -> None:
        self.evidence, self.infer, self.tol = evidence, infer, tol
        self.point, variances = forward(evidence) if use_moments else (Linearization.forward(evidence), {})
        relevant = self.point.upstream({*targets, *evidence.values})
        self.parents = {name: parent for name, parent in regressed(evidence).items() if name in variances}
        self.parents = {name: parent for name, parent in self.parents.items() if name in relevant}
        self.untouched = {name: v for name, v in variances.items() if name not in self.parents}
        held = {*evidence.net.latents, *self.parents} & relevant - set(evidence.do)
        self.held = [name for name in evidence.net.vertices if name in held and not self.point.closed(name)]
        self.state: State = {("mean", name): self.point.values[name] for name in self.held}
        self.state |= {("variance", parent): variances[name] for name, parent in self.parents.items()}
        self.scale = {key: self._scale(key, variances) for key in self.state}
        self.adaptive = damping is None
        self.kept = np.full(evidence.samples, damping or 0.0)
        self.step_before: Array | None = None
        self.gaps = np.full(evidence.samples, np.inf)
        self.least = np.inf

    def _scale(self, key: tuple[str, str], variances: Mapping[str, Array]) -> Array:
        kind, name = key
        if kind == "variance":
            return self.state[key]
        noise, shape = self.evidence.net.noise(name), self.point.values[name].shape
        total = np.zeros(shape) if noise is None else np.broadcast_to(noise.diagonal(), shape)
        if name in self.parents:
            slope = self.point.map(name, 0).push(np.ones_like(self.point.values[self.parents[name]]))  # type: ignore[union-attr]
            total = total + self.point.spread[name] + slope.astype(np.float64) ** 2 * variances[name]
        return np.sqrt(total)

    def step(self, _round: int) -> Mapping[str, float]:
        """Infer at the present point, and move there."""
        asked = list(dict.fromkeys([*self.held, *self.parents.values()]))
        solution = self.infer(self.point, asked)
        found: State = {("mean", name): solution.mean(name) for name in self.held}
        for parent in dict.fromkeys(self.parents.values()):
            found["variance", parent] = solution.variance(parent).astype(np.float64)
        step = self._measured(found)
        self.gaps = np.abs(step).max(axis=1, initial=0)
        self._damp(step)
        for key, value in found.items():
            share = self.kept.reshape(-1, *(1,) * (value.ndim - 1)).astype(value.dtype)
            self.state[key] = share * self.state[key] + (1 - share) * value
        self.point = self._linearized()
        gap = float(self.gaps.max(initial=0))
        self.least = min(self.least, gap)
        return {"gap": gap, "damping": float(self.kept.max(initial=0))}

    def _measured(self, found: State) -> Array:
        """The move to a new state, entry by entry, in units of the prior.  Shape: (samples, entries)."""
        rows = [np.zeros((self.evidence.samples, 0))]
        for key, value in found.items():
            scale = self.scale[key]
            move = (value - self.state[key]) / np.where(scale > 0, scale, 1)
            rows.append(np.where(scale > 0, move, 0).reshape(len(move), -1))
        return np.concatenate(rows, axis=1)

    def _damp(self, step: Array) -> None:
        if self.adaptive and self.step_before is not None:
            back = (step * self.step_before).sum(axis=1) < 0
            long = np.linalg.norm(step, axis=1) > _SHRINKING * np.linalg.norm(self.step_before, axis=1)
            self.kept = np.where(back & long, np.minimum((1 + self.kept) / 2, _MOST_DAMPING), self.kept)
        self.step_before = step

    def _linearized(self) -> Linearization:
        held = {name: self.state["mean", name] for name in self.held}
        variances = {name: self.state["variance", parent] for name, parent in self.parents.items()}
        return Linearization.at(self.evidence, held, regressions(self.evidence, variances | self.untouched))

    def stalled(self) -> str | None:
        """Whether what still moves does so by rounding."""
        if self.gaps.max(initial=0) <= self._resolution():
            return "the means move by no more than rounding"
        return None

    def _resolution(self) -> float:
        largest = 1.0
        for key, value in self.state.items():
            scale = self.scale[key]
            ratio = np.abs(value) / np.where(scale > 0, scale, np.inf)
            largest = max(largest, float(ratio.max(initial=0)))
        return 16 * float(np.finfo(self.evidence.net.dtype).eps) * largest

    def trouble(self) -> str | None:
        """Whether the means run away, or all that still move are at kinks."""
        gap = float(self.gaps.max(initial=0))
        if not (np.isfinite(gap) and gap <= _BLOW_UP * max(self.least, 1.0)):
            return f"the means move by {gap:.3g} prior standard deviations a round and run away"
        moving = self.gaps > self.tol
        if not moving.any() or not self.at_kinks()[moving].all():
            return None
        names = [n for n in expanded(self.evidence, self.parents) if self.evidence.net[n].kind == "op"]
        jumping = ", ".join(f"{n!r} ({self.evidence.net[n].op})" for n in names) or "the nonlinearities"
        return f"{moving.sum()} of {len(moving)} samples are at kinks, where the derivatives of {jumping} jump"

    def at_kinks(self) -> Array:
        """Samples whose steps turn back however short they are.  Shape: (samples,)."""
        settled = (1 - self.kept) * self.gaps <= _KINK_MOVE
        return settled & (self.kept > _KINK_DAMPING) & self.adaptive

    def remedy(self) -> str:
        """What may help, as things stand."""
        if self.at_kinks().any():
            return (
                "The net is linearised on one side of the kink; for the most probable values ask engine='pc' with "
                "prediction='live', or use smooth ops (average pooling)."
            )
        return (
            "Raise max_rounds, give damping=0.5, raise the noise of the hidden vertices, or use "
            "operating_point='equilibrium'."
        )
