"""The flow of the free energy: its rates against the dense precision, its limits against exact inference."""

import numpy as np
import pytest

from gbn.equivalence.claims import odes
from gbn.evidence import Evidence
from gbn.inference.live_prediction import States
from gbn.net import GaussianBayesNet

RNG = np.random.default_rng(0)
W, V, U = (RNG.normal(size=size) for size in ((3, 2), (2, 3), (2, 2)))
GIVEN = {"x": RNG.normal(size=(1, 2)), "y": RNG.normal(size=(1, 2))}


def linear(precision=20.0):
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add_linear("a", {"x": W}, cov=1.0)
    net.add_linear("b", {"a": V}, cov=0.5)
    net.add_linear("y", {"b": U}, cov=1 / precision)
    return net


def precision_matrix(precision=20.0):
    """K of (a, b): ½|a - Wx|² + |b - Va|² + ½ precision |y - Ub|²."""
    return np.block([[np.eye(3) + 2 * V.T @ V, -2 * V.T], [-2 * V, 2 * np.eye(2) + precision * U.T @ U]])


def test_the_curvature_is_the_precision_of_the_latents():
    problem = States(Evidence.read(linear(), GIVEN))
    np.testing.assert_allclose(odes.curvature(problem, problem.start()), precision_matrix(), rtol=1e-6, atol=1e-6)


def test_implicit_steps_go_from_the_flow_to_exact_inference():
    problem = States(Evidence.read(linear(), GIVEN))
    k = precision_matrix()
    right = np.concatenate([W @ GIVEN["x"][0], 20.0 * U.T @ GIVEN["y"][0]])
    mean = np.linalg.solve(k, right)
    target = float(problem.energy(mean[None])[0][0])
    assert odes.implicit_steps(problem, target, 1e9) == 1
    # Short steps follow the flow: v - v* = exp(-K t) (v₀ - v*), near enough once ½ |v - v*|²_K is 1e-3 nats.
    values, vectors = np.linalg.eigh(k)
    gap = vectors.T @ (problem.start()[0] - mean)
    times = np.arange(1, 20_000) * 1e-3
    energy = 0.5 * (values * (np.exp(-np.outer(times, values)) * gap) ** 2).sum(axis=1)
    settled = times[np.argmax(energy <= 1e-3)]
    assert odes.implicit_steps(problem, target, 1e-3) * 1e-3 == pytest.approx(settled, rel=0.02)


def test_momentum_needs_fewer_rounds_than_descent_where_rates_differ():
    problem = States(Evidence.read(linear(300.0), GIVEN))
    rates = np.linalg.eigvalsh(precision_matrix(300.0))
    k, right = precision_matrix(300.0), np.concatenate([W @ GIVEN["x"][0], 300.0 * U.T @ GIVEN["y"][0]])
    target = float(problem.energy(np.linalg.solve(k, right)[None])[0][0])
    rounds = odes.momentum_rounds(problem, target, (rates[0], rates[-1]))
    v, descent = problem.start(), 0
    while problem.energy(v)[0][0] - target > 1e-3:
        v, descent = v - 2 / (rates[0] + rates[-1]) * problem.energy(v)[1], descent + 1
    assert 0 < rounds < descent / 2


def test_work_of_explicit_methods_grows_with_stiffness_and_that_of_implicit_ones_hardly():
    found = odes.experiment((10.0, 100.0, 1000.0), step_sizes=(1.0, 1e6), sizes=(3, 4, 2))
    kappa = found.series["stiffness"]
    assert (np.diff(kappa) > 0).all()
    assert kappa[-1] > 30
    grown = {label: values[-1] / values[0] for label, values in found.series.items() if label not in ("steps",)}
    for explicit in ("gradient rounds", "RK45 (adaptive, explicit)"):
        assert grown[explicit] > grown["stiffness"] / 4
        assert grown[explicit] > 4 * grown["BDF (adaptive, implicit)"]
    assert found.series["steps"][1e6] == 1
    assert found.figures["one implicit step of size 1e12, from the exact posterior"] < 1e-6


def test_it_draws_a_line_a_solver():
    plt = pytest.importorskip("matplotlib.pyplot")
    found = odes.experiment((1.0, 10.0), step_sizes=(1.0,), sizes=(2, 2, 1))
    assert len(found.plot().lines) == 7
    plt.close("all")
