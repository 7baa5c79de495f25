"""Where the boxes of a directed acyclic graph go: in layers, with few crossings and straight lines.

The method is that of Sugiyama, Tagawa & Toda (IEEE Trans. Systems, Man, and Cybernetics 11, 1981): layers, bends where
a line passes a layer, the order within each layer by barycentres, positions by least squares.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Layout", "layered"]

Edge = tuple[int, int]
Point = tuple[float, float]
_GAP_X, _GAP_Y = 14.0, 30.0
_BEND = 6.0
_ORDER_SWEEPS, _PLACE_SWEEPS = 8, 6
# How strongly lines pull: those of bends to become straight, light ones hardly.
_BEND_WEIGHT, _LIGHT_WEIGHT = 4.0, 0.001


@dataclass(frozen=True)
class Layout:
    """Points are (across, down), in pixels from the upper left corner.

    centres: of the boxes.
    bends: of each line, the places where it passes a layer, from above.
    layer: of each box.
    heights: of the layers.
    """

    centres: Sequence[Point]
    bends: dict[Edge, list[Point]]
    layer: Sequence[int]
    heights: Sequence[float]
    width: float
    height: float


def layered(sizes: Sequence[tuple[float, float]], edges: Iterable[Edge], light: Iterable[Edge] = ()) -> Layout:
    """Place boxes so that every edge leads downwards.

    Args:
        sizes: width and height of each box; parents come before their children.
        edges: (parent, child), as indices into ``sizes``.
        light: those edges that matter less to the eye: they are drawn without bends when they span several layers.
    """
    lines = list(dict.fromkeys(edges))
    minor = set(light)
    graph = _Graph(sizes, _layers(len(sizes), lines, minor), lines, minor)
    graph.order()
    return graph.finished(graph.places())


def _layers(count: int, edges: Sequence[Edge], light: set[Edge]) -> list[int]:
    """The longest way from a root; what has no more parents than children moves down to its first child."""
    parents: list[list[int]] = [[] for _ in range(count)]
    children: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        parents[b].append(a)
        children[a].append(b)
    layer = [0] * count
    for v in range(count):
        layer[v] = 1 + max((layer[p] for p in parents[v]), default=-1)
    for v in reversed(range(count)):
        if children[v] and len(children[v]) >= sum((p, v) not in light for p in parents[v]):
            layer[v] = min(layer[c] for c in children[v]) - 1
    return layer


class _Graph:
    """Boxes and bends by layer; a bend is a node without a box."""

    def __init__(
        self, sizes: Sequence[tuple[float, float]], layer: Sequence[int], lines: Sequence[Edge], light: set[Edge]
    ) -> None:
        self.sizes, self.layer = sizes, list(layer)
        self.widths = [width for width, _ in sizes]
        self.rows: list[list[int]] = [[] for _ in range(max(layer, default=-1) + 1)]
        for v, row in enumerate(layer):
            self.rows[row].append(v)
        self.up: list[list[int]] = [[] for _ in sizes]
        self.down: list[list[int]] = [[] for _ in sizes]
        self.bends: dict[Edge, list[int]] = {}
        self.pull: dict[Edge, float] = {}
        heavy = {v for edge in lines if edge not in light for v in edge}
        self.weights = [1.0 if v in heavy else _LIGHT_WEIGHT for v in range(len(sizes))]
        for a, b in lines:
            chain = [a]
            if (a, b) not in light:
                chain += [self._bend(row) for row in range(layer[a] + 1, layer[b])]
            chain.append(b)
            self.bends[a, b] = chain[1:-1]
            for above, below in pairwise(chain):
                if self.layer[below] == self.layer[above] + 1:
                    self.down[above].append(below)
                    self.up[below].append(above)
                    self.pull[above, below] = _LIGHT_WEIGHT if (a, b) in light else 1.0

    def _bend(self, row: int) -> int:
        self.widths.append(_BEND)
        self.weights.append(_BEND_WEIGHT)
        self.up.append([])
        self.down.append([])
        self.layer.append(row)
        self.rows[row].append(len(self.widths) - 1)
        return len(self.widths) - 1

    def order(self) -> None:
        """Sort each layer by the mean position of its neighbours, down and up; the order of fewest crossings stays."""
        best, fewest = [list(row) for row in self.rows], self._crossings()
        for sweep in range(_ORDER_SWEEPS):
            if not fewest:
                break
            downwards = sweep % 2 == 0
            near = self.up if downwards else self.down
            place = {v: rank for row in self.rows for v, rank in _ranks(row)}
            for row in self.rows[1:] if downwards else self.rows[-2::-1]:
                wanted = {v: self._mean(v, near[v], place) for v in row}
                row.sort(key=wanted.__getitem__)
                place.update(_ranks(row))
            found = self._crossings()
            if found < fewest:
                best, fewest = [list(row) for row in self.rows], found
        self.rows = best

    def _crossings(self) -> int:
        total = 0
        for row, below in pairwise(self.rows):
            rank = {v: k for k, v in enumerate(below)}
            seen: list[int] = []
            for v in row:
                ends = sorted(rank[c] for c in self.down[v])
                total += sum(len(seen) - bisect_right(seen, end) for end in ends)
                for end in ends:
                    insort(seen, end)
        return total

    def places(self) -> list[float]:
        """Centres across: each layer in turn as near below, then above, its neighbours as its order allows."""
        across = [0.0] * len(self.widths)
        for row in self.rows:
            for v, x in zip(row, self._spread(row, [0.0] * len(row)), strict=True):
                across[v] = x
        for sweep in range(_PLACE_SWEEPS):
            last = sweep == _PLACE_SWEEPS - 1
            for row in self.rows if sweep % 2 == 0 else self.rows[::-1]:
                near = [self.up[v] + self.down[v] if last else (self.up, self.down)[sweep % 2][v] for v in row]
                wanted = [self._mean(v, nodes, across) for v, nodes in zip(row, near, strict=True)]
                for v, x in zip(row, self._spread(row, wanted), strict=True):
                    across[v] = x
        return across

    def _mean(self, v: int, near: Sequence[int], place: Mapping[int, float] | Sequence[float]) -> float:
        """Where the neighbours of a node are, on average; its own place when it has none."""
        pulls = [self.pull[min((n, v), (v, n), key=lambda edge: self.layer[edge[0]])] for n in near]
        return sum(p * place[n] for p, n in zip(pulls, near, strict=True)) / sum(pulls) if near else place[v]

    def _spread(self, row: Sequence[int], wanted: Sequence[float]) -> list[float]:
        """Positions nearest to those wanted, by least squares, that keep the order and the gaps."""
        offsets, at = [], 0.0
        for k, v in enumerate(row):
            at += (self.widths[row[k - 1]] + self.widths[v]) / 2 + _GAP_X if k else 0.0
            offsets.append(at)
        level = _isotonic([w - o for w, o in zip(wanted, offsets, strict=True)], [self.weights[v] for v in row])
        return [a + o for a, o in zip(level, offsets, strict=True)]

    def finished(self, across: Sequence[float]) -> Layout:
        """The layout, its left and upper edge at 0."""
        count = len(self.sizes)
        left = min((x - w / 2 for x, w in zip(across, self.widths, strict=True)), default=0.0)
        right = max((x + w / 2 for x, w in zip(across, self.widths, strict=True)), default=0.0)
        heights = [max((self.sizes[v][1] for v in row if v < count), default=0.0) for row in self.rows]
        middles, at = [], 0.0
        for tall in heights:
            middles.append(at + tall / 2)
            at += tall + _GAP_Y
        place = [(x - left, middles[row]) for x, row in zip(across, self.layer, strict=True)]
        bends = {edge: [place[v] for v in nodes] for edge, nodes in self.bends.items()}
        return Layout(place[:count], bends, self.layer[:count], heights, right - left, max(at - _GAP_Y, 0.0))


def _ranks(row: Sequence[int]) -> list[tuple[int, float]]:
    """Position of each node in its layer, as a share of it."""
    return [(v, (k + 0.5) / len(row)) for k, v in enumerate(row)]


def _isotonic(wanted: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest to the one wanted, by weighted least squares: neighbours are pooled."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(wanted, weights, strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, mass, size = blocks.pop()
            total = mass + block[1]
            block = ((mean * mass + block[0] * block[1]) / total, total, size + block[2])
        blocks.append(block)
    return [mean for mean, _, size in blocks for _ in range(size)]
