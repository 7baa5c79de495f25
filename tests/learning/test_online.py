"""Online EM: exponentially weighted least squares in closed form, and tracking of what drifts."""

from itertools import count

import numpy as np
import pytest

import gbn
from gbn.errors import ArgumentTypeError, LearningError
from gbn.learning.online import Online


def regression(weight, cov=1.0):
    net = gbn.GaussianBayesNet()
    net.add_input("x", weight.shape[1])
    net.add_linear("y", {"x": weight}, bias=np.zeros(len(weight)), cov=cov)
    return net


def weighted_least_squares(blocks, forgetting, start, weights=None):
    """B and Q from Σ φ^age u uᵀ and its like, and one pseudo-row a regressor that agrees with the first net."""
    size, outputs = start.shape[1] + 1, len(start)
    uu, yu, yy, total, age = np.zeros((size, size)), np.zeros((outputs, size)), np.zeros((outputs, outputs)), 0.0, 0.0
    for k, (x, y) in reversed(list(enumerate(blocks))):
        w = np.ones(len(x)) if weights is None else weights[k]
        u, scale = np.c_[x, np.ones(len(x))], forgetting**age
        uu, yu, yy = uu + scale * (w * u.T) @ u, yu + scale * (w * y.T) @ u, yy + scale * (w * y.T) @ y
        total, age = total + scale * w.sum(), age + w.sum()
    first = np.c_[start, np.zeros(outputs)]
    scale = forgetting**age
    uu, yu, yy = uu + scale * np.eye(size), yu + scale * first, yy + scale * first @ first.T
    found = np.linalg.solve(uu, yu.T).T
    return found, (yy - found @ yu.T) / total


@pytest.mark.parametrize("forgetting", [0.8, 0.97, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_complete_data_give_exponentially_weighted_least_squares(forgetting, weighted):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(2, 3))
    online = Online(regression(start, np.eye(2)), forgetting=forgetting, variance_floor=0.0)
    blocks, weights = [], []
    for _ in range(15):
        rows = int(rng.integers(1, 6))
        x = rng.normal(size=(rows, 3))
        blocks.append((x, x @ rng.normal(size=(3, 2)) + 0.3 * rng.normal(size=(rows, 2))))
        weights.append(rng.uniform(0.5, 2.0, rows) if weighted else np.ones(rows))
        online.update({"x": x, "y": blocks[-1][1]}, weights[-1] if weighted else None)
        expected, noise = weighted_least_squares(blocks, forgetting, start, weights)
        found = np.c_[online.net["y.x.weight"].value, online.net["y.bias"].value]
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(online.net.noise("y").value, noise, rtol=1e-9, atol=1e-10)
    assert online.rows == pytest.approx(sum(w.sum() for w in weights))


def test_a_half_life_is_a_factor_whatever_the_blocks():
    """Blocks of one row: a row counts half after ``half_life`` further ones."""
    rng = np.random.default_rng(1)
    start = np.zeros((1, 2))
    x, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 1))
    online = Online(regression(start), half_life=7, variance_floor=0.0)
    for k in range(60):
        online.update({"x": x[k : k + 1], "y": y[k : k + 1]})
    age = np.arange(60)[::-1]
    u, w = np.c_[x, np.ones(60)], 0.5 ** (age / 7)
    expected = np.linalg.solve((w * u.T) @ u + 0.5 ** (60 / 7) * np.eye(3), (w * u.T) @ y)
    np.testing.assert_allclose(online.net["y.x.weight"].value, expected[:2].T, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(online.net["y.bias"].value, expected[2], rtol=1e-10, atol=1e-12)


def test_a_drifting_regression_is_tracked():
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(2, 4))
    nets = {name: Online(regression(weight), forgetting=f) for name, f in (("forgets", 0.98), ("keeps", 1.0))}
    errors = {name: [] for name in nets}
    for _ in range(200):
        weight = weight + 0.05 * rng.normal(size=weight.shape)
        x = rng.normal(size=(5, 4))
        block = {"x": x, "y": x @ weight.T + 0.2 * rng.normal(size=(5, 2))}
        for name, online in nets.items():
            online.update(block)
            errors[name].append(np.abs(online.net["y.x.weight"].value - weight).mean())
    late = {name: np.mean(e[80:]) for name, e in errors.items()}
    assert late["forgets"] < 0.15
    assert late["keeps"] > 3 * late["forgets"]


def covariance(net):
    loadings = net["y.z.weight"].value
    return loadings @ loadings.T + np.diag(np.broadcast_to(net.noise("y").value, len(loadings)))


def test_a_drifting_factor_model_is_tracked_though_its_factors_are_hidden_and_cells_missing():
    rng = np.random.default_rng(3)
    axes = 2 * np.linalg.qr(rng.normal(size=(6, 4)))[0]
    net = gbn.GaussianBayesNet()
    net.add_input("z", 2, mean=0.0, cov=1.0)
    net.add_linear("y", {"z": axes[:, :2]}, bias=np.zeros(6), cov=np.ones(6))
    nets = {f: Online(net, forgetting=f, freeze="z") for f in (0.995, 1.0)}
    errors = {f: [] for f in nets}
    for k in range(160):
        angle = k / 160 * np.pi
        now = np.cos(angle) * axes[:, :2] + np.sin(angle) * axes[:, 2:]
        y = rng.normal(size=(40, 2)) @ now.T + rng.normal(size=(40, 6))
        y[rng.random(40) < 0.2, 0] = np.nan
        true = now @ now.T + np.eye(6)
        for f, online in nets.items():
            online.update({"y": y})
            errors[f].append(np.linalg.norm(covariance(online.net) - true) / np.linalg.norm(true))
    late = {f: np.mean(e[60:]) for f, e in errors.items()}
    assert late[0.995] < 0.25
    assert late[1.0] > 3 * late[0.995]


def test_a_nonlinear_net_follows_too():
    rng = np.random.default_rng(4)
    net = gbn.GaussianBayesNet()
    net.add_input("x", 3)
    net.add_linear("a", {"x": rng.normal(size=(6, 3))}, bias=np.zeros(6), cov=0.03)
    net.add("h", "Tanh", ["a"])
    net.add_linear("y", {"h": rng.normal(size=(1, 6)) / 3}, bias=np.zeros(1), cov=0.1)
    online = Online(net, half_life=400, fixed_noise=True)

    def world(sign):
        while True:
            x = rng.normal(size=(32, 3))
            yield {"x": x, "y": sign * np.tanh(x[:, :1] - x[:, 1:2])}

    def error(sign):
        block = next(world(sign))
        return np.sqrt(((online.net.forward({"x": block["x"]})["y"] - block["y"]) ** 2).mean())

    online.run(world(1.0), blocks=60)
    before, learned = error(-1.0), error(1.0)
    online.run(world(-1.0), blocks=120)
    assert learned < 0.4 * before
    assert error(-1.0) < 0.4 * before


def test_a_stream_of_unknown_length_is_read_block_by_block():
    rng = np.random.default_rng(5)
    weight, read = rng.normal(size=(2, 3)), []

    def endless():
        for k in count():
            read.append(k)
            x = rng.normal(size=(4, 3))
            yield {"x": x, "y": x @ weight.T}

    net = regression(np.zeros((2, 3)))
    online = Online(net, forgetting=0.9)
    result = online.run(endless(), blocks=10)
    assert (len(read), online.blocks, online.rows) == (10, 10, 40)
    assert (result.converged, result.reason, result.best_round) == (True, "made 10 rounds", 10)
    assert result.history.column("rows").tolist() == [0.0, *np.arange(4.0, 41.0, 4)]
    finite = online.run({"x": x, "y": x @ weight.T} for x in rng.normal(size=(30, 5, 3)))
    assert finite.reason == "the source ended after 30 blocks"
    np.testing.assert_allclose(finite.net["y.x.weight"].value, weight, atol=1e-3)
    stopped = online.run(endless(), callback=lambda number, figures: number == 3)
    assert stopped.reason == "stopped by the callback after 3 rounds"
    assert not net["y.x.weight"].value.any()


def test_a_block_that_cannot_be_used_changes_nothing():
    online = Online(regression(np.eye(2)), forgetting=0.9)
    x = np.random.default_rng(0).normal(size=(5, 2))
    online.update({"x": x, "y": x})
    before = online.net["y.x.weight"].value
    with pytest.raises(gbn.UnknownNameError, match="unknown vertex 'z'"):
        online.update({"x": x, "z": x})
    with pytest.raises(gbn.ShapeError, match="evidence for 'y'"):
        online.update({"x": x, "y": np.ones((5, 3))})
    assert online.net["y.x.weight"].value is before
    assert online.blocks == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "give either half_life, in rows, or forgetting"),
        ({"half_life": 3, "forgetting": 0.9}, "give either half_life"),
        ({"half_life": 0}, "half_life: got 0, expected a number of rows above 0"),
        ({"forgetting": 1.1}, "forgetting: got 1.1, expected a number above 0 and at most 1"),
    ],
)
def test_options_that_cannot_be_used_are_named(options, message):
    with pytest.raises(LearningError, match=message):
        Online(regression(np.eye(2)), **options)


def test_options_of_other_names_and_types_are_named():
    net = regression(np.eye(2))
    with pytest.raises(gbn.UnknownNameError, match="unknown option of online EM 'epochs'"):
        Online(net, forgetting=0.9, epochs=3)
    with pytest.raises(ArgumentTypeError, match="half_life"):
        Online(net, half_life="long")
    with pytest.raises(ArgumentTypeError, match="variance_floor"):
        Online(net, forgetting=0.9, variance_floor="low")
