"""Posteriors of weights as files: one file without pickles, of which nothing is believed before it is checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import FileFormatError
from gbn.io.archive import DAMAGED, Refusal
from gbn.learning.assumed import posterior_net
from gbn.learning.blocks import Blocks
from gbn.learning.checkpoint import read_tree, save_state
from gbn.learning.precisions import Gamma, Known, Precision, Wishart, packed, unpacked
from gbn.learning.weights_posterior import WeightPosterior

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = ["load", "save"]

Array = np.ndarray[Any, Any]
FORMAT = "gbn.posterior"
_REMEDY = "the file is truncated, damaged or no posterior: save it again with posterior.save(path)"


def save(post: WeightPosterior, path: str | os.PathLike[str]) -> None:
    """Write a posterior to one file, which appears whole or not at all.

    The net is not in it: save that too, with net.save.

    Raises:
        OSError: the file cannot be written; what was there before is still there.
    """
    state = {
        "elbo": float(post.elbo),
        "values": {name: np.asarray(value, np.float64) for name, value in post.values.items()},
        "where": {name: np.asarray(where, np.int64) for name, where in post.where.items()},
        "label": np.asarray(post.blocks.label, np.int64),
        "theta": post.theta,
        "precision": post.precision,
        "keys": list(post.keys),
        "owner": np.asarray(post.owner, np.int64),
        "row": np.asarray(post.row, np.int64),
        "noises": {key: packed(noise) for key, noise in post.noises.items()},
        "relevance": {name: list(pair) for name, pair in post.relevance.items()},
    }
    save_state(path, state, FORMAT)


def load(path: str | os.PathLike[str], net: GaussianBayesNet) -> WeightPosterior:
    """Read a posterior that :func:`save` wrote.  Nothing in the file is executed.

    Args:
        net: of which it is the posterior: the one that was fitted, or the fit's result.

    Raises:
        FileFormatError: damaged, inconsistent, or of another net.
        OSError: there is no such file, or it cannot be read.
    """
    state = read_tree(path, FORMAT, "posterior", _REMEDY)
    try:
        return _built(state, net)
    except Refusal as refusal:
        told = str(refusal).replace(DAMAGED, _REMEDY)
        raise FileFormatError(f"{os.fspath(path)}: {told}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, np.linalg.LinAlgError) as error:
        reason = f"{type(error).__name__}: {error}"[:300].rstrip(": ")
        raise FileFormatError(f"{os.fspath(path)}: got {reason}, expected a posterior; {_REMEDY}") from error


def _built(state: Mapping[str, Any], net: GaussianBayesNet) -> WeightPosterior:
    values, where, label, theta = state["values"], state["where"], state["label"], state["theta"]
    _demand(set(values) == set(where), "values and numbers of other parameters", "the same ones")
    for name, value in values.items():
        known = name in net and net[name].kind in ("parameter", "input")
        if not known or net[name].shape != value.shape:
            got = f"of shape {value.shape}" if known else "that this net does not have"
            raise Refusal(f"a parameter {name!r:.80} {got}", "the posterior of this net", "give the net it is of")
    entries = len(theta)
    _demand(theta.dtype == np.float64 and theta.ndim == 1, "other means", "a vector of numbers")
    numbers = np.concatenate([np.zeros(0, int), *(w[w >= 0] for w in where.values())])
    _demand(np.array_equal(np.sort(numbers), np.arange(entries)), "entries counted otherwise", "each once")
    _demand(all(w.shape == (values[n].size,) for n, w in where.items()), "entries of other shapes", "those of values")
    count = int(label.max(initial=-1)) + 1
    _demand(label.shape == (entries,) and (label >= 0).all() and count <= entries, "other blocks", "one for each entry")
    # Sizes are compared before anything of that size is made.
    length = int((np.bincount(label, minlength=count).astype(np.int64) ** 2).sum())
    precision, owner, row = state["precision"], state["owner"], state["row"]
    _demand(precision.shape == (length,), f"{precision.shape} precisions", f"{length}")
    blocks = _blocks(label)
    keys, noises = tuple(state["keys"]), {key: _noise(key, held, net) for key, held in state["noises"].items()}
    _demand(set(keys) == set(noises), "noises that are not described", "a description of each")
    _demand(owner.shape == row.shape == (blocks.count,), "other owners", "one for each block")
    _demand(
        (owner >= -1).all() and (owner < len(keys)).all() and (row >= 0).all(), "other owners", "noises of the list"
    )
    _demand(
        all(r < noises[keys[o]].size for o, r in zip(owner, row, strict=True) if o >= 0), "other rows", "those there"
    )
    relevance = {name: (pair[0], pair[1]) for name, pair in state["relevance"].items()}
    for name, (shape, rate) in relevance.items():
        _demand(name in values and shape.shape == rate.shape, "other relevances", "two numbers for each column")
        _demand(bool((shape > 0).all() and (rate > 0).all()), "relevances that are none", "positive numbers")
    finite = all(np.isfinite(a).all() for a in (theta, precision, *values.values()))
    _demand(finite, "NaN or infinity", "finite numbers")
    post = WeightPosterior(
        posterior_net(net, values, noises), float(state["elbo"]), values, where, blocks, theta, precision, keys, owner,
        row, noises, relevance,
    )  # fmt: skip
    _ = post.covariance
    return post


def _blocks(label: Array) -> Blocks:
    """The blocks of that partition; refuses labels that do not number them in order."""
    order = np.argsort(label, kind="stable")
    same = label[order[1:]] == label[order[:-1]]
    blocks = Blocks(len(label), [(order[:-1][same], order[1:][same])])
    _demand(np.array_equal(blocks.label, label), "blocks in another order", "the order in which they are made")
    return blocks


def _noise(key: str, held: Mapping[str, Any], net: GaussianBayesNet) -> Precision:
    if key not in net.noises:
        raise Refusal(f"a noise {key!r:.80} that this net does not have", "the posterior of this net", "give its net")
    noise, size, form = unpacked(held), net.noises[key].size, net.noises[key].form
    if isinstance(noise, Wishart):
        right = noise.scatter.shape == (size, size) and form == "full" and noise.dof > size - 1
        _demand(right and np.isfinite(noise.scatter).all(), f"the noise {key!r:.80} of other shape", "a Wishart")
        np.linalg.cholesky(noise.scatter)
    elif isinstance(noise, Gamma):
        count = 1 if form == "scalar" else size
        right = noise.entries == size and form != "full" and noise.shape.shape == noise.rate.shape == (count,)
        numbers = np.concatenate([noise.shape.reshape(-1), noise.rate.reshape(-1)])
        right = right and bool((numbers > 0).all() and np.isfinite(numbers).all())
        _demand(right, f"the noise {key!r:.80} of other shape", "positive numbers, one for each precision")
    elif isinstance(noise, Known):
        right = noise.form == form and noise.precision.shape == ((size, size) if form == "full" else (size,))
        _demand(right and np.isfinite(noise.precision).all(), f"the noise {key!r:.80} of other shape", "its precision")
        _demand(bool((noise.diagonal > 0).all()), f"the noise {key!r:.80} with other signs", "positive precisions")
    return noise


def _demand(right: bool | np.bool_, got: str, expected: str) -> None:
    if not right:
        raise Refusal(got, expected)
