"""Engine "vmp" against the dense joint, closed forms of conjugate regression, and numerical minimisation of the bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from gbn.errors import ConvergenceWarning, InferenceError
from gbn.net import GaussianBayesNet
from tests.dense import Dense
from tests.nets import random_evidence, random_net, row, tanh_chain

SEEDS = st.integers(0, 2**32 - 1)
LONG = {"tol": 1e-13, "max_rounds": 20000}
LOG_2PI = np.log(2 * np.pi)


def increases(post):
    """How much the free energy rises in a round, relative to its size."""
    energies = np.array([figures["free_energy"] for figures in post.history])
    return (np.diff(energies) / (1 + np.abs(energies[1:]))).max(initial=0)


def settled(net, evidence, do=None, **options):
    """The posterior, at a fixed point; slow nets are let off after many rounds."""
    with pytest.warns() as caught:
        post = net.query(None, evidence, do or {}, engine="vmp", **{**LONG, **options})
        import warnings

        warnings.warn("end", UserWarning, stacklevel=1)
    assert all(w.category in (ConvergenceWarning, UserWarning) for w in caught)
    return post


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
        pairs = zip(starts[:-1], starts[1:], strict=True)
        logs = sum(np.linalg.slogdet(precision[a:b, a:b])[1] for a, b in pairs if b > a)
    return 0.5 * (logs - np.linalg.slogdet(precision)[1])


@settings(max_examples=40)
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
    with pytest.warns(ConvergenceWarning, match=r"run away.*Raise damping, or use schedule='sequential'"):
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


# Uncertain weights


def regression(seed=0, bias=True, op="Gemm"):
    rng = np.random.default_rng(seed)
    net = GaussianBayesNet()
    net.add_input("x", 3)
    shape = (2, 3) if op in ("Linear", "GemmT") else (3, 2)
    net.add_parameter("W", rng.normal(size=shape), cov=np.abs(rng.normal(size=shape)) + 0.5)
    parents = ["x", "W"]
    if bias:
        net.add_parameter("b", rng.normal(size=2), cov=0.7)
        parents.append("b")
    attributes = {"transB": 1} if op == "GemmT" else {}
    net.add("y", op.removesuffix("T"), parents, cov=[[0.5, 0.2], [0.2, 0.4]], **attributes)
    return net, {"x": rng.normal(size=(6, 3)), "y": rng.normal(size=(6, 2))}


@pytest.mark.parametrize("op", ["Gemm", "GemmT", "Linear", "MatMul"])
def test_bayesian_linear_regression_is_the_conjugate_posterior(op):
    net, evidence = regression(op=op, bias=False)
    post = net.query(["W"], evidence, engine="vmp")
    x, y = evidence["x"], evidence["y"]
    precision = np.linalg.inv([[0.5, 0.2], [0.2, 0.4]])
    transposed = op in ("Linear", "GemmT")
    design = np.concatenate([np.kron(np.eye(2), r) if transposed else np.kron(r, np.eye(2)) for r in x])
    prior = np.diag(1 / net.noises["W"].value.reshape(-1))
    whole = np.kron(np.eye(6), precision)
    cov = np.linalg.inv(prior + design.T @ whole @ design)
    mean = cov @ (prior @ net["W"].value.reshape(-1) + design.T @ whole @ y.reshape(-1))
    np.testing.assert_allclose(post.mean["W"], mean.reshape(net["W"].shape), rtol=1e-10)
    np.testing.assert_allclose(post.cov("W")[0], cov, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(post.var["W"].reshape(-1), np.diag(cov), rtol=1e-10)
    marginal = stats.multivariate_normal(
        design @ net["W"].value.reshape(-1), np.linalg.inv(whole) + design @ np.linalg.inv(prior) @ design.T
    )
    assert post.free_energy.shape == ()
    np.testing.assert_allclose(post.free_energy, -marginal.logpdf(y.reshape(-1)), rtol=1e-10)


def test_weight_and_bias_are_exact_in_the_mean_and_bound_the_evidence():
    net, evidence = regression()
    post = net.query(["W", "b", "y"], evidence, engine="vmp", **LONG)
    x, y = evidence["x"], evidence["y"]
    design = np.concatenate([np.concatenate([np.kron(r, np.eye(2)), np.eye(2)], axis=1) for r in x])
    prior = np.diag([*net.noises["W"].value.reshape(-1), 0.7, 0.7])
    start = np.concatenate([net["W"].value.reshape(-1), net["b"].value])
    noise = np.kron(np.eye(6), [[0.5, 0.2], [0.2, 0.4]])
    joint = np.linalg.inv(prior) + design.T @ np.linalg.solve(noise, design)
    right = np.linalg.solve(prior, start) + design.T @ np.linalg.solve(noise, y.reshape(-1))
    mean = np.linalg.solve(joint, right)
    np.testing.assert_allclose(np.concatenate([post.mean["W"].reshape(-1), post.mean["b"]]), mean, rtol=1e-9)
    np.testing.assert_allclose(post.cov("W")[0], np.linalg.inv(joint[:6, :6]), rtol=1e-9)
    np.testing.assert_allclose(post.cov("b")[0], np.linalg.inv(joint[6:, 6:]), rtol=1e-9)
    evidence_ = stats.multivariate_normal(design @ start, noise + design @ prior @ design.T).logpdf(y.reshape(-1))
    logs = np.linalg.slogdet(joint[:6, :6])[1] + np.linalg.slogdet(joint[6:, 6:])[1] - np.linalg.slogdet(joint)[1]
    np.testing.assert_allclose(post.free_energy + evidence_, logs / 2, rtol=1e-10)
    assert not post.cov("W", "b").any()


def uncertain(skip=False, deterministic=False, op="Gemm"):
    """Both what is multiplied and what multiplies it are uncertain; x is partly observed."""
    rng = np.random.default_rng(3)
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=[0.5, -0.3], cov=[[0.6, 0.2], [0.2, 0.5]])
    shape = (2, 2)
    net.add_parameter("W", rng.normal(size=shape), cov=0.4)
    net.add_parameter("b", rng.normal(size=2), cov=0.3)
    attributes = {"transB": 1, "alpha": 1.5, "beta": 0.5} if op == "Gemm" else {}
    if op == "Linear":
        net.add("p", op, ["x", "W", "b"], cov=None if deterministic or skip else 0.3)
    else:
        net.add("p", op, ["x", "W", "b"], cov=None if deterministic or skip else 0.3, **attributes)
    if skip:
        net.add("y", "Add", ["p", "x"], cov=0.3)
    else:
        net.add_linear("y", {"p": rng.normal(size=(2, 2))}, cov=0.2)
    nan = np.nan
    return net, {"y": rng.normal(size=(3, 2)) + 1, "x": [[nan, nan], [0.4, nan], [1.0, -1.0]]}


@pytest.mark.parametrize("op", ["Gemm", "Linear"])
@pytest.mark.parametrize("covariance", ["block", "diagonal"])
@pytest.mark.parametrize("skip,deterministic", [(False, False), (False, True), (True, False)])
def test_the_free_energy_falls_when_inputs_and_weights_are_uncertain(skip, deterministic, op, covariance):
    net, evidence = uncertain(skip, deterministic, op)
    post = net.query([*net], evidence, engine="vmp", covariance=covariance, **LONG)
    assert increases(post) < 1e-12
    assert len(post.history) > 3
    assert post.free_energy.shape == ()
    assert post.diagnostics["exact"].startswith("-free_energy is a lower bound")


@pytest.mark.parametrize("op", ["Gemm", "Linear"])
@pytest.mark.parametrize("skip,deterministic", [(False, False), (False, True), (True, False)])
def test_free_energy_is_the_expectation_over_q(skip, deterministic, op):
    """E_q[-log p] - H[q] by Gauss-Hermite points: E_q of a quartic needs three to a dimension, taken in pairs."""
    net, evidence = uncertain(skip, deterministic, op)
    post = net.query([*net], evidence, engine="vmp", **LONG)
    x, w, b = (post.mean[k] for k in ("x", "W", "b"))
    p, y = post.mean["p"], np.asarray(evidence["y"])
    covs = {k: post.cov(k) for k in ("x", "W", "b", "p")}
    rng = np.random.default_rng(0)
    draws, energies = 400_000, 0.0
    xs = {}
    for name in ("x", "W", "b", "p"):
        root = np.linalg.cholesky(covs[name] + 1e-18 * np.eye(covs[name].shape[1]))
        half = rng.standard_normal((draws // 2, len(root), root.shape[1]))
        noise = np.concatenate([half, -half])
        xs[name] = np.einsum("nij,mnj->mni", root, noise)
    xv = x + xs["x"]
    wv = w + xs["W"].reshape(draws, 2, 2)
    bv = b + xs["b"][:, 0]
    right = wv.transpose(0, 2, 1)
    scale, beta = (1.5, 0.5) if op == "Gemm" else (1.0, 1.0)
    pv = scale * xv @ right + beta * bv[:, None]

    def energy(value, mean, cov):
        e = value - mean
        logs = np.linalg.slogdet(2 * np.pi * cov)[1]
        return 0.5 * ((e @ np.linalg.inv(cov)) * e).sum(-1) + 0.5 * logs

    energies = energy(xv, net["x"].value, np.array([[0.6, 0.2], [0.2, 0.5]])).sum(1)
    energies += energy(wv.reshape(draws, 4), net["W"].value.reshape(-1), 0.4 * np.eye(4))
    energies += energy(bv, net["b"].value, 0.3 * np.eye(2))
    if net["p"].random:
        hidden = p + xs["p"]
        energies += energy(hidden, pv, 0.3 * np.eye(2)).sum(1)
        pv = hidden
    mean = pv + xv if skip else pv @ net["y.p.weight"].value.T
    energies += energy(y, mean, (0.3 if skip else 0.2) * np.eye(2)).sum(1)
    entropy = 0.0
    for name in ("x", "W", "b", *(["p"] if net["p"].random else [])):
        for c in covs[name]:
            kept = np.diag(c) > 0
            entropy += 0.5 * np.linalg.slogdet(2 * np.pi * np.e * c[np.ix_(kept, kept)])[1]
    error = energies.std() / np.sqrt(draws)
    assert abs(energies.mean() - entropy - post.free_energy) < 5 * error
