"""The geometry that convolutions and pooling share: where the windows lie on the spatial axes, and how many there are.

``pads`` follow ONNX: the beginnings of all spatial axes, then their ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Numbers", "geometry", "transposed_geometry"]

Numbers = Sequence[int] | None
_AUTO = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


def geometry(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Numbers = None,
    dilations: Numbers = None,
    pads: Numbers = None,
    auto_pad: str = "NOTSET",
) -> dict[str, Any]:
    """Defaults filled in, and ``auto_pad`` turned into pads: "strides", "dilations", "pads".

    Raises:
        ValueError: numbers that do not fit the spatial axes, or make no sense.
    """
    out = _checked(spatial, kernel, strides, dilations, pads, auto_pad)
    if auto_pad.startswith("SAME"):
        axes = zip(spatial, out["strides"], _reach(kernel, out["dilations"]), strict=True)
        out["pads"] = _shared_out([max(0, (-(-size // s) - 1) * s + r - size) for size, s, r in axes], auto_pad)
    return out


def transposed_geometry(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Numbers = None,
    dilations: Numbers = None,
    pads: Numbers = None,
    auto_pad: str = "NOTSET",
    output_padding: Numbers = None,
    output_shape: Numbers = None,
) -> tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]:
    """The geometry of the convolution of which a transposed one is the adjoint.

    Returns:
        the geometry, as :func:`geometry` gives it; the spatial sizes of the result, which that convolution reads; the
        positions it has there: the sizes of the input, or more where ``output_padding`` has room for another stride.

    Raises:
        ValueError: numbers that do not fit the spatial axes, or leave nothing of the result.
    """
    rank = len(kernel)
    out = _checked(spatial, kernel, strides, dilations, pads, auto_pad)
    steps, more = out["strides"], list(output_padding or (0,) * rank)
    wanted = list(output_shape) if output_shape else None
    if wanted is None and auto_pad.startswith("SAME"):
        wanted = [size * s for size, s in zip(spatial, steps, strict=True)]
    if len(more) != rank or min(more, default=0) < 0 or (wanted is not None and len(wanted) != rank):
        raise ValueError(f"output_padding {more} and output_shape {wanted}: expected {rank} numbers each, not negative")
    reach = _reach(kernel, out["dilations"])
    full = [s * (size - 1) + r for size, s, r in zip(spatial, steps, reach, strict=True)]
    if wanted is not None:
        total = [f + m - w for f, m, w in zip(full, more, wanted, strict=True)]
        # What is wanted beyond the reach of the input stays empty.
        more = [m + max(0, -t) for m, t in zip(more, total, strict=True)]
        out["pads"] = _shared_out([max(0, t) for t in total], auto_pad)
    result = tuple(
        f + m - out["pads"][k] - out["pads"][rank + k] for k, (f, m) in enumerate(zip(full, more, strict=True))
    )
    if min(result, default=1) < 1:
        raise ValueError(f"pads {out['pads']} leave {result} of a result of {full}")
    return out, result, tuple(size + m // s for size, m, s in zip(spatial, more, steps, strict=True))


def _checked(
    spatial: Sequence[int], kernel: Sequence[int], strides: Numbers, dilations: Numbers, pads: Numbers, auto_pad: str
) -> dict[str, Any]:
    rank = len(kernel)
    out = {
        "strides": tuple(strides or (1,) * rank),
        "dilations": tuple(dilations or (1,) * rank),
        "pads": tuple(pads or (0,) * (2 * rank)) if auto_pad == "NOTSET" else (0,) * (2 * rank),
    }
    if auto_pad not in _AUTO:
        raise ValueError(f"auto_pad: got {auto_pad!r:.40}, expected one of {', '.join(_AUTO)}")
    # Windows are strided views, which numpy does not keep within the array.
    lengths = (len(spatial), len(out["strides"]), len(out["dilations"]), len(out["pads"]) / 2)
    if any(length != rank for length in lengths):
        raise ValueError(f"windows of {rank} axes over {len(spatial)}, with {out}")
    if min((*kernel, *out["strides"], *out["dilations"]), default=1) < 1 or min(out["pads"], default=0) < 0:
        raise ValueError(f"windows with kernel {tuple(kernel)} and {out}, where none may be negative or 0")
    return out


def _reach(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """How many entries of an axis a window spans."""
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]


def _shared_out(total: Sequence[int], auto_pad: str) -> tuple[int, ...]:
    """Pads of these sums; an odd one is at the end with SAME_UPPER, else at the beginning."""
    small = [t // 2 for t in total]
    large = [t - s for t, s in zip(total, small, strict=True)]
    return (*small, *large) if auto_pad == "SAME_UPPER" else (*large, *small)
