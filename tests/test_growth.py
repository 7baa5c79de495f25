"""More units: nothing else changes, against the module that the net came from and the net before."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gbn

RNG = np.random.default_rng(0)


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)).double()


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(16, 3),
    ).double()  # fmt: skip


def by_backprop(model, x, y):
    model.zero_grad()
    (0.5 * (model(torch.from_numpy(x)) - torch.from_numpy(y)) ** 2).sum().backward()
    return {name: p.grad.numpy() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "make, shape, vertex, child, grown",
    [
        (mlp, (4,), "0", "2.weight", {"0.weight": (8, 4), "0.bias": (8,), "2.weight": (3, 8), "1": (8,)}),
        (mlp, (4,), "2", "4.weight", {"2.weight": (6, 5), "4.weight": (2, 6), "3": (6,)}),
        (cnn, (2, 8, 8), "0", "3.weight", {"0.weight": (6, 2, 3, 3), "3.weight": (4, 6, 3, 3), "2": (6, 4, 4)}),
        (cnn, (2, 8, 8), "3", "6.weight", {"3.weight": (7, 3, 3, 3), "6.weight": (3, 28), "5": (28,)}),
    ],
)
def test_a_converted_net_computes_and_learns_as_before(make, shape, vertex, child, grown):
    model, x = make(), RNG.normal(size=(5, *shape))
    net = gbn.convert(model, x[:2], noise=0.1)
    wide = gbn.widen(net, vertex, 3)
    assert {name: wide[name].shape for name in grown} == grown
    assert net[vertex].shape != wide[vertex].shape, "the net itself is unchanged"
    out = wide.outputs[0]
    expected = model(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(wide.forward({"input": x})[out], expected, rtol=1e-12, atol=1e-14)
    y = RNG.normal(size=expected.shape)
    slopes, old = gbn.gradient(wide, {"input": x, out: y}), by_backprop(model, x, y)
    for name, slope in old.items():
        part = slopes[name][tuple(slice(n) for n in slope.shape)]
        np.testing.assert_allclose(part, slope, rtol=1e-9, atol=1e-11)
    # What reads the new units is zero, and wants to move.
    new = np.asarray(wide[child].value)[:, net[child].shape[1] :]
    assert (new == 0).all()
    assert np.abs(slopes[child][:, net[child].shape[1] :]).max() > 1e-6


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from(["scalar", "diagonal", "full"]), st.integers(1, 4))
def test_posteriors_and_evidence_stay(seed, form, units):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(3, 3))
    cov = {"scalar": 0.4, "diagonal": rng.uniform(0.2, 1, 3), "full": root @ root.T + np.eye(3)}[form]
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add_linear("h", {"x": rng.normal(size=(3, 2))}, bias=rng.normal(size=3), cov=cov)
    net.add_linear("g", {"h": rng.normal(size=(2, 3)), "x": rng.normal(size=(2, 2))}, cov=0.3)
    net.add_linear("y", {"g": rng.normal(size=(2, 2))}, bias=rng.normal(size=2), cov=0.2)
    wide = gbn.widen(net, "h", units, rng=seed)
    evidence = {"y": rng.normal(size=(4, 2)), "x": np.where(rng.random((4, 2)) < 0.5, np.nan, 1.0)}
    before, after = net.query(["x", "h", "g"], evidence), wide.query(["x", "h", "g"], evidence)
    np.testing.assert_allclose(after.log_evidence, before.log_evidence, rtol=1e-9)
    for name in ("x", "g"):
        np.testing.assert_allclose(after.mean[name], before.mean[name], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(after.cov(name), before.cov(name), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(after.mean["h"][:, :3], before.mean["h"], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(after.cov("h")[:, :3, :3], before.cov("h"), rtol=1e-8, atol=1e-10)
    assert wide.noise("h").form == form


def test_a_layer_of_keras_form_grows_too():
    net = gbn.GaussianBayesNet()
    net.add_input("x", 3)
    net.add_parameter("W", RNG.normal(size=(3, 4)))
    net.add_parameter("b", RNG.normal(size=4))
    net.add_parameter("V", RNG.normal(size=(4, 2)), cov=0.5)
    net.add("xW", "MatMul", ["x", "W"])
    net.add("a", "Add", ["xW", "b"])
    net.add("h", "Tanh", ["a"])
    net.add("y", "MatMul", ["h", "V"], cov=0.1)
    wide, x = gbn.widen(net, "xW", 2), RNG.normal(size=(3, 3))
    np.testing.assert_allclose(wide.forward({"x": x})["y"], net.forward({"x": x})["y"], rtol=1e-13)
    assert wide["b"].shape == (6,)
    assert wide.noise("V").matrix().shape == (12, 12)


def test_the_new_units_learn():
    x = np.linspace(-2, 2, 60)[:, None]
    y = np.sin(3 * x)
    torch.manual_seed(0)
    net = gbn.convert(nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1)).double(), x[:2], noise=0.01)
    few = net.fit({"input": x, "2": y}, "local", epochs=60, learning_rate=0.03).net
    more = gbn.widen(few, "0", 8).fit({"input": x, "2": y}, "local", epochs=60, learning_rate=0.03).net

    def error(n):
        return float(((n.forward({"input": x})["2"] - y) ** 2).mean())

    assert error(more) < 0.3 * error(few)


def test_what_cannot_grow_is_named():
    model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2)).double()
    net = gbn.convert(model, np.zeros((2, 4)))
    with pytest.raises(gbn.GraphError, match=r"'1'.*LayerNormalization.*cannot take more units"):
        gbn.widen(net, "0", 2)
    with pytest.raises(gbn.GraphError, match="'2' is an output"):
        gbn.widen(net, "2", 2)
    with pytest.raises(gbn.GraphError, match="'1' is LayerNormalization, expected a Linear"):
        gbn.widen(net, "1", 2)
    with pytest.raises(gbn.GraphError, match="units: got 0"):
        gbn.widen(net, "0", 0)
    with pytest.raises(gbn.UnknownNameError, match="'7'"):
        gbn.widen(net, "7", 2)
    tied = gbn.GaussianBayesNet()
    tied.add_input("x", 2)
    tied.add_parameter("W", np.eye(2))
    tied.add_linear("h", {"x": "W"}, cov=1.0)
    tied.add_linear("y", {"h": "W"}, cov=1.0)
    with pytest.raises(gbn.GraphError, match="'h' cannot grow by the parameter 'W', read by 'h', 'y'"):
        gbn.widen(tied, "h", 1)
    shared = gbn.GaussianBayesNet()
    shared.add_noise("q", 1.0, (2,))
    shared.add_input("x", 2)
    shared.add_linear("h", {"x": np.eye(2)}, cov="q")
    shared.add_linear("y", {"h": np.eye(2)}, cov="q")
    with pytest.raises(gbn.GraphError, match="'h' shares the noise 'q'"):
        gbn.widen(shared, "h", 1)
