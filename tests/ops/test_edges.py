"""Values and derivatives where an op has a kink, a tie or an edge of its domain."""

import numpy as np
import pytest

from gbn import ops
from gbn.testing import check_map

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
    value = ops.get("ReduceLogSumExp")(x, axes=[1], keepdims=0)[0]
    np.testing.assert_allclose(value, [-np.inf, 1, 1000 + np.log(2)])


def test_of_updates_put_at_one_place_the_last_stays():
    x, index, updates = np.zeros(3), np.array([1.0, 1.0, -1.0]), np.array([5.0, 6.0, 7.0])
    value, maps = ops.get("ScatterElements")(x, index, updates)
    np.testing.assert_array_equal(value, [0, 6, 7])
    np.testing.assert_array_equal(maps[2]().push(updates), value)
    check_map(maps[2]())
    rows = ops.get("ScatterND")(np.zeros((3, 2)), index[:, None], np.arange(6.0).reshape(3, 2))
    np.testing.assert_array_equal(rows[0], [[0, 0], [2, 3], [4, 5]])
    check_map(rows[1][2]())


@pytest.mark.parametrize(
    "name, inputs, attributes, message",
    [
        ("Gather", [np.zeros((3, 2)), np.array([3.0])], {}, "got 3, expected -3 to 2"),
        ("GatherElements", [np.zeros((3, 2)), np.array([0.0])], {}, "as many axes"),
        ("GatherND", [np.zeros((3, 2)), np.zeros((1, 3))], {}, r"shape \(1, 3\)"),
        ("ScatterND", [np.zeros(3), np.zeros((1, 1)), np.zeros(2)], {}, r"updates of shape \(2,\), expected \(1,\)"),
        ("ScatterElements", [np.zeros(3), np.zeros(1), np.zeros(1)], {"reduction": "mul"}, "expected 'none' or 'add'"),
        ("ReverseSequence", [np.zeros((3, 2)), np.array([4.0, 0.0])], {}, "2 whole numbers from 0 to 3"),
        ("ReverseSequence", [np.zeros((3, 2)), np.zeros(2)], {"time_axis": 2}, "expected 0 and 1"),
        ("Split", [np.zeros(4)], {"num_outputs": 2, "index": 2}, "expected 0 to 1"),
        ("Split", [np.zeros(4)], {"split": [1, 2]}, "add up to 4"),
        ("Tile", [np.zeros((2, 2))], {"repeats": [2]}, "one for each of 2 axes"),
        ("DepthToSpace", [np.zeros((1, 4, 1, 1))], {"blocksize": 2, "mode": "X"}, "expected 'DCR' or 'CRD'"),
    ],
)
def test_what_cannot_be_done_is_named(name, inputs, attributes, message):
    with pytest.raises((ValueError, IndexError), match=message):
        ops.get(name)(*inputs, **attributes)


def test_an_embedding_has_a_row_for_each_token_of_each_sample():
    table, tokens = np.arange(12.0).reshape(4, 3), np.array([[0.0, 3.0], [3.0, 3.0]])
    value, maps = ops.get("Gather")(table, tokens)
    np.testing.assert_array_equal(value, table[tokens.astype(int)])
    np.testing.assert_array_equal(maps[0]().pull(np.ones((2, 2, 3)))[:, 0], [1, 0, 0, 3])


def test_a_vector_of_zeros_has_no_direction():
    for p in (1, 2):
        value, maps = ops.get("LpNormalization")(np.array([[0.0, 0.0], [3.0, 4.0]]), p=p)
        np.testing.assert_array_equal(value[0], [0, 0])
        np.testing.assert_array_equal(maps[0]().pull(np.ones((2, 2)))[0], [0, 0])


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="3 channels do not make 2 groups"):
        ops.get("GroupNormalization")(np.ones((1, 3, 4)), np.ones(3), np.ones(3), num_groups=2)


@pytest.mark.parametrize(
    "equation, message",
    [
        ("ii->i", "takes a diagonal, index 'i'"),
        ("ij,jk->ik", "2 terms for 1 operands"),
        ("ijk->i", "does not fit an operand of 2 axes"),
        ("ij->k", "index 'k' of the result is in no term"),
        ("i->i", "does not fit"),
        ("i1->i", "is no term"),
        ("......->", "is no term"),
    ],
)
def test_equations_that_are_not_taken(equation, message):
    with pytest.raises(ValueError, match=message):
        ops.get("Einsum")(np.ones((3, 3)), equation=equation)


def test_sizes_of_an_index_agree():
    with pytest.raises(ValueError, match="index 'j' has sizes 3 and 1"):
        ops.get("Einsum")(np.ones((2, 3)), np.ones((1, 2)), equation="ij,jk->ik")


def test_what_is_summed_out_between_other_operands_is_summed_once():
    """The square of a sum is not the sum of squares: ij,jk,kl->il in its first operand has the factor Σ_k jk kl."""
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape) for shape in ((2, 3), (3, 4), (4, 5))]
    factors = ops.get("Einsum")(*inputs, equation="ij,jk,kl->il")[1][0]().factors
    np.testing.assert_allclose(factors, [(inputs[1] @ inputs[2]).T])
    kept = ops.get("Einsum")(*inputs, equation="ij,jk,kl->il")[1][1]().factors
    assert [x.shape for x in kept] == [(2, 3), (4, 5)]


@pytest.mark.parametrize(
    "attributes, message",
    [
        ({"scales": [1.0, 2.0], "antialias": 1}, "antialias=1 is not taken"),
        ({"scales": [1.0, 2.0], "coordinate_transformation_mode": "tf_crop_and_resize"}, "got 'tf_crop_and_resize'"),
        ({"scales": [1.0, 2.0], "mode": "area"}, "mode: got 'area'"),
        ({"scales": [1.0, 2.0], "nearest_mode": "up"}, "nearest_mode: got 'up'"),
        ({"sizes": [2, 2], "keep_aspect_ratio_policy": "loose"}, "keep_aspect_ratio_policy: got 'loose'"),
        ({"sizes": [2, 2], "scales": [1.0, 2.0]}, "expected one of them"),
    ],
)
def test_resampling_that_is_not_taken(attributes, message):
    with pytest.raises(ValueError, match=message):
        ops.get("Resize")(np.ones((3, 3)), **attributes)


@pytest.mark.parametrize("mode, torch_mode", [("nearest", "nearest"), ("linear", "bilinear"), ("cubic", "bicubic")])
def test_resampling_as_torch_does_it(mode, torch_mode):
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    shift = {"nearest": "asymmetric", "linear": "align_corners", "cubic": "half_pixel"}[mode]
    corners = {"align_corners": True} if mode == "linear" else {}
    want = torch.nn.functional.interpolate(torch.as_tensor(x), (8, 9), mode=torch_mode, **corners).numpy()
    how = {"nearest_mode": "floor"} if mode == "nearest" else {}
    got = ops.get("Resize")(x, sizes=[8, 9], axes=[2, 3], mode=mode, coordinate_transformation_mode=shift, **how)[0]
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_reductions_of_nothing():
    x = np.zeros((2, 0))
    for name, value in (("Max", -np.inf), ("Min", np.inf), ("LogSumExp", -np.inf), ("Prod", 1), ("L2", 0)):
        np.testing.assert_array_equal(ops.get("Reduce" + name)(x, axes=[1], keepdims=0)[0], [value, value])
