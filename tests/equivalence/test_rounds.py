"""Rounds of fixed prediction from the graph: against rounds that were made, and paths that were counted."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

import gbn
from gbn.equivalence import (
    gradient_by_path_length,
    gradients_by_round,
    latents_on_paths,
    predicted_errors,
    rounds_needed,
)
from gbn.evidence import Evidence
from tests.dense import backprop
from tests.nets import random_evidence, random_net, tanh_chain

SEEDS = st.integers(0, 2**32 - 1)


def counted(net, observed):
    """Least and most latents on the paths from each parameter, by listing the paths."""
    graph = nx.DiGraph([(p, n) for n, v in net.vertices.items() for p in v.parents])
    graph.remove_edges_from([edge for name in observed for edge in list(graph.out_edges(name))])
    found = {}
    for name in net.parameters:
        paths = [path for end in observed for path in nx.all_simple_paths(graph, name, end)]
        lengths = [sum(net[v].random for v in path[:-1]) for path in paths]
        if lengths:
            found[name] = min(lengths), max(lengths)
    return found


@settings(max_examples=30)
@given(SEEDS)
def test_latents_are_counted_along_every_path(seed):
    net = random_net(seed, "smooth", vertices=9)
    others = [n for n in net.latents if n != "out"]
    observed = ["out", *others[: seed % 2]]
    assert latents_on_paths(net, observed) == counted(net, observed)


def layered(depth, seed=0):
    net = tanh_chain((4, *[5] * (depth - 1), 3), seed=seed)
    rng = np.random.default_rng(seed + 1)
    return net, {"x": rng.normal(size=(4, 4)), "y": rng.normal(size=(4, 3))}


@pytest.mark.parametrize("schedule", ["parallel", "sweep"])
@pytest.mark.parametrize("eta", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_rounds_needed_are_the_rounds_that_a_layered_net_takes(depth, eta, schedule):
    net, evidence = layered(depth)
    expected, _ = backprop(net, {"y": evidence["y"]}, {"x": evidence["x"]}, 4)
    for tol in (1e-2, 1e-6):
        needed = rounds_needed(net, eta, tol, schedule=schedule)
        errors = [
            max(np.linalg.norm(-g[n] - expected[n]) / np.linalg.norm(expected[n]) for n in g)
            for g in gradients_by_round(net, evidence, needed, schedule=schedule, step_size=eta)
        ]
        assert errors[-1] <= tol
        assert needed == 0 or errors[-2] > tol


def test_a_hundred_rounds_are_the_tail_of_a_binomial():
    net, _ = layered(4)
    assert rounds_needed(net, 0.1, 1e-3) == next(t for t in range(1000) if binom.sf(2, t, 0.1) >= 1 - 1e-3) == 108
    assert rounds_needed(net, 1.0, 1e-12) == 3
    assert rounds_needed(net, 0.1, 1e-3, observed=["a1"]) == 0
    assert rounds_needed(net, 0.1, 1e-12) > 250  # tails far below the rounding of 1 - tol


@settings(max_examples=20)
@given(SEEDS, st.sampled_from([("parallel", 0.2), ("parallel", 1.0), ("sweep", 0.5)]))
def test_errors_of_any_net_follow_the_law(seed, how):
    schedule, eta = how
    net = random_net(seed, "smooth", vertices=7)
    evidence, do = random_evidence(net, seed + 1)
    inputs = {n: evidence.pop(n) for n in list(evidence) if net[n].needs_data}
    read = Evidence.read(net, evidence, {**do, **inputs})
    expected, _ = backprop(net, evidence, {**do, **inputs}, 3)
    law = predicted_errors(net, read, eta, 8, schedule=schedule)
    trace = list(gradients_by_round(net, read, 8, schedule=schedule, step_size=eta))
    for name, errors in law.items():
        size = np.linalg.norm(expected[name])
        if size > 1e-8:
            measured = [np.linalg.norm(-found[name] - expected[name]) / size for found in trace]
            np.testing.assert_allclose(measured, errors, rtol=1e-7, atol=1e-9)


def test_contributions_by_path_length_add_up_to_backprop():
    net = random_net(5, "smooth", vertices=9)
    evidence, do = random_evidence(net, 6, missing=0)
    inputs = {n: evidence.pop(n) for n in list(evidence) if net[n].needs_data}
    expected, _ = backprop(net, evidence, {**do, **inputs}, 3)
    for name, parts in gradient_by_path_length(net, Evidence.read(net, evidence, {**do, **inputs})).items():
        np.testing.assert_allclose(-parts.sum(axis=0), expected[name], rtol=1e-9, atol=1e-11)


def test_faults_are_named():
    net, evidence = layered(2)
    with pytest.raises(gbn.InferenceError, match=r"step_size=2"):
        rounds_needed(net, 2)
    with pytest.raises(gbn.InferenceError, match="no law"):
        rounds_needed(net, 0.1, schedule="random")
    with pytest.raises(gbn.UnknownNameError, match="'z'"):
        rounds_needed(net, observed=["z"])
    with pytest.raises(gbn.InferenceError, match="no parameter"):
        rounds_needed(net, observed=["x"])
    with pytest.raises(gbn.InferenceError, match="asynchronous"):
        next(gradients_by_round(net, evidence, 1, schedule="asynchronous"))
