"""Control flow that is settled when the graph is read: branches on constants, loops of constant length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from converters._onnx_call import Call, Failed, Value, rule
from converters._onnx_scope import Scope
from converters._plates import Refused
from converters._rules import in_blocks

__all__: list[str] = []

_TURNS = 2_000
# Exporters write a loop that ends by its condition as one of this many turns, or more.
_ENDLESS = 2**31 - 1


def _scalar(value: Value, what: str) -> int:
    if not value.known:
        raise Refused(f"{what} is computed from the data")
    first, second = (array.reshape(-1) for array in value.arrays)
    if len(first) != 1 or first[0] != second[0]:
        raise Refused(f"{what} depends on the number of samples")
    return int(first[0])


def _run(
    call: Call, graph: onnx.GraphProto, given: Sequence[Value | None], prefix: str, names: dict[str, str]
) -> Scope:
    """A subgraph with values for its inputs."""
    scope = call.scope.block(prefix, names)
    for tensor in graph.initializer:
        call.builder.add_tensor(tensor, scope)
    if len(given) != len(graph.input):
        raise Refused(f"its body takes {len(graph.input)} values, the node gives {len(given)}")
    for info, value in zip(graph.input, given, strict=True):
        scope.define(info.name, value)
    call.builder.run(graph.node, scope, [info.name for info in graph.output])
    return scope


def _result(scope: Scope, name: str) -> Value:
    if name not in scope:
        raise Refused(f"its body does not compute {name!r}")
    value = scope.get(name)
    if value is None:
        raise Failed
    return value


@rule("If")
def _if(call: Call) -> list[Value | None]:
    """The branch that its condition, a constant, takes."""
    branch = "then_branch" if _scalar(call[0], "its condition") else "else_branch"
    graph = call.attribute(branch)
    names = {info.name: name for info, name in zip(graph.output, call.names, strict=False) if name}
    scope = _run(call, graph, [], f"{call.label()}.", names)
    return [_result(scope, info.name) for info in graph.output]


@rule("Loop")
def _loop(call: Call) -> list[Value | None]:
    """The body, as often as its constant trip count and conditions say."""
    graph, states = call.attribute("body"), list(call.inputs[2:])
    limit = _ENDLESS if call.input(0) is None else _scalar(call[0], "its trip count")
    if _TURNS < limit < _ENDLESS:
        raise Refused(f"it takes {limit} turns, more than {_TURNS}")
    going = call.input(1) is None or bool(_scalar(call[1], "its condition"))
    scans: list[list[Value]] = [[] for _ in graph.output[1 + len(states) :]]
    turn = 0
    while going and turn < limit:
        if turn == _TURNS:
            raise Refused(f"it takes more than {_TURNS} turns")
        number = Value.of(call.label("turn"), np.array(turn, dtype=np.int64))
        condition = Value.of(call.label("condition"), np.array(True))
        scope = _run(call, graph, [number, condition, *states], f"{call.label()}.{turn}.", {})
        results = [_result(scope, info.name) for info in graph.output]
        going = bool(_scalar(results[0], "the condition for another turn"))
        states = list(results[1 : 1 + len(states)])
        for scan, result in zip(scans, results[1 + len(states) :], strict=True):
            scan.append(result)
        turn += 1
    return [*states, *(_stacked(call, scan, 0, len(states) + k) for k, scan in enumerate(scans))]


@rule("Scan")
def _scan(call: Call) -> list[Value | None]:
    """The body, once for each entry of the axes that it scans."""
    if call.node.version < 9:
        raise Refused("Scan of operator set 8 is not supported; convert the model to a newer one")
    graph, count = call.attribute("body"), int(call.attribute("num_scan_inputs"))
    states, inputs = list(call.inputs[:-count]), [call[k] for k in range(len(call.inputs) - count, len(call.inputs))]
    axes = [call.axis(a, x.rank) for a, x in zip(call.attribute("scan_input_axes", [0] * count), inputs, strict=True)]
    lengths = {x.shapes[0][a] for a, x in zip(axes, inputs, strict=True)}
    if len(lengths) != 1 or lengths != {x.shapes[1][a] for a, x in zip(axes, inputs, strict=True)}:
        raise Refused("the axes that it scans differ in length, or hold the samples")
    (length,) = lengths
    if length > _TURNS:
        raise Refused(f"it takes more than {_TURNS} turns")
    backward = call.attribute("scan_input_directions", [0] * count)
    rows = [_rows(call, x, axis, length) for x, axis in zip(inputs, axes, strict=True)]
    rows = [row[::-1] if back else row for row, back in zip(rows, backward, strict=True)]
    scans: list[list[Value]] = [[] for _ in graph.output[len(states) :]]
    for turn in range(length):
        given = [*states, *(row[turn] for row in rows)]
        scope = _run(call, graph, given, f"{call.label()}.{turn}.", {})
        results = [_result(scope, info.name) for info in graph.output]
        states = list(results[: len(states)])
        for scan, result in zip(scans, results[len(states) :], strict=True):
            scan.append(result)
    out_axes = call.attribute("scan_output_axes", [0] * len(scans))
    turned = call.attribute("scan_output_directions", [0] * len(scans))
    ordered = [scan[::-1] if back else scan for scan, back in zip(scans, turned, strict=True)]
    stacked = (_stacked(call, s, a, len(states) + k) for k, (s, a) in enumerate(zip(ordered, out_axes, strict=True)))
    return [*states, *stacked]


def _stacked(call: Call, values: Sequence[Value], axis: int, output: int) -> Value | None:
    """Values side by side along a new axis."""
    if output >= len(call.wanted) or not call.wanted[output]:
        return None
    if not values:
        raise Refused("it takes no turn, so one of its results is empty")
    axis = call.axis(axis, values[0].rank + 1)
    rows = [call.emit("Unsqueeze", value, part="row", output=output, axes=[axis]) for value in values]
    return call.emit("Concat", *rows, output=output, axis=axis)


def _rows(call: Call, x: Value, axis: int, length: int) -> list[Value]:
    places = in_blocks(x, length, lambda x, begin, end: call.cut(x, begin, end, axis, "entries"))
    return [call.entry(block, axis, k, "entry") for block, k in places]
