"""Keras models, in memory and as files, against Keras; what the reader refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gbn
from gbn.conversion import convert
from gbn.errors import ConversionError

pytest.importorskip("h5py")
pytest.importorskip("torch")

import converters.keras
import converters.torch
from converters import from_keras
from tests.keras_models import batch, converted, floats, given, gradients_agree, keras, randomize, results, runs_alike

L = keras.layers


def mlp(last: str | None = None) -> Any:
    layers = [L.Dense(16, activation="relu"), L.Dropout(0.2), L.Dense(8, activation="tanh"), L.Dense(3, last)]
    return keras.Sequential([L.Input((5,)), *layers])


def lenet() -> Any:
    return keras.Sequential(
        [
            L.Input((12, 12, 1)),
            L.Conv2D(4, 5, padding="same", activation="tanh"),
            L.AveragePooling2D(2),
            L.Conv2D(6, 3, activation="tanh"),
            L.MaxPooling2D(),
            L.Flatten(),
            L.Dense(10, activation="relu"),
            L.Dense(4),
        ]
    )


def resnet() -> Any:
    x = L.Input((8, 8, 3))
    h = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same", use_bias=False)(x)))
    for filters, stride in ((4, 1), (6, 2)):
        short = h if stride == 1 else L.Conv2D(filters, 1, strides=stride)(h)
        h = L.Activation("relu")(L.BatchNormalization()(L.Conv2D(filters, 3, strides=stride, padding="same")(h)))
        h = L.Add()([L.BatchNormalization()(L.Conv2D(filters, 3, padding="same")(h)), short])
        h = L.ReLU()(h)
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(h)))


def unet() -> Any:
    x = L.Input((8, 8, 2))
    fine = L.Conv2D(4, 3, padding="same", activation="relu")(x)
    coarse = L.Conv2D(6, 3, padding="same", activation="relu")(L.MaxPooling2D()(fine))
    up = L.Conv2DTranspose(4, 2, strides=2, padding="same")(coarse)
    joined = L.Concatenate()([fine, up, L.UpSampling2D()(coarse)])
    return keras.Model(x, L.Conv2D(3, 1)(L.GroupNormalization(2)(L.Conv2D(4, 3, padding="same")(joined))))


def mobilenet() -> Any:
    x = L.Input((8, 6, 3))
    h = L.Conv2D(4, 3, strides=2, padding="same", activation="relu6")(x)
    h = L.Activation("hard_silu")(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(h)))
    h = L.SeparableConv2D(6, 3, padding="same", activation="relu6")(h)
    gate = L.Dense(6, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(h))
    return keras.Model(x, L.Dense(3)(L.Flatten()(L.Multiply()([h, gate]))))


def char_lstm() -> Any:
    layers = [L.Embedding(5, 4), L.LSTM(6, return_sequences=True), L.LSTM(5), L.Dense(5)]
    return keras.Sequential([L.Input((7,), dtype="int32"), *layers])


def bidirectional() -> Any:
    x = L.Input((6, 3))
    h = L.Bidirectional(L.GRU(4, return_sequences=True))(x)
    return keras.Model(x, L.Dense(2)(L.GlobalMaxPooling1D()(L.TimeDistributed(L.Dense(5, activation="silu"))(h))))


def transformer() -> Any:
    tokens, places = L.Input((5,), dtype="int32"), L.Input((5,), dtype="int32")
    x = L.Embedding(5, 8)(tokens) + L.Embedding(5, 8)(places)
    h = L.LayerNormalization()(x)
    x = x + L.MultiHeadAttention(2, 4)(h, h, use_causal_mask=True)
    h = L.Dense(16, activation="gelu")(L.LayerNormalization()(x))
    x = L.Add()([x, L.Dropout(0.1)(L.Dense(8)(h))])
    return keras.Model([tokens, places], L.Dense(5)(L.RMSNormalization()(x)))


def two_tower() -> Any:
    side = keras.Sequential([L.Input((4,)), L.Dense(6, activation="relu"), L.UnitNormalization()], name="tower")
    shared = L.Dense(3, name="shared")
    a, b = L.Input((4,), name="a"), L.Input((4,), name="b")
    u, v = side(a), side(b)
    outputs = {"dot": L.Dot(1)([u, v]), "sum": L.Add()([shared(u), shared(v)])}
    return keras.Model({"b": b, "a": a}, outputs)


def autoencoder() -> Any:
    x = L.Input((6,))
    encoder = keras.Model(x, L.Dense(2, name="code")(L.Dense(4, activation="elu")(x)), name="encoder")
    z = L.Input((2,))
    h = L.Dense(4, activation="softplus")(z)
    decoder = keras.Model(z, [L.Dense(6, name="mean")(h), L.Dense(6, name="scale")(h)], name="decoder")
    y = L.Input((6,))
    mean, scale = decoder(encoder(y))
    again, _ = decoder(encoder(mean))
    return keras.Model(y, L.Concatenate()([scale, again]))


ZOO: list[Callable[[], Any]] = [
    mlp, lenet, resnet, unet, mobilenet, char_lstm, bidirectional, transformer, two_tower, autoencoder
]  # fmt: skip


@pytest.mark.parametrize("make", ZOO)
def test_gradients_of_the_zoo(make: Callable[[], Any]) -> None:
    model = make()
    randomize(model)
    net = converted(model)
    runs_alike(model, net, 1e-10)
    gradients_agree(model, net, 1e-9)


@pytest.mark.parametrize("make", ZOO)
def test_the_zoo_in_float32_and_as_files(make: Callable[[], Any], tmp_path: Path) -> None:
    with floats("float32"):
        model = make()
        randomize(model)
        net = converted(model)
        assert net.dtype == np.float32
        runs_alike(model, net, 1e-5)
        model.save(tmp_path / "model.keras")
    read = convert(tmp_path / "model.keras")
    assert list(read.vertices) == list(net.vertices)
    assert read.parameters == net.parameters
    for name in net.parameters:
        np.testing.assert_array_equal(read[name].value, net[name].value)
    arrays = given(net, batch(model, 2))
    for name in net.outputs:
        np.testing.assert_array_equal(read.forward(arrays)[name], net.forward(arrays)[name])


def test_every_layer_has_a_vertex_of_its_name_and_value() -> None:
    model = resnet()
    randomize(model)
    net = converted(model)
    x = batch(model, 2)[0]
    values = net.forward({net.inputs[0]: x})
    parts = keras.Model(model.inputs, [layer.output for layer in model.layers])
    for layer, expected in zip(model.layers, parts([x]), strict=True):
        np.testing.assert_allclose(values[layer.name], expected.detach().numpy(), rtol=1e-9, atol=1e-11)


def test_names_sources_and_frozen_layers() -> None:
    model = two_tower()
    model.get_layer("shared").trainable = False
    net = converted(model)
    assert net.inputs == ("a", "b")
    dense = model.get_layer("tower").layers[0].name
    assert {f"tower.{dense}", f"tower.{dense}#2", "shared", "shared#2"} <= set(net)
    assert net.parameters == (f"tower.{dense}.kernel", f"tower.{dense}.bias", "shared.kernel", "shared.bias")
    assert net.source_of("shared.kernel") == "shared/kernel"
    assert net["shared.kernel"].shape == (6, 3)
    assert not net["shared.kernel"].trainable
    assert net[f"tower.{dense}.kernel"].trainable


def test_weights_can_be_written_back() -> None:
    model = lenet()
    randomize(model)
    net = converted(model)
    variables = {variable.path: variable for variable in model.variables}
    rng = np.random.default_rng(5)
    for name in net.parameters:
        value = rng.standard_normal(net[name].shape)
        net.set_value(name, value)
        variables[str(net.source_of(name))].assign(value)
    runs_alike(model, net, 1e-10)


def classifier(*event: int, last: str, units: int = 3) -> Any:
    return keras.Sequential(
        [L.Input(event), L.Dense(4, activation="tanh"), L.Dense(units, activation=last, name="top")]
    )


@pytest.mark.parametrize(("event", "last", "kind"), [((5,), "softmax", "categorical"), ((5,), "sigmoid", "bernoulli")])
def test_a_classifier_is_labelled(event: tuple[int, ...], last: str, kind: str) -> None:
    model = classifier(*event, last=last)
    randomize(model)
    net = converted(model)
    assert net.outputs == ("top",)
    assert net.labels == ("top.label",)
    assert (net["top.label"].op, net["top.label"].parents) == (kind, ("top.logits",))
    assert len(net.latents) == 1
    x = batch(model, 3)
    probabilities = results(model, x)[0].detach().numpy()
    np.testing.assert_allclose(net.forward(given(net, x))["top.label"], probabilities, atol=1e-12)
    plain = converted(model, likelihood="gaussian")
    assert plain.labels == ()
    assert plain["top"].random
    runs_alike(model, plain, 1e-10)


def test_classes_of_sequences_and_images_come_first_for_their_label() -> None:
    model = classifier(6, 5, last="softmax")
    randomize(model)
    net = converted(model)
    assert net[net.labels[0]].parents == ("top.classes_first",)
    x = batch(model, 2)
    probabilities = results(model, x)[0].detach().numpy()
    label = net.labels[0]
    np.testing.assert_allclose(net.forward(given(net, x))[label], probabilities.transpose(0, 2, 1), atol=1e-12)
    # The logits themselves stay deterministic.
    assert len(net.latents) == 1
    labels = np.random.default_rng(0).integers(0, 3, (2, 6))
    found = net.log_prob({**given(net, x), net.latents[0]: net.forward(given(net, x))[net.latents[0]], label: labels})
    rows = np.log(np.take_along_axis(probabilities, labels[..., None], 2)).sum((1, 2))
    noise = -0.5 * np.log(2 * np.pi) * net[net.latents[0]].size
    np.testing.assert_allclose(found, rows + noise, rtol=1e-10)


def test_a_softmax_that_others_read() -> None:
    x = L.Input((4,))
    p = L.Softmax(name="p")(L.Dense(3, name="d")(x))
    net = converted(keras.Model(x, [p, L.Dense(2)(p)]))
    assert net.outputs[0] == "p"
    assert net["p.label"].parents == ("d",)
    assert net.labels == ("p.label",)


def test_sizes_that_the_model_leaves_open_are_those_of_the_example() -> None:
    model = keras.Sequential([L.Input((None, 3)), L.GRU(4)])
    with pytest.raises(ConversionError, match="give an example batch"):
        converted(model)
    x = np.random.default_rng(0).standard_normal((2, 5, 3))
    net = convert(model, x)
    np.testing.assert_allclose(net.forward({net.inputs[0]: x})[net.outputs[0]], model(x).detach().numpy(), atol=1e-11)
    with pytest.raises(ConversionError, match=r"example: got the event \(5, 2\)"):
        convert(model, x[..., :2])
    with pytest.raises(ConversionError, match="example"):
        converted(keras.Sequential([L.Dense(2)]))


def test_inputs_and_outputs_of_every_kind() -> None:
    number, vector = L.Input(()), L.Input((3,))
    model = keras.Model([number, vector], [vector, vector * 2.0, L.Reshape((1,))(number)])
    net = converted(model)
    assert [net[name].shape for name in net.inputs] == [(1,), (3,)]
    runs_alike(model, net, 1e-12)


class Own(keras.Model):
    """A model whose code joins its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, x: Any) -> Any:
        return self.dense(x)


class Derived(keras.Sequential):
    """A Sequential by another name."""


def test_models_of_ones_own() -> None:
    with pytest.raises(ConversionError, match="Own is a class of its own"):
        convert(Own())
    with pytest.raises(ConversionError, match="Dense is a class of its own"):
        convert(L.Dense(3))
    model = Derived([L.Input((3,)), L.Dense(2)])
    runs_alike(model, converted(model), 1e-12)
    inner = Own()
    x = L.Input((3,))
    with pytest.raises(ConversionError, match="layer of your own"):
        convert(keras.Model(x, inner(x)))


def test_all_layers_at_fault_are_listed() -> None:
    x = L.Input((4, 3))
    h = L.Lambda(lambda y: y, output_shape=(4, 3), name="l")(x)
    h = L.Dense(2, name="fine")(L.CategoryEncoding(5, name="e")(h))
    h = L.Conv1D(2, 2, name="f")(L.Discretization([0.0], name="d")(h))
    with pytest.raises(ConversionError, match="3 layers") as caught:
        convert(keras.Model(x, L.Dense(2)(h)))
    assert [(fault.path, fault.operation) for fault in caught.value.layers] == [
        ("l", "Lambda"), ("e", "CategoryEncoding"), ("d", "Discretization"),
    ]  # fmt: skip


def test_which_objects_are_taken() -> None:
    assert converters.keras.accepts(mlp())
    assert converters.keras.accepts("model.keras")
    assert not converters.keras.accepts("model.pt2")
    # Under this backend it is a torch module as well.
    assert not converters.torch.accepts(mlp())
    assert not converters.keras.accepts(np.zeros(2))
    with pytest.raises(ConversionError, match="options"):
        convert(mlp(), depth=2)
    net = from_keras(mlp(), noise=0.1)
    assert [float(net.noise(name).value) for name in net.latents] == [0.1, 0.1, 1.0]


def test_every_affine_layer_is_a_latent_once() -> None:
    x = L.Input((4, 3))
    h = L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d", activation="tanh", name="e")(x)
    h = L.Conv1D(2, 2, activation="relu", name="c")(h)
    h = L.DepthwiseConv1D(2, name="d")(h)
    net = converted(keras.Model(x, L.Conv1DTranspose(3, 2, name="t")(L.LSTM(2, return_sequences=True, name="r")(h))))
    gates = [f"r.t{k}.gates" for k in range(2)]
    assert list(net.latents) == ["e.affine", "c.conv", "d.conv", *gates, "t"]


@pytest.mark.parametrize(
    ("last", "loss"),
    [(None, "mse"), (None, "cross_entropy"), ("softmax", "cross_entropy"), ("sigmoid", "bce"), ("sigmoid", "mse")],
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_compare(last: str | None, loss: str, reduction: str) -> None:
    """The report's loss is Keras's own."""
    model = mlp(last)
    randomize(model)
    model.layers[0].trainable = False
    (x,) = batch(model, 6)
    y = np.arange(6) % 3 if loss == "cross_entropy" else np.random.default_rng(2).integers(0, 2, (6, 3)).astype(float)
    report = gbn.compare(model, x, y, loss=loss, reduction=reduction, repeats=0)
    own = {
        "mse": keras.losses.MeanSquaredError,
        "cross_entropy": lambda **how: keras.losses.SparseCategoricalCrossentropy(from_logits=last is None, **how),
        "bce": keras.losses.BinaryCrossentropy,
    }[loss](reduction="sum")(y, model(x).detach())
    # Keras takes the mean over the last axis of numbers, and the sum over samples.
    scale = 1 / 6 if reduction == "mean" else 1 if loss == "cross_entropy" else 3
    assert report.loss_oracle == pytest.approx(float(own) * scale, rel=1e-6)
    assert report.loss_local == pytest.approx(report.loss_oracle, rel=1e-12)
    assert report.agrees
    assert {row.name for row in report.parameters} == {variable.path for variable in model.trainable_variables}


def test_compare_of_a_softmax_at_each_step() -> None:
    model = keras.Sequential([L.Input((4, 3)), L.GRU(5, return_sequences=True), L.Dense(2, "softmax")])
    randomize(model)
    (x,) = batch(model, 3)
    assert gbn.compare(model, x, np.arange(12).reshape(3, 4) % 2, loss="cross_entropy", repeats=0).agrees


@pytest.mark.parametrize("build", [mlp, lenet])
def test_a_file_becomes_a_new_file(build: Callable[[], Any], tmp_path: Path) -> None:
    model = build()
    randomize(model)
    model.save(tmp_path / "old.keras")
    before = (tmp_path / "old.keras").read_bytes()
    net = convert(tmp_path / "old.keras", likelihood=None)
    (x,) = batch(model, 5)
    target = model(x).detach().numpy() + 1
    for name, gradient in gbn.gradient(net, {net.inputs[0]: x, net.outputs[0]: target}).items():
        net.set_value(name, net[name].value - 0.01 * gradient)
    new = gbn.load_into(tmp_path / "old.keras", net, tmp_path / "new.keras")
    runs_alike(keras.saving.load_model(new), net, 1e-10)
    assert (tmp_path / "old.keras").read_bytes() == before
    with pytest.raises(ConversionError, match=r"/kernel: the file old\.keras has no such array"):
        gbn.load_into(tmp_path / "old.keras", convert(model), tmp_path / "none.keras")
    with pytest.raises(ConversionError, match=r"load_into\(path, net, output\), and load the new one"):
        gbn.load_into(model, net)
    (tmp_path / "old.keras").write_bytes(before[:200])
    with pytest.raises(ConversionError, match=r"not a whole \.keras file"):
        gbn.load_into(tmp_path / "old.keras", net, tmp_path / "none.keras")
    assert not (tmp_path / "none.keras").exists()


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.GRU(2, go_backwards=True),
        lambda: L.Bidirectional(L.SimpleRNN(2)),
        lambda: L.TimeDistributed(L.LayerNormalization()),
    ],
)
def test_steps_of_a_long_sequence_are_cut_from_blocks(layer: Callable[[], Any]) -> None:
    """Every message to a part of the sequence is as long as the sequence."""
    model = keras.Sequential([L.Input((49, 2)), L.Dense(2, name="moved"), layer()])
    randomize(model)
    net = converted(model)
    directions = 2 if isinstance(model.layers[-1], L.Bidirectional) else 1
    assert sum("moved" in vertex.parents for vertex in net.vertices.values()) == 7 * directions
    runs_alike(model, net, 1e-10)
