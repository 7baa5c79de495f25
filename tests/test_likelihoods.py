"""gbn.likelihoods against torch's losses, differences, and explicit Fisher matrices."""

import numpy as np
import pytest

from gbn import likelihoods
from gbn.errors import EvidenceError, UnknownNameError

EVENTS = {"categorical": [(4,), (2,), (3, 2, 2)], "bernoulli": [(1,), (3,), (2, 2)]}
BOTH = [(name, event) for name, events in EVENTS.items() for event in events]


def labels_for(name, event, rng, n=5):
    if name == "categorical":
        return rng.integers(0, event[0], (n, *event[1:]))
    return rng.integers(0, 2, (n, *event))


def case(name, event, missing=False):
    rng = np.random.default_rng(0)
    likelihood, logits = likelihoods.get(name), 2 * rng.standard_normal((5, *event))
    labels = labels_for(name, event, rng).astype(float)
    if missing:
        labels[0] = np.nan
        labels.reshape(-1)[-1] = np.nan
    return likelihood, logits, likelihood.encode(labels, event, "y", logits.dtype), labels


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name, event", BOTH)
def test_log_prob_and_score_against_torch(name, event, missing):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    likelihood, logits, target, labels = case(name, event, missing)
    z = torch.tensor(logits, requires_grad=True)
    known = torch.tensor(~np.isnan(labels))
    whole = torch.tensor(np.nan_to_num(labels))
    if name == "categorical":
        loss = functional.cross_entropy(z, whole.long(), reduction="none")
    else:
        loss = functional.binary_cross_entropy_with_logits(z, whole, reduction="none")
    loss = torch.where(known, loss, 0.0)
    loss.sum().backward()
    np.testing.assert_allclose(
        likelihood.log_prob(logits, target), -loss.detach().reshape(5, -1).sum(1).numpy(), atol=1e-12
    )
    np.testing.assert_allclose(likelihood.score(logits, target), -z.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name, event", BOTH)
def test_score_against_differences(name, event, missing):
    likelihood, logits, target, _ = case(name, event, missing)
    v, step = np.random.default_rng(1).standard_normal(logits.shape), 1e-5
    ahead, behind = (likelihood.log_prob(logits + s * step * v, target) for s in (1, -1))
    slope = (likelihood.score(logits, target) * v).reshape(5, -1).sum(1)
    np.testing.assert_allclose((ahead - behind) / (2 * step), slope, atol=1e-8)


def information(name, logits):
    """Fisher information of one sample, as a matrix, class probabilities by scipy's formulas."""
    size = logits.size
    if name == "bernoulli":
        p = 1 / (1 + np.exp(-logits.ravel()))
        return np.diag(p * (1 - p))
    out = np.zeros((size, size))
    positions = np.arange(size).reshape(len(logits), -1)
    for column in positions.T:
        p = np.exp(logits.ravel()[column])
        p /= p.sum()
        out[np.ix_(column, column)] = np.diag(p) - np.outer(p, p)
    return out


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name, event", BOTH)
def test_root_is_a_root_of_the_fisher_information(name, event, missing):
    likelihood, logits, target, _ = case(name, event, missing)
    present, size = ~np.isnan(target), int(np.prod(event))
    units = np.broadcast_to(np.eye(size).reshape(size, 1, *event), (size, *logits.shape))
    columns = likelihood.root(logits, likelihood.root_adjoint(logits, units, present), present)
    rng = np.random.default_rng(2)
    v, g = rng.standard_normal((2, *logits.shape))
    forth, back = likelihood.root(logits, v, present) * g, v * likelihood.root_adjoint(logits, g, present)
    np.testing.assert_allclose(forth.sum(), back.sum(), atol=1e-12)
    for n in range(5):
        keep = present[n].ravel()
        want = information(name, logits[n]) * np.outer(keep, keep)
        np.testing.assert_allclose(columns[:, n].reshape(size, size), want, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 50.0, 400.0])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name, event", BOTH)
def test_whitened_score(name, event, missing, scale):
    likelihood, logits, target, _ = case(name, event, missing)
    logits = scale * logits
    whitened = likelihood.whitened_score(logits, target)
    score = likelihood.score(logits, target)
    np.testing.assert_allclose(likelihood.root(logits, whitened, ~np.isnan(target)), score, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
@pytest.mark.parametrize("name, event", BOTH)
def test_extreme_logits_stay_finite_and_keep_the_dtype(name, event, size, dtype):
    likelihood, logits, target, _ = case(name, event, missing=True)
    logits, target = (size * np.sign(logits)).astype(dtype), target.astype(dtype)
    present = ~np.isnan(target)
    results = {
        "mean": likelihood.mean(logits),
        "log_prob": likelihood.log_prob(logits, target),
        "score": likelihood.score(logits, target),
        "whitened_score": likelihood.whitened_score(logits, target),
        "root": likelihood.root(logits, np.ones_like(logits), present),
        "root_adjoint": likelihood.root_adjoint(logits, np.ones_like(logits), present),
        "sample": likelihood.sample(logits, np.random.default_rng(0)),
    }
    for key, value in results.items():
        assert np.isfinite(value).all(), key
        assert value.dtype == dtype, key


@pytest.mark.parametrize("name, event", BOTH)
def test_logits_that_are_nan_are_not_passed_over(name, event):
    likelihood, logits, target, _ = case(name, event)
    logits[1] = np.nan
    with np.errstate(invalid="ignore"):
        assert np.isnan(likelihood.log_prob(logits, target)[1])
        assert np.isnan(likelihood.score(logits, target)[1]).any()


def test_categorical_accepts_every_form_of_label():
    encode, want = likelihoods.get("categorical").encode, np.eye(3)[[2, 0]]
    nothing = np.full(3, np.nan)
    forms = [[2, 0], [[2], [0]], np.array([2.0, 0.0]), want, want.tolist(), np.array([2, 0], np.uint8)]
    for labels in forms:
        got = encode(labels, (3,), "y", np.float32)
        np.testing.assert_array_equal(got, want)
        assert got.dtype == np.float32
    np.testing.assert_array_equal(encode([2, np.nan], (3,), "y", np.float64), [want[0], nothing])
    np.testing.assert_array_equal(encode([want[0], nothing], (3,), "y", np.float64), [want[0], nothing])
    np.testing.assert_array_equal(encode([[0.25, 0.25, 0.5]], (3,), "y", np.float64), [[0.25, 0.25, 0.5]])
    assert encode(np.array([2.0, np.nan]), (3,), "y", np.float32).dtype == np.float32


def test_categorical_labels_of_an_image():
    labels = np.random.default_rng(0).integers(0, 3, (2, 4, 5))
    encode = likelihoods.get("categorical").encode
    got = encode(labels, (3, 4, 5), "y", np.float64)
    assert got.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(got.argmax(1), labels)
    np.testing.assert_array_equal(got.sum(1), 1)
    np.testing.assert_array_equal(encode(labels[:, None], (3, 4, 5), "y", np.float64), got)
    np.testing.assert_array_equal(encode(got, (3, 4, 5), "y", np.float64), got)


def test_bernoulli_accepts_every_form_of_label():
    encode = likelihoods.get("bernoulli").encode
    for labels in ([1, 0], [[1], [0]], [True, False]):
        np.testing.assert_array_equal(encode(labels, (1,), "y", np.float32), [[1], [0]])
    np.testing.assert_array_equal(encode([[1, np.nan]], (2,), "y", np.float64), [[1, np.nan]])


@pytest.mark.parametrize(
    "name, labels, event, message",
    [
        ("categorical", [3], (3,), "got label 3, expected 0 to 2"),
        ("categorical", [-1], (3,), "got label -1"),
        ("categorical", [0.5], (3,), r"got label 0\.5"),
        ("categorical", [np.inf], (3,), "got label inf"),
        ("categorical", [[0, 1]], (3,), r"got shape \(1, 2\), expected integer labels \(N,\) or one-hot rows \(N, 3\)"),
        ("categorical", 1, (3,), r"got shape \(\)"),
        ("categorical", np.zeros((2, 5)), (3, 4), r"expected integer labels \(N, 4\) or one-hot rows \(N, 3, 4\)"),
        ("categorical", [[0.5, 0.5, 0.5]], (3,), r"sum 1\.5, expected rows that sum to 1"),
        ("categorical", [[2.0, -1.0, 0.0]], (3,), "got values between -1 and 2, expected 0 to 1"),
        ("categorical", [[1.0, np.nan, 0.0]], (3,), "a missing label is a row of NaN"),
        ("bernoulli", [[2.0]], (1,), "expected 0 to 1"),
        ("bernoulli", [[0.0, 1.0]], (3,), r"got shape \(1, 2\), expected 0/1 labels \(N, 3\)"),
        ("bernoulli", 1.0, (1,), r"got shape \(\)"),
    ],
)
def test_labels_are_refused(name, labels, event, message):
    with pytest.raises(EvidenceError, match=message) as caught:
        likelihoods.get(name).encode(labels, event, "fc.label", np.float64)
    assert "'fc.label'" in str(caught.value)


@pytest.mark.parametrize("name, event", BOTH)
def test_samples_are_targets_of_the_right_frequency(name, event):
    likelihood, logits, *_ = case(name, event)
    many = np.repeat(logits[:1], 4000, axis=0)
    draws = likelihood.sample(many, np.random.default_rng(0))
    np.testing.assert_array_equal(likelihood.encode(draws, event, "y", np.float64), draws)
    # Five standard errors.
    np.testing.assert_allclose(draws.mean(0), likelihood.mean(logits[:1])[0], atol=5 * 0.5 / np.sqrt(4000))


def test_unknown_likelihood():
    with pytest.raises(UnknownNameError, match="categorical"):
        likelihoods.get("categorial")
