"""Arrays as pictures that are part of the document."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np

from gbn.display.html.markup import Markup, escape
from gbn.errors import ShapeError

__all__ = ["Limits", "data_uri", "image", "limits_of"]

Array = np.ndarray[Any, Any]
Limits = tuple[float, float]


def image(
    array: Any,
    *,
    limits: Limits | None = None,
    diverging: bool | None = None,
    scale: int = 4,
    caption: str = "",
) -> Markup:
    """An array as a picture that is part of the document.

    Args:
        array: shape (rows, columns), or (columns,) for one row; NaN is transparent.
        limits: values of the two ends (default: those of the array; symmetric about zero when diverging).
        diverging: blue for negative, white for zero, red for positive (default: where values are negative); else from
            black to white.
        scale: screen pixels a pixel.

    Raises:
        ShapeError: another number of axes.
    """
    values = np.atleast_2d(np.asarray(array, dtype=np.float64))
    if values.ndim != 2 or not values.size:
        raise ShapeError(f"image: got an array of shape {np.shape(array)}, expected (rows, columns)")
    if diverging is None:
        diverging = bool((values[np.isfinite(values)] < 0).any())
    source = data_uri(values, limits or limits_of(values, diverging), diverging)
    height, width = (scale * size for size in values.shape)
    label = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Markup(
        f'<figure class="gbn-image"><img src="{source}" width="{width}" height="{height}" '
        f'alt="{escape(caption or "array")}">{label}</figure>'
    )


def limits_of(values: Array, diverging: bool) -> Limits:
    """The values of the two ends of a scale: symmetric about zero when diverging."""
    known = values[np.isfinite(values)]
    if diverging or not known.size:
        bound = float(np.abs(known).max(initial=0))
        return -bound, bound
    return float(known.min()), float(known.max())


def data_uri(values: Array, limits: Limits, diverging: bool) -> str:
    """The address of a picture that is part of the document.  values: shape (rows, columns)."""
    return "data:image/png;base64," + base64.b64encode(_png(_colours(values, limits, diverging))).decode("ascii")


def _colours(values: Array, limits: Limits, diverging: bool) -> Array:
    """RGBA bytes.  Shape: (rows, columns, 4)."""
    low, high = limits
    known = np.isfinite(values)
    share = np.clip((np.where(known, values, low) - low) / (high - low if high > low else 1.0), 0, 1)
    if diverging and high <= low:
        share = np.full_like(share, 0.5)
    ends = np.array(
        [[33, 102, 172], [255, 255, 255], [178, 24, 43]] if diverging else [[0] * 3, [127.5] * 3, [255] * 3]
    )
    rgb = np.stack([np.interp(share, (0, 0.5, 1), ends[:, channel]) for channel in range(3)], axis=-1)
    return np.concatenate([np.rint(rgb), np.where(known, 255, 0)[..., None]], axis=-1).astype(np.uint8)


def _png(rgba: Array) -> bytes:
    """The bytes of a PNG file: 8 bits a channel, red, green, blue, opacity."""
    height, width = rgba.shape[:2]
    # Every row begins with the number of its filter: 0, none.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), rgba.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
