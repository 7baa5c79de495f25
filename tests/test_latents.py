"""Which vertices a policy makes random, and with what covariance."""

import numpy as np
import pytest

from gbn.errors import CovarianceError, GraphError, UnknownNameError
from gbn.latents import assign_noise
from gbn.net import GaussianBayesNet


def layered() -> GaussianBayesNet:
    """x -> a (Gemm) -> h (Tanh) -> m (MatMul) -> b (+ bias) -> r (Relu) -> c (MatMul by a transposed weight) -> y."""
    rng = np.random.default_rng(0)
    net = GaussianBayesNet()
    net.add_input("x", 3)
    for name, shape in {"A": (3, 4), "M": (4, 4), "bias": (4,), "C": (2, 4), "Y": (2, 2)}.items():
        net.add_parameter(name, rng.standard_normal(shape))
    net.add("a", "Gemm", ["x", "A"])
    net.add("h", "Tanh", ["a"])
    net.add("m", "MatMul", ["h", "M"])
    net.add("b", "Add", ["m", "bias"])
    net.add("r", "Relu", ["b"])
    net.add("Ct", "Transpose", ["C"])
    net.add("c", "MatMul", ["r", "Ct"])
    net.add("y", "Gemm", ["c", "Y"])
    return net


def test_affine_is_the_result_after_bias() -> None:
    net = layered()
    assign_noise(net, "affine")
    assert net.latents == ("a", "b", "c", "y")


def test_affine_is_the_default() -> None:
    net = layered()
    assign_noise(net)
    assert net.latents == ("a", "b", "c", "y")


def test_layers_are_activations_and_affine_results_without_one() -> None:
    net = layered()
    assign_noise(net, "layers")
    assert net.latents == ("h", "r", "c", "y")


def test_layers_look_through_what_stands_between_an_affine_result_and_its_activation() -> None:
    net = GaussianBayesNet()
    net.add_input("x", (2, 2))
    net.add_parameter("W", np.eye(2))
    net.add("a", "MatMul", ["x", "W"])
    net.add("flat", "Flatten", ["a"])
    net.add("h", "Relu", ["flat"])
    net.add("y", "Neg", ["h"])
    assign_noise(net, "layers")
    assert net.latents == ("h", "y")


def test_gates_are_products_and_not_activations() -> None:
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add("s", "Sigmoid", ["x"])
    net.add("gated", "Mul", ["x", "s"])
    net.add("y", "Neg", ["gated"])
    assign_noise(net, "layers")
    assert net.latents == ("s", "y")


def test_all_is_every_op_with_a_value_per_sample() -> None:
    net = layered()
    assign_noise(net, "all")
    assert net.latents == ("a", "h", "m", "b", "r", "c", "y")


def test_names_choose_the_hidden_ones_and_outputs_keep_theirs() -> None:
    net = layered()
    assign_noise(net, ["h"], noise=0.25, output_noise=4.0)
    assert net.latents == ("h", "y")
    np.testing.assert_allclose(net.noise("h").matrix(), 0.25 * np.eye(4))
    np.testing.assert_allclose(net.noise("y").matrix(), 4.0 * np.eye(2))


def test_a_bias_is_not_followed_where_its_result_is_used_twice() -> None:
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("W", np.eye(2))
    net.add_parameter("b", np.ones(2))
    net.add("m", "MatMul", ["x", "W"])
    net.add("s", "Add", ["m", "b"])
    net.add("y", "Mul", ["m", "s"])
    assign_noise(net, "affine")
    assert net.latents == ("m", "y")


def test_noise_by_name_beside_the_default() -> None:
    net = layered()
    assign_noise(net, "affine", noise={"a": [1.0, 2.0, 3.0, 4.0]}, output_noise={"y": 0.5})
    np.testing.assert_allclose(net.noise("a").matrix(), np.diag([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose(net.noise("b").matrix(), np.eye(4))
    np.testing.assert_allclose(net.noise("y").matrix(), 0.5 * np.eye(2))


def test_noise_by_name_makes_a_parameter_random() -> None:
    net = layered()
    assign_noise(net, [], noise={"A": 2.0})
    assert net["A"].random
    assert net.latents == ("y",)


def test_noise_given_by_hand_is_kept_unless_named() -> None:
    net = layered()
    net.set_noise({"a": 7.0, "b": 7.0, "y": 7.0})
    assign_noise(net, "affine", noise={"b": 2.0})
    assert [net.noise(name).matrix()[0, 0] for name in ("a", "b", "y")] == [7.0, 2.0, 7.0]
    assign_noise(net, ["a"], noise=3.0)
    assert net.noise("a").matrix()[0, 0] == 3.0


@pytest.mark.parametrize("kind", ["categorical", "bernoulli"])
def test_a_label_leaves_the_logits_deterministic(kind: str) -> None:
    net = layered()
    assign_noise(net, "all", likelihood=kind)
    assert net.labels == ("y.label",)
    assert net["y.label"].op == kind
    assert not net["y"].random
    assert net.outputs == ("y",)


def test_none_keeps_labels_and_gaussian_takes_them_away() -> None:
    net = layered()
    net.add_likelihood("l", "categorical", "y")
    assign_noise(net)
    assert net.labels == ("l",)
    assert not net["y"].random
    assign_noise(net, likelihood="gaussian")
    assert net.labels == ()
    assert net["y"].random


def test_a_likelihood_for_one_of_two_outputs() -> None:
    net = layered()
    net.add("z", "Gemm", ["c", "Y"])
    assign_noise(net, likelihood={"y": "bernoulli"})
    assert net.labels == ("y.label",)
    assert net.latents == ("a", "b", "c", "z")


def test_unknown_names_list_near_matches() -> None:
    net = layered()
    with pytest.raises(UnknownNameError, match=r"unknown policy in latents 'afine'.*'affine'"):
        assign_noise(net, "afine")
    with pytest.raises(UnknownNameError, match=r"latents=\['a'\]"):
        assign_noise(net, "a")
    with pytest.raises(UnknownNameError, match="vertex in latents"):
        assign_noise(net, ["hh"])
    with pytest.raises(UnknownNameError, match="vertex in noise"):
        assign_noise(net, noise={"hh": 1.0})
    with pytest.raises(UnknownNameError, match="output in likelihood"):
        assign_noise(net, likelihood={"h": "bernoulli"})
    with pytest.raises(GraphError, match="'categorical'"):
        assign_noise(net, likelihood="categorial")


def test_what_cannot_be_a_latent_is_refused_and_nothing_changes() -> None:
    net = layered()
    with pytest.raises(GraphError, match="set_prior"):
        assign_noise(net, noise={"x": 1.0})
    with pytest.raises(GraphError, match="parameter"):
        assign_noise(net, ["A"])
    with pytest.raises(CovarianceError, match="'a'"):
        assign_noise(net, noise=-1.0, likelihood="categorical")
    assert net.latents == ()
    assert net.labels == ()


def ending_in(op: str, **attributes: int) -> GaussianBayesNet:
    """The layered net with one more op on y, its logits."""
    net = layered()
    net.add("p", op, ["y"], **attributes)
    return net


ENDINGS = [
    ("Softmax", {}, "categorical"),
    ("Softmax", {"axis": 1}, "categorical"),
    ("LogSoftmax", {"axis": -1}, "categorical"),
    ("Sigmoid", {}, "bernoulli"),
]


@pytest.mark.parametrize("policy", ["affine", "layers", "all"])
@pytest.mark.parametrize(("op", "attributes", "kind"), ENDINGS)
def test_the_last_op_says_the_likelihood(op: str, attributes: dict[str, int], kind: str, policy: str) -> None:
    net, asked = ending_in(op, **attributes), ending_in(op, **attributes)
    assign_noise(net, policy, likelihood="auto")
    assign_noise(asked, policy, likelihood=kind)
    for one in (net, asked):
        assert one.labels == ("p.label",)
        assert (one["p.label"].op, one["p.label"].parents) == (kind, ("y",))
        assert one.outputs == ("p",)
        assert not {"y", "p"} & set(one.latents)
    x = np.random.default_rng(1).standard_normal((3, 3))
    values = net.forward({"x": x})
    p = np.exp(values["p"]) if op == "LogSoftmax" else values["p"]
    np.testing.assert_allclose(values["p.label"], p)


@pytest.mark.parametrize("likelihood", ["gaussian", {"p": "gaussian"}, {"p": None}, None])
@pytest.mark.parametrize(("op", "attributes", "kind"), ENDINGS)
def test_gaussian_outputs_on_request(op: str, attributes: dict[str, int], kind: str, likelihood: object) -> None:
    net = ending_in(op, **attributes)
    assign_noise(net, likelihood=likelihood)
    assert net.labels == ()
    assert {"y", "p"} <= set(net.latents)
    assign_noise(net, likelihood="auto")
    assert net.labels == ()  # It has noise already.


@pytest.mark.parametrize(
    "arguments", [{"output_noise": {"p": 0.1}}, {"noise": {"p": 0.1}}, {"latents": ["a", "p"], "output_noise": 0.1}]
)
def test_an_output_whose_noise_is_named_is_gaussian(arguments: dict[str, object]) -> None:
    net = ending_in("Softmax")
    assign_noise(net, likelihood="auto", **arguments)
    assert net.labels == ()
    assert float(net.noise("p").value) == 0.1


def test_logits_have_noise_where_they_are_named() -> None:
    net = ending_in("Sigmoid")
    assign_noise(net, ["y"], noise=0.5, likelihood="auto")
    assert net.labels == ("p.label",)
    assert net.latents == ("y",)


def test_classes_on_another_axis_come_first_for_their_label() -> None:
    net = GaussianBayesNet()
    net.add_input("x", (2, 3))
    net.add_parameter("W", np.random.default_rng(0).normal(size=(3, 4)))
    net.add("y", "MatMul", ["x", "W"])
    net.add("p", "Softmax", ["y"], axis=-1)
    plain = net.copy()
    assign_noise(net, likelihood="auto")
    assert net.labels == ("p.label",)
    assert net["p.label"].parents == ("p.classes_first",)
    assert net.latents == ()
    x, classes = np.random.default_rng(1).normal(size=(5, 2, 3)), np.random.default_rng(2).integers(0, 4, (5, 2))
    p = net.forward({"x": x})["p"]
    expected = np.log(np.take_along_axis(p, classes[..., None], 2)).sum((1, 2))
    np.testing.assert_allclose(net.log_prob({"x": x, "p.label": classes}), expected, rtol=1e-12)
    # Taken away again, it leaves nothing behind.
    assign_noise(net, likelihood="gaussian")
    assign_noise(plain, likelihood="gaussian")
    assert list(net) == list(plain)
    assert net.latents == plain.latents


def test_outputs_by_themselves_and_logits_that_are_outputs() -> None:
    net = ending_in("Softmax")
    net.add("s", "Sigmoid", ["c"])
    net.add("same", "Identity", ["p"])
    net.set_outputs(["y", "p", "s", "h"])
    both = net.copy()
    assign_noise(net, likelihood="auto")
    assert net.labels == ("p.label", "s.label")
    assert net["s.label"].parents == ("c",)
    assert {"a", "b", "h"} == set(net.latents)
    assign_noise(both, likelihood={"p": "gaussian", "s": "auto", "y": "categorical"})
    assert both.labels == ("y.label", "s.label")
    assert "p" in both.latents
    assert "h" in both.latents


def test_an_identity_is_looked_through() -> None:
    net = ending_in("Sigmoid")
    net.add("out", "Identity", ["p"])
    assign_noise(net, "all", likelihood="auto")
    assert net["out.label"].parents == ("y",)
    assert not {"y", "p", "out"} & set(net.latents)


def test_a_label_of_another_kind_is_refused_on_probabilities() -> None:
    with pytest.raises(GraphError, match=r"ends in a Softmax, which says 'categorical'.*without its last layer"):
        assign_noise(ending_in("Softmax"), likelihood="bernoulli")
    with pytest.raises(GraphError, match="which says 'bernoulli'"):
        assign_noise(ending_in("Sigmoid"), likelihood="categorical")
    net = ending_in("LogSoftmax")
    assign_noise(net, likelihood="bernoulli")
    assert net["p.label"].parents == ("p",)


def test_a_noise_named_for_an_output_is_not_overwritten():
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("W", np.eye(2))
    net.add("y", "Gemm", ["x", "W"])
    assign_noise(net, noise={"y": 0.1})
    assert float(net.noise("y").value) == 0.1


def test_an_affine_result_that_is_the_output_but_for_its_order_has_the_noise_of_the_output() -> None:
    net = GaussianBayesNet()
    net.add_input("x", (2, 3))
    net.add_parameter("W", np.eye(3))
    net.add("h", "Gemm", ["x", "W"])
    net.add("turned", "Transpose", ["h"], perm=[0, 2, 1])
    net.add("y", "Reshape", ["turned"], shape=[0, 6])
    net.set_outputs(["y"])
    assign_noise(net, noise=2.0, output_noise=0.5)
    assert net.latents == ("y",)
    assert float(net.noise("y").value) == 0.5
    # One that something else reads as well is a variable of its own.
    net.set_noise({"y": None})
    net.add("z", "Tanh", ["h"])
    net.set_outputs(["y", "z"])
    assign_noise(net)
    assert net.latents == ("h", "y", "z")
