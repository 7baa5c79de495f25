"""Graphs of neurons in: values against a loop over the graph, names, and errors by name."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

import converters.networkx
import gbn
from converters import from_networkx
from gbn.errors import ConversionError
from gbn.net import GaussianBayesNet
from gbn.ops.elementwise import activations

FUNCTIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "softplus": lambda x: np.log1p(np.exp(x)),
    "identity": lambda x: x,
}


def random_graph(seed: int, size: int = 9) -> nx.DiGraph:
    """Neurons with every attribute, in a random order; the first two are inputs."""
    rng = np.random.default_rng(seed)
    names = [f"n{k}" for k in range(size)]
    edges = [(str(rng.choice(names[:k])), names[k], float(rng.normal())) for k in range(2, size) for _ in range(3)]
    graph = nx.DiGraph()
    graph.add_nodes_from(rng.permutation(names).tolist())
    graph.add_weighted_edges_from(edges)
    for name in names:
        attributes = graph.nodes[name]
        if rng.random() < 0.5:
            attributes["variance"] = float(rng.uniform(0.1, 2))
        if graph.in_degree(name) or "variance" in attributes:
            attributes["bias"] = float(rng.normal())
            attributes["activation"] = str(rng.choice(list(FUNCTIONS))) if graph.in_degree(name) else "identity"
    return graph


def forward(graph: nx.DiGraph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every neuron at its mean: the graph run node by node."""
    values = dict(inputs)
    for name in nx.topological_sort(graph):
        if name not in values:
            attributes = graph.nodes[name]
            total = attributes["bias"] + sum(w * values[p] for p, _, w in graph.in_edges(name, data="weight"))
            values[name] = FUNCTIONS[attributes["activation"]](total)
    return values


@given(seed=st.integers(0, 10**6))
def test_the_net_computes_what_the_graph_does(seed: int) -> None:
    graph, rng = random_graph(seed), np.random.default_rng(seed)
    net = gbn.convert(graph)
    inputs = {name: rng.normal(size=(4, 1)) for name, degree in graph.in_degree if not degree}
    assert set(net.inputs) == set(inputs)
    expected = forward(graph, inputs)
    values = net.forward(inputs)
    for name in graph:
        np.testing.assert_allclose(values[name], np.broadcast_to(expected[name], (4, 1)), rtol=1e-12, atol=1e-14)
    noisy = {name: graph.nodes[name]["variance"] for name in graph if "variance" in graph.nodes[name]}
    assert {name.removesuffix(".sum"): float(net.noise(name).value) for name in net.latents} == noisy


def test_names() -> None:
    graph = nx.DiGraph()
    graph.add_edge("x", "h", weight=2)
    graph.add_edge("h", "y", weight=np.float32(-1.5))
    graph.add_node("h", activation="ReLU", variance=0.25, bias=1)
    graph.add_node("y", activation=None)
    net = from_networkx(graph)
    assert list(net) == ["x", "h.x.weight", "h.bias", "h.sum", "h", "y.h.weight", "y.bias", "y"]
    assert (net.inputs, net.latents, net.outputs) == (("x",), ("h.sum",), ("y",))
    assert net["h"].op == "Relu"
    assert net.forward({"x": [[2.0]]})["y"].tolist() == [[-7.5]]


def test_an_input_with_variance_has_a_prior() -> None:
    graph = nx.DiGraph()
    graph.add_node("x", bias=3.0, variance=2.0)
    graph.add_node("y", variance=0.5)
    graph.add_edge("x", "y", weight=1.0)
    post = gbn.convert(graph).query(["x"], evidence={"y": [[4.0]]})
    np.testing.assert_allclose([post.mean["x"].item(), post.var["x"].item()], [3.8, 0.4], rtol=1e-12)


@pytest.mark.parametrize(
    ("spelling", "op"),
    [("tanh", "Tanh"), ("TANH", "Tanh"), ("leaky_relu", "LeakyRelu"), ("logistic", "Sigmoid"), ("SiLU", "Swish")]
    + [(name, name) for name in activations()],
)
def test_activations_go_by_common_names_and_ops(spelling: str, op: str) -> None:
    graph = nx.DiGraph([("x", "h", {"weight": 1.0})])
    graph.nodes["h"]["activation"] = spelling
    assert gbn.convert(graph)["h"].op == op


def test_linear_is_the_identity() -> None:
    graph = nx.DiGraph([("x", "h", {"weight": 1.0})])
    graph.nodes["h"]["activation"] = "linear"
    assert gbn.convert(graph)["h"].op == "Linear"


def broken(node: str = "h", edge: object = 1.0, **attributes: object) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_edge("x", "h", weight=edge)
    graph.add_node(node, **attributes)
    return graph


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (nx.DiGraph([("a", "b"), ("b", "c"), ("c", "a")]), "got the cycle '.' -> '.' -> '.' -> '.', expected"),
        (nx.DiGraph([("a", "b", {})]), "edge 'a' -> 'b': got no weight"),
        (broken(edge="big"), "weight of edge 'x' -> 'h': got 'big', expected a number"),
        (broken(edge=np.inf), "weight of edge 'x' -> 'h': got inf, expected a finite number"),
        (broken(bias=[1.0, 2.0]), "bias of node 'h': got .*, expected a number"),
        (broken(activation="rellu"), "activation of node 'h': got 'rellu', unknown; did you mean 'relu'"),
        (broken(activation=np.tanh), "activation of node 'h': got <ufunc 'tanh'>, unknown"),
        (broken(variance=0.0), "variance of node 'h': got 0.0, expected a positive number"),
        (broken("x", activation="relu"), "activation of node 'x': no edge leads to it, so it is an input"),
        (broken("x", bias=1.0), "bias of node 'x': no edge leads to it.*without variance"),
        (nx.DiGraph([(1, "b", {"weight": 1.0})]), "node 1: got a name of type int, expected a string"),
        (nx.Graph([("a", "b")]), "got a networkx.Graph, expected a DiGraph"),
    ],
)
def test_errors_name_the_node(graph: nx.Graph, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        gbn.convert(graph)


def test_the_graph_of_a_net_shows_the_structure_only() -> None:
    net = GaussianBayesNet()
    net.add_input("x", 2)
    with pytest.raises(ConversionError, match=r"MultiDiGraph.*to_neurons\(net\)"):
        gbn.convert(net.to_networkx())


def test_what_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"options of the networkx converter: got \['depth'\]"):
        gbn.convert(nx.DiGraph(), depth=3)
    with pytest.raises(ConversionError, match=r"^noise: got 0\.1, but this model brings"):
        gbn.convert(nx.DiGraph(), noise=0.1)


def test_subclasses_are_taken() -> None:
    class Mine(nx.DiGraph):
        pass

    assert converters.networkx.accepts(Mine())
    assert not converters.networkx.accepts("graph")
