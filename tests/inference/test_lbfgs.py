"""The batched minimiser, on problems whose minima are known."""

import numpy as np
import pytest

from gbn.inference.lbfgs import LBFGS


def run(objective, start, tol=1e-8, rounds=500):
    solver = LBFGS(objective, start, tol)
    for number in range(rounds):
        if (solver.done | solver.stuck).all():
            break
        solver.step(number)
    return solver


def rosenbrock(z, rows=None, a=1.0, b=100.0):
    left, right = z[:, :-1], z[:, 1:]
    value = (b * (right - left**2) ** 2 + (a - left) ** 2).sum(1)
    gradient = np.zeros_like(z)
    gradient[:, :-1] = -4 * b * left * (right - left**2) - 2 * (a - left)
    gradient[:, 1:] += 2 * b * (right - left**2)
    return value, gradient


def quadratics(seed, count, size, condition):
    """f_n = ½ (z - m_n)ᵀ A_n (z - m_n), A_n of a given condition number."""
    rng = np.random.default_rng(seed)
    scales = np.logspace(0, np.log10(condition), size)
    matrices, minima = [], rng.normal(size=(count, size))
    for _ in range(count):
        basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
        matrices.append(basis * scales @ basis.T)
    stack = np.array(matrices)

    def part(index):
        def objective(z, rows):
            gap = z - minima[index[rows]]
            g = (stack[index[rows]] * gap[:, None, :]).sum(-1)
            return 0.5 * (gap * g).sum(1), g

        return objective

    return part, minima


@pytest.mark.parametrize("size", [2, 6])
def test_rosenbrock_valleys(size):
    start = np.random.default_rng(0).uniform(-1.5, 1.5, (6, size))
    solver = run(rosenbrock, start, tol=1e-9)
    assert solver.done.all()
    assert not solver.stuck.any()
    value, gradient = rosenbrock(solver.point)
    np.testing.assert_array_equal(value, solver.value)
    np.testing.assert_array_equal(gradient, solver.gradient)
    if size == 2:
        np.testing.assert_allclose(solver.point, 1, atol=1e-5)
    assert solver.evaluations < 150 * size


@pytest.mark.parametrize("condition, tolerance", [(1e2, 1e-6), (1e4, 1e-3), (1e6, 1e-1)])
def test_ill_conditioned_quadratics(condition, tolerance):
    part, minima = quadratics(1, 8, 10, condition)
    solver = run(part(np.arange(8)), np.zeros((8, 10)), tol=1e-9, rounds=3000)
    assert solver.done.all()
    np.testing.assert_allclose(solver.point, minima, atol=tolerance)


def test_a_batch_gives_what_its_problems_give_alone():
    part, _ = quadratics(2, 5, 6, 1e3)
    together = run(part(np.arange(5)), np.zeros((5, 6)), tol=1e-8)
    for n in range(5):
        alone = run(part(np.array([n])), np.zeros((1, 6)), tol=1e-8)
        assert alone.done.all()
        np.testing.assert_allclose(together.point[n], alone.point[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(together.value[n], alone.value[0], rtol=1e-9, atol=1e-15)


def test_problems_of_very_different_scale_do_not_disturb_one_another():
    factors = np.array([1e-8, 1.0, 1e8])

    def objective(z, rows):
        value, gradient = rosenbrock(z)
        return factors[rows] * value, factors[rows, None] * gradient

    solver = run(objective, np.full((3, 2), -1.0), tol=1e-8)
    assert solver.done.all()
    np.testing.assert_allclose(solver.point, 1, atol=1e-5)


def test_finished_problems_stay_where_they_are():
    part, minima = quadratics(3, 2, 4, 1e4)
    start = np.zeros((2, 4))
    start[0] = minima[0]
    solver = LBFGS(part(np.arange(2)), start, 1e-9)
    assert solver.done.tolist() == [True, False]
    for number in range(5):
        solver.step(number)
    np.testing.assert_array_equal(solver.point[0], minima[0])


def test_f_never_rises():
    solver = LBFGS(rosenbrock, np.random.default_rng(1).normal(size=(4, 3)), 1e-9)
    before = solver.value
    for number in range(100):
        figures = solver.step(number)
        assert (solver.value <= before + 1e-12 * (1 + np.abs(before))).all()
        before = solver.value
    assert set(figures) == {"gap", "free_energy", "evaluations"}


def test_a_kink_is_stuck_and_not_done():
    """|z| + ½ (z - 0.3)²: least at 0, where the slope jumps from -1.3 to 0.7."""

    def objective(z, rows):
        return (np.abs(z) + 0.5 * (z - 0.3) ** 2).sum(1), np.where(z > 0, 1.0, -1.0) + z - 0.3

    solver = run(objective, np.array([[2.0], [-1.0]]), tol=1e-9)
    assert solver.stuck.all()
    assert not solver.done.any()
    np.testing.assert_allclose(solver.point, 0, atol=1e-4)


def test_infinite_values_are_stepped_back_from():
    def objective(z, rows):
        with np.errstate(all="ignore"):
            value = np.where((z > 0).all(1), (z - np.log(z)).sum(1), np.nan)
            return value, 1 - 1 / z

    solver = run(objective, np.array([[0.01, 5.0], [3.0, 0.5]]), tol=1e-8)
    assert solver.done.all()
    np.testing.assert_allclose(solver.point, 1, atol=1e-6)


def test_single_precision_stays():
    def objective(z, rows):
        value, gradient = rosenbrock(z)
        assert z.dtype == np.float32
        return value, gradient

    solver = run(objective, np.full((2, 2), -1.0, np.float32), tol=1e-6)
    assert solver.point.dtype == solver.value.dtype == np.float32
    assert (solver.done | solver.stuck).all()
    np.testing.assert_allclose(solver.point, 1, atol=5e-2)


def test_nothing_to_minimise_is_done():
    solver = LBFGS(lambda z, rows: (np.zeros(len(z)), z), np.zeros((3, 0)), 1e-6)
    assert solver.done.all()
    assert solver.step()["gap"] == 0


def test_the_objective_is_asked_for_the_problems_that_are_left():
    part, minima = quadratics(5, 8, 5, 1e4)
    start, seen = np.zeros((8, 5)), []
    start[1:6] = minima[1:6]

    def objective(z, rows):
        assert len(z) == len(rows)
        seen.append(list(rows))
        return part(np.arange(8))(z, rows)

    solver = run(objective, start, tol=1e-9)
    assert solver.done.all()
    np.testing.assert_allclose(solver.point, minima, atol=1e-3)
    assert seen[0] == list(range(8))
    assert seen[-1] != seen[0]
    assert all({0, 6, 7} & set(rows) for rows in seen)
