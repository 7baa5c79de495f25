"""Keras's activation functions, by their names and as layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from converters._keras.call import Call, Refused, rule
from converters._keras.records import Config, of_keras
from gbn.errors import near_matches

__all__ = ["Activation", "activated", "activation"]

# Adds the vertices of a function of one vertex; the last one is the call's result.
Activation = Callable[[Call, str], str]


def _op(name: str, **attributes: Any) -> Activation:
    return lambda call, x: call.emit(name, x, **attributes)


def _relu(slope: float = 0.0, most: float | None = None, threshold: float = 0.0) -> Activation:
    """x from the threshold to ``most``, slope (x - threshold) below it."""

    def apply(call: Call, x: str) -> str:
        if threshold:
            raise Refused("a ReLU that jumps at a threshold has no counterpart")
        if most is None:
            return call.emit("LeakyRelu", x, alpha=slope) if slope else call.emit("Relu", x)
        if not slope:
            return call.emit("Clip", x, min=0.0, max=most)
        leaky = call.emit("LeakyRelu", x, part="leaky", alpha=slope)
        return call.emit("Clip", leaky, max=most)

    return apply


def _log_sigmoid(call: Call, x: str) -> str:
    """-softplus(-x)."""
    minus = call.emit("Neg", x, part="minus")
    return call.emit("Neg", call.emit("Softplus", minus, part="softplus"))


def _tanh_shrink(call: Call, x: str) -> str:
    return call.emit("Sub", x, call.emit("Tanh", x, part="tanh"))


def _glu(call: Call, x: str) -> str:
    """The first half of the features, gated by the sigmoid of the second."""
    size = call.shape(x)[-1]
    if size % 2:
        raise Refused(f"glu halves an axis of {size}")
    halves = [
        call.emit("Slice", x, part=part, starts=[start], ends=[start + size // 2], axes=[-1])
        for part, start in (("value", 0), ("gate", size // 2))
    ]
    return call.emit("Mul", halves[0], call.emit("Sigmoid", halves[1], part="sigmoid"))


def _squareplus(call: Call, x: str) -> str:
    """(x + √(x² + 4)) / 2."""
    square = call.emit("Mul", x, x, part="square")
    root = call.emit("Sqrt", call.emit("Add", square, call.constant("four", 4.0), part="sum"), part="root")
    return call.emit("Mul", call.emit("Add", x, root, part="double"), call.constant("half", 0.5))


FUNCTIONS: dict[str, Activation] = {
    "linear": _op("Identity"),
    "relu": _relu(),
    "leaky_relu": _relu(0.2),
    "relu6": _relu(most=6.0),
    "elu": _op("Elu"),
    "selu": _op("Selu", alpha=1.6732632423543772, gamma=1.0507009873554805),
    "celu": _op("Celu"),
    "sigmoid": _op("Sigmoid"),
    "hard_sigmoid": _op("HardSigmoid", alpha=1 / 6, beta=0.5),
    "log_sigmoid": _log_sigmoid,
    "tanh": _op("Tanh"),
    "hard_tanh": _op("Clip", min=-1.0, max=1.0),
    "tanh_shrink": _tanh_shrink,
    "soft_shrink": _op("Shrink", bias=0.5, lambd=0.5),
    "hard_shrink": _op("Shrink", bias=0.0, lambd=0.5),
    "softplus": _op("Softplus"),
    "softsign": _op("Softsign"),
    "silu": _op("Swish"),
    "swish": _op("Swish"),
    "hard_silu": _op("HardSwish"),
    "hard_swish": _op("HardSwish"),
    "gelu": _op("Gelu"),
    "mish": _op("Mish"),
    "exponential": _op("Exp"),
    "squareplus": _squareplus,
    "glu": _glu,
    "softmax": _op("Softmax", axis=-1),
    "log_softmax": _op("LogSoftmax", axis=-1),
}
# A label below them reads logits.
_PROBABILITIES = frozenset({"softmax", "sigmoid"})


def activation(value: Any) -> tuple[str, Activation] | None:
    """An entry of a configuration as a name and a function; None for the identity.

    Raises:
        Refused: a function that Keras does not name, or code of the user's.
    """
    if isinstance(value, Mapping):
        kind, config = value.get("class_name"), value.get("config")
        if kind == "function":
            value = config
        elif kind in _LAYERS and of_keras(value.get("module")):
            return str(kind), _LAYERS[str(kind)](Config(config))
        else:
            raise Refused(f"activation: got {kind!r}, which has no counterpart")
    if value is None or value == "linear":
        return None
    if not isinstance(value, str) or value not in FUNCTIONS:
        raise Refused(
            f"activation: got {str(value)[:60]!r}, which has no counterpart; {near_matches(value, FUNCTIONS)}"
        )
    return value, FUNCTIONS[value]


def activated(call: Call, emit: Callable[[str], str], value: Any) -> str:
    """The result of ``emit(part)``, and below it the activation of a configuration, where it has one."""
    found = activation(value)
    if found is None:
        return emit("")
    name, function = found
    return function(call, emit("logits" if name in _PROBABILITIES else "affine"))


def _softmax(config: Config) -> Activation:
    axis = config.get("axis", -1)
    if not isinstance(axis, int):
        axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else None
    if not isinstance(axis, int) or axis == 0:
        raise Refused(f"axis: got {config.get('axis')}, expected one axis, not that of the samples")
    return _op("Softmax", axis=axis)


_LAYERS: dict[str, Callable[[Config], Activation]] = {
    "ReLU": lambda c: _relu(
        c.number("negative_slope", 0.0),
        None if c.get("max_value") is None else c.number("max_value"),
        c.number("threshold", 0.0),
    ),
    # Both names were in use.
    "LeakyReLU": lambda c: _relu(c.number("negative_slope", c.get("alpha", 0.3))),
    "ELU": lambda c: _op("Elu", alpha=c.number("alpha", 1.0)),
    "Softmax": _softmax,
}


@rule(*_LAYERS)
def _layer(call: Call) -> str:
    call.option("mask")
    return _LAYERS[call.layer.kind](call.config)(call, call.input)


@rule("Activation")
def _activation(call: Call) -> str:
    found = activation(call.config.get("activation"))
    return found[1](call, call.input) if found else call.emit("Identity", call.input)


@rule("PReLU")
def _prelu(call: Call) -> str:
    """max(x, 0) - alpha max(-x, 0), with an alpha for each entry but along the shared axes."""
    event = list(call.shape(call.input))
    shared = call.config.get("shared_axes")
    for axis in [] if not shared else call.config.axes("shared_axes", len(event) + 1):
        event[axis - 1] = 1
    (alpha,) = call.variables(alpha=tuple(event))
    return call.emit("PRelu", call.input, alpha)
