"""Values and derivatives where an op has a kink, a tie or an edge of its domain."""

import numpy as np
import pytest

from gbn import ops

torch = pytest.importorskip("torch")


def gradients(name, inputs, **attributes):
    """The pulls of ones by the maps of an op."""
    value, maps = ops.get(name)(*map(np.array, inputs), **attributes)
    return [make().pull(np.ones_like(value)) for make in maps]


def torch_gradients(function, inputs):
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
    function(*leaves).sum().backward()
    return [leaf.grad.numpy() for leaf in leaves]


def assert_as_torch(name, function, inputs, **attributes):
    for got, want in zip(gradients(name, inputs, **attributes), torch_gradients(function, inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_power_at_zero_and_at_negative_bases():
    base = [0.0, 0.0, 0.0, 2.0]
    assert_as_torch("Pow", torch.pow, (base, [0.0, 1.0, 2.0, 0.0]))
    value, maps = ops.get("Pow")(np.array([-2.0, -0.5]), np.array(3.0))
    np.testing.assert_allclose(value, [-8, -0.125])
    np.testing.assert_allclose(maps[0]().push(np.ones(2)), [12, 0.75])


def test_equal_inputs_of_maximum_and_minimum_share_the_derivative():
    inputs = ([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    assert_as_torch("Max", torch.maximum, inputs)
    assert_as_torch("Min", torch.minimum, inputs)
    thirds = gradients("Max", ([1.0], [1.0], [1.0]))
    np.testing.assert_allclose(thirds, np.full((3, 1), 1 / 3))


def test_clipping_keeps_the_derivative_at_its_bounds():
    x = [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert_as_torch("Clip", lambda t: t.clamp(-1, 1), (x,), min=-1.0, max=1.0)
    np.testing.assert_array_equal(ops.get("Clip")(np.array(x), min=2.0, max=1.0)[0], np.ones(5))


def test_rounding_goes_to_even_numbers():
    value, maps = ops.get("Round")(np.array([0.5, 1.5, -2.5]))
    np.testing.assert_array_equal(value, [0, 2, -2])
    np.testing.assert_array_equal(maps[0]().pull(np.ones(3)), np.zeros(3))


def test_casts():
    cast = ops.get("Cast")
    x = np.array([-1.7, 2.9, 300.2])
    np.testing.assert_array_equal(cast(x, to=7)[0], [-1, 2, 300])
    np.testing.assert_array_equal(cast(x, to=2)[0], np.array([-1, 2, 300]).astype(np.uint8))
    np.testing.assert_array_equal(cast(x, to=9)[0], [1, 1, 1])
    with pytest.raises(ValueError, match="to: got 8"):
        cast(x, to=8)


def test_a_slope_must_not_widen_its_input():
    with pytest.raises(ValueError, match="does not broadcast"):
        ops.get("PRelu")(np.ones(3), np.ones((2, 3)))


def test_products_of_several_entries_with_zeros():
    x = [[2.0, 3.0, 4.0], [2.0, 0.0, 4.0], [0.0, 3.0, 0.0]]
    assert_as_torch("ReduceProd", lambda t: t.prod(1), (x,), axes=[1])


def test_equal_entries_share_the_derivative_of_an_extreme():
    x = [[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]
    assert_as_torch("ReduceMax", lambda t: t.amax(1), (x,), axes=[1])
    assert_as_torch("ReduceMin", lambda t: t.amin((0, 1)), (x,))


def test_norms_at_zero():
    x = [[0.0, 0.0], [3.0, 0.0]]
    assert_as_torch("ReduceL1", lambda t: t.abs().sum(1), (x,), axes=[1])
    assert_as_torch("ReduceL2", lambda t: torch.linalg.vector_norm(t, dim=1), (x,), axes=[1])


def test_log_sum_exp_of_nothing_but_minus_infinity():
    x = np.array([[-np.inf, -np.inf], [-np.inf, 1.0], [1000.0, 1000.0]])
    with np.errstate(divide="ignore"):
        value = ops.get("ReduceLogSumExp")(x, axes=[1], keepdims=0)[0]
    np.testing.assert_allclose(value, [-np.inf, 1, 1000 + np.log(2)])
