"""gbn.arrays against torch: values by its functionals, adjoints by its autograd, float64, 1e-12 relative."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gbn import arrays

torch = pytest.importorskip("torch")
functional = torch.nn.functional

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
MAX_POOL = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVG_POOL = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
quick = settings(max_examples=100, deadline=None)


def close(got, expected, rel=1e-12):
    expected = np.asarray(expected)
    assert got.shape == expected.shape
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(got, expected, rtol=0, atol=rel * scale)


def torch_pads(pads):
    """ONNX order (begins, ends) to torch's (last axis first, begin and end together)."""
    d = len(pads) // 2
    return [p for i in reversed(range(d)) for p in (pads[i], pads[d + i])]


def scrambled(rng, shape, order=None):
    """A random array of this shape whose memory is permuted and strided."""
    order = rng.permutation(len(shape)) if order is None else order
    memory = rng.standard_normal([2 * shape[i] for i in order])
    return memory[(slice(None, None, 2),) * len(shape)].transpose(np.argsort(order))


@st.composite
def windows(draw, max_d=3):
    """Spatial sizes and window options; every window fits."""
    d = draw(st.integers(1, max_d))

    def sizes(low, high, n=d):
        return tuple(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)))

    options = {"kernel": sizes(1, 3), "strides": sizes(1, 3), "dilations": sizes(1, 2), "pads": sizes(0, 2, 2 * d)}
    spatial = sizes(1, {1: 12, 2: 8, 3: 5}[d])
    extents = [dil * (k - 1) + 1 for k, dil in zip(options["kernel"], options["dilations"], strict=True)]
    assume(all(n + options["pads"][i] + options["pads"][d + i] >= extents[i] for i, n in enumerate(spatial)))
    return spatial, options


@st.composite
def convolutions(draw):
    spatial, options = draw(windows())
    groups = draw(st.integers(1, 3))
    channels = groups * draw(st.integers(1, 3))
    outputs = groups * draw(st.integers(1, 3))
    samples = draw(st.integers(0, 4))
    kernel = options.pop("kernel")
    return (samples, channels, *spatial), (outputs, channels // groups, *kernel), {**options, "groups": groups}


def torch_conv(x, w, *, strides, dilations, pads, groups):
    padded = functional.pad(x, torch_pads(pads))
    return CONV[len(strides)](padded, w, stride=strides, dilation=dilations, groups=groups)


def check_convolution(x, w, options, rng):
    tx, tw = (torch.tensor(np.ascontiguousarray(a), requires_grad=True) for a in (x, w))
    expected = torch_conv(tx, tw, **options)
    y = arrays.convolve(x, w, **options)
    close(y, expected.detach())
    g = scrambled(rng, y.shape)
    gx, gw = torch.autograd.grad(expected, [tx, tw], torch.tensor(np.ascontiguousarray(g)))
    close(arrays.convolve_pull_input(g, w, x.shape, **options), gx)
    close(arrays.convolve_pull_weight(g, x, w.shape[2:], **options), gw)


@quick
@given(convolutions(), st.integers(0, 2**32 - 1))
def test_convolution_and_its_adjoints_are_torchs(case, seed):
    x_shape, w_shape, options = case
    rng = np.random.default_rng(seed)
    check_convolution(scrambled(rng, x_shape), scrambled(rng, w_shape), options, rng)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "groups"),
    [
        ((130, 3, 20, 18), (6, 3, 5, 5), 1),
        ((3, 32, 20, 20), (48, 32, 3, 3), 1),
        ((70, 24, 9, 9), (24, 1, 3, 3), 24),
        ((40, 24, 9, 9), (48, 1, 3, 3), 24),
        ((70, 24, 9, 9), (16, 6, 3, 3), 4),
        ((5, 64, 12, 12), (32, 64, 1, 1), 1),
        ((300, 16, 40), (20, 16, 7), 1),
        ((3, 8, 9, 10, 11), (12, 8, 3, 3, 3), 1),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_cut_into_many_blocks(x_shape, w_shape, groups, stride):
    d = len(x_shape) - 2
    rng = np.random.default_rng(0)
    options = {"strides": (stride,) * d, "dilations": (1,) * d, "pads": (1, 0, 2)[:d] * 2, "groups": groups}
    check_convolution(rng.standard_normal(x_shape), rng.standard_normal(w_shape), options, rng)


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.lists(st.integers(1, 3), min_size=1, max_size=2), st.integers(0, 2**32 - 1))
def test_pull_weight_keeps_leading_axes(case, lead, seed):
    x_shape, w_shape, options = case
    rng = np.random.default_rng(seed)
    x = scrambled(rng, x_shape)
    y = arrays.convolve(x, np.zeros(w_shape), **options)
    g = scrambled(rng, (*lead, *y.shape))
    got = arrays.convolve_pull_weight(g, x, w_shape[2:], **options)
    each = [arrays.convolve_pull_weight(g[i], x, w_shape[2:], **options) for i in np.ndindex(*lead)]
    close(got, np.reshape(each, (*lead, *w_shape)))


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.integers(0, 2**32 - 1))
def test_convolution_adjoints_by_inner_products(case, seed):
    x_shape, w_shape, options = case
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
    y = arrays.convolve(x, w, **options)
    g = rng.standard_normal(y.shape)
    forward = np.vdot(g, y)
    scale = max(1.0, np.linalg.norm(g) * np.linalg.norm(y))
    assert abs(np.vdot(arrays.convolve_pull_input(g, w, x_shape, **options), x) - forward) < 1e-12 * scale
    assert abs(np.vdot(arrays.convolve_pull_weight(g, x, w_shape[2:], **options), w) - forward) < 1e-12 * scale


def torch_max_pool(x, kernel, strides, dilations, pads, ceil_mode):
    """The padded input, the maxima, and the positions of the winners in the flattened padded input."""
    padded = functional.pad(x, torch_pads(pads), value=-math.inf)
    return padded, *MAX_POOL[len(kernel)](
        padded, kernel, stride=strides, dilation=dilations, ceil_mode=ceil_mode, return_indices=True
    )


def positions_of(index, padded_spatial, kernel, strides, dilations):
    """Winning taps as positions in the flattened padded input."""
    taps = np.unravel_index(index, kernel)
    starts = np.indices(index.shape[2:])
    axes = [starts[i] * strides[i] + taps[i] * dilations[i] for i in range(len(kernel))]
    return np.ravel_multi_index(axes, padded_spatial)


@quick
@given(windows(), st.booleans(), st.sampled_from([3, 10**6]), st.integers(0, 2**32 - 1))
def test_max_pool_is_torchs(case, ties, levels, seed):
    spatial, options = case
    pads, kernel = options["pads"], options["kernel"]
    rng = np.random.default_rng(seed)
    x = rng.integers(0, levels, (2, 3, *spatial)).astype(float) if ties else scrambled(rng, (2, 3, *spatial))
    tx = torch.tensor(np.ascontiguousarray(x), requires_grad=True)
    padded, expected, winners = torch_max_pool(tx, ceil_mode=False, **options)
    y, index = arrays.max_pool(x, **options)
    np.testing.assert_array_equal(y, expected.detach())
    real = np.isfinite(y)
    assert index.dtype.itemsize == 1
    assert (index[~real] == math.prod(kernel)).all()
    got = positions_of(np.where(real, index, 0), padded.shape[2:], kernel, options["strides"], options["dilations"])
    np.testing.assert_array_equal(got[real], winners.numpy()[real])

    g = scrambled(rng, y.shape) * real
    (expected_pull,) = torch.autograd.grad(expected, tx, torch.tensor(np.ascontiguousarray(g)))
    close(arrays.pool_scatter(g, index, x.shape, **options), expected_pull)
    v = scrambled(rng, x.shape)
    inside = np.pad(v, [(0, 0), (0, 0), *((pads[i], pads[len(kernel) + i]) for i in range(len(kernel)))])
    at_winners = np.take_along_axis(inside.reshape(2, 3, -1), winners.numpy().reshape(2, 3, -1), -1)
    close(arrays.pool_select(v, index, **options), at_winners.reshape(y.shape) * real)


@quick
@given(windows(), st.lists(st.integers(1, 3), max_size=2), st.integers(0, 2**32 - 1))
def test_pooling_keeps_leading_axes_and_its_adjoints(case, lead, seed):
    spatial, options = case
    rng = np.random.default_rng(seed)
    x = scrambled(rng, (2, 3, *spatial))
    y, index = arrays.max_pool(x, **options)
    v, g = scrambled(rng, (*lead, *x.shape)), scrambled(rng, (*lead, *y.shape))
    pairs = [
        (arrays.pool_select(v, index, **options), arrays.pool_scatter(g, index, x.shape, **options)),
        (arrays.window_sum(v, **options), arrays.window_scatter(g, x.shape, **options)),
    ]
    for forward, backward in pairs:
        assert forward.shape == g.shape
        assert backward.shape == v.shape
        assert abs(np.vdot(g, forward) - np.vdot(backward, v)) < 1e-12 * max(1.0, np.linalg.norm(g) * np.linalg.norm(v))
    for i in np.ndindex(*lead):
        close(pairs[0][0][i], arrays.pool_select(v[i], index, **options))
        close(pairs[0][1][i], arrays.pool_scatter(g[i], index, x.shape, **options))
        close(pairs[1][0][i], arrays.window_sum(v[i], **options))
        close(pairs[1][1][i], arrays.window_scatter(g[i], x.shape, **options))


@quick
@given(windows(), st.integers(0, 2**32 - 1))
def test_window_sum_is_torchs_average_times_its_size(case, seed):
    spatial, options = case
    options["dilations"] = (1,) * len(spatial)
    kernel = options["kernel"]
    rng = np.random.default_rng(seed)
    x = scrambled(rng, (2, 3, *spatial))
    tx = torch.tensor(np.ascontiguousarray(x), requires_grad=True)
    padded = functional.pad(tx, torch_pads(options["pads"]))
    expected = AVG_POOL[len(kernel)](padded, kernel, stride=options["strides"]) * math.prod(kernel)
    close(arrays.window_sum(x, **options), expected.detach())
    g = scrambled(rng, expected.shape)
    (expected_pull,) = torch.autograd.grad(expected, tx, torch.tensor(np.ascontiguousarray(g)))
    close(arrays.window_scatter(g, x.shape, **options), expected_pull)


@quick
@given(windows(), st.integers(0, 2**32 - 1))
def test_ceil_mode_follows_torch(case, seed):
    spatial, options = case
    d = len(spatial)
    kernel, strides = options["kernel"], options["strides"]
    half = tuple(min(k // 2, options["pads"][i]) for i, k in enumerate(kernel))
    options |= {"dilations": (1,) * d, "pads": half * 2}
    spatial = tuple(max(n, k) for n, k in zip(spatial, kernel, strict=True))
    x = scrambled(np.random.default_rng(seed), (2, 3, *spatial))
    tx = torch.tensor(np.ascontiguousarray(x))
    expected = MAX_POOL[d](tx, kernel, stride=strides, padding=half, ceil_mode=True)
    y, index = arrays.max_pool(x, ceil_mode=True, **options)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(arrays.pool_select(x, index, **options), expected)
    sums = arrays.window_sum(x, ceil_mode=True, **options)
    counts = arrays.window_sum(np.ones_like(x), ceil_mode=True, **options)
    average = AVG_POOL[d](tx, kernel, stride=strides, padding=half, ceil_mode=True, count_include_pad=False)
    close(sums / counts, average)
    g = scrambled(np.random.default_rng(seed), y.shape)
    assert np.isclose(np.vdot(arrays.pool_scatter(g, index, x.shape, **options), x), np.vdot(g, y), rtol=0, atol=1e-10)
    assert np.isclose(np.vdot(arrays.window_scatter(g, x.shape, **options), x), np.vdot(g, sums), rtol=0, atol=1e-10)


def test_padding_never_wins_over_minus_infinity():
    x = np.full((1, 1, 4), -np.inf)
    options = {"kernel": (3,), "strides": (1,), "dilations": (1,), "pads": (1, 1)}
    _, index = arrays.max_pool(x, **options)
    np.testing.assert_array_equal(index[0, 0], [1, 0, 0, 0])


def test_windows_keep_infinities_to_themselves():
    options = {"kernel": (2,), "strides": (2,), "dilations": (1,), "pads": (0, 0)}
    x = np.array([[[1.0, np.inf, 3.0, 2.0]]])
    y, index = arrays.max_pool(x, **options)
    np.testing.assert_array_equal(y, [[[np.inf, 3.0]]])
    np.testing.assert_array_equal(arrays.pool_select(x, 1 - index, **options), [[[1.0, 2.0]]])
    np.testing.assert_array_equal(arrays.pool_scatter(y, index, x.shape, **options), [[[0.0, np.inf, 3.0, 0.0]]])


def test_a_window_of_many_taps_has_a_wider_index():
    x = np.arange(400.0).reshape(1, 1, 400)
    _, index = arrays.max_pool(x, kernel=(400,), strides=(1,), dilations=(1,), pads=(0, 0))
    assert index.item() == 399


def test_float32_stays_float32():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 4, 9, 8), dtype="f"), rng.standard_normal((6, 4, 3, 3), dtype="f")
    one = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
    pool = {"kernel": (2, 2), "strides": (2, 2), "dilations": (1, 1), "pads": (0, 0, 0, 0)}
    y = arrays.convolve(x, w, groups=1, **one)
    top, index = arrays.max_pool(y, **pool)
    for result in (
        y,
        top,
        arrays.convolve_pull_input(y, w, x.shape, groups=1, **one),
        arrays.convolve_pull_weight(y, x, (3, 3), groups=1, **one),
        arrays.pool_select(y, index, **pool),
        arrays.pool_scatter(top, index, y.shape, **pool),
        arrays.window_sum(y, **pool),
        arrays.window_scatter(top, y.shape, **pool),
        arrays.unbroadcast(y, (6, 1, 1)),
        arrays.unbroadcast(y[:, :, 0, 0], (6,)),
    ):
        assert result.dtype == np.float32
    close(y, torch_conv(torch.tensor(x), torch.tensor(w), groups=1, **one), rel=1e-6)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_a_window_that_does_not_fit_is_refused(ceil_mode):
    with pytest.raises(ValueError, match=r"extent 5 .* axis of size 3"):
        arrays.output_shape((3,), (3,), strides=(1,), dilations=(2,), pads=(0, 1), ceil_mode=ceil_mode)


@quick
@given(st.data())
def test_unbroadcast_is_the_adjoint_of_broadcasting(data):
    full = data.draw(st.lists(st.integers(1, 4), max_size=4))
    shape = tuple(data.draw(st.sampled_from([1, n])) for n in full[data.draw(st.integers(0, len(full))) :])
    lead = tuple(data.draw(st.lists(st.integers(1, 3), max_size=2)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    g = scrambled(rng, (*lead, *full))
    got = arrays.unbroadcast(g, shape, len(lead))
    assert got.shape == (*lead, *shape)
    for i in np.ndindex(*lead):
        small = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        wide = small.broadcast_to(full) * 1.0
        (expected,) = torch.autograd.grad(wide, small, torch.tensor(np.ascontiguousarray(g[i])).reshape(wide.shape))
        close(np.asarray(got[i]), expected)
