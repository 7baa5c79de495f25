"""ATen rules of recurrent layers, unrolled over time with their weights shared.

The vertices of step k are ``<layer>.t<k>.<part>``, with ``l<layer>`` and ``reverse`` between where there are several
layers or two directions.  Equations and the order of the gates are those of torch.nn.LSTM, GRU and RNN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

from converters._call import Call, Many, Refused, Value, rule
from converters._plates import PLAIN
from converters._rules import in_blocks

__all__: list[str] = []


@dataclass(frozen=True)
class Weights:
    """Of one direction of one layer; biases and projection where it has them."""

    of_input: Value
    of_state: Value
    input_bias: Sequence[Value] = ()
    state_bias: Sequence[Value] = ()
    projection: Value | None = None


State = tuple[Value, ...]
Cell = Callable[[Call, Value, State, Weights], State]


def _affine(call: Call, x: Value, state: State, w: Weights) -> tuple[Value, Value]:
    """What the gates get from the input and from the last hidden state."""
    of_input = call.emit("Gemm", x, w.of_input, *w.input_bias, part="input", transB=1)
    return of_input, call.emit("Gemm", state[0], w.of_state, *w.state_bias, part="recurrent", transB=1)


def _parts(call: Call, x: Value, names: Sequence[str]) -> list[Value]:
    """Equal parts of the last axis."""
    size, axis = x.row[-1] // len(names), len(x.row) - 1
    return [
        call.emit("Slice", x, part=name, starts=[k * size], ends=[(k + 1) * size], axes=[axis], steps=[1])
        for k, name in enumerate(names)
    ]


def _lstm(call: Call, x: Value, state: State, w: Weights) -> State:
    gates = call.emit("Add", *_affine(call, x, state, w), part="gates")
    open_, kept, new, out = _parts(call, gates, ["i.in", "f.in", "g.in", "o.in"])
    i, f, o = (call.emit("Sigmoid", v, part=n) for v, n in ((open_, "i"), (kept, "f"), (out, "o")))
    g = call.emit("Tanh", new, part="g")
    memory = call.emit("Mul", f, state[1], part="kept")
    cell = call.emit("Add", memory, call.emit("Mul", i, g, part="added"), part="cell")
    squashed = call.emit("Tanh", cell, part="squashed")
    if w.projection is None:
        return call.emit("Mul", o, squashed, part="hidden"), cell
    whole = call.emit("Mul", o, squashed, part="whole")
    return call.emit("Gemm", whole, w.projection, part="hidden", transB=1), cell


def _gru(call: Call, x: Value, state: State, w: Weights) -> State:
    """h' = n + z (h - n)."""
    of_input, of_state = _affine(call, x, state, w)
    r, z, n = _parts(call, of_input, ["r.input", "z.input", "n.input"])
    r_state, z_state, n_state = _parts(call, of_state, ["r.state", "z.state", "n.state"])
    reset = call.emit("Sigmoid", call.emit("Add", r, r_state, part="r.in"), part="r")
    update = call.emit("Sigmoid", call.emit("Add", z, z_state, part="z.in"), part="z")
    held = call.emit("Mul", reset, n_state, part="n.reset")
    new = call.emit("Tanh", call.emit("Add", n, held, part="n.in"), part="n")
    change = call.emit("Mul", update, call.emit("Sub", state[0], new, part="gap"), part="change")
    return (call.emit("Add", new, change, part="hidden"),)


def _elman(activation: str, call: Call, x: Value, state: State, w: Weights) -> State:
    total = call.emit("Add", *_affine(call, x, state, w), part="total")
    return (call.emit(activation, total, part="hidden"),)


CELLS: dict[str, Cell] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": partial(_elman, "Tanh"),
    "rnn_relu": partial(_elman, "Relu"),
}


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def _cell(call: Call) -> Value | Many:
    """One step; its hidden state has the name of the module."""
    hx = call["hx"]
    of_input, of_state = ([call[key]] if call.get(key) else [] for key in ("b_ih", "b_hh"))
    weights = Weights(call["w_ih"], call["w_hh"], of_input, of_state)
    cell = CELLS[call.packet.removesuffix("_cell")]

    @cache
    def state() -> State:
        return cell(call, call["input"], tuple(hx) if isinstance(hx, list) else (hx,), weights)

    if not isinstance(hx, list):
        return state()[0]
    return [lambda name: state()[0], lambda name: state()[1]]


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(call: Call) -> Many:
    """All layers, directions and steps."""
    if "data" in call.arguments:
        raise Refused("packed sequences have no counterpart; pad them")
    if call.get("train", False) and call.get("dropout", 0.0):
        raise Refused("it draws at random in training mode; export the model after model.eval()")
    lstm = call.packet == "lstm"

    @cache
    def run() -> tuple[list[Value], list[State]]:
        return _unrolled(call, call["hx"] if lstm else [call["hx"]])

    def last(name: str, which: int) -> Value:
        return _stacked(call.within(name), [state[which] for state in run()[1]], False)

    def sequence(name: str) -> Value:
        return _stacked(call.within(name), run()[0], bool(call["batch_first"]))

    states = ("h_n", "c_n") if lstm else ("h_n",)
    finals = [lambda _, k=k, n=n: last(f"{call.name}.{n}", k) for k, n in enumerate(states)]  # type: ignore[misc]
    return [lambda _: sequence(call.name), *finals]


def _unrolled(call: Call, initial: Sequence[Value]) -> tuple[list[Value], list[State]]:
    """The last layer's output at each step, and the last state of every layer and direction."""
    directions, layers = 1 + int(call["bidirectional"]), int(call["num_layers"])
    steps, finals = _steps(call), []
    for layer in range(layers):
        outputs: list[list[Value]] = []
        for direction in range(directions):
            k = layer * directions + direction
            prefix = call.name + (f".l{layer}" if layers > 1 else "") + (".reverse" if direction else "")
            state = tuple(_picked(call.within(f"{prefix}.initial"), x, k, n) for n, x in enumerate(initial))
            rows = _run(call, prefix, steps, state, _weights(call, k), bool(direction))
            finals.append(rows[0] if direction else rows[-1])
            outputs.append([row[0] for row in rows])
        steps = outputs[0]
        if directions > 1:
            name = call.name + (f".l{layer}" if layers > 1 else "")
            steps = [
                call.within(f"{name}.t{t}").emit("Concat", *both, part="both", axis=len(both[0].row) - 1)
                for t, both in enumerate(zip(*outputs, strict=True))
            ]
    return steps, finals


def _run(call: Call, prefix: str, steps: list[Value], state: State, w: Weights, backwards: bool) -> list[State]:
    """The state after each step, in the order of time."""
    found: list[State] = []
    for t in range(len(steps))[:: -1 if backwards else 1]:
        state = CELLS[call.packet](call.within(f"{prefix}.t{t}"), steps[t], state, w)
        found.append(state)
    return found[::-1] if backwards else found


def _weights(call: Call, k: int) -> Weights:
    """Those of the k-th pair of layer and direction."""
    params, pairs = call["params"], int(call["num_layers"]) * (1 + int(call["bidirectional"]))
    count = len(params) // pairs
    own = params[k * count : (k + 1) * count]
    biases = own[2:4] if call["has_biases"] else []
    projection = own[-1] if count == 2 + len(biases) + 1 else None
    return Weights(own[0], own[1], biases[:1], biases[1:], projection)


def _picked(call: Call, states: Value, k: int, which: int) -> Value:
    """The initial state of one layer and direction, of a tensor (layers, samples, hidden)."""
    part = "hc"[which]
    row = call.emit("Slice", states, part=f"{part}.slice", starts=[k], ends=[k + 1], axes=[0], steps=[1])
    return call.emit("Squeeze", row, part=part, axes=[0])


def _steps(call: Call) -> list[Value]:
    """The input at each step."""
    x = call["input"]
    if not call["batch_first"]:
        x = call.emit("Transpose", x, part="samples_first", perm=[1, 0, 2])
    count, width = x.row[1], x.row[2]
    flat = call.emit("Reshape", x, part="steps", shape=[x.shape[0], count * width])

    def cut(x: Value, begin: int, end: int) -> Value:
        return _columns(call, x, begin * width, end * width, f"steps{begin}")

    places = enumerate(in_blocks(flat, count, cut))
    return [_columns(call, block, k * width, (k + 1) * width, f"t{t}.x") for t, (block, k) in places]


def _columns(call: Call, x: Value, begin: int, end: int, part: str) -> Value:
    if (begin, end) == (0, x.row[1]):
        return x
    return call.emit("Slice", x, part=part, starts=[begin], ends=[end], axes=[1], steps=[1])


def _stacked(call: Call, rows: Sequence[Value], samples_first: bool) -> Value:
    """Rows of (samples, features) as (samples, rows, features), or with the rows first."""
    first = rows[0]
    flat = first if len(rows) == 1 else call.emit("Concat", *rows, part="joined", axis=1)
    shape = [first.shape[0], len(rows), first.row[1]]
    y = call.emit("Reshape", flat, part="" if samples_first or first.layout == PLAIN else "stacked", shape=shape)
    return y if samples_first else call.emit("Transpose", y, perm=[1, 0, 2])
