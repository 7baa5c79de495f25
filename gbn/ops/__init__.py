"""Mean functions of vertices: the vocabulary of computation graphs, named and defined as ONNX names and defines it.

Liberties are taken.  What ONNX passes as a constant integer input (shapes, axes, pads) is an attribute here, and
``Gemm`` takes any number of leading axes.  Every array has the one dtype of its net: truth values are 0 and 1, integers
are whole numbers.  ``Linear`` is the one op of our own: the textbook linear-Gaussian mean.
"""

from gbn.ops import (
    arithmetic,
    contraction,
    convolution,
    einsum,
    elementwise,
    indexing,
    logic,
    normalization,
    pooling,
    reduction,
    resize,
    structure,
)
from gbn.ops.base import OPS, Maps, Op, get, op

__all__ = [
    "OPS",
    "Maps",
    "Op",
    "arithmetic",
    "contraction",
    "convolution",
    "einsum",
    "elementwise",
    "get",
    "indexing",
    "logic",
    "normalization",
    "op",
    "pooling",
    "reduction",
    "resize",
    "structure",
]
