"""A net as a networkx graph."""

import networkx
import numpy as np
import pytest

from gbn.export.networkx import to_networkx
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
