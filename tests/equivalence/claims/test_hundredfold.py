"""The price of small steps, against the binomial distribution of scipy."""

import numpy as np
import pytest
from scipy.stats import nbinom

from gbn.equivalence.claims import hundredfold


def test_rounds_measured_are_those_of_the_law():
    found = hundredfold.experiment((2, 4), (0.1, 1.0), width=5, samples=3, repeats=0)
    for row in found.table:
        # The round of the k-th success, k latents lying between the first layer and the output.
        latents, eta = row["layers"] - 1, row["step size"]
        expected = latents + int(nbinom.ppf(1 - 1e-3, latents, eta)) if eta < 1 else latents
        assert row["rounds, measured"] == row["rounds, computed"] == expected
    assert found.figures["rounds, 4 layers, step 0.1"] == 108
    assert found.figures["largest difference, measured from law"] < 1e-12
    measured, law = found.series["4 layers, η = 0.1"]
    np.testing.assert_allclose(measured, law, atol=1e-12)


def test_wall_clock_is_told_as_ratios():
    pytest.importorskip("torch")
    found = hundredfold.experiment((2,), (0.1,), width=4, samples=2, repeats=1)
    assert found.figures["rounds timed"] == 108
    assert found.figures["time of the rounds / time of one sweep"] > 0
    assert "times" in found.answer


def test_it_draws_law_and_measurement():
    plt = pytest.importorskip("matplotlib.pyplot")
    ax = hundredfold.experiment((2,), (0.1,), width=4, samples=2, repeats=0).plot()
    assert len(ax.lines) == 2
    plt.close("all")
