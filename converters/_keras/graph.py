"""From the configuration of a Keras model to the vertices of a net."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters._keras import attention, einsum, layers, operations, recurrent, shapes  # noqa: F401 - enter their rules
from converters._keras.call import RULES, Call, Ref, Refused, State, run
from converters._keras.operations import PREFIX
from converters._keras.records import Config, Layer, Weights, is_operation, kind_of, of_record
from gbn.errors import ConversionError, GbnError, UnsupportedLayer
from gbn.net import GaussianBayesNet

__all__ = ["convert_model", "name_outputs"]

_MODELS = ("Functional", "Sequential")
# (name of a layer, number of its call).
Node = tuple[str, int]


def convert_model(record: Mapping[str, Any], weights: Weights, example: Any, max_bytes: int) -> GaussianBayesNet:
    """The net of a serialised model.

    Args:
        max_bytes: what trying one op on two samples may need.

    Raises:
        ConversionError: listing every layer without counterpart.
    """
    builder = _Builder(GaussianBayesNet(dtype=_float_type(record)), example, max_bytes)
    try:
        model = of_record(record, weights, "", True)
        outputs = builder.model(model, None)
    except Refused as error:
        raise ConversionError(f"the Keras model cannot be converted: {error}") from error
    except RecursionError as error:
        raise ConversionError("the Keras model cannot be converted: its models are nested too deeply") from error
    if builder.faults:
        count = len(builder.faults)
        raise ConversionError(
            f"{count} layer{'s' if count > 1 else ''} of the Keras model cannot be converted", builder.faults.values()
        )
    if not outputs:
        raise ConversionError("the Keras model has no outputs")
    name_outputs(builder.state.net, [ref.vertex for ref in outputs])
    return builder.state.net


def name_outputs(net: GaussianBayesNet, vertices: Sequence[str]) -> None:
    """Name the outputs: an op for each."""
    names: list[str] = []
    for name in vertices:
        if name in names or net[name].kind != "op":
            name = net.add(f"{name}.output{len(names) or ''}", "Identity", [name])
        names.append(name)
    net.set_outputs(names)


def _float_type(record: Any) -> Any:
    """float64 where a layer's policy says so, else float32."""
    todo = [record]
    while todo:
        value = todo.pop()
        if isinstance(value, Mapping):
            policy = value.get("dtype")
            config = policy.get("config") if isinstance(policy, Mapping) else None
            if policy == "float64" or (isinstance(config, Mapping) and config.get("name") == "float64"):
                return np.float64
        if isinstance(value, (Mapping, list)):
            todo += value.values() if isinstance(value, Mapping) else value
    return np.float32


@dataclass(frozen=True)
class _Lost:
    """The result of a layer that could not be converted, and its event where that is known."""

    event: tuple[int, ...] | None = None


class _Builder:
    """Adds the vertices of a model and of the models inside it, and gathers all layers that have no counterpart."""

    def __init__(self, net: GaussianBayesNet, example: Any, max_bytes: int) -> None:
        self.state = State(net, max_bytes)
        self.faults: dict[str, UnsupportedLayer] = {}
        self.calls: Counter[str] = Counter()
        self.examples = None if example is None else list(example) if isinstance(example, tuple) else [example]

    def model(self, model: Layer, inputs: Sequence[Any] | None) -> list[Any]:
        """The results of a model; with ``inputs`` None it makes its own.

        Raises:
            Refused: not a graph of layers.
        """
        if model.kind not in _MODELS:
            raise Refused(
                f"{model.kind} is a class of its own, whose code says how its layers are joined; build the same with "
                "keras.Sequential or keras.Model(inputs, outputs)"
            )
        records = model.config.get("layers")
        if not isinstance(records, list) or not all(isinstance(record, Mapping) for record in records):
            raise Refused("layers: expected a list of layers")
        stores = model.weights.members(records)
        if model.kind == "Sequential":
            return self._sequential(model, records, stores, inputs)
        return self._functional(model, records, stores, inputs)

    def _sequential(self, model: Layer, records: list[Any], stores: list[Weights], inputs: Any) -> list[Any]:
        values = inputs
        if values is None:
            first = Config(records[0].get("config")) if records else Config({})
            shape = first.get("batch_shape", model.config.get("build_input_shape"))
            starts = bool(records) and kind_of(records[0]) == "InputLayer"
            values = [self._add_input(first.text("name", "input") if starts else "input", shape)]
        for record, store in zip(records, stores, strict=True):
            if kind_of(record) != "InputLayer":
                values = self._call(model, record, store, list(values), {})
        return list(values)

    def _functional(self, model: Layer, records: list[Any], stores: list[Weights], inputs: Any) -> list[Any]:
        named: dict[str, tuple[Any, Weights]] = {}
        for record, store in zip(records, stores, strict=True):
            name = _name(record)
            if name in named:
                raise Refused(f"the layer {name!r} occurs twice")
            named[name] = (record, store)
        results: dict[Node, list[Any]] = {}
        entries = _tensors(model.config.get("input_layers"))
        if inputs is not None and len(inputs) != len(entries):
            raise Refused(f"it is called with {len(inputs)} tensors, where {len(entries)} are expected")
        for k, (name, _, _) in enumerate(entries):
            if name not in named or kind_of(named[name][0]) != "InputLayer":
                raise Refused(f"input_layers: {name!r} is no input of the model")
            shape = Config(named[name][0].get("config")).get("batch_shape")
            results[name, 0] = [self._add_input(name, shape) if inputs is None else inputs[k]]
        nodes = {
            (name, k): node
            for name, (record, _) in named.items()
            for k, node in enumerate(_nodes(record))
            if (name, k) not in results
        }
        for name, k in _ordered(nodes, results):
            record, store = named[name]
            arguments, options = (self._resolved(nodes[name, k][part], results) for part in ("args", "kwargs"))
            results[name, k] = self._call(model, record, store, arguments, options)
        outputs = []
        for name, k, index in _tensors(model.config.get("output_layers")):
            # Here, and only here, Keras counts the calls of a functional model from 1.
            inside = name in named and kind_of(named[name][0]) == "Functional"
            outputs.append(_result(results, name, k - inside, index))
        return outputs

    def _resolved(self, value: Any, results: Mapping[Node, list[Any]]) -> Any:
        """Arguments of a call with its tensors as Ref, or _Lost."""
        if isinstance(value, Mapping):
            history = _history(value)
            if history is None:
                return {key: self._resolved(item, results) for key, item in value.items()}
            found = _result(results, *history)
            return found if isinstance(found, Ref) else _Lost(_event(value["config"].get("shape")))
        if isinstance(value, list):
            return [self._resolved(item, results) for item in value]
        return value

    def _call(self, model: Layer, record: Any, store: Weights, arguments: Any, options: Any) -> list[Any]:
        """The results of one call of a layer; where it cannot be made, it is noted, and what it gives is lost."""
        path = f"{model.path}.{_name(record)}" if model.path else _name(record)
        self.calls[path] += 1
        count = self.calls[path]
        try:
            layer = self._layer(record, store, path, model.trainable)
            if layer.kind in _MODELS:
                return self.model(layer, _flat(arguments))
            if layer.kind not in RULES:
                run(Call(self.state, layer, path, []))
            arguments, options = self._stand_in(arguments, path), self._stand_in(options, path)
            name = path if count == 1 else f"{path}#{count}"
            return [Ref(vertex) for vertex in run(Call(self.state, layer, name, arguments, options))]
        except _Unknown:
            pass
        except (Refused, GbnError) as error:
            kind = kind_of(record)
            self.faults.setdefault(path, UnsupportedLayer(path, kind, str(error)))
        return [_Lost()]

    def _layer(self, record: Any, store: Weights, path: str, trainable: bool) -> Layer:
        if is_operation(record):
            return Layer(PREFIX + kind_of(record), Config(record.get("config")), store, path, trainable)
        return of_record(record, store, path, trainable)

    def _stand_in(self, value: Any, path: str) -> Any:
        """The same arguments with a root in the place of each lost tensor, so that this layer is tried as well."""
        if isinstance(value, _Lost):
            if value.event is None:
                raise _Unknown
            name = f"{path} (missing)"
            while name in self.state.net:
                name += "_"
            return Ref(self.state.net.add_input(name, value.event))
        if isinstance(value, dict):
            return {key: self._stand_in(item, path) for key, item in value.items()}
        if isinstance(value, list):
            return [self._stand_in(item, path) for item in value]
        return value

    def _add_input(self, name: str, shape: Any) -> Ref:
        """A root; sizes that the model leaves open are those of the example.

        Raises:
            Refused: sizes that are not known, or not whole numbers.
        """
        net = self.state.net
        if self.examples is not None:
            index = len(net.inputs)
            if index >= len(self.examples):
                raise Refused(f"example: got {len(self.examples)} arrays, expected one for each input")
            given = [None, *np.shape(self.examples[index])[1:]]
            known = given if shape is None else list(shape) if isinstance(shape, (list, tuple)) else [None]
            if len(given) != len(known) or any(k not in (None, g) for g, k in zip(given[1:], known[1:], strict=True)):
                raise Refused(f"example: got the event {tuple(given[1:])} for {name!r}, expected {known[1:]}")
            shape = given
        event = _event(shape)
        if event is None:
            raise Refused(
                f"the input {name!r} has the shape {shape}; give an example batch, convert(model, example), for the "
                "sizes that it leaves open"
            )
        net.add_input(name, event)
        # A number per sample is an event of shape (1,) in the net and has no axis in Keras.
        return Ref(name if event else net.add(f"{name}.flat", "Reshape", [name], shape=[-1]))


class _Unknown(Exception):
    """A layer reads what another, which failed, would have given, and nothing says of which shape."""


def _name(record: Mapping[str, Any]) -> str:
    name = record.get("name", Config(record.get("config")).get("name"))
    if not isinstance(name, str) or not name:
        raise Refused(f"name of a layer {kind_of(record)}: got {name!r}, expected a string")
    return name


def _nodes(record: Mapping[str, Any]) -> list[Any]:
    nodes = record.get("inbound_nodes")
    form = isinstance(nodes, list) and all(
        isinstance(n, Mapping) and isinstance(n.get("args"), list) and isinstance(n.get("kwargs"), Mapping)
        for n in nodes
    )
    if not form:
        raise Refused(f"inbound_nodes of {_name(record)!r}: expected the calls of the layer, each with args and kwargs")
    return list(nodes)  # type: ignore[arg-type]


def _history(value: Mapping[str, Any]) -> tuple[str, int, int] | None:
    """(layer, call, number of the result) of a serialised tensor; None for another mapping."""
    if value.get("class_name") != "__keras_tensor__" or not isinstance(value.get("config"), Mapping):
        return None
    return _tensor(value["config"].get("keras_history"))


def _tensor(value: Any) -> tuple[str, int, int]:
    form = isinstance(value, (list, tuple)) and len(value) == 3 and isinstance(value[0], str)
    if not form or not all(isinstance(k, int) and k >= 0 for k in value[1:]):
        raise Refused(f"got the tensor {str(value)[:60]}, expected [layer, number of its call, number of its result]")
    return value[0], value[1], value[2]


def _tensors(value: Any) -> list[tuple[str, int, int]]:
    """All tensors of a nested structure, those of a mapping in the order of its keys."""
    if isinstance(value, Mapping):
        return [tensor for key in sorted(value, key=str) for tensor in _tensors(value[key])]
    if isinstance(value, (list, tuple)) and value and not isinstance(value[0], str):
        return [tensor for item in value for tensor in _tensors(item)]
    return [_tensor(value)]


def _result(results: Mapping[Node, list[Any]], name: str, call: int, index: int) -> Any:
    if (name, call) not in results:
        raise Refused(f"the result of {name!r} is read, which is no layer of the model, or not called so often")
    found = results[name, call]
    if len(found) == 1 and isinstance(found[0], _Lost):
        return found[0]
    if index >= len(found):
        raise Refused(f"result {index} of {name!r} is read, which has {len(found)}")
    return found[index]


def _sources(value: Any) -> list[Node]:
    """The calls whose results a call reads."""
    if isinstance(value, Mapping):
        history = _history(value)
        return [history[:2]] if history else [node for item in value.values() for node in _sources(item)]
    return [node for item in value for node in _sources(item)] if isinstance(value, list) else []


def _ordered(nodes: Mapping[Node, Any], known: Mapping[Node, Any]) -> list[Node]:
    """The calls, each after those it reads; else in the order of the configuration."""
    place = {node: k for k, node in enumerate(nodes)}
    readers: dict[Node, list[Node]] = defaultdict(list)
    waits: dict[Node, int] = {}
    for node, call in nodes.items():
        sources = {source for source in _sources([call["args"], dict(call["kwargs"])]) if source not in known}
        missing = sources - place.keys()
        if missing:
            raise Refused(f"{node[0]!r} reads {sorted(missing)[0][0]!r}, which is no layer of the model, or not called")
        waits[node] = len(sources)
        for source in sources:
            readers[source].append(node)
    ready = [(place[node], node) for node, count in waits.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, node = heapq.heappop(ready)
        order.append(node)
        for reader in readers[node]:
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, (place[reader], reader))
    if len(order) < len(nodes):
        raise Refused("its layers read one another in a circle")
    return order


def _event(shape: Any) -> tuple[int, ...] | None:
    """The sizes of one sample, None where some are not known."""
    known = isinstance(shape, (list, tuple)) and shape and all(type(n) is int and n > 0 for n in shape[1:])
    return tuple(shape[1:]) if known else None


def _flat(arguments: Any) -> list[Any]:
    """All tensors of nested arguments, lost ones too."""
    if isinstance(arguments, (Ref, _Lost)):
        return [arguments]
    if isinstance(arguments, Mapping):
        return [item for key in sorted(arguments, key=str) for item in _flat(arguments[key])]
    return [item for part in arguments for item in _flat(part)] if isinstance(arguments, list) else []
