"""Factor analysis and probabilistic PCA as nets, against scikit-learn and closed forms."""

import numpy as np
import pytest
from sklearn.decomposition import FactorAnalysis

import gbn
from gbn.learning import leaves
from gbn.learning.data import Data

ROWS, SENSORS, FACTORS = 1000, 50, 5


@pytest.fixture(scope="module")
def two_factors():
    """Six sensors, three for each of two clear factors."""
    rng = np.random.default_rng(5)
    loadings = np.kron(np.eye(2), [[2.0], [-1.5], [1.0]])
    return rng.normal(size=(200, 2)) @ loadings.T + 0.7 * rng.normal(size=(200, 6))


@pytest.fixture(scope="module")
def readings():
    rng = np.random.default_rng(0)
    loadings, spread = rng.normal(size=(SENSORS, FACTORS)), rng.uniform(0.5, 2, SENSORS)
    noise = rng.normal(size=(2 * ROWS, SENSORS)) * np.sqrt(spread)
    return rng.normal(size=(2 * ROWS, FACTORS)) @ loadings.T + noise + rng.normal(size=SENSORS)


def factor_net(sensors=SENSORS, factors=FACTORS, cov=None, bias=True, seed=1):
    net = gbn.GaussianBayesNet()
    net.add_input("z", factors, mean=0.0, cov=1.0)
    loadings = np.random.default_rng(seed).normal(size=(sensors, factors))
    net.add_linear(
        "y", {"z": loadings}, bias=np.zeros(sensors) if bias else None, cov=np.ones(sensors) if cov is None else cov
    )
    return net


def test_factor_analysis_reaches_the_optimum_within_30_iterations(readings):
    y = readings[:ROWS]
    peer = FactorAnalysis(FACTORS, tol=1e-10, max_iter=5000, svd_method="lapack").fit(y)
    best = peer.score(y) * ROWS
    result = factor_net().fit({"y": y})
    trace = result.history.column("log_evidence")
    assert result.converged
    assert result.diagnostics["expanded"] == ("z",)
    assert len(trace) - 1 <= 30
    assert (np.diff(trace) >= -1e-9 * np.abs(trace[:-1])).all()
    np.testing.assert_allclose(trace[-1], best, rtol=1e-6)
    np.testing.assert_allclose(result.net.query([], {"y": y}).log_evidence.sum(), trace[-1], rtol=1e-12)
    # The root's prior is a convention, and stays.
    assert result.net.noise("z").value == 1.0
    assert not result.net["z"].value.any()
    slow = factor_net().fit({"y": y}, px=False)
    assert len(slow.history) > 3 * len(trace)
    np.testing.assert_allclose(slow.history[-1]["log_evidence"], best, rtol=1e-5)


def test_probabilistic_pca_equals_the_closed_form(readings):
    """Tipping & Bishop (1999): σ² is the mean of the smallest eigenvalues, W Wᵀ + σ² I the rest."""
    y = readings[:ROWS]
    values, vectors = np.linalg.eigh(np.cov(y.T, bias=True))
    noise = values[:-FACTORS].mean()
    top = vectors[:, -FACTORS:]
    covariance = (top * (values[-FACTORS:] - noise)) @ top.T + noise * np.eye(SENSORS)
    logdet = np.linalg.slogdet(covariance)[1]
    centred = y - y.mean(0)
    square = (centred @ np.linalg.inv(covariance) * centred).sum()
    best = -0.5 * (square + ROWS * (logdet + SENSORS * np.log(2 * np.pi)))

    result = factor_net(cov=1.0).fit({"y": y}, tol=1e-13, max_iter=2000)
    net = result.net
    np.testing.assert_allclose(result.history[-1]["log_evidence"], best, rtol=1e-10)
    np.testing.assert_allclose(net.noise("y").value, noise, rtol=1e-5)
    w = net["y.z.weight"].value
    np.testing.assert_allclose(w @ w.T + noise * np.eye(SENSORS), covariance, atol=1e-4)
    np.testing.assert_allclose(net["y.bias"].value, y.mean(0), rtol=1e-6)
    assert len(factor_net(cov=1.0).fit({"y": y}).history) - 1 <= 30


def test_missing_cells_beat_imputing_the_mean(readings):
    y, held = readings[:ROWS].copy(), readings[ROWS:]
    y[np.random.default_rng(2).random(y.shape) < 0.2] = np.nan
    result = factor_net().fit({"y": y}, tol=1e-6)
    trace = result.history.column("log_evidence")
    assert result.converged
    assert (np.diff(trace) >= -1e-9 * np.abs(trace[:-1])).all()
    filled = np.where(np.isnan(y), np.nanmean(y, axis=0), y)
    peer = FactorAnalysis(FACTORS).fit(filled)
    assert result.net.query([], {"y": held}).log_evidence.mean() > peer.score(held) + 1


def test_without_a_bias_the_mean_stays_where_it_is(two_factors):
    y = two_factors - two_factors.mean(0)
    result = factor_net(6, 2, bias=False).fit({"y": y})
    assert result.diagnostics["expanded"] == ("z",)
    assert not result.net["z"].value.any()
    peer = FactorAnalysis(2, tol=1e-10, max_iter=5000, svd_method="lapack").fit(y)
    np.testing.assert_allclose(result.history[-1]["log_evidence"], peer.score(y) * 200, rtol=1e-5)


def test_two_roots_are_expanded_side_by_side(two_factors):
    y = two_factors
    net = gbn.GaussianBayesNet()
    rng = np.random.default_rng(0)
    net.add_input("a", 1, mean=[1.0], cov=[[2.0]])
    net.add_input("b", 1, mean=0.0, cov=3.0)
    net.add_linear("y", {"a": rng.normal(size=(6, 1)), "b": rng.normal(size=(6, 1))}, bias=np.zeros(6), cov=np.ones(6))
    result = net.fit({"y": y}, max_iter=1000)
    assert result.diagnostics["expanded"] == ("a", "b")
    np.testing.assert_array_equal(result.net.noise("a").value, net.noise("a").value)
    np.testing.assert_array_equal(result.net["a"].value, [1.0])
    peer = FactorAnalysis(2, tol=1e-10, max_iter=5000, svd_method="lapack").fit(y)
    np.testing.assert_allclose(result.history[-1]["log_evidence"], peer.score(y) * 200, rtol=1e-5)


def test_roots_are_no_gauge_where_their_weights_are_not_free(readings):
    y = readings[:100, :4]
    mask = np.ones((4, 2), bool)
    mask[0, 1] = False
    for options in ({"freeze": ["y.z.weight"]}, {"mask": {"y.z.weight": mask}}, {"ridge": 1.0}, {"px": False}):
        result = factor_net(4, 2).fit({"y": y}, max_iter=3, tol=0, callback=lambda n, _: n == 3, **options)
        assert result.diagnostics["expanded"] == ()
        # Its prior is then learned like any other.
        assert result.net.noise("z").value != 1.0
    frozen = factor_net(4, 2).fit({"y": y}, max_iter=3, tol=0, callback=lambda n, _: n == 3, freeze=["z", "y.z.weight"])
    assert frozen.net.noise("z").value == 1.0
    assert not frozen.net["z"].value.any()
    np.testing.assert_array_equal(frozen.net["y.z.weight"].value, factor_net(4, 2)["y.z.weight"].value)


def test_restarts_keep_the_best(readings):
    y = readings[:100, :6]
    single = factor_net(6, 2).fit({"y": y}, tol=1e-4)
    several = factor_net(6, 2).fit({"y": y}, tol=1e-4, restarts=3, seed=4)
    starts = several.history.column("start")
    assert set(starts) == {0, 1, 2, 3}
    best = several.history.column("objective").max()
    assert several.history[several.best_round]["objective"] == best
    assert best >= single.history[-1]["objective"]
    np.testing.assert_allclose(several.net.query([], {"y": y}).log_evidence.sum(), best, rtol=1e-10)


def test_standard_errors_of_a_regression_are_the_textbooks():
    """For y = W x + b + e with everything observed: σ² (XᵀX)⁻¹ for weights, 2 σ⁴ / n for the variance."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 2))
    y = x @ [[1.0], [-2.0]] + 0.5 + 0.3 * rng.normal(size=(80, 1))
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_linear("y", {"x": np.zeros((1, 2))}, bias=[0.0], cov=1.0)
    result = net.fit({"x": x, "y": y}, standard_errors=True)
    sigma2 = float(result.net.noise("y").value)
    design = np.column_stack([x, np.ones(80)])
    expected = np.sqrt(np.diag(sigma2 * np.linalg.inv(design.T @ design)))
    found = result.standard_errors
    np.testing.assert_allclose(found["y.x.weight"][0], expected[:2], rtol=1e-6)
    np.testing.assert_allclose(found["y.bias"], expected[2:], rtol=1e-6)
    np.testing.assert_allclose(found["y.noise"], sigma2 * np.sqrt(2 / 80), rtol=1e-6)


def test_standard_errors_are_infinite_where_factors_may_be_rotated(two_factors):
    y = two_factors
    result = factor_net(6, 2).fit({"y": y}, tol=1e-9, standard_errors=True)
    assert np.isinf(result.standard_errors["y.z.weight"]).all()
    assert np.isfinite(result.standard_errors["y.bias"]).all()
    assert np.isfinite(result.standard_errors["y.noise"]).all()
    np.testing.assert_allclose(result.standard_errors["y.bias"], y.std(0) / np.sqrt(200), rtol=1e-3)


@pytest.mark.parametrize("form", ["diagonal", "scalar"])
def test_scattered_leaves_give_what_the_whole_system_gives(readings, form, monkeypatch):
    """The twin that leaves missing entries of a leaf out, beside the solver that keeps them."""
    y = readings[:60, :12].copy()
    y[np.random.default_rng(0).random(y.shape) < 0.3] = np.nan
    y[0] = np.nan
    x = np.random.default_rng(1).normal(size=(60, 2))
    net = gbn.GaussianBayesNet()
    rng = np.random.default_rng(2)
    net.add_input("x", 2)
    net.add_input("z", 3, mean=0.0, cov=1.0)
    weights = {"z": rng.normal(size=(12, 3)), "x": rng.normal(size=(12, 2))}
    net.add_linear("y", weights, bias=np.zeros(12), cov=np.ones(12) if form == "diagonal" else 1.0)
    net.add_linear("t", {"z": rng.normal(size=(1, 3))}, cov=0.5)
    data, weights = {"x": x, "y": y, "t": rng.normal(size=(60, 1))}, rng.uniform(0.5, 2, 60)
    results = []
    for worth in (0.0, np.inf):
        monkeypatch.setattr(leaves, "_WORTH", worth)
        assert leaves.scattered_leaves(Data.read(net, data)) == ([] if worth else ["y"])
        results.append(net.fit(data, weights=weights, max_iter=6, tol=None, callback=lambda n, _: n == 6))
    by_twin, whole = results
    np.testing.assert_allclose(by_twin.history.column("log_evidence"), whole.history.column("log_evidence"), rtol=1e-10)
    for name in net.parameters:
        np.testing.assert_allclose(by_twin.net[name].value, whole.net[name].value, rtol=1e-8, atol=1e-10)
    for name in net.noises:
        np.testing.assert_allclose(by_twin.net.noises[name].value, whole.net.noises[name].value, rtol=1e-8)
