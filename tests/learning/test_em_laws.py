"""Law 4 (Fisher's identity), law 5 (EM is a preconditioned gradient) and monotony, on random nets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gbn
from gbn.learning.condensation import condensed
from gbn.learning.data import Data
from gbn.learning.em import learner
from gbn.learning.numbers import Frozen, with_noise, with_values
from gbn.learning.standard_errors import score

SEEDS = st.integers(0, 10_000)


def covariance(rng, form, size):
    if form == "scalar":
        return float(rng.uniform(0.4, 1.5))
    if form == "diagonal":
        return rng.uniform(0.4, 1.5, size)
    root = rng.normal(size=(size, size))
    return root @ root.T / size + 0.4 * np.eye(size)


def random_net(rng, tied=True):
    """A chain x0 -> x1 -> x2 with tied weights and (sometimes) unequal noise, a skip, and observed leaves."""
    net = gbn.GaussianBayesNet()
    size, out = (int(rng.integers(1, 4)) for _ in range(2))
    forms = ["scalar", "diagonal", "full"]
    form = [forms[k] for k in rng.integers(3, size=6)]
    net.add_input("u", 2)
    net.add_input("x0", size, mean=rng.normal(size=size), cov=covariance(rng, form[0], size))
    net.add_parameter("A", 0.7 * rng.normal(size=(size, size)))
    net.add_parameter("c", rng.normal(size=size))
    net.add_noise("R", covariance(rng, form[1], out), (out,))
    net.add_parameter("H", rng.normal(size=(size, out)))
    for t in (1, 2):
        parents = {f"x{t - 1}": "A"}
        if t == 2:
            parents |= {"u": rng.normal(size=(size, 2))}
        net.add_linear(f"x{t}", parents, bias="c" if tied else None, cov=covariance(rng, form[1 + t], size))
    for t in range(3):
        net.add(f"y{t}", "MatMul", [f"x{t}", "H"], cov="R")
    net.add_linear(
        "z", {"x1": rng.normal(size=(2, size)), "y2": rng.normal(size=(2, out))}, cov=covariance(rng, form[5], 2)
    )
    return net


def random_data(net, rng, rows=6, missing=0.3):
    u = rng.normal(size=(rows, 2))
    drawn = net.sample(rows, rng, do={"u": u})
    data = {n: 1.3 * drawn[n] + 0.1 for n in ("y0", "y1", "y2", "z", "x1")}
    data["x1"][1:] = np.nan
    for name, value in data.items():
        if name != "x1":
            value[rng.random(value.shape) < missing] = np.nan
    return data | {"u": u}


def total(net, data, weights):
    return float(weights @ net.query([], data).log_evidence)


def central(function, value, step=1e-5):
    out = np.empty(value.shape)
    for index in np.ndindex(value.shape):
        sides = []
        for sign in (1, -1):
            moved = np.array(value, float)
            moved[index] += sign * step
            sides.append(function(moved))
        out[index] = (sides[0] - sides[1]) / (2 * step)
    return out


@settings(max_examples=12)
@given(SEEDS)
def test_the_score_is_the_slope_of_the_log_evidence(seed):
    rng = np.random.default_rng(seed)
    net = random_net(rng)
    data, weights = random_data(net, rng), rng.uniform(0.2, 2, 6)
    found = score(net, data, weights)
    assert set(found.values) == {*net.parameters, "x0"}
    assert set(found.noises) == set(net.noises)
    for name, slope in found.values.items():
        numeric = central(lambda v, n=name: total(with_values(net, {n: v}), data, weights), np.array(net[name].value))
        np.testing.assert_allclose(slope, numeric, rtol=1e-6, atol=1e-6 * max(1, np.abs(numeric).max()))
    for name, slope in found.noises.items():
        value = net.noises[name].value
        if net.noises[name].form == "full":
            # Off the diagonal an entry moves with its mirror image.
            def moved(v, n=name):
                return total(with_noise(net, {n: (v + v.T) / 2}), data, weights)

            numeric, mine = central(moved, value), slope
        else:
            numeric = central(lambda v, n=name: total(with_noise(net, {n: v}), data, weights), value)
            mine = np.diagonal(slope) if value.ndim else np.trace(slope)
        np.testing.assert_allclose(mine, numeric, rtol=1e-6, atol=1e-6 * max(1, np.abs(numeric).max()))


def one_step(net, data, weights=None, **options):
    rows = Data.read(net, data, weights)
    em = learner(net, rows, Frozen.read(net, options.pop("freeze", ())), np.random.default_rng(0), px=False, **options)
    em.begin()
    before = dict(zip([f.name for f in em.families], em.moments, strict=True))
    em.step()
    return em.net, before


@settings(max_examples=20)
@given(SEEDS)
def test_an_m_step_is_a_preconditioned_gradient_step(seed):
    """B_new - B = Q ∇_B C_uu⁻¹ for a CPD of its own, bias among the regressors."""
    rng = np.random.default_rng(seed)
    net = random_net(rng)
    data, weights = random_data(net, rng, rows=12), rng.uniform(0.2, 2, 12)
    slopes = score(net, data, weights).values
    fitted, moments = one_step(net, data, weights, variance_floor=0.0)
    weight = {"z": ["z.x1.weight", "z.y2.weight"]}["z"]
    step = np.concatenate([fitted[n].value - net[n].value for n in weight], axis=1)
    gradient = np.concatenate([slopes[n] for n in weight], axis=1)
    uu = moments["z"].about_zero.uu[:-1, :-1]
    expected = net.noise("z").matrix() @ gradient @ np.linalg.inv(uu)
    np.testing.assert_allclose(step, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


@settings(max_examples=15)
@given(SEEDS)
def test_weights_tied_over_unequal_noises_solve_the_weighted_equations(seed):
    """Σ_k Λ_k (C_xu,k - A C_uu,k) = 0 at the new weights, over the CPDs that share A and c; by a dense solve too."""
    rng = np.random.default_rng(seed)
    net = random_net(rng)
    data = random_data(net, rng, rows=12)
    fitted, moments = one_step(net, data)
    size = net["x1"].size
    # Unknowns: A, c, and the weight of u in x2, in one dense generalised least squares problem.
    w = size * 2
    n = size * size + size + w
    hessian, right = np.zeros((n, n)), np.zeros(n)
    for name in ("x1", "x2"):
        lam, m = np.linalg.inv(net.noise(name).matrix()), moments[name].about_zero
        columns = m.uu.shape[0]
        pick = np.zeros((size * columns, n))  # row-major vec of [A, (V,) c]
        for r in range(size):
            for c in range(size):
                pick[r * columns + c, r * size + c] = 1
            if name == "x2":
                for c in range(2):
                    pick[r * columns + size + c, size * size + size + r * 2 + c] = 1
            pick[r * columns + columns - 1, size * size + r] = 1
        hessian += pick.T @ np.kron(lam, m.uu) @ pick
        right += pick.T @ (lam @ m.xu).reshape(-1)
    theta = np.linalg.solve(hessian, right)
    found = np.concatenate([fitted[p].value.reshape(-1) for p in ("A", "c", "x2.u.weight")])
    np.testing.assert_allclose(found, theta, rtol=1e-7, atol=1e-8 * np.abs(theta).max())


@settings(max_examples=15)
@given(SEEDS, st.sampled_from([{}, {"ridge": 0.5}, {"noise_prior": (3.0, 0.5)}, {"freeze": ["A", "z"]}]))
def test_the_objective_never_falls(seed, options):
    rng = np.random.default_rng(seed)
    net = random_net(rng)
    data, weights = random_data(net, rng), rng.uniform(0.2, 2, 6)
    rows = Data.read(net, data, weights)
    em = learner(
        net,
        rows,
        Frozen.read(net, options.get("freeze", ())),
        rng,
        **{k: v for k, v in options.items() if k != "freeze"},
    )
    values = [em.begin()["objective"]]
    for _ in range(15):
        values.append(em.step()["objective"])
        assert em.failed() is None
    values = np.array(values)
    assert (np.diff(values) >= -1e-9 * (1 + np.abs(values[:-1]))).all()
    # The objective is what it says: the log-evidence by a query, plus the log-priors.
    expected = total(em.net, data, weights) + em.priors.log_density(em.net)
    np.testing.assert_allclose(values[-1], expected, rtol=1e-9)


@settings(max_examples=8)
@given(SEEDS)
def test_both_solvers_and_rows_as_they_are_give_the_same_trace(seed):
    """By the information form, in observation space, and row by row instead of condensed."""
    rng = np.random.default_rng(seed)
    net = random_net(rng)
    data = random_data(net, rng, rows=40, missing=0)
    data["y1"][::2] = np.nan
    traces = []
    for options in ({}, {"solver": "information"}, {"solver": "observations"}):
        result = net.fit(data, max_iter=4, tol=None, callback=lambda n, _: n == 4, engine_options=options)
        traces.append(result.history.column("log_evidence"))
    rows = Data.read(net, data)
    assert condensed(rows).samples < 40
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gbn.learning.statistics.condensed", lambda data: data)
        traces.append(net.fit(data, max_iter=4, tol=None, callback=lambda n, _: n == 4).history.column("log_evidence"))
    for trace in traces[1:]:
        np.testing.assert_allclose(trace, traces[0], rtol=1e-9)


def test_near_degenerate_data_stay_finite_for_500_iterations():
    """Three sensors of which one repeats another, and a constant one: the variance floor holds, and nothing is NaN."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(30, 4))
    y[:, 1] = y[:, 0]
    y[:, 2] = 3.0
    y[rng.random(y.shape) < 0.1] = np.nan
    net = gbn.GaussianBayesNet()
    net.add_input("z", 2, mean=0.0, cov=1.0)
    net.add_linear("y", {"z": rng.normal(size=(4, 2))}, bias=np.zeros(4), cov=np.ones(4))
    with pytest.warns(gbn.errors.ConvergenceWarning, match="made 500 iterations"):
        result = net.fit({"y": y}, max_iter=500, tol=None)
    trace = result.history.column("log_evidence")
    assert np.isfinite(trace).all()
    # Variances a billion times apart leave about seven digits of the log-evidence.
    assert (np.diff(trace) >= -1e-7 * np.abs(trace[:-1])).all()
    for name in result.net.parameters:
        assert np.isfinite(result.net[name].value).all()
    floor = result.diagnostics["variance_floor"]["y"]
    assert (result.net.noise("y").diagonal() >= floor).all()
    assert any("variance_floor" in note for note in result.diagnostics["not_determined"])
