"""What one local rule finds, against eigenvectors of covariances and torch's gradient."""

import numpy as np
import pytest
import torch

from gbn.equivalence import claims
from gbn.equivalence.claims import hebb


@pytest.fixture(scope="module")
def found():
    return claims.run("hebb", rows=300)


def angle(a, b):
    """The largest principal angle, from projections."""
    qa, qb = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
    return np.arcsin(min(1.0, np.linalg.norm(qb - qa @ (qa.T @ qb), ord=2)))


def test_ppca_by_em_is_the_closed_form(found):
    rng = np.random.default_rng(0)
    x, _ = hebb.data(300, 6, rng)
    values, _ = np.linalg.eigh(x.T @ x / len(x))
    assert found.figures["angle to SVD, EM"] < 1e-8
    assert found.figures["noise variance, EM"] == pytest.approx(values[:4].mean(), rel=1e-9)
    assert found.figures["noise variance, discarded eigenvalues"] == pytest.approx(values[:4].mean(), rel=1e-12)


def test_hebb_finds_the_subspace_and_its_steps_are_slopes(found):
    assert found.figures["angle to SVD, Hebb"] < 5e-3
    assert found.figures["Hebbian products against the slope of the energy"] < 1e-6
    assert found.figures["size of Hebb's weights over EM's, without forgetting"] > 2


def test_a_chain_learns_what_it_is_clamped_to(found):
    assert found.figures["chain taught its input: angle to SVD"] < 0.02
    assert found.figures["chain taught a target: angle to reduced-rank regression"] < 1e-3
    assert found.figures["chain taught a target: angle to SVD"] > 1


def test_the_oracles_agree_with_eigenvectors():
    rng = np.random.default_rng(5)
    x, y = hebb.data(200, 5, rng)
    directions, variances = hebb.principal(x, 2)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    assert angle(directions, vectors[:, -2:]) < 1e-7
    np.testing.assert_allclose(variances, values[::-1], rtol=1e-10)
    # Reduced-rank regression by whitening x: the leading left vectors of C_xx^-½ C_xy, back through C_xx^-½.
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    left = np.linalg.svd(root @ x.T @ y)[0][:, :2]
    assert angle(hebb.reduced_rank(x, y, 2), root @ left) < 1e-7


def test_products_of_the_clamped_chain_are_torchs_gradient():
    rng = np.random.default_rng(2)
    x, y = hebb.data(30, 5, rng)
    net = hebb.chain(5, 2, 3, rng)
    w, v = (torch.tensor(np.array(net[n].value), requires_grad=True) for n in ("h.x.weight", "y.h.weight"))
    (0.5 * (torch.tensor(x) @ w.T @ v.T - torch.tensor(y)) ** 2).sum().backward()
    products = hebb._products(net, {"x": x, "y": y})
    np.testing.assert_allclose(products["h.x.weight"], -w.grad.numpy(), rtol=1e-10)
    np.testing.assert_allclose(products["y.h.weight"], -v.grad.numpy(), rtol=1e-10)


def test_the_picture():
    plt = pytest.importorskip("matplotlib.pyplot")
    assert len(claims.run("hebb", rows=20, iterations=2, epochs=2).plot().lines) == 4
    plt.close("all")
