"""Engine "vmp" against the dense joint, integrated moments, and what it refuses."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from gbn.errors import ConvergenceWarning, InferenceError
from gbn.net import GaussianBayesNet
from tests.dense import Dense, tensor
from tests.nets import random_evidence, random_net, row, tanh_chain

SEEDS = st.integers(0, 2**32 - 1)
LONG = {"tol": 1e-13, "max_rounds": 20000}


def increases(post):
    """How much the free energy rises in a round, relative to its size."""
    energies = np.array([figures["free_energy"] for figures in post.history])
    return (np.diff(energies) / (1 + np.abs(energies[1:]))).max(initial=0)


def law_six(net, dense, diagonal=False):
    """½ (Σ_i log |K_ii| - log |K|), K the inverse of the posterior covariance of the hidden random entries."""
    blocks, observed = [], set(dense.observed)
    for name, vertex in net.vertices.items():
        if vertex.random and vertex.plated and name not in dense.do:
            blocks.append([k for k in dense.where[name] if k not in observed])
    hidden = np.concatenate([*blocks, []]).astype(int)
    precision = np.linalg.inv(dense.cov[np.ix_(hidden, hidden)])
    starts = np.cumsum([0, *map(len, blocks)])
    if diagonal:
        logs = np.log(np.diag(precision)).sum()
    else:
        pairs = pairwise(starts)
        logs = sum(np.linalg.slogdet(precision[a:b, a:b])[1] for a, b in pairs if b > a)
    return 0.5 * (logs - np.linalg.slogdet(precision)[1])


@settings(max_examples=30)
@given(SEEDS, st.sampled_from(["block", "diagonal"]))
def test_linear_nets_have_exact_means_and_the_gap_of_law_six(seed, covariance):
    net = random_net(seed)
    evidence, do = random_evidence(net, seed + 1)
    post = net.query(None, evidence, do, engine="vmp", covariance=covariance, **LONG)
    assert increases(post) < 1e-12
    for n in range(3):
        dense = Dense(net, row(evidence, n), row(do, n))
        for name in dense.where:
            np.testing.assert_allclose(post.mean[name][n], dense.mean_of(name), rtol=1e-8, atol=1e-8)
        gap = law_six(net, dense, covariance == "diagonal")
        np.testing.assert_allclose(post.free_energy[n] + dense.log_evidence, gap, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(post.diagnostics["kl_gap"][n], gap, rtol=1e-10, atol=1e-10)


@settings(max_examples=15)
@given(SEEDS)
def test_covariances_are_inverse_blocks_of_the_joint_precision(seed):
    net = random_net(seed)
    evidence, do = random_evidence(net, seed + 1)
    post = net.query(None, evidence, do, engine="vmp", **LONG)
    for n in range(3):
        dense = Dense(net, row(evidence, n), row(do, n))
        blocks = {
            name: [k for k in dense.where[name] if k not in set(dense.observed)]
            for name, v in net.vertices.items()
            if v.random and name not in do
        }
        hidden = np.concatenate([*blocks.values(), []]).astype(int)
        precision = np.linalg.inv(dense.cov[np.ix_(hidden, hidden)])
        q = np.zeros((len(dense.mean), len(dense.mean)))
        for entries in blocks.values():
            at = np.flatnonzero(np.isin(hidden, entries))
            q[np.ix_(entries, entries)] = np.linalg.inv(precision[np.ix_(at, at)])
        # Deterministic vertices are what the graph makes of q: noise replaced by q, hidden vertices cut from parents.
        keep = np.zeros(len(dense.mean))
        for name, v in net.vertices.items():
            if name in dense.where and not v.random and name not in dense.do:
                keep[dense.where[name]] = 1
        total = np.linalg.inv(np.eye(len(q)) - keep[:, None] * dense.a)
        expected = total @ q @ total.T
        for a in dense.where:
            for b in (a, "out"):
                block = expected[np.ix_(dense.where[a], dense.where[b])]
                np.testing.assert_allclose(post.cov(a, b)[n], block, rtol=1e-8, atol=1e-9)
            variance = np.diag(expected)[dense.where[a]].reshape(net[a].shape)
            np.testing.assert_allclose(post.var[a][n], variance, rtol=1e-8, atol=1e-9)


def colliding(weight=1.0):
    """Two causes of one observed effect: their means push each other."""
    net = GaussianBayesNet()
    net.add_input("a", 2, mean=0.0, cov=1.0)
    net.add_input("b", 2, mean=0.0, cov=1.0)
    net.add_input("c", 2, mean=0.0, cov=1.0)
    net.add_linear("y", {name: weight * np.eye(2) for name in "abc"}, cov=0.1)
    return net


def test_parallel_updates_can_diverge_and_say_so():
    net, evidence = colliding(), {"y": [1.0, -1.0]}
    with pytest.warns(ConvergenceWarning, match=r"run away.*Raise damping or max_rounds, or use schedule='sequential'"):
        post = net.query(None, evidence, engine="vmp", schedule="parallel", damping=0.0)
    assert not post.converged
    assert np.isfinite(post.mean["a"]).all()
    exact = net.query(None, evidence)
    damped = net.query(None, evidence, engine="vmp", schedule="parallel", tol=1e-12)
    assert damped.converged
    np.testing.assert_allclose(damped.mean["a"], exact.mean["a"], atol=1e-10)
    assert damped.diagnostics["damping"] == 0.5


def test_running_out_of_rounds_warns_and_is_recorded():
    with pytest.warns(ConvergenceWarning, match="made 2 rounds; gap is .* Raise max_rounds"):
        post = colliding().query(None, {"y": [1.0, 2.0]}, engine="vmp", max_rounds=2)
    assert not post.converged
    assert len(post.history) == 2


def test_diagonal_is_narrower_than_block_is_narrower_than_exact():
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=[[1.0, 0.7], [0.7, 1.0]])
    net.add_linear("h", {"x": [[1.0, 2.0], [0.0, 1.0]]}, cov=0.5)
    net.add_linear("y", {"h": [[1.0, -1.0]]}, cov=0.2)
    evidence = {"y": [[0.3]]}
    exact, block, diagonal = (
        net.query(None, evidence, **options)
        for options in ({}, {"engine": "vmp"}, {"engine": "vmp", "covariance": "diagonal"})
    )
    assert (diagonal.var["x"] < block.var["x"]).all()
    assert (block.var["x"] < exact.var["x"]).all()
    assert diagonal.free_energy > block.free_energy > -exact.log_evidence
    assert np.count_nonzero(diagonal.cov("x")[0]) == 2
    assert not block.cov("x", "h").any()


# Nonlinear nets


@pytest.mark.parametrize("seed", range(3))
def test_linearised_nets_settle_where_the_energy_is_least(seed):
    """Taylor mode: the means are the dense oracle's at its own linearisation, the blocks those of its precision."""
    net = tanh_chain((2, 4, 3, 2), hidden=0.3, prior=1.0, seed=seed)
    evidence = {"y": np.array([[0.4, -0.2], [0.1, np.nan]])}
    post = net.query(None, evidence, engine="vmp", tol=1e-12, max_rounds=5000)
    names = ["x", "a1", "h1", "a2", "h2", "y"]
    for n in range(2):
        at = {name: post.mean[name][n] for name in names}
        dense = Dense(net, row(evidence, n), at=at)
        hidden = [dense.where[k] for k in ("x", "a1", "a2")]
        if n == 1:
            hidden.append(dense.where["y"][1:])
        entries = np.concatenate(hidden)
        precision = np.linalg.inv(dense.cov[np.ix_(entries, entries)])
        for name in names:
            np.testing.assert_allclose(dense.mean_of(name), post.mean[name][n], atol=1e-8)
        start = 0
        for name, index in zip(("x", "a1", "a2"), hidden, strict=False):
            block = precision[start : start + len(index), start : start + len(index)]
            np.testing.assert_allclose(post.cov(name)[n], np.linalg.inv(block), atol=1e-8)
            start += len(index)


def scalar_net(op):
    net = GaussianBayesNet()
    net.add_input("a", 1, mean=0.4, cov=0.8)
    net.add("h", op, ["a"])
    net.add_linear("y", {"h": [[1.5]]}, cov=0.5)
    return net


@pytest.mark.parametrize("op", ["Relu", "Erf", "Exp", "Gelu", "Tanh", "Sigmoid"])
@pytest.mark.parametrize("noisy", [False, True])
def test_moment_mode_integrates_the_energy_of_a_nonlinearity(op, noisy):
    net = scalar_net(op)
    if noisy:
        net.set_noise({"h": 0.3})
    post = net.query(None, {"y": [[1.0]]}, engine="vmp", moments="moment", tol=1e-11)
    m, v = post.mean["a"].item(), post.var["a"].item()
    function = {
        "Relu": lambda x: max(x, 0.0),
        "Erf": special.erf,
        "Exp": np.exp,
        "Gelu": lambda x: x * special.ndtr(x),
        "Tanh": np.tanh,
        "Sigmoid": special.expit,
    }[op]

    def integrate_(g):
        s = np.sqrt(v)
        cuts = sorted({m - 12 * s, min(max(0.0, m - 12 * s), m + 12 * s), m + 12 * s})
        density = stats.norm(m, s).pdf
        return sum(
            integrate.quad(lambda x: g(x) * density(x), a, b, epsabs=1e-13, epsrel=1e-13, limit=200)[0]
            for a, b in pairwise(cuts)
        )

    def normal(square, variance):
        return 0.5 * (square / variance + np.log(2 * np.pi * variance))

    expected = normal((m - 0.4) ** 2 + v, 0.8) - 0.5 * np.log(2 * np.pi * np.e * v)
    if noisy:
        h, s = post.mean["h"].item(), post.var["h"].item()
        expected += normal(integrate_(lambda x: (h - function(x)) ** 2) + s, 0.3)
        expected += normal((1.0 - 1.5 * h) ** 2 + 2.25 * s, 0.5) - 0.5 * np.log(2 * np.pi * np.e * s)
    else:
        expected += normal(integrate_(lambda x: (1.0 - 1.5 * function(x)) ** 2), 0.5)
        np.testing.assert_allclose(post.mean["h"], integrate_(function), atol=1e-9)
        spread = integrate_(lambda x: function(x) ** 2) - integrate_(function) ** 2
        np.testing.assert_allclose(post.var["h"], spread, atol=1e-9)
    np.testing.assert_allclose(post.free_energy, expected, rtol=1e-9)
    truth = -np.log(
        integrate.quad(lambda a: stats.norm(0.4, 0.8**0.5).pdf(a) * evidence_of(function, a, noisy), -9, 9)[0]
    )
    assert post.free_energy > truth - 1e-6


def evidence_of(function, a, noisy):
    return stats.norm(1.5 * function(a), np.sqrt(0.5 + 2.25 * 0.3 * noisy)).pdf(1.0)


def test_labels_pull_with_their_score():
    """The mean is where the log-posterior is flat, by torch."""
    net = GaussianBayesNet()
    net.add_input("z", 2, mean=[0.1, 0.2], cov=0.7)
    weight = np.array([[1.0, -0.5], [0.3, 0.8], [-1.0, 0.2]])
    net.add_linear("logits", {"z": weight})
    net.add_likelihood("label", "categorical", "logits")
    post = net.query(None, {"label": [2, 0]}, engine="vmp", tol=1e-12)
    z = tensor(post.mean["z"]).requires_grad_()
    losses = torch.nn.functional.cross_entropy(z @ tensor(weight).T, torch.tensor([2, 0]), reduction="sum")
    (losses + 0.5 * ((z - tensor([0.1, 0.2])) ** 2).sum() / 0.7).backward()
    np.testing.assert_allclose(z.grad, 0, atol=1e-9)
    p = torch.softmax(z.detach() @ tensor(weight).T, 1).numpy()
    for n in range(2):
        fisher = np.diag(p[n]) - np.outer(p[n], p[n])
        np.testing.assert_allclose(post.cov("z")[n], np.linalg.inv(np.eye(2) / 0.7 + weight.T @ fisher @ weight))
    assert post.diagnostics["exact"].startswith("nothing")
    assert post.sample(3, 0)["z"].shape == (3, 2, 2)
    with pytest.raises(InferenceError, match="'label' is a label"):
        post.cov("label")


# The rest of a posterior


def test_samples_have_the_moments_of_q():
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=[[1.0, 0.5], [0.5, 1.0]])
    net.add_linear("a", {"x": np.ones((2, 2))}, cov=0.5)
    net.add("h", "Tanh", ["a"])
    net.add_linear("y", {"h": np.eye(2)}, cov=0.3)
    post = net.query(None, {"y": [[0.5, -0.2]] * 2, "a": [[np.nan, np.nan], [0.7, np.nan]]}, engine="vmp")
    draws = post.sample(4000, rng=0)
    np.testing.assert_allclose(draws["h"], np.tanh(draws["a"]))
    np.testing.assert_array_equal(draws["a"][:, 1, 0], 0.7)
    for n in range(2):
        np.testing.assert_allclose(draws["x"][:, n].mean(0), post.mean["x"][n], atol=0.06)
        np.testing.assert_allclose(np.cov(draws["x"][:, n].T), post.cov("x")[n], atol=0.06)


def test_samples_share_what_they_can():
    net = tanh_chain((2, 3, 2), prior=1.0)
    linear = net.linearize({"x": [0.3, 0.2]})
    rng = np.random.default_rng(0)
    y = rng.normal(size=(500, 2))
    post = linear.query(None, {"y": y}, engine="vmp")
    assert post.cov("a1").strides[0] == 0
    y[100:, 1] = np.nan
    post = linear.query(None, {"y": y}, engine="vmp", tol=1e-12, max_rounds=3000)
    np.testing.assert_allclose(post.mean["x"], linear.query(None, {"y": y}).mean["x"], atol=1e-9)
    assert post.diagnostics["kl_gap"].shape == (500,)


def test_messages_and_surprise_are_those_of_the_means():
    net = random_net(4)
    evidence, do = random_evidence(net, 5)
    post, exact = net.query(None, evidence, do, engine="vmp", **LONG), net.query(None, evidence, do)
    for name in net:
        if net[name].plated:
            np.testing.assert_allclose(post.messages[name], exact.messages[name], atol=1e-7)
    at_weight = post.messages["out"].T @ post.mean[net["out"].parents[0]]
    np.testing.assert_allclose(post.messages[net["out"].parents[1]], at_weight, atol=1e-10)
    for name in post.surprise:
        np.testing.assert_allclose(post.surprise[name], exact.surprise[name], atol=1e-7)
    assert post.to_frame().shape[0] > 0


def test_where_nothing_is_hidden_the_bound_is_the_evidence():
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add_linear("y", {"x": np.eye(2)}, cov=0.5)
    post = net.query(None, {"x": [1.0, 2.0], "y": [1.5, 1.0]}, engine="vmp")
    np.testing.assert_allclose(-post.free_energy, net.query(None, post.evidence.values, post.evidence.do).log_evidence)
    np.testing.assert_array_equal(post.var["y"], 0)


def test_single_precision_comes_back_as_it_went_in():
    net = random_net(7, dtype=np.float32)
    evidence, do = random_evidence(net, 8)
    post = net.query(None, evidence, do, engine="vmp", max_rounds=5000)
    assert post.converged
    for name in post.targets:
        assert post.mean[name].dtype == post.var[name].dtype == post.messages[name].dtype == np.float32
    assert post.free_energy.dtype == np.float32


def test_a_callback_sees_the_free_energy_and_stops():
    seen = []

    def callback(number, figures):
        seen.append(figures["free_energy"])
        return number == 2

    post = colliding().query(None, {"y": [1.0, 2.0]}, engine="vmp", callback=callback)
    assert len(seen) == 2
    assert not post.converged
    assert "stopped by the callback" in post.diagnostics["stopped"]


OPTIONS = [
    ({"covariance": "full"}, "covariance: got 'full', expected 'block' or 'diagonal'"),
    ({"schedule": "random"}, "schedule: got 'random', expected 'sequential' or 'parallel'"),
    ({"moments": "exact"}, "moments: got 'exact', expected 'taylor' or 'moment'"),
    ({"damping": 1.0}, "damping: got 1.0, expected a number of at least 0 and below 1"),
]


@pytest.mark.parametrize("options,message", OPTIONS)
def test_options_are_checked(options, message):
    with pytest.raises(InferenceError, match=message):
        colliding().query(None, {"y": [1.0, 2.0]}, engine="vmp", **options)


def test_log_evidence_points_to_the_bound():
    post = colliding().query(None, {"y": [1.0, 2.0]}, engine="vmp")
    with pytest.raises(InferenceError, match=r"-post\.free_energy; use engine='exact'"):
        _ = post.log_evidence


def test_evidence_on_deterministic_vertices_is_refused():
    net = scalar_net("Tanh")
    with pytest.raises(InferenceError, match=r"evidence on 'h', a deterministic vertex.*net.set_noise"):
        net.query(None, {"h": [0.5]}, engine="vmp")


def test_large_vertices_are_refused():
    net = GaussianBayesNet()
    net.add_input("x", 5000, mean=0.0, cov=1.0)
    with pytest.raises(InferenceError, match=r"'x' has 5000 entries.*at most 4096"):
        net.query(None, {}, engine="vmp")


def test_short_moves_with_far_to_go_are_no_arrival():
    """A vague mean of one vertex is held by a sharp link to another: each moves by the link's spread at a time."""
    net = GaussianBayesNet()
    net.add_input("x", 1, mean=0.0, cov=1e8)
    net.add_linear("h", {"x": [[1.0]]}, cov=1e-8)
    net.add_linear("y", {"h": [[1.0]]}, cov=1e8)
    with pytest.warns(ConvergenceWarning, match="variational message passing: made 200 rounds"):
        post = net.query(["x"], {"y": [3e4]}, engine="vmp", max_rounds=200)
    assert not post.converged
    # The posterior mean is 1.5e4, two standard deviations from where the moves began.
    assert post.mean["x"][0, 0] < 1e3
