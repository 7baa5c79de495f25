"""Mean functions of vertices: the vocabulary of computation graphs, named and defined as ONNX names and defines it.

Two liberties are taken.  What ONNX passes as a constant integer input (shapes, axes, pads) is an attribute here, and
``Gemm`` takes any number of leading axes.  ``Linear`` is the one op of our own: the textbook linear-Gaussian mean.
"""

from gbn.ops import contraction, convolution, elementwise, normalization, reduction, structure
from gbn.ops.base import OPS, Maps, Op, get, op

__all__ = [
    "OPS",
    "Maps",
    "Op",
    "contraction",
    "convolution",
    "elementwise",
    "get",
    "normalization",
    "op",
    "reduction",
    "structure",
]
