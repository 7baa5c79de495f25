"""EM for linear dynamical systems, tied over time, against a Kalman filter and smoother written for the purpose."""

import numpy as np
import pytest

import gbn

STATES, SENSORS = 3, 2


class Kalman:
    """EM for x_1 ~ N(m, P), x_t = A x_{t-1} + q, y_t = C x_t + d + r, with per-element missing readings."""

    def __init__(self, a, c, d, q, r, m, p):
        self.a, self.c, self.d, self.q, self.r, self.m, self.p = (np.array(v, float) for v in (a, c, d, q, r, m, p))

    def filter(self, y):
        steps, n = len(y), len(self.a)
        self.means, self.covs = np.empty((steps, n)), np.empty((steps, n, n))
        self.ahead, total = np.empty((steps, n, n)), 0.0
        mean, cov = self.m, self.p
        for t in range(steps):
            if t:
                mean, cov = self.a @ mean, self.a @ cov @ self.a.T + self.q
            self.ahead[t] = cov
            o = ~np.isnan(y[t])
            if o.any():
                c, s = self.c[o], self.c[o] @ cov @ self.c[o].T + self.r[np.ix_(o, o)]
                error = y[t, o] - c @ mean - self.d[o]
                gain = np.linalg.solve(s, c @ cov).T
                total -= 0.5 * (error @ np.linalg.solve(s, error) + np.linalg.slogdet(2 * np.pi * s)[1])
                mean, cov = mean + gain @ error, cov - gain @ s @ gain.T
            self.means[t], self.covs[t] = mean, cov
        return total

    def smooth(self, y):
        total = self.filter(y)
        steps = len(y)
        mean, cov = self.means.copy(), self.covs.copy()
        lag = np.empty((steps, *self.a.shape))  # Cov(x_t, x_{t-1})
        for t in reversed(range(steps - 1)):
            gain = np.linalg.solve(self.ahead[t + 1], self.a @ self.covs[t]).T
            mean[t] += gain @ (mean[t + 1] - self.a @ self.means[t])
            cov[t] += gain @ (cov[t + 1] - self.ahead[t + 1]) @ gain.T
            lag[t + 1] = cov[t + 1] @ gain.T
        return total, mean, cov, lag

    def step(self, y, free=None):
        """One iteration; returns the log-evidence before it.  free: which entries of A are learned."""
        total, x, p, lag = self.smooth(y)
        steps = len(y)
        before = sum(p[t] + np.outer(x[t], x[t]) for t in range(steps - 1))
        after = sum(p[t] + np.outer(x[t], x[t]) for t in range(1, steps))
        cross = sum(lag[t] + np.outer(x[t], x[t - 1]) for t in range(1, steps))
        n = len(self.a)
        if free is None:
            self_a = cross @ np.linalg.inv(before)
        else:
            lam = np.linalg.inv(self.q)
            index = np.flatnonzero(free.reshape(-1))
            hessian = np.kron(lam, before)[np.ix_(index, index)]
            slope = (lam @ (cross - self.a @ before)).reshape(-1)[index]
            self_a = self.a.copy().reshape(-1)
            self_a[index] += np.linalg.solve(hessian, slope)
            self_a = self_a.reshape(n, n)
        q = (after - self_a @ cross.T - cross @ self_a.T + self_a @ before @ self_a.T) / (steps - 1)
        yy, yz = np.zeros_like(self.r), np.zeros((len(self.r), n + 1))
        zz = np.zeros((n + 1, n + 1))
        for t in range(steps):
            o = ~np.isnan(y[t])
            h = ~o
            slope, known = np.zeros_like(self.c), np.where(o, y[t], 0.0)
            rest = np.zeros_like(self.r)
            gain = self.r[np.ix_(h, o)] @ np.linalg.inv(self.r[np.ix_(o, o)])
            slope[h] = self.c[h] - gain @ self.c[o]
            known[h] = self.d[h] + gain @ (y[t, o] - self.d[o])
            rest[np.ix_(h, h)] = self.r[np.ix_(h, h)] - gain @ self.r[np.ix_(o, h)]
            mean = slope @ x[t] + known
            z = np.append(x[t], 1.0)
            yy += slope @ p[t] @ slope.T + np.outer(mean, mean) + rest
            yz += np.outer(mean, z)
            yz[:, :n] += slope @ p[t]
            zz += np.outer(z, z)
            zz[:n, :n] += p[t]
        b = yz @ np.linalg.inv(zz)
        r = (yy - b @ yz.T - yz @ b.T + b @ zz @ b.T) / steps
        self.a, self.q, self.c, self.d, self.r = self_a, q, b[:, :n], b[:, n], r
        self.m, self.p = x[0], p[0]
        return total


def start(rng):
    a = 0.7 * np.linalg.qr(rng.normal(size=(STATES, STATES)))[0]
    return Kalman(
        a, rng.normal(size=(SENSORS, STATES)), rng.normal(size=SENSORS), 0.4 * np.eye(STATES), 0.5 * np.eye(SENSORS),
        np.zeros(STATES), np.eye(STATES),
    )  # fmt: skip


def readings(rng, steps, missing=0.2):
    truth = start(rng)
    x, out = np.zeros(STATES), []
    for _ in range(steps):
        x = truth.a @ x + 0.6 * rng.normal(size=STATES)
        out.append(truth.c @ x + truth.d + 0.7 * rng.normal(size=SENSORS))
    y = np.array(out)
    y[rng.random(y.shape) < missing] = np.nan
    return y


def network(model, steps):
    net = gbn.GaussianBayesNet()
    for name, value in (("A", model.a), ("C", model.c), ("d", model.d)):
        net.add_parameter(name, value)
    net.add_noise("Q", model.q, (STATES,))
    net.add_noise("R", model.r, (SENSORS,))
    net.add_input("x0", STATES, mean=model.m, cov=model.p)
    for t in range(steps):
        if t:
            net.add_linear(f"x{t}", {f"x{t - 1}": "A"}, cov="Q")
        net.add_linear(f"y{t}", {f"x{t}": "C"}, bias="d", cov="R")
    return net


def data_of(y):
    return {f"y{t}": row[None] for t, row in enumerate(y)}


def run(net, data, iterations, **options):
    with pytest.warns(gbn.ConvergenceWarning, match=f"made {iterations} iterations"):
        return net.fit(data, max_iter=iterations, tol=None, **options)


def check(net, model):
    for name, expected in (("A", model.a), ("C", model.c), ("d", model.d), ("x0", model.m)):
        np.testing.assert_allclose(net[name].value, expected, rtol=1e-7, atol=1e-9)
    for name, expected in (("Q", model.q), ("R", model.r), ("x0", model.p)):
        np.testing.assert_allclose(net.noises[name].value, expected, rtol=1e-7, atol=1e-9)


def test_every_iteration_is_that_of_a_kalman_smoother():
    rng = np.random.default_rng(0)
    y = readings(rng, 300)
    model = start(rng)
    net = network(model, 300)
    result = run(net, data_of(y), 5)
    expected = [model.step(y) for _ in range(5)]
    trace = result.history.column("log_evidence")
    np.testing.assert_allclose(trace[:-1], expected, rtol=1e-9)
    np.testing.assert_allclose(trace[-1], model.filter(y), rtol=1e-9)
    assert result.diagnostics["expanded"] == ()
    check(result.net, model)


def test_frozen_entries_stay_bit_for_bit_and_the_rest_goes_on():
    rng = np.random.default_rng(1)
    y = readings(rng, 60)
    model = start(rng)
    model.a[0, 2] = 0.0
    model.a[1, 0] = 1 / 3
    free = np.ones((STATES, STATES), bool)
    free[0, 2] = free[1, 0] = False
    net = network(model, 60)
    before = net["A"].value.copy()
    result = run(net, data_of(y), 4, mask={"A": free})
    for _ in range(4):
        model.step(y, free)
    check(result.net, model)
    assert (result.net["A"].value[~free].tobytes(), net["A"].value.tobytes()) == (
        before[~free].tobytes(),
        before.tobytes(),
    )
    frozen = run(net, data_of(y), 2, freeze=["C", "Q", "x0"])
    for name in ("C", "x0"):
        assert frozen.net[name].value.tobytes() == net[name].value.tobytes()
    for name in ("Q", "x0"):
        assert frozen.net.noises[name].value.tobytes() == net.noises[name].value.tobytes()
    assert not np.array_equal(frozen.net["A"].value, net["A"].value)
    assert not np.array_equal(frozen.net.noises["R"].value, net.noises["R"].value)


def test_several_sequences_of_different_lengths_are_rows():
    """Rows are sequences; a shorter one misses its last readings.  One sequence twice is a row of weight 2."""
    rng = np.random.default_rng(2)
    first, second = readings(rng, 20), readings(rng, 20)
    second[12:] = np.nan
    net = network(start(rng), 20)
    rows = {f"y{t}": np.stack([first[t], second[t]]) for t in range(20)}
    thrice = {name: value[[0, 1, 1]] for name, value in rows.items()}
    weighted = run(net, rows, 3, weights=[1.0, 2.0])
    repeated = run(net, thrice, 3)
    np.testing.assert_allclose(
        weighted.history.column("log_evidence"), repeated.history.column("log_evidence"), rtol=1e-10
    )
    np.testing.assert_allclose(weighted.net["A"].value, repeated.net["A"].value, rtol=1e-8, atol=1e-10)
