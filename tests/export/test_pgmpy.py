"""Nets out to pgmpy: the joint of the scalars against the dense joint of the tensors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gbn
from gbn.errors import ConversionError
from gbn.net import GaussianBayesNet
from tests.dense import Dense, pgmpy_joint
from tests.nets import random_net, tanh_chain


def names_of(net: GaussianBayesNet) -> list[str]:
    """The scalars' names, in the order of the dense joint."""
    names = []
    for name, vertex in net.vertices.items():
        if vertex.plated:
            indices = [",".join(map(str, i)) for i in np.ndindex(vertex.shape)]
            names += [name] if vertex.shape in ((), (1,)) else [f"{name}[{i}]" for i in indices]
    return names


def close(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * max(1.0, np.abs(expected).max()))


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_the_joint_is_the_same_there_and_back(seed: int) -> None:
    net, rng = random_net(seed), np.random.default_rng(seed)
    for name in net.inputs:
        if net[name].needs_data:
            net.set_prior(name, rng.normal(size=net[name].shape), 0.5)
    names, dense = names_of(net), Dense(net, {})
    model = net.to_pgmpy()
    assert model.check_model()
    assert list(model.nodes) == names
    mean, cov = pgmpy_joint(model, names)
    close(mean, dense.prior_mean)
    close(cov, dense.prior_cov)

    back = gbn.convert(model)
    other = Dense(back, {})
    order = [other.where[name][0] for name in names]
    close(other.prior_mean[order], dense.prior_mean)
    close(other.prior_cov[np.ix_(order, order)], dense.prior_cov)


def test_correlated_noise_becomes_a_chain() -> None:
    net = GaussianBayesNet()
    cov = np.array([[4.0, 2.0], [2.0, 5.0]])
    net.add_input("x", (2,), mean=[1.0, 3.0], cov=cov)
    net.add("y", "Neg", ["x"])
    first, second, minus, _ = net.to_pgmpy().cpds
    assert (first.variable, first.beta.tolist(), first.std, first.evidence) == ("x[0]", [1.0], 2.0, [])
    assert (second.beta.tolist(), second.std, second.evidence) == ([2.5, 0.5], 2.0, ["x[0]"])
    assert (minus.beta.tolist(), minus.std, minus.evidence) == ([0.0, -1.0], 0.0, ["x[0]"])


def test_names_of_matrices_and_numbers() -> None:
    net = GaussianBayesNet()
    net.add_input("x", (2, 2), mean=0.0, cov=1.0)
    net.add_linear("y", {"x": np.ones((1, 4))}, cov=1.0)
    model = net.to_pgmpy()
    assert list(model.nodes) == ["x[0,0]", "x[0,1]", "x[1,0]", "x[1,1]", "y"]
    assert model.get_cpds("y").evidence == ["x[0,0]", "x[0,1]", "x[1,0]", "x[1,1]"]


def test_single_precision_numbers_are_kept() -> None:
    net = GaussianBayesNet(np.float32)
    net.add_input("x", 1, mean=0.1, cov=1.0)
    net.add_linear("y", {"x": [[0.3]]}, bias=[0.7], cov=1.0)
    assert net.to_pgmpy().get_cpds("y").beta.tolist() == [float(np.float32(0.7)), float(np.float32(0.3))]


def test_a_nonlinear_net_goes_by_its_linearisation() -> None:
    net = tanh_chain([2, 3, 2], prior=0.4)
    with pytest.raises(ConversionError, match=r"not linear.*net\.linearize\(.*\)\.to_pgmpy\(\)"):
        net.to_pgmpy()
    linear = net.linearize({"x": [[0.3, -0.2]]})
    dense = Dense(linear, {})
    mean, cov = pgmpy_joint(linear.to_pgmpy(), names_of(linear))
    close(mean, dense.prior_mean)
    close(cov, dense.prior_cov)


def test_what_is_refused() -> None:
    net = tanh_chain([2, 2])
    with pytest.raises(ConversionError, match=r"input 'x' has no prior.*set_prior\('x', mean, cov\)"):
        net.to_pgmpy()
    net.set_prior("x", 0.0, 1.0)
    net.set_noise({"y.x.weight": 1.0})
    with pytest.raises(ConversionError, match=r"parameter 'y\.x\.weight' has a prior.*set_noise"):
        net.to_pgmpy()
    net.set_noise({"y.x.weight": None})
    net.add_likelihood("label", "categorical", "y")
    with pytest.raises(ConversionError, match="'label' is a label"):
        net.to_pgmpy()


def test_scalars_of_the_same_name() -> None:
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add_input("x[1]", 1, mean=0.0, cov=1.0)
    with pytest.raises(ConversionError, match=r"two scalars would be named 'x\[1\]'"):
        net.to_pgmpy()
