"""Structured linear maps: the Jacobians of ops, and the weights of linear-Gaussian CPDs.

A map sends an array of its parent's full shape to one of its child's full shape (the sample axis included, as the
arrays of the network carry it)::

    push(v)     J v      shape: (*lead, *in_shape)  -> (*lead, *out_shape)
    pull(g)     Jᵀ g     shape: (*lead, *out_shape) -> (*lead, *in_shape)

Any leading axes are carried along, so that many vectors travel in one call.  When the parent is shared by the samples
(a weight) its ``in_shape`` has no sample axis, and ``pull`` sums over the samples.  Maps never store the dense matrix;
``dense()`` builds it for tests and small examples.  Results may share memory with the argument: treat them as
read-only.
"""

from gbn.maps.core import (
    Adjoint,
    Array,
    Chain,
    Contraction,
    Diagonal,
    LinearMap,
    Permute,
    Reshape,
    Rowwise,
    Shape,
    Slice,
    Sum,
)
from gbn.maps.einsum import Einsum
from gbn.maps.indexing import Cumulative, Select, Sparse
from gbn.maps.windows import Convolution, TransposedKernel, WindowSelect, WindowSum

__all__ = [
    "Adjoint",
    "Array",
    "Chain",
    "Contraction",
    "Convolution",
    "Cumulative",
    "Diagonal",
    "Einsum",
    "LinearMap",
    "Permute",
    "Reshape",
    "Rowwise",
    "Select",
    "Shape",
    "Slice",
    "Sparse",
    "Sum",
    "TransposedKernel",
    "WindowSelect",
    "WindowSum",
]
