"""Products that an equation describes: one letter for each axis, the samples first."""

from __future__ import annotations

import re

from converters._keras.activations import activated
from converters._keras.call import Call, Refused, rule
from converters._keras.records import Shape

__all__: list[str] = []


@rule("EinsumDense")
def _einsum_dense(call: Call) -> str:
    """φ(Σ x K + b) by an equation such as "abc,cd->abd".  K: a size for each of its letters."""
    config, event = call.config, call.shape(call.input)
    entered, kernel, left = _terms(config.text("equation"), len(event) + 1)
    sizes = dict(zip(entered[1:], event, strict=True))
    sizes |= _output_sizes(call, left, sizes)
    unknown = set(kernel) - set(sizes)
    if unknown:
        raise Refused(f"equation: the sizes of {sorted(unknown)} are in neither the input nor output_shape")
    axes = config.get("bias_axes")
    if axes is not None and (not isinstance(axes, str) or not axes or not set(axes) <= set(left[1:])):
        raise Refused(f"bias_axes: got {axes!r}, expected letters of {left[1:]!r}")
    first = min(map(left.index, axes)) if axes else 0
    bias: Shape | None = tuple(sizes[k] if k in axes else 1 for k in left[first:]) if axes else None
    weight, *rest = call.variables(kernel=tuple(sizes[letter] for letter in kernel), bias=bias)

    def product(part: str) -> str:
        inner = f"{part}.product" if part else "product"
        equation = f"{entered},{kernel}->{left}"
        y = call.emit("Einsum", call.input, weight, part=inner if rest else part, equation=equation)
        return call.emit("Add", y, *rest, part=part) if rest else y

    return activated(call, product, config.get("activation"))


def _terms(equation: str, rank: int) -> tuple[str, str, str]:
    """Letters of the input, the kernel and the result; "..." stands for as many letters as there are axes."""
    match = re.fullmatch(r"([a-zA-Z.]+),([a-zA-Z.]+)->([a-zA-Z.]+)", equation.replace(" ", ""))
    if match is None:
        raise Refused(f"equation: got {equation!r}, expected one such as 'abc,cd->abd'")
    entered, kernel, left = match.groups()
    if "..." in entered:
        free = [letter for letter in "ZYXWVUTSRQPONMLK" if letter not in equation]
        spare = "".join(free[: max(0, rank - len(entered) + 3)])
        entered, left = entered.replace("...", spare), left.replace("...", spare)
    unique = all(len(set(term)) == len(term) for term in (entered, kernel, left))
    if "." in entered + kernel + left or len(entered) != rank or not unique:
        raise Refused(f"equation: got {equation!r} for an input with {rank} axes")
    if left[:1] != entered[:1] or entered[0] in kernel:
        raise Refused(f"equation: {equation!r} does not leave the samples first")
    return entered, kernel, left


def _output_sizes(call: Call, left: str, known: dict[str, int]) -> dict[str, int]:
    """Sizes of the result's letters; null in output_shape stands for the input's size."""
    shape = call.config.get("output_shape")
    sizes = [shape] if isinstance(shape, int) else shape
    if not isinstance(sizes, (list, tuple)) or len(sizes) > len(left) - 1:
        raise Refused(f"output_shape: got {shape!r}, expected sizes for {left[1:]!r}")
    # Axes that an ellipsis stands for are not in output_shape.
    named = dict(zip(reversed(left), reversed(sizes), strict=False))
    found = {letter: known.get(letter) if size is None else size for letter, size in named.items()}
    if not all(type(size) is int and size > 0 for size in found.values()):
        raise Refused(f"output_shape: got {shape!r}, expected sizes for {left[1:]!r}")
    return {letter: int(size) for letter, size in found.items() if size is not None}
