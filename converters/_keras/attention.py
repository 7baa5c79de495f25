"""Attention of Keras: scaled products of queries and keys choose among values."""

from __future__ import annotations

import math

import numpy as np

from converters._keras.call import Call, Refused, Result, rule
from converters._keras.records import Layer

__all__: list[str] = []

# What Keras adds to a score that is masked: its exponential is 0.
_MASKED = -1e9


@rule("MultiHeadAttention")
def _multi_head(call: Call) -> Result:
    """softmax(Q Kᵀ / √d) V for each head.  Queries: (targets, features); keys and values: (sources, features)."""
    config = call.config
    heads, size = config.integer("num_heads"), config.integer("key_dim")
    value_size = config.integer("value_dim", size)
    if config.flag("use_gate") or config.get("sliding_window"):
        raise Refused("use_gate and sliding_window have no counterpart")
    query, value, key = _sources(call)
    sides = ((query, "query", size), (key, "key", size), (value, "value", value_size))
    events = [call.shape(x) for x, _, _ in sides]
    if any(len(event) != 2 for event in events) or config.get("attention_axes") not in (None, [1], 1):
        raise Refused(f"its inputs have the events {events}, expected (steps, features), attended over the steps")
    q, k, v = (_project(call, x, part, heads, width) for x, part, width in sides)
    keys = call.emit("Transpose", k, part="key.columns", perm=[0, 1, 3, 2])
    root = call.constant("scale", 1 / math.sqrt(size))
    scaled = call.emit("Mul", q, root, part="query.scaled")
    scores = call.emit("MatMul", scaled, keys, part="products")
    if call.option("use_causal_mask"):
        mask = np.triu(np.full((events[0][0], events[1][0]), _MASKED), 1)
        scores = call.emit("Add", scores, call.constant("mask", mask), part="masked")
    weights = call.emit("Softmax", scores, part="scores", axis=-1)
    mixed = call.emit("MatMul", weights, v, part="mixed")
    result = _output(call, mixed, heads, value_size, events[0][1])
    return [result, weights] if call.option("return_attention_scores") else result


def _sources(call: Call) -> tuple[str, str, str]:
    """Query, value and key; the key is the value where it is left out."""
    call.option("query_mask"), call.option("value_mask"), call.option("key_mask")
    found = dict(zip(("query", "value", "key"), call.inputs, strict=False))
    for name in ("query", "value", "key"):
        given = call.option(name)
        if given is not None:
            found[name] = given.vertex
    if not {"query", "value"} <= set(found):
        raise Refused(f"it is called with {sorted(found)}, expected a query and a value")
    return found["query"], found["value"], found.get("key", found["value"])


def _child(call: Call, name: str) -> Layer:
    return call.layer.child(f"{name}_dense", "attention_output" if name == "output" else name)


def _project(call: Call, x: str, name: str, heads: int, width: int) -> str:
    """x K + b by heads.  K: (features, heads, width); result: (heads, steps, width)."""
    steps, features = call.shape(x)
    bias = (heads, width) if call.config.flag("use_bias", True) else None
    kernel, *rest = call.variables(_child(call, name), kernel=(features, heads, width), bias=bias)
    kernel = call.derived(kernel, "Reshape", "matrix", shape=[features, heads * width])
    rest = [call.derived(b, "Reshape", "vector", shape=[heads * width]) for b in rest]
    flat = call.emit("Gemm", x, kernel, *rest, part=name)
    split = call.emit("Reshape", flat, part=f"{name}.split", shape=[0, steps, heads, width])
    return call.emit("Transpose", split, part=f"{name}.heads", perm=[0, 2, 1, 3])


def _output(call: Call, mixed: str, heads: int, width: int, features: int) -> str:
    """Heads side by side, and an affine map of them.  K: (heads, width, *output)."""
    shape = call.config.get("output_shape")
    sizes = [features] if shape is None else [shape] if isinstance(shape, int) else list(shape)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise Refused(f"output_shape: got {shape!r}, expected sizes")
    size, steps = math.prod(sizes), call.shape(mixed)[1]
    bias = tuple(sizes) if call.config.flag("use_bias", True) else None
    kernel, *rest = call.variables(_child(call, "output"), kernel=(heads, width, *sizes), bias=bias)
    kernel = call.derived(kernel, "Reshape", "matrix", shape=[heads * width, size])
    joined = call.emit("Transpose", mixed, part="joined", perm=[0, 2, 1, 3])
    rows = call.emit("Reshape", joined, part="rows", shape=[0, steps, heads * width])
    if len(sizes) == 1:
        return call.emit("Gemm", rows, kernel, *rest)
    rest = [call.derived(b, "Reshape", "vector", shape=[size]) for b in rest]
    return call.emit("Reshape", call.emit("Gemm", rows, kernel, *rest, part="flat"), shape=[0, steps, *sizes])


@rule("Attention")
def _attention(call: Call) -> Result:
    """softmax(s Q Kᵀ) V with a learned scale s, or none."""
    config = call.config
    if config.text("score_mode", "dot") != "dot":
        raise Refused("only score_mode='dot' has a counterpart")
    query, value, *rest = call.inputs
    key = rest[0] if rest else value
    if any(len(call.shape(x)) != 2 for x in (query, key, value)):
        raise Refused("its inputs have other events than (steps, features)")
    scores = call.emit("MatMul", query, call.emit("Transpose", key, part="columns", perm=[0, 2, 1]), part="products")
    scale = call.variables(scale=() if config.flag("use_scale") else None)
    if scale:
        scores = call.emit("Mul", scores, scale[0], part="scaled")
    if call.option("use_causal_mask"):
        mask = np.triu(np.full((call.shape(query)[0], call.shape(key)[0]), _MASKED), 1)
        scores = call.emit("Add", scores, call.constant("mask", mask), part="masked")
    weights = call.emit("Softmax", scores, part="scores", axis=-1)
    result = call.emit("MatMul", weights, value)
    return [result, weights] if call.option("return_attention_scores") else result
