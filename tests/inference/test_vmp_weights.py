"""Engine "vmp" with uncertain weights: conjugate regression in closed form, and the bound by cubature and torch."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from gbn.errors import InferenceError
from gbn.net import GaussianBayesNet
from tests.dense import LOG_2PI, tensor
from tests.inference.test_vmp import LONG, increases


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


def test_bayesian_classification_has_the_fisher_information_of_its_labels():
    rng = np.random.default_rng(0)
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("W", np.zeros((2, 3)), cov=0.5)
    net.add("logits", "MatMul", ["x", "W"])
    net.add_likelihood("label", "categorical", "logits")
    x, labels = rng.normal(size=(8, 2)), rng.integers(3, size=8)
    post = net.query(["W", "logits"], {"x": x, "label": labels}, engine="vmp", tol=1e-11)
    w = tensor(post.mean["W"]).requires_grad_()
    loss = torch.nn.functional.cross_entropy(tensor(x) @ w, torch.tensor(labels), reduction="sum")
    (loss + 0.5 * (w * w).sum() / 0.5).backward()
    np.testing.assert_allclose(w.grad, 0, atol=1e-9)
    p = torch.softmax(tensor(x) @ w.detach(), 1).numpy()
    precision = 2.0 * np.eye(6)
    for row, q in zip(x, p, strict=True):
        precision += np.kron(np.outer(row, row), np.diag(q) - np.outer(q, q))
    cov = np.linalg.inv(precision)
    np.testing.assert_allclose(post.cov("W")[0], cov, atol=1e-10)
    for row, found in zip(x, post.cov("logits"), strict=True):
        design = np.kron(row, np.eye(3))
        np.testing.assert_allclose(found, design @ cov @ design.T, atol=1e-10)


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
