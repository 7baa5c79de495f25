"""Engine "exact" against conditioning of the dense joint Gaussian."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gbn.errors import InferenceError, SingularEvidenceError
from gbn.net import GaussianBayesNet
from tests.dense import Dense
from tests.nets import random_evidence, random_net, row, tanh_chain

SOLVERS = pytest.mark.parametrize("solver", ["observations", "information"])
SEEDS = st.integers(0, 2**32 - 1)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def oracles(net, evidence, do, samples):
    return [Dense(net, row(evidence, n), row(do, n)) for n in range(samples)]


def check(net, evidence, do=None, samples=3, tolerance=TIGHT, log_evidence=True, **options):
    """Everything the posterior says against the oracle, sample by sample."""
    post, do = net.query(None, evidence, do or {}, **options), do or {}
    dense = oracles(net, evidence, do, samples)
    plated = list(dense[0].where)
    for name in plated:
        shape = (samples, *net[name].shape)
        assert post.mean[name].shape == post.var[name].shape == shape
        assert post.cov(name).shape == (samples, net[name].size, net[name].size)
        for n, oracle in enumerate(dense):
            own = oracle.cov_of(name, name)
            np.testing.assert_allclose(post.mean[name][n], oracle.mean_of(name), **tolerance)
            np.testing.assert_allclose(post.var[name][n].reshape(-1), np.diag(own), **tolerance)
            np.testing.assert_allclose(post.cov(name)[n], own, **tolerance)
            if net[name].random and name not in do:
                np.testing.assert_allclose(post.messages[name][n], oracle.message_of(name), rtol=1e-8, atol=1e-8)
    for a, b in zip(plated, [*plated[2:], *plated[:2]], strict=True):
        for n, oracle in enumerate(dense):
            np.testing.assert_allclose(post.cov(a, b)[n], oracle.cov_of(a, b), **tolerance)
    if log_evidence:
        assert post.log_evidence.shape == (samples,)
        np.testing.assert_allclose(post.log_evidence, [o.log_evidence for o in dense], **tolerance)
    return post, dense


@SOLVERS
@settings(max_examples=60)
@given(SEEDS)
def test_linear_nets_equal_the_dense_joint(solver, seed):
    net = random_net(seed)
    evidence, do = random_evidence(net, seed + 1)
    post, _ = check(net, evidence, do, solver=solver)
    assert post.converged
    assert post.engine == "exact"


@settings(max_examples=15)
@given(SEEDS)
def test_conjugate_gradients_give_the_same(seed):
    net = random_net(seed)
    evidence, do = random_evidence(net, seed + 1)
    post, _ = check(net, evidence, do, solver="cg", log_evidence=False, tolerance={"rtol": 1e-8, "atol": 1e-9})
    assert post.diagnostics["solver"] == "conjugate gradients"


@SOLVERS
@settings(max_examples=30)
@given(SEEDS)
def test_smooth_nets_equal_the_joint_of_their_linearisation(solver, seed):
    net = random_net(seed, "smooth")
    evidence, do = random_evidence(net, seed + 1)
    check(net, evidence, do, solver=solver)


@SOLVERS
@settings(max_examples=10)
@given(SEEDS)
def test_the_equilibrium_is_the_same_point_in_a_linear_net(solver, seed):
    net = random_net(seed)
    evidence, do = random_evidence(net, seed + 1)
    post, _ = check(net, evidence, do, operating_point="equilibrium", solver=solver)
    assert post.diagnostics["operating_point"] == "equilibrium"


def test_the_equilibrium_of_a_nonlinear_net_is_a_fixed_point_of_its_own_linearisation():
    net = tanh_chain((2, 4, 3, 2), hidden=0.2, prior=1.0)
    evidence = {"y": np.array([[0.4, -0.2], [0.1, np.nan]])}
    post = net.query(None, evidence, operating_point="equilibrium")
    for n in range(2):
        at = {name: post.mean[name][n] for name in ("x", "a1", "h1", "a2", "h2", "y")}
        at["y"] = np.where(np.isnan(evidence["y"][n]), at["y"], evidence["y"][n])
        dense = Dense(net, row(evidence, n), at=at)
        for name in ("x", "a1", "h2", "y"):
            np.testing.assert_allclose(dense.mean_of(name), post.mean[name][n], atol=1e-6)
            np.testing.assert_allclose(dense.cov_of(name, name), post.cov(name)[n], atol=1e-6)
        np.testing.assert_allclose(dense.log_evidence, post.log_evidence[n], atol=1e-6)


def test_a_net_written_out_by_hand():
    """x ~ N(m, P); h = W x + b + e; y = V h + U x + e: textbook matrices, and nothing of the graph."""
    rng = np.random.default_rng(5)
    w, v, u = rng.normal(size=(3, 2)), rng.normal(size=(2, 3)), rng.normal(size=(2, 2))
    m, b = rng.normal(size=2), rng.normal(size=3)
    p, q = np.array([[1.0, 0.3], [0.3, 0.5]]), np.array([[0.4, 0.1, 0], [0.1, 0.5, 0.2], [0, 0.2, 0.6]])
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=m, cov=p)
    net.add_linear("h", {"x": w}, bias=b, cov=q)
    net.add_linear("y", {"h": v, "x": u}, cov=[0.1, 0.2])
    total = v @ w + u
    cxy = p @ total.T
    s = total @ p @ total.T + v @ q @ v.T + np.diag([0.1, 0.2])
    mean = v @ (w @ m + b) + u @ m
    y = np.array([0.3, -1.0])
    post = net.query(["x", "y"], {"y": y})
    np.testing.assert_allclose(post.mean["x"][0], m + cxy @ np.linalg.solve(s, y - mean), **TIGHT)
    np.testing.assert_allclose(post.cov("x")[0], p - cxy @ np.linalg.solve(s, cxy.T), **TIGHT)
    np.testing.assert_allclose(post.log_evidence, [stats.multivariate_normal(mean, s).logpdf(y)], **TIGHT)
    np.testing.assert_allclose(post.free_energy, -post.log_evidence)


def test_no_evidence_is_one_row_of_the_prior():
    net = random_net(11)
    for name in net.inputs:
        if net[name].needs_data:
            net.set_prior(name, 0.5, 2.0)
    post, _ = check(net, {}, samples=1)
    assert post.log_evidence.shape == (1,)
    np.testing.assert_allclose(post.log_evidence, 0)


@SOLVERS
def test_patterns_of_missing_entries_in_any_order(solver):
    """As many patterns as rows, none of them in the order np.unique puts them."""
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=np.array([[1.0, 0.4], [0.4, 2.0]]))
    net.add_linear("y", {"x": np.array([[1.0, 2.0], [0.5, -1.0], [1.5, 1.0]])}, cov=[0.1, 0.2, 0.3])
    nan = np.nan
    y = np.array([[1.0, 2.0, 3.0], [nan, 1.0, 2.0], [1.0, nan, nan], [nan, nan, 0.5]])
    check(net, {"y": y}, samples=4, solver=solver)
    check(net, {"y": y[::-1]}, samples=4, solver=solver)
    check(net, {"y": y[[0, 1, 0, 2, 3, 1]]}, samples=6, solver=solver)
    check(net, {"y": y}, samples=4, solver="cg", log_evidence=False)


def test_covariances_are_one_broadcast_where_samples_share_them():
    net = random_net(3)
    evidence, do = random_evidence(net, 4, samples=5, missing=0)
    post = net.query(None, evidence, do)
    cov = post.cov("out")
    assert cov.strides[0] == 0
    assert not cov.flags.writeable


def test_one_row_stands_for_all():
    net = random_net(3)
    for name in net.inputs:
        net.set_prior(name, 0.0, 1.0)
    one = net.query(["out"], {}).mean["out"]
    assert one.shape == (1, 2)


def test_shared_noise_and_repeated_parents():
    net = GaussianBayesNet()
    net.add_noise("n", np.array([[0.5, 0.2], [0.2, 0.4]]), (2,))
    net.add_input("x", 2, mean=0.0, cov="n")
    net.add("a", "Add", ["x", "x"], cov="n")
    net.add("c", "Concat", ["a", "x", "a"], axis=1)
    net.add_linear("y", {"c": np.arange(12.0).reshape(2, 6) / 7}, cov="n")
    check(net, {"y": np.array([[0.1, np.nan], [np.nan, 2.0], [1.0, -1.0]])})


def test_an_observed_middle_cuts_the_net():
    net = tanh_chain((2, 3, 3, 2), prior=1.0)
    y, a = np.zeros((1, 2)), np.ones((1, 3))
    with_both = net.query(["x"], {"a2": a, "y": y})
    np.testing.assert_allclose(with_both.mean["x"], net.query(["x"], {"a2": a}).mean["x"], atol=1e-12)
    np.testing.assert_array_equal(with_both.messages["h2"].shape, (1, 3))
    assert np.abs(with_both.messages["h2"]).max() > 0


def test_interventions_cut_the_parents_off():
    net = tanh_chain((2, 3, 2), prior=1.0)
    post = net.query(None, {"x": [[0.1, np.nan]]}, {"y": [[1.0, 2.0]]})
    np.testing.assert_array_equal(post.mean["y"], [[1.0, 2.0]])
    np.testing.assert_array_equal(post.var["y"], [[0.0, 0.0]])
    np.testing.assert_allclose(post.log_evidence, stats.norm.logpdf(0.1))
    for name in ("a1", "h1", "y.h1.weight"):
        np.testing.assert_array_equal(post.messages[name], 0)


@pytest.fixture
def observable_sum():
    net = GaussianBayesNet()
    net.add_input("a", 2, mean=0.0, cov=1.0)
    net.add_input("b", 2, mean=[1.0, 2.0], cov=np.array([[1.0, 0.5], [0.5, 1.0]]))
    net.add("s", "Add", ["a", "b"])
    net.add("d", "Sub", ["a", "b"])
    net.add("n", "Neg", ["s"])
    return net


def test_observed_deterministic_vertices(observable_sum):
    check(observable_sum, {"s": np.array([[1.0, np.nan], [0.0, 3.0]])}, samples=2)
    post, _ = check(observable_sum, {"s": np.array([[1.0, 2.0]]), "d": np.array([[0.0, 1.0]])}, samples=1)
    np.testing.assert_allclose(post.mean["a"], [[0.5, 1.5]], atol=1e-12)
    np.testing.assert_allclose(post.cov("a"), 0, atol=1e-12)


@pytest.mark.parametrize("value", [-1.0, 5.0])
def test_deterministic_evidence_that_follows_from_other_evidence_is_singular(observable_sum, value):
    evidence = {"s": [[1.0, 2.0]], "d": [[0.0, 1.0]], "b": [[value, 1.0]]}
    with pytest.raises(SingularEvidenceError, match=r"deterministic vertex 's'.*set_noise"):
        _ = observable_sum.query(["a"], evidence).mean["a"]


@pytest.mark.parametrize("solver", ["observations", "cg"])
def test_singular_rows_are_named_by_every_solver(observable_sum, solver):
    """Rows 1 and 4 contradict themselves; the others must not be blamed, whether they share a pattern or not."""
    s, d, b = np.tile([1.0, 2.0], (6, 1)), np.tile([0.0, 1.0], (6, 1)), np.full((6, 2), np.nan)
    b[[1, 4], 0], d[3] = -1.0, np.nan
    evidence = {"s": s, "d": d, "b": b}
    with pytest.raises(SingularEvidenceError, match=r"deterministic vertex 's' \(rows 1, 4\): .*set_noise"):
        _ = observable_sum.query(["a"], evidence, solver=solver).mean["a"]
    keep = [0, 2, 3, 5]
    post = observable_sum.query(["a"], {name: value[keep] for name, value in evidence.items()}, solver=solver)
    assert np.isfinite(post.mean["a"]).all()
    b[:, 0] = -1.0
    with pytest.raises(SingularEvidenceError, match=r"deterministic vertex 's' \(rows 0, 1, 2, 4, 5\): "):
        _ = observable_sum.query(["a"], evidence, solver=solver).mean["a"]
    d[3] = 0.0
    with pytest.raises(SingularEvidenceError, match=r"deterministic vertex 's': "):
        _ = observable_sum.query(["a"], evidence, solver=solver).mean["a"]


def test_singular_rows_of_a_nonlinear_net_and_of_many():
    net = GaussianBayesNet()
    net.add_input("x", 1, mean=0.5, cov=1.0)
    net.add("h", "Tanh", ["x"])
    net.add("g", "Neg", ["h"])
    x = np.full((20, 1), np.nan)
    x[5:18] = 0.1
    evidence = {"x": x, "h": np.full((20, 1), 0.3)}
    with pytest.raises(SingularEvidenceError, match=r"'h' \(rows 5, 6, 7, 8, 9, 10, 11, 12 and 5 more\)"):
        _ = net.query(["g"], evidence).mean["g"]
    with pytest.raises(SingularEvidenceError, match=r"'h' \(row 3\)"):
        _ = net.query(["g"], {"x": x[2:6], "h": evidence["h"][2:6]}).log_evidence


def test_noisy_evidence_that_is_nearly_singular_is_named():
    net = GaussianBayesNet()
    net.add_input("x", 1, mean=0.0, cov=1e16)
    net.add_linear("y", {"x": [[1.0], [1.0]]}, cov=1.0)
    with pytest.raises(SingularEvidenceError, match=r"\['y'\].*float64"):
        _ = net.query(["x"], {"y": [[0.0, 1.0]]}, solver="observations").log_evidence


@SOLVERS
def test_samples_have_the_posterior_moments(solver):
    net = random_net(8, vertices=6)
    evidence, do = random_evidence(net, 9, samples=2)
    post, n = net.query(None, evidence, do, solver=solver), 40000
    draws = post.sample(n, rng=0)
    for a in post.targets:
        assert draws[a].shape == (n, 2, *net[a].shape)
        flat = draws[a].reshape(n, 2, -1)
        spread = np.sqrt(post.var[a].reshape(2, -1))
        assert (np.abs(flat.mean(0) - post.mean[a].reshape(2, -1)) <= 5 * spread / np.sqrt(n) + 1e-9).all()
        for b in ("out", a):
            other = draws[b].reshape(n, 2, -1)
            for k in range(2):
                x, y = flat[:, k] - flat[:, k].mean(0), other[:, k] - other[:, k].mean(0)
                # The standard error of a Gaussian covariance is at most √(2 C_aa C_bb / n).
                error = np.sqrt(2 / n) * np.outer(spread[k], np.sqrt(post.var[b].reshape(2, -1)[k]))
                assert (np.abs(x.T @ y / n - post.cov(a, b)[k]) <= 5 * error + 1e-9).all()


@SOLVERS
def test_samples_keep_the_evidence_and_the_deterministic_vertices(solver):
    net = tanh_chain((2, 3, 2), prior=1.0)
    y = np.array([[0.2, np.nan], [np.nan, 1.0]])
    post = net.query(None, {"y": y}, solver=solver)
    draws = post.sample(3, rng=1)
    known = ~np.isnan(y)
    np.testing.assert_array_equal(draws["y"][:, known], np.broadcast_to(y[known], (3, 2)))
    assert np.ptp(draws["y"][:, ~known], axis=0).min() > 0
    point = np.tanh(post._solution.point.values["a1"])
    slope = 1 - point**2
    linear = point + slope * (draws["a1"] - post._solution.point.values["a1"])
    np.testing.assert_allclose(draws["h1"], linear, atol=1e-12)


def image_net(seed=0, dtype=np.float64, prior=0.2):
    rng = np.random.default_rng(seed)
    net = GaussianBayesNet(dtype)
    net.add_input("x", (1, 6, 6), mean=rng.normal(size=(1, 6, 6)), cov=prior)
    net.add_parameter("k", rng.normal(size=(2, 1, 3, 3)) / 3)
    net.add_parameter("kb", rng.normal(size=2))
    net.add("c", "Conv", ["x", "k", "kb"], pads=[1, 1, 1, 1], cov=0.1)
    net.add("r", "Relu", ["c"])
    net.add("p", "MaxPool", ["r"], kernel_shape=[2, 2], strides=[2, 2])
    net.add("f", "Flatten", ["p"])
    net.add_parameter("w", rng.normal(size=(3, 18)) / 4)
    net.add_parameter("b", rng.normal(size=3))
    net.add("y", "Gemm", ["f", "w", "b"], transB=1, cov=0.2)
    return net


@SOLVERS
def test_a_convolutional_net_equals_the_jacobian_of_torch(solver):
    net = image_net()
    evidence = {"y": np.array([[1.0, np.nan, 0.0], [0.3, 0.2, 0.1]])}
    evidence["x"] = np.full((2, 1, 6, 6), np.nan)
    evidence["x"][1, 0, :3] = 0.3
    post, dense = check(net, evidence, samples=2, solver=solver)

    value = {n: torch.as_tensor(np.array(net[n].value)) for n in net.parameters}

    def whole(x, e):
        c = torch.nn.functional.conv2d(x[None], value["k"], value["kb"], padding=1) + e
        pooled = torch.nn.functional.max_pool2d(torch.relu(c), 2)
        return (pooled.flatten(1) @ value["w"].T + value["b"])[0]

    x = torch.as_tensor(np.array(net["x"].value))
    jx, je = (
        j.reshape(3, -1).numpy() for j in torch.func.jacrev(whole, argnums=(0, 1))(x, torch.zeros(1, 2, 6, 6).double())
    )
    s = 0.2 * jx @ jx.T + 0.1 * je @ je.T + 0.2 * np.eye(3)
    o = [0, 2]
    gap = evidence["y"][0][o] - whole(x, torch.zeros(1, 2, 6, 6).double()).numpy()[o]
    expected = x.numpy().reshape(-1) + 0.2 * jx.T[:, o] @ np.linalg.solve(s[np.ix_(o, o)], gap)
    np.testing.assert_allclose(post.mean["x"][0].reshape(-1), expected, **TIGHT)
    np.testing.assert_allclose(dense[0].mean_of("x").reshape(-1), expected, **TIGHT)


def test_a_linearised_convolutional_net_answers_as_the_net_does():
    net = image_net(1)
    y = np.array([[1.0, np.nan, 0.0]])
    direct = net.query(["x", "c"], {"y": y})
    # The forward pass given y leaves everything above y where it is without.
    linear = net.linearize()
    assert linear.is_linear()
    again = linear.query(["x", "c"], {"y": y})
    for name in ("x", "c"):
        np.testing.assert_allclose(again.mean[name], direct.mean[name], **TIGHT)
        np.testing.assert_allclose(again.cov(name), direct.cov(name), **TIGHT)
    np.testing.assert_allclose(again.log_evidence, direct.log_evidence, **TIGHT)
    assert "linear-Gaussian" in again.diagnostics["exact"]
    assert "linearis" in direct.diagnostics["exact"]


@pytest.mark.parametrize("build", [lambda t: image_net(dtype=t), lambda t: random_net(6, dtype=t)])
def test_single_precision_stays_and_is_good_to_single_precision(build):
    net, wide = build(np.float32), build(np.float64)
    evidence = {k: v for k, v in random_evidence(wide, 2, observe=0)[0].items() if k != "x"}
    if net["y" if "y" in net else "out"].name == "y":
        evidence = {"y": np.array([[1.0, np.nan, 0.0]] * 3)}
    post, exact = net.query(None, evidence), wide.query(None, evidence)
    draws = post.sample(2, 0)
    for name in post.targets:
        found = (post.mean[name], post.var[name], post.cov(name), draws[name], post.messages[name])
        assert {array.dtype for array in found} == {np.dtype(np.float32)}, name
        scale = np.abs(exact.mean[name]).max() + 1
        np.testing.assert_allclose(post.mean[name], exact.mean[name], atol=2e-5 * scale)
        np.testing.assert_allclose(post.cov(name), exact.cov(name), atol=2e-5 * (1 + np.abs(exact.cov(name)).max()))
    assert post.log_evidence.dtype == np.float32
    np.testing.assert_allclose(post.log_evidence, exact.log_evidence, rtol=1e-4)
    for name, surprise in post.surprise.items():
        assert surprise.dtype == np.float32, name


def label_net(kind, seed=0, hidden=0.4):
    rng = np.random.default_rng(seed)
    net = GaussianBayesNet()
    net.add_input("x", 3, mean=0.0, cov=np.array([[1.0, 0.2, 0], [0.2, 0.8, 0.1], [0, 0.1, 1.2]]))
    net.add_linear("a", {"x": rng.normal(size=(4, 3))}, cov=hidden)
    net.add("h", "Tanh", ["a"])
    net.add_linear("z", {"h": rng.normal(size=(3, 4)), "x": rng.normal(size=(3, 3))}, bias=rng.normal(size=3), cov=0.3)
    net.add_linear("logits", {"z": rng.normal(size=(3, 3))}, bias=rng.normal(size=3))
    net.add_likelihood("t", kind, "logits")
    net.add_linear("y", {"h": rng.normal(size=(2, 4))}, cov=np.array([[0.2, 0.1], [0.1, 0.3]]))
    return net


def compare_with_newton(net, evidence, targets, samples, solver):
    post = net.query(None, evidence, solver=solver)
    for n in range(samples):
        dense = Dense(net, {**row({k: v for k, v in evidence.items() if k not in targets}, n), **row(targets, n)})
        for name in dense.where:
            np.testing.assert_allclose(post.mean[name][n], dense.mean_of(name), **TIGHT)
            np.testing.assert_allclose(post.cov(name)[n], dense.cov_of(name, name), **TIGHT)
            np.testing.assert_allclose(post.var[name][n].reshape(-1), np.diag(dense.cov_of(name, name)), **TIGHT)
            np.testing.assert_allclose(post.cov(name, "x")[n], dense.cov_of(name, "x"), **TIGHT)
        np.testing.assert_allclose(post.log_evidence[n], dense.log_evidence, **TIGHT)
    return post


Y = np.array([[0.3, -0.2], [np.nan, 0.5], [np.nan, np.nan], [1.0, np.nan]])


@SOLVERS
@pytest.mark.parametrize("y", [None, Y])
@pytest.mark.parametrize("seed", [0, 1])
def test_categorical_labels_are_one_newton_step(seed, y, solver):
    net = label_net("categorical", seed)
    labels = np.array([0, 2, np.nan, 1])
    one_hot = np.where(np.isnan(labels)[:, None], np.nan, np.eye(3)[np.nan_to_num(labels).astype(int)])
    evidence = {"t": labels} | ({} if y is None else {"y": y})
    compare_with_newton(net, evidence, {"t": one_hot}, 4, solver)
    soft = np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0, 0.5, 0.5], [np.nan] * 3])
    compare_with_newton(net, evidence | {"t": soft}, {"t": soft}, 4, solver)


@SOLVERS
@pytest.mark.parametrize("y", [None, Y])
def test_bernoulli_labels_are_one_newton_step(y, solver):
    net = label_net("bernoulli", 3)
    labels = np.array([[0, 1, 1], [1, np.nan, 0], [np.nan] * 3, [np.nan, 0.3, np.nan]])
    post = compare_with_newton(net, {"t": labels} | ({} if y is None else {"y": y}), {"t": labels}, 4, solver)
    np.testing.assert_array_equal(post.mean["t"][0], labels[0])
    probability = 1 / (1 + np.exp(-post.mean["logits"]))
    np.testing.assert_allclose(post.mean["t"][2], probability[2])


def test_labels_by_conjugate_gradients():
    net = label_net("categorical")
    evidence = {"t": np.array([0, 1, 2, 0]), "y": Y}
    dense, iterated = net.query(None, evidence), net.query(None, evidence, solver="cg")
    for name in ("x", "a", "logits"):
        np.testing.assert_allclose(iterated.mean[name], dense.mean[name], atol=1e-9)
        np.testing.assert_allclose(iterated.var[name], dense.var[name], atol=1e-9)


def test_labels_with_positions():
    """Classes on the first axis of the event, as in torch's cross_entropy; every position has its own label."""
    rng = np.random.default_rng(2)
    net = GaussianBayesNet()
    net.add_input("x", (3, 2), mean=rng.normal(size=(3, 2)), cov=1.5)
    net.add("n", "Neg", ["x"])
    net.add_likelihood("t", "categorical", "n")
    labels = np.array([[0, 2], [1, np.nan]])
    post = net.query(None, {"t": labels})
    for n in range(2):
        for k in range(2):
            z, known = -net["x"].value[:, k], ~np.isnan(labels[n, k])
            p = np.exp(z) / np.exp(z).sum()
            w = known * (np.diag(p) - np.outer(p, p))
            score = known * (np.eye(3)[int(np.nan_to_num(labels[n, k]))] - p)
            step = 1.5 * np.linalg.solve(np.eye(3) + 1.5 * w, score)
            np.testing.assert_allclose(post.mean["n"][n, :, k], z + step, **TIGHT)
            np.testing.assert_allclose(post.mean["x"][n, :, k], -z - step, **TIGHT)


def test_label_samples_have_the_laplace_moments():
    net = label_net("categorical", 4)
    post, n = net.query(["x", "logits", "t"], {"t": [1, np.nan]}), 40000
    draws = post.sample(n, 3)
    for name in ("x", "logits"):
        spread = np.sqrt(post.var[name])
        assert (np.abs(draws[name].mean(0) - post.mean[name]) <= 5 * spread / np.sqrt(n)).all()
        error = 5 * np.sqrt(2 / n)
        for k in range(2):
            bound = error * np.outer(spread[k], spread[k]) + 1e-12
            assert (np.abs(np.cov(draws[name][:, k].T) - post.cov(name)[k]) <= bound).all()
    assert (draws["t"][:, 0] == [0, 1, 0]).all()
    assert set(np.unique(draws["t"][:, 1])) == {0.0, 1.0}


def test_the_laplace_approximation_at_the_equilibrium_is_the_mode():
    """A linear net with labels: the point where the gradient of log p(t, x) vanishes, by scipy."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(1)
    w, b = rng.normal(size=(3, 2)), rng.normal(size=3)
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=[0.5, -0.5], cov=2.0)
    net.add_linear("z", {"x": w}, bias=b)
    net.add_likelihood("t", "categorical", "z")
    post = net.query(None, {"t": [2]}, operating_point="equilibrium")

    def energy(x):
        z = w @ x + b
        return 0.5 * ((x - [0.5, -0.5]) ** 2).sum() / 2 + np.log(np.exp(z).sum()) - z[2]

    best = minimize(energy, np.zeros(2), tol=1e-12)
    np.testing.assert_allclose(post.mean["x"][0], best.x, atol=1e-6)
    z = w @ best.x + b
    p = np.exp(z) / np.exp(z).sum()
    hessian = np.eye(2) / 2 + w.T @ (np.diag(p) - np.outer(p, p)) @ w
    np.testing.assert_allclose(post.cov("x")[0], np.linalg.inv(hessian), atol=1e-6)
    expected = -energy(best.x) - np.log(2.0) - 0.5 * np.linalg.slogdet(hessian)[1]
    np.testing.assert_allclose(post.log_evidence, [expected], atol=1e-6)


@SOLVERS
def test_the_surprise_is_the_share_of_the_energy_at_the_mean(solver):
    net = random_net(14)
    evidence, do = random_evidence(net, 15, samples=2)
    post = net.query(None, evidence, do, solver=solver)
    for name in post.surprise:
        for n, dense in enumerate(oracles(net, evidence, do, 2)):
            index = dense.where[name]
            q = dense.q[np.ix_(index, index)]
            lam = dense.message_of(name).reshape(-1) if name not in do else None
            expected = 0.0 if lam is None else 0.5 * (lam @ q @ lam + np.linalg.slogdet(2 * np.pi * q)[1])
            np.testing.assert_allclose(post.surprise[name][n], expected, atol=1e-9)


def test_the_log_evidence_needs_the_dense_matrix():
    net = random_net(3)
    evidence, do = random_evidence(net, 4)
    with pytest.raises(InferenceError, match="dense_limit="):
        _ = net.query(None, evidence, do, solver="cg").log_evidence


def test_data_through_a_nonlinearity():
    """Features of an observed input: the joint of the latents is still exactly Gaussian."""
    rng = np.random.default_rng(0)
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add("phi", "Tanh", ["x"])
    net.add_input("w", 2, mean=0.0, cov=1.0)
    net.add("product", "Mul", ["phi", "w"])
    net.add_linear("y", {"product": rng.normal(size=(2, 2))}, cov=0.1)
    evidence = {"x": rng.normal(size=(3, 2)), "y": rng.normal(size=(3, 2))}
    check(net, evidence)


def test_a_confident_mistake_has_the_log_evidence_of_its_gap():
    """One Newton step at logits (gap, 0, 0) whose label is 1: -gap + 1 nats, whatever the gap."""
    for gap in (20.0, 40.0, 80.0, 300.0):
        for solver in ("observations", "information"):
            net = GaussianBayesNet()
            net.add_input("x", 1)
            net.add_parameter("W", [[gap, 0.0, 0.0]])
            net.add("z", "Gemm", ["x", "W"], cov=1.0)
            net.add_likelihood("label", "categorical", "z")
            post = net.query(["z"], {"x": [[1.0]], "label": [1]}, solver=solver)
            np.testing.assert_allclose(post.log_evidence, [1 - gap], atol=1e-7)


def test_single_precision_takes_many_precise_observations():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 300))
    image, means = rng.normal(size=(1, 4)) @ weight, []
    for dtype in (np.float32, np.float64):
        net = GaussianBayesNet(dtype)
        net.add_input("code", 4, mean=0.0, cov=1.0)
        net.add_parameter("W", weight)
        net.add("image", "Gemm", ["code", "W"], cov=0.01)
        means.append(net.query(["code"], {"image": image}, solver="observations").mean["code"])
    np.testing.assert_allclose(means[0], means[1], atol=1e-2)


@pytest.mark.parametrize("seed", range(20))
def test_conjugate_gradients_keep_small_noises_beside_large_ones(seed: int) -> None:
    """Noises from 1e-12 to 1e12 side by side; the means are known in closed form, each entry by itself."""
    rng = np.random.default_rng(seed)
    prior, noise = 10.0 ** rng.uniform(-12, 12, 5), 10.0 ** rng.uniform(-2, 2, 5)
    noise *= prior
    net = GaussianBayesNet()
    net.add_input("x", 5, mean=0.0, cov=prior)
    net.add_linear("y", {"x": np.eye(5)}, cov=noise)
    y = rng.normal(size=(2, 5)) * np.sqrt(prior + noise)
    mean = net.query(["x"], {"y": y}, solver="cg").mean["x"]
    gap = (mean - y * prior / (prior + noise)) / np.sqrt(prior * noise / (prior + noise))
    np.testing.assert_allclose(gap, 0, atol=1e-10)
