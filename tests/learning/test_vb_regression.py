"""Variational Bayes where everything is observed: closed forms, sequences of fits, intervals, and what stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import gammaln, multigammaln

import gbn
from gbn.errors import ArgumentTypeError, LearningError

SEEDS = st.integers(0, 10**6)


def regression_net(inputs, outputs, cov, seed=0):
    net = gbn.GaussianBayesNet()
    net.add_input("x", inputs)
    start = np.random.default_rng(seed).normal(size=(outputs, inputs))
    net.add_linear("y", {"x": start}, bias=np.zeros(outputs), cov=cov)
    return net


def rows(inputs, outputs, count, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, inputs)) * rng.uniform(0.3, 3, inputs)
    y = x @ rng.normal(size=(inputs, outputs)) + rng.normal(size=outputs) + 0.5 * rng.normal(size=(count, outputs))
    return x, y


def design(x):
    return np.column_stack([x, np.ones(len(x))])


def coefficients(post):
    """Weights and bias, a row for each output."""
    return np.column_stack([post.mean["y.x.weight"], post.mean["y.bias"]])


def normal_gamma(x, y, kappa, shape, rate, shared):
    """Bishop (2006), section 3.3 and exercise 3.12: mean, V, shape, rates and log-evidence."""
    phi, n = design(x), len(x)
    precision = kappa * np.eye(phi.shape[1]) + phi.T @ phi
    v = np.linalg.inv(precision)
    mean = (v @ phi.T @ y).T
    left = (y * y).sum(axis=0) - np.einsum("oi,ij,oj->o", mean, precision, mean)
    blocks = 1 if shared else y.shape[1]
    per_block = n * y.shape[1] / blocks
    a = shape + per_block / 2
    b = rate + (left.sum(keepdims=True) if shared else left) / 2
    logdet = y.shape[1] * (phi.shape[1] * np.log(kappa) - np.linalg.slogdet(precision)[1]) / 2
    evidence = logdet - 0.5 * n * y.shape[1] * np.log(2 * np.pi)
    evidence += (shape * np.log(rate) - a * np.log(b) + gammaln(a) - gammaln(shape)).sum()
    return mean, v, a, b, evidence


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_a_regression_has_its_exact_posterior_and_evidence(seed, inputs, outputs, shared):
    x, y = rows(inputs, outputs, 15, seed)
    cov = 1.0 if shared else np.ones(outputs)
    options = {"weight_precision": 0.7, "noise_shape": 2.0, "noise_rate": 1.5}
    result = regression_net(inputs, outputs, cov).fit({"x": x, "y": y}, "vb", **options)
    mean, v, a, b, evidence = normal_gamma(x, y, 0.7, 2.0, 1.5, shared)
    post = result.posterior
    np.testing.assert_allclose(coefficients(post), mean, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(post.noises["y"].shape, a, rtol=1e-12)
    np.testing.assert_allclose(post.noises["y"].rate, b, rtol=1e-10)
    np.testing.assert_allclose(post.elbo, evidence, rtol=1e-10)
    assert len(result.history) - 1 <= 2
    expected_noise = np.broadcast_to(b / (a - 1), (outputs,))
    np.testing.assert_allclose(np.broadcast_to(post.noise("y"), (outputs,)), expected_noise, rtol=1e-10)
    # Marginals are Student-t distributed.
    scale = np.sqrt(np.broadcast_to(b / a, (outputs,))[:, None] * np.diag(v)[:-1])
    low, high = post.interval("y.x.weight", 0.9)
    half = stats.t.ppf(0.95, 2 * a) * scale
    np.testing.assert_allclose(low, mean[:, :-1] - half, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(high, mean[:, :-1] + half, rtol=1e-9, atol=1e-9)
    covariance = np.kron(np.diag(expected_noise), v[:-1, :-1])
    np.testing.assert_allclose(post.cov("y.x.weight"), covariance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(post.std["y.x.weight"].reshape(-1) ** 2, np.diag(covariance), rtol=1e-9)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(1, 3))
def test_a_full_noise_is_matrix_normal_wishart(seed, inputs, outputs):
    """Minka, *Bayesian linear regression* (2000): the evidence is a ratio of multivariate gamma functions."""
    x, y = rows(inputs, outputs, 15, seed)
    net = regression_net(inputs, outputs, np.eye(outputs))
    kappa, shape, rate = 0.7, 1.5, 0.8
    result = net.fit({"x": x, "y": y}, "vb", weight_precision=kappa, noise_shape=shape, noise_rate=rate)
    phi, n = design(x), len(x)
    precision = kappa * np.eye(phi.shape[1]) + phi.T @ phi
    mean = np.linalg.solve(precision, phi.T @ y).T
    dof0, scatter0 = outputs - 1 + 2 * shape, 2 * rate * np.eye(outputs)
    dof, scatter = dof0 + n, scatter0 + y.T @ y - mean @ precision @ mean.T
    logs = [np.linalg.slogdet(m)[1] for m in (scatter0, scatter, precision)]
    evidence = -0.5 * n * outputs * np.log(np.pi) + 0.5 * (dof0 * logs[0] - dof * logs[1])
    evidence += multigammaln(dof / 2, outputs) - multigammaln(dof0 / 2, outputs)
    evidence += 0.5 * outputs * (phi.shape[1] * np.log(kappa) - logs[2])
    post = result.posterior
    np.testing.assert_allclose(post.elbo, evidence, rtol=1e-10)
    np.testing.assert_allclose(coefficients(post), mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(post.noises["y"].scatter, scatter, rtol=1e-9, atol=1e-9)
    if dof > outputs + 1:
        np.testing.assert_allclose(post.noise("y"), scatter / (dof - outputs - 1), rtol=1e-9, atol=1e-9)
        v = np.linalg.inv(precision)
        expected = np.kron(scatter / (dof - outputs - 1), v[:-1, :-1])
        np.testing.assert_allclose(post.cov("y.x.weight"), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("cov", [1.0, np.ones(2), np.eye(2)], ids=["scalar", "diagonal", "full"])
@pytest.mark.parametrize("missing", [False, True])
def test_one_fit_after_the_other_is_one_fit_of_all_rows(cov, missing):
    x, y = rows(3, 2, 90)
    if missing:
        y[np.random.default_rng(0).random(len(y)) < 0.3] = np.nan
    net = regression_net(3, 2, cov)
    joint = net.fit({"x": x, "y": y}, "vb").posterior
    rates = {"noise_rate": 1e-3}
    joint = net.fit({"x": x, "y": y}, "vb", **rates).posterior
    post = None
    for part in np.array_split(np.arange(90), 3):
        post = net.fit({"x": x[part], "y": y[part]}, "vb", prior=post, **rates).posterior
    np.testing.assert_allclose(coefficients(post), coefficients(joint), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(post.cov("y.x.weight"), joint.cov("y.x.weight"), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(post.noise("y"), joint.noise("y"), rtol=1e-8)


def test_the_evidences_of_a_sequence_add_up_to_the_joint_one():
    x, y = rows(2, 1, 60)
    net = regression_net(2, 1, 1.0)
    joint = net.fit({"x": x, "y": y}, "vb", noise_rate=0.1).posterior
    first = net.fit({"x": x[:20], "y": y[:20]}, "vb", noise_rate=0.1).posterior
    second = net.fit({"x": x[20:], "y": y[20:]}, "vb", noise_rate=0.1, prior=first).posterior
    np.testing.assert_allclose(first.elbo + second.elbo, joint.elbo, rtol=1e-9)


@pytest.mark.parametrize("cov", [1.0, np.ones(2), np.eye(2)], ids=["scalar", "diagonal", "full"])
def test_rows_that_show_no_output_say_nothing(cov):
    """Under a factorised q they would make weights look well known."""
    x, y = rows(3, 2, 120)
    net = regression_net(3, 2, cov)
    known = net.fit({"x": x[:20], "y": y[:20]}, "vb", noise_rate=0.1).posterior
    y[20:] = np.nan
    padded = net.fit({"x": x, "y": y}, "vb", noise_rate=0.1).posterior
    np.testing.assert_allclose(padded.elbo, known.elbo, rtol=1e-10)
    np.testing.assert_allclose(padded.cov("y.x.weight"), known.cov("y.x.weight"), rtol=1e-9, atol=1e-14)


def test_entries_that_are_missing_here_and_there_leave_regressions_of_their_own():
    x, y = rows(3, 2, 40)
    y[np.random.default_rng(1).random(y.shape) < 0.4] = np.nan
    both = regression_net(3, 2, np.ones(2)).fit({"x": x, "y": y}, "vb", noise_rate=0.1).posterior
    total = 0.0
    for k in range(2):
        seen = ~np.isnan(y[:, k])
        alone = regression_net(3, 1, 1.0).fit({"x": x[seen], "y": y[seen, k : k + 1]}, "vb", noise_rate=0.1).posterior
        np.testing.assert_allclose(both.mean["y.x.weight"][k], alone.mean["y.x.weight"][0], rtol=1e-9)
        np.testing.assert_allclose(both.std["y.x.weight"][k], alone.std["y.x.weight"][0], rtol=1e-9)
        total += alone.elbo
    np.testing.assert_allclose(both.elbo, total, rtol=1e-10)


def test_row_weights_count_rows():
    x, y = rows(2, 1, 30)
    weights = np.random.default_rng(0).integers(0, 4, 30)
    net = regression_net(2, 1, 1.0)
    weighted = net.fit({"x": x, "y": y}, "vb", weights=weights, noise_rate=0.1).posterior
    repeated = net.fit({"x": np.repeat(x, weights, 0), "y": np.repeat(y, weights, 0)}, "vb", noise_rate=0.1).posterior
    np.testing.assert_allclose(weighted.elbo, repeated.elbo, rtol=1e-9)
    np.testing.assert_allclose(weighted.std["y.x.weight"], repeated.std["y.x.weight"], rtol=1e-9)


def test_a_fixed_noise_gives_ridge_regression():
    x, y = rows(3, 2, 30)
    net = regression_net(3, 2, np.array([0.3, 0.9]))
    post = net.fit({"x": x, "y": y}, "vb", fixed_noise=True, conjugate=False, weight_precision=2.0).posterior
    phi = design(x)
    evidence = 0.0
    for k, q in enumerate((0.3, 0.9)):
        precision = 2.0 * np.eye(4) + phi.T @ phi / q
        np.testing.assert_allclose(coefficients(post)[k], np.linalg.solve(precision, phi.T @ y[:, k] / q), rtol=1e-9)
        np.testing.assert_allclose(
            post.std["y.x.weight"][k], np.sqrt(np.diag(np.linalg.inv(precision)))[:-1], rtol=1e-9
        )
        marginal = phi @ phi.T / 2.0 + q * np.eye(30)
        evidence += stats.multivariate_normal(np.zeros(30), marginal).logpdf(y[:, k])
    np.testing.assert_allclose(post.elbo, evidence, rtol=1e-9)
    np.testing.assert_allclose(post.noise("y"), [0.3, 0.9], rtol=1e-15)


def test_masked_and_frozen_weights_stay():
    x, y = rows(3, 2, 30)
    net = regression_net(3, 2, np.ones(2))
    mask = np.array([[True, False, True], [True, True, True]])
    post = net.fit({"x": x, "y": y}, "vb", mask={"y.x.weight": mask}, freeze=["y.bias"]).posterior
    assert post.mean["y.x.weight"][0, 1] == net["y.x.weight"].value[0, 1]
    assert (post.std["y.x.weight"] == 0).tolist() == (~mask).tolist()
    assert "y.bias" not in post.mean
    # The first row is a regression of what the fixed weight leaves over.
    left = y[:, 0] - x[:, 1] * net["y.x.weight"].value[0, 1]
    phi = x[:, [0, 2]]
    expected = np.linalg.solve(1e-3 * np.eye(2) + phi.T @ phi, phi.T @ left)
    np.testing.assert_allclose(post.mean["y.x.weight"][0, [0, 2]], expected, rtol=1e-9)


def test_a_parameter_with_a_prior_of_its_own_has_that_one():
    x, y = rows(2, 1, 25)
    rng = np.random.default_rng(0)
    root = rng.normal(size=(2, 2))
    mean, cov = rng.normal(size=(1, 2)), root @ root.T + np.eye(2)
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("w", mean, cov=cov)
    net.add_linear("y", {"x": "w"}, cov=0.5)
    result = net.fit({"x": x, "y": y}, "vb", fixed_noise=["y"])
    precision = np.linalg.inv(cov) + x.T @ x / 0.5
    expected = np.linalg.solve(precision, np.linalg.inv(cov) @ mean[0] + x.T @ y[:, 0] / 0.5)
    np.testing.assert_allclose(result.posterior.mean["w"][0], expected, rtol=1e-9)
    np.testing.assert_allclose(result.posterior.cov("w"), np.linalg.inv(precision), rtol=1e-9)
    marginal = x @ cov @ x.T + 0.5 * np.eye(25)
    density = stats.multivariate_normal(x @ mean[0], marginal).logpdf(y[:, 0])
    np.testing.assert_allclose(result.posterior.elbo, density, rtol=1e-9)
    assert not result.net["w"].random


def test_intervals_of_weights_and_noises_hold_the_truth_as_often_as_they_say():
    """Truths drawn from the prior, data from them: coverage is then exactly the level, up to the number of draws."""
    rng, hits, noise_hits, count = np.random.default_rng(0), 0, 0, 0
    for _ in range(150):
        precision = rng.gamma(3.0, 1 / 2.0)
        w = rng.normal(size=3) / np.sqrt(0.5 * precision)
        x = rng.normal(size=(12, 2))
        y = (design(x) @ w + rng.normal(size=12) / np.sqrt(precision))[:, None]
        options = {"weight_precision": 0.5, "noise_shape": 3.0, "noise_rate": 2.0}
        post = regression_net(2, 1, 1.0).fit({"x": x, "y": y}, "vb", **options).posterior
        low, high = (
            np.append(a[0], b) for a, b in zip(post.interval("y.x.weight"), post.interval("y.bias"), strict=True)
        )
        hits, count = hits + int(((low < w) & (w < high)).sum()), count + 3
        low, high = post.noise_interval("y")
        noise_hits += int(low[0] < 1 / precision < high[0])
    assert 0.85 < hits / count < 0.95
    assert 0.85 < noise_hits / 150 < 0.95


def test_wrong_options_are_named():
    x, y = rows(2, 1, 10)
    net, data = regression_net(2, 1, 1.0), {"x": x, "y": y}
    for options, message in [
        ({"noise_shape": 0.0}, "noise_shape: got 0.0, expected a finite number above 0"),
        ({"weight_precision": -1.0}, "weight_precision: got -1.0"),
        ({"noise_rate": {"y": np.inf}}, "noise_rate"),
        ({"max_iter": -1, "ard_rate": -2.0}, "max_iter: got -1.*ard_rate: got -2.0"),
    ]:
        with pytest.raises(LearningError, match=message):
            net.fit(data, "vb", **options)
    with pytest.raises(gbn.UnknownNameError, match=r"learned parameter in ard 'y\.x.wieght'"):
        net.fit(data, "vb", ard=["y.x.wieght"])
    with pytest.raises(gbn.UnknownNameError, match="'z'"):
        net.fit(data, "vb", fixed_noise=["z"])
    with pytest.raises(ArgumentTypeError, match=r"prior: got 3 \(int\).*noise_shape: got 'much'"):
        net.fit(data, "vb", prior=3, noise_shape="much")


def test_regressors_that_determine_one_another():
    x, y = rows(1, 1, 50)
    twice = np.column_stack([x, x])
    net = regression_net(2, 1, 1.0)
    # The prior decides between the two weights.
    post = net.fit({"x": twice, "y": y}, "vb").posterior
    np.testing.assert_allclose(post.mean["y.x.weight"][0, 0], post.mean["y.x.weight"][0, 1], rtol=1e-6)
    assert post.std["y.x.weight"][0, 0] > 3
    with pytest.raises(LearningError, match=r"'y': the posterior of 'y\.x\.weight', 'y\.bias' is lost to rounding"):
        net.fit({"x": 1e9 * twice, "y": y}, "vb")


def test_a_prior_of_another_net_is_refused():
    x, y = rows(2, 1, 10)
    post = regression_net(2, 1, 1.0).fit({"x": x, "y": y}, "vb").posterior
    with pytest.raises(LearningError, match=r"'y\.x\.weight' has 2 entries there and 3"):
        regression_net(3, 1, 1.0).fit({"x": rows(3, 1, 10)[0], "y": y}, "vb", prior=post)
    with pytest.raises(LearningError, match="in units of their noise there"):
        regression_net(2, 1, 1.0).fit({"x": x, "y": y}, "vb", prior=post, conjugate=False)
    with pytest.raises(LearningError, match="the noise of 'y' is"):
        regression_net(2, 1, [[1.0]]).fit({"x": x, "y": y}, "vb", prior=post)
    with pytest.raises(LearningError, match="in part frozen"):
        regression_net(2, 1, 1.0).fit({"x": x, "y": y}, "vb", prior=post, freeze=["y.bias"])


def test_relevance_needs_a_column_for_each_regressor():
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(9, 2)), "u": rng.normal(size=(9, 2)), "t": rng.normal(size=(9, 2))}
    alone = gbn.GaussianBayesNet()
    alone.add_input("x", 2)
    alone.add_input("u", 2)
    alone.add_parameter("w", np.eye(2))
    alone.add_linear("t", {"x": "w", "u": "w"}, cov=0.5)
    with pytest.raises(LearningError, match="ard: the entries of 'w' are weights of several regressors each"):
        alone.fit(data, "vb", ard=["w"])
    assert alone.fit(data, "vb", ard=True).posterior.relevance == {}
