"""Kernels of rules, against torch's gradients, and the predictions that they are to explain."""

import numpy as np
import pytest
import torch

from gbn.equivalence import claims
from gbn.equivalence.claims import kernels


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(4)
    net = kernels.network(5, 0.3, rng)
    x = rng.uniform(-1, 1, size=(4, 1))
    return net, {"x": x, "y": rng.normal(size=(4, 1))}, np.linspace(-1, 1, 6)[:, None]


def function(w, b, v, c, x):
    return (torch.tanh(x @ w.T + b) @ v.T + c)[:, 0]


def slopes(net, x):
    """∇_θ f at every input, by torch, all parameters in one row; and ∂f/∂a of the hidden sums."""
    values = [torch.tensor(np.array(net[n].value)) for n in ("a.x.weight", "a.bias", "y.h.weight", "y.bias")]
    x = torch.tensor(x)
    jacobian = torch.autograd.functional.jacobian(lambda *p: function(*p, x), tuple(values))
    w, b, v, _ = values
    hidden = v * (1 - torch.tanh(x @ w.T + b) ** 2)
    return np.concatenate([j.reshape(len(x), -1).numpy() for j in jacobian], axis=1), hidden.numpy()


@pytest.mark.parametrize("rule", ["backprop", "fixed prediction"])
def test_backprops_kernel_is_the_tangent_kernel(scene, rule):
    net, data, at = scene
    expected = slopes(net, at)[0] @ slopes(net, data["x"])[0].T / 0.1
    np.testing.assert_allclose(kernels.kernel(rule, net, data, at), expected, rtol=1e-4, atol=1e-3)


def test_live_prediction_divides_by_the_variance_of_each_example(scene):
    """Where there is no error: K(x, i) = ∇f(x)·∇f(x_i) / S_i, S_i = q_y + |∂f/∂a|² q_a."""
    net, data, at = scene
    settled = {"x": data["x"], "y": net.forward({"x": data["x"]})["y"]}
    there, hidden = slopes(net, data["x"])
    variance = 0.1 + 0.3 * (hidden**2).sum(axis=1)
    expected = slopes(net, at)[0] @ there.T / variance
    found = kernels.kernel("live prediction", net, settled, at)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert np.ptp(variance) > 0.05, "examples differ, and so the kernel is not symmetric"


def test_em_moves_without_any_error_and_gradients_do_not(scene):
    net, data, _ = scene
    settled = {"x": data["x"], "y": net.forward({"x": data["x"]})["y"]}
    moves = {rule: np.abs(np.concatenate([m.ravel() for m in step(net, settled).values()])).max()
             for rule, step in kernels.RULES.items()}  # fmt: skip
    assert moves["EM"] > 1e-3
    for rule in ("backprop", "fixed prediction", "live prediction"):
        assert moves[rule] < 1e-8


def test_what_was_learned_is_what_the_path_kernel_says():
    found = claims.run("kernels", units=5, samples=4, steps=12, time=0.03, em_time=1.0)
    figures = found.figures
    assert found.holds
    assert figures["backprop: not explained"] < 0.02
    assert figures["backprop: asymmetry"] < 1e-4
    assert figures["fixed prediction: path kernel against backprop's"] < 1e-8
    assert figures["live prediction: asymmetry"] > 10 * figures["backprop: asymmetry"]
    assert figures["live prediction: alignment with backprop"] > 0.9
    assert figures["EM: not explained"] > 3 * figures["backprop: not explained"]
    plt = pytest.importorskip("matplotlib.pyplot")
    assert len(found.plot().lines) == 5
    plt.close("all")
