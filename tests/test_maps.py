"""gbn.maps: every map against itself and against numpy on dense arrays; the ops' tests use them in all other forms."""

from dataclasses import fields

import numpy as np
import pytest
from scipy import sparse

from gbn import maps
from gbn.maps import (
    Adjoint,
    Chain,
    Contraction,
    Convolution,
    Cumulative,
    Diagonal,
    Einsum,
    Permute,
    Reshape,
    Rowwise,
    Select,
    Slice,
    Sparse,
    Sum,
    TransposedKernel,
    WindowSelect,
    WindowSum,
)
from gbn.testing import check_map

rng = np.random.default_rng(0)
POOL = {"kernel": (2, 2), "strides": (1, 2), "dilations": (1, 1), "pads": (0, 1, 0, 0)}
CONV = {"strides": (2,), "dilations": (1,), "pads": (1, 0), "groups": 2}


TRIANGLE = np.triu(np.ones((3, 4)))


def normal(*shape):
    return rng.standard_normal(shape)


MAPS = {
    "reshape": Reshape((2, 6), (3, 4)),
    "reshape to a scalar": Reshape((1,), ()),
    "permute": Permute((2, 3, 4), (2, 0, 1)),
    "permute inside": Permute((2, 3, 4), (0, 2, 1)),
    "slice": Slice((2, 7), (slice(None), slice(5, 0, -2))),
    "empty slice": Slice((2, 7), (slice(None), slice(3, 3))),
    "select with repeats": Select((2, 3), np.array([[0, 0, 5], [4, 4, 4]])),
    "select, a part": Select((2, 3), np.array([[4], [1]])),
    "select, nothing": Select((2, 3), np.zeros((0, 2), int)),
    "select rows": Select((2, 3, 4), np.array([[5, 1], [0, 2]]), carried=1),
    "select rows with repeats": Select((3, 4), np.array([[2, 0], [2, 2]]), carried=1),
    "sparse": Sparse(sparse.csr_array(rng.standard_normal((5, 3)) * (rng.random((5, 3)) < 0.6)), (2, 3, 4), 1),
    "running sums": Cumulative((2, 3, 4), 1),
    "running sums, exclusive": Cumulative((2, 3, 4), 2, exclusive=True),
    "running sums from the end": Cumulative((2, 3), 1, reverse=True),
    "running sums from the end, exclusive": Cumulative((2, 3), 0, True, True),
    "einsum": Einsum((2, 3), (2, 4), (0, 1), (0, 2), (normal(3, 4),), ((1, 2),)),
    "einsum, summed and spread": Einsum((2, 3), (4, 2), (0, 1), (2, 0), (normal(4), normal(2, 4)), ((2,), (0, 2))),
    "einsum of one operand": Einsum((2, 3), (), (0, 1), (), (), ()),
    "sum": Sum((Diagonal(TRIANGLE, (3, 4), (3, 4)), Diagonal(1 - TRIANGLE, (3, 4), (3, 4)))),
    "diagonal": Diagonal(normal(3, 4), (3, 4), (3, 4)),
    "diagonal, a number": Diagonal(-2.0, (3, 4), (3, 4)),
    "diagonal, one": Diagonal(1.0, (3, 4), (3, 4)),
    "diagonal, broadcast": Diagonal(normal(2, 3, 4), (3, 1), (2, 3, 4)),
    "diagonal, small factor": Diagonal(normal(4), (3, 1), (3, 4)),
    "diagonal, from a scalar": Diagonal(normal(3, 4), (), (3, 4)),
    "diagonal, channels": Diagonal(normal(2, 3, 2, 2), (3,), (2, 3, 2, 2), (3, 1, 1)),
    "adjoint": Adjoint(Diagonal(normal(2, 3, 4), (3, 1), (2, 3, 4))),
    "adjoint of slice": Adjoint(Slice((2, 7), (slice(None), slice(1, 4)))),
    "left": Contraction(normal(4, 5), "left", (3, 4), (3, 5)),
    "left, transposed": Contraction(normal(4, 5), "left", (4, 3), (3, 5), True),
    "left, batches of the variable": Contraction(normal(4, 5), "left", (2, 3, 4), (2, 3, 5)),
    "left, batches of the factor": Contraction(normal(2, 4, 5), "left", (3, 4), (2, 3, 5)),
    "left, batches of both": Contraction(normal(2, 1, 4, 5), "left", (6, 3, 4), (2, 6, 3, 5)),
    "left, batch of one": Contraction(normal(2, 4, 5), "left", (1, 3, 4), (2, 3, 5)),
    "right": Contraction(normal(3, 4), "right", (4, 5), (3, 5)),
    "right, transposed": Contraction(normal(3, 4), "right", (5, 4), (3, 5), True),
    "right, batches of the factor": Contraction(normal(2, 6, 3, 4), "right", (4, 5), (2, 6, 3, 5)),
    "right, transposed, batches of the factor": Contraction(normal(2, 3, 4), "right", (5, 4), (2, 3, 5), True),
    "right, batches of the variable": Contraction(normal(3, 4), "right", (2, 4, 5), (2, 3, 5)),
    "right, batches of both": Contraction(normal(6, 3, 4), "right", (2, 1, 4, 5), (2, 6, 3, 5)),
    "convolution of an image": Convolution(normal(4, 1, 3), "input", (2, 2, 6), (2, 4, 3), CONV),
    "convolution of a kernel": Convolution(normal(2, 2, 6), "weight", (4, 1, 3), (2, 4, 3), CONV),
    "transposed convolution of a kernel": TransposedKernel(normal(2, 4, 3), (4, 1, 3), (2, 2, 6), CONV),
    "window sum": WindowSum((2, 3, 4, 5), (2, 3, 3, 3), POOL),
    "window select": WindowSelect(rng.integers(0, 2, (2, 3, 3, 3)) + 2, (2, 3, 4, 5), POOL),
    "rowwise": Rowwise(normal(3, 4), ((normal(3, 4), normal(4)), (-1.0, normal(3, 4))), (-1,), (3, 4)),
    "rowwise, two axes": Rowwise(1.0, ((normal(2, 3, 4), 0.5),), (-2, -1), (2, 3, 4)),
    "rowwise across samples": Rowwise(normal(3, 4), ((normal(3, 4), normal(3, 4)),), (-2,), (3, 4)),
    "chain": Chain(
        (Reshape((2, 6), (4, 3)), Contraction(normal(3, 5), "left", (4, 3), (4, 5)), Reshape((4, 5), (2, 10)))
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_map_agrees_with_itself(name):
    check_map(MAPS[name], name=name, rng=np.random.default_rng(1))


def single(value):
    """A map's field in single precision."""
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        return value.astype(np.float32)
    if isinstance(value, maps.LinearMap):
        return type(value)(**{field.name: single(getattr(value, field.name)) for field in fields(value)})
    return tuple(map(single, value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", MAPS)
def test_map_keeps_single_precision(name):
    check_map(single(MAPS[name]), name=name, dtype=np.float32, rng=np.random.default_rng(1))


def test_every_map_is_here():
    named = {getattr(maps, name) for name in maps.__all__} - {maps.LinearMap}
    classes = {each for each in named if isinstance(each, type) and issubclass(each, maps.LinearMap)}
    assert {type(each) for each in MAPS.values()} == classes


@pytest.mark.parametrize("name", [name for name in MAPS if name.startswith(("left", "right"))])
def test_contraction_against_matmul(name):
    each, v = MAPS[name], normal(*MAPS[name].in_shape)
    matrix = v.swapaxes(-1, -2) if each.transposed else v
    want = matrix @ each.fixed if each.side == "left" else each.fixed @ matrix
    np.testing.assert_allclose(each.push(v), want, atol=1e-12)


def test_diagonal_against_broadcasting():
    each, v = MAPS["diagonal, broadcast"], normal(3, 1)
    np.testing.assert_array_equal(each.push(v), each.factor * v)
    np.testing.assert_array_equal(MAPS["diagonal, channels"].push(np.ones(3)), MAPS["diagonal, channels"].factor)


def test_rowwise_against_its_formula():
    each, v = MAPS["rowwise"], normal(3, 4)
    (u, w), (s, t) = each.terms
    want = [each.diagonal[n] * v[n] + u[n] * (w @ v[n]) + s * (t[n] @ v[n]) for n in range(3)]
    np.testing.assert_allclose(each.push(v), want, atol=1e-12)


def test_moving_maps_against_numpy():
    v = normal(2, 3, 4)
    np.testing.assert_array_equal(MAPS["permute"].push(v), v.transpose(2, 0, 1))
    np.testing.assert_array_equal(MAPS["slice"].push(normal(2, 7)[:, :] * 0 + np.arange(7.0)), [[5, 3, 1]] * 2)
    np.testing.assert_array_equal(
        MAPS["select with repeats"].push(np.arange(6.0).reshape(2, 3)), [[0, 0, 5], [4, 4, 4]]
    )
    np.testing.assert_array_equal(MAPS["select with repeats"].pull(np.ones((2, 3))), [[2, 0, 0], [0, 3, 1]])


def test_mixing_maps_against_numpy():
    v = normal(2, 3, 4)
    matrix = MAPS["sparse"].matrix.toarray()
    np.testing.assert_allclose(MAPS["sparse"].push(v), np.einsum("kj,njc->nkc", matrix, v), atol=1e-12)
    np.testing.assert_allclose(MAPS["running sums"].push(v), np.cumsum(v, 1), atol=1e-12)
    pairs = np.array([[1.0, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(MAPS["running sums from the end, exclusive"].push(pairs), [[4, 5, 6], [0, 0, 0]])
    np.testing.assert_array_equal(MAPS["running sums from the end"].push(pairs), [[6, 5, 3], [15, 11, 6]])


def test_scattered_entries_are_added_up():
    """As np.add.at does it, for rows as for numbers, and with leading axes."""
    for carried in (0, 1):
        index = rng.integers(0, 7, (5, 6))
        each, g = Select((7, 3)[: 1 + carried], index, carried), normal(2, 4, 5, 6, *(3,) * carried)
        want = np.zeros((2, 4, *each.in_shape))
        np.add.at(want, (slice(None), slice(None), index), g)
        np.testing.assert_allclose(each.pull(g), want, atol=1e-12)


def test_chain_applies_the_first_map_first():
    a, b = normal(4, 3), normal(3, 2)
    chain = Chain((Contraction(a, "left", (5, 4), (5, 3)), Contraction(b, "left", (5, 3), (5, 2))))
    v = normal(5, 4)
    np.testing.assert_allclose(chain.push(v), v @ a @ b)
    np.testing.assert_allclose(chain.pull(v @ a @ b), v @ a @ b @ b.T @ a.T)
    assert (chain.in_shape, chain.out_shape) == ((5, 4), (5, 2))


def test_blocks_are_shared_by_the_samples_of_a_matrix_product():
    weight = normal(4, 5)
    blocks = Contraction(weight, "left", (30, 4), (30, 5)).blocks()
    np.testing.assert_array_equal(blocks, weight.T[None])


def test_the_base_class_leaves_three_methods_to_its_maps():
    bare = maps.LinearMap()
    for call in (lambda: bare.push(normal(2)), lambda: bare.pull(normal(2)), bare.squared):
        with pytest.raises(NotImplementedError):
            call()
