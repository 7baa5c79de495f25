"""Recurrent Keras layers, unrolled: each step is its own vertices, and all of them share the parameters.

The affine part of a step is one linear-Gaussian CPD, Kᵀ x_t + Uᵀ h_{t-1} + b.  The first step of a layer without an
initial state leaves the zero state out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from converters._keras.activations import activation
from converters._keras.call import Call, Ref, Refused, Result, refs, rule, run
from converters._keras.records import Layer, kind_of, of_keras
from converters._rules import in_blocks

__all__: list[str] = []

_MOST_STEPS = 2048
# From the input of a step and the states before it (None: zero) to the states after it, the output first.
Step = Callable[[Call, str, Sequence[str | None]], list[str]]


def _part(call: Call, x: str, name: str, index: int, units: int) -> str:
    """One gate's entries of the gates' common vector."""
    axis = len(call.shape(x)) - (0 if call.state.net[x].plated else 1)
    return call.emit("Slice", x, part=name, starts=[index * units], ends=[(index + 1) * units], axes=[axis])


def _act(call: Call, layer: Layer, key: str, default: str, x: str, name: str) -> str:
    """An activation of the cell's configuration, as the vertex ``name``."""
    found = activation(layer.config.get(key, default))
    return found[1](call.within(name), x) if found else x


def _linear(call: Call, part: str, *terms: str | None) -> str:
    """Σ W u + b over the terms that are there: u, W, u, W, ..., b."""
    pairs = list(zip(terms[0:-1:2], terms[1::2], strict=True))
    flat = [term for u, w in pairs if u is not None for term in (u, w)]
    bias = [terms[-1]] if terms[-1] is not None else []
    return call.emit("Linear", *(term for term in [*flat, *bias] if term is not None), part=part)


def _weights(call: Call, layer: Layer, features: int, gates: int, bias: tuple[int, ...]) -> tuple[str, str, str | None]:
    """Kᵀ, Uᵀ and b.  Kernel: (features, gates * units)."""
    units = layer.config.integer("units")
    use_bias = layer.config.flag("use_bias", True)
    kernel, recurrent, *rest = call.variables(
        layer,
        kernel=(features, gates * units),
        recurrent_kernel=(units, gates * units),
        bias=bias if use_bias else None,
    )
    turned = [call.derived(weight, "Transpose", "transposed", perm=[1, 0]) for weight in (kernel, recurrent)]
    return turned[0], turned[1], rest[0] if rest else None


def _rows(call: Call, weight: str, name: str, start: int, end: int) -> str:
    """Some gates' rows of a transposed weight, or entries of a bias."""
    return call.derived(weight, "Slice", name, starts=[start], ends=[end], axes=[0])


def _simple(call: Call, layer: Layer, features: int) -> Step:
    units = layer.config.integer("units")
    kernel, recurrent, bias = _weights(call, layer, features, 1, (units,))

    def step(at: Call, x: str, states: Sequence[str | None]) -> list[str]:
        sum_ = _linear(at, "sum", x, kernel, states[0], recurrent, bias)
        return [_act(at, layer, "activation", "tanh", sum_, "hidden")]

    return step


def _lstm(call: Call, layer: Layer, features: int) -> Step:
    """Gates in Keras's order: input, forget, candidate, output."""
    units = layer.config.integer("units")
    kernel, recurrent, bias = _weights(call, layer, features, 4, (4 * units,))

    def step(at: Call, x: str, states: Sequence[str | None]) -> list[str]:
        before, cell = states
        gates = _linear(at, "gates", x, kernel, before, recurrent, bias)
        parts = [
            _part(at, gates, f"{name}.sum", k, units) for k, name in enumerate(("input", "forget", "new", "output"))
        ]
        enter, keep, leave = (
            _act(at, layer, "recurrent_activation", "sigmoid", parts[k], name)
            for k, name in ((0, "input"), (1, "forget"), (3, "output"))
        )
        new = _act(at, layer, "activation", "tanh", parts[2], "new")
        entered = at.emit("Mul", enter, new, part="cell" if cell is None else "entered")
        if cell is not None:
            entered = at.emit("Add", at.emit("Mul", keep, cell, part="kept"), entered, part="cell")
        shown = _act(at, layer, "activation", "tanh", entered, "shown")
        return [at.emit("Mul", leave, shown, part="hidden"), entered]

    return step


def _gru(call: Call, layer: Layer, features: int) -> Step:
    """Gates in Keras's order: update, reset, candidate."""
    units, after = layer.config.integer("units"), layer.config.flag("reset_after", True)
    bias_shape = (2, 3 * units) if after else (3 * units,)
    kernel, recurrent, bias = _weights(call, layer, features, 3, bias_shape)
    gate = _gates_after if after else _gates_before
    sums = gate(call, units, kernel, recurrent, bias)

    def step(at: Call, x: str, states: Sequence[str | None]) -> list[str]:
        (before,) = states

        def sigmoid(sum_: str, name: str) -> str:
            return _act(at, layer, "recurrent_activation", "sigmoid", sum_, name)

        update, candidate = sums(at, x, before, sigmoid)
        new = _act(at, layer, "activation", "tanh", candidate, "new")
        if before is None:
            return [at.emit("Sub", new, at.emit("Mul", update, new, part="left"), part="hidden")]
        change = at.emit("Mul", update, at.emit("Sub", before, new, part="change"), part="kept")
        return [at.emit("Add", new, change, part="hidden")]

    return step


Sums = Callable[[Call, str, "str | None", Callable[[str, str], str]], tuple[str, str]]


def _gates_after(call: Call, units: int, kernel: str, recurrent: str, bias: str | None) -> Sums:
    """The reset gate acts on the product with the recurrent kernel, which has a bias of its own."""
    biases: list[str | None] = [None, None]
    if bias is not None:
        rows = [_rows(call, bias, f"{name}_row", k, k + 1) for k, name in enumerate(("input", "recurrent"))]
        biases = [call.derived(row, "Reshape", "vector", shape=[3 * units]) for row in rows]

    def sums(at: Call, x: str, before: str | None, sigmoid: Callable[[str, str], str]) -> tuple[str, str]:
        entered = _linear(at, "entered", x, kernel, biases[0])
        names = ("update", "reset", "new")
        parts = [_part(at, entered, f"{name}.entered", k, units) for k, name in enumerate(names)]
        if before is not None:
            recalled: str | None = _linear(at, "recalled", before, recurrent, biases[1])
        else:
            recalled = biases[1]
        if recalled is None:
            return sigmoid(parts[0], "update"), parts[2]
        old = [_part(at, recalled, f"{name}.recalled", k, units) for k, name in enumerate(names)]
        gates = [sigmoid(at.emit("Add", parts[k], old[k], part=f"{names[k]}.sum"), names[k]) for k in (0, 1)]
        reset = at.emit("Mul", gates[1], old[2], part="new.kept")
        return gates[0], at.emit("Add", parts[2], reset, part="new.sum")

    return sums


def _gates_before(call: Call, units: int, kernel: str, recurrent: str, bias: str | None) -> Sums:
    """The reset gate acts on the state, before the product with the recurrent kernel."""

    def split(weight: str | None) -> list[str | None]:
        if weight is None:
            return [None, None]
        return [
            _rows(call, weight, name, start, end)
            for name, start, end in (("gates", 0, 2 * units), ("candidate", 2 * units, 3 * units))
        ]

    kernels, recurrents, biases = split(kernel), split(recurrent), split(bias)

    def sums(at: Call, x: str, before: str | None, sigmoid: Callable[[str, str], str]) -> tuple[str, str]:
        gates = _linear(at, "gates", x, kernels[0], before, recurrents[0], biases[0])
        update, reset = (
            sigmoid(_part(at, gates, f"{name}.sum", k, units), name) for k, name in enumerate(("update", "reset"))
        )
        kept = None if before is None else at.emit("Mul", reset, before, part="new.kept")
        return update, _linear(at, "new.sum", x, kernels[1], kept, recurrents[1], biases[1])

    return sums


# Number of states, and what makes the step.
_CELLS: dict[str, tuple[int, Callable[[Call, Layer, int], Step]]] = {
    "SimpleRNN": (1, _simple),
    "LSTM": (2, _lstm),
    "GRU": (1, _gru),
}


def _cell(layer: Layer) -> tuple[str, Layer]:
    """The kind of a recurrent layer, and its cell, whose variables are named as the layer's own."""
    if layer.kind != "RNN":
        return layer.kind, layer.child("cell")
    record = layer.config.get("cell")
    kind = kind_of(record).removesuffix("Cell")
    if kind not in _CELLS or not of_keras(record.get("module")):
        raise Refused(f"its cell is {kind_of(record)}, expected one of {', '.join(_CELLS)} with -Cell")
    return kind, layer.child("cell", record=record)


def _unroll(call: Call, layer: Layer, x: str, states: Sequence[str]) -> tuple[list[str], list[str]]:
    """Outputs of all steps in the order they are taken, and the last states."""
    if layer.config.flag("stateful"):
        raise Refused("stateful=True carries states from batch to batch, and so mixes samples")
    if layer.kind == "RNN" and layer.config.flag("return_all_outputs"):
        raise Refused("return_all_outputs has no counterpart")
    kind, cell = _cell(layer)
    event = call.shape(x)
    if len(event) != 2:
        raise Refused(f"its input has the event {event}, expected (steps, features)")
    if event[0] > _MOST_STEPS:
        raise Refused(f"its input has {event[0]} steps, of which at most {_MOST_STEPS} are unrolled; cut the sequences")
    count, make = _CELLS[kind]
    step = make(call, cell, event[1])
    now: list[Any] = list(states) or [None] * count
    if len(now) != count:
        raise Refused(f"initial_state: got {len(now)} tensors, expected {count}")
    steps = list(enumerate(_places(call, x, event[0])))
    outputs = []
    for t, (block, k) in reversed(steps) if layer.config.flag("go_backwards") else steps:
        at = call.within(f"t{t}", layer)
        now = step(at, _cut(at, block, k, k + 1, "x"), now)
        outputs.append(now[0])
    return outputs, now


def _places(call: Call, x: str, steps: int) -> Iterator[tuple[str, int]]:
    return in_blocks(x, steps, lambda x, begin, end: _cut(call, x, begin, end, f"steps{begin}"))


def _cut(call: Call, x: str, begin: int, end: int, part: str) -> str:
    return call.emit("Slice", x, part=part, starts=[begin], ends=[end], axes=[1])


def _sequence(call: Call, steps: Sequence[str], part: str = "") -> str:
    """Steps side by side on axis 1."""
    rows = [call.emit("Unsqueeze", step, part=f"row{k}", axes=[1]) for k, step in enumerate(steps)]
    return call.emit("Concat", *rows, part=part, axis=1)


@rule("SimpleRNN", "LSTM", "GRU", "RNN")
def _recurrent(call: Call) -> Result:
    call.option("mask")
    x, *states = call.inputs + _tensors(call, "initial_state")
    outputs, last = _unroll(call, call.layer, x, states)
    sequence = call.config.flag("return_sequences")
    result = _sequence(call, outputs) if sequence else call.emit("Identity", outputs[-1])
    return [result, *last] if call.config.flag("return_state") else result


def _tensors(call: Call, name: str) -> list[str]:
    return [ref.vertex for ref in refs(call.option(name, []))]


_COMBINE = {"sum": "Add", "mul": "Mul", "ave": "Mean"}


@rule("Bidirectional")
def _bidirectional(call: Call) -> Result:
    """One layer reads the steps forward, another backward; its sequence is turned round again."""
    call.option("mask")
    x, *states = call.inputs + _tensors(call, "initial_state")
    forward = call.layer.child("forward_layer", "forward", call.config.get("layer"))
    mirror = call.config.get("backward_layer")
    backward = call.layer.child("backward_layer", "backward", mirror if mirror else call.config.get("layer"))
    sides, last = [], []
    sequence = forward.config.flag("return_sequences")
    half = len(states) // 2
    for layer, part, begin in ((forward, "forward", states[:half]), (backward, "backward", states[half:])):
        if layer.kind not in (*_CELLS, "RNN"):
            raise Refused(f"its layer is {layer.kind}, expected a recurrent one")
        if mirror is None and part == "backward":
            layer = Layer(layer.kind, _turned(layer), layer.weights, layer.path, layer.trainable)
        at = call.within(part, layer)
        outputs, after = _unroll(at, layer, x, begin)
        if sequence:
            sides.append(_sequence(at, outputs if part == "forward" else outputs[::-1], part="sequence"))
        else:
            sides.append(outputs[-1])
        last += after
    merge = call.config.get("merge_mode")
    if merge is None:
        result = sides
    elif merge == "concat":
        result = [call.emit("Concat", *sides, axis=2 if sequence else 1)]
    elif merge in _COMBINE:
        result = [call.emit(_COMBINE[merge], *sides)]
    else:
        raise Refused(f"merge_mode: got {merge!r}, expected concat, sum, mul, ave or null")
    return [*result, *last] if forward.config.flag("return_state") else result


def _turned(layer: Layer) -> Any:
    """The configuration of a layer that reads the other way."""
    values = dict(layer.config.values)
    return type(layer.config)(values | {"go_backwards": not layer.config.flag("go_backwards")})


# These work on the last axis, whatever comes before it.
_ROWWISE = ("Dense", "Activation", "ReLU", "LeakyReLU", "ELU", "Dropout", "Identity", "Rescaling")


@rule("TimeDistributed")
def _time_distributed(call: Call) -> str:
    """A layer on each step, with one set of parameters."""
    call.option("mask")
    layer = call.layer.child("layer", "layer", call.config.get("layer"))
    if layer.kind in _ROWWISE:
        (result,) = run(Call(call.state, layer, call.name, call.arguments))
        return result
    x, steps = call.input, call.shape(call.input)[0]
    if steps > _MOST_STEPS:
        raise Refused(f"its input has {steps} steps, of which at most {_MOST_STEPS} are unrolled")
    results = []
    for t, (block, k) in enumerate(_places(call, x, steps)):
        at = call.within(f"t{t}", layer)
        one = _cut(at, block, k, k + 1, "slice")
        at.arguments = [Ref(at.emit("Squeeze", one, part="x", axes=[1]))]
        results.append(run(at)[0])
    return _sequence(call, results)
