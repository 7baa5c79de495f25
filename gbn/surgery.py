"""Operations on nets: joining two at a vertex, and lesions.  Each returns a new net and leaves those it is given.

A lesion is a mask between a vertex and those that read it: what is lost stays in place, with its value, but nobody
hears it, and no message comes back to it.  So every engine and every way of learning meets the same damage, lost
weights do not grow back, and :func:`restore` takes the masks away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gbn.errors import GraphError, ShapeError
from gbn.net import GaussianBayesNet
from gbn.vertex import Vertex

__all__ = ["Joined", "between_halves", "join", "lesion", "restore"]

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


def lesion(
    net: GaussianBayesNet,
    lost: Mapping[str | tuple[str, str], Any],
    rng: np.random.Generator | int | None = 0,
) -> GaussianBayesNet:
    """A damaged copy of a net.

    Args:
        lost: what is no more: units of a vertex (nobody hears them), entries of a weight, or by (parent, child) what
            one child hears of a parent.  Each is True (all of it), a share from 0 to 1 (drawn), or a boolean array over
            the event, True where lost.
        rng: a Generator, or a seed.

    Returns:
        the net with a mask for each lesion: a constant ``<name>.alive`` and their product, which is what children read,
        ``<name>.left`` (of an edge ``<parent>-<child>.alive``, ``.left``).  Parameters keep their names.

    Raises:
        UnknownNameError: no such vertex.
        GraphError: an edge that there is not, a vertex that nobody reads, or one that is lesioned already.
        ShapeError: a mask of another shape, or a share out of range.
    """
    rng = np.random.default_rng(rng)
    readers = {p for v in net.vertices.values() for p in v.parents}
    masks: dict[str | tuple[str, str], tuple[str, Array]] = {}
    for key, given in lost.items():
        source, label = (key, key) if isinstance(key, str) else (key[0], "-".join(key))
        if isinstance(key, str) and net[source].name not in readers:
            raise GraphError(f"lesion of {key!r}: nobody reads it")
        if not isinstance(key, str) and net[source].name not in net[key[1]].parents:
            raise GraphError(f"lesion of {key!r}: {key[1]!r} reads {', '.join(map(repr, net[key[1]].parents))}")
        if f"{label}.left" in net or f"{label}.alive" in net:
            raise GraphError(f"lesion of {key!r}: it has one already; restore() the net first")
        masks[key] = label, ~_read_lost(key, given, net[source].shape, rng)
    out = net.copy()
    out.vertices = {}
    for name, vertex in net.vertices.items():
        for parent in dict.fromkeys(vertex.parents):
            if (parent, name) in masks:
                read = f"{parent}.left" if parent in masks else parent
                _insert(out, net[parent], read, *masks[parent, name])
        out.vertices[name] = replace(vertex, parents=tuple(_read_by(name, p, masks) for p in vertex.parents))
        if name in masks:
            _insert(out, vertex, name, *masks[name])
    return out


def restore(net: GaussianBayesNet, intact: GaussianBayesNet) -> GaussianBayesNet:
    """The intact net with what the damaged one has learned: its parameters, priors and noises.

    Args:
        net: a lesion of ``intact``, or what was learned from one.

    Raises:
        GraphError: it is not.
    """
    out = intact.copy()
    for name, vertex in intact.vertices.items():
        found = net.vertices.get(name)
        if found is None or (found.kind, found.shape) != (vertex.kind, vertex.shape):
            raise GraphError(f"restore: {name!r} is not the same in both; give the net that was lesioned")
        out.vertices[name] = replace(vertex, value=found.value)
    out.noises = {name: net.noises[name] for name in intact.noises}
    return out


def between_halves(
    net: GaussianBayesNet, share: float = 1.0, rng: np.random.Generator | int | None = 0
) -> dict[Any, Any]:
    """What to lose to cut a net in half lengthwise: of dense weights between hidden layers, all that cross the middle.

    The first half of the units of each hidden layer stays connected among itself, and the second; inputs still reach
    both, and outputs read both.

    Args:
        share: how much of what crosses is lost, drawn.
        rng: a Generator, or a seed.

    Returns:
        weight -> boolean array, True where lost: for :func:`lesion`.

    Raises:
        GraphError: no dense weights between hidden layers.
        ShapeError: a share out of range.
    """
    rng = np.random.default_rng(rng)
    hidden = _hidden(net)
    found: dict[Any, Any] = {}
    for name, vertex in net.vertices.items():
        weights = [p for p in vertex.parents if net[p].kind == "parameter" and len(net[p].shape) == 2]
        above = [p for p in vertex.parents if net[p].plated]
        if name not in hidden or vertex.op not in ("Linear", "Gemm", "MatMul") or len(above) != len(weights):
            continue
        for parent, weight in zip(above, weights, strict=True):
            if parent in hidden:
                rows, columns = (2 * np.arange(size) >= size for size in net[weight].shape)
                crossing = rows[:, None] != columns
                lost = np.zeros(crossing.shape, bool)
                lost[crossing] = _read_lost(weight, share, (int(crossing.sum()),), rng)
                found[weight] = lost
    if not found:
        raise GraphError("between_halves: no dense weights lead from one hidden layer to another")
    return found


def _hidden(net: GaussianBayesNet) -> set[str]:
    """Vertices between two layers of dense weights: fed by one, and read, perhaps through others, by a further one."""
    dense = {n for n, v in net.vertices.items() if v.op in ("Linear", "Gemm", "MatMul")}
    fed: set[str] = set()
    for name, vertex in net.vertices.items():
        if name in dense or not fed.isdisjoint(vertex.parents):
            fed.add(name)
    read: set[str] = set()
    for name in reversed(net.vertices):
        if name in dense or name in read:
            read.update(net.vertices[name].parents)
    return {n for n in fed & read if net[n].plated}


def _read_by(child: str, parent: str, masks: Mapping[Any, tuple[str, Array]]) -> str:
    """What a child reads in place of a parent."""
    if (parent, child) in masks:
        return f"{masks[parent, child][0]}.left"
    return f"{parent}.left" if parent in masks else parent


def _insert(out: GaussianBayesNet, vertex: Vertex, read: str, label: str, alive: Array) -> None:
    """The mask of a vertex, and the product that is left of it."""
    mask = out.add_constant(f"{label}.alive", alive.astype(out.dtype))
    name = f"{label}.left"
    out.vertices[name] = Vertex(name, "op", vertex.shape, vertex.plated, (read, mask), "Mul")


def _read_lost(key: Any, given: Any, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """True where lost."""
    if given is True or given is False:
        return np.full(shape, given)
    if np.ndim(given) == 0 and not isinstance(given, str):
        if not 0 <= given <= 1:
            raise ShapeError(f"lesion of {key!r}: got {given}, expected a share from 0 to 1, or a boolean array")
        lost = np.zeros(int(np.prod(shape)), bool)
        lost[rng.permutation(lost.size)[: round(float(given) * lost.size)]] = True
        return lost.reshape(shape)
    mask = np.asarray(given)
    if mask.dtype != bool or mask.shape != shape:
        raise ShapeError(
            f"lesion of {key!r}: got an array of {mask.dtype} and shape {mask.shape}, expected booleans of {shape}"
        )
    return mask
