"""Regressions in place of Taylor expansions, at the forward point and at the posterior, against dense algebra.

Moments are integrated by scipy, the regressed net is written out as one joint Gaussian by numpy, and the fixed point of
posterior linearisation is iterated on that: nothing of gbn but the graph is read.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from gbn.errors import ConvergenceWarning, InferenceError
from gbn.net import GaussianBayesNet
from tests.dense import Dense, covariance
from tests.nets import random_covariance, random_evidence, random_net, row, tanh_chain
from tests.test_moments import FUNCTIONS

NAN = np.nan
SEEDS = st.integers(0, 2**32 - 1)
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
FIXED = {"operating_point": "posterior", "tol": 1e-12, "max_rounds": 500}


NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)
MARKS = np.linspace(-1, 1, 25)


@lru_cache(maxsize=100_000)
def integrals(op, m, v):
    """E f, E f' and Var f - (E f')² v: Gauss-Legendre on panels that end at the kink."""
    function, derivative, _ = FUNCTIONS[op]
    if v <= 0:
        return function(m), derivative(m), 0.0
    s = math.sqrt(v)
    ends = np.unique([*(m + 10 * s * MARKS), min(max(0.0, m - 10 * s), m + 10 * s)])
    half, middle = np.diff(ends) / 2, (ends[1:] + ends[:-1]) / 2
    x = (middle[:, None] + half[:, None] * NODES).reshape(-1)
    density = np.exp(-0.5 * ((x - m) / s) ** 2) / (s * math.sqrt(2 * math.pi))
    weights = (half[:, None] * WEIGHTS).reshape(-1) * density
    f, slope = (weights * [g(float(k)) for k in x] for g in (function, derivative))
    mean, slope = f.sum(), slope.sum()
    return mean, slope, (weights * [(function(float(k)) - mean) ** 2 for k in x]).sum() - slope**2 * v


class Regressed:
    """One row of a net of Linear, Mul, Add and entry-wise vertices as a Gaussian, v = A v + offset + e, e ~ N(0, Q).

    given: vertex -> array with NaN where it is not observed.
    """

    def __init__(self, net, given):
        self.net = net
        self.given = {n: np.asarray(value, float).reshape(-1) for n, value in given.items()}
        self.names = [n for n, vertex in net.vertices.items() if vertex.plated]
        ends = np.cumsum([0, *(net[n].size for n in self.names)])
        self.where = {n: np.arange(a, b) for n, a, b in zip(self.names, ends[:-1], ends[1:], strict=True)}
        self.n = int(ends[-1])

    def line(self, name, mean, variance):
        """A's rows, offset, and Q with what the regression leaves over, at marginals of the vertices above."""
        vertex = self.net[name]
        a, offset = np.zeros((vertex.size, self.n)), np.zeros(vertex.size)
        q = covariance(self.net, name)
        q = np.zeros((vertex.size, vertex.size)) if q is None else q
        if vertex.kind == "input":
            return a, np.array(vertex.value, float).reshape(-1), q
        at = [self.where[p] if self.net[p].plated else None for p in vertex.parents]
        if vertex.op == "Linear":
            for k in range(0, len(at) - 1, 2):
                a[:, at[k]] += self.net[vertex.parents[k + 1]].value
            if len(at) % 2:
                offset = np.array(self.net[vertex.parents[-1]].value)
            return a, offset, q
        if vertex.op == "Add":
            for where in at:
                a[np.arange(vertex.size), where] += 1
            return a, offset, q
        if vertex.op == "Mul":  # the product of two variables: expanded
            x, y = mean[at[0]], mean[at[1]]
            a[np.arange(vertex.size), at[0]] += y
            a[np.arange(vertex.size), at[1]] += x
            return a, -x * y, q
        m, v = mean[at[0]], variance[at[0]]
        found = np.array([integrals(vertex.op, float(i), float(j)) for i, j in zip(m, v, strict=True)])
        a[np.arange(vertex.size), at[0]] = found[:, 1]
        return a, found[:, 0] - found[:, 1] * m, q + np.diag(found[:, 2])

    def clamped(self):
        """Means and covariance of the prior where observed entries are set, and their noise conditions the others."""
        mean, cov = np.zeros(self.n), np.zeros((self.n, self.n))
        for name in self.names:
            i = self.where[name]
            a, offset, q = self.line(name, mean, np.diag(cov))
            own = covariance(self.net, name)
            own = np.zeros_like(q) if own is None else own
            given = self.given.get(name, np.full(len(i), NAN))
            o, h = np.flatnonzero(~np.isnan(given)), np.flatnonzero(np.isnan(given))
            center, cross = a @ mean + offset, a @ cov
            inside = a @ cov @ a.T + q - own  # of the mean function, regression included
            keep = np.zeros((len(i), len(i)))
            keep[h, h] = 1
            left = np.zeros_like(own)
            if len(o) and len(h) and own.any():
                gain = own[np.ix_(h, o)] @ np.linalg.inv(own[np.ix_(o, o)])
                keep[np.ix_(h, o)] = -gain
                left[np.ix_(h, h)] = own[np.ix_(h, h)] - gain @ own[np.ix_(o, h)]
            else:
                left[np.ix_(h, h)] = own[np.ix_(h, h)]
            mean[i] = keep @ center + np.where(np.isnan(given), 0, given)
            if len(o) and own.any():
                mean[i[h]] -= keep[np.ix_(h, o)] @ given[o]
            cov[i] = keep @ cross
            cov[:, i] = cov[i].T
            cov[np.ix_(i, i)] = keep @ inside @ keep.T + left
        return mean, np.diag(cov)

    def posterior(self, mean, variance):
        """Mean, covariance and log-evidence of the net linearised at these marginals."""
        a, offset, q = np.zeros((self.n, self.n)), np.zeros(self.n), np.zeros((self.n, self.n))
        for name in self.names:
            i = self.where[name]
            a[i], offset[i], q[np.ix_(i, i)] = self.line(name, mean, variance)
        total = np.linalg.inv(np.eye(self.n) - a)
        center, cov = total @ offset, total @ q @ total.T
        pairs = [(self.where[n], value) for n, value in self.given.items()]
        o = np.concatenate([i[~np.isnan(value)] for i, value in pairs])
        target = np.concatenate([value[~np.isnan(value)] for _, value in pairs])
        s, gap = cov[np.ix_(o, o)], target - center[o]
        gain = np.linalg.solve(s, cov[o]).T
        evidence = -0.5 * (gap @ np.linalg.solve(s, gap) + np.linalg.slogdet(2 * np.pi * s)[1])
        return center + gain @ gap, cov - gain @ cov[o], evidence

    def fixed_point(self):
        """Where the marginals are those of the posterior."""
        mean, variance = self.clamped()
        for _ in range(500):
            center, cov, _ = self.posterior(mean, variance)
            step = max(np.abs(center - mean).max(), np.abs(np.diag(cov) - variance).max())
            mean, variance = center, np.maximum(np.diag(cov), 0)
            if step < 1e-13:
                break
        return self.posterior(mean, variance)


def same(post, evidence, samples, answer):
    """Means, covariances and log-evidence of every vertex equal the oracle's; answer: Regressed -> its posterior."""
    for n in range(samples):
        oracle = Regressed(post.net, row(evidence, n))
        mean, cov, log_evidence = answer(oracle)
        for name, i in oracle.where.items():
            np.testing.assert_allclose(post.mean[name][n].reshape(-1), mean[i], **TIGHT)
            np.testing.assert_allclose(post.var[name][n].reshape(-1), np.diag(cov)[i], **TIGHT)
            for other in (name, oracle.names[0]):
                j = oracle.where[other]
                np.testing.assert_allclose(post.cov(name, other)[n], cov[np.ix_(i, j)], **TIGHT)
        np.testing.assert_allclose(post.log_evidence[n], log_evidence, **TIGHT)


def awkward_net(seed, op="Tanh", product=True):
    """x -> a, f(a) with noise, f(f(a)) without; a product of two variables; a full covariance at y."""
    rng = np.random.default_rng(seed)
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=rng.normal(size=2), cov=random_covariance(rng, 2))
    net.add_linear(
        "a", {"x": rng.normal(size=(2, 2))}, bias=rng.normal(size=2), cov=random_covariance(rng, 2, scale=0.5)
    )
    net.add("h", op, ["a"], cov=0.1 if rng.random() < 0.5 else None, **FUNCTIONS[op][2])
    net.add_linear("b", {"h": rng.normal(size=(2, 2)), "x": rng.normal(size=(2, 2))})
    net.add("g", op, ["b"], **FUNCTIONS[op][2])
    net.add("p", "Mul" if product else "Add", ["g", "x"])
    q = np.array([[0.5, 0.2], [0.2, 0.4]])
    net.add_linear("y", {"p": np.eye(2) + 0.3 * rng.normal(size=(2, 2))}, cov=q)
    net.add("k", op, ["y"], cov=[0.3, 0.6], **FUNCTIONS[op][2])
    return net


EVIDENCE = {
    "y": np.array([[0.5, 1.0], [NAN, 0.3], [0.2, NAN], [NAN, NAN]]),
    "k": np.array([[NAN, 0.4], [0.5, NAN], [NAN, NAN], [0.3, 0.7]]),
}


@pytest.mark.parametrize("op", ["Tanh", "Relu", "Elu", "Gelu"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_forward_regression_equals_dense_algebra_on_integrals(op, seed):
    net = awkward_net(seed, op)
    post = net.query(None, EVIDENCE, linearization="moment")
    same(post, EVIDENCE, 4, lambda oracle: oracle.posterior(*oracle.clamped()))
    assert post.diagnostics["regressed"] == ["h", "g", "k"]
    assert post.diagnostics["expanded"] == ["p"]
    assert post.diagnostics["solver"] == "dense"


@pytest.mark.parametrize("op, seed", [("Tanh", 0), ("Relu", 2), ("Softplus", 1)])
def test_the_fixed_point_is_its_own_regression(op, seed):
    net = awkward_net(seed, op, product=False)
    post = net.query(None, EVIDENCE, **FIXED)
    assert post.converged
    assert post.diagnostics["linearization"] == "moment"
    assert len(post.history) == post.diagnostics["rounds"] > 2
    same(post, EVIDENCE, 4, Regressed.fixed_point)


def test_interventions_and_data_are_certain():
    """What is set has no spread: the vertex above it is its own function, without residual."""
    net = awkward_net(3)
    x = np.array([[0.3, -1.0], [2.0, 0.1]])
    post = net.query(None, {"y": EVIDENCE["y"][:2]}, {"a": x}, linearization="moment")
    np.testing.assert_allclose(post._solution.point.values["h"], np.tanh(x), rtol=1e-14)
    assert post.diagnostics["regressed"] == ["g", "k"]
    known = net.query(None, {"x": x, "a": x}, linearization="moment")
    assert known.diagnostics["regressed"] == (["g", "k"] if net["h"].random else ["k"])


@settings(max_examples=25)
@given(SEEDS)
def test_linear_nets_have_one_answer(seed):
    net = random_net(seed)
    evidence, do = random_evidence(net, seed + 1)
    dense = [Dense(net, row(evidence, n), row(do, n)) for n in range(3)]
    for options in (
        {"linearization": "moment"},
        {"operating_point": "posterior"},
        {**FIXED, "linearization": "taylor"},
    ):
        post = net.query(None, evidence, do, **options)
        assert post.converged
        assert post.diagnostics["approximate"] == "nothing"
        for n, oracle in enumerate(dense):
            np.testing.assert_allclose(post.log_evidence[n], oracle.log_evidence, rtol=1e-10, atol=1e-10)
            for name in oracle.where:
                np.testing.assert_allclose(post.mean[name][n], oracle.mean_of(name), rtol=1e-10, atol=1e-10)
                np.testing.assert_allclose(post.cov(name)[n], oracle.cov_of(name, name), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", ["auto", "observations", "information", "cg"])
def test_gauss_newton_arrives_at_the_equilibrium(solver):
    net = tanh_chain((2, 4, 3, 2), hidden=0.05, output=0.1, prior=1.0)
    evidence = {"y": np.array([[0.4, -0.2], [0.1, NAN], [0.7, 0.5]])}
    found = net.query(None, evidence, **FIXED, linearization="taylor", solver=solver)
    exact = net.query(None, evidence, operating_point="equilibrium", tol=1e-13)
    assert found.converged
    assert not found.diagnostics["regressed"]
    for name in found.targets:
        np.testing.assert_allclose(found.mean[name], exact.mean[name], atol=1e-8)
        np.testing.assert_allclose(found.var[name], exact.var[name], atol=1e-8)
    if solver != "cg":
        np.testing.assert_allclose(found.log_evidence, exact.log_evidence, atol=1e-8)
    assert found.map is found.mean


def test_gauss_newton_with_labels_and_products():
    rng = np.random.default_rng(0)
    net = GaussianBayesNet()
    net.add_input("x", 3, mean=0.0, cov=0.3)
    net.add("q", "Mul", ["x", "x"])
    net.add_linear("z", {"q": rng.normal(size=(3, 3)), "x": rng.normal(size=(3, 3))})
    net.add_likelihood("t", "categorical", "z")
    found = net.query(None, {"t": [0, 2, 1]}, **FIXED, linearization="taylor")
    exact = net.query(None, {"t": [0, 2, 1]}, operating_point="equilibrium", tol=1e-13)
    assert found.converged
    assert found.diagnostics["expanded"] == ["q", "t"]
    np.testing.assert_allclose(found.mean["x"], exact.mean["x"], atol=1e-7)
    np.testing.assert_allclose(found.log_evidence, exact.log_evidence, atol=1e-7)


def true_posterior(f, y, prior, noise):
    """Mean and variance of x ~ N(0, prior) given y = f(x) + e, by integration."""

    def weight(x):
        return math.exp(-0.5 * (x * x / prior + (y - f(x)) ** 2 / noise))

    s = math.sqrt(prior)
    marks = np.linspace(-10 * s, 10 * s, 41)
    totals = np.zeros(3)
    for a, b in pairwise(marks):
        totals += [integrate.quad(lambda x, k=k: x**k * weight(x), a, b, epsrel=1e-12)[0] for k in range(3)]
    mean = totals[1] / totals[0]
    return mean, totals[2] / totals[0] - mean**2


@pytest.mark.parametrize(
    "op, y, prior, noise",
    [
        ("Tanh", 0.8, 4.0, 0.2),
        ("Tanh", 0.5, 1.0, 0.1),
        ("Softplus", 0.4, 4.0, 0.3),
        ("Softplus", 2.0, 4.0, 0.3),
        ("Exp", 1.5, 0.5, 0.3),
    ],
)
def test_the_posterior_of_moments_is_nearer_to_the_true_one_than_laplace(op, y, prior, noise):
    nearer(op, y, prior, noise, {"operating_point": "posterior"}, {"operating_point": "equilibrium"})


@pytest.mark.parametrize(
    "op, y, prior, noise",
    [
        ("Tanh", 0.8, 4.0, 0.2),
        ("Tanh", 0.3, 4.0, 0.5),
        ("Softplus", 0.4, 4.0, 0.3),
        ("Relu", 1.0, 1.0, 0.3),
        ("Relu", 0.2, 4.0, 0.3),
    ],
)
def test_one_regression_is_nearer_to_the_true_posterior_than_one_expansion(op, y, prior, noise):
    nearer(op, y, prior, noise, {"linearization": "moment"}, {"linearization": "taylor"})


def nearer(op, y, prior, noise, better, worse):
    """x ~ N(0, prior), y = f(x) + e: mean and variance of x, each by itself."""
    net = GaussianBayesNet()
    net.add_input("x", 1, mean=0.0, cov=prior)
    net.add("y", op, ["x"], cov=noise)
    truth = np.array(true_posterior(FUNCTIONS[op][0], y, prior, noise))
    posts = [net.query(["x"], {"y": [[y]]}, **options) for options in (better, worse)]
    near, far = (np.abs([post.mean["x"].item(), post.var["x"].item()] - truth) for post in posts)
    assert (near < far).all(), (truth, near, far)


def test_deterministic_nonlinear_evidence_is_soft_under_a_regression():
    """Without noise, |x| = 1 has two answers; the regression of |x| on x, of slope 0, says nothing of x."""
    net = GaussianBayesNet()
    net.add_input("x", 1, mean=0.0, cov=1.0)
    net.add("y", "Abs", ["x"])
    post = net.query(None, {"y": [[1.0]]}, linearization="moment")
    np.testing.assert_allclose(post.mean["x"], 0, atol=1e-12)
    np.testing.assert_allclose(post.var["x"], 1, rtol=1e-12)
    half_normal = math.sqrt(2 / math.pi)
    expected = -0.5 * ((1 - half_normal) ** 2 / (1 - 2 / math.pi) + math.log(2 * math.pi * (1 - 2 / math.pi)))
    np.testing.assert_allclose(post.log_evidence, [expected], rtol=1e-12)


def test_draws_have_the_moments_of_the_regressed_net():
    net, n = awkward_net(5), 60_000
    post = net.query(None, {"y": EVIDENCE["y"][:2]}, linearization="moment")
    draws = post.sample(n, rng=0)
    for name in ("x", "h", "g", "k"):
        spread = np.sqrt(post.var[name])
        assert (np.abs(draws[name].mean(0) - post.mean[name]) <= 5 * spread / np.sqrt(n) + 1e-9).all()
        for k in range(2):
            error = 5 * np.sqrt(2 / n) * np.outer(spread[k], spread[k])
            assert (np.abs(np.cov(draws[name][:, k].T) - post.cov(name)[k]) <= error + 1e-9).all()
    assert post.var["g"].min() > 0


def test_conjugate_gradients_and_chunks_give_the_same(monkeypatch):
    net = awkward_net(1)
    dense = net.query(None, EVIDENCE, linearization="moment")
    monkeypatch.setattr("gbn.inference.regression._CHUNK_ENTRIES", 1)
    iterated = net.query(None, EVIDENCE, linearization="moment", solver="cg")
    for name in dense.targets:
        np.testing.assert_allclose(iterated.mean[name], dense.mean[name], atol=1e-10)
        np.testing.assert_allclose(iterated.var[name], dense.var[name], atol=1e-10)


def test_rows_do_not_touch_each_other():
    """Each row iterates, and is damped, on its own."""
    net = awkward_net(2)
    together = net.query(None, EVIDENCE, **FIXED)
    for n in range(4):
        alone = net.query(None, {name: value[n] for name, value in EVIDENCE.items()}, **FIXED)
        for name in together.targets:
            np.testing.assert_allclose(alone.mean[name][0], together.mean[name][n], atol=1e-9)
            np.testing.assert_allclose(alone.var[name][0], together.var[name][n], atol=1e-9)


@pytest.mark.parametrize("options", [{"linearization": "moment"}, {"operating_point": "posterior"}])
def test_single_precision_stays(options):
    nets = []
    for dtype in (np.float32, np.float64):
        net = GaussianBayesNet(dtype)
        net.add_input("x", 2, mean=[0.5, -0.3], cov=1.0)
        net.add_linear("a", {"x": [[1.0, 0.5], [-0.4, 0.8]]}, cov=0.2)
        net.add("h", "Relu", ["a"])
        net.add_linear("y", {"h": [[1.0, -0.5]]}, cov=0.1)
        nets.append(net.query(None, {"y": [[0.4], [1.5]]}, **options))
    single, double = nets
    assert single.converged
    for name in single.targets:
        found = single.mean[name], single.var[name], single.cov(name), single.sample(1, 0)[name], single.messages[name]
        assert {array.dtype for array in found} == {np.dtype(np.float32)}, name
        np.testing.assert_allclose(single.mean[name], double.mean[name], atol=1e-4)
        np.testing.assert_allclose(single.var[name], double.var[name], atol=1e-4)
    np.testing.assert_allclose(single.log_evidence, double.log_evidence, atol=1e-4)


@pytest.mark.parametrize("noise", [0.4, 1.0])
def test_an_oscillation_is_damped(noise):
    """x² observed below 0: Gauss-Newton leaves the residual's curvature out, and steps over the mode for ever."""
    net = GaussianBayesNet()
    net.add_input("x", 1, mean=1.0, cov=1.0)
    net.add("y", "Mul", ["x", "x"], cov=noise)
    options = {**FIXED, "linearization": "taylor", "tol": 1e-10}
    with pytest.warns(ConvergenceWarning, match=r"posterior linearisation: .*damping=0\.5"):
        undamped = net.query(["x"], {"y": [[-2.0]]}, **options, damping=0.0)
    assert not undamped.converged
    post = net.query(["x"], {"y": [[-2.0], [1.0]]}, **options)
    assert post.converged
    assert 0 < post.diagnostics["damping"] < 1
    exact = net.query(["x"], {"y": [[-2.0], [1.0]]}, operating_point="equilibrium", tol=1e-12)
    np.testing.assert_allclose(post.mean["x"], exact.mean["x"], atol=1e-7)
    calm = net.query(["x"], {"y": [[1.0]]}, **options)
    np.testing.assert_allclose(post.mean["x"][1], calm.mean["x"][0], atol=1e-10)
    assert calm.diagnostics["damping"] == 0


def test_a_kink_without_a_fixed_point_is_named():
    """|x| seen at -2: right of zero the other side is aimed at, and left of it this one; the least F is at zero."""
    net = GaussianBayesNet()
    net.add_input("x", 1, mean=0.1, cov=1.0)
    net.add("a", "Abs", ["x"])
    net.add_linear("y", {"a": [[1.0]]}, cov=0.5)
    options = {"operating_point": "posterior", "linearization": "taylor"}
    match = r"1 of 2 samples are at kinks, where the derivatives of 'a' \(Abs\) jump.*'live'"
    with pytest.warns(ConvergenceWarning, match=match):
        post = net.query(["x"], {"y": [[-2.0], [3.0]]}, **options)
    assert not post.converged
    assert post.diagnostics["kinks"] == 1
    assert post.diagnostics["rounds"] < 40
    # Right of zero it is the linear net y = x.
    np.testing.assert_allclose(post.mean["x"][1], [(0.1 + 3.0 / 0.5) / (1 + 1 / 0.5)], rtol=1e-9)
    # The linearisation point of the other row is the kink itself; the answer is that of y = x or y = -x.
    sides = [(0.1 + side * -2.0 / 0.5) / 3 for side in (1, -1)]
    assert np.isclose(post.mean["x"][0, 0], sides, rtol=1e-9).any()
    np.testing.assert_allclose(post._solution.point.values["x"][0], [0.0], atol=1e-2)


def test_rounds_are_reported_and_can_be_stopped():
    net, seen = awkward_net(0), []
    with pytest.warns(ConvergenceWarning, match="made 2 rounds; gap is .*Raise max_rounds"):
        short = net.query(["x"], EVIDENCE, operating_point="posterior", max_rounds=2, tol=1e-12)
    assert not short.converged
    assert [set(figures) for figures in short.history] == [{"gap", "damping"}] * 2

    def stop(number, figures):
        seen.append(figures["gap"])
        return number == 3

    post = net.query(["x"], EVIDENCE, operating_point="posterior", callback=stop)
    assert seen == [figures["gap"] for figures in post.history]
    assert post.diagnostics["stopped"] == "stopped by the callback after 3 rounds"

    def interrupt(number, figures):
        raise KeyboardInterrupt

    with pytest.warns(ConvergenceWarning, match="interrupted after 1 rounds"):
        kept = net.query(["x"], EVIDENCE, operating_point="posterior", callback=interrupt)
    assert np.isfinite(kept.mean["x"]).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"linearization": "spline"}, "linearization: got 'spline', expected 'taylor' or 'moment'"),
        (
            {"operating_point": "middle"},
            "operating_point: got 'middle', expected one of 'forward', 'equilibrium', 'posterior'",
        ),
        (
            {"operating_point": "equilibrium", "linearization": "moment"},
            "linearization='moment' needs the spread of a posterior.*use operating_point='posterior'",
        ),
        ({"linearization": "moment", "solver": "information"}, "solver='information' needs a precision.*'h'.*'cg'"),
        ({"operating_point": "posterior", "solver": "information"}, "solver='information' needs a precision"),
        ({"damping": 0.5}, "damping belongs to operating_point='posterior', got 'forward'"),
        ({"operating_point": "equilibrium", "damping": 0.5}, "damping belongs to operating_point='posterior'"),
        ({"operating_point": "posterior", "damping": 1.0}, "damping: got 1.0, expected a number of at least 0"),
        ({"max_rounds": 5}, "max_rounds: the forward point takes no rounds"),
        ({"callback": print}, "callback: the forward point takes no rounds"),
        ({"operating_point": "posterior", "max_rounds": -1}, "max_rounds=-1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InferenceError, match=message):
        awkward_net(0).query(["x"], EVIDENCE, **options)


def test_counterfactuals_refuse_residuals_that_are_no_noise():
    net = awkward_net(0)
    for options in ({"linearization": "moment"}, {"operating_point": "posterior"}):
        with pytest.raises(InferenceError, match="a counterfactual keeps the noises of the net"):
            net.counterfactual({"y": [[0.1, 0.2]]}, {"x": [1.0, 2.0]}, **options)
    at_mode = {"operating_point": "posterior", "linearization": "taylor"}
    found = net.counterfactual({"y": [[0.1, 0.2]]}, {"x": [1.0, 2.0]}, ["y"], **at_mode)
    assert found.mean["y"].shape == (1, 2)


def test_barren_nonlinearities_are_linearised_but_not_waited_for():
    net = tanh_chain((2, 3, 3, 2), prior=1.0)
    post = net.query(["h1"], {"a1": [[0.1, NAN, 0.3]]}, operating_point="posterior")
    assert post.converged
    assert post.diagnostics["regressed"] == ["h1", "h2"]
    assert post.log_evidence.shape == (1,)
