"""Learning: one method a module, behind one ``fit``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import UnknownNameError
from gbn.learning.checkpoint import fingerprint
from gbn.learning.data import Data
from gbn.learning.numbers import Frozen
from gbn.learning.result import FitResult, History
from gbn.learning.training import Learner, Manners, train

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = ["METHODS", "Data", "FitResult", "Frozen", "History", "Learner", "fit", "learner"]

_WHEN_TO_STOP = ("max_iter", "epochs", "tol")
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


def _defaults(make: Callable[..., Learner]) -> dict[str, Any]:
    """The options of a method, with their defaults."""
    return {p.name: p.default for p in signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY}


def check_options(method: str, options: Mapping[str, Any]) -> None:
    """Raise UnknownNameError at an option that the method does not have."""
    known = _defaults(learner(method))
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of method {method!r}", option, known)


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
        EvidenceError, ShapeError: unusable data, naming the vertex.
        LearningError: the method cannot learn this net.
        FileFormatError: the checkpoint is damaged, or of another fit.
    """
    make = learner(method)
    check_options(method, options)
    net = net.copy()
    rows, frozen = Data.read(net, data, weights), Frozen.read(net, freeze)
    held = None if validation is None else Data.read(net, validation)
    rng = np.random.default_rng(seed)
    manners = Manners(held, patience, callback, checkpoint, checkpoint_every, progress)
    mark = ""
    if checkpoint is not None:
        # How long to go on is not part of what a fit is: a checkpoint may be taken further.
        decisive = {k: v for k, v in (_defaults(make) | options).items() if k not in _WHEN_TO_STOP}
        decisive |= {"validation": None if held is None else fingerprint(net, held, {}), "method": method}
        decisive |= {"freeze": sorted(frozen.values | frozen.noises), "rng": rng.bit_generator.state}
        mark = fingerprint(net, rows, decisive)
    return train(lambda generator: make(net, rows, frozen, generator, **options), method, manners, rng, mark)
