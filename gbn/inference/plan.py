"""Who is eliminated when: orders of elimination, and their plans, which depend on the structure of a system alone.

A plan gathers fronts of equal shape that do not wait for one another into *groups*, each a few calls on stacked arrays.
On a chain of many small variables the order of least fill leaves nothing to gather; there the variables are eliminated
in rounds of independent ones (on a chain every other one: odd-even reduction), so that there are few groups.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["Group", "Index", "Link", "Plan", "make_plan", "minimum_degree"]

Array = np.ndarray[Any, Any]
Index = slice | Array
Sizes = tuple[int, ...]
# Fronts of more entries than this are not stacked: their products take longer than the calls.
_LARGEST_STACKED = 64
# Multiplications that take as long as the calls for one group.
_GROUP = 2e5
# Multiplications that take as long as moving an entry of a right-hand side to and from a stack.
_STACKED = 30
# In a round, variables of up to this many times the least degree go.
_SLACK = 2.0


@dataclass(frozen=True, eq=False)
class Link:
    """What the fronts of a group take from elements, or from the updates of another group.

    source: number of the other group; None for elements.
    members: numbers of the elements, or of the fronts within the other group.
    targets: the fronts that take them.
    index: the entries where they lie in those fronts.
    starts: where a front takes several, the beginning of its run among the members; None where each takes one.
    """

    source: int | None
    members: Index
    targets: Index
    index: Index
    starts: Array | None


@dataclass(frozen=True, eq=False)
class Group:
    """Fronts that are eliminated together: a variable each (the last front: several), and its neighbours then.

    count: of fronts; size: entries that a front eliminates; width: entries of the neighbours.
    own: the entries of the variables, one after another, in the order of elimination.
    rest: the entries of the neighbours, those of one front after another.
    runs: where fronts share neighbours, (order, starts, entries): ``rest`` sorted, and where in it each entry begins.
    elements: those that begin here; children: updates.
    """

    count: int
    size: int
    width: int
    own: slice
    rest: Index
    runs: tuple[Array, Array, Array] | None
    elements: tuple[Link, ...]
    children: tuple[Link, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """Who is eliminated when, and where everything goes.

    order: the variables as they are eliminated; place: variable -> its number in the order.
    groups: in the order of elimination; where: variable -> its group, and its number there.
    fronts: variable -> the variables of its front, itself (or those that go with it) and the neighbours then, in order.
    spans: variable -> its entries among all, in the order of elimination.
    elements: for each element its variables in the order of elimination.
    size: entries of all variables; entries: stored numbers; flops: multiplications of a factorisation.
    """

    order: Sizes
    place: Sizes
    groups: tuple[Group, ...]
    where: tuple[tuple[int, int], ...]
    fronts: tuple[Sizes, ...]
    spans: tuple[slice, ...]
    elements: tuple[Sizes, ...]
    size: int
    entries: int
    flops: float


def minimum_degree(
    sizes: Sequence[int], elements: Sequence[Sequence[int]], rounds: bool = False
) -> tuple[list[int], list[set[int]]]:
    """An order of elimination that keeps fronts small, and each variable's neighbours when its turn comes.

    The variable with the fewest neighbouring entries goes next, by the approximate degrees of Amestoy, Davis & Duff
    (1996): elements stand for the cliques they are, and one within another is absorbed.

    rounds: variables that became neighbours of one eliminated in this round wait for the next, as long as others of
        small degree are left (multiple elimination: Liu 1985).
    """
    content: dict[int, set[int]] = {e: set(variables) for e, variables in enumerate(elements)}
    of: list[set[int]] = [set() for _ in sizes]
    for e, variables in content.items():
        for v in variables:
            of[v].add(e)
    weight = {e: sum(sizes[v] for v in variables) for e, variables in content.items()}
    degree = [sum(weight[e] - sizes[v] for e in of[v]) for v in range(len(sizes))]
    heap = [(degree[v], v) for v in range(len(sizes))]
    heapq.heapify(heap)
    order: list[int] = []
    neighbours: list[set[int]] = [set() for _ in sizes]
    done = [False] * len(sizes)
    waiting: set[int] = set()
    limit = float("inf")
    while heap or waiting:
        if waiting and (not heap or heap[0][0] > limit):
            for v in waiting:
                heapq.heappush(heap, (degree[v], v))
            waiting, limit = set(), float("inf")
        d, v = heapq.heappop(heap)
        if done[v] or d != degree[v] or v in waiting:
            continue
        if rounds and limit == float("inf"):
            limit = _SLACK * d
        done[v] = True
        order.append(v)
        taken = of[v]
        front = set[int]().union(*(content.pop(e) for e in taken))
        front.discard(v)
        neighbours[v] = front
        if not front:
            continue
        new = len(elements) + len(order)
        for u in front:
            of[u] -= taken
        outside = _outside(front, of, weight, sizes)
        for e, left in outside.items():
            if not left:
                for u in content.pop(e):
                    of[u].discard(e)
        content[new], weight[new] = set(front), sum(sizes[u] for u in front)
        for u in front:
            degree[u] = weight[new] - sizes[u] + sum(outside[e] for e in of[u])
            of[u].add(new)
            if rounds:
                waiting.add(u)
            else:
                heapq.heappush(heap, (degree[u], u))
    return order, neighbours


def _outside(front: set[int], of: list[set[int]], weight: dict[int, int], sizes: Sequence[int]) -> dict[int, int]:
    """Entries that each element touching the front has outside it (eliminated variables are in no element)."""
    out: dict[int, int] = {}
    for u in front:
        for e in of[u]:
            out[e] = out.get(e, weight[e]) - sizes[u]
    return out


@lru_cache(maxsize=16)
def make_plan(sizes: Sizes, elements: tuple[Sizes, ...], systems: int = 1, columns: int = 1) -> Plan:
    """The plan of an elimination, the cheaper of two; cached, for a net is asked again with the same evidence pattern.

    Args:
        sizes: entries of each variable.
        elements: the variables of each element; every variable must be in one.
        systems: how many of this structure are factored.
        columns: right-hand sides of each.
    """
    plain = _Order(sizes, *minimum_degree(sizes, elements)).crowned(sizes, systems)
    if plain.cost(systems, columns) > 2 * _GROUP * len(plain.stacks):
        return _planned(sizes, elements, plain)
    rounds = _Order(sizes, *minimum_degree(sizes, elements, rounds=True)).crowned(sizes, systems)
    return _planned(sizes, elements, min(plain, rounds, key=lambda order: order.cost(systems, columns)))


class _Order:
    """An order in which fronts of equal shape and equal height above the leaves are brought together.

    The last few variables are one front, where that costs less than to wait for one after the other.

    fronts: as in :class:`Plan`; stacks: the variables of each group.
    figures: for each group the number of its fronts, the entries eliminated by each, and those of the neighbours.
    """

    def __init__(self, sizes: Sizes, order: Sequence[int], neighbours: Sequence[set[int]]) -> None:
        before = _inverted(order)
        # A front holds ancestors of one another only, so that an order by height leaves them as they are.
        self.fronts = [(v, *sorted(neighbours[v], key=before.__getitem__)) for v in range(len(sizes))]
        height = [0] * len(sizes)
        kinds: dict[Any, list[int]] = {}
        for v in order:
            front = self.fronts[v]
            if len(front) > 1:
                height[front[1]] = max(height[front[1]], height[v] + 1)
            shape = tuple(sizes[u] for u in front)
            kinds.setdefault((height[v], shape if sum(shape) <= _LARGEST_STACKED else v), []).append(v)
        self.stacks = [kinds[key] for key in sorted(kinds, key=lambda key: key[0])]
        self.figures = [
            (len(stack), sizes[stack[0]], sum(sizes[u] for u in self.fronts[stack[0]][1:])) for stack in self.stacks
        ]

    def crowned(self, sizes: Sizes, systems: int) -> _Order:
        """With the last stacks joined, as long as that saves."""
        kept, total, best = len(self.stacks), 0, (0.0, len(self.stacks))
        separate = 0.0
        while kept:
            count, m, s = self.figures[kept - 1]
            total += count * m
            if total > _LARGEST_STACKED:
                break
            kept -= 1
            separate += 3.0 * systems * count * m * (m + s) ** 2 + _GROUP
            best = min(best, (3.0 * systems * total**3 + _GROUP - separate, kept))
        if best[0] < 0:
            crown = tuple(v for stack in self.stacks[best[1] :] for v in stack)
            self.stacks[best[1] :] = [list(crown)]
            self.figures[best[1] :] = [(1, sum(sizes[v] for v in crown), 0)]
            for v in crown:
                self.fronts[v] = crown
        return self

    def cost(self, systems: int, columns: int) -> float:
        """Of a factorisation, the inverse and a solution, in multiplications, calls counted in."""
        total = 0.0
        for count, m, s in self.figures:
            total += count * systems * (3.0 * m * (m + s) ** 2 + columns * (m + 2 * s) * (m + _STACKED * (count > 1)))
        return total + _GROUP * len(self.stacks)


def _planned(sizes: Sizes, elements: Sequence[Sizes], chosen: _Order) -> Plan:
    """Where everything goes in that order."""
    fronts, stacks = chosen.fronts, chosen.stacks
    order = [v for stack in stacks for v in stack]
    place = _inverted(order)
    ends = np.cumsum([sizes[v] for v in order]).tolist()
    spans = tuple(slice(ends[p] - size, ends[p]) for p, size in zip(place, sizes, strict=True))
    where = [(0, 0)] * len(sizes)
    for number, (stack, (count, _, _)) in enumerate(zip(stacks, chosen.figures, strict=True)):
        for k, v in enumerate(stack):
            where[v] = number, k if count > 1 else 0
    sorted_ = tuple(tuple(sorted(e, key=place.__getitem__)) for e in elements)
    owned = _linked(((None, k, e, e[0]) for k, e in enumerate(sorted_) if e), fronts, sizes, where)
    updates = ((*where[front[0]], front[1:], front[1]) for v, front in enumerate(fronts) if _waits(v, front, where))
    children = _linked(updates, fronts, sizes, where)
    groups = tuple(
        _group([fronts[v] for v in stack[:count]], size, sizes, spans, owned.get(number, ()), children.get(number, ()))
        for number, (stack, (count, size, _)) in enumerate(zip(stacks, chosen.figures, strict=True))
    )
    return Plan(
        order=tuple(order),
        place=tuple(place),
        groups=groups,
        where=tuple(where),
        fronts=tuple(fronts),
        spans=spans,
        elements=sorted_,
        size=ends[-1] if ends else 0,
        entries=sum(2 * count * m * (m + s) for count, m, s in chosen.figures),
        flops=float(sum(count * m * (m + s) ** 2 for count, m, s in chosen.figures)),
    )


def _waits(v: int, front: Sizes, where: Sequence[tuple[int, int]]) -> bool:
    """Whether the front of a variable leaves an update for another."""
    return len(front) > 1 and where[v] != where[front[-1]]


def _inverted(order: Sequence[int]) -> list[int]:
    place = [0] * len(order)
    for k, v in enumerate(order):
        place[v] = k
    return place


def _linked(
    parts: Iterable[tuple[int | None, int, Sizes, int]],
    fronts: Sequence[Sizes],
    sizes: Sizes,
    where: Sequence[tuple[int, int]],
) -> dict[int, tuple[Link, ...]]:
    """Group -> links.  parts: source, number there, variables, and the variable whose front takes it."""
    alike: dict[tuple[int, int | None, Sizes], list[tuple[int, int]]] = {}
    for source, member, variables, taker in parts:
        group, target = where[taker]
        slots = tuple(map(fronts[taker].index, variables))
        alike.setdefault((group, source, slots), []).append((target, member))
    out: dict[int, tuple[Link, ...]] = {}
    example = {group: v for v, (group, _) in enumerate(where)}
    for (group, source, slots), pairs in alike.items():
        pairs.sort()
        targets, members = [target for target, _ in pairs], [member for _, member in pairs]
        once = sorted(set(targets))
        link = Link(
            source,
            np.array(members) if source is None else _index(members),
            _index(once),
            _index([k for slot in slots for k in _entries(fronts[example[group]], slot, sizes)]),
            None if len(once) == len(targets) else np.searchsorted(targets, once),
        )
        out[group] = (*out.get(group, ()), link)
    return out


def _entries(front: Sizes, slot: int, sizes: Sizes) -> range:
    """Entries of a front that belong to one of its variables."""
    start = sum(sizes[v] for v in front[:slot])
    return range(start, start + sizes[front[slot]])


def _group(
    fronts: Sequence[Sizes],
    size: int,
    sizes: Sizes,
    spans: Sequence[slice],
    elements: tuple[Link, ...],
    children: tuple[Link, ...],
) -> Group:
    """fronts: each of which begins with the variables that it eliminates, ``size`` entries."""
    start = spans[fronts[0][0]].start
    stop = start + size * len(fronts)
    rest = [
        entry
        for front in fronts
        for variable in front
        if spans[variable].start >= stop
        for entry in range(spans[variable].start, spans[variable].stop)
    ]
    runs = None
    if len(fronts) > 1 and len(rest):
        order = np.argsort(rest, kind="stable")
        once, starts = np.unique(np.array(rest)[order], return_index=True)
        runs = None if len(once) == len(rest) else (order, starts, once)
    return Group(
        count=len(fronts),
        size=size,
        width=len(rest) // len(fronts),
        own=slice(start, stop),
        rest=_index(rest),
        runs=runs,
        elements=elements,
        children=children,
    )


def _index(positions: Sequence[int]) -> Index:
    """The same positions as a slice, which numpy reads without a copy, where they are consecutive."""
    if positions and tuple(positions) == tuple(range(positions[0], positions[0] + len(positions))):
        return slice(positions[0], positions[0] + len(positions))
    return np.array(positions, int)
