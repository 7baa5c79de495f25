"""The networks of the experiments: the same for the same seed, and a clear word where they cannot be had."""

import sys

import numpy as np
import pytest

import gbn
from gbn.equivalence.claims.networks import TORCH, tanh_mlp, torch_case


@pytest.mark.parametrize("name", TORCH)
def test_a_seed_decides_and_the_global_generator_is_left_alone(name):
    torch = pytest.importorskip("torch")
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second, other = (torch_case(name, samples=2, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.x, second.x)
    assert not torch.equal(first.x, other.x)
    same = zip(first.module.parameters(), second.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert first.module(first.x).shape == first.y.shape


def test_a_tanh_mlp_is_what_it_says():
    net = tanh_mlp((3, 4, 2), np.random.default_rng(0), noise=0.5, output_noise=0.1)
    x = np.random.default_rng(1).normal(size=(5, 3))
    w1, b1, w2, b2 = (net[n].value for n in ("a1.x.weight", "a1.bias", "y.h1.weight", "y.bias"))
    np.testing.assert_allclose(net.forward({"x": x})["y"], np.tanh(x @ w1.T + b1) @ w2.T + b2)
    assert [float(net.noise(n).value) for n in ("a1", "y")] == [0.5, 0.1]


def test_faults_are_named(monkeypatch):
    with pytest.raises(gbn.UnknownNameError, match="'mpl'"):
        torch_case("mpl")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(gbn.MissingDependencyError, match="torch"):
        torch_case("mlp")
