"""Passes for each order, against what waiting at vertices comes to."""

import numpy as np
import pytest

from gbn.equivalence.claims import single_pass
from gbn.equivalence.claims.networks import tanh_mlp
from gbn.evidence import Evidence


def waiting(vertices, rng):
    """Rounds that a message takes along a chain, each round visiting its vertices in a new random order."""
    at = rounds = 0
    while at < vertices:
        rounds += 1
        for vertex in rng.permutation(vertices):
            at += int(vertex == at)
    return rounds


def test_passes_of_each_order():
    found = single_pass.experiment((2, 5, 9), width=3, draws=30, seed=1)
    assert found.holds
    rng = np.random.default_rng(0)
    for layers, row in zip((2, 5, 9), np.transpose([found.series[order] for order in single_pass.ORDERS]), strict=True):
        reverse, parallel, random, forward = row
        vertices = 2 * (layers - 1)
        assert (reverse, parallel, forward) == (1, layers - 1, vertices)
        expected = [waiting(vertices, rng) for _ in range(2000)]
        assert random == pytest.approx(np.mean(expected), abs=4 * np.std(expected) / np.sqrt(30) + 1e-9)


def test_a_long_chain_goes_e_minus_one_vertices_a_random_pass():
    found = single_pass.experiment((40,), width=4, samples=1, draws=10)
    assert found.figures["vertices a pass in random order"] == pytest.approx(np.e - 1, rel=0.06)


def test_a_sweep_sends_one_message_a_line():
    rng = np.random.default_rng(0)
    net = tanh_mlp((3, 4, 4, 2), rng)
    evidence = Evidence.read(net, {"x": rng.normal(size=(2, 3)), "y": rng.normal(size=(2, 2))})
    rounds, sent = single_pass.arrival(evidence, "sweep")
    assert rounds == 1
    # y speaks once before the first round and once in it.
    on_the_way = ("h2", "a2", "h1", "a1", "y")
    spoken = sum(len([p for p in net[n].parents if net[p].plated and p != "x"]) for n in on_the_way)
    assert sent == spoken + 1
    assert single_pass.arrival(evidence, "forward", max_rounds=1)[0] == -1


def test_it_draws_one_line_an_order():
    plt = pytest.importorskip("matplotlib.pyplot")
    assert len(single_pass.experiment((2, 3), draws=1).plot().lines) == 4
    plt.close("all")
