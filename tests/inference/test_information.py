"""The information form where the other solver is no measure: long, wide, badly scaled, and many patterns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbn.errors import IllConditionedError, InferenceError
from gbn.net import GaussianBayesNet
from tests.dense import Dense
from tests.nets import random_evidence, random_net, row, tanh_chain


def chain(noise, steps=2):
    net = GaussianBayesNet()
    net.add_input("v0", 1, mean=0.0, cov=noise)
    for t in range(steps):
        net.add_linear(f"v{t + 1}", {f"v{t}": [[0.5]]}, cov=noise)
    return net


def test_small_noise_is_no_less_right():
    net = chain(1e-8)
    post = net.query(["v1"], {"v0": [1e-4], "v2": [2e-4]}, solver="information")
    np.testing.assert_allclose(post.mean["v1"], [[1.2e-4]], rtol=1e-13)
    np.testing.assert_allclose(post.var["v1"], [[8e-9]], rtol=1e-13)


@pytest.mark.parametrize("noise", [1e-12, 1e-6, 1e6, 1e12])
def test_scaling_all_noise_scales_the_posterior(noise):
    """With noise s² and evidence s, deviations scale with s and variances with s²."""
    plain = chain(1.0, 6).query(None, {"v2": [1.0], "v6": [-2.0]}, solver="information")
    s = np.sqrt(noise)
    scaled = chain(noise, 6).query(None, {"v2": [s], "v6": [-2 * s]}, solver="information")
    for name in plain.targets:
        np.testing.assert_allclose(scaled.mean[name], s * plain.mean[name], rtol=1e-12)
        np.testing.assert_allclose(scaled.var[name], noise * plain.var[name], rtol=1e-12)
    np.testing.assert_allclose(scaled.log_evidence, plain.log_evidence - 2 * np.log(s), rtol=1e-12)


@settings(max_examples=60)
@given(st.lists(st.integers(-12, 12), min_size=4, max_size=4))
def test_noises_of_any_size_give_the_answer_or_a_named_error(exponents):
    """Scalars in closed form, by exact rational arithmetic."""
    from fractions import Fraction

    q = [Fraction(10) ** e for e in exponents]
    net = GaussianBayesNet()
    net.add_input("v0", 1, mean=0.0, cov=float(q[0]))
    for t in range(3):
        net.add_linear(f"v{t + 1}", {f"v{t}": [[0.5]]}, cov=float(q[t + 1]))
    # Variances and covariances with v3 along the chain.
    prior, half = [q[0]], Fraction(1, 2)
    for t in range(3):
        prior.append(half * half * prior[t] + q[t + 1])
    cross = [prior[t] * half ** (3 - t) for t in range(4)]
    for solver in ("information", "auto"):
        try:
            post = net.query(None, {"v3": [1.0]}, solver=solver)
            answers = [(post.mean[f"v{t}"][0, 0], post.var[f"v{t}"][0, 0]) for t in range(3)]
        except IllConditionedError:
            assert solver == "information"
            continue
        for t, (mean, var) in enumerate(answers):
            np.testing.assert_allclose(mean, float(cross[t] / prior[3]), rtol=1e-6)
            if solver == "information" or post.diagnostics["solver"] == "information":
                np.testing.assert_allclose(var, float(prior[t] - cross[t] ** 2 / prior[3]), rtol=1e-6)


def test_auto_turns_to_the_observations_where_rounding_would_spoil():
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add_linear("y", {"x": [[1.0, 1.0]]}, cov=1e-14)
    with pytest.raises(IllConditionedError, match="'x'"):
        net.query(["x"], {"y": [1.0]}, solver="information")
    post = net.query(["x"], {"y": [1.0]})
    assert post.diagnostics["solver"] == "dense"
    np.testing.assert_allclose(post.mean["x"], [[0.5, 0.5]], rtol=1e-10)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["linear", "smooth"]))
def test_both_solvers_agree_on_everything(seed, mode):
    net = random_net(seed, mode, vertices=10)
    evidence, do = random_evidence(net, seed + 1, samples=5)
    one = net.query(None, evidence, do, solver="information")
    two = net.query(None, evidence, do, solver="observations")
    for name in one.targets:
        np.testing.assert_allclose(one.mean[name], two.mean[name], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(one.cov(name, "out"), two.cov(name, "out"), rtol=1e-9, atol=1e-9)
    for name, message in one.messages.items():
        np.testing.assert_allclose(message, two.messages[name], rtol=1e-7, atol=1e-7)
    for name, surprise in one.surprise.items():
        np.testing.assert_allclose(surprise, two.surprise[name], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(one.log_evidence, two.log_evidence, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.free_energy, two.free_energy, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_rows_of_uneven_patterns(rows):
    """One pattern of many rows, and several of one row each."""
    rng = np.random.default_rng(0)
    net = random_net(21, vertices=6)
    evidence, do = random_evidence(net, 5, samples=rows, missing=0)
    evidence["out"] = rng.normal(size=(rows, 2))
    evidence["out"][rows // 2 :: 3] = np.nan
    evidence["out"][rows // 3 :: 5, 1] = np.nan
    post = net.query(None, evidence, do, solver="information")
    for n in range(rows):
        dense = Dense(net, row(evidence, n), row(do, n))
        for name in dense.where:
            np.testing.assert_allclose(post.mean[name][n], dense.mean_of(name), atol=1e-10)
            np.testing.assert_allclose(post.cov(name)[n], dense.cov_of(name, name), atol=1e-10)
        np.testing.assert_allclose(post.log_evidence[n], dense.log_evidence, atol=1e-10)


def test_covariances_of_vertices_far_apart():
    net = chain(0.7, 12)
    post = net.query(None, {"v5": [1.0], "v12": [0.3]}, solver="information")
    dense = Dense(net, {"v5": np.array([1.0]), "v12": np.array([0.3])})
    for a in dense.where:
        for b in dense.where:
            np.testing.assert_allclose(post.cov(a, b)[0], dense.cov_of(a, b), atol=1e-12)


def test_entrywise_chains_of_deterministic_vertices_stay_vectors():
    """3 000 deterministic vertices on end, deeper than Python's stack; in one of 2 000 entries no matrix is made."""
    from gbn.evidence import Evidence
    from gbn.inference.jacobians import Totals
    from gbn.linearize import Linearization

    net = GaussianBayesNet()
    net.add_input("x", 2000, mean=0.3, cov=1.0)
    top = "x"
    for k in range(3000):
        top = net.add(f"n{k}", "Neg", [top])
    totals = Totals(Linearization.forward(Evidence.read(net, {})), {"x": 0})
    np.testing.assert_array_equal(totals.of(top)[0], np.ones((1, 2000)))


def smoother(steps, y, a, c, q, r, p):
    """Rauch, Tung & Striebel (1965) after a Kalman filter that skips missing readings."""
    size = len(a)
    mean, cov, filtered, predicted = np.zeros(size), p, [], []
    for t in range(steps):
        if t:
            mean, cov = a @ mean, a @ cov @ a.T + q
        predicted.append((mean, cov))
        o = ~np.isnan(y[t])
        gain = np.linalg.solve(c[o] @ cov @ c[o].T + r[np.ix_(o, o)], c[o] @ cov).T
        mean, cov = mean + gain @ (y[t, o] - c[o] @ mean), cov - gain @ c[o] @ cov
        filtered.append((mean, cov))
    out = [filtered[-1]]
    for t in reversed(range(steps - 1)):
        gain = np.linalg.solve(predicted[t + 1][1], a @ filtered[t][1]).T
        m = filtered[t][0] + gain @ (out[-1][0] - predicted[t + 1][0])
        out.append((m, filtered[t][1] + gain @ (out[-1][1] - predicted[t + 1][1]) @ gain.T))
    return out[::-1]


def test_a_kalman_smoother_of_two_thousand_steps():
    rng, steps = np.random.default_rng(0), 2000
    a = np.linalg.qr(rng.normal(size=(4, 4)))[0] * 0.98
    c, q, r, p = rng.normal(size=(2, 4)), np.diag(rng.uniform(0.1, 1, 4)), np.diag([0.3, 0.5]), np.eye(4)
    net = GaussianBayesNet()
    net.add_parameter("A", a)
    net.add_parameter("C", c)
    net.add_input("x0", 4, mean=0.0, cov=p)
    for t in range(steps):
        if t:
            net.add_linear(f"x{t}", {f"x{t - 1}": "A"}, cov=q)
        net.add_linear(f"y{t}", {f"x{t}": "C"}, cov=r)
    y = rng.normal(size=(steps, 2))
    y[rng.random(y.shape) < 0.2] = np.nan
    y[500:520] = np.nan
    states = [f"x{t}" for t in range(steps)]
    post = net.query(states, {f"y{t}": y[t][None] for t in range(steps)})
    assert post.diagnostics["solver"] == "information"
    # Memory is linear: a front is two steps at most; readings that are wholly missing are barren, and left out.
    partly = sum(np.isnan(row).sum() == 1 for row in y)
    assert post.diagnostics["stored_entries"] <= steps * (8**2 + 4 * 8) + partly * (6**2 + 2 * 6)
    assert post.diagnostics["hidden_coordinates"] == 4 * steps + 2 * partly
    for t, (mean, cov) in enumerate(smoother(steps, y, a, c, q, r, p)):
        np.testing.assert_allclose(post.mean[f"x{t}"][0], mean, atol=1e-9)
        np.testing.assert_allclose(post.cov(f"x{t}")[0], cov, atol=1e-9)


def test_barren_vertices_cost_nothing_and_change_nothing():
    net = chain(0.5, 5)
    for solver in ("information", "observations"):
        short = net.query(["v1"], {"v2": [1.0]}, solver=solver)
        whole = net.query(None, {"v2": [1.0]}, solver=solver)
        np.testing.assert_allclose(short.mean["v1"], whole.mean["v1"], rtol=1e-12)
        np.testing.assert_allclose(short.log_evidence, whole.log_evidence, rtol=1e-12)
        reached = short._solution if solver == "information" else short._solution._first
        assert set(reached.deviations) <= {"v0", "v1"}
    assert net.query(["v1"], {"v2": [1.0]}, solver="information").diagnostics["hidden_coordinates"] == 2


def test_plans_are_kept_between_queries():
    net = chain(0.31, 9)
    first = net.query(["v1"], {"v9": [1.0]}, solver="information").diagnostics
    again = net.query(["v1"], {"v9": [2.0]}, solver="information").diagnostics
    assert again["plan_cached"]
    assert first["plan_seconds"] >= 0


def test_the_cheaper_solver_is_chosen():
    deep = tanh_chain((4,) * 30, prior=1.0)
    many = np.zeros((1, 4))
    assert deep.query(None, {"y": many}).diagnostics["solver"] == "information"
    wide = GaussianBayesNet()
    wide.add_input("x", 2000, mean=0.0, cov=1.0)
    wide.add_linear("y", {"x": np.ones((1, 2000))}, cov=1.0)
    assert wide.query(["x"], {"y": [1.0]}).diagnostics["solver"] == "dense"


def test_what_the_information_form_cannot_do_is_named():
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add("n", "Neg", ["x"])
    with pytest.raises(InferenceError, match=r"deterministic vertex 'n' is observed.*solver='observations'"):
        net.query(["x"], {"n": [1.0, 2.0]}, solver="information")
    assert net.query(["x"], {"n": [1.0, 2.0]}).diagnostics["solver"] == "dense"
    with pytest.raises(InferenceError, match="solver: got 'lu', expected one of 'auto', 'observations'"):
        net.query(["x"], {}, solver="lu")


def test_what_is_known_of_a_structure_goes_with_the_graph_not_with_the_values():
    net = chain(0.4, 6)
    evidence = {"v6": [1.0]}
    before = net.query(None, evidence, solver="information")
    assert net.query(None, evidence, solver="information").diagnostics["plan_cached"]
    assert net.copy().query(None, evidence)._solution.structure is before._solution.structure
    net.set_noise({"v3": [[2.0]]})
    net.set_value("v2.v1.weight", [[-1.5]])
    net.add_linear("w", {"v2": [[1.0]]}, cov=0.1)
    after = net.query(None, evidence | {"w": [0.2]}, solver="information")
    dense = Dense(net, {"v6": np.array([1.0]), "w": np.array([0.2])})
    for name in dense.where:
        np.testing.assert_allclose(after.mean[name][0], dense.mean_of(name), atol=1e-12)
        np.testing.assert_allclose(after.cov(name)[0], dense.cov_of(name, name), atol=1e-12)
    net.set_noise({"v3": None})
    after = net.query(["v2", "v3"], evidence, solver="information")
    assert after.diagnostics["hidden_coordinates"] == before.diagnostics["hidden_coordinates"] - 1
    np.testing.assert_allclose(after.mean["v3"], 0.5 * after.mean["v2"], rtol=1e-12)


def test_an_answer_is_freed_without_the_collector():
    import gc
    import weakref

    net = chain(0.4, 6)
    gc.collect()
    gc.disable()
    try:
        post = net.query(None, {"v6": [1.0]}, solver="information")
        _ = post.mean["v1"], post.std["v1"], post.cov("v1"), post.log_evidence
        gone = weakref.ref(post._solution)
        del post
        assert gone() is None
    finally:
        gc.enable()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 0.3, "diagonal", "full"]))
def test_factors_that_are_alike_are_stacked_and_the_others_not(seed, noise):
    """A tree of equal vertices with shared and with own weights and noises, some entries missing."""
    rng = np.random.default_rng(seed)
    net, names = GaussianBayesNet(), ["r"]
    net.add_parameter("W", rng.normal(size=(3, 3)) / 2)
    net.add_noise("Q", np.diag([0.3, 0.5, 0.2]) + 0.1, (3,))
    net.add_input("r", 3, mean=0.0, cov=1.0)
    covs = {None: "Q", "diagonal": [0.2, 0.5, 0.9], "full": np.eye(3) + 0.2}
    for k in range(14):
        weight = "W" if k % 3 else rng.normal(size=(3, 3))
        cov = covs.get(noise, noise) if k % 2 else "Q"
        names.append(net.add_linear(f"n{k}", {names[k // 2]: weight}, cov=cov))
    evidence = {f"n{k}": rng.normal(size=(2, 3)) for k in range(8, 14)}
    evidence["n9"][:, 1] = evidence["n12"][1] = evidence["n12"][0, 2] = np.nan
    post = net.query(None, evidence, solver="information")
    other = net.query(None, evidence, engine="bp")
    for n in range(2):
        dense = Dense(net, row(evidence, n))
        for name in dense.where:
            for answer in (post, other):
                np.testing.assert_allclose(answer.mean[name][n], dense.mean_of(name), atol=1e-10)
                np.testing.assert_allclose(answer.cov(name)[n], dense.cov_of(name, name), atol=1e-10)
        np.testing.assert_allclose(post.log_evidence[n], dense.log_evidence, atol=1e-10)
        np.testing.assert_allclose(other.log_evidence[n], dense.log_evidence, atol=1e-10)


def test_vague_priors_beside_sharp_measurements_cost_no_digits_of_the_mean():
    """Solved in rationals.  The matrix alone would lose more of the mean than its standard deviation."""
    from fractions import Fraction

    a, y = [[1.0, 1.0], [1.0, 1.0 + 2.0**-10]], [1234567.25, 1234890.5]
    net = GaussianBayesNet()
    net.add_input("x", (2,), mean=0.0, cov=1e12)
    net.add_linear("y", {"x": a}, cov=1e-12)
    post = net.query(["x"], {"y": y}, solver="information")
    b, t = [[Fraction(v) for v in row] for row in a], [Fraction(v) for v in y]
    sharp, vague = 1 / Fraction(1e-12), 1 / Fraction(1e12)
    k = [[sharp * sum(r[i] * r[j] for r in b) + vague * (i == j) for j in (0, 1)] for i in (0, 1)]
    h = [sharp * sum(r[i] * v for r, v in zip(b, t, strict=True)) for i in (0, 1)]
    det = k[0][0] * k[1][1] - k[0][1] ** 2
    mean = [(k[1][1] * h[0] - k[0][1] * h[1]) / det, (k[0][0] * h[1] - k[0][1] * h[0]) / det]
    gaps = [v - sum(w * m for w, m in zip(r, mean, strict=True)) for r, v in zip(b, t, strict=True)]
    energy = (sharp * sum(g * g for g in gaps) + vague * sum(m * m for m in mean)) / 2
    expected = -float(energy) - np.log(2 * np.pi) - 0.5 * np.log(float(det))
    assert 1e-3 < post.std["x"][0, 0] < 2e-3
    np.testing.assert_allclose(post.mean["x"][0], [float(m) for m in mean], rtol=0, atol=1e-6)
    np.testing.assert_allclose(post.log_evidence, expected, rtol=1e-8)
    # Draws are solutions of the same system: their spread about the mean is not swamped either.
    draws = post.sample(4000, 0)["x"][:, 0] - post.mean["x"][0]
    np.testing.assert_allclose(draws.std(axis=0), post.std["x"][0], rtol=0.05)


@pytest.mark.parametrize("prior, noise", [(1e12, 1e-6), (1e8, 1e-8), (1e6, 1e-6), (1e12, 1e-12)])
def test_auto_keeps_a_sharp_posterior_under_a_vague_prior(prior, noise):
    """One observation: the cheaper solver would take 1e12 from 1e12."""
    net = GaussianBayesNet()
    net.add_input("x", 1, mean=0.0, cov=prior)
    net.add_linear("y", {"x": [[1.0]]}, cov=noise)
    net.add_linear("z", {"x": [[2.0]]})
    post = net.query(["x", "z"], {"y": [[3.0], [-1.0]]})
    expected = 1 / (1 / prior + 1 / noise)
    np.testing.assert_allclose(post.var["x"], [[expected]] * 2, rtol=1e-12)
    np.testing.assert_allclose(post.cov("x", "z"), [[[2 * expected]]] * 2, rtol=1e-12)
    np.testing.assert_allclose(post.mean["x"], [[3 * expected / noise], [-expected / noise]], rtol=1e-12)
    assert post.diagnostics["solver"] == "information"


def test_auto_answers_where_the_observations_nearly_determine_one_another():
    net = GaussianBayesNet()
    net.add_input("x", 1, mean=0.0, cov=1.0)
    net.add_linear("y", {"x": [[1.0], [1.0]]}, cov=1e-18)
    post = net.query(["x"], {"y": [0.5, 0.5]})
    np.testing.assert_allclose(post.mean["x"], [[0.5]], rtol=1e-14)
    np.testing.assert_allclose(post.var["x"], [[5e-19]], rtol=1e-12)


def test_observation_space_tells_when_it_lost_digits():
    net = GaussianBayesNet()
    net.add_input("x", 1, mean=0.0, cov=1e12)
    net.add_linear("y", {"x": [[1.0]]}, cov=1e-6)
    post = net.query(["x"], {"y": [[3.0]]}, solver="observations")
    np.testing.assert_allclose(post.mean["x"], [[3.0]], rtol=1e-9)
    assert "rounding" not in post.diagnostics
    _ = post.var["x"]
    assert "lost digits" in post.diagnostics["rounding"]
    assert post.diagnostics["solver"] == "dense"
