"""Arguments held against the signature of the function that takes them: names, and types as they are annotated."""

from __future__ import annotations

import ast
import builtins
import numbers
import reprlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from inspect import Parameter, signature
from typing import Any

import numpy as np

from gbn.errors import ArgumentTypeError, UnknownNameError

__all__ = ["check_arguments", "check_options", "options_of"]

_BOOLS = (bool, np.bool_)
# What an annotation is taken for, where that is more or less than an instance of it.
_MEANINGS: dict[Any, Callable[[Any], bool]] = {
    Any: lambda _: True,
    int: lambda v: isinstance(v, numbers.Integral) and not isinstance(v, _BOOLS),
    float: lambda v: isinstance(v, numbers.Real) and not isinstance(v, _BOOLS),
    bool: lambda v: isinstance(v, _BOOLS),
    tuple: lambda v: isinstance(v, tuple | list),
    # Sets and arrays of names serve as well.
    Sequence: lambda v: isinstance(v, Iterable),
}


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Names and defaults of the parameters that are given by name alone."""
    return {p.name: p.default for p in _parameters(function).values() if p.kind is p.KEYWORD_ONLY}


def check_options(
    function: Callable[..., Any], given: Mapping[str, Any], owner: str, without: Collection[str] = ()
) -> None:
    """Hold options against the parameters that a function takes by name alone.

    Args:
        owner: whose options they are, for messages: "engine 'exact'".
        without: parameters that are no options here.

    Raises:
        UnknownNameError: an option that it does not have, with near matches.
        ArgumentTypeError: options of other types, all of them.
    """
    known = [name for name in options_of(function) if name not in without] if given else []
    for option in given:
        if option not in known:
            raise UnknownNameError(f"option of {owner}", option, known)
    check_arguments(function, given)


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Hold arguments against a function's annotations; those that cannot be looked up are not judged.

    Raises:
        ArgumentTypeError: arguments of other types, all of them.
    """
    parameters, wrong = _parameters(function), []
    for name, value in given.items():
        text = parameters[name].annotation
        if not _fits(value, _parsed(text), vars(sys.modules[function.__module__])):
            wrong.append(f"{name}: got {reprlib.repr(value)} ({type(value).__name__}), expected {text}")
    if wrong:
        raise ArgumentTypeError("; ".join(wrong))


@cache
def _parameters(function: Callable[..., Any]) -> Mapping[str, Parameter]:
    return signature(function).parameters


@cache
def _parsed(annotation: Any) -> ast.expr:
    # One that is no text, as in a module without postponed annotations, is not judged.
    return ast.parse(annotation if isinstance(annotation, str) else "object", mode="eval").body


def _fits(value: Any, node: ast.expr, names: Mapping[str, Any]) -> bool:
    """Whether a value is what an annotation says, in the names of its module."""
    if isinstance(node, ast.BinOp):
        return _fits(value, node.left, names) or _fits(value, node.right, names)
    if isinstance(node, ast.Constant):
        return node.value is not None or value is None
    if isinstance(node, ast.Subscript):
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return _fits(value, node.value, names) and _items_fit(value, items, names)
    kind = _looked_up(node, names)
    if kind in _MEANINGS:
        return _MEANINGS[kind](value)
    return not isinstance(kind, type) or isinstance(value, kind)


def _items_fit(value: Any, items: Sequence[ast.expr], names: Mapping[str, Any]) -> bool:
    """Whether what a container holds is what its annotation says; an iterator is left alone."""
    if isinstance(value, Mapping) and len(items) == 2:
        return all(_fits(k, items[0], names) and _fits(v, items[1], names) for k, v in value.items())
    if isinstance(value, tuple | list) and len(items) > 1:
        return len(value) == len(items) and all(_fits(v, item, names) for v, item in zip(value, items, strict=True))
    return not isinstance(value, Collection) or all(_fits(v, items[0], names) for v in value)


def _looked_up(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Attribute):
        return getattr(_looked_up(node.value, names), node.attr, None)
    return names.get(node.id, getattr(builtins, node.id, None)) if isinstance(node, ast.Name) else None
