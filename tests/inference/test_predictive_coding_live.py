"""Live prediction: every solver to the same equilibrium, and what each one counts."""

import warnings

import numpy as np
import pytest
import scipy.linalg

from gbn.errors import ConvergenceWarning, InferenceError
from gbn.evidence import Evidence
from gbn.inference.live_prediction import Errors, States
from gbn.inference.live_solvers import INTEGRATORS, SOLVERS
from gbn.inference.predictive_coding import equilibrium
from gbn.net import GaussianBayesNet
from tests.dense import Dense
from tests.nets import random_covariance, random_evidence, random_net, row, tanh_chain

NAN = np.nan


def mixed():
    """A partly observed vertex with a full covariance, a label, a deterministic middle."""
    rng = np.random.default_rng(3)
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=[0.2, -0.3], cov=0.7)
    net.add_linear("m", {"x": rng.normal(size=(3, 2))}, cov=random_covariance(np.random.default_rng(1), 3))
    net.add("h", "Tanh", ["m"])
    net.add_linear("a", {"h": rng.normal(size=(3, 3))}, cov=np.eye(3) + 0.4)
    net.add_likelihood("t", "categorical", "a")
    net.add_linear("y", {"h": rng.normal(size=(2, 3))}, cov=[0.25, 0.5])
    evidence = {
        "m": np.array([[NAN, 0.9, NAN], [NAN] * 3, [NAN, NAN, -1.0]]),
        "y": np.array([[1.0, NAN], [NAN, 0.5], [1.0, -1.0]]),
        "t": np.array([[0, 1.0, 0], [NAN] * 3, [0, 0, 1.0]]),
    }
    return net, evidence


def random_point(problem, seed, scale=1.0):
    """Observed entries of partly observed vertices at zero, where whitened errors have them."""
    moves = problem.split(scale * np.random.default_rng(seed).normal(size=problem.start().shape))
    for name, mask in problem.evidence.masks.items():
        if name in moves:
            moves[name] = np.where(mask, 0, moves[name])
    return problem.start() + problem.join(moves, problem.start())


def check_gradient(problem, x, step=1e-6):
    """Central differences of the energy."""
    _, gradient = problem.energy(x)
    for k in range(x.shape[1]):
        shift = np.zeros_like(x)
        shift[:, k] = step
        difference = (problem.energy(x + shift)[0] - problem.energy(x - shift)[0]) / (2 * step)
        np.testing.assert_allclose(gradient[:, k], difference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Errors, States])
def test_the_gradient_is_that_of_the_energy(kind):
    net, evidence = mixed()
    problem = kind(Evidence.read(net, evidence))
    check_gradient(problem, random_point(problem, 0))
    for seed in range(6):
        net = random_net(seed, "smooth")
        problem = kind(Evidence.read(net, *random_evidence(net, seed + 1, samples=2)))
        check_gradient(problem, random_point(problem, seed, 0.5))


def test_both_coordinates_give_the_same_energy():
    net, evidence = mixed()
    errors, states = (kind(Evidence.read(net, evidence)) for kind in (Errors, States))
    z = random_point(errors, 0)
    point = errors.at(z)
    v = states.join(point.values, z)
    np.testing.assert_allclose(states.energy(v)[0], errors.energy(z)[0], rtol=1e-10)
    np.testing.assert_allclose(states.constant, errors.constant)
    np.testing.assert_allclose(states.energy(states.start())[0], errors.energy(errors.start())[0])


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_finds_the_same_point(solver):
    net, evidence = mixed()
    post = net.query(None, evidence, engine="pc", prediction="live", tol=1e-9)
    other = net.query(None, evidence, engine="pc", prediction="live", solver=solver, tol=1e-6, max_rounds=8000)
    assert other.converged, other.diagnostics["stopped"]
    assert other.diagnostics["solver"] == solver
    assert other.diagnostics["kinks"] == 0
    for name in net.latents:
        np.testing.assert_allclose(other.mean[name], post.mean[name], atol=2e-4)
    np.testing.assert_allclose(other.free_energy, post.free_energy, atol=1e-7)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_linear_net_has_its_posterior_mean(solver):
    net = random_net(21)
    evidence, do = random_evidence(net, 22)
    post = net.query(None, evidence, do, engine="pc", prediction="live", solver=solver, tol=1e-7, max_rounds=20000)
    assert post.converged
    inputs = {n: v for n, v in evidence.items() if net[n].needs_data}
    given = {n: v for n, v in evidence.items() if n not in inputs}
    for n in range(3):
        dense = Dense(net, row(given, n), row(do | inputs, n))
        for name in dense.where:
            np.testing.assert_allclose(post.mean[name][n], dense.mean_of(name), atol=1e-4)
    if solver == "gauss-newton":
        assert post.diagnostics["rounds"] <= 2


@pytest.mark.parametrize("solver", SOLVERS)
def test_rounds_passes_messages_and_free_energy_are_reported(solver):
    net = tanh_chain((2, 4, 3, 2), prior=1.0)
    y = {"y": np.array([[2.0, 0.1], [0.3, -1.0]])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        post = net.query(None, y, engine="pc", prediction="live", solver=solver, max_rounds=4, tol=1e-12)
    trace = [entry["free_energy"] for entry in post.history]
    assert len(trace) == post.diagnostics["rounds"] == 4
    assert (np.diff(trace) <= 1e-9).all()
    np.testing.assert_allclose(trace[-1], post.free_energy.mean())
    for key in ("passes", "messages"):
        counts = [entry[key] for entry in post.history]
        assert (np.diff(counts) > 0).all()
        assert post.diagnostics[key] == counts[-1]
    # y tells h2, h2 tells a2, and so on down to x: five lines.
    assert post.diagnostics["messages"] == 5 * post.diagnostics["passes"] / 2


def test_gradient_rounds_are_the_textbook_rule():
    """v ← v + η (-λ + pull), two rounds by hand on x -> a -> tanh -> y."""
    net = tanh_chain((2, 3, 2), hidden=0.5, output=0.3, prior=1.0)
    w, b = net["a1.x.weight"].value, net["a1.bias"].value
    v, c = net["y.h1.weight"].value, net["y.bias"].value
    y = np.array([0.4, -0.2])
    x, a, eta = np.zeros(2), b.copy(), 0.05
    for _ in range(2):
        lam_y, lam_a, lam_x = (y - v @ np.tanh(a) - c) / 0.3, (a - w @ x - b) / 0.5, x
        x, a = (
            x + eta * (-lam_x + w.T @ lam_a),
            a + eta * (-lam_a + (1 - np.tanh(a) ** 2) * (v.T @ lam_y)),
        )
    with pytest.warns(ConvergenceWarning, match="made 2 rounds"):
        post = net.query(None, {"y": y}, engine="pc", prediction="live", solver="gradient", step_size=eta, max_rounds=2)
    np.testing.assert_allclose(post.mean["x"][0], x, rtol=1e-12)
    np.testing.assert_allclose(post.mean["a1"][0], a, rtol=1e-12)


def test_a_step_that_is_too_long_is_halved():
    net = tanh_chain((2, 4, 3, 2), hidden=0.1, output=0.1, prior=1.0)
    y = {"y": np.array([[2.0, 0.1], [0.3, -1.0]])}
    post = net.query(None, y, engine="pc", prediction="live", solver="gradient", step_size=10.0, max_rounds=5000)
    assert post.converged
    np.testing.assert_allclose(post.mean["x"], net.query("x", y, engine="pc", prediction="live").mean["x"], atol=1e-4)


def test_gauss_newton_is_quick_where_noise_is_small():
    net = tanh_chain((3, 16, 16, 16, 4), hidden=0.01, output=1.0)
    rng = np.random.default_rng(0)
    evidence = {"x": rng.normal(size=(6, 3)), "y": rng.normal(size=(6, 4))}
    post = net.query(None, evidence, engine="pc", prediction="live", solver="gauss-newton")
    assert post.converged
    assert post.diagnostics["rounds"] <= 7


# Equilibrium targets, in small.


@pytest.mark.parametrize("depth", [3, 10, 20])
@pytest.mark.parametrize("noise", [1.0, 0.1, 0.01])
def test_lbfgs_arrives_for_every_sample(depth, noise):
    net = tanh_chain((12, *[16] * (depth - 1), 4), hidden=noise, output=1.0)
    rng = np.random.default_rng(depth)
    evidence = Evidence.read(net, {"x": rng.normal(size=(8, 12)), "y": rng.normal(size=(8, 4))})
    point, outcome, figures = equilibrium(evidence, tol=3e-7)
    assert outcome.converged
    assert figures["kinks"] == 0
    assert figures["evaluations_median"] <= 35
    states = States(evidence)
    end, start = states.join(point.values, states.start()), states.start()
    norms = [np.linalg.norm(states.energy(v)[1], axis=1) for v in (end, start)]
    assert (norms[0] <= 1e-6 * norms[1]).all()
    if depth == 3:
        far, arrived, _ = equilibrium(evidence, solver="gradient", step_size=noise, max_rounds=20000)
        assert arrived.converged
        for name in states.names:
            np.testing.assert_allclose(point.values[name], far.values[name], atol=1e-4)
        assert arrived.history[-1]["passes"] >= 20 * figures["passes"]


def relu_chain(seed, depth):
    rng = np.random.default_rng(seed)
    net = GaussianBayesNet()
    before = net.add_input("x", 6)
    for layer in range(1, depth):
        weight = rng.normal(size=(12, net[before].size)) * (2 / net[before].size) ** 0.5
        net.add_linear(f"a{layer}", {before: weight}, bias=0.1 * rng.normal(size=12), cov=0.3)
        before = net.add(f"h{layer}", "Relu", [f"a{layer}"])
    net.add_linear("y", {before: rng.normal(size=(3, 12)) / 12**0.5}, cov=0.2)
    return net, {"x": rng.normal(size=(6, 6)), "y": rng.normal(size=(6, 3))}


@pytest.mark.parametrize("seed, depth", [(0, 3), (1, 3), (2, 6), (3, 6)])
def test_relu_nets_end_no_higher_than_gradient_rounds(seed, depth):
    """Minima are local: once in these nets descent comes into another basin, 0.025 nats lower."""
    net, given = relu_chain(seed, depth)
    post = net.query(None, given, engine="pc", prediction="live")
    assert post.converged
    best = np.inf
    for step_size in (0.3, 0.1, 0.03):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            other = net.query(
                None, given, engine="pc", prediction="live", solver="gradient", step_size=step_size, max_rounds=1500
            )
        best = np.minimum(best, other.free_energy)
    above = post.free_energy - best
    assert (above > 1e-5).sum() <= (seed == 2)
    assert above.max() < 0.03
    assert above.mean() < -0.01


@pytest.mark.parametrize("seed", range(3))
def test_no_neighbour_of_a_kink_is_much_lower(seed):
    """A random search around the end points finds next to nothing."""
    net, given = relu_chain(seed, 4)
    evidence = Evidence.read(net, given)
    problem = Errors(evidence)
    point, outcome, figures = equilibrium(evidence)
    assert outcome.converged
    assert figures["kinks"] > 0
    # In a net without partly observed vertices ε = R z.
    end = problem.join({n: point.errors[n] / 0.3**0.5 for n in problem.names}, problem.start())
    best = start = problem.energy(end)[0]
    rng = np.random.default_rng(0)
    for _ in range(600):
        trial = end + 10.0 ** rng.uniform(-6, -2) * rng.normal(size=end.shape)
        best = np.minimum(best, problem.energy(trial)[0])
    assert (start - best <= 1e-3).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"solver": "newton"}, "solver: got 'newton', expected one of 'lbfgs', 'gauss-newton', 'gradient'"),
        ({"solver": "lbfgs", "step_size": 0.1}, "step_size: solver 'lbfgs' finds its own"),
        ({"solver": "ode", "step_size": 0.1}, "step_size: solver 'ode' finds its own"),
        ({"solver": "gradient", "step_size": 0.0}, "step_size: got 0.0, expected a finite number above 0"),
        ({"solver": "errors", "step_size": NAN}, "step_size: got nan"),
        ({"schedule": "sweep"}, "schedule belong to prediction='fixed'"),
        ({"drop": 0.1, "rng": 0}, "drop and rng belong to prediction='fixed'"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(InferenceError, match=message):
        tanh_chain((2, 3, 2), prior=1.0).query(None, {"y": [[1.0, 0.0]]}, engine="pc", prediction="live", **options)


@pytest.mark.parametrize("solver", SOLVERS)
def test_random_parameters_are_refused_by_name(solver):
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("w", np.ones((2, 3)), cov=0.2)
    net.add("y", "MatMul", ["x", "w"], cov=0.5)
    with pytest.raises(InferenceError, match="'w' is random"):
        net.query(["y"], {"x": np.ones((1, 2))}, engine="pc", prediction="live", solver=solver)


@pytest.mark.parametrize("solver", SOLVERS)
def test_everything_observed_leaves_nothing_to_do(solver):
    net = tanh_chain((2, 3, 2))
    evidence = {"x": np.ones((2, 2)), "a1": np.zeros((2, 3)), "y": np.ones((2, 2))}
    post = net.query(None, evidence, engine="pc", prediction="live", solver=solver)
    assert post.converged
    free = net.query(None, {"x": np.ones((2, 2))}, engine="pc", prediction="live", solver=solver)
    assert free.converged


@pytest.mark.parametrize("solver", SOLVERS)
def test_single_precision_stays(solver):
    net = tanh_chain((2, 4, 3, 2), prior=1.0)
    single = GaussianBayesNet(np.float32)
    for name, vertex in net.vertices.items():
        if vertex.kind == "input":
            single.add_input(name, vertex.shape, mean=0.0, cov=1.0)
        elif vertex.kind == "parameter":
            single.add_parameter(name, vertex.value)
        else:
            single.add(
                name, vertex.op, vertex.parents, cov=net.noise(name) and net.noise(name).value, **vertex.attributes
            )
    post = single.query(
        None, {"y": [[2.0, 0.1]]}, engine="pc", prediction="live", solver=solver, tol=1e-3, max_rounds=3000
    )
    assert post.converged
    for name in single.latents:
        assert post.mean[name].dtype == np.float32


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_every_integrator_follows_the_flow(integrator):
    """In a linear net the flow is v* + exp(-K t) (v - v*), with K the precision of the latents."""
    rng = np.random.default_rng(0)
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add_linear("a", {"x": rng.normal(size=(2, 2))}, cov=0.5)
    net.add_linear("b", {"a": rng.normal(size=(3, 2))}, cov=1.0)
    net.add_linear("y", {"b": rng.normal(size=(2, 3))}, cov=0.3)
    evidence = {"x": rng.normal(size=(1, 2)), "y": rng.normal(size=(1, 2))}
    problem = States(Evidence.read(net, evidence))
    start, dim = problem.start(), problem.start().shape[1]
    slope = problem.energy(start)[1]
    precision = np.stack([problem.energy(start + unit)[1] - slope for unit in np.eye(dim)[:, None]])[:, 0]
    end = start[0] - np.linalg.solve(precision, slope[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        options = {"solver": "ode", "integrator": integrator, "max_rounds": 6, "tol": 1e-12}
        post = net.query(None, evidence, engine="pc", prediction="live", **options)
    time = post.history[-1]["time"]
    assert time > 0
    expected = end + scipy.linalg.expm(-precision * time) @ (start[0] - end)
    found = np.concatenate([post.mean[name][0] for name in problem.names])
    np.testing.assert_allclose(found, expected, atol=5e-3 * np.abs(start[0] - end).max())


def test_an_integrator_belongs_to_the_ode():
    net, evidence = mixed()
    with pytest.raises(InferenceError, match="RK45"):
        net.query([], evidence, engine="pc", prediction="live", solver="ode", integrator="Euler")
    with pytest.raises(InferenceError, match="solver 'lbfgs'"):
        net.query([], evidence, engine="pc", prediction="live", integrator="RK45")
    with pytest.raises(InferenceError, match="prediction='live'"):
        net.query([], evidence, engine="pc", integrator="RK45")
