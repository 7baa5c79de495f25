"""A net as a networkx graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gbn.net import GaussianBayesNet, Vertex

if TYPE_CHECKING:
    import networkx

__all__ = ["to_networkx"]


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
