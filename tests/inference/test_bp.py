"""Engine "bp" against dense joints: everything on forests; means, guarantees and warnings on loops."""

from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import linalg

from gbn.errors import ConvergenceWarning, IllConditionedError, InferenceError
from gbn.net import GaussianBayesNet
from tests.dense import Dense, covariance
from tests.nets import random_covariance, random_evidence, random_net, row, tanh_chain

SEEDS = st.integers(0, 2**32 - 1)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
CLOSE = {"rtol": 1e-8, "atol": 1e-8}
NAN = np.nan


def check(net, evidence, do=None, samples=3, tolerance=TIGHT, **options):
    """Everything the posterior of a forest says against the oracle, sample by sample."""
    do = do or {}
    post = net.query(None, evidence, do, engine="bp", **options)
    dense = [Dense(net, row(evidence, n), row(do, n)) for n in range(samples)]
    assert post.diagnostics["graph"] == "tree"
    assert post.converged
    for name in dense[0].where:
        assert post.mean[name].shape == post.var[name].shape == (samples, *net[name].shape)
        for n, oracle in enumerate(dense):
            np.testing.assert_allclose(post.mean[name][n], oracle.mean_of(name), **tolerance)
            variance = np.diag(oracle.cov_of(name, name)).reshape(net[name].shape)
            np.testing.assert_allclose(post.var[name][n], variance, **tolerance)
            for other in dense[0].where:
                np.testing.assert_allclose(post.cov(name, other)[n], oracle.cov_of(name, other), **tolerance)
            if net[name].random and name not in do:
                message, q = oracle.message_of(name), covariance(net, name)
                np.testing.assert_allclose(post.messages[name][n], message, **CLOSE)
                energy = 0.5 * (message.ravel() @ q @ message.ravel() + np.linalg.slogdet(2 * np.pi * q)[1])
                np.testing.assert_allclose(post.surprise[name][n], energy, **CLOSE)
    log_evidence = [oracle.log_evidence for oracle in dense]
    np.testing.assert_allclose(post.log_evidence, log_evidence, **tolerance)
    np.testing.assert_allclose(post.free_energy, np.negative(log_evidence), **tolerance)
    return post


def random_forest(seed, mode="linear"):
    """Vector vertices with one hidden parent at most, data and deterministic vertices in between."""
    rng = np.random.default_rng(seed)
    net = GaussianBayesNet()
    net.add_input("data", 2)
    tips = []
    for k in range(int(rng.integers(3, 8))):
        name, size = f"v{k}", int(rng.integers(1, 4))
        cov = random_covariance(rng, size)
        parents = {str(rng.choice(tips)): None} if tips and rng.random() < 0.8 else {}
        if rng.random() < 0.4:
            parents["data"] = None
        weights = {p: rng.normal(size=(size, net[p].size)) for p in parents}
        net.add_linear(name, weights, bias=rng.normal(size=size), cov=cov)
        tips.append(name)
        if rng.random() < 0.5:
            op = str(rng.choice(["Neg"] if mode == "linear" else ["Tanh", "Sigmoid", "Neg"]))
            tips.append(net.add(f"{name}.out", op, [name]))
    return net


@settings(max_examples=60)
@given(SEEDS, st.sampled_from(["linear", "smooth"]))
def test_forests_equal_the_dense_joint(seed, mode):
    net = random_forest(seed, mode)
    evidence, do = random_evidence(net, seed + 1)
    post = check(net, evidence, do)
    assert post.engine == "bp"
    assert post.diagnostics["rounds"] == 1
    assert post.diagnostics["messages"] == 2 * post.diagnostics["edges"]
    assert post.diagnostics["edges"] < max(post.diagnostics["blocks"], 1)


@settings(max_examples=30)
@given(SEEDS, st.sampled_from(["linear", "smooth"]))
def test_awkward_nets_whose_hidden_part_is_a_forest(seed, mode):
    """Skips, colliders, repeated parents, matrix events, shared noise, observed and cut vertices."""
    net = random_net(seed, mode)
    evidence, do = random_evidence(net, seed + 1, observe=0.6)
    tree = True
    try:
        net.query(None, evidence, do, engine="bp", schedule="tree")
    except InferenceError as error:
        tree = "have loops" not in str(error)
    assume(tree)
    check(net, evidence, do)


@settings(max_examples=20)
@given(SEEDS, st.integers(2, 6), st.sampled_from(["affine", "layers"]))
def test_layered_nets_are_chains(seed, depth, policy):
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.integers(1, 5, depth + 1)]
    net = tanh_chain(sizes, seed=seed, prior=0.7, policy=policy)
    y = rng.normal(size=(3, sizes[-1]))
    y[rng.random(y.shape) < 0.3] = NAN
    post = check(net, {"y": y})
    hidden = depth + (np.isnan(y).any() and not np.isnan(y).all())
    if not np.isnan(y).all():
        assert post.diagnostics["messages"] == 2 * (hidden - 1)


@settings(max_examples=20)
@given(SEEDS, st.sampled_from(["residual", "parallel"]), st.sampled_from([0.0, 0.3]))
def test_repeated_messages_arrive_at_the_same_on_forests(seed, schedule, damping):
    net = random_forest(seed)
    evidence, do = random_evidence(net, seed + 1)
    post = check(net, evidence, do, schedule=schedule, damping=damping, tol=1e-13, tolerance=CLOSE)
    assert post.diagnostics["schedule"] == schedule


def net_of(precision, sizes):
    """Vertices b0, b1, ... of a joint N(0, precision⁻¹), each given all before it, as the textbook factorises it."""
    cov, net, ends = np.linalg.inv(precision), GaussianBayesNet(), np.cumsum([0, *sizes])
    parts = [slice(a, b) for a, b in pairwise(ends)]
    for k, part in enumerate(parts):
        before = slice(0, part.start)
        gain = np.linalg.solve(cov[before, before], cov[before, part]).T
        rest = cov[part, part] - gain @ cov[before, part]
        weights = {f"b{i}": gain[:, parts[i]] for i in range(k)}
        net.add_linear(f"b{k}", weights, bias=np.zeros(sizes[k]), cov=(rest + rest.T) / 2)
    return net


def with_evidence(hidden, rng, size=2):
    """The joint precision of blocks with hidden precision K and an observed block, which moves all of them."""
    cross = rng.normal(size=(len(hidden), size))
    return np.block([[hidden, cross], [cross.T, cross.T @ np.linalg.solve(hidden, cross) + np.eye(size)]])


def random_loopy(rng, radius):
    """K over blocks of random sizes, all coupled, with the block norms' spectral radius as asked for."""
    sizes = [int(n) for n in rng.integers(1, 4, int(rng.integers(3, 6)))]
    ends = np.cumsum([0, *sizes])
    roots = [linalg.sqrtm(random_matrix(rng, n)).real for n in sizes]
    off = rng.normal(size=(ends[-1], ends[-1]))
    off = off + off.T
    norms = np.zeros((len(sizes), len(sizes)))
    for i, (a, b) in enumerate(pairwise(ends)):
        off[a:b, a:b] = 0
        for j, (c, d) in enumerate(pairwise(ends)):
            norms[i, j] = np.linalg.svd(off[a:b, c:d], compute_uv=False)[0]
    off *= radius / np.abs(np.linalg.eigvals(norms)).max()
    root = linalg.block_diag(*roots)
    return root @ (np.eye(ends[-1]) + off) @ root, sizes


def random_matrix(rng, size):
    return np.diag(rng.uniform(0.5, 2, size)) + (lambda r: r @ r.T)(rng.normal(size=(size, size)))


@settings(max_examples=30)
@given(SEEDS, st.floats(0.2, 0.95), st.sampled_from(["auto", "residual", "parallel"]), st.sampled_from([0.0, 0.4]))
def test_walk_summable_loops_converge_to_the_exact_means(seed, radius, schedule, damping):
    """No warning is heard, for one would fail the test."""
    rng = np.random.default_rng(seed)
    hidden, sizes = random_loopy(rng, radius)
    net, observed = net_of(with_evidence(hidden, rng), [*sizes, 2]), f"b{len(sizes)}"
    evidence = {observed: rng.normal(size=(2, 2))}
    post = net.query(None, evidence, engine="bp", schedule=schedule, damping=damping, tol=1e-12, max_rounds=2000)
    assert post.converged
    assert post.diagnostics["graph"] == "loopy"
    np.testing.assert_allclose(post.diagnostics["walk_summability"], radius, rtol=1e-6)
    for n in range(2):
        dense = Dense(net, row(evidence, n))
        for name in dense.where:
            np.testing.assert_allclose(post.mean[name][n], dense.mean_of(name), **CLOSE)
            np.testing.assert_allclose(post.messages[name][n], dense.message_of(name), rtol=1e-6, atol=1e-6)
    gap = max(np.abs(post.var[name][0] - np.diag(dense.cov_of(name, name))).max() for name in dense.where)
    assert gap > 1e-9
    assert "variances" in post.diagnostics["approximate"]
    assert post.diagnostics["exact"] == "means, where the messages converged"


def chorded_square(r, rng=None):
    """Four scalars in a ring with one chord, all couplings r: ρ = 2.5616 r (Malioutov et al. 2006, section 3)."""
    hidden = np.eye(4)
    for i, j in [(0, 1), (1, 2), (2, 3), (0, 3), (0, 2)]:
        hidden[i, j] = hidden[j, i] = r
    joint = with_evidence(hidden, rng or np.random.default_rng(0), 1)
    return net_of(joint, [1] * 5), {"b4": [[1.0], [-0.5]]}


def test_diverging_means_are_warned_of_and_recorded():
    net, evidence = chorded_square(0.395)
    with pytest.warns(ConvergenceWarning) as caught:
        post = net.query(None, evidence, engine="bp", schedule="parallel", max_rounds=100)
    said = [str(warning.message) for warning in caught]
    assert "ρ = 1.01, not below 1" in said[0]
    assert "made 100 rounds; residual is" in said[1]
    assert "Raise damping" in said[1]
    assert not post.converged
    assert post.diagnostics["rounds"] == 100
    assert post.diagnostics["residual"] == post.history[-1]["residual"] > 1e-3


def test_damping_mends_what_diverged():
    net, evidence = chorded_square(0.395)
    with pytest.warns(ConvergenceWarning, match="ρ = 1.01"):
        post = net.query(None, evidence, engine="bp", schedule="parallel", damping=0.5, max_rounds=5000)
    assert post.converged
    for n in range(2):
        dense = Dense(net, row(evidence, n))
        for name in ("b0", "b1", "b2", "b3"):
            np.testing.assert_allclose(post.mean[name][n], dense.mean_of(name), **CLOSE)


def test_just_inside_the_guarantee_it_converges():
    net, evidence = chorded_square(0.38)
    post = net.query(None, evidence, engine="bp", schedule="parallel", max_rounds=5000)
    np.testing.assert_allclose(post.diagnostics["walk_summability"], 0.38 * (1 + np.sqrt(17)) / 2, rtol=1e-6)
    assert post.converged


def test_beliefs_that_are_no_densities_are_refused():
    net, evidence = chorded_square(0.3999)
    with (
        pytest.warns(ConvergenceWarning, match="ρ = 1.02"),
        pytest.raises(InferenceError, match=r"precision of 'b\d' is not positive definite.*engine='exact'"),
    ):
        net.query(None, evidence, engine="bp")


@pytest.mark.parametrize("width", [5, 10])
def test_layered_nets_broken_into_scalars_are_warned_of_before_they_run(width):
    """As one vertex a layer the same net is a chain, and exact."""
    rng = np.random.default_rng(width)
    whole, broken = GaussianBayesNet(), GaussianBayesNet()
    whole.add_input("x", width, mean=0.0, cov=1.0)
    layer = [broken.add_input(f"x{k}", 1, mean=0.0, cov=1.0) for k in range(width)]
    for depth in range(2):
        weight = rng.normal(size=(width, width)) / np.sqrt(width)
        whole.add_linear(f"h{depth}", {"x" if depth == 0 else "h0": weight}, cov=0.5)
        layer = [
            broken.add_linear(f"h{depth}.{k}", {p: [[w]] for p, w in zip(layer, weight[k], strict=True)}, cov=0.5)
            for k in range(width)
        ]
    y = rng.normal(size=(1, width))
    with pytest.warns(ConvergenceWarning, match="ρ = .*not below 1") as caught, suppress(InferenceError):
        broken.query(None, {f"h1.{k}": y[:, k] for k in range(width)}, engine="bp", max_rounds=3)
    assert "ρ" in str(caught[0].message)
    check(whole, {"h1": y}, samples=1)


@settings(max_examples=15)
@given(SEEDS)
def test_the_free_energy_on_loops_is_bethes(seed):
    """E[energy] - Σ (1 - degree) H_i - Σ H_ij of the beliefs, from the covariances that the posterior gives."""
    rng = np.random.default_rng(seed)
    hidden, sizes = random_loopy(rng, 0.8)
    net, observed = net_of(with_evidence(hidden, rng), [*sizes, 2]), f"b{len(sizes)}"
    evidence = {observed: rng.normal(size=(1, 2))}
    post = net.query(None, evidence, engine="bp", tol=1e-13, max_rounds=2000)
    names, ends = [f"b{k}" for k in range(len(sizes))], np.cumsum([0, *sizes])

    def entropy(cov):
        return 0.5 * np.linalg.slogdet(2 * np.pi * np.e * cov)[1]

    dense = Dense(net, row(evidence, 0))
    at_mean = -dense.log_evidence - 0.5 * np.linalg.slogdet(hidden / (2 * np.pi))[1]
    cov = np.block([[post.cov(a, b)[0] for b in names] for a in names])
    np.testing.assert_allclose(cov, cov.T, **CLOSE)
    total = at_mean + 0.5 * (hidden * cov).sum()
    parts = [np.arange(a, b) for a, b in pairwise(ends)]
    for i, part in enumerate(parts):
        total -= (2 - len(parts)) * entropy(cov[np.ix_(part, part)])
        for other in parts[:i]:
            both = np.concatenate([part, other])
            total -= entropy(cov[np.ix_(both, both)])
    np.testing.assert_allclose(post.free_energy, [total], **CLOSE)
    assert abs(post.free_energy[0] + dense.log_evidence) > 1e-9


@pytest.fixture
def ring():
    """x above two vertices that are added and observed, and a leaf hung on one: a loop and a tail."""
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add_linear("a", {"x": 0.3 * np.eye(2)}, cov=1.0)
    net.add_linear("b", {"x": 0.3 * np.eye(2)}, cov=1.0)
    net.add_linear("y", {"a": 0.3 * np.eye(2), "b": 0.3 * np.eye(2)}, cov=1.0)
    net.add_linear("tail", {"b": np.eye(2)}, cov=1.0)
    net.add_input("alone", 1, mean=0.0, cov=1.0)
    return net


def test_what_loops_do_not_give_is_refused_with_the_remedy(ring):
    post = ring.query(None, {"y": [[1.0, 2.0]]}, engine="bp")
    assert post.diagnostics["graph"] == "loopy"
    with pytest.raises(InferenceError, match=r"loops.*no log-evidence.*free_energy is Bethe.*engine='exact'"):
        _ = post.log_evidence
    with pytest.raises(InferenceError, match=r"loops.*no samples.*engine='exact'"):
        post.sample(2)
    with pytest.raises(InferenceError, match=r"covariance of 'tail' and 'x'.*not neighbours.*engine='exact'"):
        post.cov("tail", "x")
    np.testing.assert_array_equal(post.cov("alone", "x"), np.zeros((1, 1, 2)))
    assert post.cov("a", "x").shape == (1, 2, 2)
    with pytest.raises(InferenceError, match=r"schedule: got 'tree'.*5 of them, 4 edges.*schedule='residual'"):
        ring.query(None, {"y": [[1.0, 2.0]]}, engine="bp", schedule="tree")


def test_what_nobody_asks_for_makes_no_loops(ring):
    everything = ring.query(None, {}, engine="bp")
    assert everything.diagnostics["graph"] == "loopy"
    part = ring.query(["a", "x"], {}, engine="bp")
    assert part.diagnostics["graph"] == "tree"
    assert part.diagnostics["blocks"] == 2
    np.testing.assert_allclose(part.cov("a", "x")[0], 0.3 * np.eye(2), **TIGHT)
    np.testing.assert_allclose(part.log_evidence, 0, atol=1e-12)


def test_patterns_of_missing_entries_share_one_pass():
    net = tanh_chain((2, 3, 2), prior=1.0)
    net = net.linearize({"x": [0.1, 0.2]})
    y = np.random.default_rng(0).normal(size=(40, 2))
    post = check(net, {"y": y}, samples=40)
    assert post.cov("x").strides[0] == 0
    y[::3, 0] = NAN
    y[1::4] = NAN
    post = check(net, {"y": y}, samples=40)
    assert len(post._solution.system.block("y", "y")) == 3


def test_interventions_cut_the_graph():
    net = tanh_chain((2, 3, 3, 2), prior=1.0)
    x, a, y = np.ones((2, 2)), np.full((2, 3), 0.5), np.zeros((2, 2))
    post = check(net, {"y": y}, {"a2": a}, samples=2)
    assert post.diagnostics["edges"] == 1
    post = check(net, {"x": x, "y": y}, {"a1": a}, samples=2)
    np.testing.assert_array_equal(post.mean["a1"], a)
    np.testing.assert_array_equal(post.var["a1"], 0)


@pytest.mark.parametrize("kind", ["categorical", "bernoulli"])
def test_labels_are_information(kind):
    rng = np.random.default_rng(1)
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=[1.0, 0.5])
    net.add_linear("a", {"x": rng.normal(size=(3, 2))}, bias=rng.normal(size=3), cov=0.3)
    net.add("h", "Tanh", ["a"])
    net.add_linear("logits", {"h": rng.normal(size=(3, 3))}, bias=rng.normal(size=3))
    net.add_likelihood("label", kind, "logits")
    label = np.eye(3)[[2, 0, 1]]
    if kind == "categorical":
        label[1] = NAN
    else:
        label[1, 0] = label[2, 2] = NAN
    post = check(net, {"label": label, "x": np.array([[0.3, NAN], [NAN, 1.0], [NAN, NAN]])})
    reference = net.query(None, {"label": label, "x": [[0.3, NAN], [NAN, 1.0], [NAN, NAN]]})
    for name in ("label", "h"):
        np.testing.assert_allclose(post.mean[name], reference.mean[name], **TIGHT)
        np.testing.assert_allclose(post.messages[name], reference.messages[name], **CLOSE)
    np.testing.assert_allclose(post.surprise["label"], reference.surprise["label"], **CLOSE)
    for name in net.parameters:
        np.testing.assert_allclose(post.messages[name], reference.messages[name], **CLOSE)
    draws = post.sample(200, rng=0)["label"]
    assert draws.shape == (200, 3, 3)
    known = ~np.isnan(label)
    np.testing.assert_array_equal(draws[:, known], np.broadcast_to(label[known], (200, known.sum())))
    assert np.ptp(draws[:, ~known], axis=0).min() > 0
    with pytest.raises(InferenceError, match=r"'label' is a label.*logits 'logits'"):
        _ = post.var["label"]


def test_the_equilibrium_is_a_fixed_point_of_its_own_linearisation():
    net = tanh_chain((2, 4, 3, 2), hidden=0.2, prior=1.0)
    evidence = {"y": np.array([[0.4, -0.2], [0.1, NAN]])}
    post = net.query(None, evidence, engine="bp", operating_point="equilibrium")
    assert "linearisation at the equilibrium point" in post.diagnostics["approximate"]
    for n in range(2):
        at = {name: post.mean[name][n] for name in ("x", "a1", "h1", "a2", "h2", "y")}
        dense = Dense(net, row(evidence, n), at=at)
        for name in ("x", "a1", "h2", "y"):
            np.testing.assert_allclose(dense.mean_of(name), post.mean[name][n], atol=1e-6)
            np.testing.assert_allclose(dense.cov_of(name, name), post.cov(name)[n], atol=1e-6)
        np.testing.assert_allclose(dense.log_evidence, post.log_evidence[n], atol=1e-6)


def test_samples_have_the_posterior_moments():
    net = tanh_chain((2, 3, 3, 2), prior=1.0).linearize({"x": [0.3, -0.2]})
    net.add_input("alone", 2, mean=[1.0, 2.0], cov=np.array([[1.0, 0.5], [0.5, 2.0]]))
    evidence = {"y": np.array([[0.2, NAN], [1.0, -1.0]])}
    post, n = net.query(None, evidence, engine="bp"), 40000
    draws = post.sample(n, rng=0)
    dense = [Dense(net, row(evidence, k)) for k in range(2)]
    for a in dense[0].where:
        assert draws[a].shape == (n, 2, *net[a].shape)
        for b in dense[0].where:
            for k in range(2):
                x, y = draws[a][:, k], draws[b][:, k]
                spread = np.sqrt(np.diag(dense[k].cov_of(a, a)).clip(0))
                assert (np.abs(x.mean(0) - dense[k].mean_of(a)) <= 5 * spread / np.sqrt(n) + 1e-9).all()
                error = np.sqrt(2 / n) * np.outer(spread, np.sqrt(np.diag(dense[k].cov_of(b, b)).clip(0)))
                cov = (x - x.mean(0)).T @ (y - y.mean(0)) / n
                assert (np.abs(cov - dense[k].cov_of(a, b)) <= 5 * error + 1e-9).all()


def test_nothing_hidden_is_a_density():
    net = tanh_chain((2, 3, 2), prior=1.0)
    evidence = {"x": np.ones((2, 2)), "a1": np.zeros((2, 3)), "y": np.ones((2, 2))}
    post = check(net, evidence, samples=2)
    assert post.diagnostics["blocks"] == post.diagnostics["messages"] == 0
    np.testing.assert_allclose(post.log_evidence, net.log_prob(evidence), **TIGHT)


def test_float32_stays_float32():
    net = GaussianBayesNet(np.float32)
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add_linear("h", {"x": np.eye(2)}, cov=0.5)
    net.add_linear("y", {"h": np.eye(2)}, cov=0.5)
    post = net.query(None, {"y": [[1.0, NAN]]}, engine="bp")
    figures = [post.mean["x"], post.var["h"], post.cov("x", "h"), post.log_evidence, post.messages["x"]]
    figures += [post.surprise["h"], post.sample(2)["y"]]
    assert {figure.dtype for figure in figures} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"schedule": "random"}, "schedule: got 'random', expected 'auto', 'tree', 'residual' or 'parallel'"),
        ({"damping": 1.0}, "damping: got 1.0, expected a number of at least 0 and below 1"),
        ({"damping": -0.1}, "damping: got -0.1"),
        ({"operating_point": "middle"}, "operating_point: got 'middle', expected 'forward' or 'equilibrium'"),
    ],
)
def test_options_are_checked(ring, options, message):
    with pytest.raises(InferenceError, match=message):
        ring.query(None, {}, engine="bp", **options)


def test_evidence_on_a_deterministic_vertex_is_refused():
    net = tanh_chain((2, 3, 2), prior=1.0)
    with pytest.raises(InferenceError, match=r"'h1', a deterministic vertex.*set_noise.*engine='exact'"):
        net.query(None, {"h1": np.zeros((1, 3))}, engine="bp")


def test_random_parameters_are_refused():
    net = tanh_chain((2, 3, 2))
    net.set_noise({"a1.bias": 1.0})
    with pytest.raises(InferenceError, match=r"'a1.bias' has a prior.*'bp' needs plain parameters"):
        net.query(None, {"x": np.zeros((1, 2))}, engine="bp")


def test_a_callback_stops_the_rounds(ring):
    post = ring.query(None, {"y": [[1.0, 2.0]]}, engine="bp", callback=lambda number, figures: True)
    assert not post.converged
    assert "stopped by the callback after 1 rounds" in post.diagnostics["stopped"]


def test_log_evidence_is_no_difference_of_large_terms():
    """Far evidence under sharp noise: hᵀ K⁻¹ h alone has 1e25 nats."""
    net = GaussianBayesNet()
    net.add_input("x", 1, mean=0.0, cov=1e12)
    net.add_linear("h", {"x": [[1.0]]}, cov=1e-6)
    net.add_linear("y", {"h": [[1.0]]}, cov=1e-6)
    post = net.query(["x"], {"y": [2.0**21]}, engine="bp")
    total = 1e12 + 2e-6
    expected = -0.5 * (2.0**42 / total + np.log(2 * np.pi * total))
    np.testing.assert_allclose(post.log_evidence, expected, rtol=1e-9)


@pytest.mark.parametrize("noise", [1e-12, 1e-2])
def test_a_precision_lost_to_rounding_is_refused_by_name(noise):
    net = GaussianBayesNet()
    net.add_input("x", 1, mean=0.0, cov=1e12)
    net.add_linear("h", {"x": [[1.0]]}, cov=noise)
    with pytest.raises(IllConditionedError, match=r"belief propagation: the precision of 'x' is lost.*engine='exact'"):
        net.query(["x", "h"], {}, engine="bp")
