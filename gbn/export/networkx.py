"""A net as a networkx graph: of its vertices, or of scalar neurons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gbn import ops
from gbn.errors import ConversionError
from gbn.export.affine import affine_cpds, check_distinct, check_plain, entries, entry_names
from gbn.net import GaussianBayesNet, Vertex

if TYPE_CHECKING:
    import networkx

__all__ = ["to_networkx", "to_neurons"]


def to_networkx(net: GaussianBayesNet) -> networkx.MultiDiGraph:
    """The graph of a net, one node per vertex, in the net's order.

    An edge runs from parent to child for each place the parent has among the op's inputs, so there may be several
    between two vertices; ``position`` is that place, and the edge's key.

    Nodes carry ``kind``, ``op`` (None for roots), ``shape`` (the event), ``plated``, ``noise`` (the covariance's form:
    "scalar", "diagonal", "full", or None where there is none), ``noise_name`` (equal where vertices share it),
    ``variance`` (a number for the scalar form, else an array of the event's shape; None without noise) and ``label``
    (a text to draw).  The graph carries ``inputs`` and ``outputs``.
    """
    import networkx

    graph = networkx.MultiDiGraph(inputs=net.inputs, outputs=net.outputs)
    for name, vertex in net.vertices.items():
        graph.add_node(name, **_attributes(net, vertex))
    for name, vertex in net.vertices.items():
        for position, parent in enumerate(vertex.parents):
            graph.add_edge(parent, name, key=position, position=position)
    return graph


def _attributes(net: GaussianBayesNet, vertex: Vertex) -> dict[str, Any]:
    noise = net.noise(vertex.name)
    return {
        "kind": vertex.kind,
        "op": vertex.op,
        "shape": vertex.shape,
        "plated": vertex.plated,
        "noise": None if noise is None else noise.form,
        "noise_name": vertex.noise,
        "variance": None if noise is None else float(noise.value) if noise.form == "scalar" else noise.diagonal(),
        "label": f"{vertex.name}\n{vertex.op or vertex.kind} {'×'.join(map(str, vertex.shape)) or 'number'}",
    }


def to_neurons(net: GaussianBayesNet) -> networkx.DiGraph:
    """A net of affine vertices and activations as a weighted graph of scalar neurons, which :func:`gbn.convert` reads.

    Each entry of a vertex is a node, ``h[0]``, ``h[1]``, ... (event (1,): plain ``h``).  An affine vertex that only
    feeds an activation is one neuron with it, under the activation's name.  Nodes carry ``bias``, ``activation`` (the
    op in lower case) and, where they have noise, ``variance``; inputs without a prior carry nothing.  Edges carry
    ``weight``; a zero weight is no edge, except between two scalar vertices.

    Raises:
        ConversionError: a vertex that is no neuron (products of vertices, softmax, pooling, correlated noise, noise
            behind an activation), a label, or a random parameter, by name.
    """
    import networkx

    check_plain(net, "to_neurons")
    activations = {name for name, vertex in net.vertices.items() if vertex.plated and _is_activation(net, vertex)}
    for name, vertex in net.vertices.items():
        if vertex.plated:
            _check_neuron(net, vertex, name in activations)
    owner = _owners(net, activations)
    affine = [name for name, vertex in net.vertices.items() if vertex.plated and name not in activations]
    cpds = affine_cpds(net, affine)
    names = {name: entry_names(net.vertices[owner.get(name, name)]) for name in (*affine, *activations)}
    check_distinct((node for name in names if name not in owner for node in names[name]), "to_neurons")
    graph = networkx.DiGraph()
    for name, vertex in net.vertices.items():
        if name in activations:
            _activate(graph, vertex, names, merged=vertex.parents[0] in owner)
        elif vertex.plated:
            graph.add_nodes_from(_neurons(net, vertex, names[name], cpds[name].bias))
            for parent, weights in cpds[name].weights.items():
                for row, node in enumerate(names[name]):
                    edges = entries(weights, row, names[parent])
                    graph.add_weighted_edges_from((source, node, weight) for source, weight in edges)
    _check_constants(graph)
    return graph


def _is_activation(net: GaussianBayesNet, vertex: Vertex) -> bool:
    return vertex.op in ops.elementwise.activations() and net.vertices[vertex.parents[0]].plated


def _check_neuron(net: GaussianBayesNet, vertex: Vertex, activation: bool) -> None:
    noise, fault = net.noise(vertex.name), None
    if activation and vertex.attributes:
        fault = f"a {vertex.op} with {dict(vertex.attributes)}, expected the activation as it is by default"
    elif activation and noise is not None:
        fault = "noise behind an activation, expected it on the weighted sum, as latents='affine' has it"
    elif vertex.kind == "op" and not activation:
        varying = [net.vertices[parent].plated for parent in vertex.parents]
        if not ops.get(str(vertex.op)).linear(varying):
            fault = f"a {vertex.op}, expected affine vertices and activations of one number"
    if noise is not None and noise.form == "full" and vertex.size > 1:
        fault = "correlated noise, expected a variance for each entry; net.to_pgmpy() writes it out as a chain"
    if fault:
        raise ConversionError(f"to_neurons: {vertex.name!r} is not made of neurons: got {fault}")


def _owners(net: GaussianBayesNet, activations: set[str]) -> dict[str, str]:
    """affine vertex -> its activation, where that is all it is for."""
    children: dict[str, list[str]] = {name: [] for name in net.vertices}
    for name, vertex in net.vertices.items():
        for parent in vertex.parents:
            children[parent].append(name)
    return {
        name: heirs[0]
        for name, heirs in children.items()
        if len(heirs) == 1
        and heirs[0] in activations
        and net.vertices[name].kind == "op"
        and name not in activations
        and name not in net.outputs
    }


def _neurons(
    net: GaussianBayesNet, vertex: Vertex, names: list[str], bias: Any
) -> Iterator[tuple[str, dict[str, float | str]]]:
    """Nodes of an affine vertex or input, with their attributes."""
    noise = net.noise(vertex.name)
    for k, name in enumerate(names):
        attributes: dict[str, float | str] = {}
        if not vertex.needs_data:
            attributes = {"bias": float(bias[k]), "activation": "identity"}
        if noise is not None:
            attributes["variance"] = float(noise.diagonal().reshape(-1)[k])
        yield name, attributes


def _activate(graph: networkx.DiGraph, vertex: Vertex, names: dict[str, list[str]], *, merged: bool) -> None:
    """Give the neurons of an affine vertex its activation, or put neurons of weight 1 behind a vertex."""
    for node, source in zip(names[vertex.name], names[vertex.parents[0]], strict=True):
        if not merged:
            graph.add_node(node, bias=0.0)
            graph.add_edge(source, node, weight=1.0)
        graph.nodes[node]["activation"] = str(vertex.op).lower()


def _check_constants(graph: networkx.DiGraph) -> None:
    for name, attributes in graph.nodes.items():
        if attributes and "variance" not in attributes and not graph.in_degree(name):
            raise ConversionError(
                f"to_neurons: {name!r} is a constant; expected neurons that depend on others, and inputs"
            )
