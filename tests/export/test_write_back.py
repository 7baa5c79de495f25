"""The way back: nets written into the models they came from, against the models' own optimisers and predictions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gbn
from gbn.errors import ConversionError, ShapeError, UnknownNameError
from gbn.net import GaussianBayesNet

RATE = 0.05


def stepped(net: GaussianBayesNet, evidence: dict[str, Any], scale: float) -> GaussianBayesNet:
    """A copy of the net after one step down the local gradients."""
    net = net.copy()
    for name, gradient in gbn.gradient(net, evidence).items():
        net.set_value(name, net[name].value - RATE * scale * gradient)
    return net


def by_hand() -> GaussianBayesNet:
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("W", np.eye(2))
    net.add("y", "Gemm", ["x", "W"], cov=1.0)
    return net


class TestSources:
    def test_a_net_built_by_hand_has_none(self) -> None:
        with pytest.raises(ConversionError, match="built by hand"):
            by_hand().to_state_dict()
        assert by_hand().sources_of("W") == ()

    def test_described_parameters_are_enough(self) -> None:
        net = by_hand()
        net.describe("W", source="layer/kernel")
        np.testing.assert_array_equal(net.to_state_dict()["layer/kernel"], np.eye(2))
        assert net.sources_of("W") == ("layer/kernel",)
        assert net.source_of("W") == "layer/kernel"

    def test_faults(self) -> None:
        net = by_hand()
        with pytest.raises(UnknownNameError):
            net.keep_source("w", np.eye(2), "Q")
        with pytest.raises(ShapeError, match="'W', of kind parameter"):
            net.keep_source("w", np.eye(3), "W")
        with pytest.raises(ShapeError, match="'y', of kind op"):
            net.keep_source("w", np.eye(2), "y")

    @pytest.mark.parametrize("target", [3, {}, by_hand(), "net.gbn", Path("model.pt2")])
    def test_targets_of_no_known_kind(self, target: Any) -> None:
        with pytest.raises(ConversionError, match=r"target: got .*expected"):
            gbn.load_into(target, by_hand())


torch = pytest.importorskip("torch")
# ruff: noqa: E402 - what follows needs torch

from torch import nn
from torch.nn import functional as F


class Tied(nn.Module):
    """Tied weights, a frozen one, buffers that are used and not, a weight that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.b.weight = self.a.weight
        self.a.bias.requires_grad_(False)
        self.register_buffer("shift", torch.arange(4.0))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("scratch", torch.ones(4), persistent=False)
        self.head = nn.Linear(3, 3)
        self.norm.running_mean.uniform_(-1, 1)

    def forward(self, x):
        h = torch.tanh(self.norm(self.a(x)))
        return self.b(h) @ self.a.weight.t() + self.shift * self.scratch


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.GroupNorm(3, 3)
        self.fc = nn.Linear(12, 2, bias=False)

    def forward(self, x):
        return self.fc(F.max_pool2d(torch.relu(self.norm(self.conv(x))), 2).flatten(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 3))


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (4,)),
    "tied": (Tied, (4,)),
    "convolutional": (Convolutional, (1, 4, 4)),
}


def made(name: str, dtype: Any = torch.float64) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    make, event = MODULES[name]
    return make().eval().to(dtype), torch.randn(5, *event, dtype=dtype)


def assert_same_state(module: nn.Module, other: nn.Module, atol: float = 0.0) -> None:
    ours, theirs = module.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        np.testing.assert_allclose(value.numpy(), theirs[name].numpy(), rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("name", MODULES)
def test_a_local_step_is_the_optimisers(name: str) -> None:
    module, x = made(name)
    target = torch.randn_like(module(x))
    net = gbn.convert(module, x)
    (output,) = net.outputs
    # The mean of squares is 2 / numel times the energy.
    moved = stepped(net, {net.inputs[0]: x.numpy(), output: target.numpy()}, 2 / target.numel())
    twin, _ = made(name)
    frozen = [n for n, p in twin.named_parameters() if not p.requires_grad]
    optimiser = torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], RATE)
    F.mse_loss(twin(x), target).backward()
    optimiser.step()
    flags = {n: p.requires_grad for n, p in module.named_parameters()}
    before = {n: (p, p.detach().clone()) for n, p in module.named_parameters()}
    assert gbn.load_into(module, moved) is module
    assert_same_state(module, twin, atol=1e-9)
    for n, parameter in module.named_parameters():
        assert parameter is before[n][0]
        assert parameter.requires_grad == flags[n]
        assert (n in frozen) <= bool((parameter == before[n][1]).all())
    assert any((p != old).any() for p, old in before.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("detour", ["none", "copy", "file", "program"])
def test_state_dict_is_taken_strictly(name: str, dtype: Any, detour: str, tmp_path: Path) -> None:
    module, x = made(name, dtype)
    if detour == "program":
        net = gbn.convert(torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},)))
    else:
        net = gbn.convert(module, x)
    if detour == "file":
        net.save(tmp_path / "net.gbn")
        net = gbn.load(tmp_path / "net.gbn")
    net = net.copy() if detour == "copy" else net
    arrays = net.to_state_dict()
    assert arrays.keys() == module.state_dict().keys()
    for key, tensor in module.state_dict().items():
        assert arrays[key].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(arrays[key], tensor.numpy())
    torch.manual_seed(1)
    fresh = MODULES[name][0]().to(dtype)
    fresh.load_state_dict(net.to_state_dict(tensors=True), strict=True)
    assert_same_state(fresh, module)


def test_all_names_of_a_tied_weight() -> None:
    module, x = made("tied")
    net = gbn.convert(module, x)
    assert net.source_of("a.weight") == "a.weight"
    assert net.sources_of("a.weight") == ("a.weight", "b.weight")
    assert net.sources_of("a") == ()
    changed = net.copy()
    changed.set_value("a.weight", np.eye(4))
    arrays = changed.to_state_dict()
    np.testing.assert_array_equal(arrays["a.weight"], np.eye(4))
    np.testing.assert_array_equal(arrays["b.weight"], np.eye(4))
    np.testing.assert_array_equal(net.to_state_dict()["b.weight"], module.a.weight.detach().numpy())


def test_arrays_given_out_are_the_callers() -> None:
    module, x = made("tied")
    net = gbn.convert(module, x)
    arrays = net.to_state_dict()
    for value in arrays.values():
        value[...] = 7
    assert (net.to_state_dict()["head.weight"] != 7).all()
    with torch.no_grad():
        for tensor in net.to_state_dict(tensors=True).values():
            tensor.fill_(7)
    assert_same_state(module, made("tied")[0])
    module.head.weight.data.fill_(3.0)
    assert (net.to_state_dict()["head.weight"] != 3).all()


def test_a_module_of_another_precision_keeps_it_and_what_is_not_used_stays() -> None:
    module, x = made("tied")
    net = gbn.convert(module, x)
    torch.manual_seed(1)
    other = Tied().to(torch.bfloat16)
    head = other.head.weight.detach().clone()
    other.norm.num_batches_tracked.fill_(9)
    gbn.load_into(other, net)
    assert other.a.weight.dtype is torch.bfloat16
    torch.testing.assert_close(other.a.weight, module.a.weight.to(torch.bfloat16))
    assert other.b.weight is other.a.weight
    torch.testing.assert_close(other.head.weight, head)
    assert other.norm.num_batches_tracked == 9


def test_every_mismatch_is_listed_and_nothing_is_written() -> None:
    module, x = made("mlp")
    net = gbn.convert(module, x)
    other = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Sequential(nn.Linear(5, 6), nn.ReLU()), nn.BatchNorm1d(3))
    before = {n: v.clone() for n, v in other.state_dict().items()}
    with pytest.raises(ConversionError) as caught:
        gbn.load_into(other, net)
    message = str(caught.value)
    assert "2.0.weight: got shape (6, 6) in the net, expected (6, 5)" in message
    assert "3.weight: got shape (3, 6) in the net, expected (3,)" in message
    assert "3.running_mean: the net has no array for it" in message
    assert "2.0.bias" not in message
    assert message.count("\n  - ") == 5
    for n, value in other.state_dict().items():
        assert torch.equal(value, before[n]), n


def test_ties_that_the_net_does_not_have() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    net = gbn.convert(module, torch.randn(2, 4))
    tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    with pytest.raises(ConversionError, match=r"2\.weight: one array with 0\.weight in the Sequential"):
        gbn.load_into(tied, net)
    net.set_value("2.weight", net["0.weight"].value)
    gbn.load_into(tied, net)
    np.testing.assert_allclose(tied[0].weight.detach().numpy(), net["0.weight"].value, rtol=1e-6)


def test_tensors_that_cannot_be_written() -> None:
    module, x = made("mlp")
    net = gbn.convert(module, x)
    with pytest.raises(ConversionError, match=r"0\.weight: a tensor on the meta device"):
        gbn.load_into(mlp().to("meta"), net)
    with torch.inference_mode():
        frozen = mlp()
    with pytest.raises(ConversionError, match="inference mode"):
        gbn.load_into(frozen, net)


def test_a_net_of_nothing_known() -> None:
    with pytest.raises(ConversionError, match=r"0\.weight: the net has no array"):
        gbn.load_into(mlp(), by_hand())
    with pytest.raises(ConversionError, match="nothing to write"):
        gbn.load_into(nn.Tanh(), by_hand())
    with pytest.raises(ConversionError, match="output: got 'x', but a Tanh"):
        gbn.load_into(nn.Tanh(), by_hand(), "x")


class TestSklearn:
    @pytest.mark.parametrize("kind", ["MLPRegressor", "MLPClassifier"])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_predictions_are_the_nets(self, kind: str, dtype: Any) -> None:
        network = pytest.importorskip("sklearn.neural_network")
        rng = np.random.default_rng(0)
        x = rng.standard_normal((30, 4)).astype(dtype)
        classifier = kind == "MLPClassifier"
        y = np.arange(30) % 3 if classifier else x[:, :2]
        with pytest.warns(UserWarning, match="Maximum iterations"):
            model = getattr(network, kind)(hidden_layer_sizes=(5, 6), max_iter=2, random_state=0, solver="adam").fit(
                x, y
            )
        net = gbn.convert(model)
        held = model.coefs_[0]
        target = "logits.label" if classifier else "output"
        moved = stepped(net, {"x": x, target: y}, 0.1)
        gbn.load_into(model, moved)
        assert model.coefs_[0] is held
        assert held.dtype == dtype
        predicted = model.predict_proba(x) if classifier else model.predict(x)
        np.testing.assert_allclose(
            moved.forward({"x": x})[target], predicted, rtol=1e-4 if dtype == np.float32 else 1e-9
        )
        assert np.abs(net.forward({"x": x})[target] - predicted).max() > 1e-4
        model.partial_fit(x, y)

    def test_mismatches(self) -> None:
        network = pytest.importorskip("sklearn.neural_network")
        x = np.random.default_rng(0).standard_normal((30, 4))
        fitted = []
        for sizes in ((5,), (6, 3)):
            with pytest.warns(UserWarning, match="Maximum iterations"):
                fitted.append(network.MLPRegressor(hidden_layer_sizes=sizes, max_iter=2).fit(x, x))
        model, other = fitted
        net, before = gbn.convert(model), [w.copy() for w in other.coefs_]
        with pytest.raises(ConversionError) as caught:
            gbn.load_into(other, net)
        assert "coefs_[0]: got shape (4, 5) in the net, expected (4, 6)" in str(caught.value)
        assert "coefs_[2]: the net has no array for it" in str(caught.value)
        assert all((a == b).all() for a, b in zip(before, other.coefs_, strict=True))
        model.coefs_[1].flags.writeable = False
        with pytest.raises(ConversionError, match=r"coefs_\[1\]: a read-only array"):
            gbn.load_into(model, net)

    def test_numbers_and_rows(self) -> None:
        linear = pytest.importorskip("sklearn.linear_model")
        x = np.random.default_rng(0).standard_normal((30, 2))
        model = linear.LinearRegression().fit(x, x[:, 0])
        net = by_hand()
        net.add_parameter("w", [[3.0, 4.0]])
        net.add_parameter("b", [5.0])
        net.describe("w", source="coef_")
        net.describe("b", source="intercept_")
        gbn.load_into(model, net)
        np.testing.assert_allclose(model.predict(x), x @ [3.0, 4.0] + 5)

    def test_of_a_pipeline_the_predictor(self) -> None:
        pytest.importorskip("sklearn")
        from sklearn.decomposition import PCA
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x = np.random.default_rng(0).standard_normal((30, 4))
        model = make_pipeline(make_pipeline(StandardScaler(), PCA(3)), Ridge()).fit(x, x[:, :2])
        before = model.predict(x)
        moved = stepped(gbn.convert(model), {"x": x, "ridge.output": x[:, :2]}, 0.1)
        gbn.load_into(model, moved)
        assert np.abs(model.predict(x) - before).max() > 1e-3
        np.testing.assert_allclose(moved.forward({"x": x})["ridge.output"], model.predict(x), rtol=1e-10)

    @pytest.mark.parametrize("targets", [1, 2])
    def test_an_intercept_that_was_not_fitted_is_no_parameter(self, targets: int) -> None:
        linear = pytest.importorskip("sklearn.linear_model")
        x = np.random.default_rng(0).standard_normal((30, 3))
        model = linear.LinearRegression(fit_intercept=False).fit(x, x[:, :targets] + 1)
        moved = stepped(gbn.convert(model), {"x": x, "output": x[:, :targets]}, 0.1)
        assert moved.parameters == ("output.weight",)
        gbn.load_into(model, moved)
        np.testing.assert_allclose(moved.forward({"x": x})["output"], model.predict(x), rtol=1e-10)

    @pytest.mark.parametrize("factors", [2, 4])
    def test_factors(self, factors: int) -> None:
        decomposition = pytest.importorskip("sklearn.decomposition")
        x = np.random.default_rng(0).standard_normal((50, 4))
        model = decomposition.FactorAnalysis(factors).fit(x)
        moved = stepped(gbn.convert(model), {"x": x}, 0.1)
        gbn.load_into(model, moved)
        np.testing.assert_allclose(moved.query("z", {"x": x}).log_evidence, model.score_samples(x), rtol=1e-9)

    def test_loadings_that_are_no_array_of_the_model(self) -> None:
        decomposition = pytest.importorskip("sklearn.decomposition")
        model = decomposition.PCA(2).fit(np.random.default_rng(0).standard_normal((50, 4)))
        with pytest.raises(ConversionError, match="nothing to write"):
            gbn.load_into(model, gbn.convert(model))


class TestOnnx:
    """Y = Tanh(X W + B) * C, with a counter that is no weight."""

    @staticmethod
    def model(dtype: Any = np.float64) -> Any:
        onnx = pytest.importorskip("onnx")
        rng = np.random.default_rng(0)
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        arrays = {"W": rng.normal(size=(3, 2)), "B": rng.normal(size=2)}
        initialisers = [onnx.numpy_helper.from_array(v.astype(dtype), n) for n, v in arrays.items()]
        initialisers.append(onnx.numpy_helper.from_array(np.array([0, 2]), "shape"))
        c = onnx.numpy_helper.from_array(np.array([2.0, 3.0], dtype), "value of C")
        nodes = [
            onnx.helper.make_node("Constant", [], ["C"], value=c),
            onnx.helper.make_node("Gemm", ["X", "W", "B"], ["A"]),
            onnx.helper.make_node("Tanh", ["A"], ["H"]),
            onnx.helper.make_node("Mul", ["H", "C"], ["M"]),
            onnx.helper.make_node("Reshape", ["M", "shape"], ["Y"]),
        ]
        values = [onnx.helper.make_tensor_value_info(n, kind, ["N", s]) for n, s in (("X", 3), ("Y", 2))]
        graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], initialisers)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
        onnx.checker.check_model(model)
        return model

    @staticmethod
    def net() -> GaussianBayesNet:
        rng = np.random.default_rng(1)
        net = GaussianBayesNet()
        net.add_input("X", 3)
        net.add_parameter("W", rng.normal(size=(3, 2)))
        net.add_parameter("B", rng.normal(size=2))
        net.add_parameter("C", [5.0, 6.0])
        net.add("A", "Gemm", ["X", "W", "B"])
        net.add("H", "Tanh", ["A"])
        net.add("M", "Mul", ["H", "C"])
        for name in "WBC":
            net.describe(name, source=name)
        return net

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_changed_initialisers_give_the_nets_outputs(self, dtype: Any) -> None:
        model, net = self.model(dtype), self.net()
        assert gbn.load_into(model, net) is model
        reference = pytest.importorskip("onnx.reference")
        x = np.random.default_rng(2).normal(size=(4, 3))
        (y,) = reference.ReferenceEvaluator(model).run(None, {"X": x.astype(dtype)})
        assert y.dtype == dtype
        np.testing.assert_allclose(y, net.forward({"X": x})["M"], rtol=1e-5 if dtype == np.float32 else 1e-12)

    def test_a_file_becomes_a_new_file(self, tmp_path: Path) -> None:
        onnx, model, net = pytest.importorskip("onnx"), self.model(), self.net()
        onnx.save(model, tmp_path / "old.onnx")
        before = (tmp_path / "old.onnx").read_bytes()
        with pytest.raises(ConversionError, match="output: got None"):
            gbn.load_into(tmp_path / "old.onnx", net)
        new = gbn.load_into(str(tmp_path / "old.onnx"), net, tmp_path / "new.onnx")
        assert (tmp_path / "old.onnx").read_bytes() == before
        assert onnx.load(new) == gbn.load_into(model, net)
        with pytest.raises(FileNotFoundError):
            gbn.load_into(tmp_path / "none.onnx", net, new)

    def test_mismatches(self) -> None:
        model, net = self.model(), self.net()
        before = model.SerializeToString()
        net.describe("B", source="bias")
        net.add_parameter("shape", np.ones(2))
        net.describe("shape", source="shape")
        net.add_parameter("more", np.ones(3))
        net.describe("more", source="C")
        with pytest.raises(ConversionError) as caught:
            gbn.load_into(model, net)
        assert "bias: the ModelProto has no such array" in str(caught.value)
        assert "C: got shape (3,) in the net, expected (2,)" in str(caught.value)
        assert "shape: its dtype is INT64" in str(caught.value)
        assert model.SerializeToString() == before


class Variable:
    """What a variable of Keras offers."""

    def __init__(self, path: str, value: Any) -> None:
        self.path, self.value, self.shape = path, np.asarray(value), np.shape(value)

    def assign(self, value: np.ndarray) -> None:
        self.value = np.array(value, self.value.dtype)


# Keras is told by the names of classes and packages.
Layer = type("Layer", (), {"__module__": "keras.src.layers.layer"})


class Sequential(Layer):
    def __init__(self) -> None:
        self.trainable_variables = [
            Variable("dense/kernel", np.ones((3, 2), np.float32)),
            Variable("dense/bias", [0.0]),
        ]
        self.variables = [*self.trainable_variables, Variable("seed_generator/state", [1, 2])]


def test_keras_by_path() -> None:
    model, net = Sequential(), GaussianBayesNet()
    net.add_parameter("k", np.full((3, 2), 2.0))
    net.describe("k", source="dense/kernel")
    with pytest.raises(ConversionError, match="dense/bias: the net has no array"):
        gbn.load_into(model, net)
    assert (model.variables[0].value == 1).all()
    net.add_parameter("b", [7.0])
    net.describe("b", source="dense/bias")
    gbn.load_into(model, net)
    assert (model.variables[0].value == 2).all()
    assert model.variables[0].value.dtype == np.float32
    assert model.variables[1].value == 7
