"""EM on nets of ops: what counts as a regression, however it is written, and what is refused by name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gbn
from gbn.errors import LearningError
from gbn.learning.design import Design, Mean

SEEDS = st.integers(0, 10_000)


def least_squares(design, target):
    return np.linalg.lstsq(design, target, rcond=None)[0]


def order(net):
    return {name: k for k, name in enumerate(net.vertices)}


def trace_is_monotone(result):
    trace = result.history.column("objective")
    return (np.diff(trace) >= -1e-9 * (1 + np.abs(trace[:-1]))).all()


@settings(max_examples=25)
@given(SEEDS, st.sampled_from(["Linear", "Gemm", "GemmT", "MatMul", "Transposed", "Reshaped", "Added"]))
def test_every_way_of_writing_a_layer_is_the_same_regression(seed, way):
    rng = np.random.default_rng(seed)
    n, m, rows = int(rng.integers(1, 5)), int(rng.integers(1, 4)), 30
    x, y = rng.normal(size=(rows, n)), rng.normal(size=(rows, m))
    net = gbn.GaussianBayesNet()
    net.add_input("x", n)
    flipped = way in ("GemmT", "Linear", "Transposed")
    net.add_parameter("w", rng.normal(size=(m, n) if flipped else (n, m)))
    net.add_parameter("b", rng.normal(size=m))
    if way == "Linear":
        net.add_linear("y", {"x": "w"}, bias="b", cov=1.0)
    elif way.startswith("Gemm"):
        net.add("y", "Gemm", ["x", "w", "b"], transB=int(flipped), alpha=0.5, beta=2.0, cov=1.0)
    elif way == "Transposed":
        net.add("wt", "Transpose", ["w"])
        net.add("y", "Gemm", ["x", "wt", "b"], alpha=0.5, beta=2.0, cov=1.0)
    else:
        net.add("a", "MatMul", ["x", "w"])
        if way == "Reshaped":
            net.add("flat", "Reshape", ["a"], shape=[0, 1, m])
            net.add("same", "Identity", ["flat"])
            net.add("back", "Reshape", ["same"], shape=[0, m])
            net.add("y", "Add", ["back", "b"], cov=1.0)
        else:
            net.add("y", "Add", ["b", "a"], cov=1.0)
    result = net.fit({"x": x, "y": y})
    alpha, beta = (0.5, 2.0) if way in ("Gemm", "GemmT", "Transposed") else (1.0, 1.0)
    expected = least_squares(np.column_stack([x, np.ones(rows)]), y)
    w = result.net["w"].value
    np.testing.assert_allclose(alpha * (w.T if flipped else w), expected[:n], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(beta * result.net["b"].value, expected[n], rtol=1e-8, atol=1e-9)
    residual = y - np.column_stack([x, np.ones(rows)]) @ expected
    np.testing.assert_allclose(result.net.noise("y").value, (residual**2).mean(), rtol=1e-8)


def test_nonlinear_features_of_data_are_regressors():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add("h", "Tanh", ["x"])
    net.add_linear("y", {"h": np.zeros((1, 2)), "x": np.zeros((1, 2))}, cov=1.0)
    y = np.tanh(x) @ [[1.0], [2.0]] - x @ [[0.5], [0.0]] + 0.1 * rng.normal(size=(200, 1))
    result = net.fit({"x": x, "y": y})
    expected = least_squares(np.concatenate([np.tanh(x), x], axis=1), y)[:, 0]
    found = np.concatenate([result.net[f"y.{p}.weight"].value[0] for p in ("h", "x")])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_convolution_kernel_is_one_regression():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(6, 2, 5, 5)), rng.normal(size=(3, 2, 2, 2))
    net = gbn.GaussianBayesNet()
    net.add_input("x", (2, 5, 5))
    net.add_parameter("w", np.zeros((3, 2, 2, 2)))
    net.add_parameter("b", np.zeros(3))
    net.add("y", "Conv", ["x", "w", "b"], cov=1.0)
    truth = net.copy()
    truth.set_value("w", w)
    truth.set_value("b", [1.0, 2.0, 3.0])
    y = truth.forward({"x": x})["y"] + 0.3 * rng.normal(size=(6, 3, 4, 4))
    result = net.fit({"x": x, "y": y})
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), (2, 3)).transpose(0, 2, 3, 1, 4, 5).reshape(-1, 8)
    design = np.column_stack([windows, np.ones(len(windows))])
    expected = least_squares(design, y.transpose(0, 2, 3, 1).reshape(-1, 3))
    np.testing.assert_allclose(result.net["w"].value.reshape(3, 8), expected[:8].T, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(result.net["b"].value, expected[8], rtol=1e-8)


def test_a_weight_cut_in_two_by_slices():
    """y = [W_a x; -W_b x + x], with the two parts of one parameter."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2))
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("w", np.zeros((4, 2)))
    net.add("upper", "Slice", ["w"], starts=[0], ends=[2], axes=[0])
    net.add("lower", "Slice", ["w"], starts=[2], ends=[4], axes=[0])
    net.add("a", "Gemm", ["x", "upper"], transB=1)
    net.add("b", "Gemm", ["x", "lower"], transB=1)
    net.add("minus", "Neg", ["b"])
    net.add("sum", "Add", ["minus", "x"])
    net.add("y", "Concat", ["a", "sum"], axis=1, cov=np.ones(4))
    y = rng.normal(size=(50, 4))
    found = net.fit({"x": x, "y": y}).net["w"].value
    np.testing.assert_allclose(found[:2], least_squares(x, y[:, :2]).T, rtol=1e-9)
    np.testing.assert_allclose(found[2:], -least_squares(x, y[:, 2:] - x).T, rtol=1e-9)


def test_products_of_parameters_are_learned_in_turn():
    """y = V (W x) with nothing between: linear in each given the other, a low-rank regression."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 4))
    y = x @ rng.normal(size=(4, 1)) @ rng.normal(size=(1, 3)) + 0.1 * rng.normal(size=(100, 3))
    net = gbn.GaussianBayesNet()
    net.add_input("x", 4)
    net.add_parameter("w", rng.normal(size=(4, 1)))
    net.add_parameter("v", rng.normal(size=(1, 3)))
    net.add("h", "MatMul", ["x", "w"])
    net.add("y", "MatMul", ["h", "v"], cov=1.0)
    result = net.fit({"x": x, "y": y}, tol=1e-12)
    assert trace_is_monotone(result)
    # With scalar noise the optimum is the best rank-one part of the fitted values (reduced-rank regression).
    fitted = x @ least_squares(x, y)
    u, s, vt = np.linalg.svd(fitted, full_matrices=False)
    best = s[0] * np.outer(u[:, 0], vt[0])
    np.testing.assert_allclose(x @ result.net["w"].value @ result.net["v"].value, best, atol=1e-5)


def test_masked_entries_with_a_full_covariance():
    """Seemingly unrelated regressions: generalised least squares over both rows at once."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    y = rng.normal(size=(60, 2)) @ [[1.0, 0.8], [0.0, 0.5]] + x @ rng.normal(size=(3, 2))
    mask = np.array([[True, True, False], [False, True, True]])
    start = np.where(mask, 0.0, 1 / 3)
    net = gbn.GaussianBayesNet()
    net.add_input("x", 3)
    net.add_linear("y", {"x": start}, cov=np.array([[1.0, 0.2], [0.2, 2.0]]))
    result = net.fit({"x": x, "y": y}, mask={"y.x.weight": mask}, tol=1e-14)
    w, q = result.net["y.x.weight"].value, result.net.noise("y").matrix()
    assert w[~mask].tobytes() == start[~mask].tobytes()
    error = y - x @ w.T
    np.testing.assert_allclose(q, error.T @ error / 60, rtol=1e-6)
    # At the optimum the generalised residual is orthogonal to every regressor that is free.
    slope = np.linalg.solve(q, error.T) @ x
    np.testing.assert_allclose(slope[mask], 0, atol=1e-4)
    assert (np.abs(slope[~mask]) > 1e-2).all()


def test_ridge_is_the_textbooks():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    net = gbn.GaussianBayesNet()
    net.add_input("x", 3)
    net.add_linear("y", {"x": np.zeros((2, 3))}, bias=np.zeros(2), cov=0.5)
    result = net.fit({"x": x, "y": y}, ridge=7.0, fixed_noise=True)
    centred = x - x.mean(0)
    expected = np.linalg.solve(centred.T @ centred / 0.5 + 7.0 * np.eye(3), centred.T @ (y - y.mean(0)) / 0.5).T
    np.testing.assert_allclose(result.net["y.x.weight"].value, expected, rtol=1e-8)
    np.testing.assert_allclose(result.net["y.bias"].value, y.mean(0) - expected @ x.mean(0), rtol=1e-8, atol=1e-12)
    assert result.net.noise("y").value == 0.5


def test_a_prior_on_noise_counts_as_rows():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(10, 2))
    net = gbn.GaussianBayesNet()
    net.add_input("y", 2, mean=0.0, cov=np.eye(2))
    result = net.fit({"y": y}, noise_prior={"y": (5.0, 3.0)})
    expected = (10 * np.cov(y.T, bias=True) + 15.0 * np.eye(2)) / 15
    np.testing.assert_allclose(result.net.noise("y").value, expected, rtol=1e-9)
    np.testing.assert_allclose(result.net["y"].value, y.mean(0), rtol=1e-9)


def test_numbers_far_from_zero_lose_no_digits():
    rng = np.random.default_rng(0)
    x = 1e6 + rng.normal(size=(100, 2))
    y = 3e6 + 2 * (x[:, :1] - 1e6) + 0.1 * rng.normal(size=(100, 1))
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_linear("y", {"x": np.zeros((1, 2))}, bias=[0.0], cov=1.0)
    result = net.fit({"x": x, "y": y})
    centred = x - x.mean(0)
    expected = least_squares(centred, y - y.mean(0))[:, 0]
    np.testing.assert_allclose(result.net["y.x.weight"].value[0], expected, rtol=1e-6)
    residual = (y - y.mean(0))[:, 0] - centred @ expected
    np.testing.assert_allclose(result.net.noise("y").value, (residual**2).mean(), rtol=1e-5)


def test_single_precision_stays_single():
    rng = np.random.default_rng(0)
    net = gbn.GaussianBayesNet(np.float32)
    net.add_input("z", 1, mean=0.0, cov=1.0)
    net.add_linear("y", {"z": rng.normal(size=(4, 1))}, bias=np.zeros(4), cov=np.ones(4))
    y = rng.normal(size=(100, 1)) @ rng.normal(size=(1, 4)) + 0.5 * rng.normal(size=(100, 4))
    result = net.fit({"y": y.astype(np.float32)}, tol=1e-5)
    assert result.converged
    assert {result.net[p].value.dtype for p in result.net.parameters} == {np.dtype(np.float32)}


def test_parameters_may_be_mixed_in_one_coefficient():
    """W + V multiplies x: only their sum is determined, and what is not stays as it was."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), rng.normal(size=(30, 1))
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("v", [[1.0], [0.0]])
    net.add_parameter("w", [[0.0], [3.0]])
    net.add("sum", "Add", ["v", "w"])
    net.add("y", "MatMul", ["x", "sum"], cov=1.0)
    result = net.fit({"x": x, "y": y})
    v, w = result.net["v"].value, result.net["w"].value
    np.testing.assert_allclose(v + w, least_squares(x, y), rtol=1e-8)
    np.testing.assert_allclose(v - w, [[1.0], [-3.0]], rtol=1e-8)
    assert any("not determined" in note for note in result.diagnostics["not_determined"])


def test_the_design_of_a_mixture_is_found_by_trying():
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("w", np.zeros((2, 2)))
    net.add("wt", "Transpose", ["w"])
    net.add("s", "Add", ["w", "wt"])
    net.add("y", "MatMul", ["x", "s"], cov=1.0)
    mean = Mean.of(net, "y", {"w"}, order(net))
    found = Design(mean, ("w",)).coefficients({"w": np.zeros((2, 2))})
    w = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_allclose(found.at(w.reshape(-1)), np.column_stack([(w + w.T).T, np.zeros(2)]))
    assert found.whole_columns is None


class TestRefusals:
    def test_a_nonlinearity_between_weight_and_noise(self):
        net = gbn.GaussianBayesNet()
        net.add_input("x", 2)
        net.add_parameter("w", np.ones((2, 1)))
        net.add("a", "MatMul", ["x", "w"])
        net.add("y", "Tanh", ["a"], cov=1.0)
        net.add_parameter("v", np.ones((2, 1)))
        net.add("b", "MatMul", ["x", "v"])
        net.add("z", "Relu", ["b"], cov=1.0)
        with pytest.raises(LearningError, match=r"(?s)'y': its mean is not linear in 'x'.*Tanh.*'z'.*Relu"):
            net.fit({"x": np.ones((3, 2)), "y": np.ones((3, 1)), "z": np.ones((3, 1))})

    def test_a_parameter_that_enters_nonlinearly(self):
        net = gbn.GaussianBayesNet()
        net.add_input("x", 1)
        net.add_parameter("w", np.ones((1, 1)))
        net.add("positive", "Exp", ["w"])
        net.add("y", "MatMul", ["x", "positive"], cov=1.0)
        data = {"x": np.ones((3, 1)), "y": [[1.0], [2.0], [3.0]]}
        with pytest.raises(LearningError, match=r"'y': its mean is not linear in the parameter 'w'.*Exp"):
            net.fit(data)
        np.testing.assert_allclose(
            net.fit(data, freeze="w").net.noise("y").value, np.mean((np.e - np.arange(1, 4)) ** 2)
        )

    def test_a_nonlinearity_of_what_is_hidden(self):
        net = gbn.GaussianBayesNet()
        net.add_input("z", 2, mean=0.0, cov=1.0)
        net.add("h", "Tanh", ["z"])
        net.add_linear("y", {"h": np.ones((1, 2))}, cov=1.0)
        with pytest.raises(LearningError, match=r"'h' \(Tanh\) is nonlinear in what is hidden.*batch_size="):
            net.fit({"y": np.ones((3, 1))})
        assert net.fit({"y": np.ones((3, 1))}, batch_size=3, epochs=1).net is not net, "the remedy works"

    def test_a_parameter_with_a_prior(self):
        net = gbn.GaussianBayesNet()
        net.add_input("x", 2)
        net.add_linear("y", {"x": np.ones((1, 2))}, cov=1.0)
        net.set_noise({"y.x.weight": 1.0})
        with pytest.raises(LearningError, match=r"'y\.x\.weight' has a prior of its own"):
            net.fit({"x": np.ones((3, 2)), "y": np.ones((3, 1))})

    @pytest.mark.parametrize(
        "options, error, message",
        [
            ({"ridge": -1.0}, LearningError, "ridge"),
            ({"ridge": {"nothing": 1.0}}, gbn.UnknownNameError, "learned parameter in ridge 'nothing'"),
            ({"mask": {"y.x.weight": np.ones((2, 2), bool)}}, gbn.ShapeError, "mask of 'y.x.weight'"),
            ({"mask": {"y.x.weight": np.ones((1, 2))}}, gbn.ShapeError, "expected booleans"),
            ({"noise_prior": (1.0, -1.0)}, LearningError, "noise_prior"),
            ({"fixed_noise": ["nobody"]}, gbn.UnknownNameError, "noise in fixed_noise"),
            ({"engine": "bp"}, LearningError, "engine: got 'bp'"),
            ({"engine_options": {"speed": 3}}, gbn.UnknownNameError, "engine_options. 'speed'"),
            ({"max_iter": -1}, LearningError, "max_iter"),
            ({"variance_floor": -1.0}, LearningError, "variance_floor"),
            ({"freeze": ["nobody"]}, gbn.UnknownNameError, "name in freeze"),
            ({"patience": 0}, LearningError, "patience"),
            ({"method": "magic"}, gbn.UnknownNameError, "method 'magic'"),
            ({"iterations": 3}, gbn.UnknownNameError, "option of method 'em'"),
            ({"weights": [1.0, 2.0]}, gbn.ShapeError, "weights: got shape"),
            ({"weights": [1.0, -2.0, 1.0]}, gbn.EvidenceError, "at least 0"),
        ],
    )
    def test_options(self, options, error, message):
        net = gbn.GaussianBayesNet()
        net.add_input("x", 2)
        net.add_linear("y", {"x": np.ones((1, 2))}, cov=1.0)
        with pytest.raises(error, match=message):
            net.fit({"x": np.ones((3, 2)), "y": np.ones((3, 1))}, **options)


def chain(rng):
    net = gbn.GaussianBayesNet()
    net.add_input("a", 1, mean=0.0, cov=1.0)
    net.add_linear("b", {"a": [[0.8]]}, bias=[0.1], cov=0.5)
    net.add_linear("c", {"b": [[1.2], [0.4]]}, bias=[0.0, 0.0], cov=[0.3, 0.4])
    data = {name: value for name, value in net.sample(60, rng).items() if name in ("a", "c")}
    data["a"][::3] = np.nan
    return net, data


@pytest.mark.parametrize("engine", ["vmp", "pc"])
def test_other_engines_climb_their_own_objective(engine):
    net, data = chain(np.random.default_rng(0))
    options = {"engine_options": {"max_rounds": 500, "tol": 1e-8}} if engine == "vmp" else {}
    result = net.fit(data, engine=engine, tol=1e-5, **options)
    assert result.converged
    trace = result.history.column("minus_free_energy")
    assert (np.diff(trace) >= -1e-5 * np.abs(trace[:-1])).all()
    noises = {name: noise.value for name, noise in result.net.noises.items()}
    if engine == "pc":
        # A point estimate has no spread to learn noise from.
        for name, value in noises.items():
            np.testing.assert_array_equal(value, net.noises[name].value)
    else:
        exact = net.fit(data, tol=1e-6).net.query([], data).log_evidence.sum()
        bound = -result.net.query([], data, engine="vmp", **options["engine_options"]).free_energy.sum()
        assert bound <= result.net.query([], data).log_evidence.sum() + 1e-6
        assert result.net.query([], data).log_evidence.sum() <= exact + 1e-2


def test_a_point_estimate_learns_noise_only_when_told_to_and_loses_it():
    net, data = chain(np.random.default_rng(0))
    result = net.fit(data, engine="pc", fixed_noise=False, max_iter=60, callback=lambda n, _: n == 60, tol=None)
    exact = net.fit(data, tol=1e-5)
    assert result.net.noise("c").diagonal().min() < 1e-6
    assert exact.net.noise("c").diagonal().min() > 0.1
    # The density at the point soars while the log-evidence is below the best.
    assert result.history[-1]["objective"] > exact.history[-1]["objective"] + 100
    assert result.net.query([], data).log_evidence.sum() < exact.net.query([], data).log_evidence.sum() - 1
