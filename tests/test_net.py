"""Building nets, what is refused and how, and the forward pass, samples and densities against numpy by hand."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gbn.errors import CovarianceError, EvidenceError, GbnError, GraphError, ShapeError, UnknownNameError
from gbn.io import load
from gbn.net import GaussianBayesNet

Build = Callable[[GaussianBayesNet], object]


def state(net: GaussianBayesNet) -> tuple[Any, ...]:
    """All that a failed call must leave alone; vertices and noises are compared by identity."""
    vertices = {name: id(vertex) for name, vertex in net.vertices.items()}
    return list(net), vertices, {name: id(noise) for name, noise in net.noises.items()}, net.outputs


@pytest.fixture
def net() -> GaussianBayesNet:
    """x (3,) -> a = x W -> h = tanh a -> logits, label; and a shared noise over (4,)."""
    rng = np.random.default_rng(0)
    net = GaussianBayesNet()
    net.add_input("x", (3,), mean=1.0, cov=2.0)
    net.add_input("image", (2, 5, 5))
    net.add_parameter("W", rng.normal(size=(3, 4)))
    net.add("a", "Gemm", ["x", "W"], cov=0.5)
    net.add("h", "Tanh", ["a"])
    net.add_noise("shared", [1.0, 2.0, 3.0, 4.0], (4,))
    net.add_likelihood("label", "categorical", "h")
    net.add_constant("c", np.ones(3))
    return net


REFUSED: dict[str, tuple[Build, type[GbnError], str]] = {
    "parent": (lambda n: n.add("y", "Tanh", ["hh"]), UnknownNameError, r"parent of 'y' 'hh'.*did you mean 'h'"),
    "op": (lambda n: n.add("y", "Tahn", ["h"]), UnknownNameError, r"unknown op 'Tahn': did you mean 'Tan' or 'Tanh'"),
    "attribute": (lambda n: n.add("y", "Elu", ["h"], alhpa=1), UnknownNameError, r"'alhpa'.*did you mean 'alpha'"),
    "noise": (lambda n: n.add("y", "Tanh", ["h"], cov="share"), UnknownNameError, r"'share'.*'shared'.*add_noise"),
    "likelihood": (lambda n: n.add_likelihood("y", "bernouli", "h"), UnknownNameError, r"did you mean 'bernoulli'"),
    "weight": (lambda n: n.add_linear("y", {"x": "V"}), UnknownNameError, r"weight of 'y' 'V'"),
    "bias": (lambda n: n.add_linear("y", {}, bias="V", cov=1.0), UnknownNameError, r"bias of 'y' 'V'"),
    "linear parent": (lambda n: n.add_linear("y", {"X": [[1.0]]}), UnknownNameError, r"parent of 'y' 'X'"),
    "output": (lambda n: n.set_outputs(["h", "H"]), UnknownNameError, r"unknown output 'H'"),
    "name in set_noise": (lambda n: n.set_noise({"a": 1.0, "A": 1.0}), UnknownNameError, r"unknown vertex 'A'"),
    "noise in set_noise": (lambda n: n.set_noise({"a": "share"}), UnknownNameError, r"unknown noise 'share'"),
    "name in set_value": (lambda n: n.set_value("w", 1.0), UnknownNameError, r"unknown vertex 'w'"),
    "name in set_prior": (lambda n: n.set_prior("X", 0.0, 1.0), UnknownNameError, r"unknown vertex 'X'"),
    "name in describe": (lambda n: n.describe("X", source="s"), UnknownNameError, r"unknown vertex 'X'"),
    "name in []": (lambda n: n["X"], UnknownNameError, r"unknown vertex 'X'"),
    "too few parents": (lambda n: n.add("y", "Add", ["h"]), GraphError, r"'y': Add takes 2 parents, got 1"),
    "too many parents": (lambda n: n.add("y", "Tanh", ["h", "h"]), GraphError, r"'y': Tanh takes 1 parents, got 2"),
    "shapes": (lambda n: n.add("y", "MatMul", ["h", "W"]), GraphError, r"'y': MatMul does not take.*'h'.*'W' \(3, 4\)"),
    "missing attribute": (lambda n: n.add("y", "Concat", ["h"]), GraphError, r"'y': Concat does not take .*axis"),
    "stride 0": (lambda n: n.add("y", "MaxPool", ["image"], kernel_shape=[2, 2], strides=[0, 0]), GraphError, "'y'"),
    "samples moved": (lambda n: n.add("y", "Transpose", ["h"]), GraphError, r"'y': Transpose moves the sample axis"),
    "samples summed": (lambda n: n.add("y", "ReduceSum", ["h"], axes=[0]), GraphError, r"mixes samples"),
    "samples mixed": (lambda n: n.add("y", "Softmax", ["h"], axis=0), GraphError, r"'y': Softmax moves.* or mixes"),
    "samples flattened": (lambda n: n.add("y", "Reshape", ["h"], shape=[-1]), GraphError, r"'y': Reshape moves"),
    "samples joined": (lambda n: n.add("y", "Concat", ["h", "h"], axis=0), GraphError, r"samples on axis 0"),
    "training mode": (lambda n: n.add("y", "Dropout", ["h"], training_mode=1), GraphError, r"inference mode"),
    "child of a label": (lambda n: n.add("y", "Tanh", ["label"]), GraphError, r"'label' is a label; labels have no ch"),
    "duplicate": (lambda n: n.add("h", "Tanh", ["a"], cov=1.0), GraphError, r"vertex 'h' exists already"),
    "duplicate input": (lambda n: n.add_input("x", 3, mean=0, cov=1), GraphError, r"vertex 'x' exists already"),
    "duplicate parameter": (lambda n: n.add_parameter("W", 1.0, cov=1.0), GraphError, r"vertex 'W' exists already"),
    "duplicate noise": (lambda n: n.add_noise("shared", 1.0, (4,)), GraphError, r"noise 'shared' exists already"),
    "noise named as a vertex": (lambda n: n.add_noise("h", 1.0, (4,)), GraphError, r"vertex 'h' exists already"),
    "vertex named as a noise": (lambda n: n.add("shared", "Tanh", ["a"]), GraphError, r"noise 'shared' exists already"),
    "empty name": (lambda n: n.add_parameter("", 1.0), GraphError, r"got '', expected a non-empty string"),
    "slash": (lambda n: n.add_parameter("a/b", 1.0), GraphError, r"'a/b'"),
    "backslash": (lambda n: n.add_input("a\\b", 1), GraphError, r"without / or"),
    "number for a name": (lambda n: n.add_parameter(5, 1.0), GraphError, r"got 5"),  # type: ignore[arg-type]
    "negative variance": (lambda n: n.add("y", "Tanh", ["a"], cov=-1), CovarianceError, r"of 'y'.*positive.*got -1"),
    "zero variance": (lambda n: n.add("y", "Tanh", ["a"], cov=0), CovarianceError, r"of 'y'.*cov=None"),
    "indefinite": (lambda n: n.add("y", "Tanh", ["a"], cov=np.eye(4) - 0.5), CovarianceError, r"'y'.*eigenvalue -1"),
    "asymmetric": (lambda n: n.add("y", "Tanh", ["a"], cov=np.tri(4)), CovarianceError, r"'y'.*symmetric"),
    "shape of cov": (lambda n: n.add("y", "Tanh", ["a"], cov=np.ones(3)), CovarianceError, r"'y'.*\(3,\).*\(4,\)"),
    "cov NaN": (lambda n: n.add("y", "Tanh", ["a"], cov=np.nan), CovarianceError, r"'y'.*NaN"),
    "cov of a parameter": (lambda n: n.add_parameter("y", [1.0], cov=-2), CovarianceError, r"covariance of 'y'"),
    "cov of an input": (lambda n: n.add_input("y", 2, cov=np.ones(3)), CovarianceError, r"covariance of 'y'"),
    "cov of a linear": (lambda n: n.add_linear("y", {"x": np.ones((1, 3))}, cov=-1), CovarianceError, r"of 'y'"),
    "cov of a shared noise": (lambda n: n.add_noise("y", -1.0, (2,)), CovarianceError, r"of 'y'"),
    "shared noise of another shape": (lambda n: n.add("y", "Neg", ["x"], cov="shared"), ShapeError, r"'y'.*\(3,\)"),
    "prior without cov": (lambda n: n.add_input("y", 2, mean=0.0), GraphError, r"'y': a prior needs cov"),
    "prior mean": (lambda n: n.set_prior("x", [1.0, 2.0], 1.0), ShapeError, r"mean of 'x'.*\(2,\).*\(3,\)"),
    "prior cov": (lambda n: n.set_prior("x", 0.0, -1.0), CovarianceError, r"'x'"),
    "prior of a new input": (lambda n: n.set_prior("image", 0.0, -1.0), CovarianceError, r"'image'"),
    "prior of an op": (lambda n: n.set_prior("h", 0.0, 1.0), GraphError, r"'h' is a vertex of kind op.*set_noise"),
    "noise without a mean": (lambda n: n.set_noise({"image": 1.0}), GraphError, r"'image'.*set_prior"),
    "noise of a constant": (lambda n: n.set_noise({"a": 9.0, "c": 1.0}), GraphError, r"'c' is a constant"),
    "noise of a label": (lambda n: n.set_noise({"label": 1.0}), GraphError, r"'label' is a likelihood"),
    "set_noise, negative": (lambda n: n.set_noise({"a": 9.0, "h": -1.0}), CovarianceError, r"'h'"),
    "set_noise, shape": (lambda n: n.set_noise({"h": 9.0, "x": "shared"}), ShapeError, r"'x'.*\(4,\), expected \(3,\)"),
    "value of an op": (lambda n: n.set_value("h", 1.0), GraphError, r"'h' is a vertex of kind op"),
    "value of another shape": (lambda n: n.set_value("W", np.ones((4, 3))), ShapeError, r"'W'.*\(4, 3\)"),
    "value NaN": (lambda n: n.set_value("W", np.full((3, 4), np.nan)), GraphError, r"'W': got NaN"),
    "value not a number": (lambda n: n.add_parameter("y", "text"), ShapeError, r"'y'.*numbers, got str"),
    "value ragged": (lambda n: n.add_constant("y", [[1.0], [1.0, 2.0]]), ShapeError, r"'y': expected an array"),
    "input shape": (lambda n: n.add_input("y", (2, -1)), ShapeError, r"shape of 'y'.*positive"),
    "shape of a weight": (lambda n: n.add_linear("y", {"x": np.ones((3, 4))}), ShapeError, r"'x' in 'y'.*child, 3"),
    "shape of a tied weight": (lambda n: n.add_linear("y", {"x": "c"}), ShapeError, r"'x' in 'y'.*\(3,\)"),
    "shapes of weights": (
        lambda n: n.add_linear("y", {"x": np.ones((1, 3)), "h": np.ones((2, 4))}), ShapeError, r"'y'.*rows",
    ),
    "shape of a bias": (
        lambda n: n.add_linear("y", {"x": np.ones((1, 3))}, bias=np.ones(5)), ShapeError, r"bias of 'y'.*\(5,\)",
    ),
    "shape of a linear": (lambda n: n.add_linear("y", {"x": np.ones((4, 3))}, shape=(3,)), GraphError, r"'y': Linear"),
    "root without a mean": (lambda n: n.add_linear("y", {}, cov=1.0), GraphError, r"'y': a root needs bias"),
    "root without noise": (lambda n: n.add_linear("y", {}, bias=1.0), GraphError, r"'y'.*add_parameter"),
    "label of a parameter": (lambda n: n.add_likelihood("y", "bernoulli", "W"), GraphError, r"'y'.*logits.*'W'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named_and_nothing_changes(case: str, net: GaussianBayesNet) -> None:
    build, error, message = REFUSED[case]
    before = state(net)
    with pytest.raises(error, match=message):
        build(net)
    assert state(net) == before


def test_dtype_must_be_floating() -> None:
    with pytest.raises(GraphError, match="int64"):
        GaussianBayesNet(np.int64)


def test_late_noise_for_a_shared_vertex_with_children_is_refused() -> None:
    net = GaussianBayesNet()
    net.add_parameter("p", np.ones(2))
    net.add("s", "Exp", ["p"])
    net.set_noise({"s": 1.0})
    assert net["s"].plated
    net.add("t", "Neg", ["p"])
    net.add("u", "Abs", ["t"])
    before = state(net)
    with pytest.raises(GraphError, match=r"'t' is shared by all samples and has the child 'u'"):
        net.set_noise({"t": 1.0})
    assert state(net) == before


class TestRoots:
    def test_shapes_of_inputs(self) -> None:
        net = GaussianBayesNet()
        net.add_input("number", ())
        net.add_input("int", 3)
        net.add_input("numpy", np.array([2, 3]))
        assert [net[name].shape for name in net] == [(1,), (3,), (2, 3)]
        assert all(net[name].needs_data and net[name].plated for name in net)
        assert net["numpy"].size == 6

    def test_priors_come_and_go(self) -> None:
        net = GaussianBayesNet()
        net.add_input("x", 2, cov=3.0)
        np.testing.assert_array_equal(net["x"].value, [0.0, 0.0])
        assert not net["x"].needs_data
        net.set_prior("x", [1.0, 2.0], [0.1, 0.2])
        np.testing.assert_array_equal(net["x"].value, [1.0, 2.0])
        np.testing.assert_array_equal(net.noise("x").diagonal(), [0.1, 0.2])  # type: ignore[union-attr]
        net.set_prior("x", None, None)
        assert net["x"].needs_data
        assert net.noise("x") is None

    def test_an_input_without_noise_is_a_known_one(self, tmp_path: Path) -> None:
        """It has its mean as its value unless it is given another; every part of the library takes it so."""
        net = GaussianBayesNet()
        net.add_input("x", 2, mean=[1.0, 2.0], cov=3.0)
        net.add("h", "Tanh", ["x"])
        net.add_linear("y", {"h": np.eye(2)}, cov=0.1)
        net.set_noise({"x": None})
        assert not net["x"].needs_data
        assert "x" not in net.noises
        np.testing.assert_array_equal(net.forward()["x"], [[1.0, 2.0]])
        net.save(tmp_path / "net.gbn")
        for one in (net, net.linearize(), load(tmp_path / "net.gbn")):
            post = one.query(None, {"y": [[0.5, np.nan]]})
            np.testing.assert_array_equal(post.mean["x"], [[1.0, 2.0]])
            np.testing.assert_array_equal(post.var["x"], 0)
            np.testing.assert_allclose(post.mean["y"], [[0.5, np.tanh(2.0)]])
            given = one.query(None, {"x": [[1.0, 2.0], [1.5, 2.5]]})
            np.testing.assert_array_equal(given.mean["x"], [[1.0, 2.0], [1.5, 2.5]])
            assert set(given.evidence.do) == {"x"}
            np.testing.assert_array_equal(given.log_evidence, 0)
            with pytest.raises(EvidenceError, match="'x': 1 entries are NaN, but an input without a prior"):
                one.query(None, {"x": [[1.0, np.nan]]})
            assert one.d_separated("h", "y", ["x"])
        assert net.d_separated("h", "y")

    def test_values_are_copies_of_the_nets_dtype_and_read_only(self) -> None:
        given = np.ones((2, 2))
        net = GaussianBayesNet(np.float32)
        net.add_parameter("w", given)
        given[:] = 7
        value = net["w"].value
        assert value is not None
        assert value.dtype == np.float32
        assert (value == 1).all()
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 5

    def test_kinds(self, net: GaussianBayesNet) -> None:
        assert net.inputs == ("x", "image")
        assert net.parameters == ("W",)
        assert net.labels == ("label",)
        assert net.latents == ("x", "a")
        assert not net["c"].trainable
        assert net["W"].trainable
        assert len(net) == 7
        assert "a" in net
        assert "b" not in net
        assert repr(net) == "GaussianBayesNet(7 vertices, 2 with noise, float64)"


class TestLinear:
    def test_it_makes_parameters_and_ties_them_by_name(self) -> None:
        net = GaussianBayesNet()
        net.add_input("u", 2)
        net.add_input("v", 3)
        net.add_linear("y", {"u": np.ones((4, 2)), "v": np.ones((4, 3))}, bias=np.zeros(4), cov=1.0)
        assert net.parameters == ("y.u.weight", "y.v.weight", "y.bias")
        net.add_linear("z", {"u": "y.u.weight"}, bias="y.bias", cov=2.0)
        assert net.parameters == ("y.u.weight", "y.v.weight", "y.bias")
        assert net["z"].parents == ("u", "y.u.weight", "y.bias")
        net.set_value("y.u.weight", np.full((4, 2), 2.0))
        out = net.forward({"u": [[1.0, 2.0]], "v": [[0.0, 0.0, 1.0]]})
        np.testing.assert_array_equal(out["y"], np.full((1, 4), 7.0))
        np.testing.assert_array_equal(out["z"], np.full((1, 4), 6.0))

    def test_shapes(self) -> None:
        net = GaussianBayesNet()
        net.add_input("u", (2, 3))
        weight = np.arange(24.0).reshape(4, 6)
        net.add_linear("y", {"u": weight}, shape=(2, 2))
        u = np.arange(12.0).reshape(2, 2, 3)
        np.testing.assert_array_equal(net.forward({"u": u})["y"], (u.reshape(2, 6) @ weight.T).reshape(2, 2, 2))

    def test_scalars(self) -> None:
        net = GaussianBayesNet()
        net.add_linear("x", {}, bias=1.0, cov=2.0)
        net.add_linear("y", {"x": 3.0}, bias=0.5, cov=0.1)
        assert net["y"].shape == (1,)
        np.testing.assert_array_equal(net.forward()["y"], [[3.5]])

    def test_a_bad_one_leaves_no_parameters(self, net: GaussianBayesNet) -> None:
        before = state(net)
        with pytest.raises(CovarianceError):
            net.add_linear("y", {"x": np.ones((2, 3)), "h": np.ones((2, 4))}, bias=[1.0, 2.0], cov=[1.0, -1.0])
        assert state(net) == before


class TestNoise:
    def test_forms(self, net: GaussianBayesNet) -> None:
        forms = {"scalar": 2.0, "diagonal": [1.0, 2.0, 3.0, 4.0], "full": np.eye(4)}
        for form, cov in forms.items():
            net.set_noise({"h": cov})
            assert net.noise("h").form == form  # type: ignore[union-attr]
        net.set_noise({"h": None})
        assert net.noise("h") is None
        assert not net["h"].random

    def test_shared_noise_is_one_object(self, net: GaussianBayesNet) -> None:
        net.add("s", "Neg", ["a"], cov="shared")
        net.set_noise({"h": "shared"})
        assert net.noise("s") is net.noise("h") is net.noises["shared"]

    def test_several_at_once(self, net: GaussianBayesNet) -> None:
        net.set_noise({"h": 3.0, "a": None, "W": 0.1})
        assert net.latents == ("x", "h")
        assert net["W"].random
        assert not net["W"].plated

    def test_own_noises_go_with_their_last_use(self, tmp_path: Path) -> None:
        net = GaussianBayesNet()
        net.add_noise("shared", 1.0, (2,))
        net.add_noise("spare", 1.0, (2,))
        net.add_input("x", 2, cov=1.0)
        net.add("a", "Tanh", ["x"], cov=0.3)
        net.add("b", "Neg", ["a"], cov="a")
        net.add("c", "Neg", ["b"], cov="shared")
        net.set_noise({"a": None})
        assert set(net.noises) == {"shared", "spare", "x", "a"}, "b still uses the noise of a"
        net.set_noise({"b": 0.2, "c": 0.1})
        assert set(net.noises) == {"shared", "spare", "x", "b", "c"}
        net.set_noise({"c": "b", "b": "shared"})
        assert set(net.noises) == {"shared", "spare", "x", "b"}
        net.set_noise({"c": None})
        net.set_prior("x", None, None)
        assert set(net.noises) == {"shared", "spare"}
        net.save(tmp_path / "net.gbn")
        assert set(load(tmp_path / "net.gbn").noises) == {"shared", "spare"}
        net.set_noise({"a": 0.5})
        assert float(net.noises["a"].value) == 0.5


class TestGraph:
    def test_default_outputs(self, net: GaussianBayesNet) -> None:
        assert net.outputs == ("image", "h")
        net.add("y", "Neg", ["h"])
        assert net.outputs == ("image", "y")
        net.set_outputs(["h", "a"])
        assert net.outputs == ("h", "a")

    def test_repeated_parents(self) -> None:
        net = GaussianBayesNet()
        net.add_input("x", 2)
        net.add("square", "Mul", ["x", "x"])
        net.add("joined", "Concat", ["x", "square", "x"], axis=1)
        assert net["joined"].parents == ("x", "square", "x")
        out = net.forward({"x": [[2.0, 3.0]]})["joined"]
        np.testing.assert_array_equal(out, [[2, 3, 4, 9, 2, 3]])

    def test_shared_vertices_have_no_sample_axis(self) -> None:
        net = GaussianBayesNet()
        net.add_parameter("w", np.ones((2, 3)))
        net.add("t", "Transpose", ["w"])
        net.add_input("x", 3)
        net.add("y", "MatMul", ["x", "t"])
        assert (net["t"].shape, net["t"].plated) == ((3, 2), False)
        assert (net["y"].shape, net["y"].plated) == ((2,), True)
        assert net.outputs == ("y",)

    def test_a_chain_of_shared_squares_is_built_in_linear_time(self) -> None:
        net = GaussianBayesNet()
        net.add_parameter("v0", [1.0])
        for k in range(60):
            net.add(f"v{k + 1}", "Mul", [f"v{k}", f"v{k}"])
        assert not net["v60"].plated

    def test_describe(self, net: GaussianBayesNet) -> None:
        net.describe("W", source="fc.weight", trainable=False)
        net.describe("W")
        assert net.source_of("W") == "fc.weight"
        assert net.source_of("a") is None
        assert not net["W"].trainable

    def test_a_copy_is_independent(self, net: GaussianBayesNet) -> None:
        other = net.copy()
        before = state(net)
        other.set_value("W", np.zeros((3, 4)))
        other.set_noise({"a": 9.0})
        other.set_prior("x", None, None)
        other.add("more", "Neg", ["h"])
        other.add_noise("another", 1.0, (1,))
        other.set_outputs(["a"])
        other.describe("h", source="elsewhere")
        assert state(net) == before
        net.set_outputs(["h"])
        assert other.outputs == ("a",)


def _with(parents: Mapping[str, str], op: str, order: list[str], **attributes: Any) -> GaussianBayesNet:
    net = GaussianBayesNet()
    for name, kind in parents.items():
        value = np.array([[1.0, 2.0], [3.0, 4.0]])
        if kind == "input":
            net.add_input(name, (2, 2))
        else:
            net.add_parameter(name, value, cov=1.0 if kind == "random" else None)
    net.add("y", op, order, cov=1.0, **attributes)
    return net


@pytest.mark.parametrize(
    ("net", "linear"),
    [
        (_with({"x": "input", "w": "plain"}, "MatMul", ["x", "w"]), True),
        (_with({"x": "input", "w": "random"}, "MatMul", ["x", "w"]), False),
        (_with({"x": "input"}, "Mul", ["x", "x"]), False),
        (_with({"x": "input", "w": "plain"}, "Div", ["x", "w"]), True),
        (_with({"x": "input", "w": "plain"}, "Div", ["w", "x"]), False),
        (_with({"x": "input"}, "Tanh", ["x"]), False),
        (_with({"w": "plain"}, "Tanh", ["w"]), True),
        (_with({"x": "input"}, "Add", ["x", "x"]), True),
        (_with({"x": "input"}, "Transpose", ["x"], perm=[0, 2, 1]), True),
    ],
    ids=["product", "random weight", "square", "quotient", "inverse", "tanh", "tanh of a weight", "sum", "transpose"],
)
def test_is_linear(net: GaussianBayesNet, linear: bool) -> None:
    assert net.is_linear() == linear


def test_a_label_is_not_linear() -> None:
    net = _with({"x": "input"}, "Add", ["x", "x"])
    net.add_likelihood("label", "bernoulli", "y")
    assert not net.is_linear()


class TestForward:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("samples", [1, 2, 5])
    def test_against_numpy(self, dtype: Any, samples: int) -> None:
        rng = np.random.default_rng(samples)
        w, b, v = (rng.normal(size=shape).astype(dtype) for shape in ((3, 4), (4,), (2, 4)))
        net = GaussianBayesNet(dtype)
        net.add_input("x", 3)
        net.add_parameter("w", w)
        net.add_parameter("b", b)
        net.add("a", "Gemm", ["x", "w", "b"], cov=0.1)
        net.add("h", "Tanh", ["a"])
        net.add_linear("y", {"h": v}, cov=0.1)
        net.add_likelihood("label", "categorical", "y")
        x = rng.normal(size=(samples, 3)).astype(dtype)
        out = net.forward({"x": x})
        h = np.tanh(x @ w + b)
        y = h @ v.T
        p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
        expected = {"x": x, "w": w, "b": b, "a": x @ w + b, "h": h, "y.h.weight": v, "y": y, "label": p}
        assert out.keys() == expected.keys()
        for name, value in expected.items():
            assert out[name].dtype == dtype
            np.testing.assert_allclose(out[name], value, rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-6)

    def test_interventions_cut_the_parents(self, net: GaussianBayesNet) -> None:
        image = np.zeros((2, 2, 5, 5))
        out = net.forward({"image": image, "a": np.ones((2, 4))})
        np.testing.assert_array_equal(out["h"], np.tanh(np.ones((2, 4))))
        np.testing.assert_array_equal(out["x"], np.ones((2, 3)))

    def test_an_input_without_a_prior_must_be_given(self, net: GaussianBayesNet) -> None:
        with pytest.raises(EvidenceError, match=r"'image' has no prior.*\(samples, 2, 5, 5\).*set_prior"):
            net.forward({"x": np.ones(3)})

    def test_noisy_vertices_of_shared_parents(self) -> None:
        net = GaussianBayesNet()
        net.add_input("x", 3)
        net.add_parameter("p", [1.0, 2.0, 3.0])
        net.add("s", "Exp", ["p"], cov=1.0)
        net.add("y", "Mul", ["s", "x"])
        for samples in (1, 2, 3, 4):
            out = net.forward({"x": np.ones((samples, 3))})
            assert out["p"].shape == (3,)
            np.testing.assert_array_equal(out["s"], np.tile(np.exp([1.0, 2.0, 3.0]), (samples, 1)))
            assert out["y"].shape == (samples, 3)


class TestSample:
    def test_moments(self) -> None:
        """Means and covariances of 40 000 draws, each within five standard errors of the closed form."""
        n = 40_000
        q = np.array([[1.0, 0.3], [0.3, 0.5]])
        w = np.array([[1.0, -2.0], [0.5, 1.0], [0.0, 3.0]])
        r = np.array([0.1, 0.2, 0.4])
        net = GaussianBayesNet()
        net.add_input("x", 2, mean=[1.0, -1.0], cov=q)
        net.add_linear("y", {"x": w}, bias=[0.0, 1.0, 2.0], cov=r)
        draws = net.sample(n, rng=0)
        joint = np.concatenate([draws["x"], draws["y"]], axis=1)
        lift = np.vstack([np.eye(2), w])
        mean = lift @ [1.0, -1.0] + [0, 0, 0, 1, 2]
        cov = lift @ q @ lift.T + np.diag([0, 0, *r])
        variances = np.diag(cov)
        assert (np.abs(joint.mean(0) - mean) < 5 * np.sqrt(variances / n)).all()
        error = np.sqrt((np.outer(variances, variances) + cov**2) / n)
        assert (np.abs(np.cov(joint.T) - cov) < 5 * error).all()

    def test_random_parameters_are_drawn_once(self) -> None:
        net = GaussianBayesNet()
        net.add_parameter("w", [1.0, 2.0], cov=1.0)
        net.add_input("x", 2)
        net.add("y", "Mul", ["x", "w"])
        out = net.sample(do={"x": np.ones((5, 2))}, rng=1)
        assert out["w"].shape == (2,)
        np.testing.assert_array_equal(out["y"], np.tile(out["w"], (5, 1)))
        assert not np.array_equal(out["w"], [1.0, 2.0])

    def test_seeds_and_dtype(self, net: GaussianBayesNet) -> None:
        net.set_prior("image", 0.0, 1.0)
        a, b, c = net.sample(2, rng=0), net.sample(2, rng=np.random.default_rng(0)), net.sample(2, rng=1)
        assert all(np.array_equal(a[name], b[name]) for name in net)
        assert not np.array_equal(a["a"], c["a"])

    def test_labels_are_drawn_from_their_probabilities(self) -> None:
        n = 20_000
        net = GaussianBayesNet()
        net.add_input("logits", 3)
        net.add_likelihood("label", "categorical", "logits")
        logits = np.log([0.2, 0.3, 0.5])
        label = net.sample(do={"logits": np.tile(logits, (n, 1))}, rng=0)["label"]
        np.testing.assert_array_equal(label.sum(1), 1.0)
        p = np.array([0.2, 0.3, 0.5])
        assert (np.abs(label.mean(0) - p) < 5 * np.sqrt(p * (1 - p) / n)).all()


class TestLogProb:
    def test_against_scipy(self) -> None:
        rng = np.random.default_rng(0)
        q = np.array([[1.0, 0.3], [0.3, 0.5]])
        w, r = rng.normal(size=(3, 2)), np.array([0.1, 0.2, 0.4])
        net = GaussianBayesNet()
        net.add_input("x", 2, mean=[1.0, -1.0], cov=q)
        net.add_linear("y", {"x": w}, cov=r)
        net.add("t", "Tanh", ["y"])
        net.add("z", "Exp", ["t"], cov=0.7)
        x, y, z = rng.normal(size=(5, 2)), rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
        expected = (
            stats.multivariate_normal([1.0, -1.0], q).logpdf(x)
            + stats.norm(x @ w.T, np.sqrt(r)).logpdf(y).sum(1)
            + stats.norm(np.exp(np.tanh(y)), np.sqrt(0.7)).logpdf(z).sum(1)
        )
        np.testing.assert_allclose(net.log_prob({"x": x, "y": y, "z": z}), expected, rtol=1e-12)

    def test_it_is_the_density_of_the_joint_gaussian(self) -> None:
        rng = np.random.default_rng(1)
        q, r, w = np.diag([1.0, 2.0]), np.array([[0.5, 0.2], [0.2, 0.3]]), rng.normal(size=(2, 2))
        net = GaussianBayesNet()
        net.add_linear("x", {}, bias=[1.0, 2.0], cov=[1.0, 2.0])
        net.add_linear("y", {"x": w}, cov=r)
        lift = np.vstack([np.eye(2), w])
        cov = lift @ q @ lift.T
        cov[2:, 2:] += r
        values = rng.normal(size=(4, 4))
        expected = stats.multivariate_normal(lift @ [1.0, 2.0], cov).logpdf(values)
        np.testing.assert_allclose(net.log_prob({"x": values[:, :2], "y": values[:, 2:]}), expected, rtol=1e-10)

    def test_labels_and_inputs_without_a_prior(self) -> None:
        net = GaussianBayesNet()
        net.add_input("logits", 3)
        net.add_likelihood("label", "categorical", "logits")
        logits = np.log([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
        np.testing.assert_allclose(net.log_prob({"logits": logits, "label": [2, 0]}), np.log([0.5, 0.6]))
        np.testing.assert_array_equal(net.log_prob({"logits": logits}), [0.0, 0.0])

    def test_random_parameters_couple_the_samples(self) -> None:
        net = GaussianBayesNet()
        net.add_parameter("w", [2.0], cov=3.0)
        net.add_input("x", 1, cov=1.0)
        net.add("y", "Mul", ["x", "w"], cov=0.5)
        x, y, w = np.array([[1.0], [2.0]]), np.array([[3.0], [5.0]]), np.array([2.5])
        expected = (
            stats.norm(2.0, np.sqrt(3.0)).logpdf(w).sum()
            + stats.norm(0, 1).logpdf(x).sum()
            + stats.norm(x * w, np.sqrt(0.5)).logpdf(y).sum()
        )
        got = net.log_prob({"x": x, "y": y, "w": w})
        assert got.shape == ()
        np.testing.assert_allclose(got, expected, rtol=1e-12)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_dtype(self, dtype: Any) -> None:
        net = GaussianBayesNet(dtype)
        net.add_input("x", 2, cov=np.eye(2) + 0.1)
        net.add("y", "Tanh", ["x"], cov=0.1)
        assert net.log_prob({"x": np.zeros((3, 2)), "y": np.zeros((3, 2))}).dtype == dtype

    @pytest.mark.parametrize("y", [None, [[np.nan, 1.0]]])
    def test_incomplete(self, y: Any) -> None:
        net = GaussianBayesNet()
        net.add_input("x", 2, cov=1.0)
        net.add("y", "Tanh", ["x"], cov=0.1)
        values = {"x": np.zeros((1, 2))} | ({} if y is None else {"y": y})
        with pytest.raises(EvidenceError, match=r"complete value of 'y', shape \(samples, 2\)"):
            net.log_prob(values)

    def test_unknown_names(self) -> None:
        net = GaussianBayesNet()
        net.add_input("x", 2, cov=1.0)
        with pytest.raises(UnknownNameError, match="'X'"):
            net.log_prob({"X": np.zeros((1, 2))})


def test_samples_under_an_intervention_on_a_parameter_are_as_many_as_asked_for():
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add_parameter("W", np.eye(2))
    net.add("y", "Gemm", ["x", "W"], cov=1.0)
    assert net.sample(7, rng=0, do={"W": 2 * np.eye(2)})["y"].shape == (7, 2)
    assert net.sample(1, rng=0, do={"x": np.zeros((5, 2))})["y"].shape == (5, 2)


def test_one_name_serves_where_a_list_is_meant():
    net = GaussianBayesNet()
    net.add_input("pixels", 2)
    net.add("squashed", "Tanh", "pixels", cov=1.0)
    net.set_outputs("squashed")
    assert net["squashed"].parents == ("pixels",)
    assert net.outputs == ("squashed",)


@pytest.mark.parametrize("n", [0, -2, 2.5])
def test_no_number_of_samples(n: Any) -> None:
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    with pytest.raises(EvidenceError, match=f"n: got {n}, expected a number of samples, 1 or more"):
        net.sample(n)
