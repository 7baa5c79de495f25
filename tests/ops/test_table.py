"""Every op of the table, on random cases: maps against differences of the value, and against themselves."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gbn import ops
from gbn.testing import check_op

random_cases = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def test_every_op_has_cases_and_every_case_an_op(names):
    assert names == set(ops.OPS)


@pytest.mark.parametrize("name", sorted(ops.OPS))
@random_cases
@given(data=st.data())
def test_maps_agree_with_differences_and_with_themselves(name, draw_case, data):
    inputs, attributes = draw_case(data, name)
    ops.get(name).check(len(inputs), list(attributes))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    check_op(name, inputs, attributes, rng=rng)
