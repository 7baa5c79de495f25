"""What each objective gets wrong, against numpy: the joint precision written out, and EM from its inverse."""

import numpy as np
import pytest

from gbn.equivalence import claims
from gbn.equivalence.claims import objectives

STEPS, SEQUENCES = 10, 150


def readings(seed=0):
    """The data of the experiment: the net with a loop draws first."""
    rng = np.random.default_rng(seed)
    objectives.looped(rng)
    drawn = objectives.autoregression(STEPS, 0.9, 0.19).sample(SEQUENCES, rng)
    return np.concatenate([drawn[f"y{t}"] for t in range(STEPS)], axis=1)


def em(y, spread, iterations=400):
    """EM on x_t = a x_{t-1} + N(0, q), whose E-step takes the covariance that ``spread`` makes of the precision."""
    n, steps = y.shape
    a, q = 0.5, 1.0
    for _ in range(iterations):
        chain = np.eye(steps) - a * np.eye(steps, k=-1)
        precision = chain.T @ np.diag([1.0] + [1 / q] * (steps - 1)) @ chain + np.eye(steps)
        mean, cov = np.linalg.solve(precision, y.T).T, spread(precision)
        second = mean.T @ mean + n * cov
        before, cross = np.trace(second[:-1, :-1]), np.trace(second[1:, :-1])
        after = np.trace(second[1:, 1:])
        a = cross / before
        q = (after - a * cross) / (n * (steps - 1))
    return a, q


@pytest.fixture(scope="module")
def found():
    return claims.run("objectives", steps=STEPS, sequences=SEQUENCES)


@pytest.mark.parametrize(
    "objective, spread",
    [("exact", np.linalg.inv), ("block mean-field", lambda k: np.diag(1 / np.diag(k)))],
)
def test_em_ends_where_the_covariance_of_its_objective_leads(found, objective, spread):
    expected = em(readings(), spread)
    learned = [found.figures[f"{objective}: learned {what}"] for what in "aq"]
    np.testing.assert_allclose(learned, expected, atol=3e-4)


def test_mean_field_forgets_and_a_point_estimate_knows_too_much(found):
    figures = found.figures
    assert abs(figures["exact: learned a"] - 0.9) < 0.05
    assert figures["block mean-field: learned a"] < 0.65
    assert figures["block mean-field: learned q"] > 0.7
    assert figures["point estimate: learned a"] > 0.95
    assert figures["point estimate: learned q"] < 1e-6


def test_each_gets_the_spread_wrong_in_its_own_way(found):
    """Against dense numpy: the precision of the hidden entries of the net with a loop."""
    net, evidence = objectives.looped(np.random.default_rng(0))
    w = {name: np.asarray(v.value) for name, v in net.vertices.items() if v.kind == "parameter"}
    eye, nil = np.eye(2), np.zeros((2, 2))
    rows = [
        ("x", np.hstack([eye, nil, nil])),
        ("a", np.hstack([-w["a.x.weight"], eye, nil])),
        ("b", np.hstack([-w["b.x.weight"], nil, eye])),
        ("y", np.hstack([nil, -w["y.a.weight"], -w["y.b.weight"]])),
    ]
    precision = sum(row.T @ np.linalg.solve(net.noise(name).matrix(), row) for name, row in rows)
    exact = np.sqrt(np.diag(np.linalg.inv(precision)))
    blocks = [np.linalg.inv(precision[i : i + 2, i : i + 2]) for i in (0, 2, 4)]
    block = np.sqrt(np.concatenate([np.diag(b) for b in blocks])) / exact
    diagonal = 1 / np.sqrt(np.diag(precision)) / exact
    told = {row["objective"]: row for row in found.table}
    for name, ratio in (("block mean-field", block), ("diagonal mean-field", diagonal)):
        assert told[name]["narrowest std"] == pytest.approx(ratio.min(), rel=1e-6)
        assert told[name]["widest std"] == pytest.approx(ratio.max(), rel=1e-6)
    logdet = np.linalg.slogdet(precision)[1]
    gaps = [
        0.5 * (-sum(np.linalg.slogdet(b)[1] for b in blocks) - logdet),
        0.5 * (np.log(np.diag(precision)).sum() - logdet),
        # The energy at the mode leaves out the Gaussian volume around it.
        0.5 * (6 * np.log(2 * np.pi) - logdet),
    ]
    for name, gap in zip(("block mean-field", "diagonal mean-field", "point estimate"), gaps, strict=True):
        assert told[name]["gap (nats)"] == pytest.approx(gap, rel=1e-5)
    assert all(row["mean error"] < 1e-5 for row in found.table)
    assert evidence["y"].shape == (20, 2)


def test_belief_propagation_is_exact_on_the_chain_and_overconfident_with_a_loop(found):
    assert found.figures["belief propagation on the chain: variance error"] < 1e-12
    assert 0.5 < found.table[-1]["narrowest std"] < 0.999


def test_the_paths_are_drawn():
    plt = pytest.importorskip("matplotlib.pyplot")
    ax = claims.run("objectives", steps=4, sequences=20, max_iter=3).plot()
    assert len(ax.lines) == 2 * len(objectives.LEARNERS) + 1
    plt.close("all")
