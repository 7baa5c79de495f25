"""Lesions: against nets computed by hand, in the forward pass, inference, gradients, learning, and streams."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gbn
from gbn.errors import GraphError, ShapeError
from gbn.learning.stream import Stream
from gbn.surgery import between_halves, lesion, restore
from tests.nets import tanh_chain


def weights(net):
    return {n: net[n].value for n in net.parameters}


def by_hand(net, x, masks):
    """The forward pass of a chain x -> a1 -> h1 -> a2 -> h2 -> y with masks on weights and on units."""
    w, h = weights(net), x
    for layer, read in (("a1", "x"), ("a2", "h1"), ("y", "h2")):
        name = f"{layer}.{read}.weight"
        h = (h * ~masks.get(read, np.False_)) @ (w[name] * ~masks.get(name, np.False_)).T + w[f"{layer}.bias"]
        h = h if layer == "y" else np.tanh(h)
    return h


def test_the_forward_pass_of_a_damaged_net():
    net, rng = tanh_chain((3, 6, 4, 2)), np.random.default_rng(0)
    x = rng.normal(size=(5, 3))
    lost = {"h1": rng.random(6) < 0.5, "a2.h1.weight": rng.random((4, 6)) < 0.5, "x": rng.random(3) < 0.4}
    damaged = lesion(net, lost)
    np.testing.assert_allclose(damaged.forward({"x": x})["y"], by_hand(net, x, lost), rtol=1e-12)
    assert damaged.parameters == net.parameters
    assert damaged.outputs == net.outputs
    assert "h1.left" not in net
    np.testing.assert_allclose(net.forward({"x": x})["y"], by_hand(net, x, {}), rtol=1e-12)


def test_an_edge_is_cut_for_one_reader_alone():
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_linear("a", {"x": np.eye(2)}, cov=0.1)
    net.add_linear("b", {"x": np.eye(2), "a": np.eye(2)}, cov=0.1)
    x = np.array([[1.0, 2.0]])
    for lost, expected in ({("x", "b"): True}, [1, 2]), ({("x", "a"): [True, False]}, [1, 4]), ({"x": True}, [0, 0]):
        given = {k: np.array(v) if isinstance(v, list) else v for k, v in lost.items()}
        np.testing.assert_array_equal(lesion(net, given).forward({"x": x})["b"][0], expected)
    both = lesion(net, {"x": np.array([True, False]), ("x", "b"): np.array([False, True])})
    np.testing.assert_array_equal(both.forward({"x": x})["b"][0], [0, 2])


def test_gradients_are_those_of_the_damaged_net():
    """Against torch, and nothing comes back to what is lost."""
    net, rng = tanh_chain((3, 6, 4, 2)), np.random.default_rng(1)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    lost = {"h1": rng.random(6) < 0.4, "a2.h1.weight": rng.random((4, 6)) < 0.5}
    damaged = lesion(net, lost)
    w = {n: torch.tensor(v, requires_grad=True) for n, v in weights(net).items()}
    h = torch.tanh(torch.tensor(x) @ w["a1.x.weight"].T + w["a1.bias"]) * torch.tensor(~lost["h1"])
    masked = w["a2.h1.weight"] * torch.tensor(~lost["a2.h1.weight"])
    out = torch.tanh(h @ masked.T + w["a2.bias"]) @ w["y.h2.weight"].T + w["y.bias"]
    (0.5 * ((torch.tensor(y) - out) ** 2).sum() / 0.3).backward()
    found = gbn.inference.gradient(damaged, {"x": x, "y": y})
    for name, value in w.items():
        np.testing.assert_allclose(found[name], value.grad, rtol=1e-10, atol=1e-12)
    assert not found["a2.h1.weight"][lost["a2.h1.weight"]].any()
    assert not found["a1.x.weight"][lost["h1"]].any()
    slow = damaged.query(None, {"x": x, "y": y}, engine="pc", schedule="asynchronous", rng=0, tol=1e-12)
    np.testing.assert_allclose(slow.messages["a1.x.weight"], -found["a1.x.weight"], rtol=1e-8, atol=1e-10)


def test_posteriors_are_those_of_a_net_built_without_what_is_lost():
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(4, 2)), rng.normal(size=(3, 4))

    def build(second):
        net = gbn.GaussianBayesNet()
        net.add_input("x", 2, mean=0.0, cov=1.0)
        net.add_linear("h", {"x": first}, cov=0.5)
        net.add_linear("y", {"h": second}, cov=0.2)
        return net

    lost = rng.random((3, 4)) < 0.5
    damaged, rebuilt = lesion(build(second), {"y.h.weight": lost}), build(np.where(lost, 0.0, second))
    for engine in ("exact", "vmp"):
        a, b = (net.query(["x", "h"], {"y": np.ones((1, 3))}, engine=engine) for net in (damaged, rebuilt))
        np.testing.assert_allclose(a.mean["h"], b.mean["h"], rtol=1e-8)
        np.testing.assert_allclose(a.var["x"], b.var["x"], rtol=1e-8)
        np.testing.assert_allclose(a.free_energy, b.free_energy, rtol=1e-8)


def test_what_is_lost_stays_through_learning_and_is_there_again():
    net, rng = tanh_chain((3, 6, 4, 2)), np.random.default_rng(3)
    data = {"x": rng.normal(size=(40, 3)), "y": rng.normal(size=(40, 2))}
    lost = {"a2.h1.weight": rng.random((4, 6)) < 0.5, "h2": np.array([True, False, False, False])}
    damaged = lesion(net, lost)
    for learned in (
        damaged.fit(data, method="local", epochs=2, learning_rate=0.05).net,
        Stream(damaged, period=4, learning_rate=0.05).run([{n: v[:8] for n, v in data.items()}] * 6).net,
    ):
        healed = restore(learned, net)
        assert list(healed.vertices) == list(net.vertices)
        before, after = net["a2.h1.weight"].value, healed["a2.h1.weight"].value
        np.testing.assert_array_equal(after[lost["a2.h1.weight"]], before[lost["a2.h1.weight"]])
        assert not np.array_equal(after, before)
        np.testing.assert_array_equal(healed["y.h2.weight"].value[:, 0], net["y.h2.weight"].value[:, 0])
    same = restore(damaged, net)
    np.testing.assert_array_equal(same.forward({"x": data["x"]})["y"], net.forward({"x": data["x"]})["y"])


def test_a_damaged_net_is_saved_and_lesioned_further(tmp_path):
    net = tanh_chain((3, 6, 4, 2))
    damaged = lesion(lesion(net, {"h1": 0.5}), {"h2": 0.25})
    damaged.save(tmp_path / "net.gbn")
    x = np.ones((1, 3))
    np.testing.assert_array_equal(gbn.load(tmp_path / "net.gbn").forward({"x": x})["y"], damaged.forward({"x": x})["y"])


def test_shares_are_drawn_exactly():
    net = tanh_chain((3, 10, 4, 2))
    for share in (0.0, 0.3, 1.0):
        masks = [lesion(net, {"h1": share}, rng=seed)["h1.alive"].value for seed in (0, 0, 1)]
        assert {(mask == 0).sum() for mask in masks} == {round(10 * share)}
        np.testing.assert_array_equal(masks[0], masks[1])
        assert share != 0.3 or not np.array_equal(masks[0], masks[2])


@pytest.mark.parametrize("kind", ["by hand", "converted", "products"])
def test_halves_do_not_hear_each_other(kind):
    """Units of the first half are moved: the second half of the next layer stays."""
    if kind == "by hand":
        net, names = tanh_chain((3, 6, 5, 4, 2)), ("x", "h1", "a2", "h2", "a3", "y")
    elif kind == "converted":
        layers = [part for a, b in ((3, 6), (6, 5), (5, 4)) for part in (nn.Linear(a, b), nn.Tanh())]
        net = gbn.convert(nn.Sequential(*layers, nn.Linear(4, 2)).double(), torch.zeros(2, 3).double())
        names = ("input", "1", "2", "3", "4", "6")
    else:
        net, rng = gbn.GaussianBayesNet(), np.random.default_rng(0)
        before = net.add_input("x", 3)
        for k, (a, b) in enumerate(((3, 6), (6, 5), (5, 4), (4, 2)), 1):
            net.add_parameter(f"w{k}", rng.normal(size=(a, b)))
            before = net.add(f"a{k}", "MatMul", [before, f"w{k}"], cov=0.1)
        names = ("x", "a1", "a2", "a2", "a3", "a4")
    cut = between_halves(net)
    assert len(cut) == 2
    damaged = lesion(net, cut)
    x, first, into, second, last, out = names
    start = damaged.forward({x: np.ones((1, 3))})
    for vertex, reader, split in ((first, into, 2.5), (second, last, 2.0)):
        value = start[vertex].copy()
        half = 2 * np.arange(value.shape[1]) < value.shape[1]
        value[:, half] += 1.0
        moved = damaged.forward({x: np.ones((1, 3)), vertex: value})[reader] - start[reader]
        assert (moved[0, np.arange(moved.shape[1]) >= split] == 0).all()
        assert (moved[0, np.arange(moved.shape[1]) < split] != 0).all()
    # Outputs read both.
    value = start[last] + 1.0
    assert (damaged.forward({x: np.ones((1, 3)), last: value})[out] != start[out]).all()
    share = between_halves(net, 0.5, rng=1)
    for name, mask in share.items():
        assert mask.sum() == round(0.5 * cut[name].sum())
        assert not (mask & ~cut[name]).any()


def test_lesions_that_cannot_be_are_named():
    net = tanh_chain((3, 6, 4, 2))
    for lost, error, message in (
        ({"h9": True}, gbn.UnknownNameError, "unknown vertex 'h9'"),
        ({"y": True}, GraphError, "lesion of 'y': nobody reads it"),
        ({("x", "a2"): True}, GraphError, "'a2' reads 'h1'"),
        ({"h1": 1.5}, ShapeError, "got 1.5, expected a share from 0 to 1"),
        ({"h1": np.zeros(5, bool)}, ShapeError, r"shape \(5,\), expected booleans of \(6,\)"),
        ({"h1": np.zeros(6)}, ShapeError, "got an array of float64"),
    ):
        with pytest.raises(error, match=message):
            lesion(net, lost)
    with pytest.raises(GraphError, match="it has one already"):
        lesion(lesion(net, {"h1": 0.5}), {"h1": 0.5})
    with pytest.raises(GraphError, match="no dense weights lead from one hidden layer to another"):
        between_halves(tanh_chain((3, 6, 2)))
    with pytest.raises(GraphError, match=r"restore: .* is not the same in both"):
        restore(tanh_chain((3, 6, 2)), net)


def test_a_convolutional_net_loses_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).double()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    net = gbn.convert(model, x)
    channel = np.zeros(net["1"].shape, bool)
    channel[1] = True
    h = functional.relu(model[0](x))
    h[:, 1] = 0
    np.testing.assert_allclose(
        lesion(net, {"1": channel}).forward({"input": x.numpy()})["3"], model[3](h.flatten(1)).detach(), rtol=1e-12
    )
