"""The one loop under all iterative engines: stopping, history, callbacks, progress, interruption."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from gbn.errors import ConvergenceWarning, InferenceError

__all__ = ["Finished", "Outcome", "iterate"]

Figures = Mapping[str, float]


class Finished(Exception):
    """Raised by a step that finds nothing left to do: a sentence that says why."""


@dataclass(frozen=True)
class Outcome:
    """How an iteration ended: the figures of each round, whether it arrived, and why it stopped, in a sentence."""

    history: list[dict[str, float]]
    converged: bool
    reason: str

    @property
    def rounds(self) -> int:
        """Rounds made."""
        return len(self.history)


def iterate(
    step: Callable[[int], Figures],
    *,
    label: str,
    max_rounds: int | None,
    tol: float | None,
    remedy: str | Callable[[], str],
    measure: str = "gap",
    stalled: Callable[[], str | None] = lambda: None,
    diverged: Callable[[], str | None] = lambda: None,
    callback: Callable[[int, Figures], Any] | None = None,
    progress: bool | None = None,
    warn: bool = True,
) -> Outcome:
    """Call ``step(round)`` until its figure ``measure`` is at most ``tol``.

    Args:
        step: makes one round and returns its figures; they become the history.  Where there is nothing left to do it
            raises :class:`Finished` with a sentence that says why, and the iteration ends well.
        max_rounds: None: until something else ends it.
        tol: None makes exactly ``max_rounds`` rounds, and having made them counts as arrival.
        remedy: what may help, for the warning; or a function that says it at the end.
        stalled: a sentence when further rounds would be of no use, else None; the iteration ends well there.
        diverged: a sentence when the rounds lead away, else None; the iteration ends there and warns.
        callback: called with the round and its figures; returning True stops the iteration, without a warning: that is
            what was wished for.
        progress: show a bar on stderr (None: only on a terminal).
        warn: whether to warn when the rounds ran out.

    An interrupt (Ctrl-C) ends the iteration and keeps what it has.
    """
    from tqdm import tqdm

    if (max_rounds is not None and max_rounds < 0) or (tol is not None and tol < 0):
        raise InferenceError(f"{label}: got max_rounds={max_rounds}, tol={tol}; expected numbers of at least 0")

    history: list[dict[str, float]] = []

    def outcome(converged: bool, reason: str) -> Outcome:
        if not converged and warn:
            last = history[-1].get(measure, float("nan")) if history else float("nan")
            advice = remedy if isinstance(remedy, str) else remedy()
            warnings.warn(
                f"{label}: {reason}; {measure} is {last:.3g}, aimed at {tol}. {advice}", ConvergenceWarning, 3
            )
        return Outcome(history, converged, reason)

    with tqdm(total=max_rounds, desc=label, leave=False, disable=None if progress is None else not progress) as bar:
        try:
            for number in count(1) if max_rounds is None else range(1, max_rounds + 1):
                try:
                    figures = dict(step(number))
                except Finished as finished:
                    return outcome(True, str(finished))
                history.append(figures)
                bar.update()
                bar.set_postfix({measure: f"{figures.get(measure, float('nan')):.2e}"}, refresh=False)
                if callback is not None and callback(number, figures) is True:
                    return Outcome(history, False, f"stopped by the callback after {number} rounds")
                trouble = diverged()
                if trouble is not None:
                    return outcome(False, trouble)
                if tol is not None and figures[measure] <= tol:
                    return outcome(True, f"{measure} reached {tol} after {number} rounds")
                end = stalled()
                if end is not None:
                    return outcome(True, end)
        except KeyboardInterrupt:
            return outcome(False, f"interrupted after {len(history)} rounds")
    return outcome(tol is None, f"made {max_rounds} rounds")
