"""Clamped less free statistics, against the log-evidence of numpy's own joint Gaussian."""

import numpy as np
import pytest

from gbn.equivalence import claims
from gbn.equivalence.claims import dreaming

ROWS = 40


def joint_precision(net):
    """K of (z, h, y) from the arrays of the net."""
    w, v = (np.asarray(net[name].value) for name in ("h.z.weight", "y.h.weight"))
    a = np.eye(9)
    a[2:5, :2], a[5:, 2:5] = -w, -v
    return a.T @ np.diag([1.0] * 2 + [2.0] * 7) @ a


def log_evidence(k, y):
    """Mean log N(y; 0, the y-block of K⁻¹)."""
    cov = np.linalg.inv(k)[5:, 5:]
    quadratic = np.einsum("ni,ij,nj->n", y, np.linalg.inv(cov), y).mean()
    return -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * cov)[1])


def test_the_contrast_is_the_slope_in_every_coupling():
    rng = np.random.default_rng(0)
    net, y = dreaming.layered(rng), rng.normal(size=(ROWS, 4))
    clamped = dreaming.moments(net.query(dreaming.NAMES, {"y": y}).joint())
    free = dreaming.moments(net.query(dreaming.NAMES).joint())
    found = dreaming.couplings(clamped, free)
    k = joint_precision(net)
    np.testing.assert_allclose(free, np.linalg.inv(k), atol=1e-10)
    for i in range(9):
        for j in range(i + 1):
            move = np.zeros((9, 9))
            move[i, j] = move[j, i] = 1e-5
            slope = (log_evidence(k + move, y) - log_evidence(k - move, y)) / 2e-5
            # An off-diagonal coupling stands in K twice.
            assert found[i, j] * (1 if i == j else 2) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_dreams_cancel_for_weights_and_are_needed_for_couplings():
    found = claims.run("dreaming", rows=ROWS, repeats=20, steps=20, seed=1)
    assert found.holds
    assert found.figures["contrast against Fisher, weights"] < 1e-12
    assert found.figures["contrast against differences, weights"] < 1e-7
    assert found.figures["couplings without the dream: relative error"] > 0.1
    assert found.figures["error against dreams: slope"] == pytest.approx(-0.5, abs=0.08)
    first, awake, asleep = (
        found.figures[f"log-evidence a row, {k}"] for k in ("first", "last, awake", "last, dreaming")
    )
    assert awake > first + 0.5
    assert asleep == pytest.approx(awake, abs=0.2)


def test_the_picture():
    plt = pytest.importorskip("matplotlib.pyplot")
    ax = claims.run("dreaming", rows=10, dreams=(5, 10), repeats=1, steps=1).plot()
    assert ax.get_xscale() == "log"
    plt.close("all")
