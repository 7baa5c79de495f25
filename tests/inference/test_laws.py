"""The laws that tie predictive coding and exact inference to backprop (docs: the mathematics of messages)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from gbn.evidence import Evidence
from gbn.inference import gradient
from gbn.linearize import Linearization
from gbn.net import GaussianBayesNet
from tests.dense import Dense, Program, backprop, covariance
from tests.nets import random_covariance, random_evidence, random_net, row, tanh_chain

SEEDS = st.integers(0, 2**32 - 1)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
EPS = {"rtol": 1e-12, "atol": 1e-12}


def split(net, evidence, do):
    """Inputs without a prior are set from outside."""
    inputs = {n: v for n, v in evidence.items() if net[n].needs_data}
    return {n: v for n, v in evidence.items() if n not in inputs}, do | inputs


def gap_scale(expected):
    return max(np.abs(v).max(initial=0) for v in expected.values()) + 1e-30


# Law 1: one sweep is backprop.


@pytest.mark.parametrize("policy", ["affine", "layers"])
@pytest.mark.parametrize("hidden", [1e-3, 1.0, 1e3])
def test_one_sweep_is_the_recursion_of_backprop(hidden, policy):
    net = tanh_chain((3, 5, 4, 2), hidden=hidden, output=np.array([[0.5, 0.2], [0.2, 0.4]]), policy=policy)
    rng = np.random.default_rng(1)
    x, t = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    weights = [net[n].value for n in ("a1.x.weight", "a2.h1.weight", "y.h2.weight")]
    biases = [net[n].value for n in ("a1.bias", "a2.bias", "y.bias")]
    h, acts = x, [x]
    for w, b in zip(weights[:2], biases[:2], strict=True):
        h = np.tanh(h @ w.T + b)
        acts.append(h)
    delta = (t - (h @ weights[2].T + biases[2])) @ np.linalg.inv([[0.5, 0.2], [0.2, 0.4]])
    post = net.query(None, {"x": x, "y": t}, engine="pc")
    np.testing.assert_allclose(post.messages["y"], delta, **EPS)
    for depth, weight, bias in ((2, "y.h2.weight", "y.bias"), (1, "a2.h1.weight", "a2.bias")):
        np.testing.assert_allclose(post.messages[weight], delta.T @ acts[depth], **EPS)
        np.testing.assert_allclose(post.messages[bias], delta.sum(0), **EPS)
        np.testing.assert_allclose(post.messages[f"h{depth}"], delta @ weights[depth], **EPS)
        delta = (delta @ weights[depth]) * (1 - acts[depth] ** 2)
        np.testing.assert_allclose(post.messages[f"a{depth}"], delta, **EPS)
    np.testing.assert_allclose(post.messages["a1.x.weight"], delta.T @ x, **EPS)
    assert post.converged
    assert post.diagnostics["rounds"] == 1
    assert post.diagnostics["passes"] == 2
    for name, value in gradient(net, {"x": x, "y": t}).items():
        np.testing.assert_allclose(value, -post.messages[name], **EPS)


@settings(max_examples=40)
@given(SEEDS)
def test_one_sweep_is_autograd_on_any_dag_with_any_evidence(seed):
    net = random_net(seed, "smooth")
    evidence, do = split(net, *random_evidence(net, seed + 1))
    expected, _ = backprop(net, evidence, do, 3)
    post = net.query(None, evidence, do, engine="pc")
    scale = gap_scale(expected)
    for name, value in expected.items():
        if name not in evidence:
            np.testing.assert_allclose(post.messages[name], value, rtol=1e-10, atol=1e-12 * scale)
    with torch.no_grad():
        values, means = Program(net).run(evidence, do, 3)
    for name in evidence:
        q = covariance(net, name)
        for n in range(3):
            o = ~np.isnan(evidence[name][n].reshape(-1))
            error = (values[name] - means[name])[n].numpy().reshape(-1)
            lam = expected[name][n].reshape(-1).copy()
            lam[o] = np.linalg.solve(q[np.ix_(o, o)], error[o] - q[np.ix_(o, ~o)] @ lam[~o])
            np.testing.assert_allclose(post.messages[name][n].reshape(-1), lam, rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_hidden_noise_does_not_matter_to_the_sweep(scale):
    nets = [random_net(77, "smooth"), random_net(77, "smooth")]
    evidence, do = split(nets[0], *random_evidence(nets[0], 78, missing=0))
    hidden = [n for n in nets[0].latents if n not in evidence and n not in do]
    assert len(hidden) > 1
    nets[1].set_noise({n: scale * random_covariance(np.random.default_rng(0), nets[1][n].size) for n in hidden})
    first, second = (net.query(None, evidence, do, engine="pc").messages for net in nets)
    for name in first:
        np.testing.assert_allclose(second[name], first[name], **EPS)


def test_labels_send_the_score():
    rng = np.random.default_rng(0)
    for kind, labels in (("categorical", np.array([0, 2, np.nan])), ("bernoulli", np.array([[0, 1, np.nan]] * 3))):
        net = GaussianBayesNet()
        net.add_input("x", 2)
        net.add_linear("a", {"x": rng.normal(size=(3, 2))}, cov=7.0)
        net.add("h", "Tanh", ["a"])
        net.add_linear("z", {"h": rng.normal(size=(3, 3))})
        net.add_likelihood("t", kind, "z")
        x = rng.normal(size=(3, 2))
        known = np.nan_to_num(labels).astype(int)
        target = labels if kind == "bernoulli" else np.where(np.isnan(labels)[:, None], np.nan, np.eye(3)[known])
        expected, rows = backprop(net, {"t": target}, {"x": x}, 3)
        post = net.query(None, {"x": x, "t": labels}, engine="pc")
        for name in ("a", "h", "z", "z.h.weight", "a.x.weight"):
            np.testing.assert_allclose(post.messages[name], expected[name], **EPS)
        np.testing.assert_allclose(post.surprise["t"], rows, **EPS)
        for name, value in gradient(net, {"x": x, "t": labels}).items():
            np.testing.assert_allclose(value, -expected[name], **EPS)


# Law 2: synchronous rounds carry the paths with k latents with the weight Pr[Binomial(t, η) >= k].


def local_jacobians(net, evidence, do, n):
    """child -> parent -> J at the forward pass, parameters included, by torch."""
    dense = Dense(net, row(evidence, n), row(do, n))
    out = {}
    for name, vertex in net.vertices.items():
        if vertex.kind == "likelihood":
            out[name] = {vertex.parents[0]: np.eye(vertex.size)}
        if vertex.kind != "op" or name in do:
            continue
        arguments = [dense.values[p] for p in vertex.parents]

        def value(*xs, name=name):
            return dense.program.apply(name, xs)

        blocks = torch.func.jacrev(value, argnums=tuple(range(len(arguments))))(*arguments)
        out[name] = {}
        for parent, block in zip(vertex.parents, blocks, strict=True):
            flat = block.detach().numpy().reshape(vertex.size, net[parent].size)
            out[name][parent] = out[name].get(parent, 0) + flat
    return out, dense


def by_paths(net, evidence, do, n, longest):
    """δ^(k) of every vertex, k = 0..longest: what the paths with exactly k latents bring."""
    jacobians, dense = local_jacobians(net, evidence, do, n)
    order = list(net.vertices)
    children = {name: [c for c in order if name in jacobians.get(c, {})] for name in order}
    delta = {name: np.zeros((longest + 1, net[name].size)) for name in order}
    for k in range(longest + 1):
        for name in reversed(order):
            vertex = net[name]
            if name in do or vertex.kind == "constant":
                continue
            given = evidence[name][n].reshape(-1) if name in evidence else np.full(vertex.size, np.nan)
            o = ~np.isnan(given)
            if vertex.kind == "likelihood":
                logits = dense.values[vertex.parents[0]].numpy().reshape(-1)
                p = np.exp(logits) / np.exp(logits).sum()
                delta[name][k] = (given - p if o.all() else 0) if k == 0 else 0
                continue
            counts = vertex.random
            if k >= counts:
                for child in children[name]:
                    delta[name][k] += jacobians[child][name].T @ delta[child][k - counts]
            if o.any():
                q = covariance(net, name)
                error = (dense.values[name] - dense.means[name]).detach().numpy().reshape(-1)[o] if k == 0 else 0
                moved = q[np.ix_(o, ~o)] @ delta[name][k][~o]
                delta[name][k][o] = np.linalg.solve(q[np.ix_(o, o)], error - moved)
    return delta


def check_binomial(net, evidence, do, samples, eta, longest, rounds):
    tables = [by_paths(net, evidence, do, n, longest) for n in range(samples)]
    k = np.arange(longest + 1)
    largest = max(np.abs(d).max() for table in tables for d in table.values())
    for t in rounds:
        weight = binom.sf(k - 1, t, eta)
        options = {"schedule": "parallel", "step_size": eta, "max_rounds": t}
        post = net.query([], evidence, do, engine="pc", **options)
        for name, vertex in net.vertices.items():
            if name in do or vertex.kind == "constant":
                continue
            if vertex.plated:
                expected = np.stack([(weight @ table[name]).reshape(vertex.shape) for table in tables])
            else:
                expected = _shared(tables, name, weight, vertex)
            np.testing.assert_allclose(post.messages[name], expected, rtol=1e-10, atol=1e-11 * max(1, largest))


def _shared(tables, name, weight, vertex):
    return sum(weight @ table[name] for table in tables).reshape(vertex.shape)


@pytest.mark.parametrize("policy", ["affine", "layers"])
@pytest.mark.parametrize("eta", [0.1, 0.5, 1])
def test_the_binomial_law_on_a_chain(eta, policy):
    net = tanh_chain((2, 3, 4, 3, 2), prior=1.0, policy=policy)
    rng = np.random.default_rng(0)
    y = rng.normal(size=(2, 2))
    check_binomial(net, {"y": y}, {}, 2, eta, longest=5, rounds=range(10))


def test_the_weights_of_a_chain_are_those_of_its_depths():
    """Latent d steps from the output has one path, with d latents."""
    net = tanh_chain((2, 3, 4, 3, 2), prior=1.0)
    y = np.random.default_rng(0).normal(size=(1, 2))
    expected, _ = backprop(net, {"y": y}, {})
    for t in range(8):
        post = net.query([], {"y": y}, engine="pc", schedule="parallel", step_size=0.3, max_rounds=t)
        for d, name in enumerate(("a3", "a2", "a1", "x"), 1):
            np.testing.assert_allclose(post.messages[name], binom.sf(d - 1, t, 0.3) * expected[name], **TIGHT)


def test_the_sweep_at_a_small_step_is_ahead_by_the_depth():
    net = tanh_chain((2, 3, 4, 3, 2), prior=1.0)
    y = np.random.default_rng(0).normal(size=(1, 2))
    expected, _ = backprop(net, {"y": y}, {})
    for t in range(1, 8):
        post = net.query([], {"y": y}, engine="pc", schedule="sweep", step_size=0.3, max_rounds=t)
        for d, name in enumerate(("a3", "a2", "a1", "x"), 1):
            np.testing.assert_allclose(post.messages[name], binom.sf(d - 1, t + d - 1, 0.3) * expected[name], **TIGHT)


@pytest.mark.parametrize("eta", [0.1, 0.5, 1])
def test_the_binomial_law_on_paths_of_several_lengths(eta):
    """Skips, a deterministic middle, a partly observed middle with a full covariance, labels, repeated parents."""
    rng = np.random.default_rng(4)
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add_linear("a", {"x": rng.normal(size=(3, 2))}, cov=random_covariance(rng, 3))
    net.add("s", "Tanh", ["a"])
    net.add_linear("m", {"s": rng.normal(size=(3, 3)), "x": rng.normal(size=(3, 2))}, cov=np.eye(3) + 0.4)
    net.add("p", "Mul", ["m", "s"])
    net.add("d", "Add", ["p", "p"], cov=0.3)
    net.add_linear("z", {"d": rng.normal(size=(3, 3)), "a": rng.normal(size=(3, 3))})
    net.add_likelihood("t", "categorical", "z")
    net.add_linear(
        "y", {"d": rng.normal(size=(2, 3)), "m": rng.normal(size=(2, 3)), "x": rng.normal(size=(2, 2))}, cov=0.5
    )
    nan = np.nan
    one_hot = np.array([[1.0, 0, 0], [0, 0, 1.0], [nan, nan, nan]])
    evidence = {
        "y": rng.normal(size=(3, 2)),
        "m": np.array([[0.3, nan, nan], [nan] * 3, [1.0, nan, 2.0]]),
        "t": one_hot,
    }
    check_binomial(net, evidence, {}, 3, eta, longest=6, rounds=range(10))


@settings(max_examples=15)
@given(SEEDS, st.sampled_from([0.1, 0.5, 1.0]))
def test_the_binomial_law_on_random_dags(seed, eta):
    net = random_net(seed, "smooth", vertices=7)
    evidence, do = split(net, *random_evidence(net, seed + 1, samples=2))
    check_binomial(net, evidence, do, 2, eta, longest=9, rounds=(0, 1, 2, 4, 12))


@pytest.mark.parametrize("eta", [0.1, 0.5, 1])
def test_a_bayesian_parameter_counts_itself(eta):
    rng = np.random.default_rng(2)
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("w", rng.normal(size=(3, 2)), cov=0.2)
    net.add_parameter("v", rng.normal(size=(2, 3)))
    net.add_parameter("u", rng.normal(size=(2, 2)), cov=random_covariance(rng, 4))
    net.add("a", "Gemm", ["x", "w"], transB=1, cov=0.5)
    net.add("h", "Tanh", ["a"])
    net.add("z", "Gemm", ["h", "v"], transB=1, cov=0.5)
    net.add("y", "Gemm", ["z", "u"], transB=1, cov=0.1)
    evidence, do = {"y": rng.normal(size=(4, 2))}, {"x": rng.normal(size=(4, 2))}
    check_binomial(net, evidence, do, 4, eta, longest=4, rounds=range(8))
    full, _ = backprop(net, evidence, do, 4)
    post = net.query(["w", "u"], evidence, do, engine="pc", schedule="parallel", step_size=1.0, max_rounds=4)
    for name in ("w", "u", "v"):
        np.testing.assert_allclose(post.messages[name], full[name], **TIGHT)
    moved = net["w"].value + 0.2 * full["w"]
    np.testing.assert_allclose(post.mean["w"], moved, **TIGHT)
    u = net["u"].value.reshape(-1) + covariance(net, "u") @ full["u"].reshape(-1)
    np.testing.assert_allclose(post.mean["u"].reshape(-1), u, **TIGHT)


# Law 3: exact inference is backprop of a whitened output error, and backprop itself as hidden noise goes to 0.


def scaled(net, factor, hidden):
    out = net.copy()
    out.set_noise({n: factor * covariance(net, n) for n in hidden})
    return out


def cut_jacobians(net, dense, observed):
    """J̃: the response of all observed entries to every vertex, paths through observed vertices left out."""
    keep = np.ones(len(dense.a))
    keep[dense.observed] = 0
    return np.linalg.inv(np.eye(len(keep)) - dense.a * keep)[observed]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_exact_messages_are_backprop_of_the_whitened_error(seed):
    net = random_net(seed, "smooth", vertices=7)
    evidence, do = split(net, *random_evidence(net, seed + 1, samples=1, missing=0))
    post = net.query(None, evidence, do)
    dense = Dense(net, row(evidence, 0), row(do, 0))
    response = cut_jacobians(net, dense, dense.observed)
    # With observed entries clamped, S = J̃ Q J̃ᵀ over noises, and T - f is their own one-step error at the forward pass.
    s = response @ dense.q @ response.T
    error = (dense.point - dense.offset - dense.a @ dense.point)[dense.observed]
    lam = response.T @ np.linalg.solve(s, error)
    for name in dense.where:
        if name not in do:
            np.testing.assert_allclose(post.messages[name].reshape(-1), lam[dense.where[name]], **TIGHT)


@pytest.mark.parametrize("policy", ["affine", "layers"])
def test_the_gap_to_backprop_is_proportional_to_the_hidden_variance(policy):
    base = tanh_chain((3, 5, 4, 2), hidden=1.0, output=0.5, prior=1.0, policy=policy)
    y = np.random.default_rng(3).normal(size=(4, 2))
    expected, _ = backprop(base, {"y": y}, {}, 4)
    scales = 10.0 ** np.arange(-8, 1)
    for name in ("x", "a1", "h2", "a2"):
        gaps = []
        for scale in scales:
            net = scaled(base, scale, [n for n in base.latents if n != "y"])
            found = net.query([], {"y": y}).messages[name]
            gaps.append(np.linalg.norm(found - expected[name]) / np.linalg.norm(expected[name]))
        gaps = np.array(gaps)
        small = gaps < 1e-2
        assert small.sum() >= 4
        slopes = np.diff(np.log(gaps[small])) / np.diff(np.log(scales[small]))
        np.testing.assert_allclose(slopes, 1, atol=0.02)


# Partial observation.


def test_partial_observation_with_a_full_covariance():
    """λ_h = pull_h, λ_o = Q_oo⁻¹ (ε_o - Q_oh λ_h), h at f_h + Q_ho Q_oo⁻¹ ε_o, written out by hand."""
    rng = np.random.default_rng(9)
    q, w, v = random_covariance(rng, 3), rng.normal(size=(3, 2)), rng.normal(size=(2, 3))
    q = np.array([[1.0, 0.5, 0.2], [0.5, 1.5, -0.4], [0.2, -0.4, 0.8]])
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=[0.2, -0.3], cov=0.7)
    net.add_linear("m", {"x": w}, cov=q)
    net.add("h", "Tanh", ["m"])
    net.add_linear("y", {"h": v}, cov=0.25)
    m, y = np.array([np.nan, 0.9, np.nan]), np.array([1.0, -1.0])
    o, h = [1], [0, 2]
    f = w @ [0.2, -0.3]
    e = m[o] - f[o]
    value = f.copy()
    value[o] = m[o]
    value[h] += q[np.ix_(h, o)] @ np.linalg.solve(q[np.ix_(o, o)], e)
    lam_y = (y - v @ np.tanh(value)) / 0.25
    pulled = (1 - np.tanh(value) ** 2) * (v.T @ lam_y)

    point = Linearization.forward(Evidence.read(net, {"m": m, "y": y}))
    np.testing.assert_allclose(point.values["m"][0], value, **TIGHT)
    post = net.query(None, {"m": m, "y": y}, engine="pc")
    lam = pulled.copy()
    lam[o] = np.linalg.solve(q[np.ix_(o, o)], e - q[np.ix_(o, h)] @ pulled[h])
    np.testing.assert_allclose(post.messages["m"][0], lam, **EPS)
    np.testing.assert_allclose(post.messages["x"][0], w.T @ lam, **EPS)
    np.testing.assert_allclose(post.mean["m"][0], np.where(np.isnan(m), f + q @ lam, m), **TIGHT)
    # The step of h from where the forward pass put it is Q_{h|o} pull_h.
    given = np.linalg.inv(np.linalg.inv(q)[np.ix_(h, h)])
    np.testing.assert_allclose((post.mean["m"][0] - value)[h], given @ pulled[h], **TIGHT)

    for t in range(5):
        rounds = net.query([], {"m": m, "y": y}, engine="pc", schedule="parallel", step_size=0.4, max_rounds=t)
        lam[h] = binom.sf(0, t, 0.4) * pulled[h]
        lam[o] = np.linalg.solve(q[np.ix_(o, o)], e - q[np.ix_(o, h)] @ lam[h])
        np.testing.assert_allclose(rounds.messages["m"][0], lam, **TIGHT)


def test_an_observed_middle_ends_the_paths():
    net = tanh_chain((2, 3, 3, 2), prior=1.0)
    rng = np.random.default_rng(0)
    evidence = {"y": rng.normal(size=(2, 2)), "a2": rng.normal(size=(2, 3))}
    post = net.query(None, evidence, engine="pc")
    above = net.query(None, {"a2": evidence["a2"]}, engine="pc")
    np.testing.assert_allclose(post.messages["a1"], above.messages["a1"], **EPS)
    np.testing.assert_allclose(post.messages["x"], above.messages["x"], **EPS)
    w = net["a2.h1.weight"].value
    error = (evidence["a2"] - post.mean["h1"] @ w.T - net["a2.bias"].value) / 0.5
    np.testing.assert_allclose(post.messages["h1"], error @ w, **EPS)


def test_the_messages_stay_in_single_precision():
    net = random_net(31, "smooth", dtype=np.float32)
    evidence, do = random_evidence(net, 32)
    for options in ({}, {"schedule": "parallel", "max_rounds": 3}, {"prediction": "live", "tol": 1e-2}):
        post = net.query(None, evidence, do, engine="pc", **options)
        for name in net:
            assert post.messages[name].dtype == np.float32, (name, options)
        for name in post.targets:
            assert post.mean[name].dtype == np.float32, (name, options)
        assert post.free_energy.dtype == np.float32


# Law 4: the gradient of the log-evidence is the posterior expectation of the local complete-data gradient (Fisher).


@pytest.mark.parametrize("solver", ["observations", "information"])
@pytest.mark.parametrize("seed", range(5))
def test_expected_local_statistics_give_the_gradient_of_the_log_evidence(seed, solver):
    """∇_B log p(evidence) = Λ Σ_n E[(x - Σ_p B_p u_p - b) uᵀ], against autograd of the dense log-density."""
    rng = np.random.default_rng(seed)
    edges = {"z": [], "u": ["z"], "x": ["u", "z"], "y": ["x"]}
    sizes = {name: int(rng.integers(1, 4)) for name in edges}
    net = GaussianBayesNet()
    net.add_input("z", sizes["z"], mean=rng.normal(size=sizes["z"]), cov=random_covariance(rng, sizes["z"]))
    for name in ("u", "x", "y"):
        weights = {p: rng.normal(size=(sizes[name], sizes[p])) for p in edges[name]}
        noise = random_covariance(rng, sizes[name])
        net.add_linear(name, weights, bias=rng.normal(size=sizes[name]), cov=noise)
    evidence = {name: rng.normal(size=(4, sizes[name])) for name in ("u", "y")}
    evidence["u"][rng.random(evidence["u"].shape) < 0.5] = np.nan

    post = net.query(None, evidence, solver=solver)
    leaves = {p: torch.tensor(np.array(net[p].value), requires_grad=True) for p in net.parameters}
    log_evidence = dense_log_evidence(net, edges, sizes, leaves, evidence)
    np.testing.assert_allclose(post.log_evidence.sum(), float(log_evidence.detach()), **TIGHT)
    expected = dict(zip(leaves, torch.autograd.grad(log_evidence, list(leaves.values())), strict=True))
    for name in ("u", "x", "y"):
        residual = post.mean[name] - net[f"{name}.bias"].value
        for p in edges[name]:
            residual = residual - post.mean[p] @ net[f"{name}.{p}.weight"].value.T
        precision = np.linalg.inv(covariance(net, name))
        np.testing.assert_allclose(precision @ residual.sum(0), expected[f"{name}.bias"], **TIGHT)
        for p in edges[name]:
            coupled = post.cov(name, p).sum(0)
            for q in edges[name]:
                coupled = coupled - net[f"{name}.{q}.weight"].value @ post.cov(q, p).sum(0)
            local = precision @ (residual.T @ post.mean[p] + coupled)
            np.testing.assert_allclose(local, expected[f"{name}.{p}.weight"], rtol=1e-9, atol=1e-9)


def dense_log_evidence(net, edges, sizes, leaves, evidence):
    """log p(evidence), summed over rows, as a differentiable function of the weights."""
    mean, cov, names = {}, {}, list(edges)
    for k, name in enumerate(names):
        parents = {p: leaves[f"{name}.{p}.weight"] for p in edges[name]}
        mean[name] = sum((w @ mean[p] for p, w in parents.items()), leaves.get(f"{name}.bias", torch.zeros(1)))
        if not parents:
            mean[name] = torch.tensor(np.array(net[name].value))
        own = torch.tensor(np.array(covariance(net, name)))
        for other in names[:k]:
            zero = torch.zeros(sizes[name], sizes[other], dtype=torch.float64)
            cov[name, other] = sum((w @ cov[p, other] for p, w in parents.items()), zero)
            cov[other, name] = cov[name, other].T
        cov[name, name] = own + sum((w @ cov[p, name] for p, w in parents.items()), torch.zeros_like(own))
    total = torch.zeros((), dtype=torch.float64)
    whole = torch.cat([torch.cat([cov[a, b] for b in evidence], 1) for a in evidence])
    centre = torch.cat([mean[a] for a in evidence])
    for values in np.concatenate(list(evidence.values()), axis=1):
        o = np.flatnonzero(~np.isnan(values))
        density = torch.distributions.MultivariateNormal(centre[o], whole[o][:, o])
        total = total + density.log_prob(torch.tensor(values[o]))
    return total
