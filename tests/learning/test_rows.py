"""Regressions whose rows are positions, and tied weights, beside least squares and dense matrices and posteriors."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import gbn
from gbn.evidence import Evidence
from gbn.learning.data import Data
from gbn.learning.expectations import estep, moments_of
from gbn.learning.maximisation import Priors, maximise
from gbn.learning.numbers import Frozen
from gbn.learning.regressions import names_of, read_families
from gbn.learning.sharing import parameter_groups
from gbn.learning.stepwise import Expected


class Known:
    """A posterior without spread, at values that are given."""

    def __init__(self, values):
        self.values = values

    def mean(self, name):
        return self.values[name]

    def summed_covariance(self, pairs, counts, rows):
        return None


def m_step(net, values, counts=None, priors=None, freeze=()):
    """The net after one M-step from values of all vertices, and its families."""
    families = read_families(net, Frozen.read(net, freeze))
    data = Data(Evidence.read(net, {name: values[name] for name in net.inputs}), counts)
    parts = list(zip(families, moments_of(Known(values), families, data), strict=True))
    return maximise(net, parts, parameter_groups(families), priors or Priors(), set()), families


def positions_of(family):
    return 1 if family.rows is None else family.rows.count


def patches(x, kernel, strides, dilations, pads, groups):
    """What a convolution reads, by torch.  Shape: (samples, groups, positions, entries)."""
    missing = 2 - len(kernel)
    ones, zeros = (1,) * missing, (0,) * missing
    image = torch.as_tensor(x.reshape(*x.shape[:2], *ones, *x.shape[2:]))
    begin, end = (*zeros, *pads[: len(kernel)]), (*zeros, *pads[len(kernel) :])
    image = functional.pad(image, (begin[1], end[1], begin[0], end[0]))
    found = functional.unfold(image, (*ones, *kernel), (*ones, *dilations), 0, (*ones, *strides)).numpy()
    return found.reshape(len(x), groups, -1, found.shape[2]).swapaxes(2, 3)


@st.composite
def convolutions(draw):
    """Shapes of an image and a kernel, and attributes."""
    axes, groups = draw(st.integers(1, 2)), draw(st.sampled_from([1, 1, 2, 3]))

    def each(low, high, times=1):
        return tuple(draw(st.integers(low, high)) for _ in range(axes * times))

    kernel, strides, dilations, pads = each(1, 3), each(1, 2), each(1, 2), each(0, 2, 2)
    room = [(k - 1) * d + 1 - pads[i] - pads[axes + i] for i, (k, d) in enumerate(zip(kernel, dilations, strict=True))]
    sizes = tuple(max(1, r) + more for r, more in zip(room, each(0, 3), strict=True))
    channels = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    how = {"strides": strides, "dilations": dilations, "pads": pads}
    return (channels[0], *sizes), (channels[1], channels[0] // groups, *kernel), how, groups, draw(st.booleans())


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.integers(0, 2**16))
def test_a_convolution_is_weighted_least_squares_over_patches(drawn, seed):
    shape, kernel, how, groups, biased = drawn
    rng = np.random.default_rng(seed)
    net = gbn.GaussianBayesNet()
    net.add_input("x", shape)
    net.add_parameter("w", rng.normal(size=kernel))
    if biased:
        net.add_parameter("b", rng.normal(size=kernel[0]))
    net.add("y", "Conv", ["x", "w", "b"][: 2 + biased], cov=0.7, group=groups, **how)
    samples = 8 + math.prod(kernel[1:])
    values = {"x": rng.normal(size=(samples, *shape)), "y": rng.normal(size=(samples, *net["y"].shape))}
    counts = rng.uniform(0.5, 2, samples)
    fitted, families = m_step(net, values, counts)
    read = patches(values["x"], kernel[2:], groups=groups, **how)
    assert [positions_of(f) for f in families] == [read.shape[2]] * groups
    root = np.sqrt(np.repeat(counts, read.shape[2]))[:, None]
    made, left = kernel[0] // groups, 0.0
    for group in range(groups):
        which = slice(group * made, (group + 1) * made)
        u = read[:, group].reshape(len(root), -1)
        seen = np.abs(u).max(axis=0) > 0
        u = np.concatenate([u[:, seen], np.ones((len(u), int(biased)))], axis=1)
        v = values["y"][:, which].reshape(samples, made, -1).swapaxes(1, 2).reshape(len(root), made)
        expected = np.linalg.lstsq(root * u, root * v, rcond=None)[0].T
        left += ((root * (v - u @ expected.T)) ** 2).sum()
        weight = fitted["w"].value[which].reshape(made, -1)
        np.testing.assert_allclose(weight[:, seen], expected[:, : seen.sum()], rtol=1e-8, atol=1e-9)
        # A tap that falls on nothing but padding stays as it was.
        np.testing.assert_array_equal(weight[:, ~seen], net["w"].value[which].reshape(made, -1)[:, ~seen])
        if biased:
            np.testing.assert_allclose(fitted["b"].value[which], expected[:, -1], rtol=1e-8, atol=1e-9)
    assert fitted.noises["y"].value == pytest.approx(left / (counts.sum() * values["y"][0].size), rel=1e-9)


HOW = {"strides": (2, 1), "dilations": (1, 2), "pads": (1, 0, 1, 1)}


def image_net(rng, dense, frozen_bias=False):
    """A hidden image, a convolution of it with noise, and readings of that; the convolution as such, or as the product
    with a dense matrix whose entries are tied.
    """
    shape, kernel = (2, 4, 5), (3, 2, 3, 2)
    w, b = rng.normal(size=kernel), rng.normal(size=3)
    net = gbn.GaussianBayesNet()
    net.add_input("x", shape, mean=0.0, cov=1.0)
    net.add_parameter("w", w)
    net.add_parameter("b", b, trainable=not frozen_bias)
    out = torch.as_tensor(np.zeros((1, *shape)))
    out = functional.pad(out, (0, 1, 1, 1))
    spatial = functional.conv2d(out, torch.as_tensor(w), stride=HOW["strides"], dilation=HOW["dilations"]).shape[2:]
    size = 3 * math.prod(spatial)
    if dense:
        # By torch's own convolution, a unit weight at a time: what one weight does to every unit image.
        unit = functional.pad(torch.eye(40, dtype=torch.float64).reshape(40, *shape), (0, 1, 1, 1))
        kernels = torch.eye(w.size, dtype=torch.float64).reshape(w.size * 3, *kernel[1:])
        ties = functional.conv2d(unit, kernels, stride=HOW["strides"], dilation=HOW["dilations"])
        ties = ties.numpy().reshape(40, w.size, size).swapaxes(0, 1).reshape(w.size, -1)
        net.add_constant("ties", ties)
        net.add_constant("spread", np.repeat(np.eye(3), math.prod(spatial), axis=1))
        net.add("row", "Reshape", ["w"], shape=(1, w.size))
        net.add("entries", "MatMul", ["row", "ties"])
        net.add("matrix", "Reshape", ["entries"], shape=(40, size))
        net.add("offset", "MatMul", ["b", "spread"])
        net.add("flat", "Reshape", ["x"], shape=(-1, 40))
        net.add("a", "Gemm", ["flat", "matrix", "offset"], cov=0.4)
    else:
        net.add("a", "Conv", ["x", "w", "b"], cov=0.4, **HOW)
    net.add_linear("y", {"a": rng.normal(size=(6, size))}, bias=np.zeros(6), cov=0.3)
    return net


@pytest.mark.filterwarnings("ignore::gbn.ConvergenceWarning")
@pytest.mark.parametrize("frozen_bias", [False, True])
@pytest.mark.parametrize(
    "options", [{"max_iter": 3, "tol": None}, {"batch_size": 30, "epochs": 3, "samples": None, "damping": 0.0}]
)
def test_statistics_are_those_of_a_tied_dense_matrix(options, frozen_bias):
    """Exact and stepwise EM: the same numbers after every step, covariances of hidden patches included."""
    fitted = []
    for dense in (False, True):
        rng = np.random.default_rng(0)
        net = image_net(rng, dense, frozen_bias)
        y = rng.normal(size=(30, 6))
        if not dense:
            families = read_families(net, Frozen.read(net, ()))
            assert sorted((positions_of(f), f.size, f.columns) for f in families)[-1] == (8, 3, 13)
        fitted.append(net.fit({"y": y}, **options).net)
    ours, theirs = fitted
    for name in ("w", "b", "y.a.weight", "y.bias"):
        np.testing.assert_allclose(ours[name].value, theirs[name].value, rtol=1e-10, atol=1e-10)
    for name in ("a", "y", "x"):
        np.testing.assert_allclose(ours.noises[name].value, theirs.noises[name].value, rtol=1e-10)


def test_moments_of_patches_are_those_of_the_dense_posterior():
    """Second moments of hidden patches and of what is made of them, by conditioning a dense joint Gaussian."""
    rng = np.random.default_rng(3)
    net, y, counts = image_net(rng, False), rng.normal(size=(7, 6)), rng.uniform(0.5, 2, 7)
    w, b, out, offset = (np.asarray(net[n].value) for n in ("w", "b", "y.a.weight", "y.bias"))
    place = np.arange(net["a"].size).reshape(3, -1)
    slots = patches(np.arange(1.0, 41).reshape(1, 2, 4, 5), (3, 2), groups=1, **HOW)[0, 0].astype(int)
    matrix = np.zeros((net["a"].size, 41))
    for p, slot in enumerate(slots):
        np.add.at(matrix, (place[:, p, None], slot), w.reshape(3, -1))
    matrix = matrix[:, 1:]
    # z = (x, a), given y.
    joint = np.block([[np.eye(40), matrix.T], [matrix, matrix @ matrix.T + 0.4 * np.eye(len(matrix))]])
    mean = np.concatenate([np.zeros(40), np.repeat(b, place.shape[1])])
    reads = np.concatenate([np.zeros((6, 40)), out], axis=1)
    gain = joint @ reads.T @ np.linalg.inv(reads @ joint @ reads.T + 0.3 * np.eye(6))
    cov, means = joint - gain @ reads @ joint, mean + (y - offset - reads @ mean) @ gain.T
    second = counts.sum() * cov + (means * counts[:, None]).T @ means
    padded = np.pad(second, ((1, 1), (1, 1)))[:-1, :-1]
    expected = np.zeros((15, 15))
    for p, slot in enumerate(slots):
        # The first entry stands for padding; x comes after it, then a.
        index = np.concatenate([41 + place[:, p], slot])
        expected += padded[np.ix_(index, index)]
    data, families = Data.read(net, {"y": y}, counts), read_families(net, Frozen.read(net, ()))
    number = next(k for k, f in enumerate(families) if f.name == "a")
    exact = estep(data, families, "exact", {})(net)
    evidence = data.evidence
    linearised = Expected(evidence, list(names_of(families)), 1, None, rng)
    drawn = Expected(evidence, list(names_of(families)), 1, 3000, rng)
    for found, tolerance in ((exact, 1e-10), (linearised, 1e-10), (drawn, 0.05)):
        moments = moments_of(found, families, data)[number].about_zero
        assert moments.weight == pytest.approx(counts.sum() * len(slots))
        gap = np.abs(moments.second[:15, :15] - expected).max()
        assert gap < tolerance * np.abs(expected).max()


def recurrent(rng, steps, noises):
    """Steps with the same weights, two products with a bias each, and noises of their own."""
    net = gbn.GaussianBayesNet()
    net.add_parameter("w", rng.normal(size=(4, 3)))
    net.add_parameter("v", rng.normal(size=(4, 4)))
    net.add_parameter("b", rng.normal(size=4))
    net.add_parameter("c", rng.normal(size=4))
    net.add_constant("h", np.zeros((1, 4)))
    net.add_input("x0", 3)
    net.add("i0", "Gemm", ["x0", "w", "b"], transB=1)
    net.add("r0", "Gemm", ["h", "v", "c"], transB=1)
    net.add("a0", "Add", ["i0", "r0"], cov=noises[0])
    for t in range(1, steps):
        net.add_input(f"x{t}", 3)
        net.add(f"h{t}", "Tanh", [f"a{t - 1}"])
        net.add(f"i{t}", "Gemm", [f"x{t}", "w", "b"], transB=1)
        net.add(f"r{t}", "Gemm", [f"h{t}", "v", "c"], transB=1)
        net.add(f"a{t}", "Add", [f"i{t}", f"r{t}"], cov=noises[t])
    return net


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("form", ["scalar", "diagonal"])
def test_layers_tied_over_time_are_one_least_squares_over_all_steps(form, ridge):
    rng = np.random.default_rng(1)
    noises = rng.uniform(0.2, 2, (4, 4) if form == "diagonal" else 4)
    net = recurrent(rng, 4, noises)
    values = {n: rng.normal(size=(30, *v.shape)) for n, v in net.vertices.items() if v.plated}
    for t in range(1, 4):
        values[f"h{t}"] = np.tanh(values[f"a{t - 1}"])
    priors = Priors(ridge={"w": ridge, "v": ridge}, fixed=frozenset(net.noises))
    fitted, _ = m_step(net, values, priors=priors)
    for row in range(4):
        u, x = [], []
        for t in range(4):
            scale = 1 / np.sqrt(noises[t] if form == "scalar" else noises[t, row])
            state = np.zeros((30, 4)) if not t else values[f"h{t}"]
            u.append(scale * np.concatenate([values[f"x{t}"], state, np.ones((30, 1))], axis=1))
            x.append(scale * values[f"a{t}"][:, row])
        held = np.sqrt(ridge) * np.eye(8)[:7]
        expected = np.linalg.lstsq(np.concatenate([*u, held]), np.concatenate([*x, np.zeros(7)]), rcond=None)[0]
        np.testing.assert_allclose(fitted["w"].value[row], expected[:3], rtol=1e-8)
        np.testing.assert_allclose(fitted["v"].value[row], expected[3:7], rtol=1e-8)
        # Of the two biases the data know the sum alone.
        assert fitted["b"].value[row] + fitted["c"].value[row] == pytest.approx(expected[7], rel=1e-8)


@pytest.mark.parametrize("own", [False, True], ids=["bias of all positions", "bias of each position"])
@pytest.mark.parametrize("form", ["scalar", "diagonal"])
def test_arrays_of_rows(own, form):
    """A matrix on the right of (5, 3) entries a sample: rows where the bias and the noise are the same for each."""
    rng = np.random.default_rng(2)
    noise = 0.5 if form == "scalar" else rng.uniform(0.2, 2, (5, 4))
    net = gbn.GaussianBayesNet()
    net.add_input("x", (5, 3))
    net.add_parameter("w", rng.normal(size=(3, 4)))
    net.add_parameter("b", rng.normal(size=(5, 4) if own else 4))
    net.add("p", "MatMul", ["x", "w"])
    net.add("y", "Add", ["p", "b"], cov=noise)
    values = {"x": rng.normal(size=(20, 5, 3)), "y": rng.normal(size=(20, 5, 4))}
    fitted, (family,) = m_step(net, values)
    assert positions_of(family) == (5 if form == "scalar" and not own else 1)
    constants = np.tile(np.eye(5), (20, 1)) if own else np.ones((100, 1))
    u = np.concatenate([values["x"].reshape(100, 3), constants], axis=1)
    for column in range(4):
        scale = np.tile(1 / np.sqrt(noise[:, column]), 20) if form == "diagonal" else np.ones(100)
        y = scale * values["y"][:, :, column].reshape(-1)
        expected = np.linalg.lstsq(scale[:, None] * u, y, rcond=None)[0]
        np.testing.assert_allclose(fitted["w"].value[:, column], expected[:3], rtol=1e-8)
        np.testing.assert_allclose(fitted["b"].value[..., column].reshape(-1), expected[3:], rtol=1e-8, atol=1e-10)


def test_batches_with_many_numbers_for_each_unknown_remember_less():
    """Shares of the running statistics: as the schedule says for a dense layer, more where weights are tied."""
    rng = np.random.default_rng(5)
    net = gbn.GaussianBayesNet()
    net.add_input("x", (1, 8))
    net.add_parameter("w", rng.normal(size=(2, 1, 3)))
    net.add("a", "Conv", ["x", "w"], cov=0.1)
    net.add_linear("y", {"a": rng.normal(size=(2, 12))}, bias=np.zeros(2), cov=0.1)
    data = {"x": rng.normal(size=(32, 1, 8)), "y": rng.normal(size=(32, 2))}
    learner = gbn.learning.learner("em")(
        net, Data.read(net, data), Frozen.read(net, ()), rng, batch_size=8, samples=None
    )  # fmt: skip
    batches, weights = list(learner.data.batches(8, rng)), [[0.0, 0.0]]
    for batch in batches:
        learner.net, _ = learner.absorb(learner.net, batch, None)
        weights.append([m.weight for m in learner.running])
    for t, (before, after) in enumerate(pairwise(weights), start=1):
        step = (t + 1) ** -0.45
        # 8 rows of 6 positions make 12 numbers each, for 6 unknowns; 2 numbers, for 26 unknowns.
        for k, (ratio, rows) in enumerate(((16, 48), (1, 8))):
            assert after[k] == pytest.approx((1 - min(1, ratio * step)) * before[k] + rows)


def test_standard_errors_are_those_of_the_dense_design(monkeypatch):
    rng = np.random.default_rng(3)
    net = gbn.GaussianBayesNet()
    net.add_input("x", (1, 8), mean=0.0, cov=1.0)
    net.add_parameter("w", rng.normal(size=(2, 1, 3)))
    net.add_parameter("b", np.zeros(2))
    net.add("a", "Conv", ["x", "w", "b"], cov=0.3)
    net.add_linear("y", {"a": rng.normal(size=(3, 12)) / 3}, bias=np.zeros(3), cov=0.2)
    data = {name: net.sample(50, rng=1)[name] for name in ("x", "y")}
    data["x"] = np.where(rng.random(data["x"].shape) < 0.2, np.nan, data["x"])

    def errors():
        result = net.fit(data, freeze=["x"], standard_errors=True)
        return result.diagnostics["standard_errors"]

    by_rows = errors()
    dense = partial(read_families, by_positions=False)
    monkeypatch.setattr("gbn.learning.em.read_families", dense)
    expected = errors()
    assert set(by_rows) == set(expected)
    for name, error in expected.items():
        np.testing.assert_allclose(by_rows[name], error, rtol=1e-6, err_msg=name)
