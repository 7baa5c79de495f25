"""Recurrent layers, written out step by step; the steps of a direction share its weights.

Gates are in ONNX's order: i, o, f, c for LSTM; z, r, h for GRU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters._onnx_call import Call, Value, rule
from converters._plates import Refused
from converters._rules import in_blocks

__all__: list[str] = []

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
# What the attributes of an activation are, and their defaults where they have none of their own.
_PARAMETERS: dict[str, dict[str, float]] = {
    "Relu": {},
    "Tanh": {},
    "Sigmoid": {},
    "Softsign": {},
    "Softplus": {},
    "LeakyRelu": {"alpha": 0.01},
    "ThresholdedRelu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "Elu": {"alpha": 1.0},
}


@dataclass
class Direction:
    """One direction of a recurrent layer.

    weight, recurrent: (gates * hidden, input) and (gates * hidden, hidden).
    bias, recurrent_bias: (gates * hidden,), or None.
    activations: op and attributes, in ONNX's order.
    """

    call: Call
    name: str
    hidden: int
    weight: Value
    recurrent: Value
    bias: Value | None
    recurrent_bias: Value | None
    peepholes: list[Value] | None
    activations: list[tuple[str, dict[str, Any]]]

    def gates(self, x: Value, h: Value, part: str) -> tuple[Value, Value]:
        """Affine in the input, and in the state; shape: (samples, gates * hidden)."""
        return self.affine(x, self.weight, self.bias, f"{part}.x"), self.affine(
            h, self.recurrent, self.recurrent_bias, f"{part}.h"
        )

    def affine(self, x: Value, weight: Value, bias: Value | None, part: str) -> Value:
        return self.call.emit("Gemm", x, weight, *([] if bias is None else [bias]), part=part, transB=1)

    def gate(self, x: Value, k: int, part: str) -> Value:
        """Columns of gate k."""
        return self.call.cut(x, k * self.hidden, (k + 1) * self.hidden, x.rank - 1, part)

    def activate(self, k: int, x: Value, part: str) -> Value:
        """Activation k, of the input clipped where the layer clips."""
        bound = self.call.attribute("clip")
        if bound is not None:
            x = self.call.emit("Clip", x, part=f"{part}.clipped", min=-float(bound), max=float(bound))
        op, attributes = self.activations[k]
        return self.call.emit(op, x, part=part, **attributes)

    def add(self, part: str, *terms: Value) -> Value:
        total = terms[0]
        for term in terms[1:]:
            total = self.call.emit("Add", total, term, part=part)
        return total


States = list[Value]


def _rnn(d: Direction, x: Value, states: States, part: str) -> States:
    """h' = f(W x + R h + b)."""
    return [d.activate(0, d.add(f"{part}.sum", *d.gates(x, states[0], part)), f"{part}.hidden")]


def _lstm(d: Direction, x: Value, states: States, part: str) -> States:
    """c' = f c + i g(.), h' = o h(c'); peepholes add multiples of the cell to the gates."""
    hidden, cell = states
    total = d.add(f"{part}.sum", *d.gates(x, hidden, part))
    i, o, f, c = (d.gate(total, k, f"{part}.{gate}_sum") for k, gate in enumerate("iofc"))

    def peeped(x: Value, k: int, cell: Value) -> Value:
        if d.peepholes is None:
            return x
        return d.add(f"{part}.peeped", x, d.call.emit("Mul", cell, d.peepholes[k], part=f"{part}.peephole"))

    take = d.activate(0, peeped(i, 0, cell), f"{part}.i")
    if d.call.attribute("input_forget", 0):
        keep = d.call.emit("Sub", d.call.constant("one", 1.0), take, part=f"{part}.f")
    else:
        keep = d.activate(0, peeped(f, 2, cell), f"{part}.f")
    new = d.activate(1, c, f"{part}.c")
    kept = d.call.emit("Mul", keep, cell, part=f"{part}.kept")
    cell = d.add(f"{part}.cell", kept, d.call.emit("Mul", take, new, part=f"{part}.taken"))
    show = d.activate(0, peeped(o, 1, cell), f"{part}.o")
    return [d.call.emit("Mul", show, d.activate(2, cell, f"{part}.shown"), part=f"{part}.hidden"), cell]


def _gru(d: Direction, x: Value, states: States, part: str) -> States:
    """h' = (1 - z) g(.) + z h; the reset gate acts on h, or on the affine function of it."""
    (hidden,) = states
    ours, theirs = d.gates(x, hidden, part)
    z, r = (
        d.activate(0, d.add(f"{part}.{gate}_sum", d.gate(ours, k, part), d.gate(theirs, k, part)), f"{part}.{gate}")
        for k, gate in enumerate("zr")
    )
    if d.call.attribute("linear_before_reset", 0):
        recurrent = d.call.emit("Mul", r, d.gate(theirs, 2, part), part=f"{part}.reset")
    else:
        reset = d.call.emit("Mul", r, hidden, part=f"{part}.reset")
        low, high = 2 * d.hidden, 3 * d.hidden
        weight = d.call.cut(d.recurrent, low, high, 0, f"{d.name}.R_h")
        bias = d.recurrent_bias and d.call.cut(d.recurrent_bias, low, high, 0, f"{d.name}.Rb_h")
        recurrent = d.affine(reset, weight, bias, f"{part}.h_reset")
    new = d.activate(1, d.add(f"{part}.h_sum", d.gate(ours, 2, part), recurrent), f"{part}.new")
    change = d.call.emit("Mul", z, d.call.emit("Sub", hidden, new, part=f"{part}.change"), part=f"{part}.kept")
    return [d.add(f"{part}.hidden", new, change)]


_STEPS: dict[str, Callable[[Direction, Value, States, str], States]] = {"RNN": _rnn, "LSTM": _lstm, "GRU": _gru}


@rule("RNN", "LSTM", "GRU")
def _recurrent(call: Call) -> list[Value | None]:
    """Outputs Y (time, directions, samples, hidden), Y_h and, of LSTM, Y_c (directions, samples, hidden)."""
    kind, names = call.node.op, _directions(call)
    time_axis = 1 if call.attribute("layout", 0) else 0
    length = call[0].shapes[0][time_axis]
    if call[0].shapes[1][time_axis] != length:
        raise Refused("the number of its time steps depends on the number of samples")
    _check_lengths(call, length)
    places = in_blocks(call[0], length, lambda x, begin, end: call.cut(x, begin, end, time_axis, f"steps{begin}"))
    steps = [call.entry(block, time_axis, k, f"x{t}") for t, (block, k) in enumerate(places)]
    results: list[tuple[list[Value], States]] = []
    for k, name in enumerate(names):
        direction = _direction(call, k, name)
        states = _initial(call, k, direction.hidden, 2 if kind == "LSTM" else 1)
        order = range(length) if name == "forward" else range(length - 1, -1, -1)
        hidden: dict[int, Value] = {}
        for t in order:
            states = _STEPS[kind](direction, steps[t], states, f"{name}.{t}" if len(names) > 1 else f"{t}")
            hidden[t] = states[0]
        results.append(([hidden[t] for t in range(length)], states))
    return _outputs(call, results, time_axis)


def _outputs(call: Call, results: list[tuple[list[Value], States]], time_axis: int) -> list[Value | None]:
    """Steps and directions put together, where a node takes them."""
    layout, wanted = int(bool(time_axis)), [*call.wanted, False, False, False][:3]
    outputs: list[Value | None] = [None, None, None]
    if wanted[0]:
        axes = [1, 2] if layout else [0, 1]
        each = [
            _joined(call, [hidden[t] for hidden, _ in results], axes[1] - 1, f"y{t}", None)
            for t in range(len(results[0][0]))
        ]
        outputs[0] = _joined(call, each, axes[0], "", 0)
    for k in range(len(results[0][1])):
        if wanted[k + 1]:
            last = [states[k] for _, states in results]
            outputs[k + 1] = _joined(call, last, layout, "", k + 1)
    return outputs


def _joined(call: Call, values: Sequence[Value], axis: int, part: str, output: int | None) -> Value:
    """Values side by side along a new axis."""
    rows = [call.emit("Unsqueeze", value, part=f"{part}row", output=output or 0, axes=[axis]) for value in values]
    if len(rows) == 1 and output is None:
        return rows[0]
    return call.emit("Concat", *rows, part=part, output=output or 0, axis=axis)


def _directions(call: Call) -> list[str]:
    direction = call.attribute("direction", "forward")
    known = {"forward": ["forward"], "reverse": ["reverse"], "bidirectional": ["forward", "reverse"]}
    if direction not in known:
        raise Refused(f"its direction is {direction!r}")
    return known[direction]


def _check_lengths(call: Call, length: int) -> None:
    """Sequences are as long as the input."""
    value = call.input(4)
    if value is not None and any((array != length).any() for array in value.arrays):
        raise Refused("sequences of different lengths (sequence_lens) are not supported")


def _direction(call: Call, k: int, name: str) -> Direction:
    gates = _GATES[call.node.op]
    rows, hidden = call[2].shape[1:] if call[2].rank == 3 else (0, 1)
    if rows != gates * hidden:
        raise Refused(
            f"its weights of the state have shape {call[2].shape}, expected (directions, {gates} * hidden, hidden); "
            "ONNX knows no projection of the state"
        )
    bias = recurrent_bias = None
    if call.input(3) is not None:
        both = call.entry(call[3], 0, k, f"{name}.B")
        halves = [(0, gates * hidden), (gates * hidden, 2 * gates * hidden)]
        bias, recurrent_bias = (
            call.cut(both, a, b, 0, f"{name}.{part}") for part, (a, b) in zip(("Wb", "Rb"), halves, strict=True)
        )
    peepholes = None
    if call.node.op == "LSTM" and call.input(7) is not None:
        row = call.entry(call[7], 0, k, f"{name}.P")
        peepholes = [call.cut(row, j * hidden, (j + 1) * hidden, 0, f"{name}.P_{gate}") for j, gate in enumerate("iof")]
    weight, recurrent = (call.entry(call[j], 0, k, f"{name}.{part}") for j, part in ((1, "W"), (2, "R")))
    activations = _activations(call, k)
    return Direction(call, name, hidden, weight, recurrent, bias, recurrent_bias, peepholes, activations)


def _activations(call: Call, k: int) -> list[tuple[str, dict[str, Any]]]:
    """Those of direction k, with the parameters that the node lists for all of them in turn."""
    default = _DEFAULTS[call.node.op]
    count = len(default)
    given = call.attribute("activations") or default * len(_directions(call))
    known = {name.lower(): name for name in _PARAMETERS}
    alphas, betas = (iter(call.attribute(f"activation_{key}", [])) for key in ("alpha", "beta"))
    found: list[tuple[str, dict[str, Any]]] = []
    for name in given:
        if name.lower() not in known:
            raise Refused(f"its activation {name!r} is not supported")
        op = known[name.lower()]
        lists: dict[str, Any] = {"alpha": alphas, "beta": betas}
        found.append((op, {key: float(next(lists[key], value)) for key, value in _PARAMETERS[op].items()}))
    if len(found) < count * len(_directions(call)):
        raise Refused(f"it lists {len(found)} activations, {count} for each direction are needed")
    return found[k * count : (k + 1) * count]


def _initial(call: Call, k: int, hidden: int, count: int) -> States:
    """States before the first step: zeros, unless they are given."""
    states = []
    for j in range(count):
        given, part = call.input(5 + j), ("h0", "c0")[j]
        if given is None or (given.known and not any(array.any() for array in given.arrays)):
            states.append(Value.of(call.label(part), np.zeros((1, hidden), call.builder.dtype)))
        else:
            states.append(call.entry(given, 1 if call.attribute("layout", 0) else 0, k, part))
    return states
