"""What is known of a Keras layer: its configuration, read with types, and its variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from converters._plates import Refused
from gbn.arrays import detached

__all__ = [
    "BadEntry",
    "Config",
    "Layer",
    "LiveWeights",
    "Variable",
    "Weights",
    "is_operation",
    "kind_of",
    "of_keras",
    "of_record",
]

Shape = tuple[int, ...]
_MISSING = object()


def of_keras(module: Any) -> bool:
    """Whether a class of that module is Keras's own; only its name says what a layer computes."""
    return isinstance(module, str) and module.partition(".")[0] == "keras"


class BadEntry(Refused):
    """An entry of a configuration that cannot be used; ``key`` says which."""

    def __init__(self, key: str, got: Any, expected: str) -> None:
        super().__init__(f"{key}: got {_brief(got)}, expected {expected}")
        self.key = key


class Config:
    """A layer's configuration: entries by name, each checked for its type; a fault raises Refused."""

    def __init__(self, values: Any) -> None:
        if not isinstance(values, Mapping):
            raise Refused(f"config: got {_brief(values)}, expected a mapping")
        self.values = values

    def get(self, key: str, default: Any = None) -> Any:
        """The entry as it stands; the default where it is absent or null."""
        value = self.values.get(key)
        return default if value is None else value

    def _typed(self, key: str, default: Any, fits: Callable[[Any], bool], expected: str) -> Any:
        value = self.get(key, default)
        if value is _MISSING or not (value is default or fits(value)):
            raise BadEntry(key, self.values.get(key), expected)
        return value

    def integer(self, key: str, default: Any = _MISSING, least: int = 1) -> int:
        """A whole number."""
        return int(self._typed(key, default, lambda v: _whole(v) and v >= least, f"a whole number from {least} on"))

    def number(self, key: str, default: Any = _MISSING) -> float:
        """A finite number."""
        return float(self._typed(key, default, _finite, "a number"))

    def flag(self, key: str, default: bool = False) -> bool:
        """A truth value."""
        return bool(self._typed(key, default, lambda v: isinstance(v, bool), "true or false"))

    def text(self, key: str, default: Any = _MISSING) -> str:
        """A string."""
        return str(self._typed(key, default, lambda v: isinstance(v, str), "a string"))

    def choice(self, key: str, options: Sequence[str], default: Any = _MISSING) -> str:
        """One of some strings."""
        value = self.text(key, default)
        if value not in options:
            raise BadEntry(key, value, f"one of {', '.join(map(repr, options))}")
        return value

    def integers(self, key: str, rank: int, default: Any = _MISSING, least: int = 1) -> list[int]:
        """``rank`` whole numbers, where one stands for all."""
        value = self.get(key, default)
        values = [value] * rank if _whole(value) else value
        if not _is_list(values) or len(values) != rank or not all(_whole(v) and v >= least for v in values):
            raise BadEntry(key, value, f"{rank} whole numbers from {least} on")
        return [int(v) for v in values]

    def axes(self, key: str, rank: int, default: Any = _MISSING) -> list[int]:
        """Axes of an array of ``rank``, counted from its start, the samples excluded."""
        value = self.get(key, default)
        values = [value] if _whole(value) else value
        if not _is_list(values) or not all(_whole(v) and -rank <= v < rank for v in values):
            raise BadEntry(key, value, f"axes of an array with {rank}")
        axes = [int(v) % rank for v in values]
        if 0 in axes or len(set(axes)) != len(axes):
            raise BadEntry(key, value, "different axes, not that of the samples")
        return axes


class Weights(Protocol):
    """Where the variables of a layer are."""

    def own(self, path: str, expected: Mapping[str, Shape]) -> list[Variable]:
        """The layer's own variables, in Keras's order: those there are, whatever is expected of the layer at a path."""

    def child(self, attribute: str) -> Weights:
        """Those of a layer inside it."""

    def members(self, records: Sequence[Mapping[str, Any]]) -> list[Weights]:
        """Those of the layers of a model, in the order of its configuration."""


@dataclass(frozen=True)
class Variable:
    """A variable that has not been read yet.

    key: the same for the same variable.
    source: its path in the Keras model.
    """

    key: object
    source: str
    shape: Shape
    trainable: bool
    read: Callable[[], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Layer:
    """A layer: its class, configuration and weights, and the path that its vertices are named by."""

    kind: str
    config: Config
    weights: Weights
    path: str
    trainable: bool = True

    def child(self, attribute: str, label: str = "", record: Any = None) -> Layer:
        """A layer inside this one; without a record of its own, one that this layer makes itself."""
        path = f"{self.path}.{label}" if label else self.path
        weights = self.weights.child(attribute)
        if record is None:
            return Layer("", self.config, weights, path, self.trainable)
        return of_record(record, weights, path, self.trainable)


def of_record(record: Any, weights: Weights, path: str, trainable: bool) -> Layer:
    """The layer that a serialised record describes.

    Raises:
        Refused: it is not of Keras, or quantised.
    """
    kind = kind_of(record)
    config = Config(record.get("config"))
    if not of_keras(record.get("module")):
        raise Refused("a layer of your own has no counterpart; build the model of Keras's layers, or gather one there")
    policy = config.get("dtype")
    quantized = isinstance(policy, Mapping) and "Quantized" in str(policy.get("class_name"))
    if config.get("lora_rank") or config.get("quantization_config") or quantized:
        raise Refused("quantised layers and LoRA have no counterpart; convert the model before they are applied")
    return Layer(kind, config, weights, path, trainable and config.flag("trainable", True))


def kind_of(record: Any) -> str:
    """The class name of a serialised record; "?" where it has none."""
    name = record.get("class_name") if isinstance(record, Mapping) else None
    return name if isinstance(name, str) else "?"


def is_operation(record: Mapping[str, Any]) -> bool:
    """Whether a record is one of ``keras.ops``, which is no layer."""
    module = record.get("module")
    return isinstance(module, str) and module.startswith(("keras.src.ops", "keras.ops"))


class LiveWeights:
    """The variables of a layer that lives in memory."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def own(self, path: str, expected: Mapping[str, Shape]) -> list[Variable]:
        store: dict[str, Any] = {}
        self.layer.save_own_variables(store)
        return [_live(store[key]) for key in sorted(store, key=int)]

    def child(self, attribute: str) -> LiveWeights:
        return LiveWeights(getattr(self.layer, attribute))

    def members(self, records: Sequence[Mapping[str, Any]]) -> list[Weights]:
        layers = {layer.name: layer for layer in self.layer.layers}
        # Inputs and operations are no layers, and have no variables.
        return [LiveWeights(layers.get(str(Config(record.get("config")).get("name")))) for record in records]


def _live(variable: Any) -> Variable:
    shape = tuple(variable.shape)
    return Variable(
        id(variable), variable.path, shape, bool(variable.trainable), lambda: np.asarray(detached(variable.value))
    )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    return (_whole(value) or isinstance(value, float)) and abs(value) < float("inf")


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
