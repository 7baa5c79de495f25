"""Recurrent layers as one operation each while torch traces a module.

Torch follows every step of them through its symbolic machinery, which takes it some 40 ms a step, only for the steps
to be put together again as ``aten::lstm``.  Here the layer is an operation that it need not look into, of the same
arguments, whose rule is that of the original.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["NAMESPACE", "whole_layers"]

NAMESPACE = "gbn_traced"
_KINDS = {"lstm": 2, "gru": 1, "rnn_tanh": 1, "rnn_relu": 1}
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")


def _define(name: str, states: int) -> None:
    """An operation with the schema of the original's overload for padded input."""
    original = getattr(torch.ops.aten, name).input
    _LIBRARY.define(str(original._schema).removeprefix("aten::").replace(".input(", "(", 1))

    def shapes(x: Any, hx: Any, params: Any, has_biases: bool, num_layers: int, dropout: float, train: bool,
               bidirectional: bool, batch_first: bool) -> Any:  # fmt: skip
        initial = list(hx) if states == 2 else [hx]
        width = initial[0].shape[-1] * (2 if bidirectional else 1)
        return (x.new_empty(*x.shape[:-1], width), *[x.new_empty(h.shape) for h in initial])

    def compute(*args: Any) -> Any:
        return original(*args)

    _LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", shapes, lib=_LIBRARY)


for _name, _states in _KINDS.items():
    _define(_name, _states)


@contextlib.contextmanager
def whole_layers() -> Iterator[None]:
    """While it lasts, recurrent layers call the operations defined here."""
    functions = torch._VF  # type: ignore[attr-defined]
    originals = {name: getattr(functions, name) for name in _KINDS}
    for name, original in originals.items():
        setattr(functions, name, _chosen(name, original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(functions, name, original)


def _chosen(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    operation = getattr(getattr(torch.ops, NAMESPACE), name)
    pair = _KINDS[name] == 2

    def call(*args: Any) -> Any:
        packed = isinstance(args[1], torch.Tensor) if pair else isinstance(args[2], torch.Tensor)
        return original(*args) if packed else operation(*args)

    return call
