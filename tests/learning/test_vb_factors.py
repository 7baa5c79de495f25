"""Variational factor analysis, PCA and time series, against coordinate ascent written out in numpy."""

import numpy as np
import pytest

import gbn
from gbn.errors import LearningError
from gbn.learning.numbers import numbers


@pytest.fixture(scope="module")
def readings():
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 3)) @ rng.normal(size=(3, 12)) + 0.6 * rng.normal(size=(300, 12)) + rng.normal(size=12)


def factor_net(sensors=12, factors=3, cov=1.0, bias=True, seed=1):
    net = gbn.GaussianBayesNet()
    net.add_input("z", factors, mean=0.0, cov=1.0)
    loadings = np.random.default_rng(seed).normal(size=(sensors, factors))
    net.add_linear("y", {"z": loadings}, bias=np.zeros(sensors) if bias else None, cov=cov)
    return net


def pca_by_hand(y, w, rounds, a0, b0, shape0, rate0):
    """Bishop, *Variational principal components* (1999): q(z) q(W) q(α) q(τ), in that model's own notation."""
    n, d = y.shape
    k = w.shape[1]
    cov_w, tau, alpha = np.eye(k) * 0.1, 1.0, np.ones(k)
    for _ in range(rounds):
        ww = w.T @ w + d * cov_w
        cov_z = np.linalg.inv(np.eye(k) + tau * ww)
        z = tau * y @ w @ cov_z
        zz = z.T @ z + n * cov_z
        cov_w = np.linalg.inv(np.diag(alpha) + tau * zz)
        w = tau * y.T @ z @ cov_w
        ww = w.T @ w + d * cov_w
        shape = shape0 + n * d / 2
        rate = rate0 + 0.5 * ((y * y).sum() - 2 * (y * (z @ w.T)).sum() + np.trace(ww @ zz))
        tau = shape / rate
        a, b = a0 + d / 2, b0 + 0.5 * np.diag(ww)
        alpha = a / b
    return w, cov_w, tau, alpha


def test_pca_ends_where_coordinate_ascent_by_hand_does(readings):
    y = readings - readings.mean(0)
    options = {
        "conjugate": False,
        "ard": True,
        "ard_shape": 0.1,
        "ard_rate": 0.1,
        "noise_shape": 0.2,
        "noise_rate": 0.3,
    }
    net = factor_net(bias=False)
    result = net.fit({"y": y}, "vb", tol=1e-13, max_iter=500, **options)
    post = result.posterior
    shape, rate = post.relevance["y.z.weight"]
    # From there on by hand, which leads nowhere else.
    w, cov_w, tau, alpha = pca_by_hand(y, post.mean["y.z.weight"], 3000, 0.1, 0.1, 0.2, 0.3)
    np.testing.assert_allclose(1 / result.net.noise("y").value, tau, rtol=1e-6)
    np.testing.assert_allclose(post.mean["y.z.weight"], w, atol=1e-5)
    np.testing.assert_allclose(shape / rate, alpha, rtol=1e-5)
    np.testing.assert_allclose(post.cov("y.z.weight")[:3, :3], cov_w, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("conjugate", [True, False])
@pytest.mark.parametrize("cov", [1.0, np.ones(12)], ids=["isotropic", "diagonal"])
@pytest.mark.parametrize("ard", [False, True])
def test_expansion_goes_higher_in_fewer_rounds(readings, conjugate, cov, ard):
    options = {"conjugate": conjugate, "ard": ard}
    fast = factor_net(cov=cov).fit({"y": readings}, "vb", **options)
    trace = fast.history.column("elbo")
    assert fast.converged
    assert fast.diagnostics["expanded"] == ("z",)
    assert (np.diff(trace) >= -1e-9 * np.abs(trace[:-1])).all()
    slow = factor_net(cov=cov).fit({"y": readings}, "vb", px=False, **options)
    assert slow.diagnostics["expanded"] == ()
    assert len(slow.history) > 2 * len(trace)
    assert slow.history[-1]["elbo"] <= trace[-1] + 0.01


def test_superfluous_factors_are_pruned(readings):
    result = factor_net(factors=7).fit({"y": readings}, "vb", ard=True)
    sizes = np.sort(np.sqrt((result.net["y.z.weight"].value ** 2).mean(0)))[::-1]
    assert (sizes[:3] > 0.3).all()
    assert (sizes[3:] < 1e-3).all()
    shape, rate = result.posterior.relevance["y.z.weight"]
    assert (np.sort(shape / rate)[3:] > 100).all()
    lean = factor_net(factors=3).fit({"y": readings}, "vb", ard=True)
    plain = factor_net(factors=7).fit({"y": readings}, "vb")
    # The bound chooses the number of factors, and relevance comes close to that choice by itself.
    assert lean.posterior.elbo > plain.posterior.elbo
    assert result.posterior.elbo > plain.posterior.elbo


def test_missing_cells(readings):
    y = readings.copy()
    gaps = np.random.default_rng(2).random(y.shape) < 0.25
    y[gaps] = np.nan
    result = factor_net(cov=np.ones(12)).fit({"y": y}, "vb")
    trace = result.history.column("elbo")
    assert result.converged
    assert (np.diff(trace) >= -1e-9 * np.abs(trace[:-1])).all()
    filled = result.net.query(["y"], {"y": y}).mean["y"]
    assert np.sqrt(np.mean((filled - readings)[gaps] ** 2)) < 0.8


def test_a_root_of_which_nothing_is_heard_stays(readings):
    net = factor_net(12, 3)
    net.add_input("w", 2, mean=0.0, cov=1.0)
    net.add_linear("unseen", {"w": np.ones((4, 2))}, bias=np.zeros(4), cov=1.0)
    alone, beside = (n.fit({"y": readings}, "vb") for n in (factor_net(12, 3), net))
    assert set(beside.diagnostics["expanded"]) == {"z", "w"}
    np.testing.assert_allclose(beside.posterior.elbo, alone.posterior.elbo, rtol=1e-9)
    # Its weights are as uncertain as the prior has them.
    np.testing.assert_allclose(beside.posterior.mean["unseen.w.weight"], 0, atol=1e-12)


def test_what_is_not_learned_is_the_roots_prior(readings):
    net = factor_net()
    result = net.fit({"y": readings}, "vb", max_iter=3, tol=None, callback=lambda n, _: n == 3)
    assert "z" not in result.posterior.mean
    assert result.net.noise("z").value == 1.0
    assert not result.net["z"].value.any()


def test_a_time_series_ties_transitions_and_never_falls():
    rng = np.random.default_rng(0)
    x, y = np.zeros(2), []
    a = np.array([[0.9, 0.2], [-0.2, 0.9]])
    for _ in range(60):
        x = a @ x + 0.3 * rng.normal(size=2)
        y.append(x @ [[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]] + 0.2 * rng.normal(size=3))
    net = gbn.GaussianBayesNet()
    net.add_parameter("A", 0.5 * np.eye(2))
    net.add_parameter("C", rng.normal(size=(3, 2)))
    net.add_noise("Q", np.ones(2), (2,))
    net.add_noise("R", np.eye(3), (3,))
    net.add_input("x0", 2, mean=0.0, cov=1.0)
    for t in range(60):
        if t:
            net.add_linear(f"x{t}", {f"x{t - 1}": "A"}, cov="Q")
        net.add_linear(f"y{t}", {f"x{t}": "C"}, cov="R")
    data = {f"y{t}": row[None] for t, row in enumerate(y)}
    data["y7"] = np.array([[np.nan, 1.0, np.nan]])
    data["y8"] = np.full((1, 3), np.nan)
    result = net.fit(data, "vb", max_iter=60, tol=None, callback=lambda n, _: n == 60)
    trace = result.history.column("elbo")
    assert (np.diff(trace) >= -1e-9 * np.abs(trace[:-1])).all()
    assert set(result.diagnostics["conjugate"]) == {"Q", "R"}
    moduli = np.abs(np.linalg.eigvals(result.net["A"].value))
    np.testing.assert_allclose(moduli, np.abs(np.linalg.eigvals(a)), atol=0.12)
    # The end of the series, of which nothing is seen, changes nothing.
    longer = {**data, **{f"y{t}": np.full((1, 3), np.nan) for t in (58, 59)}}
    shorter = {name: value for name, value in longer.items() if name not in ("y58", "y59")}
    by_gaps, left_out = (
        net.fit(d, "vb", max_iter=5, tol=None, callback=lambda n, _: n == 5) for d in (longer, shorter)
    )
    np.testing.assert_allclose(by_gaps.history.column("elbo"), left_out.history.column("elbo"), rtol=1e-10)


def test_single_precision_is_kept(readings):
    net = gbn.GaussianBayesNet(np.float32)
    net.add_input("z", 2, mean=0.0, cov=1.0)
    net.add_linear("y", {"z": np.random.default_rng(0).normal(size=(12, 2))}, bias=np.zeros(12), cov=1.0)
    result = net.fit({"y": readings}, "vb")
    assert result.converged
    assert result.net["y.z.weight"].value.dtype == np.float32
    assert (np.diff(result.history.column("elbo")) >= -1e-6).all()


def test_a_fit_goes_on_from_its_checkpoint(readings, tmp_path):
    net, path = factor_net(factors=5), tmp_path / "fit.ckpt"
    options = {"ard": True, "tol": None, "callback": lambda n, _: n == 9}
    whole = net.fit({"y": readings}, "vb", max_iter=9, **options)
    net.fit({"y": readings}, "vb", max_iter=4, checkpoint=path, ard=True, tol=None, callback=lambda n, _: n == 4)
    rest = net.fit({"y": readings}, "vb", max_iter=9, checkpoint=path, **options)
    assert whole.history == rest.history
    first, second = numbers(whole.net), numbers(rest.net)
    for kind in first:
        for name in first[kind]:
            np.testing.assert_array_equal(first[kind][name], second[kind][name])
    np.testing.assert_array_equal(whole.posterior.cov("y.z.weight"), rest.posterior.cov("y.z.weight"))


def test_held_out_rows_choose_the_round_and_its_posterior(readings):
    result = factor_net().fit(
        {"y": readings[:200]}, "vb", validation={"y": readings[200:]}, max_iter=20, tol=None,
        callback=lambda n, _: n == 20,
    )  # fmt: skip
    scores = result.history.column("validation")
    assert result.best_round == int(np.argmax(scores))
    values = result.posterior.mean["y.z.weight"]
    np.testing.assert_array_equal(values, result.net["y.z.weight"].value)


def test_a_net_that_is_nonlinear_in_what_is_hidden_is_refused():
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_linear("a", {"x": np.eye(2)}, cov=0.1)
    net.add("h", "Tanh", ["a"])
    net.add_linear("y", {"h": np.ones((1, 2))}, cov=0.1)
    with pytest.raises(LearningError, match=r"'h' \(Tanh\) is nonlinear in what is hidden"):
        net.fit({"x": np.zeros((3, 2)), "y": np.zeros((3, 1))}, "vb")


@pytest.mark.parametrize("missing, expected", [(False, -81.68907982685305), (True, -66.853917)])
def test_pca_reaches_the_bound_that_bayespy_reaches(missing, expected):
    """BayesPy 0.6.6 on these data, with this model and these priors: nats a row (``benchmarks/vb.py``)."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(50, 5))
    y = rng.normal(size=(1000, 5)) @ loadings.T + rng.normal(size=(1000, 50))
    if missing:
        y[np.random.default_rng(2).random(y.shape) < 0.2] = np.nan
    net = factor_net(50, 5, bias=False)
    weak = dict.fromkeys(("ard_shape", "ard_rate", "noise_shape", "noise_rate"), 1e-5)
    result = net.fit({"y": y}, "vb", conjugate=False, ard=True, tol=1e-9, **weak)
    np.testing.assert_allclose(result.posterior.elbo / 1000, expected, atol=2e-6)
    assert len(result.history) - 1 <= 20


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_units_of_any_size(readings, scale):
    """A hidden layer between input and readings, whose own scale nothing fixes."""
    rng = np.random.default_rng(5)
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_linear("h", {"x": rng.normal(size=(2, 2))}, bias=np.zeros(2), cov=0.5)
    net.add_linear("y", {"h": rng.normal(size=(3, 2))}, bias=np.zeros(3), cov=np.ones(3))
    data = {"x": readings[:20, :2], "y": scale * readings[:20, 2:5]}
    result = net.fit(data, "vb", max_iter=25, tol=None, callback=lambda n, _: n == 25)
    trace = result.history.column("elbo")
    assert result.reason == "stopped by the callback after 25 iterations"
    assert (np.diff(trace) >= -1e-8 * np.abs(trace[:-1])).all()


@pytest.mark.parametrize("seed", range(3))
def test_pca_with_known_precisions_is_the_closed_form(seed):
    """Nakajima, Sugiyama, Babacan & Tomioka, J. Mach. Learn. Res. 14 (2013): singular values of the data shrink, and
    those below a threshold are gone."""
    rng = np.random.default_rng(seed)
    n, d, k, noise, kappa = 60, 8, 5, 0.5, 0.7
    y = rng.normal(size=(n, 2)) @ rng.normal(size=(2, d)) * 1.5 + np.sqrt(noise) * rng.normal(size=(n, d))
    net = factor_net(d, k, cov=noise, bias=False)
    options = {"conjugate": False, "weight_precision": kappa, "fixed_noise": True, "tol": 1e-15, "max_iter": 5000}
    post = net.fit({"y": y}, "vb", **options).posterior
    w, cov = post.mean["y.z.weight"], post.cov("y.z.weight")
    summed = sum(cov[i * k : (i + 1) * k, i * k : (i + 1) * k] for i in range(d))
    z = y @ w @ np.linalg.inv(noise * np.eye(k) + w.T @ w + summed)
    found = np.linalg.svd(z @ w.T)[1][:k]
    values = np.linalg.svd(y)[1][:k]
    half = (n + d) / 2 + noise * kappa / 2
    threshold = np.sqrt(noise * (half + np.sqrt(half**2 - n * d)))
    shrunk = values * (1 - noise / (2 * values**2) * (n + d + np.sqrt((n - d) ** 2 + 4 * values**2 * kappa)))
    np.testing.assert_allclose(found, np.where(values > threshold, shrunk, 0.0), rtol=1e-6, atol=1e-4)
