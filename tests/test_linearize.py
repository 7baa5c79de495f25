"""The two sweeps, and the linear net at a point."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbn.errors import GraphError, ShapeError, UnknownNameError
from gbn.evidence import Evidence
from gbn.linearize import Linearization
from gbn.net import GaussianBayesNet
from tests.dense import Dense, Program, covariance, tensor
from tests.nets import random_evidence, random_net, row, tanh_chain

SEEDS = st.integers(0, 2**32 - 1)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def shape_of(net, name, samples, lead=()):
    return (*lead, samples, *net[name].shape) if net[name].plated else (*lead, *net[name].shape)


@settings(max_examples=40)
@given(SEEDS)
def test_pull_is_the_adjoint_of_push_over_the_whole_net(seed):
    """y = (I - J M)⁻¹ s and λ = (I - M Jᵀ)⁻¹ u, so ⟨u, y⟩ = ⟨λ, s⟩; parameters move too."""
    net, lead = random_net(seed, "smooth"), (2,)
    evidence, do = random_evidence(net, seed + 1)
    point = Linearization.forward(Evidence.read(net, evidence, do))
    masks, values = point.evidence.masks, point.evidence.values
    rng = np.random.default_rng(seed)
    names = [n for n in net if n not in point.evidence.do]
    s, u = ({n: rng.normal(size=shape_of(net, n, 3, lead)) for n in names} for _ in range(2))

    def rule(name):
        def send(pulled):
            if pulled is None or (name in values and name not in masks):
                return u[name]
            return u[name] + (np.where(masks[name], 0, pulled) if name in masks else pulled)

        return send

    y, d = point.push(s.get)
    lam = point.pull({n: rule(n) for n in names}, names)
    left = sum((u[n] * y[n]).reshape(2, -1).sum(1) for n in names)
    right = sum((lam[n] * s[n]).reshape(2, -1).sum(1) for n in names)
    np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-8)
    for name in names:
        if name in masks:
            np.testing.assert_array_equal(d[name], np.where(masks[name], 0, y[name]))
        else:
            assert (name in d) == (name not in values)


@settings(max_examples=30)
@given(SEEDS)
def test_push_is_the_response_of_the_dense_net(seed):
    net = random_net(seed, "smooth")
    evidence, do = random_evidence(net, seed + 1, samples=2)
    point = Linearization.forward(Evidence.read(net, evidence, do))
    rng = np.random.default_rng(seed)
    for n in range(2):
        dense = Dense(net, row(evidence, n), row(do, n))
        plated = [name for name in dense.where if name not in point.evidence.do]
        for name in dense.where:
            np.testing.assert_allclose(point.values[name][n], dense.values[name][0], **TIGHT)
        s = {name: rng.normal(size=(2, *net[name].shape)) for name in plated}
        flat = np.zeros(len(dense.point))
        for name in plated:
            flat[dense.where[name]] = s[name][n].reshape(-1)
        keep = np.ones(len(flat))
        keep[dense.observed] = 0
        expected = np.linalg.solve(np.eye(len(flat)) - dense.a * keep, flat)
        y, _ = point.push(s.get)
        for name in plated:
            np.testing.assert_allclose(y[name][n].reshape(-1), expected[dense.where[name]], **TIGHT)


@settings(max_examples=30)
@given(SEEDS)
def test_asking_for_some_gives_the_same_as_asking_for_all(seed):
    net = random_net(seed, "smooth")
    evidence, do = random_evidence(net, seed + 1)
    point = Linearization.forward(Evidence.read(net, evidence, do))
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(3, 2))
    rules = {"out": lambda _: u}
    every = point.pull(rules, net)
    some = [n for n in net if rng.random() < 0.3]
    few = point.pull(rules, some)
    assert set(few) <= set(some)
    for name in some:
        assert (name in few) == (name in every)
        if name in few:
            np.testing.assert_array_equal(few[name], every[name])
    s = {n: rng.normal(size=shape_of(net, n, 3)) for n in net.latents if n not in point.evidence.do}
    y, _ = point.push(s.get)
    part, _ = point.push(s.get, some)
    for name in some:
        assert (name in part) == (name in y)
        if name in part:
            np.testing.assert_array_equal(part[name], y[name])


def test_innovations_are_whitened_errors():
    net = tanh_chain((2, 3, 2), prior=1.0)
    q = np.array([[1.0, 0.4, 0], [0.4, 0.6, 0.1], [0, 0.1, 0.9]])
    net.set_noise({"a1": q})
    rng = np.random.default_rng(0)
    read, z = Evidence.read(net, {"y": np.zeros((20000, 2))}), rng.normal(size=(20000, 3))
    point = Linearization.forward(read, {"a1": z})
    error = point.values["a1"] - net["a1.bias"].value
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", error, np.linalg.inv(q), error), (z * z).sum(1), rtol=1e-8)
    np.testing.assert_allclose(point.errors["a1"], error, atol=1e-12)
    np.testing.assert_allclose(np.cov(error.T), q, atol=0.05)
    np.testing.assert_allclose(point.values["h1"], np.tanh(point.values["a1"]))


@settings(max_examples=25)
@given(SEEDS)
def test_the_linear_net_is_the_first_order_expansion(seed):
    net = random_net(seed, "smooth")
    rng = np.random.default_rng(seed)
    at = {n: rng.normal(size=(3, *net[n].shape)) for n in net.inputs}
    moved = {n: rng.normal(size=(3, *net[n].shape)) for n in net if net[n].kind == "op" and rng.random() < 0.3}
    linear = net.linearize(at | moved, sample=1 if at | moved else 0)
    assert linear.is_linear()
    assert linear.inputs == net.inputs
    dense = Dense(net, {n: v[1] for n, v in at.items() if net[n].needs_data}, at=at_row(net, at | moved, 1))
    for name in dense.where:
        vertex = net[name]
        assert linear[name].shape == vertex.shape
        if vertex.kind != "op":
            assert linear[name].needs_data == vertex.needs_data
            continue
        jacobians, bias = dense.jacobians(name), dense.means[name].numpy().reshape(-1)
        for parent, block in jacobians.items():
            np.testing.assert_allclose(linear[f"{name}.{parent}.weight"].value, block, **TIGHT)
            bias = bias - block @ dense.values[parent].numpy().reshape(-1)
        np.testing.assert_allclose(linear[f"{name}.bias"].value, bias, **TIGHT)
        expected = covariance(net, name)
        if expected is None:
            assert not linear[name].random
        else:
            np.testing.assert_array_equal(covariance(linear, name), expected)
            assert (linear[name].noise == name) == (vertex.noise == name or vertex.kind == "input")


def at_row(net, at, n):
    """The operating point of one row: what is given, and the forward pass of the rest."""
    values, program = {}, Program(net)
    for name, vertex in net.vertices.items():
        if vertex.kind == "op":
            values[name] = program.apply(name, [values[p] for p in vertex.parents])
        elif vertex.value is not None:
            value = np.array(vertex.value)
            values[name] = tensor(value[None] if vertex.plated else value)
        if name in at:
            values[name] = tensor(at[name][n][None])
    return {n: v.numpy().reshape(net[n].shape) for n, v in values.items() if net[n].plated}


def test_the_linear_net_touches_the_net_at_its_point():
    net = tanh_chain((2, 4, 2))
    x = np.array([[0.3, -0.2], [1.0, 2.0]])
    linear, here = net.linearize({"x": x}, sample=-1), net.forward({"x": x[1]})
    there = linear.forward({"x": x[1]})
    for name in ("x", "a1", "h1", "y"):
        np.testing.assert_allclose(there[name], here[name], **TIGHT)
    step = 1e-5 * np.array([1.0, -2.0])
    gap = linear.forward({"x": x[1] + step})["y"] - net.forward({"x": x[1] + step})["y"]
    assert np.abs(gap).max() < 1e-9
    assert linear.outputs == net.outputs


def test_a_vertex_of_several_uses_and_a_label():
    net = GaussianBayesNet(np.float32)
    net.add_input("x", 2, mean=[1.0, 2.0], cov=1.0)
    net.add("q", "Mul", ["x", "x"])
    net.add_likelihood("t", "categorical", "q")
    linear = net.linearize()
    assert linear.dtype == np.float32
    np.testing.assert_allclose(linear["q.x.weight"].value, [[2, 0], [0, 4]])
    np.testing.assert_allclose(linear["q.bias"].value, [-1, -4])
    assert linear.labels == ("t",)
    same = net.query(["x"], {"t": [0]}), linear.query(["x"], {"t": [0]})
    np.testing.assert_allclose(same[0].mean["x"], same[1].mean["x"], rtol=1e-5)


def test_tied_weights():
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=[0.1, 0.2], cov=1.0)
    net.add_linear("a", {"x": np.array([[1.0, 2.0], [3.0, 4.0]])}, bias=[1.0, 1.0])
    net.add("h", "Tanh", ["a"])
    net.add_linear("b", {"h": "a.x.weight"}, bias="a.bias", cov=0.1)
    linear = net.linearize()
    np.testing.assert_allclose(linear["b.h.weight"].value, net["a.x.weight"].value)
    np.testing.assert_allclose(linear["b.bias"].value, [1, 1])
    np.testing.assert_allclose(linear.forward()["b"], net.forward()["b"])
    assert linear["b"].parents == ("h", "b.h.weight", "b.bias")


def test_noise_borrowed_from_another_vertex():
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=[1.0, 2.0])
    net.add("a", "Tanh", ["x"], cov=0.3)
    net.add("b", "Neg", ["a"], cov="a")
    net.set_noise({"x": "a"})
    linear = net.linearize()
    for name in ("x", "a", "b"):
        np.testing.assert_array_equal(covariance(linear, name), 0.3 * np.eye(2))


def test_what_the_linear_net_refuses():
    net = tanh_chain((2, 4, 2))
    with pytest.raises(IndexError, match="sample 2: `at` has 2 rows"):
        net.linearize({"x": np.ones((2, 2))}, sample=2)
    with pytest.raises(IndexError, match="sample -3"):
        net.linearize({"x": np.ones((2, 2))}, sample=-3)
    with pytest.raises(ShapeError, match=r"'x': got shape \(2, 3\)"):
        net.linearize({"x": np.ones((2, 3))})
    with pytest.raises(UnknownNameError, match="unknown vertex 'z'"):
        net.linearize({"z": np.ones((2, 3))})
    with pytest.raises(ValueError, match="'x' has no prior"):
        net.linearize()
    net.add_parameter("w", np.ones((2, 1)), cov=1.0)
    with pytest.raises(GraphError, match="parameter 'w' is random"):
        net.linearize({"x": np.ones(2)})
