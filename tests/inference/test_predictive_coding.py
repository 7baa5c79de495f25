"""Engine "pc": the free energy by the test's own forward code, its equilibrium, and what the engine reports."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gbn.errors import ConvergenceWarning, InferenceError
from gbn.inference import gradient
from gbn.inference.predictive_coding import equilibrium
from gbn.net import GaussianBayesNet
from tests.dense import LOG_2PI, Dense, Program, backprop, covariance, negative_log_likelihood
from tests.nets import random_covariance, random_evidence, random_net, row, tanh_chain

SEEDS = st.integers(0, 2**32 - 1)


def energy(net, values, evidence, do):
    """F(v) = ½ Σ (εᵀ Λ ε + log |2πQ|) - log p(labels) of one row, from the values of the vertices with noise.

    Observed entries are put in from the evidence, deterministic vertices are computed.
    """
    program, filled, total = Program(net), {}, 0.0
    for name, vertex in net.vertices.items():
        if vertex.kind == "likelihood":
            if name in evidence:
                target = torch.as_tensor(evidence[name])
                total += float(negative_log_likelihood(vertex.op, filled[vertex.parents[0]][0], target))
            continue
        if name in do:
            filled[name] = torch.as_tensor(do[name])[None]
            continue
        if vertex.kind == "op":
            mean = program.apply(name, [filled[p] for p in vertex.parents])
        else:
            mean = torch.as_tensor(np.array(vertex.value))
            mean = mean[None] if vertex.plated else mean
        filled[name] = mean
        if vertex.random:
            value = np.array(values.get(name, evidence.get(name)), dtype=float)
            if name in evidence:
                value = np.where(np.isnan(evidence[name]), value, evidence[name])
            error = (value - mean.numpy().reshape(vertex.shape)).reshape(-1)
            q = covariance(net, name)
            total += 0.5 * (error @ np.linalg.solve(q, error) + np.linalg.slogdet(q)[1] + len(error) * LOG_2PI)
            filled[name] = torch.as_tensor(value)[None]
    return total


def split(net, evidence, do):
    inputs = {n: v for n, v in evidence.items() if net[n].needs_data}
    return {n: v for n, v in evidence.items() if n not in inputs}, do | inputs


def check_stationary(net, post, evidence, do, tolerance=2e-5, step=1e-5):
    """Central differences of F by every free entry vanish, against how large they are at the forward pass."""
    for n in range(post.evidence.samples):
        e, d = row(evidence, n), row(do, n)
        start = {name: v.numpy()[0] for name, v in Dense(net, e, d).values.items() if net[name].plated}
        at = {name: post.mean[name][n] for name in net.latents}
        differences = {"start": [], "end": []}
        for name in net.latents:
            if name in d:
                continue
            given = e.get(name, np.full(net[name].shape, np.nan))
            for index in zip(*np.nonzero(np.isnan(given)), strict=True):
                for label, point in (("start", start), ("end", at)):
                    shift = np.zeros(net[name].shape)
                    shift[index] = step
                    up, down = (energy(net, point | {name: point[name] + s * shift}, e, d) for s in (1, -1))
                    differences[label].append((up - down) / (2 * step))
        worst = np.abs(differences["end"]).max(initial=0)
        assert worst <= tolerance * max(1, np.abs(differences["start"]).max(initial=0))
        assert energy(net, at, e, d) <= energy(net, start, e, d) + 1e-9
        np.testing.assert_allclose(post.free_energy[n], energy(net, at, e, d), rtol=1e-9)


@settings(max_examples=15)
@given(SEEDS)
def test_the_live_equilibrium_is_stationary(seed):
    net = random_net(seed, "smooth")
    evidence, do = split(net, *random_evidence(net, seed + 1, samples=2))
    post = net.query(None, evidence, do, engine="pc", prediction="live", tol=1e-8)
    assert post.converged
    check_stationary(net, post, evidence, do)


@settings(max_examples=20)
@given(SEEDS)
def test_the_live_equilibrium_of_a_linear_net_is_its_posterior_mean(seed):
    net = random_net(seed)
    evidence, do = random_evidence(net, seed + 1)
    post = net.query(None, evidence, do, engine="pc", prediction="live", tol=1e-10)
    evidence, do = split(net, evidence, do)
    for n in range(3):
        dense = Dense(net, row(evidence, n), row(do, n))
        for name in dense.where:
            np.testing.assert_allclose(post.mean[name][n], dense.mean_of(name), rtol=1e-6, atol=1e-6)
            if net[name].random and name not in do:
                np.testing.assert_allclose(post.messages[name][n], dense.message_of(name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [3, 12])
def test_deep_tanh_nets_reach_their_equilibrium(depth):
    net = tanh_chain((3, *[6] * depth, 2), hidden=0.5, output=0.1, prior=1.0)
    evidence = {"y": np.random.default_rng(0).normal(size=(3, 2))}
    post = net.query(None, evidence, engine="pc", prediction="live", tol=1e-6)
    assert post.converged
    assert post.diagnostics["kinks"] == 0
    assert post.diagnostics["evaluations"] < 100
    if depth == 3:
        check_stationary(net, post, evidence, {}, tolerance=1e-5)
    gap = [
        post.messages[a] - (post.mean[a] - post.mean[b] @ net[f"{a}.{b}.weight"].value.T - net[f"{a}.bias"].value) / 0.5
        for a, b in (("a1", "x"), ("a2", "h1"))
    ]
    np.testing.assert_allclose(np.concatenate(gap), 0, atol=1e-4)


def test_precise_outputs_do_not_stop_it_early():
    """Stiff and smooth: directions of curvature 1e6 beside directions of curvature 1."""
    net = tanh_chain((3, *[6] * 10, 2), hidden=1.0, output=1e-6, prior=1.0)
    evidence = {"y": np.random.default_rng(0).normal(size=(4, 2))}
    post = net.query(None, evidence, engine="pc", prediction="live", tol=1e-10)
    assert post.diagnostics["kinks"] == 0
    np.testing.assert_allclose(post.messages["x"], post.mean["x"], atol=1e-4)


def test_a_partly_observed_vertex_with_a_full_covariance():
    rng = np.random.default_rng(9)
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=[0.2, -0.3], cov=0.7)
    net.add_linear(
        "m", {"x": rng.normal(size=(3, 2))}, cov=np.array([[1.0, 0.5, 0.2], [0.5, 1.5, -0.4], [0.2, -0.4, 0.8]])
    )
    net.add("h", "Tanh", ["m"])
    net.add_linear("y", {"h": rng.normal(size=(2, 3))}, cov=[0.25, 0.5])
    nan = np.nan
    evidence = {
        "m": np.array([[nan, 0.9, nan], [0.1, nan, -2.0], [nan] * 3, [1.0, 2.0, 0.0]]),
        "y": np.array([[1.0, nan], [nan, 0.5], [1.0, -1.0], [0.0, 1.0]]),
    }
    post = net.query(None, evidence, engine="pc", prediction="live", tol=1e-9)
    check_stationary(net, post, evidence, {})
    known = ~np.isnan(evidence["m"])
    np.testing.assert_array_equal(post.mean["m"][known], evidence["m"][known])


@pytest.mark.parametrize("kind", ["categorical", "bernoulli"])
def test_labels_at_the_equilibrium(kind):
    rng = np.random.default_rng(3)
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add_linear("a", {"x": rng.normal(size=(3, 2))}, cov=random_covariance(rng, 3))
    net.add("h", "Tanh", ["a"])
    net.add_linear("z", {"h": rng.normal(size=(3, 3))}, cov=0.5)
    net.add_likelihood("t", kind, "z")
    nan = np.nan
    if kind == "categorical":
        evidence = {"t": np.array([[0, 1.0, 0], [nan] * 3, [0.2, 0.3, 0.5]])}
    else:
        evidence = {"t": np.array([[0, 1.0, nan], [nan] * 3, [1.0, 0.5, 0]])}
    post = net.query(None, evidence, engine="pc", prediction="live", tol=1e-9)
    check_stationary(net, post, evidence, {})
    np.testing.assert_allclose(post.mean["x"][1], 0, atol=1e-12)


@settings(max_examples=15)
@given(SEEDS)
def test_the_fixed_prediction_free_energy_is_that_of_its_errors(seed):
    """ε = Q λ at latents; the observed keep theirs."""
    net = random_net(seed, "smooth")
    evidence, do = split(net, *random_evidence(net, seed + 1, samples=2))
    post = net.query(None, evidence, do, engine="pc")
    expected = np.zeros(2)
    for name in net.latents:
        if name in do:
            np.testing.assert_array_equal(post.surprise[name], 0)
            continue
        q = covariance(net, name)
        lam = post.messages[name].reshape(2, -1)
        share = 0.5 * ((lam @ q * lam).sum(1) + np.linalg.slogdet(q)[1] + len(q) * LOG_2PI)
        np.testing.assert_allclose(post.surprise[name], share, rtol=1e-9)
        expected += share
    np.testing.assert_allclose(post.free_energy, expected, rtol=1e-9)


def test_the_free_energy_of_random_parameters_is_one_number():
    rng = np.random.default_rng(2)
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("w", rng.normal(size=(2, 3)), cov=0.2)
    net.add("y", "MatMul", ["x", "w"], cov=0.5)
    x, y = rng.normal(size=(4, 2)), rng.normal(size=(4, 3))
    post = net.query(["w"], {"x": x, "y": y}, engine="pc")
    error = y - x @ net["w"].value
    lam = x.T @ error / 0.5
    expected = 0.5 * ((error**2).sum() / 0.5 + 12 * np.log(np.pi) + 0.2 * (lam**2).sum() + 6 * np.log(0.4 * np.pi))
    assert post.free_energy.shape == ()
    np.testing.assert_allclose(post.free_energy, expected)
    np.testing.assert_allclose(post.mean["w"], net["w"].value + 0.2 * lam)
    with pytest.raises(InferenceError, match="'w' is random"):
        net.query(["w"], {"x": x, "y": y}, engine="pc", prediction="live")


def test_an_equilibrium_on_a_kink_stops_without_failing():
    """F = ½ (v - 0.5)² + ½ (max(v, 0) + 1)² / 0.1 is least where relu bends: its slopes there are -0.5 and 9.5."""
    net = GaussianBayesNet()
    net.add_input("v", 1, mean=0.5, cov=1.0)
    net.add("h", "Relu", ["v"])
    net.add_linear("y", {"h": [[1.0]]}, cov=0.1)
    post = net.query(None, {"y": [[-1.0]]}, engine="pc", prediction="live")
    assert abs(post.mean["v"][0, 0]) < 1e-6
    assert post.diagnostics["kinks"] == 1
    assert post.converged
    assert "cannot decrease" in post.diagnostics["stopped"]
    start = energy(net, {"v": np.array([0.5])}, {"y": np.array([-1.0])}, {})
    at_kink = energy(net, {"v": np.array([0.0])}, {"y": np.array([-1.0])}, {})
    assert at_kink < start
    np.testing.assert_allclose(post.free_energy, [at_kink], atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_relu_nets_never_end_above_their_start(seed):
    rng = np.random.default_rng(seed)
    net = GaussianBayesNet()
    net.add_input("x", 3, mean=0.0, cov=1.0)
    before = "x"
    for depth in range(3):
        net.add_linear(
            f"a{depth}", {before: rng.normal(size=(5, net[before].size)) / 2}, bias=rng.normal(size=5), cov=0.3
        )
        before = net.add(f"h{depth}", "Relu", [f"a{depth}"])
    net.add_linear("y", {before: rng.normal(size=(2, 5))}, cov=0.05)
    y = 3 * rng.normal(size=(8, 2))
    post = net.query(None, {"y": y}, engine="pc", prediction="live")
    assert post.converged
    free = net.query(None, {}).mean
    for n in range(8):
        at = {name: post.mean[name][n] for name in net.latents}
        start = {name: free[name][0] for name in net.latents}
        assert energy(net, at, {"y": y[n]}, {}) < energy(net, start, {"y": y[n]}, {})
        np.testing.assert_allclose(post.free_energy[n], energy(net, at, {"y": y[n]}, {}))


def test_the_history_is_the_falling_free_energy():
    net = tanh_chain((2, 4, 4, 2), prior=1.0)
    evidence = {"y": np.array([[2.0, np.nan], [0.3, 1.0]]), "a1": np.array([[np.nan, 1.0, np.nan, 0.0], [np.nan] * 4])}
    net.set_noise({"a1": np.eye(4) + 0.3})
    post = net.query(None, evidence, engine="pc", prediction="live")
    trace = [figures["free_energy"] for figures in post.history]
    assert len(trace) == post.diagnostics["rounds"]
    assert (np.diff(trace) <= 1e-9).all()
    np.testing.assert_allclose(trace[-1], post.free_energy.mean())
    assert post.history[-1]["gap"] <= 1e-6
    assert post.history[-1]["evaluations"] == post.diagnostics["evaluations"]


@pytest.mark.parametrize("schedule", ["parallel", "sweep"])
def test_rounds_run_to_their_tolerance(schedule):
    net = tanh_chain((2, 4, 4, 2), prior=1.0)
    evidence = {"y": np.array([[2.0, 0.1]])}
    expected, _ = backprop(net, evidence, {})
    post = net.query(None, evidence, engine="pc", schedule=schedule, step_size=0.5)
    assert post.converged
    assert post.history[-1]["gap"] <= 1e-8
    assert all(figures["gap"] > 1e-8 for figures in post.history[:-1])
    assert post.diagnostics["rounds"] == len(post.history)
    assert post.diagnostics["passes"] == len(post.history) + 2
    for name in ("x", "a1", "a2.h1.weight"):
        np.testing.assert_allclose(post.messages[name], expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "options, remedy",
    [
        ({"schedule": "parallel", "tol": 1e-8}, r"max_rounds or step_size"),
        ({"schedule": "sweep", "step_size": 0.2, "tol": 1e-8}, r"schedule='sweep'"),
        ({"prediction": "live", "tol": 1e-12}, r"Raise max_rounds or tol"),
    ],
)
def test_running_out_of_rounds_warns_with_the_remedy(options, remedy):
    net = tanh_chain((2, 4, 4, 2), prior=1.0)
    with pytest.warns(ConvergenceWarning, match=rf"made 2 rounds; gap is .*, aimed at 1e-.*{remedy}"):
        post = net.query(None, {"y": [[2.0, 0.1]]}, engine="pc", max_rounds=2, **options)
    assert not post.converged
    assert len(post.history) == 2
    assert "not converged" in repr(post)
    assert np.isfinite(post.mean["x"]).all()


def test_no_rounds_leave_the_forward_pass():
    net = tanh_chain((2, 4, 2), prior=1.0)
    y = {"y": [[2.0, 0.1]]}
    parallel = net.query(None, y, engine="pc", schedule="parallel", max_rounds=0)
    np.testing.assert_array_equal(parallel.mean["x"], [[0, 0]])
    with pytest.warns(ConvergenceWarning, match="made 0 rounds"):
        live = net.query(None, y, engine="pc", prediction="live", max_rounds=0)
    np.testing.assert_array_equal(live.mean["x"], [[0, 0]])


@pytest.mark.parametrize("options", [{"schedule": "parallel"}, {"prediction": "live"}])
def test_a_callback_sees_every_round_and_may_stop(options):
    net = tanh_chain((2, 4, 4, 2), prior=1.0)
    seen = []

    def callback(number, figures):
        seen.append((number, figures["gap"]))
        return number == 3

    post = net.query(None, {"y": [[2.0, 0.1]]}, engine="pc", callback=callback, **options)
    assert post.diagnostics["stopped"] == "stopped by the callback after 3 rounds"
    assert [number for number, _ in seen] == [1, 2, 3]
    assert [gap for _, gap in seen] == [figures["gap"] for figures in post.history]
    assert not post.converged


@pytest.mark.parametrize("options", [{"schedule": "parallel", "step_size": 0.4}, {"prediction": "live"}])
def test_an_interrupt_keeps_what_there_is(options):
    net = tanh_chain((2, 4, 4, 2), prior=1.0)
    evidence = {"y": [[2.0, 0.1]]}

    def interrupt(number, figures):
        if number == 2:
            raise KeyboardInterrupt

    with pytest.warns(ConvergenceWarning, match="interrupted after 2 rounds"):
        post = net.query(None, evidence, engine="pc", callback=interrupt, **options)
    with pytest.warns(ConvergenceWarning, match="made 2 rounds"):
        same = net.query(None, evidence, engine="pc", max_rounds=2, tol=1e-9, **options)
    for name in post.targets:
        np.testing.assert_array_equal(post.mean[name], same.mean[name])
    assert np.abs(post.mean["a2"] - net.query(None, {}).mean["a2"]).max() > 0


def test_the_equilibrium_is_the_same_alone_and_in_a_batch():
    net = tanh_chain((2, 4, 4, 2), prior=1.0)
    y = np.random.default_rng(0).normal(size=(5, 2))
    both, _, _ = equilibrium_of(net, y)
    for n in range(5):
        alone, _, _ = equilibrium_of(net, y[n : n + 1])
        for name in net.latents:
            np.testing.assert_allclose(both.values[name][n], alone.values[name][0], rtol=1e-8, atol=1e-8)


def equilibrium_of(net, y):
    from gbn.evidence import Evidence

    return equilibrium(Evidence.read(net, {"y": y}), tol=1e-10)


def test_everything_observed_leaves_nothing_to_do():
    net = tanh_chain((2, 3, 2))
    evidence = {"x": np.ones((2, 2)), "a1": np.zeros((2, 3)), "y": np.ones((2, 2))}
    for options in ({}, {"schedule": "parallel"}, {"prediction": "live"}):
        post = net.query(None, evidence, engine="pc", **options)
        assert post.converged
        np.testing.assert_allclose(post.messages["y"], (1 - net["y.bias"].value) / 0.3 * np.ones((2, 2)))
    post = net.query(None, {"x": np.ones((2, 2))}, engine="pc", prediction="live")
    assert post.converged
    np.testing.assert_array_equal(post.messages["a1"], 0)


def test_the_gradient_takes_names_and_leaves_out_frozen_parameters():
    net = tanh_chain((2, 3, 2))
    net.describe("y.bias", trainable=False)
    evidence = {"x": np.ones((2, 2)), "y": np.ones((2, 2))}
    assert set(gradient(net, evidence)) == set(net.parameters) - {"y.bias"}
    only = gradient(net, evidence, ["y.bias"])
    assert set(only) == {"y.bias"}
    expected, _ = backprop(net, {"y": np.ones((2, 2))}, {"x": np.ones((2, 2))}, 2)
    np.testing.assert_allclose(only["y.bias"], -expected["y.bias"], rtol=1e-12)
    unheard = gradient(net, {"x": np.ones((2, 2))})
    np.testing.assert_array_equal(unheard["a1.x.weight"], np.zeros((3, 2)))
