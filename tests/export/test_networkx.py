"""A net as a networkx graph, and as one of neurons."""

from collections.abc import Callable

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gbn
from gbn.errors import ConversionError
from gbn.export.networkx import to_networkx, to_neurons
from gbn.net import GaussianBayesNet


@pytest.fixture
def net() -> GaussianBayesNet:
    net = GaussianBayesNet()
    net.add_input("x", (2, 3), mean=0.0, cov=2.0)
    net.add_parameter("w", np.ones(3), cov=np.diag([1.0, 4.0, 9.0]))
    net.add("m", "Mul", ["x", "w"])
    net.add("square", "Mul", ["m", "m"], cov=np.full((2, 3), 0.5))
    net.add_noise("common", 0.1, (2, 3))
    net.add("a", "Tanh", ["square"], cov="common")
    net.add("b", "Exp", ["square"], cov="common")
    net.add_likelihood("b.label", "bernoulli", "b")
    return net


def test_nodes_are_the_vertices_in_order(net: GaussianBayesNet) -> None:
    assert list(to_networkx(net)) == list(net)


def test_every_place_of_a_parent_is_an_edge(net: GaussianBayesNet) -> None:
    graph = net.to_networkx()
    assert isinstance(graph, networkx.MultiDiGraph)
    places = {(u, v, d["position"]) for u, v, d in graph.edges(data=True)}
    assert places == {(p, name, k) for name in net for k, p in enumerate(net[name].parents)}
    assert graph.number_of_edges("m", "square") == 2
    assert all(key == d["position"] for _, _, key, d in graph.edges(keys=True, data=True))


def test_it_is_acyclic_and_the_order_of_the_net_is_topological(net: GaussianBayesNet) -> None:
    graph = to_networkx(net)
    assert networkx.is_directed_acyclic_graph(graph)
    place = {name: k for k, name in enumerate(graph)}
    assert all(place[u] < place[v] for u, v in graph.edges())


def test_attributes(net: GaussianBayesNet) -> None:
    nodes = to_networkx(net).nodes
    for name in net:
        for field in ("kind", "op", "shape", "plated"):
            assert nodes[name][field] == getattr(net[name], field)
    assert {name: nodes[name]["noise"] for name in net} == {
        "x": "scalar", "w": "full", "m": None, "square": "diagonal", "a": "scalar", "b": "scalar", "b.label": None,
    }  # fmt: skip
    assert nodes["x"]["variance"] == 2.0
    np.testing.assert_array_equal(nodes["w"]["variance"], [1.0, 4.0, 9.0])
    np.testing.assert_array_equal(nodes["square"]["variance"], np.full((2, 3), 0.5))
    assert nodes["m"]["variance"] is None
    assert nodes["a"]["noise_name"] == nodes["b"]["noise_name"] == "common"
    assert nodes["square"]["label"] == "square\nMul 2×3"
    assert nodes["x"]["label"] == "x\ninput 2×3"


def test_the_graph_knows_inputs_and_outputs(net: GaussianBayesNet) -> None:
    net.set_outputs(["b", "a"])
    assert to_networkx(net).graph == {"inputs": ("x",), "outputs": ("b", "a")}


def test_an_empty_net() -> None:
    assert len(to_networkx(GaussianBayesNet())) == 0


def run(graph: networkx.DiGraph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every neuron at its mean, the graph run node by node."""
    functions = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), "identity": lambda x: x}
    values = dict(inputs)
    for name in networkx.topological_sort(graph):
        if name not in values:
            edges = graph.in_edges(name, data="weight")
            total = graph.nodes[name]["bias"] + sum(weight * values[parent] for parent, _, weight in edges)
            values[name] = functions[graph.nodes[name]["activation"]](total)
    return values


def scalars(values: dict[str, np.ndarray], net: GaussianBayesNet) -> dict[str, np.ndarray]:
    """name[i] -> value, shape (samples,), of every vertex with a value per sample."""
    return {
        f"{name}[{','.join(map(str, index))}]" if vertex.shape != (1,) else name: values[name][(slice(None), *index)]
        for name, vertex in net.vertices.items()
        if vertex.plated
        for index in np.ndindex(vertex.shape)
    }


def mlp() -> GaussianBayesNet:
    """Two layers; the first has an activation and a skip around it, so that its sum is a neuron of its own."""
    rng, net = np.random.default_rng(0), GaussianBayesNet()
    net.add_input("x", 3)
    net.add_linear("a", {"x": rng.normal(size=(2, 3))}, bias=rng.normal(size=2), cov=[0.1, 0.2])
    net.add("h", "Tanh", ["a"])
    net.add_linear("b", {"h": rng.normal(size=(2, 2))}, cov=0.3)
    net.add("g", "Relu", ["b"])
    net.add("r", "Relu", ["x"])
    net.add("sum", "Add", ["g", "a"])
    net.add_linear("y", {"sum": rng.normal(size=(1, 2)), "r": rng.normal(size=(1, 3))}, bias=[0.5], cov=0.4)
    return net


def test_neurons_compute_what_the_net_does() -> None:
    net, rng = mlp(), np.random.default_rng(1)
    graph, x = to_neurons(net), rng.normal(size=(5, 3))
    expected = scalars(net.forward({"x": x}), net)
    values = run(graph, {f"x[{k}]": x[:, k] for k in range(3)})
    assert set(values) == set(expected) - {"b[0]", "b[1]"}
    for name in values:
        np.testing.assert_allclose(values[name], expected[name], rtol=1e-13, atol=1e-14)
    assert graph.nodes["x[0]"] == {}
    assert graph.nodes["a[1]"]["variance"] == 0.2
    assert graph.nodes["g[0]"] == {"bias": 0.0, "activation": "relu", "variance": 0.3}
    assert graph.nodes["h[0]"] == {"bias": 0.0, "activation": "tanh"}
    assert not graph.has_edge("a[0]", "h[1]")


def test_neurons_there_and_back() -> None:
    graph = to_neurons(mlp())
    again = to_neurons(gbn.convert(graph))
    assert dict(again.nodes) == dict(graph.nodes)
    assert {(*edge,) for edge in again.edges(data="weight")} == {(*edge,) for edge in graph.edges(data="weight")}


def test_the_posterior_survives_the_way_there_and_back() -> None:
    net, x = mlp(), np.array([[0.3, -0.2, 0.5]])
    back = gbn.convert(to_neurons(net))
    one = net.query(["a"], evidence={"x": x, "y": [[2.0]]})
    evidence = {f"x[{k}]": x[:, k : k + 1] for k in range(3)} | {"y": [[2.0]]}
    other = back.query(["a[0]", "a[1]"], evidence=evidence)
    for k in range(2):
        np.testing.assert_allclose(other.mean[f"a[{k}]"][:, 0], one.mean["a"][:, k], rtol=1e-12)
        np.testing.assert_allclose(other.var[f"a[{k}]"][:, 0], one.var["a"][:, k], rtol=1e-12)
    np.testing.assert_allclose(other.log_evidence, one.log_evidence, rtol=1e-12)


@given(seed=st.integers(0, 10**6))
def test_a_graph_of_neurons_comes_back_as_it_was(seed: int) -> None:
    rng, graph = np.random.default_rng(seed), networkx.DiGraph()
    names = [f"n{k}" for k in rng.permutation(8)]
    for k, name in enumerate(names):
        parents = rng.choice(names[:k], size=rng.integers(0, min(k, 3) + 1), replace=False).tolist() if k > 1 else []
        graph.add_node(name)
        if parents or rng.random() < 0.5:
            kinds = ["tanh", "relu", "identity", "leakyrelu"] if parents else ["identity"]
            graph.add_node(name, bias=float(rng.normal()), activation=str(rng.choice(kinds)))
            if not parents or rng.random() < 0.5:
                graph.nodes[name]["variance"] = float(rng.uniform(0.1, 1))
        weights = rng.normal(size=len(parents)) * (rng.random(len(parents)) < 0.8)
        graph.add_weighted_edges_from(zip(parents, [name] * len(parents), weights.tolist(), strict=True))
    again = to_neurons(gbn.convert(graph))
    assert dict(again.nodes) == dict(graph.nodes)
    assert set(again.edges(data="weight")) == set(graph.edges(data="weight"))


def product(net: GaussianBayesNet) -> None:
    net.add("z", "Mul", ["x", "x"])


def softmax(net: GaussianBayesNet) -> None:
    net.add("z", "Softmax", ["x"], axis=1)


def sloped(net: GaussianBayesNet) -> None:
    net.add("z", "LeakyRelu", ["x"], alpha=0.3)


def noisy_activation(net: GaussianBayesNet) -> None:
    net.add("z", "Tanh", ["x"], cov=0.1)


def correlated(net: GaussianBayesNet) -> None:
    net.add("z", "Neg", ["x"], cov=[[1.0, 0.5], [0.5, 1.0]])


def label(net: GaussianBayesNet) -> None:
    net.add_likelihood("z", "categorical", "x")


def random_parameter(net: GaussianBayesNet) -> None:
    net.add_parameter("z", [1.0, 2.0], cov=1.0)
    net.add("y", "Mul", ["x", "z"])


def constant(net: GaussianBayesNet) -> None:
    net.add("z", "Linear", [net.add_parameter("w", [2.0])])


def namesake(net: GaussianBayesNet) -> None:
    net.add_input("x[1]", 1)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (product, "'z' is not made of neurons: got a Mul"),
        (softmax, "'z' is not made of neurons: got a Softmax"),
        (sloped, r"'z' is not made of neurons: got a LeakyRelu with {'alpha': 0.3}"),
        (noisy_activation, "'z' is not made of neurons: got noise behind an activation"),
        (correlated, r"'z' is not made of neurons: got correlated noise.*to_pgmpy\(\)"),
        (label, "'z' is a label"),
        (random_parameter, "parameter 'z' has a prior"),
        (constant, "'z' is a constant"),
        (namesake, r"two scalars would be named 'x\[1\]'"),
    ],
)
def test_what_no_neuron_is(add: Callable[[GaussianBayesNet], None], message: str) -> None:
    net = GaussianBayesNet()
    net.add_input("x", 2)
    add(net)
    with pytest.raises(ConversionError, match=f"to_neurons: {message}"):
        to_neurons(net)
