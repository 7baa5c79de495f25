"""The one loop of learning: rounds, the best so far, early stopping, interruption, and checkpoints."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gbn.errors import ConvergenceWarning, GbnError, LearningError
from gbn.inference.loop import iterate
from gbn.learning.checkpoint import load_state, save_state
from gbn.learning.numbers import numbers, with_numbers
from gbn.learning.result import FitResult, History

if TYPE_CHECKING:
    from gbn.learning.data import Data
    from gbn.net import GaussianBayesNet

__all__ = ["Learner", "Manners", "train"]

Figures = Mapping[str, float]


class Learner(Protocol):
    """A method of learning, at work on one net: what the loop asks of it.

    A learner is made by ``learner(net, data, frozen, rng, **options)`` of its module; all chance comes from ``rng``,
    whose state the loop keeps in the checkpoints.

    net: with the numbers learned so far; a round replaces it when it is done, and never changes it in place.
    rounds: how many rounds to make at most.
    unit: what a round is, for messages: "iterations", "epochs".
    objective: the figure of which more is better; the best round is judged by it, or by held-out data.
    measure: the figure that the progress bar shows.
    remedy: what to do when the rounds ran out.
    """

    net: GaussianBayesNet
    rounds: int
    unit: str
    objective: str
    measure: str
    remedy: str

    def begin(self) -> dict[str, float]:
        """The figures of the net as it is, before any round."""

    def step(self) -> dict[str, float]:
        """Make one round and return its figures, those of the net after it."""

    def arrived(self) -> str | None:
        """A sentence when further rounds would be of no use, else None."""

    def failed(self) -> str | None:
        """A sentence when the rounds lead away, else None."""

    def score(self, data: Data) -> float:
        """How well the net explains other rows: more is better, per unit of weight, in nats where it can be."""

    def state(self) -> dict[str, Any]:
        """Whatever the next round depends on besides the net and the generator, as a checkpoint can hold it."""

    def restore(self, net: GaussianBayesNet, state: Mapping[str, Any]) -> None:
        """Go on from a net and a state of before."""

    def diagnostics(self, best: GaussianBayesNet) -> dict[str, Any]:
        """What is to be said of the result, with the net of the best round."""


@dataclass(frozen=True)
class Manners:
    """How a fit behaves, whatever its method.

    validation: held-out rows; the best round is then the one that explains them best.
    patience: rounds without a better one after which to stop; None: no such limit.
    callback: called with the round and its figures; returning True stops the fit.
    checkpoint: a file kept up to date after every ``every`` rounds; where it exists, the fit goes on from there.
    progress: show a bar on stderr (None: on a terminal only).
    """

    validation: Data | None = None
    patience: int | None = None
    callback: Callable[[int, Figures], Any] | None = None
    checkpoint: str | os.PathLike[str] | None = None
    every: int = 1
    progress: bool | None = None

    def __post_init__(self) -> None:
        for name, value in (("patience", self.patience), ("checkpoint_every", self.every)):
            if value is not None and value < 1:
                raise LearningError(f"{name}: got {value}, expected a number of at least 1")


class _Broken(Exception):
    """A round, after others, that could not be made; says why."""


class _Run:
    """The state of the loop."""

    def __init__(self, learner: Learner, manners: Manners, rng: np.random.Generator, mark: str) -> None:
        self.learner, self.manners, self.rng, self.mark = learner, manners, rng, mark
        self.history = History()
        self.best, self.best_round, self.best_value = learner.net, 0, -math.inf
        self.written = -1

    @property
    def round(self) -> int:
        """Rounds made."""
        return len(self.history) - 1

    def record(self, figures: Figures) -> None:
        number, held = len(self.history), self.manners.validation
        known = {"round": float(number), **{key: float(value) for key, value in figures.items()}}
        if held is not None:
            known["validation"] = self.learner.score(held)
        value = known["validation" if held is not None else self.learner.objective]
        # First, so that an interrupt in between leaves no best round that the history lacks.
        self.history.append(known)
        if value > self.best_value or not number or math.isnan(self.best_value):
            self.best, self.best_round, self.best_value = self.learner.net, number, value

    def step(self, _: int) -> Figures:
        try:
            self.record(self.learner.step())
        except GbnError as error:
            if not self.round:
                raise
            raise _Broken(f"no further than {self.round} {self.learner.unit}: {error}") from error
        if self.round % self.manners.every == 0:
            self.write()
        return self.history[-1]

    def write(self) -> None:
        if self.manners.checkpoint is None or self.written == self.round:
            return
        other = None if self.best is self.learner.net else numbers(self.best)
        state = {
            "fingerprint": self.mark,
            "numbers": numbers(self.learner.net),
            "learner": self.learner.state(),
            "rng": self.rng.bit_generator.state,
            "history": list(self.history),
            "best": {"round": self.best_round, "value": self.best_value, "numbers": other},
        }
        save_state(self.manners.checkpoint, state)
        self.written = self.round

    def resume(self) -> bool:
        """Go on from the checkpoint; False where there is none."""
        path = self.manners.checkpoint
        state = None if path is None else load_state(path, self.mark)
        if state is None:
            return False
        original, best = self.learner.net, state["best"]
        net = with_numbers(original, state["numbers"])
        self.rng.bit_generator.state = state["rng"]
        self.history = History(state["history"])
        self.best = net if best["numbers"] is None else with_numbers(original, best["numbers"])
        self.best_round, self.best_value = best["round"], best["value"]
        self.learner.restore(net, state["learner"])
        self.written = self.round
        return True

    def ended(self) -> str | None:
        """A sentence when there is nothing left to do."""
        sentence, patience = self.learner.arrived(), self.manners.patience
        if sentence is None and patience is not None and self.round - self.best_round >= patience:
            figure = self.learner.objective if self.manners.validation is None else "validation"
            sentence = f"{figure} has not risen for {patience} {self.learner.unit}"
        return sentence


def train(
    make: Callable[[np.random.Generator], Learner],
    method: str,
    manners: Manners,
    rng: np.random.Generator,
    mark: str,
) -> FitResult:
    """Learn until the learner arrives, patience ends, the rounds run out, or someone interrupts.

    An interrupt (Ctrl-C) returns the best so far, and so does an error of the method after the first round.  With a
    checkpoint, a fit that was stopped at any moment, by whatever means, goes on from the last round that was written,
    and gives bit for bit what it would have given.

    Args:
        make: makes the learner with its generator.
        mark: the fingerprint of net, data and options.

    Raises:
        FileFormatError: the checkpoint is damaged, or of another fit.
    """
    learner = make(rng)
    run = _Run(learner, manners, rng, mark)
    label = f"fit ({method})"
    try:
        if not run.resume():
            run.record(learner.begin())
            run.write()
    except KeyboardInterrupt:
        return _result(run, method, False, "interrupted before the first round")
    start, trouble = run.round, learner.failed()
    end = run.ended()
    interrupted = cut_short = False
    outcome = None
    if end is None and trouble is None and learner.rounds > start:
        try:
            outcome = iterate(
                run.step,
                label=label,
                max_rounds=learner.rounds - start,
                tol=None,
                remedy=learner.remedy,
                measure=learner.measure,
                stalled=run.ended,
                diverged=learner.failed,
                callback=None if manners.callback is None else lambda _, figures: manners.callback(run.round, figures),  # type: ignore[misc]
                progress=manners.progress,
                warn=False,
            )
            interrupted = outcome.reason.startswith(("interrupted", "stopped by the callback"))
            cut_short, end, trouble = outcome.reason.startswith("interrupted"), run.ended(), learner.failed()
        except _Broken as broken:
            cut_short, trouble = True, str(broken)
    # What was done since the last checkpoint is kept, too, unless a round was cut short in the middle.
    if not cut_short:
        with suppress(KeyboardInterrupt):
            run.write()
    converged, reason = _verdict(run, end, trouble, outcome.reason if outcome is not None and interrupted else None)
    if not converged and not interrupted:
        _warn(run, label, reason)
    return _result(run, method, converged, reason)


def _verdict(run: _Run, end: str | None, trouble: str | None, stopped: str | None) -> tuple[bool, str]:
    if trouble is not None:
        return False, trouble
    if stopped is not None:
        by = "by the callback " if "callback" in stopped else ""
        return False, f"{'stopped ' + by if by else 'interrupted '}after {run.round} {run.learner.unit}"
    if end is not None:
        return True, end
    return False, f"made {run.round} {run.learner.unit}"


def _warn(run: _Run, label: str, reason: str) -> None:
    measure = run.learner.measure
    last = run.history[-1].get(measure, math.nan)
    warnings.warn(f"{label}: {reason}; {measure} is {last:.3g}. {run.learner.remedy}", ConvergenceWarning, 4)


def _result(run: _Run, method: str, converged: bool, reason: str) -> FitResult:
    try:
        diagnostics = run.learner.diagnostics(run.best)
    except KeyboardInterrupt:
        diagnostics = {"interrupted": "before the diagnostics were found"}
    return FitResult(run.best, method, run.history, converged, reason, run.best_round, diagnostics)
