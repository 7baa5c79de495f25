"""networkx: a directed graph of scalar neurons.

A neuron's value is φ(Σ_p w_p v_p + b + e), e ~ N(0, variance), with its parents p the nodes that have an edge to it.
Importing this module does not import networkx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converters._scalars import number, ordered
from gbn.errors import ConversionError, near_matches
from gbn.net import GaussianBayesNet
from gbn.ops.elementwise import activations

if TYPE_CHECKING:
    import networkx

__all__ = ["COMPLETE", "TAKES", "accepts", "convert"]

TAKES = "networkx: DiGraph of neurons (edges: weight; nodes: bias, activation, variance)"
COMPLETE = True
_ALIASES = {"identity": None, "linear": None, "logistic": "Sigmoid", "silu": "Swish"}


def accepts(obj: Any) -> bool:
    """Whether this converter is the one for an object; decided without importing networkx.

    Models of pgmpy are graphs of networkx too, and left to their own converter.
    """
    roots = {base.__module__.partition(".")[0] for base in type(obj).__mro__}
    return "networkx" in roots and "pgmpy" not in roots


def convert(obj: Any, example: Any = None, **options: Any) -> GaussianBayesNet:
    """The net of a graph of neurons, each a scalar of event (1,), noise included.

    Attributes of nodes: ``bias`` (default 0), ``activation`` (an op such as "Tanh", or its common name in any case:
    relu, tanh, sigmoid, leaky_relu, identity, linear, ...; default identity) and ``variance`` of the noise on the
    weighted sum (default: none).  Attributes of edges: ``weight``.  None counts as not given, others are not read.

    A neuron's output has the neuron's name.  With an activation its weighted sum, which is where the noise is, is the
    vertex ``<name>.sum``; parameters are ``<name>.<parent>.weight`` and ``<name>.bias``.  A node without parents is an
    input: with ``variance`` it has the prior N(bias, variance), without it must be observed.

    Args:
        obj: a ``networkx.DiGraph`` whose nodes are strings.
        example: not needed.

    Raises:
        ConversionError: another kind of graph, a cycle, a missing weight, an unknown activation, a name that is not a
            string, or a number that is none; naming the node or edge.
    """
    if options:
        raise ConversionError(f"options of the networkx converter: got {sorted(options)}, expected none")
    if not obj.is_directed() or obj.is_multigraph():
        raise ConversionError(
            f"got a networkx.{type(obj).__name__}, expected a DiGraph of neurons with at most one edge between two "
            "(what net.to_networkx() returns shows the structure only; gbn.export.networkx.to_neurons(net) returns "
            "neurons)"
        )
    net = GaussianBayesNet()
    for name in ordered(obj):
        attributes = {key: value for key, value in obj.nodes[name].items() if value is not None}
        if obj.in_degree(name):
            _add_neuron(net, name, _weights(obj, name), attributes)
        else:
            _add_input(net, name, attributes)
    return net


def _add_neuron(net: GaussianBayesNet, name: str, weights: dict[str, float], attributes: dict[str, Any]) -> None:
    op = _activation(name, attributes)
    tied = {parent: net.add_parameter(f"{name}.{parent}.weight", [[w]]) for parent, w in weights.items()}
    bias = net.add_parameter(f"{name}.bias", [number(attributes.get("bias", 0.0), f"bias of node {name!r}")])
    affine = name if op is None else f"{name}.sum"
    net.add_linear(affine, tied, bias=bias, cov=_variance(name, attributes))
    if op is not None:
        net.add(name, op, [affine])


def _add_input(net: GaussianBayesNet, name: str, attributes: dict[str, Any]) -> None:
    if _activation(name, attributes) is not None:
        raise ConversionError(
            f"activation of node {name!r}: no edge leads to it, so it is an input, which has none; got "
            f"{attributes['activation']!r}, expected identity (put the activation on a neuron behind it)"
        )
    mean = number(attributes.get("bias", 0.0), f"bias of node {name!r}")
    variance = _variance(name, attributes)
    if variance is None and mean:
        raise ConversionError(
            f"bias of node {name!r}: no edge leads to it, so it is an input, and without variance it has no prior to "
            f"be the mean of; got {mean}: give the node a variance too, for the prior N(bias, variance), or no bias"
        )
    net.add_input(name, 1, mean=None if variance is None else mean, cov=variance)


def _weights(graph: networkx.DiGraph, name: str) -> dict[str, float]:
    weights = {}
    for parent, edge in graph.pred[name].items():
        if edge.get("weight") is None:
            raise ConversionError(
                f"edge {parent!r} -> {name!r}: got no weight, expected a number in its attribute 'weight'"
            )
        weights[parent] = number(edge["weight"], f"weight of edge {parent!r} -> {name!r}")
    return weights


def _activation(name: str, attributes: dict[str, Any]) -> str | None:
    """The op of a neuron's activation; None for the identity."""
    given = attributes.get("activation", "identity")
    known = {**{op.lower(): op for op in activations()}, **_ALIASES}
    key = given.lower().replace("_", "").replace("-", "") if isinstance(given, str) else None
    if key not in known:
        raise ConversionError(f"activation of node {name!r}: got {given!r}, unknown; {near_matches(given, known)}")
    return known[key]


def _variance(name: str, attributes: dict[str, Any]) -> float | None:
    if "variance" not in attributes:
        return None
    variance = number(attributes["variance"], f"variance of node {name!r}")
    if variance <= 0:
        raise ConversionError(
            f"variance of node {name!r}: got {variance}, expected a positive number; leave it out for no noise"
        )
    return variance
