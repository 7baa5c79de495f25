"""Values of states by queries, against least squares written out, and against the process itself."""

from itertools import pairwise

import numpy as np
import pytest

from gbn.equivalence import claims
from gbn.equivalence.claims import rewards
from gbn.equivalence.claims.rewards import World

STATES, DISCOUNT = 5, 0.8


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(3)
    world = World.ring(STATES, discount=DISCOUNT)
    path = world.walk(80, rng)
    return world, path, world.reap(path, 1, rng)


@pytest.fixture(scope="module")
def found():
    return claims.run("rewards", steps=120, walks=12, redraws=500, states=STATES, discount=DISCOUNT)


def ask(net, value, reaped):
    post = net.query([value], {"rewards": reaped})
    return post.mean[value][0], post.cov(value)[0]


def test_planning_is_the_sum_of_what_each_state_pays(scene):
    """Mean rewards by averaging visits, then the geometric series, term by term."""
    world, path, reaped = scene
    visits = np.array([(path[:-1] == s).sum() for s in range(STATES)])
    paid = np.array([reaped[0, path[:-1] == s].mean() for s in range(STATES)])
    counted = np.zeros((STATES, STATES))
    for here, there in pairwise(path):
        counted[here, there] += 1 / visits[here]
    worth, power = np.zeros((STATES, STATES)), np.eye(STATES)
    for _ in range(300):
        worth, power = worth + power, DISCOUNT * power @ counted
    mean, cov = ask(*rewards.planning(world, path), reaped)
    np.testing.assert_allclose(mean, worth @ paid, atol=1e-6)
    np.testing.assert_allclose(cov, worth @ np.diag(world.noise**2 / visits) @ worth.T, atol=1e-6)
    expected = rewards.temporal_differences(path, reaped[0], STATES, DISCOUNT)
    np.testing.assert_allclose(mean, expected, atol=1e-6)


def test_returns_are_averaged_over_visits(scene):
    """With no return known at the end, V(s) and the last return are a regression on discounted sums."""
    world, path, reaped = scene
    steps, spread = len(path) - 1, 1.5
    powers = DISCOUNT ** np.arange(steps)
    sums = np.array([powers[: steps - t] @ reaped[0, t:] for t in range(steps)])
    # G_t - γ^(T-t) G_T is the sum; unknowns: V, and G_T with its own deviation from V of the last state.
    left = DISCOUNT ** (steps - np.arange(steps))
    design = np.hstack([np.eye(STATES)[path[:-1]], -left[:, None]])
    tie = np.append(np.eye(STATES)[path[-1]], -1.0)[None]
    solution = np.linalg.lstsq(np.vstack([design, tie]), np.append(sums, 0.0), rcond=None)[0]
    mean, _ = ask(*rewards.returns(world, path, spread), reaped)
    np.testing.assert_allclose(mean, solution[:STATES], atol=1e-4)


def test_residuals_are_least_squares_on_differences(scene):
    world, path, reaped = scene
    eye = np.eye(STATES)
    design = eye[path[:-1]] - DISCOUNT * eye[path[1:]]
    mean, cov = ask(*rewards.residuals(world, path), reaped)
    np.testing.assert_allclose(mean, np.linalg.lstsq(design, reaped[0], rcond=None)[0], atol=1e-6)
    np.testing.assert_allclose(cov, world.noise**2 * np.linalg.inv(design.T @ design), rtol=1e-5)


def test_values_are_what_long_walks_pay():
    rng = np.random.default_rng(0)
    world = World.ring(STATES, noise=0.1, discount=0.5)
    powers = 0.5 ** np.arange(40)
    paid = [powers @ world.reap(world.walk(40, rng), 1, rng)[0] for _ in range(2000)]
    assert np.mean(paid) == pytest.approx(world.values()[0], abs=4 * np.std(paid) / np.sqrt(2000))


def test_the_claim_fails_and_error_bars_say_what_they_know(found):
    assert found.holds is False
    figures = found.figures
    assert figures["planning against LSTD, largest difference"] < 1e-5
    # 500 rewards along one walk: the share of 2 500 dependent intervals is within .03 of .9.
    assert figures["90 % intervals that hold the value, dynamics as counted"] == pytest.approx(0.9, abs=0.03)
    assert figures["90 % intervals that hold the value, true dynamics"] < 0.85
    assert figures["error, residuals"] > figures["error, planning"]
    assert figures["bias, residuals"] > 2 * figures["bias, planning"]


def test_the_picture(found):
    plt = pytest.importorskip("matplotlib.pyplot")
    assert len(found.plot().containers) == 3
    plt.close("all")
