"""Engine "vmp" against the dense joint, closed forms of conjugate regression, and minimisation of the bound."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats

from gbn.errors import ConvergenceWarning, InferenceError
from gbn.net import GaussianBayesNet
from tests.dense import Dense, tensor
from tests.nets import random_evidence, random_net, row, tanh_chain

SEEDS = st.integers(0, 2**32 - 1)
LONG = {"tol": 1e-13, "max_rounds": 20000}
LOG_2PI = np.log(2 * np.pi)


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


def cubature(mean, root):
    """Points and weights that integrate quadratic functions exactly.  mean: (n,); root: (n, n) with root rootᵀ = C."""
    points = torch.cat([mean[None], mean + root.T, mean - root.T])
    weights = torch.full((len(points),), 0.5, dtype=torch.float64)
    weights[0] = 1 - len(mean)
    return points, weights


def gaussian_energy(value, mean, cov):
    cov = torch.as_tensor(cov, dtype=torch.float64)
    error = value - mean
    return 0.5 * ((error @ torch.linalg.inv(cov)) * error).sum(-1) + 0.5 * torch.logdet(2 * np.pi * cov)


def bound(net, evidence, means, roots, skip, op):
    """E_q[-log p] - H[q] of the net `uncertain`: its energy is quadratic in every vertex given the others."""
    scale, beta = (1.5, 0.5) if op == "Gemm" else (1.0, 1.0)
    (ws, ww), (bs, wb) = (cubature(means[k].reshape(-1), roots[k][0]) for k in ("W", "b"))
    total = (ww * gaussian_energy(ws, tensor(net["W"].value).reshape(-1), 0.4 * np.eye(4))).sum()
    total = total + (wb * gaussian_energy(bs, tensor(net["b"].value), 0.3 * np.eye(2))).sum()
    prior = np.array([[0.6, 0.2], [0.2, 0.5]])
    for n, y in enumerate(tensor(evidence["y"])):
        xs, wx = cubature(means["x"][n], roots["x"][n])
        total = total + (wx * gaussian_energy(xs, tensor(net["x"].value), prior)).sum()
        product = scale * torch.einsum("xi,woi->xwo", xs, ws.reshape(-1, 2, 2))
        p = product[:, :, None] + beta * bs
        weights = wx[:, None, None] * ww[:, None] * wb
        if net["p"].random:
            ps, wp = cubature(means["p"][n], roots["p"][n])
            total = total + (weights[..., None] * wp * gaussian_energy(ps, p[..., None, :], 0.3 * np.eye(2))).sum()
            p, weights = ps, wp
        mean = p + xs[:, None, None] if skip else p @ tensor(net["y.p.weight"].value).T
        total = total + (weights * gaussian_energy(y, mean, (0.3 if skip else 0.2) * np.eye(2))).sum()
    for root in roots.values():
        sizes = torch.diagonal(root, dim1=1, dim2=2)
        sizes = sizes[sizes != 0]
        total = total - torch.log(sizes.abs()).sum() - 0.5 * len(sizes) * (LOG_2PI + 1)
    return total


@pytest.mark.parametrize("covariance", ["block", "diagonal"])
@pytest.mark.parametrize("op", ["Gemm", "Linear"])
@pytest.mark.parametrize("skip,deterministic", [(False, False), (False, True), (True, False)])
def test_the_free_energy_is_the_bound_and_q_its_stationary_point(skip, deterministic, op, covariance):
    net, evidence = uncertain(skip, deterministic, op)
    post = net.query([*net], evidence, engine="vmp", covariance=covariance, **LONG)
    names = ["x", "W", "b", *(["p"] if net["p"].random else [])]
    means = {k: tensor(post.mean[k]).requires_grad_() for k in names}
    roots = {}
    for k in names:
        cov = np.array(post.cov(k))
        null = (np.diagonal(cov, axis1=1, axis2=2) == 0)[:, :, None] * np.eye(cov.shape[1])
        roots[k] = tensor(np.linalg.cholesky(cov + null) - null).requires_grad_()
    value = bound(net, evidence, means, roots, skip, op)
    np.testing.assert_allclose(value.item(), post.free_energy, rtol=1e-11)
    value.backward()
    hidden = np.isnan(evidence["x"])
    free = np.tril(np.ones((2, 2))) * hidden[:, :, None] * hidden[:, None, :]
    for k in names:
        own = hidden if k == "x" else 1.0
        np.testing.assert_allclose(means[k].grad.numpy() * own, 0, atol=1e-7)
        size = roots[k].shape[1]
        kept = np.eye(size) if covariance == "diagonal" else np.tril(np.ones((size, size)))
        np.testing.assert_allclose(roots[k].grad.numpy() * kept * (free if k == "x" else 1.0), 0, atol=1e-7)


def test_the_optimum_is_what_a_numerical_optimiser_finds():
    net, evidence = uncertain(op="Linear")
    evidence = {k: np.array(v)[:1] for k, v in evidence.items()}
    post = net.query([*net], evidence, engine="vmp", **LONG)
    names, shapes = ["x", "W", "b", "p"], {"x": (1, 2), "W": (2, 2), "b": (2,), "p": (1, 2)}
    sizes = {k: (np.prod(shapes[k]), int(np.prod(shapes[k])) ** 2) for k in names}

    def read(flat):
        means, roots, at = {}, {}, 0
        for k in names:
            m, r = sizes[k]
            means[k] = flat[at : at + m].reshape(shapes[k])
            roots[k] = torch.tril(flat[at + m : at + m + r].reshape(1, m, m))
            at += m + r
        return means, roots

    def objective(flat):
        flat = tensor(flat).requires_grad_()
        value = bound(net, evidence, *read(flat), skip=False, op="Linear")
        value.backward()
        return value.item(), flat.grad.numpy()

    start = {"x": net["x"].value, "W": net["W"].value, "b": net["b"].value, "p": np.zeros(2)}
    flat = np.concatenate([np.concatenate([np.ravel(start[k]), 0.5 * np.eye(sizes[k][0]).ravel()]) for k in names])
    found = optimize.minimize(objective, flat, jac=True, method="BFGS", options={"gtol": 1e-7, "maxiter": 5000})
    np.testing.assert_allclose(post.free_energy, found.fun, rtol=1e-9)
    means, roots = read(tensor(found.x))
    for k in names:
        np.testing.assert_allclose(post.mean[k], means[k], atol=1e-5)
        np.testing.assert_allclose(post.cov(k), roots[k] @ roots[k].transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize("op", ["Gemm", "Linear"])
def test_covariance_of_a_product_is_that_of_q(op):
    net, evidence = uncertain(deterministic=True, op=op)
    post = net.query([*net], evidence, engine="vmp")
    scale, beta = (1.5, 0.5) if op == "Gemm" else (1.0, 1.0)
    root = [np.linalg.cholesky(post.cov(k) + 1e-30 * np.eye(post.cov(k).shape[1])) for k in ("W", "b")]
    for n in range(3):
        c = np.array(post.cov("x")[n])
        xs, wx = cubature(tensor(post.mean["x"][n]), tensor(np.linalg.cholesky(c + 1e-30 * np.eye(2))))
        ws, ww = cubature(tensor(post.mean["W"]).reshape(-1), tensor(root[0][0]))
        bs, wb = cubature(tensor(post.mean["b"]), tensor(root[1][0]))
        p = scale * torch.einsum("xi,woi->xwo", xs, ws.reshape(-1, 2, 2))[:, :, None] + beta * bs
        weights = wx[:, None, None] * ww[:, None] * wb
        mean = (weights[..., None] * p).sum((0, 1, 2))
        square = torch.einsum("xwb,xwbi,xwbj->ij", weights, p, p)
        np.testing.assert_allclose(post.mean["p"][n], mean, rtol=1e-10)
        np.testing.assert_allclose(post.cov("p")[n], square - torch.outer(mean, mean), rtol=1e-10, atol=1e-12)
    with pytest.raises(InferenceError, match=r"covariance of 'p' and 'W' is not computed.*post.sample"):
        post.cov("p", "W")


def test_several_positions_share_one_weight():
    """MatMul over sequences: every position is one more row of the regression."""
    rng = np.random.default_rng(0)
    net = GaussianBayesNet()
    net.add_input("x", (4, 3))
    net.add_parameter("W", np.zeros((3, 2)), cov=2.0)
    net.add("y", "MatMul", ["x", "W"], cov=0.5)
    x, y = rng.normal(size=(5, 4, 3)), rng.normal(size=(5, 4, 2))
    post = net.query(["W"], {"x": x, "y": y}, engine="vmp")
    precision = 0.5 * np.eye(3) + np.einsum("nti,ntj->ij", x, x) / 0.5
    np.testing.assert_allclose(post.mean["W"], np.linalg.solve(precision, np.einsum("nti,nto->io", x, y) / 0.5))
    np.testing.assert_allclose(post.cov("W")[0], np.kron(np.linalg.inv(precision), np.eye(2)), atol=1e-14)


def test_a_weight_may_be_tied_over_layers_with_noise_between():
    rng = np.random.default_rng(5)
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("W", rng.normal(size=(2, 2)), cov=0.3)
    net.add("h", "MatMul", ["x", "W"], cov=0.4)
    net.add("y", "MatMul", ["h", "W"], cov=0.2)
    x, y = rng.normal(size=(4, 2)), rng.normal(size=(4, 2))
    post = net.query(["h", "W"], {"x": x, "y": y}, engine="vmp", **LONG)
    assert increases(post) < 1e-12
    means = {k: tensor(post.mean[k]).requires_grad_() for k in ("h", "W")}
    roots = {k: tensor(np.linalg.cholesky(post.cov(k))).requires_grad_() for k in ("h", "W")}
    ws, ww = cubature(means["W"].reshape(-1), roots["W"][0])
    total = (ww * gaussian_energy(ws, tensor(net["W"].value).reshape(-1), 0.3 * np.eye(4))).sum()
    total = total - torch.logdet(roots["W"][0]) - 2 * (LOG_2PI + 1)
    for n in range(4):
        hs, wh = cubature(means["h"][n], roots["h"][n])
        w = ws.reshape(-1, 2, 2)
        first = gaussian_energy(hs[:, None], tensor(x[n]) @ w, 0.4 * np.eye(2))
        second = gaussian_energy(tensor(y[n]), torch.einsum("hi,wio->hwo", hs, w), 0.2 * np.eye(2))
        total = total + (wh[:, None] * ww * (first + second)).sum()
        total = total - torch.logdet(roots["h"][n]) - (LOG_2PI + 1)
    np.testing.assert_allclose(post.free_energy, total.item(), rtol=1e-10)
    total.backward()
    for k in ("h", "W"):
        np.testing.assert_allclose(means[k].grad, 0, atol=1e-8)
        np.testing.assert_allclose(np.tril(roots[k].grad), 0, atol=1e-8)


def test_the_bias_of_a_convolution_may_be_uncertain():
    rng = np.random.default_rng(2)
    net = GaussianBayesNet()
    net.add_input("x", (1, 3, 3))
    net.add_parameter("w", rng.normal(size=(2, 1, 2, 2)))
    net.add_parameter("b", np.zeros(2), cov=0.5)
    net.add("y", "Conv", ["x", "w", "b"], cov=0.3)
    x, y = rng.normal(size=(5, 1, 3, 3)), rng.normal(size=(5, 2, 2, 2))
    plain = net.copy()
    plain.set_noise({"b": None})
    left = (y - plain.forward({"x": x})["y"]).sum(axis=(0, 2, 3))
    post = net.query(["b"], {"x": x, "y": y}, engine="vmp")
    np.testing.assert_allclose(post.var["b"], 1 / (1 / 0.5 + 20 / 0.3))
    np.testing.assert_allclose(post.mean["b"], left / 0.3 / (1 / 0.5 + 20 / 0.3))
    net.set_noise({"w": 1.0})
    with pytest.raises(InferenceError, match=r"'w' is uncertain and enters 'y' \(op Conv, parent 1\)"):
        net.query(["b"], {"x": x, "y": y}, engine="vmp")


def test_vertices_behind_one_uncertain_weight_have_no_covariance_here():
    net, evidence = uncertain(deterministic=True)
    net.add("twin", "Neg", ["p"])
    post = net.query([*net], evidence, engine="vmp")
    with pytest.raises(InferenceError, match="'p' and 'twin' share the uncertain parameter 'W'"):
        post.cov("p", "twin")
    np.testing.assert_allclose(post.cov("twin"), post.cov("p"))
    assert not post.cov("W", "y").any()
    np.testing.assert_array_equal(post.cov("y.p.weight"), np.zeros((1, 4, 4)))


def test_an_intervention_makes_a_weight_certain():
    net, evidence = regression(bias=False)
    w = np.ones((3, 2))
    post = net.query(["W", "y"], {"x": evidence["x"]}, {"W": w}, engine="vmp")
    np.testing.assert_allclose(post.mean["y"], evidence["x"] @ w)
    np.testing.assert_array_equal(post.var["W"], 0)
    assert post.free_energy.shape == (6,)


def test_a_bayesian_network_with_two_layers_settles():
    rng = np.random.default_rng(1)
    net = GaussianBayesNet()
    net.add_input("x", 2)
    for name, shape in (("W1", (2, 4)), ("W2", (4, 1))):
        net.add_parameter(name, rng.normal(size=shape), cov=0.5)
    net.add("a", "MatMul", ["x", "W1"], cov=0.1)
    net.add("h", "Tanh", ["a"])
    net.add("y", "MatMul", ["h", "W2"], cov=0.1)
    x = rng.normal(size=(10, 2))
    evidence = {"x": x, "y": np.sin(x[:, :1])}
    for moments in ("taylor", "moment"):
        post = net.query(["a", "W1", "W2"], evidence, engine="vmp", moments=moments, tol=1e-4, max_rounds=3000)
        assert post.converged
        assert post.free_energy < post.history[0]["free_energy"]
        assert post.diagnostics["exact"].startswith("nothing")
        fit = np.tanh(x @ post.mean["W1"]) @ post.mean["W2"]
        assert np.mean((fit - evidence["y"]) ** 2) < np.var(evidence["y"])


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

    with pytest.warns(ConvergenceWarning, match="stopped by the callback"):
        colliding().query(None, {"y": [1.0, 2.0]}, engine="vmp", callback=callback)
    assert len(seen) == 2


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


def bayesian(build):
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add_parameter("W", np.eye(2), cov=1.0)
    net.add_parameter("V", np.eye(2), cov=1.0)
    build(net)
    return net


REFUSED = {
    "twice": (
        lambda net: (
            net.add("p", "MatMul", ["x", "W"]),
            net.add("q", "MatMul", ["x", "W"]),
            net.add("y", "Add", ["p", "q"], cov=1.0),
        ),
        r"parameter 'W' is uncertain and acts twice on 'y'.*net.set_noise",
    ),
    "between": (
        lambda net: (net.add("p", "MatMul", ["x", "W"]), net.add("y", "MatMul", ["p", "V"], cov=1.0)),
        r"uncertain parameters 'W' and 'V' are multiplied with no noise between",
    ),
    "transposed": (
        lambda net: (net.add("Wt", "Transpose", ["W"]), net.add("y", "MatMul", ["x", "Wt"], cov=1.0)),
        r"'W' is uncertain and enters 'Wt' \(op Transpose, parent 0\).*right factor of Gemm or MatMul",
    ),
    "scale": (lambda net: net.add("y", "MatMul", ["W", "V"]), r"'W' is uncertain and enters 'y' \(op MatMul"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_used_otherwise_are_refused_by_name(case):
    build, message = REFUSED[case]
    with pytest.raises(InferenceError, match=message):
        bayesian(build).query(None, {}, engine="vmp")


def test_large_vertices_are_refused():
    net = GaussianBayesNet()
    net.add_input("x", 5000, mean=0.0, cov=1.0)
    with pytest.raises(InferenceError, match=r"'x' has 5000 entries.*at most 4096"):
        net.query(None, {}, engine="vmp")
