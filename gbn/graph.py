"""What the graph alone says about a net: independence, blankets, and where it is linear."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gbn import ops
from gbn.errors import GraphError, UnknownNameError

if TYPE_CHECKING:
    from gbn.evidence import Evidence
    from gbn.net import GaussianBayesNet

__all__ = ["d_separated", "linear_given", "markov_blanket", "nonlinear_given", "uncertain_given"]

Names = str | Iterable[str]


def d_separated(net: GaussianBayesNet, a: Names, b: Names, given: Names = ()) -> bool:
    """Whether the graph makes ``a`` and ``b`` independent given ``given``, whatever the numbers in its CPDs.

    Parameters without a prior, and constants, are no variables.  Inputs without noise are always known, so they count
    as given, unless they are asked for in ``a`` or ``b``.  A vertex without noise whose parents are all given is
    given too (D-separation: Geiger, Verma & Pearl, Networks 20, 1990), and what is given is independent of everything.
    Conversely, an invertible function does not determine its argument here: of that the graph says nothing.

    Args:
        a, b, given: names of vertices, or one name.

    Raises:
        UnknownNameError: with near matches.
    """
    import networkx

    first, second, known = (_checked(net, names) for names in (a, b, given))
    known |= {n for n, v in net.vertices.items() if v.kind == "input" and not v.random} - first - second
    known = _determined(net, known)
    first, second = first - known, second - known
    if first & second:
        return False
    graph = networkx.DiGraph()
    for name in net.vertices:
        if _is_variable(net, name):
            graph.add_node(name)
            graph.add_edges_from((parent, name) for parent in net[name].parents if _is_variable(net, parent))
    relevant = first | second | (known & set(graph))
    ancestors = relevant.union(*(networkx.ancestors(graph, name) for name in relevant))
    moral = networkx.moral_graph(graph.subgraph(ancestors))
    moral.remove_nodes_from(known)
    reached = set().union(*(networkx.node_connected_component(moral, name) for name in first))
    return reached.isdisjoint(second)


def markov_blanket(net: GaussianBayesNet, name: str) -> tuple[str, ...]:
    """The variables that shield a vertex from all others: its parents, its children, and their other parents.

    Variables are the vertices with noise, labels and inputs; between them, vertices without noise are looked through:
    a parent is the nearest variable upstream.  The blanket of a vertex without noise is what it is computed from.

    Returns:
        names, in the net's order.

    Raises:
        UnknownNameError: with near matches.
        GraphError: a parameter without a prior, or a constant.
    """
    _checked(net, name)
    if not _is_variable(net, name):
        raise GraphError(f"{name!r} is a {net[name].kind} with a fixed value: it has no blanket; give it a prior first")
    parents: dict[str, set[str]] = {}
    for child, vertex in net.vertices.items():
        parents[child] = set()
        for parent in vertex.parents:
            parents[child] |= {parent} if _is_noisy(net, parent) else parents[parent]
    found = set(parents[name])
    if _is_noisy(net, name):
        for child in net.vertices:
            if _is_noisy(net, child) and name in parents[child]:
                found |= {child} | parents[child]
    return tuple(n for n in net.vertices if n in found - {name})


def linear_given(evidence: Evidence) -> bool:
    """Whether the net is linear-Gaussian in what the evidence leaves uncertain.

    More holds than :meth:`~gbn.net.GaussianBayesNet.is_linear` says: a nonlinearity that reads only data inputs,
    interventions and wholly observed vertices is a constant of its sample, and a label that nobody observed adds
    nothing.  The posterior of the linearised net is then exact.  Its Jacobians are constants *for each sample*, but
    differ between samples where a product has a known factor, so one row cannot stand for all of a pattern.
    """
    return nonlinear_given(evidence) is None


def nonlinear_given(evidence: Evidence) -> str | None:
    """The first vertex that makes the net nonlinear in what the evidence leaves uncertain; see :func:`linear_given`."""
    net, moving = evidence.net, uncertain_given(evidence)
    for name, vertex in net.vertices.items():
        varying = [parent in moving for parent in vertex.parents]
        if vertex.kind == "likelihood" and name in evidence.values and any(varying):
            return name
        if vertex.kind == "op" and name not in evidence.do and not ops.get(str(vertex.op)).linear(varying):
            return name
    return None


def uncertain_given(evidence: Evidence) -> set[str]:
    """Vertices that the evidence leaves uncertain, a single entry of a single row being enough; labels excepted.

    A vertex without noise is certain where its parents are.
    """
    net, moving = evidence.net, set[str]()
    whole = set(evidence.values) - set(evidence.masks)
    for name, vertex in net.vertices.items():
        if vertex.kind == "likelihood" or name in evidence.do or name in whole:
            continue
        if vertex.random or not moving.isdisjoint(vertex.parents):
            moving.add(name)
    return moving


def _checked(net: GaussianBayesNet, names: Names) -> set[str]:
    chosen = {names} if isinstance(names, str) else set(names)
    for name in chosen:
        if name not in net.vertices:
            raise UnknownNameError("vertex", name, net.vertices)
    return chosen


def _is_noisy(net: GaussianBayesNet, name: str) -> bool:
    """Whether the vertex is a variable of its own: with noise, a label, or an input."""
    return net[name].random or net[name].kind in ("likelihood", "input")


def _is_variable(net: GaussianBayesNet, name: str) -> bool:
    """Whether the vertex can differ between samples, or is uncertain."""
    todo, seen = [name], set[str]()
    while todo:
        one = todo.pop()
        if _is_noisy(net, one):
            return True
        if one not in seen:
            seen.add(one)
            todo += net[one].parents
    return False


def _determined(net: GaussianBayesNet, known: set[str]) -> set[str]:
    """What is known, and what that and the constants determine."""
    found = set(known)
    for name, vertex in net.vertices.items():
        if not _is_noisy(net, name) and all(parent in found for parent in vertex.parents):
            found.add(name)
    return found
