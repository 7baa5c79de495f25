"""Two ways to take a report, against sums over a grid of cause and reading."""

import numpy as np
import pytest

from gbn.equivalence import claims

MEAN, STD, NOISE = 1.5, 0.6, 0.7
GRID = np.linspace(-9, 9, 1201)


def normal(x, mean, var):
    return np.exp(-0.5 * (x - mean) ** 2 / var) / np.sqrt(2 * np.pi * var)


def told(weights, axis):
    """Mean and std along one axis of a table of weights."""
    weights = weights / weights.sum()
    marginal = weights.sum(axis=1 - axis)
    mean = marginal @ GRID
    return mean, np.sqrt(marginal @ (GRID - mean) ** 2)


@pytest.fixture(scope="module")
def found():
    return claims.run("jeffrey", mean=MEAN, std=STD, noise=NOISE)


@pytest.fixture(scope="module")
def table():
    """p(cause, first), cause down, first across."""
    return normal(GRID[:, None], 0, 1) * normal(GRID[None], GRID[:, None], NOISE)


def test_both_rules_against_the_grid(found, table):
    report = normal(GRID, MEAN, STD**2)
    expected = {"likelihood": table * report, "Jeffrey's rule": table / table.sum(axis=0) * report}
    for rule, weights in expected.items():
        for axis, name in enumerate(("cause", "first")):
            mean, std = told(weights, axis)
            assert found.figures[f"{rule}: {name} mean"] == pytest.approx(mean, abs=1e-8)
            assert found.figures[f"{rule}: {name} std"] == pytest.approx(std, abs=1e-8)


def test_repeating_counts_twice_by_likelihood_only(found, table):
    twice = told(table * normal(GRID, MEAN, STD**2) ** 2, 1)[1]
    assert found.figures["likelihood: first std, told twice"] == pytest.approx(twice, abs=1e-8)
    assert found.figures["Jeffrey's rule: first std, told twice"] == pytest.approx(STD, abs=1e-12)


def test_order_matters_to_jeffrey_alone(found):
    assert found.figures["likelihood: order matters by"] < 1e-12
    assert found.figures["Jeffrey's rule: order matters by"] > 0.1


def test_jeffrey_is_a_likelihood_where_it_narrows_and_none_where_it_widens(found):
    assert found.figures["the likelihood that Jeffrey's rule amounts to: gap"] < 1e-12
    before, after = (v for k, v in found.figures.items() if k.startswith("cause std"))
    assert before == pytest.approx(1)
    assert after > before


def test_the_picture():
    plt = pytest.importorskip("matplotlib.pyplot")
    assert len(claims.run("jeffrey").plot().lines) == 4
    plt.close("all")
