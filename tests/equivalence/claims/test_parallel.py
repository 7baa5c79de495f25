"""Idealised parallel time: closed forms for layers and towers, and the bounds that every list schedule obeys."""

import networkx as nx
import numpy as np
import pytest
from scipy.stats import nbinom

from gbn.equivalence.claims import parallel
from gbn.equivalence.claims.networks import tanh_mlp
from gbn.evidence import Evidence


def test_critical_paths_and_messages_of_layers():
    found = parallel.experiment((2, 5), (1,), branches=1, depth=1, width=3)
    rows = {(row["layers"], row["what"]): row for row in found.table}
    for layers in (2, 5):
        above = layers - 1  # latents, each with a nonlinearity between it and the next
        forward, sweep = rows[layers, "forward pass"], rows[layers, "sweep"]
        assert (forward["critical path"], sweep["critical path"]) == (2 * layers - 1, 2 * above)
        together = rows[layers, "parallel, step 1"]
        assert (together["rounds"], together["critical path"]) == (above, 2 * above)
        # The first latent to hear needs its nonlinearity once; from then on each layer moves once a round.
        slow = rows[layers, "parallel, step 0.1"]
        assert slow["rounds"] == above + nbinom.ppf(1 - 1e-3, above, 0.1)
        assert slow["critical path"] == slow["rounds"] + above
        # A sweep: y speaks before and in it, and every hidden vertex once, the first latent to none.
        assert sweep["messages"] == 2 + (2 * above - 1)
    assert rows[5, "live prediction, gradient rounds"]["critical path"] > 10 * rows[5, "sweep"]["critical path"]


@pytest.mark.parametrize("seed", range(5))
def test_list_schedules_obey_their_bounds(seed):
    rng = np.random.default_rng(seed)
    graph = nx.DiGraph([(a, b) for b in range(40) for a in range(b) if rng.random() < 0.06])
    graph.add_nodes_from(range(40))
    tasks = {v: list(graph.predecessors(v)) for v in range(40)}
    longest = nx.dag_longest_path_length(graph) + 1
    assert parallel.critical_path(tasks) == longest
    assert parallel.makespan(tasks, 1) == 40
    assert parallel.makespan(tasks, 40) == longest
    for processors in (2, 3, 7):  # Graham's bound
        time = parallel.makespan(tasks, processors)
        assert max(longest, 40 / processors) <= time <= 40 / processors + longest


def test_towers_share_processors():
    net = parallel.towers(4, 3, 2, np.random.default_rng(0))
    evidence = Evidence.read(net, {"y": [[0.0, 1.0]]}, {"x": [[1.0, 2.0]]})
    forward, sweep = parallel.forward_tasks(evidence), parallel.message_tasks(evidence, "sweep", 1)
    assert [parallel.makespan(forward, p) for p in (1, 2, 4, 100)] == [4 * 6 + 1, 2 * 6 + 1, 6 + 1, 6 + 1]
    assert [parallel.makespan(sweep, p) for p in (1, 2, 4, 100)] == [4 * 6, 2 * 6, 6, 6]


def test_what_an_update_waits_for():
    net = tanh_mlp((2, 2, 2), np.random.default_rng(0))
    evidence = Evidence.read(net, {"y": [[0.0, 1.0]]}, {"x": [[1.0, 2.0]]})
    assert parallel.message_tasks(evidence, "sweep", 1) == {(1, "h1"): [], (1, "a1"): [(1, "h1")]}
    late = parallel.message_tasks(evidence, "forward", 2)
    assert set(late[2, "a1"]) == {(1, "a1"), (1, "h1")}


def test_it_draws_settling_times():
    plt = pytest.importorskip("matplotlib.pyplot")
    found = parallel.experiment((2, 3), (1, 2), branches=2, depth=1, width=2, live=False)
    assert len(found.plot().lines) == 4
    plt.close("all")
