"""Ops with inputs that have no derivative, in nets: messages against torch, and files."""

import numpy as np
import pytest

import gbn
from gbn import GaussianBayesNet
from gbn.evidence import Evidence
from gbn.graph import linear_given

torch = pytest.importorskip("torch")
rng = np.random.default_rng(0)


def embedding_net():
    """A bag of tokens: rows of a table, their mean over the text, a linear readout."""
    net = GaussianBayesNet()
    net.add_input("tokens", (5,))
    net.add_parameter("table", rng.standard_normal((7, 3)))
    net.add_parameter("weight", rng.standard_normal((2, 3)))
    net.add("rows", "Gather", ["table", "tokens"])
    net.add("text", "ReduceMean", ["rows"], axes=[1], keepdims=0)
    net.add("logits", "Gemm", ["text", "weight"], cov=1.0, transB=1)
    return net


def test_messages_to_an_embedding_table_are_those_of_torch():
    net, tokens, target = embedding_net(), rng.integers(-7, 7, (4, 5)).astype(float), rng.standard_normal((4, 2))
    messages = net.query(evidence={"logits": target}, do={"tokens": tokens}, engine="pc").messages
    table = torch.tensor(net["table"].value, requires_grad=True)
    rows = table[torch.as_tensor(tokens).long() % 7]
    loss = 0.5 * ((torch.as_tensor(target) - rows.mean(1) @ torch.tensor(net["weight"].value).T) ** 2).sum()
    loss.backward()
    np.testing.assert_allclose(messages["table"], -table.grad.numpy(), atol=1e-12)


def test_it_is_linear_where_the_tokens_are_known():
    net, tokens = embedding_net(), np.zeros((1, 5))
    assert not net.is_linear()
    assert linear_given(Evidence.read(net, do={"tokens": tokens}))


def test_comparisons_and_masks_pass_messages_through_the_chosen_side_only():
    net = GaussianBayesNet()
    net.add_input("x", (3,), mean=np.zeros(3), cov=1.0)
    net.add("zero", "Mul", ["x", net.add_constant("nought", np.zeros(3))])
    net.add("positive", "Greater", ["x", "nought"])
    net.add("y", "Where", ["positive", "x", "zero"], cov=0.5)
    x, y = np.array([[1.0, -2.0, 3.0]]), np.array([[2.0, 5.0, 1.0]])
    messages = net.query(evidence={"x": x, "y": y}, engine="pc").messages
    leaf = torch.tensor(x, requires_grad=True)
    (0.5 * ((torch.as_tensor(y) - torch.where(leaf > 0, leaf, 0 * leaf)) ** 2).sum() / 0.5).backward()
    np.testing.assert_allclose(messages["y"] * [[1, 0, 1]], -leaf.grad.numpy(), atol=1e-12)


def test_they_are_saved_and_loaded(tmp_path):
    net = embedding_net()
    net.add("image", "Unsqueeze", ["rows"], axes=[1])
    net.add("large", "Resize", ["image"], scales=[2.0, 1.5], axes=[2, 3], mode="linear")
    net.add("first", "Split", ["large"], axis=2, split=[4, 6], index=0)
    net.add("gram", "Einsum", ["rows", "rows"], equation="nti,nsi->nts", cov=1.0)
    net.save(tmp_path / "net.gbn")
    loaded = gbn.load(tmp_path / "net.gbn")
    tokens = {"tokens": rng.integers(0, 7, (2, 5)).astype(float)}
    want, got = net.forward(tokens), loaded.forward(tokens)
    assert got["first"].shape == (2, 1, 4, 4)
    for name in net:
        np.testing.assert_array_equal(got[name], want[name])


def test_indices_that_lie_outside_are_named_when_the_net_is_built():
    net = embedding_net()
    net.add_parameter("far", np.array([7.0]))
    with pytest.raises(gbn.GraphError, match=r"'none': Gather does not take its parents .*got 7, expected -7 to 6"):
        net.add("none", "Gather", ["table", "far"])
