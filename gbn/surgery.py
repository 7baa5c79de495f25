"""Operations on nets: joining two at a vertex.  Each returns a new net and leaves what it is given as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gbn.errors import GraphError
from gbn.net import GaussianBayesNet

__all__ = ["Joined", "join"]

Array = np.ndarray[Any, Any]
Renaming = dict[str, str]


class Joined:
    """Two nets as one.

    net: both; it is no longer bound to the models they came from.
    renamed: for each of the two, its vertices' names -> those in ``net``.
    """

    def __init__(self, net: GaussianBayesNet, renamed: tuple[Renaming, Renaming]) -> None:
        self.net, self.renamed = net, renamed


def join(
    first: GaussianBayesNet,
    second: GaussianBayesNet,
    shared: Mapping[str, str],
    names: tuple[str, str] | None = None,
) -> Joined:
    """One net out of two: vertices of the first are what the second reads as its inputs.

    Args:
        shared: vertex of the first -> input of the second, which is no vertex of its own any more; a prior of it is
            given up.
        names: put before the names of the two, with a dot; None: names stay, which must then be different.

    Raises:
        GraphError: with all that does not fit together.
    """
    before = ("", "") if names is None else (f"{names[0]}.", f"{names[1]}.")
    a = {name: before[0] + name for name in first.vertices}
    b = {name: before[1] + name for name in second.vertices}
    wrong = _misfits(first, second, shared)
    clash = sorted((a.keys() | first.noises.keys()) & ((b.keys() | second.noises.keys()) - set(shared.values())))
    if names is None and clash:
        wrong.append(f"both have {', '.join(map(repr, clash))}; give names=('first', 'second') to tell them apart")
    if names is not None and names[0] == names[1]:
        wrong.append(f"names: got {names[0]!r} twice; expected two")
    if wrong:
        raise GraphError("join: " + "; ".join(wrong))
    b |= {into: a[out] for out, into in shared.items()}
    net = GaussianBayesNet(first.dtype)
    for part, renamed, prefix in ((first, a, before[0]), (second, b, before[1])):
        for name, vertex in part.vertices.items():
            if renamed[name] in net.vertices:
                continue
            net.vertices[renamed[name]] = replace(
                vertex,
                name=renamed[name],
                parents=tuple(renamed[p] for p in vertex.parents),
                noise=None if vertex.noise is None else prefix + vertex.noise,
                source=None,
            )
        kept = {vertex.noise for vertex in net.vertices.values()}
        net.noises |= {prefix + key: noise for key, noise in part.noises.items() if prefix + key in kept}
    outputs = [a[n] for n in first.outputs if n not in shared] + [b[n] for n in second.outputs]
    net.set_outputs(list(dict.fromkeys(outputs)))
    return Joined(net, (a, b))


def _misfits(first: GaussianBayesNet, second: GaussianBayesNet, shared: Mapping[str, str]) -> list[str]:
    wrong = []
    if first.dtype != second.dtype:
        wrong.append(f"one computes in {first.dtype}, the other in {second.dtype}; convert one of the models")
    if not shared:
        wrong.append("nothing is shared; name a vertex of the first and the input of the second that reads it")
    if len(set(shared.values())) < len(shared):
        wrong.append("an input of the second can be one vertex of the first only")
    for out, into in shared.items():
        source, target = first.vertices.get(out), second.vertices.get(into)
        if source is None or not source.plated or source.kind == "likelihood":
            wrong.append(f"{out!r} is no vertex of the first with a value for each sample")
        elif target is None or target.kind != "input":
            wrong.append(f"{into!r} is no input of the second (it has {', '.join(map(repr, second.inputs))})")
        elif source.shape != target.shape:
            wrong.append(f"{out!r} has the shape {source.shape}, but {into!r} has {target.shape}")
    return wrong
