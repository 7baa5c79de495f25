"""Each Keras layer by itself, against Keras: its result, and the gradients of its variables by torch autograd."""

from typing import Any

import numpy as np
import pytest

from gbn.errors import ConversionError

pytest.importorskip("h5py")
pytest.importorskip("torch")
from converters._keras.activations import FUNCTIONS
from tests.keras_models import converted, gradients_agree, keras, randomize, runs_alike

L = keras.layers
CL, CF = {"data_format": "channels_last"}, {"data_format": "channels_first"}
ACTIVATIONS = sorted(FUNCTIONS)

# name -> (layer, event of its input, or of its inputs)
CASES: dict[str, tuple[Any, Any]] = {
    "dense": (lambda: L.Dense(4, activation="tanh"), (3,)),
    "dense without bias": (lambda: L.Dense(4, use_bias=False), (3,)),
    "dense over a matrix": (lambda: L.Dense(4, activation=L.LeakyReLU(negative_slope=0.1)), (2, 5, 3)),
    **{
        f"conv1d {padding} {format}": (
            lambda p=padding, f=format: L.Conv1D(4, 3, padding=p, dilation_rate=2, data_format=f),
            (9, 2) if format == "channels_last" else (2, 9),
        )
        for padding in ("valid", "same", "causal")
        for format in ("channels_last", "channels_first")
        if (padding, format) != ("causal", "channels_first")
    },
    "conv2d same, stride": (lambda: L.Conv2D(4, (3, 2), strides=2, padding="same", activation="relu"), (6, 5, 2)),
    "conv2d channels first": (lambda: L.Conv2D(4, 3, padding="same", activation="gelu", **CF), (2, 5, 6)),
    "conv2d groups": (lambda: L.Conv2D(6, 2, groups=2, use_bias=False), (4, 5, 4)),
    "conv3d": (lambda: L.Conv3D(3, 2, strides=(1, 2, 1), padding="same"), (3, 4, 3, 2)),
    "depthwise 1d": (lambda: L.DepthwiseConv1D(3, depth_multiplier=2, padding="same"), (6, 3)),
    "depthwise 2d": (lambda: L.DepthwiseConv2D(3, depth_multiplier=2, strides=2, activation="relu6"), (7, 6, 3)),
    "depthwise 2d channels first": (lambda: L.DepthwiseConv2D(3, padding="same", **CF), (3, 5, 4)),
    "separable 1d": (lambda: L.SeparableConv1D(5, 3, padding="same"), (6, 3)),
    "separable 2d": (lambda: L.SeparableConv2D(5, 3, depth_multiplier=2, activation="tanh"), (6, 5, 3)),
    **{
        f"transposed 1d {padding} {kernel} {stride}": (
            lambda p=padding, k=kernel, s=stride: L.Conv1DTranspose(3, k, strides=s, padding=p),
            (4, 2),
        )
        for padding in ("valid", "same")
        for kernel, stride in ((3, 1), (4, 2), (1, 2), (2, 2))
    },
    "transposed 2d": (lambda: L.Conv2DTranspose(3, (3, 2), padding="valid", activation="relu"), (3, 4, 2)),
    "transposed 2d same": (lambda: L.Conv2DTranspose(3, 2, strides=2, padding="same"), (3, 4, 2)),
    "transposed 2d channels first": (lambda: L.Conv2DTranspose(3, 2, strides=2, **CF), (2, 3, 4)),
    "transposed 3d": (lambda: L.Conv3DTranspose(2, 2, strides=2, use_bias=False), (2, 2, 3, 2)),
    "max pooling 1d": (lambda: L.MaxPooling1D(2), (7, 3)),
    "max pooling 2d same": (lambda: L.MaxPooling2D(3, strides=2, padding="same"), (6, 5, 2)),
    "max pooling 3d": (lambda: L.MaxPooling3D(2, **CF), (2, 4, 4, 5)),
    "average pooling 1d": (lambda: L.AveragePooling1D(3, strides=1), (7, 3)),
    "average pooling 2d same": (lambda: L.AveragePooling2D(2, strides=2, padding="same"), (5, 6, 2)),
    "average pooling 3d": (lambda: L.AveragePooling3D(2), (4, 4, 5, 2)),
    "global average 1d": (lambda: L.GlobalAveragePooling1D(), (5, 3)),
    "global average 2d": (lambda: L.GlobalAveragePooling2D(keepdims=True, **CF), (3, 4, 5)),
    "global average 3d": (lambda: L.GlobalAveragePooling3D(), (2, 3, 4, 2)),
    "global max 1d": (lambda: L.GlobalMaxPooling1D(**CF), (3, 5)),
    "global max 2d": (lambda: L.GlobalMaxPooling2D(), (4, 5, 3)),
    "global max 2d kept": (lambda: L.GlobalMaxPooling2D(keepdims=True), (4, 5, 3)),
    "global max 3d": (lambda: L.GlobalMaxPooling3D(), (2, 3, 4, 2)),
    "batch norm": (lambda: L.BatchNormalization(), (4,)),
    "batch norm of images": (lambda: L.BatchNormalization(scale=False), (4, 3, 2)),
    "batch norm channels first": (lambda: L.BatchNormalization(axis=1, center=False), (4, 3, 2)),
    "layer norm": (lambda: L.LayerNormalization(), (4, 3)),
    "layer norm of two axes": (lambda: L.LayerNormalization(axis=[1, 2], scale=False), (4, 3)),
    "group norm": (lambda: L.GroupNormalization(2), (3, 5, 4)),
    "group norm of vectors": (lambda: L.GroupNormalization(3, scale=False), (6,)),
    "instance norm": (lambda: L.GroupNormalization(-1, axis=1), (4, 3, 2)),
    "rms norm": (lambda: L.RMSNormalization(), (4, 3)),
    "unit norm": (lambda: L.UnitNormalization(axis=1), (4, 3)),
    "relu layer": (lambda: L.ReLU(max_value=0.5, negative_slope=0.1), (6,)),
    "leaky relu layer": (lambda: L.LeakyReLU(negative_slope=0.2), (6,)),
    "elu layer": (lambda: L.ELU(alpha=0.5), (6,)),
    "prelu": (lambda: L.PReLU(shared_axes=[1]), (4, 3)),
    "softmax layer": (lambda: L.Softmax(axis=1), (4, 3)),
    "flatten": (lambda: L.Flatten(), (3, 2, 2)),
    "flatten channels first": (lambda: L.Flatten(**CF), (3, 2, 4)),
    "reshape": (lambda: L.Reshape((3, -1)), (2, 6)),
    "permute": (lambda: L.Permute((3, 1, 2)), (2, 3, 4)),
    "repeat": (lambda: L.RepeatVector(3), (4,)),
    "crop 1d": (lambda: L.Cropping1D((1, 2)), (6, 2)),
    "crop 2d": (lambda: L.Cropping2D(((1, 0), (2, 1))), (4, 6, 2)),
    "crop 3d": (lambda: L.Cropping3D(1, **CF), (2, 4, 3, 5)),
    "pad 1d": (lambda: L.ZeroPadding1D(2), (3, 2)),
    "pad 2d": (lambda: L.ZeroPadding2D(((1, 0), (2, 1))), (3, 2, 2)),
    "pad 3d": (lambda: L.ZeroPadding3D((1, 0, 2)), (2, 2, 2, 2)),
    "upsample 1d": (lambda: L.UpSampling1D(3), (3, 2)),
    "upsample 2d": (lambda: L.UpSampling2D((2, 3)), (3, 2, 2)),
    "upsample 2d channels first": (lambda: L.UpSampling2D(2, **CF), (2, 3, 2)),
    "upsample bilinear": (lambda: L.UpSampling2D((2, 3), interpolation="bilinear"), (3, 4, 2)),
    "upsample 3d": (lambda: L.UpSampling3D(2), (2, 2, 3, 2)),
    "dropout": (lambda: L.Dropout(0.5), (4,)),
    "gaussian noise": (lambda: L.GaussianNoise(0.5), (4,)),
    "spatial dropout": (lambda: L.SpatialDropout2D(0.5), (2, 2, 3)),
    "rescaling": (lambda: L.Rescaling([0.5, 2.0], offset=-1.0), (3, 2)),
    "normalization": (lambda: L.Normalization(mean=[1.0, 2.0], variance=[4.0, 0.5]), (3, 2)),
    "normalization inverted": (lambda: L.Normalization(axis=None, mean=1.0, variance=4.0, invert=True), (3, 2)),
    "simple rnn": (lambda: L.SimpleRNN(4, return_sequences=True), (5, 3)),
    "simple rnn backwards": (lambda: L.SimpleRNN(4, go_backwards=True, use_bias=False, activation="relu"), (5, 3)),
    "lstm": (lambda: L.LSTM(4), (5, 3)),
    "lstm sequences backwards": (lambda: L.LSTM(4, return_sequences=True, go_backwards=True), (5, 3)),
    "lstm with states": (lambda: L.LSTM(4, return_state=True, recurrent_activation="hard_sigmoid"), (5, 3)),
    "gru": (lambda: L.GRU(4), (5, 3)),
    "gru without bias": (lambda: L.GRU(4, use_bias=False, return_sequences=True), (5, 3)),
    "gru reset before": (lambda: L.GRU(4, reset_after=False, return_sequences=True), (5, 3)),
    "gru reset before, no bias": (lambda: L.GRU(4, reset_after=False, use_bias=False), (5, 3)),
    "rnn of a cell": (lambda: L.RNN(L.GRUCell(4), return_sequences=True), (4, 3)),
    **{
        f"bidirectional {merge}": (
            lambda m=merge: L.Bidirectional(L.GRU(3, return_sequences=m != "sum"), merge_mode=m),
            (4, 2),
        )
        for merge in ("concat", "sum", "mul", "ave")
    },
    "bidirectional of two layers": (
        lambda: L.Bidirectional(
            L.LSTM(3, return_sequences=True), backward_layer=L.GRU(2, return_sequences=True, go_backwards=True)
        ),
        (4, 2),
    ),
    "time distributed dense": (lambda: L.TimeDistributed(L.Dense(4, activation="relu")), (3, 2)),
    "time distributed conv": (lambda: L.TimeDistributed(L.Conv1D(4, 2)), (3, 5, 2)),
    "attention": (lambda: L.Attention(use_scale=True), [(3, 4), (5, 4)]),
    "multi-head attention": (lambda: L.MultiHeadAttention(2, 3), [(4, 5), (6, 5)]),
    "multi-head attention, all its sizes": (
        lambda: L.MultiHeadAttention(2, 3, value_dim=4, output_shape=6, use_bias=False),
        [(4, 5), (6, 3), (6, 2)],
    ),
    "einsum dense": (lambda: L.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d", activation="relu"), (3, 2)),
    "einsum dense by heads": (lambda: L.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de"), (3, 2)),
    "einsum dense over steps": (lambda: L.EinsumDense("ab,bc->ac", 4), (3,)),
    "einsum dense with an ellipsis": (lambda: L.EinsumDense("...x,xy->...y", 4, bias_axes="y"), (2, 3, 2)),
    "einsum dense, a sum": (lambda: L.EinsumDense("abc,bcd->ad", 4, bias_axes="d"), (3, 2)),
    "add": (lambda: L.Add(), [(4, 3), (4, 3), (1, 3)]),
    "subtract": (lambda: L.Subtract(), [(4,), (4,)]),
    "multiply": (lambda: L.Multiply(), [(4,), (4,), (4,)]),
    "average": (lambda: L.Average(), [(4,), (4,), (4,)]),
    "maximum": (lambda: L.Maximum(), [(4,), (4,)]),
    "minimum": (lambda: L.Minimum(), [(4,), (4,)]),
    "concatenate": (lambda: L.Concatenate(axis=1), [(4, 2), (3, 2)]),
    "dot of vectors": (lambda: L.Dot(axes=1), [(4,), (4,)]),
    "dot of vectors, normalised": (lambda: L.Dot(axes=1, normalize=True), [(4,), (4,)]),
    "dot of matrices": (lambda: L.Dot(axes=(2, 1)), [(4, 3), (3, 2)]),
}


def model_of(layer: Any, events: Any) -> Any:
    events = events if isinstance(events, list) else [events]
    inputs = [L.Input(event) for event in events]
    attends = type(layer).__name__ == "MultiHeadAttention"
    output = layer(*inputs) if attends else layer(inputs if len(inputs) > 1 else inputs[0])
    model = keras.Model(inputs, output)
    randomize(model)
    return model


@pytest.mark.parametrize("case", CASES)
def test_layer(case: str) -> None:
    make, events = CASES[case]
    model = model_of(make(), events)
    net = converted(model, likelihood="gaussian")
    runs_alike(model, net, 1e-11)
    # An output that another is computed from is observed itself, and ends the paths of the gradient.
    if len(net.outputs) == 1:
        gradients_agree(model, net, 1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    model = model_of(L.Dense(6, activation=name), (4,))
    net = converted(model, likelihood="gaussian")
    runs_alike(model, net, 1e-11)
    # Torch differentiates a hard sigmoid with 1/6 in single precision.
    gradients_agree(model, net, 1e-7 if name == "hard_sigmoid" else 1e-9)
    layer = model_of(L.Activation(name), (4, 6))
    runs_alike(layer, converted(layer, likelihood="gaussian"), 1e-11)


def test_causal_attention_and_its_scores() -> None:
    x = L.Input((5, 4))
    attended, scores = L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True, return_attention_scores=True)
    model = keras.Model(x, [attended, scores])
    randomize(model)
    net = converted(model, likelihood="gaussian")
    runs_alike(model, net, 1e-11)
    assert net.forward({net.inputs[0]: np.ones((1, 5, 4))})[net.outputs[1]][0, 0, 1, 2] == 0


def test_states_from_one_layer_to_another() -> None:
    x, y = L.Input((4, 3)), L.Input((5, 2))
    _, *states = L.LSTM(3, return_state=True)(x)
    decoded = L.LSTM(3, return_sequences=True)(y, initial_state=states)
    both = L.Bidirectional(L.GRU(3, return_state=True))(decoded)
    model = keras.Model([x, y], both)
    randomize(model)
    runs_alike(model, converted(model, likelihood="gaussian"), 1e-11)
    model = keras.Model([x, y], both[0])
    gradients_agree(model, converted(model, likelihood="gaussian"), 1e-9)


@pytest.mark.parametrize("axis", [1, [2, 1]])
def test_normalisation_of_inner_axes(axis: Any) -> None:
    """By its formula: under PyTorch Keras itself takes only the last axes."""
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 2))
    axes = (1,) if axis == 1 else (1, 2)
    for layer in (L.LayerNormalization(axis=axis), L.RMSNormalization(axis=axis)):
        layer.build((None, 4, 5, 2))
        model = keras.Sequential([L.Input((4, 5, 2)), layer])
        randomize(model)
        gain, *shift = (
            v.numpy().reshape([n if k in axes else 1 for k, n in enumerate(x.shape)]) for v in layer.weights
        )
        centred = x - x.mean(axes, keepdims=True) if shift else x
        expected = centred / np.sqrt((centred**2).mean(axes, keepdims=True) + layer.epsilon) * gain + sum(shift)
        net = converted(model)
        np.testing.assert_allclose(net.forward({net.inputs[0]: x})[net.outputs[0]], expected, rtol=1e-11, atol=1e-11)


def test_operations_in_a_functional_graph() -> None:
    ops = keras.ops
    x, y = L.Input((4, 3)), L.Input((4, 3))
    z = ops.relu(x + y * 2.0 - 1.0) / (ops.exp(-y) + 1.5)
    z = ops.concatenate([z, ops.square(ops.tanh(x))], axis=-1)
    z = ops.matmul(ops.transpose(z, (0, 2, 1)), x)
    z = ops.expand_dims(ops.mean(z, axis=1), 1) + ops.softmax(ops.gelu(ops.reshape(y, (-1, 4, 3))), axis=-1)
    model = keras.Model([x, y], [z, ops.sum(z, axis=[1, 2])])
    runs_alike(model, converted(model), 1e-11)


def test_an_adapted_normalisation() -> None:
    layer = L.Normalization()
    layer.adapt(np.random.default_rng(0).normal(2.0, 3.0, (50, 3)))
    model = keras.Sequential([L.Input((3,)), layer, L.Dense(2)])
    runs_alike(model, converted(model), 1e-11)


@pytest.mark.parametrize(
    ("layer", "event", "reason"),
    [
        (lambda: L.Embedding(4, 3, mask_zero=True), (5,), "mask_zero"),
        (lambda: L.Masking(), (4, 3), "Masking"),
        (lambda: L.LSTM(2, stateful=True), (4, 3), "stateful"),
        (lambda: L.UpSampling2D(2, interpolation="bicubic"), (4, 3, 2), "interpolation: got 'bicubic'"),
        (lambda: L.ReLU(threshold=1.0), (4,), "threshold"),
        (lambda: L.Discretization([0.0]), (4,), "no counterpart"),
        (lambda: L.Lambda(lambda x: x), (4,), "Python code"),
        (lambda: L.MultiHeadAttention(1, 2, attention_axes=(1, 2)), [(2, 3, 4)] * 2, "attended over the steps"),
    ],
)
def test_what_has_no_counterpart_is_named(layer: Any, event: Any, reason: str) -> None:
    events = event if isinstance(event, list) else [event]
    inputs = [L.Input(batch_shape=(2 if reason == "stateful" else None, *e)) for e in events]
    made = layer()
    model = keras.Model(inputs, made(*inputs))
    with pytest.raises(ConversionError, match=reason) as caught:
        converted(model)
    assert [fault.path for fault in caught.value.layers] == [made.name]
