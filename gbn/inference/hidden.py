"""What is hidden in a query, and which hidden vertices meet in a factor: what the graph and the evidence pattern say.

It is the same for all queries of a net that observe the same vertices and ask for the same, and kept with the net.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gbn.inference.elimination import Plan, make_plan
from gbn.linearize import Linearization

__all__ = ["Structure"]


class Structure:
    """The hidden variables of a query, which of them meet in a factor, and the plan of their elimination.

    relevant: the targets, what is observed, and their ancestors; all others are barren, and left out.
    vertices: the relevant ones, in topological order.
    hidden: noisy vertex with free entries -> its number; sizes: their entries.
    determined: deterministic vertices, in topological order.
    factors: vertices that give a term of F: noisy ones, and observed labels; labels: those among them.
    lines: relevant vertex that hears hidden ones -> (position, parent) of the parents through which it does.
    variables: for each factor the hidden variables in it, ascending.
    notes: what else was found out about this structure.
    """

    def __init__(self, point: Linearization, targets: Iterable[str]) -> None:
        net, evidence = point.net, point.evidence
        self.relevant = point.upstream({*targets, *evidence.values})
        self.vertices = [name for name in net.vertices if name in self.relevant]
        noisy = [n for n in self.vertices if net.vertices[n].random and net.vertices[n].plated]
        noisy = [n for n in noisy if n not in evidence.do]
        ops = [n for n in self.vertices if net.vertices[n].kind == "op"]
        self.determined = [n for n in ops if not net.vertices[n].random and not point.closed(n)]
        self.hidden = {name: k for k, name in enumerate(n for n in noisy if not point.closed(n))}
        self.sizes = tuple(net.vertices[n].size for n in self.hidden)
        self.labels = frozenset(n for n in net.labels if n in evidence.values)
        self.factors = [*noisy, *(n for n in net.labels if n in self.labels)]
        self.lines: dict[str, tuple[tuple[int, str], ...]] = {}
        self.variables = self._meetings(point)
        self.notes: dict[Any, Any] = {}

    @classmethod
    def of(cls, point: Linearization, targets: Sequence[str]) -> Structure:
        """The structure of a query, made anew or as it is known."""
        evidence = point.evidence
        closed = frozenset(name for name in evidence.values if point.closed(name))
        pattern = (closed, frozenset(evidence.masks), frozenset(evidence.do), frozenset(targets))
        found: Structure = point.net.remembered(("hidden", *pattern), lambda: cls(point, targets))
        return found

    def _meetings(self, point: Linearization) -> tuple[tuple[int, ...], ...]:
        """Which hidden variables arrive at each factor, its own included; fills ``lines``."""
        nothing: frozenset[int] = frozenset()
        own: dict[str, frozenset[int]] = {}
        arriving: dict[str, frozenset[int]] = {}
        for name in self.vertices:
            lines = tuple((k, parent) for k, parent in enumerate(point.parents(name)) if own.get(parent))
            found = [own[parent] for _, parent in lines]
            arriving[name] = found[0] if len(found) == 1 else nothing.union(*found)
            if lines:
                self.lines[name] = lines
            if name in self.hidden:
                own[name] = frozenset((self.hidden[name],))
            else:
                own[name] = nothing if point.closed(name) else arriving[name]
        return tuple(tuple(sorted(arriving[n] | own[n] if n in self.hidden else arriving[n])) for n in self.factors)

    def plan(self, systems: int, columns: int) -> tuple[Plan, bool]:
        """The elimination for that many systems of this structure with so many right-hand sides each.

        Returns:
            the plan, and whether it was known.
        """
        # Powers of two: a plan is as good for a few rows more.
        key = ("plan", *(1 << (count - 1).bit_length() for count in (systems, columns)))
        known = key in self.notes
        if not known:
            hits = make_plan.cache_info().hits
            self.notes[key] = make_plan(self.sizes, self.variables, *key[1:])
            known = make_plan.cache_info().hits > hits
        return self.notes[key], known
