"""Values of the ops against oracles that have nothing in common with them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gbn import ops
from tests.ops.oracles import by_definition, expected, transposed

TOLERANCE = {"float64": 1e-10, "float32": 1e-4}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", sorted(ops.OPS))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_value(name, dtype, draw_case, data):
    inputs, attributes = draw_case(data, name)
    inputs = [x.astype(dtype) for x in inputs]
    got = ops.get(name)(*inputs, **attributes)[0]
    want = expected(name, inputs, attributes)
    assert got.dtype == dtype
    assert got.shape == want.shape
    # onnx.reference computes cubic weights in single precision.
    tolerance = 2e-6 if attributes.get("mode") == "cubic" and dtype == "float64" else TOLERANCE[dtype]
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["AveragePool", "LpPool", "MaxPool"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_pools_by_definition(name, draw_case, data):
    inputs, attributes = draw_case(data, name)
    got, want = ops.get(name)(*inputs, **attributes)[0], by_definition(name, inputs, attributes)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_transposed_convolution_by_definition(draw_case, data):
    inputs, attributes = draw_case(data, "ConvTranspose")
    got, want = ops.get("ConvTranspose")(*inputs, **attributes)[0], transposed(inputs, attributes)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)
