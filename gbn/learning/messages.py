"""How gradient learning infers what latents do in a batch: fixed, live and incremental prediction.

Each kind gives the points at which parameters are to move, one after the other, and is sent the net that was learned
there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import ConvergenceWarning, LearningError
from gbn.evidence import Evidence
from gbn.inference import predictive_coding
from gbn.inference.fixed_prediction import SCHEDULES
from gbn.inference.live_prediction import States
from gbn.linearize import Linearization

if TYPE_CHECKING:
    from gbn.learning.data import Data
    from gbn.net import GaussianBayesNet

__all__ = ["Found", "Inference", "incremental", "inference_of"]

Array = np.ndarray[Any, Any]
# A point, and what latents send there (None: what they hear).
Found = tuple[Linearization, Mapping[str, Array] | None]
Inference = Callable[[Evidence], Generator[Found, "GaussianBayesNet", None]]
_INCREMENTAL_ROUNDS = 10


@contextmanager
def _quiet() -> Iterator[None]:
    """So many batches need not each say that their rounds ran out: learning goes on with what they reached."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def inference_of(prediction: str, options: Mapping[str, Any], data: Data, rng: np.random.Generator) -> Inference:
    """Messages of fixed or live prediction, one step a batch.

    Raises:
        InferenceError: options that do not fit.
    """

    def one_sweep(evidence: Evidence) -> Generator[Found, GaussianBayesNet, None]:
        yield Linearization.forward(evidence), None

    def rounds(evidence: Evidence) -> Generator[Found, GaussianBayesNet, None]:
        drawn = rng if SCHEDULES[options.get("schedule", "sweep")].random else None
        with _quiet():
            post = predictive_coding.solve(evidence.net, evidence, (), rng=drawn, **options, progress=False)
        point = Linearization.forward(evidence)
        moving = [n for n in evidence.net.latents if not point.closed(n) and n not in evidence.do]
        yield point, {name: post.messages[name] for name in moving}

    def live(evidence: Evidence) -> Generator[Found, GaussianBayesNet, None]:
        with _quiet():
            point, _, _ = predictive_coding.equilibrium(evidence, **options, progress=False)
        yield point, None

    # One row first, so that what cannot be is said before learning begins.
    row = data.rows(np.zeros(1, int)).evidence
    with _quiet():
        predictive_coding.solve(row.net, row, (), prediction=prediction, **options, progress=False)
    if prediction == "live":
        return live
    return rounds if options else one_sweep


def incremental(net: GaussianBayesNet, options: Mapping[str, Any]) -> Inference:
    """Gradient rounds on the latents, with a step of the weights in each.

    Raises:
        LearningError: options that do not fit.
    """
    foreign = [name for name in options if name not in ("step_size", "max_rounds")]
    if foreign:
        raise LearningError(f"{' and '.join(foreign)}: incremental learning takes step_size and max_rounds alone")
    size = options.get("step_size", 0.1 * min((float(q.diagonal().min()) for q in net.noises.values()), default=1.0))
    count = options.get("max_rounds", _INCREMENTAL_ROUNDS)
    if not 0 < size < math.inf:
        raise LearningError(f"step_size: got {size}, expected a finite number above 0")
    if count < 1:
        raise LearningError(f"max_rounds: got {count}, expected a number of at least 1")

    def rounds(evidence: Evidence) -> Generator[Found, GaussianBayesNet, None]:
        x = States(evidence).start()
        for _ in range(count):
            problem = States(evidence)
            x = x - size * problem.energy(x)[1]
            point = problem.at(x)
            noises = evidence.net.noises
            latent = {n: noises[str(evidence.net[n].noise)].solve(point.errors[n]) for n in problem.names}
            evidence = replace(evidence, net=(yield point, latent))

    return rounds
