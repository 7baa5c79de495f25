"""Learning: one method a module, behind one ``fit``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import LearningError, UnknownNameError
from gbn.learning.checkpoint import fingerprint
from gbn.learning.data import Data
from gbn.learning.numbers import Frozen
from gbn.learning.result import FitResult, History
from gbn.learning.training import Learner, Manners, train
from gbn.options import check_arguments, check_options, options_of

if TYPE_CHECKING:
    from gbn.learning.weights_posterior import WeightPosterior
    from gbn.net import GaussianBayesNet

__all__ = ["METHODS", "Data", "FitResult", "Frozen", "History", "Learner", "fit", "learner", "load_posterior"]

METHODS = {
    "em": "gbn.learning.em",
    "local": "gbn.learning.local",
    "vb": "gbn.learning.vb",
}


def learner(method: str) -> Callable[..., Learner]:
    """The method of that name: a function of net, data, what is frozen, a generator, and options.

    Raises:
        UnknownNameError: there is no such method.
    """
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    make: Callable[..., Learner] = import_module(METHODS[method]).learner
    return make


def load_posterior(path: str | os.PathLike[str], net: GaussianBayesNet) -> WeightPosterior:
    """The posterior of weights that ``result.posterior.save(path)`` wrote, for the net it is of.

    Raises:
        FileFormatError: damaged, or of another net.
        OSError: it cannot be read.
    """
    from gbn.learning.posterior_file import load

    return load(path, net)


def _decisive(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that make a fit what it is: all but how long it goes on, for a checkpoint may be taken further."""
    free = {"epochs"}
    # Messages stop by tol of method "local"; where there are further starts, the end of one begins the next.
    if method != "local" and not options.get("restarts"):
        free |= {"max_iter", "tol"}
    return {name: value for name, value in options.items() if name not in free}


def fit(
    net: GaussianBayesNet,
    data: Any,
    method: str = "em",
    *,
    weights: Any = None,
    freeze: str | Iterable[str] = (),
    validation: Any = None,
    patience: int | None = None,
    seed: int | np.random.Generator | None = 0,
    callback: Callable[[int, Mapping[str, float]], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    progress: bool | None = None,
    **options: Any,
) -> FitResult:
    """Learn the parameters and noises of a net from data; the net itself is unchanged.

    Args:
        data: vertex -> array of shape (samples, *event), NaN where missing, or a pandas DataFrame: the forms of
            evidence, see :func:`gbn.inference.query`.
        method: "em" (expectation maximisation, :mod:`gbn.learning.em`; with ``batch_size`` stepwise, and then for
            nonlinear nets, too), "local" (gradients from local messages, :mod:`gbn.learning.local`) or "vb"
            (variational Bayes: posteriors of weights and noises, :mod:`gbn.learning.vb`).
        weights: how often each row counts, shape (samples,); None: once each.
        freeze: parameters and noises to leave alone, or vertices, which stand for their whole CPD.
        validation: held-out data, in the same forms: the result is then the round that explains them best.
        patience: stop after so many rounds without a better one.
        seed: of all chance, or a Generator.
        callback: called with the round and its figures; returning True stops the fit.
        checkpoint: a file that keeps the state of the fit; where it exists, the fit goes on from there, and gives what
            it would have given without a stop.
        checkpoint_every: rounds between two writings of it.
        progress: show a bar on stderr (None: on a terminal only).
        options: of the method.

    Returns:
        the fitted copy as ``.net``, with ``.history``, ``.converged``, ``.reason`` and ``.diagnostics``.

    Raises:
        UnknownNameError: unknown method, option, vertex or column, with near matches.
        ArgumentTypeError: arguments or options of other types.
        EvidenceError, ShapeError: unusable data, naming the vertex.
        LearningError: the method cannot learn this net.
        FileFormatError: the checkpoint is damaged, or of another fit.
        OSError: the checkpoint cannot be read or written; what was written before stays.
    """
    make = learner(method)
    manner = {"freeze": freeze, "patience": patience, "seed": seed, "callback": callback, "progress": progress}
    check_arguments(fit, manner | {"checkpoint": checkpoint, "checkpoint_every": checkpoint_every})
    check_options(make, options, f"method {method!r}")
    net = net.copy()
    rows, frozen = Data.read(net, data, weights), Frozen.read(net, freeze)
    held = None if validation is None else Data.read(net, validation)
    if held is not None and not held.evidence.values:
        raise LearningError("validation: nothing is observed in it; give held-out values of what is to be explained")
    if isinstance(seed, Integral) and seed < 0:
        raise LearningError(f"seed: got {seed}, expected a whole number of at least 0, or None")
    rng = np.random.default_rng(seed)
    manners = Manners(held, patience, callback, checkpoint, checkpoint_every, progress)
    mark = ""
    if checkpoint is not None:
        decisive = _decisive(method, options_of(make) | options)
        decisive |= {"validation": None if held is None else fingerprint(net, held, {}), "method": method}
        # Chance that nobody chose is that of the checkpoint.
        start = None if seed is None else rng.bit_generator.state
        decisive |= {"freeze": sorted(frozen.values | frozen.noises), "rng": start}
        mark = fingerprint(net, rows, decisive)
    return train(lambda generator: make(net, rows, frozen, generator, **options), method, manners, rng, mark)
