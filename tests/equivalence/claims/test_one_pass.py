"""One pass against iteration, by width: the widths of known graphs, the answers of a dense solve."""

import networkx as nx
import numpy as np
import pytest
from networkx.algorithms.approximation import treewidth_min_fill_in

from gbn.equivalence.claims import one_pass
from gbn.evidence import Evidence


def width(graph):
    net = one_pass.field(graph, np.random.default_rng(0), 0.5)
    seen = {f"o{k}": np.zeros((1, 1)) for k in range(len(graph))}
    return one_pass.elimination(Evidence.read(net, seen))


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (nx.path_graph(12), 1),
        (nx.full_rary_tree(3, 13), 1),
        (nx.cycle_graph(9), 2),
        (nx.complete_graph(6), 5),
        (nx.empty_graph(4), 0),
    ],
)
def test_widths_of_known_graphs(graph, expected):
    assert width(graph)[0] == expected


def test_the_width_of_a_grid_is_near_its_treewidth():
    for w in (2, 3, 4):
        grid = nx.convert_node_labels_to_integers(nx.grid_2d_graph(8, w))
        moral = nx.moral_graph(nx.DiGraph([(min(e), max(e)) for e in grid.edges]))
        bound = treewidth_min_fill_in(moral)[0]
        assert bound <= width(grid)[0] <= bound + 1


def test_the_work_of_a_chain_is_two_squared_a_vertex():
    # Every vertex but the last meets one other: (1 + 1)² multiplications, and 1 at the end.
    assert width(nx.path_graph(10)) == (1, 9 * 4 + 1)


def test_one_pass_is_exact_and_iteration_is_not():
    found = one_pass.experiment((1, 2, 3), nodes=12, networks=("mlp", "rnn"))
    assert found.figures["largest error of one pass"] < 1e-12
    rows = {row["graph"]: row for row in found.table}
    for name in ("tree", "grid 1 x 12"):
        assert rows[name]["width"] == 1
        assert rows[name]["rounds"] == 1
        assert max(rows[name]["mean error"], rows[name]["variance error"]) < 1e-12
    ring = rows["ring"]
    assert ring["width"] == 2
    assert ring["mean error"] < 1e-5
    assert ring["variance error"] > 0.01
    assert rows["grid 3 x 4"]["multiplications a vertex"] > rows["grid 2 x 6"]["multiplications a vertex"]
    assert found.figures["width, mlp"] == 1
    assert found.figures["width, rnn"] == 2  # a step's input and recurrent sums meet in the next recurrent sum


def test_strong_couplings_break_belief_propagation_and_not_the_pass():
    found = one_pass.experiment((3,), nodes=24, networks=(), coupling=1.2)
    grid = found.table[-1]
    assert grid["belief propagation"] == "broke down"
    assert grid["one pass, error"] < 1e-12
    assert found.figures["of these, belief propagation arrived"] < found.figures["graphs with loops"]


def test_it_draws():
    plt = pytest.importorskip("matplotlib.pyplot")
    assert one_pass.experiment((1, 2), nodes=8, networks=()).plot().lines
    plt.close("all")
