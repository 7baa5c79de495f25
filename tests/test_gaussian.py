"""gbn.gaussian against dense formulas in numpy and scipy.stats."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gbn.errors import CovarianceError, ShapeError
from gbn.gaussian import Covariance, Gaussian

EVENTS = [(), (1,), (3,), (2, 2), (2, 1, 3)]
FORMS = ["scalar", "diagonal", "full"]


def spd(rng, n):
    a = rng.standard_normal((n, n))
    return a @ a.T / max(n, 1) + 0.3 * np.eye(n)


def make(rng, form, event):
    size = int(np.prod(event))
    value = {"scalar": 0.7, "diagonal": rng.uniform(0.5, 2, event), "full": spd(rng, size)}[form]
    return Covariance(value, event, "h")


def rows(v, cov):
    return v.reshape(*v.shape[: v.ndim - len(cov.event)], cov.size)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("form", FORMS)
def test_covariance_acts_as_its_matrix(form, event, lead):
    rng = np.random.default_rng(0)
    cov = make(rng, form, event)
    q, v = cov.matrix(), rng.standard_normal((*lead, *event))
    flat = rows(v, cov)
    np.testing.assert_allclose(rows(cov.apply(v), cov), flat @ q, atol=1e-12)
    np.testing.assert_allclose(rows(cov.solve(v), cov), np.linalg.solve(q, flat[..., None])[..., 0], atol=1e-12)
    np.testing.assert_allclose(rows(cov.root(cov.root_adjoint(v)), cov), flat @ q, atol=1e-12)
    np.testing.assert_allclose(cov.quadratic(v), np.einsum("...i,ij,...j->...", flat, q, flat), atol=1e-12)
    np.testing.assert_allclose((v * cov.root(v)).sum(), (cov.root_adjoint(v) * v).sum(), atol=1e-12)
    assert all(getattr(cov, name)(v).shape == v.shape for name in ("apply", "solve", "root", "root_adjoint"))
    np.testing.assert_allclose(cov.logdet, np.linalg.slogdet(q)[1])
    np.testing.assert_allclose(cov.diagonal(), np.diag(q).reshape(event))


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("form", FORMS)
def test_covariance_keeps_single_precision(form, event):
    rng = np.random.default_rng(0)
    cov = make(rng, form, event)
    v = rng.standard_normal((4, *event)).astype(np.float32)
    for name in ("apply", "solve", "root", "root_adjoint", "quadratic"):
        got, want = getattr(cov, name)(v), getattr(cov, name)(v.astype(np.float64))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_covariance_takes_a_flat_vector_and_copies_what_it_is_given():
    variances = np.arange(1.0, 7.0)
    cov = Covariance(variances, (2, 3))
    variances[:] = -1
    np.testing.assert_array_equal(cov.diagonal(), np.arange(1.0, 7.0).reshape(2, 3))
    with pytest.raises(ValueError, match="read-only"):
        cov.value[...] = 0


@pytest.mark.parametrize(
    "value, event, message",
    [
        (0.0, (2,), "positive definite covariance, got 0; a vertex without noise is made with cov=None"),
        (-1.0, (2,), "got -1;"),
        (np.nan, (2,), "expected finite numbers"),
        ([1.0, np.inf], (2,), "expected finite numbers"),
        ([1.0, 0.0], (2,), "numbers between 0 and 1"),
        ([[1.0, 2.0], [3.0, -4.0]], (2, 2), "numbers between -4 and 3"),
        ([[1.0, 2.0], [2.0, 1.0]], (2,), "smallest eigenvalue -1"),
        ([[1.0, 0.5], [0.2, 1.0]], (2,), "expected a symmetric matrix"),
        (
            np.ones(3),
            (2,),
            r"got shape \(3,\), expected a number, an array of shape \(2,\), or a matrix of shape \(2, 2\)",
        ),
    ],
)
def test_covariance_refuses(value, event, message):
    with pytest.raises(CovarianceError, match=message) as caught:
        Covariance(value, event, "h1")
    assert "'h1'" in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("event", [(1,), (4,), (2, 3)])
@given(seed=st.integers(0, 2**32 - 1))
def test_conditional_against_dense_formulas(form, event, seed):
    rng = np.random.default_rng(seed)
    cov = make(rng, form, event)
    n, q = 5, cov.matrix()
    observed = rng.random((n, *event)) < rng.choice([0.0, 0.5, 1.0])
    # The samples lie last in memory, as they do after a convolution.
    error, pulled, z = (np.moveaxis(rng.standard_normal((*event, n)), -1, 0) for _ in range(3))
    given_ = cov.given(observed)
    messages, implied = given_.messages(error, pulled), given_.implied(error)
    root, back = given_.root(z), given_.root_adjoint(error)
    energy, logdet = given_.energy(implied), given_.logdet()
    assert {a.shape for a in (messages, implied, root, back)} == {(n, *event)}
    assert energy.shape == logdet.shape == (n,)
    for row in range(n):
        o, h = (np.flatnonzero(m) for m in (observed[row].ravel(), ~observed[row].ravel()))
        qoo, qoh = q[np.ix_(o, o)], q[np.ix_(o, h)]
        e, lam, solve = error[row].ravel(), pulled[row].ravel(), np.linalg.inv(qoo)
        want = lam.copy()
        want[o] = solve @ (e[o] - qoh @ lam[h])
        np.testing.assert_allclose(messages[row].ravel(), want, atol=1e-9)
        want[o], want[h] = e[o], qoh.T @ solve @ e[o]
        np.testing.assert_allclose(implied[row].ravel(), want, atol=1e-9)
        np.testing.assert_allclose(energy[row], e[o] @ solve @ e[o], atol=1e-9)
        np.testing.assert_allclose(logdet[row], np.linalg.slogdet(qoo)[1], atol=1e-9)
        assert not root[row].ravel()[o].any()
        assert not back[row].ravel()[o].any()
        remaining = q[np.ix_(h, h)] - qoh.T @ solve @ qoh
        whole = np.zeros_like(q)
        whole[np.ix_(h, h)] = remaining
        units = np.eye(cov.size).reshape(cov.size, *event)
        same = cov.given(np.broadcast_to(observed[row], units.shape))
        np.testing.assert_allclose(same.root(same.root_adjoint(units)).reshape(cov.size, -1), whole, atol=1e-9)
    np.testing.assert_allclose((root * error).sum(), (z * back).sum(), atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_conditional_keeps_single_precision(form):
    rng = np.random.default_rng(0)
    given_ = make(rng, form, (2, 2)).given(rng.random((6, 2, 2)) < 0.5)
    a, b = (rng.standard_normal((6, 2, 2)) for _ in range(2))
    narrow = [x.astype(np.float32) for x in (a, b)]
    for name, count in {"messages": 2, "implied": 1, "root": 1, "root_adjoint": 1, "energy": 1}.items():
        got, want = getattr(given_, name)(*narrow[:count]), getattr(given_, name)(a, *[b][: count - 1])
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert given_.logdet().dtype == np.float64


@pytest.fixture
def density():
    rng = np.random.default_rng(3)
    return Gaussian(rng.standard_normal(5), spd(rng, 5))


def test_log_prob_and_entropy(density):
    known = stats.multivariate_normal(density.mean, density.cov)
    x = np.random.default_rng(0).standard_normal((2, 3, 5))
    np.testing.assert_allclose(density.log_prob(x), known.logpdf(x))
    np.testing.assert_allclose(density.log_prob(x[0, 0]), known.logpdf(x[0, 0]))
    np.testing.assert_allclose(density.entropy(), known.entropy())


def test_information_and_back(density):
    precision, h = density.information()
    np.testing.assert_allclose(precision @ density.cov, np.eye(5), atol=1e-12)
    again = Gaussian.from_information(precision, h)
    np.testing.assert_allclose(again.mean, density.mean)
    np.testing.assert_allclose(again.cov, density.cov)
    with pytest.raises(np.linalg.LinAlgError):
        Gaussian.from_information(np.zeros((2, 2)), np.zeros(2))


def test_product_is_the_normalised_product(density):
    rng = np.random.default_rng(1)
    other = Gaussian(rng.standard_normal(5), spd(rng, 5))
    joint, x = density.product(other), rng.standard_normal((4, 5))
    constant = density.log_prob(x) + other.log_prob(x) - joint.log_prob(x)
    np.testing.assert_allclose(constant, constant[0])


@pytest.mark.parametrize("index", [[1, 3], [3, 0], [-1], [], [0, 1, 2, 3, 4]])
def test_marginal_times_conditional_is_the_joint(density, index):
    x = np.random.default_rng(0).standard_normal(5)
    rest = np.setdiff1d(np.arange(5), np.arange(5)[np.array(index, int)])
    marginal, conditional = density.marginal(index), density.condition(index, x[np.array(index, int)])
    assert len(conditional.mean) == len(rest)
    total = marginal.log_prob(x[np.array(index, int)]) + conditional.log_prob(x[rest])
    np.testing.assert_allclose(total, density.log_prob(x))


def test_push_forward(density):
    rng = np.random.default_rng(0)
    a, b, q = rng.standard_normal((2, 5)), rng.standard_normal(2), spd(rng, 2)
    got = density.push_forward(a, b, q)
    np.testing.assert_allclose(got.mean, a @ density.mean + b)
    np.testing.assert_allclose(got.cov, a @ density.cov @ a.T + q)
    np.testing.assert_allclose(density.push_forward(a).cov, a @ density.cov @ a.T)
    np.testing.assert_allclose(density.push_forward(a, noise=0.5).cov, a @ density.cov @ a.T + 0.5 * np.eye(2))


def test_kl_by_quadrature():
    p, q = Gaussian(np.array([0.3]), np.array([[0.5]])), Gaussian(np.array([-1.0]), np.array([[2.0]]))
    x = np.linspace(-12, 12, 20001)[:, None]
    integrand = np.exp(p.log_prob(x)) * (p.log_prob(x) - q.log_prob(x))
    np.testing.assert_allclose(p.kl(q), np.trapezoid(integrand, x[:, 0]), rtol=1e-8)


def test_kl_of_a_rotated_pair_is_the_sum_over_its_axes():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    axes = [(rng.standard_normal(3), rng.uniform(0.5, 2, 3)) for _ in range(2)]
    p, q = (Gaussian(mean, np.diag(var)).push_forward(rotation) for mean, var in axes)
    singles = [[Gaussian(m[i : i + 1], v[i : i + 1, None]) for m, v in axes] for i in range(3)]
    np.testing.assert_allclose(p.kl(q), sum(a.kl(b) for a, b in singles))
    assert p.kl(p) == pytest.approx(0, abs=1e-12)


def test_samples_of_a_singular_covariance_stay_on_its_support():
    line = np.array([[1.0, 2.0], [2.0, 4.0]])
    draws = Gaussian(np.zeros(2), line).sample(100, np.random.default_rng(0))
    assert draws.shape == (100, 2)
    np.testing.assert_allclose(draws[:, 1], 2 * draws[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    "mean, cov", [(np.zeros(2), np.eye(3)), (np.zeros((2, 1)), np.eye(2)), (np.zeros(2), np.ones(2))]
)
def test_gaussian_refuses_shapes_that_do_not_fit(mean, cov):
    with pytest.raises(ShapeError, match=r"expected mean \(n,\) and cov \(n, n\)"):
        Gaussian(mean, cov)
