"""The size of a result told from shapes is the size of the result, and no input makes an op exceed it."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gbn import ops
from gbn.ops.footprint import entries, footprint

random_cases = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.parametrize("name", sorted(ops.OPS))
@random_cases
@given(data=st.data())
def test_it_is_the_size_of_the_result(name, draw_case, data):
    inputs, attributes = draw_case(data, name)
    result = ops.get(name)(*inputs, **attributes)[0]
    needed = footprint(name, [x.shape for x in inputs], attributes)
    if needed:
        assert needed[0] == entries(result.shape)
    else:
        assert result.size <= sum(x.size for x in inputs)


@pytest.mark.parametrize(
    ("name", "shapes", "attributes"),
    [
        ("MatMul", [(2, 3), (4, 5)], {}),
        ("MatMul", [(), (2,)], {}),
        ("Gemm", [(2, 3), (3, 4)], {"transB": 1}),
        ("Linear", [(2, 3), (4, 5)], {}),
        ("Add", [(2, 3), (2, 4)], {}),
        ("BatchNormalization", [(2, 1, 5), (5,), (5,), (5,), (5,)], {}),
        ("BatchNormalization", [(2, 5), (5,), (5,), (5, 1), (5,)], {}),
        ("Conv", [(2, 1, 5, 5), (1, 1, 2, 2)], {"dilations": [-1, 1]}),
        ("Conv", [(2, 1, 5, 5), (1, 1, 2, 2)], {"strides": [1, 0]}),
        ("Conv", [(2, 1, 5, 5), (1, 1, 2, 2)], {"pads": [0, 0, -1, 0]}),
        ("Conv", [(2, 1, 5, 5), (1, 1, 2, 2)], {"pads": [1, 1]}),
        ("Conv", [(2, 1, 5, 5), (1, 1, 2)], {}),
        ("Conv", [(2, 1, 5, 5), (1, 1, 9, 9)], {}),
        ("Conv", [(2, 1, 5, 5), (1, 1, 2, 2)], {"group": 0}),
        ("MaxPool", [(2, 1, 5, 5)], {"kernel_shape": [2]}),
        ("MaxPool", [(2, 1, 5, 5)], {"kernel_shape": [0, 2]}),
        ("MaxPool", [(2, 1, 5, 5)], {"kernel_shape": [10**5, 10**5], "pads": [10**5] * 4}),
        ("Pad", [(2, 3)], {"pads": [1, 1]}),
        ("Conv", [(2, 1, 5, 5), (1, 1, 2, 2)], {"auto_pad": "SAME"}),
        ("ConvTranspose", [(2, 1, 5), (1, 1, 2)], {"pads": [3, 3]}),
        ("ConvTranspose", [(2, 1, 5), (1, 1, 2)], {"output_padding": [-1]}),
        ("ConvTranspose", [(2, 1, 5), (1, 1, 2)], {"output_shape": [5, 5]}),
        ("ConvTranspose", [(2, 1, 5), (1, 1, 2)], {"group": 0}),
        ("LpPool", [(2, 1, 5)], {"kernel_shape": [6]}),
        ("LRN", [(2, 3)], {"size": 0}),
        ("LRN", [(2, 3)], {"size": 10**12}),
        ("GroupNormalization", [(2, 3, 5), (3,), (3, 1)], {"num_groups": 3}),
        ("Resize", [(2, 3)], {"scales": [1.0, float("inf")]}),
        ("Resize", [(2, 3)], {"sizes": [2, -3]}),
        ("Resize", [(2, 3)], {"sizes": [2]}),
        ("Resize", [(2, 3)], {}),
        ("Einsum", [(2, 3), (4, 5)], {"equation": "ij,jk->ik"}),
        ("Expand", [(2, 3)], {"shape": [4, 3]}),
        ("Tile", [(2, 3)], {"repeats": [2]}),
        ("Tile", [(2, 3)], {"repeats": [2, -1]}),
        ("OneHot", [(2, 3)], {"depth": -1}),
        ("OneHot", [(2, 3)], {"depth": 2.5}),
        ("CenterCropPad", [(2, 3)], {"shape": [-1], "axes": [0]}),
        ("GatherND", [(2, 3), (1, 3)], {}),
    ],
)
def test_what_an_op_must_not_be_given_is_refused(name, shapes, attributes):
    with pytest.raises(ValueError):
        footprint(name, shapes, attributes)


@pytest.mark.parametrize(
    ("name", "shapes", "attributes", "least"),
    [
        ("Conv", [(2, 1, 5, 5), (1, 1, 2, 2)], {"pads": [10**6] * 4, "strides": [10**6] * 2}, 10**12),
        ("Conv", [(2, 1, 5, 5), (1, 1, 2, 2)], {"dilations": [10**6] * 2, "auto_pad": "SAME_UPPER"}, 10**12),
        ("Conv", [(1, 10**3, 9, 10**4), (1, 10**3, 9, 9)], {}, 10**8),
        ("AveragePool", [(1, 1, 2 * 10**6)], {"kernel_shape": [10**6]}, 10**12),
        ("ConvTranspose", [(1, 1, 5, 5), (1, 1, 2, 2)], {"strides": [10**6] * 2}, 10**12),
        ("ConvTranspose", [(1, 1, 5, 5), (1, 1, 2, 2)], {"output_shape": [10**6] * 2}, 10**12),
        ("ConvTranspose", [(1, 1, 5, 5), (1, 1, 2, 2)], {"pads": [0] * 4, "dilations": [10**6] * 2}, 10**12),
        ("Add", [(10**6, 1), (10**6,)], {}, 10**12),
        ("Max", [(10**6, 1), (10**6,), ()], {}, 10**12),
        ("Resize", [(2, 3)], {"scales": [10.0**6, 10.0**6]}, 10**12),
        ("Resize", [(2, 10**6)], {"sizes": [10**6, 1]}, 10**12),
        ("Einsum", [(10**6,), (10**6,)], {"equation": "i,j->ij"}, 10**12),
        ("Expand", [(10**6, 1)], {"shape": [10**6]}, 10**12),
        ("Tile", [(10**3, 1)], {"repeats": [1, 10**9]}, 10**12),
        ("OneHot", [(10**3,)], {"depth": 10**9}, 10**12),
        ("Gather", [(1, 10**6), (10**6,)], {}, 10**12),
        ("Gather", [(10**6, 0), (10**12,)], {}, 10**12),
        ("GatherND", [(1, 10**6), (10**6, 1)], {}, 10**12),
        ("CenterCropPad", [(1, 1)], {"shape": [10**6, 10**6]}, 10**12),
    ],
)
def test_what_is_needed_on_the_way_counts(name, shapes, attributes, least):
    assert max(footprint(name, shapes, attributes)) >= least


def test_an_op_without_a_rule_has_none():
    assert footprint("ReduceSum", [(2, 3)], {}) == ()


def test_empty_axes_count_as_one():
    assert entries((2, 0, 3)) == 6
    assert entries(np.zeros((0,)).shape) == 1
