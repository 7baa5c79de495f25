"""Descriptions of linear-Gaussian Bayes nets by their variables."""

from __future__ import annotations

import graphlib
from typing import Any

import numpy as np

from converters._spec.layered import entry, keys
from converters._spec.nodes import Faults, Node
from gbn.errors import GbnError, near_matches
from gbn.net import GaussianBayesNet

__all__ = ["VARIABLE", "bayes_net"]

VARIABLE = ("parents", "bias", "variance", "size")
Array = np.ndarray[Any, Any]


def bayes_net(top: Node, faults: Faults) -> GaussianBayesNet:
    """The net of ``variables``, each N(Σ_p W_p v_p + bias, variance).

    Raises:
        ConversionError: listing every fault.
    """
    net = GaussianBayesNet()
    keys(top, ("variables",), faults)
    variables = top.value["variables"]
    if not isinstance(variables.value, dict):
        faults.add(variables, "expected a mapping of names to variables")
        faults.check()
    wrong = {name for name, node in variables.value.items() if not _sound(node, variables, faults)}
    for name in _ordered(variables, wrong, faults):
        node = variables.value[name]
        parents = _parents(node)
        if name in wrong or any(parent not in net for parent in parents):
            continue
        try:
            _add(net, name, node, parents)
        except (GbnError, TypeError, ValueError) as error:
            faults.add(node, str(error))
    faults.check()
    return net


def _sound(node: Node, variables: Node, faults: Faults) -> bool:
    """Whether an entry has the form of a variable and its parents are variables."""
    before = len(faults.found)
    if keys(node, VARIABLE, faults):
        given = node.value.get("parents", Node({}, ""))
        if not isinstance(given.value, dict):
            faults.add(given, "expected a mapping of parents to their weights")
        else:
            for parent, weight in given.value.items():
                if parent not in variables.value:
                    faults.add(weight, f"unknown parent {parent!r}; {near_matches(parent, variables.value)}")
        size = entry(node, "size", 1)
        if type(size) is not int or size < 1:
            faults.add(node.value["size"], f"got {size!r}, expected a whole number from 1 on")
    return len(faults.found) == before


def _parents(node: Node) -> dict[str, Any]:
    given = entry(node, "parents", {}) if isinstance(node.value, dict) else {}
    return given if isinstance(given, dict) else {}


def _ordered(variables: Node, wrong: set[str], faults: Faults) -> list[str]:
    """The variables, parents first."""
    graph = {name: [p for p in _parents(node) if p in variables.value] for name, node in variables.value.items()}
    try:
        return list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        circle = error.args[1]
        faults.add(variables.value[circle[0]], f"got the circle {' -> '.join(circle)}, expected a graph without one")
        return []


def _add(net: GaussianBayesNet, name: str, node: Node, parents: dict[str, Any]) -> None:
    bias, variance = np.atleast_1d(_numbers(entry(node, "bias", 0.0), "bias")), entry(node, "variance")
    given = {parent: _numbers(weight, f"parents.{parent}") for parent, weight in parents.items()}
    rows = [len(weight) for weight in given.values() if weight.ndim == 2]
    size = max(
        [entry(node, "size", 1), len(bias), *rows, 0 if variance is None else np.ndim(variance) and len(variance)]
    )
    if "bias" not in node.value and size > 1:
        bias = np.zeros(size)
    if not parents and variance is None:
        if "bias" in node.value:
            raise ValueError("it has a bias and no parents, so it needs a variance to be the mean of")
        net.add_input(name, size)
        return
    weights = {parent: _matrix(weight, size, net[parent].size) for parent, weight in given.items()}
    before = set(net.vertices)
    net.add_linear(name, weights, bias=bias, cov=variance)
    for parameter in set(net.parameters) - before:
        net.describe(parameter, source=parameter)


def _matrix(weight: Array, child: int, parent: int) -> Array:
    """A weight as (child, parent); a flat one is a row, or the column of a parent with one entry."""
    return weight[:, None] if weight.ndim == 1 and parent == 1 and len(weight) == child else np.atleast_2d(weight)


def _numbers(value: Any, what: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{what}: expected numbers in rows of one length: {error}") from None
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{what}: got {str(value)[:40]}, expected numbers")
    return array.astype(np.float64)
