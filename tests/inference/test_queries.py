"""What can be asked of a net, against numpy on dense joints, closed forms, and other ways to the same answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbn.errors import (
    CovarianceError,
    EvidenceError,
    GraphError,
    InferenceError,
    ShapeError,
    SingularEvidenceError,
    UnknownNameError,
)
from gbn.evidence import Evidence
from gbn.graph import linear_given
from gbn.net import GaussianBayesNet
from tests.dense import Dense
from tests.nets import random_covariance, random_evidence, random_net, row, tanh_chain

NAN = np.nan
SEEDS = st.integers(0, 10**6)


def matrix(cov, size):
    """A covariance in any form, over a vector."""
    cov = np.asarray(cov, float)
    return cov if cov.ndim == 2 and cov.shape == (size, size) else np.diag(np.broadcast_to(cov.reshape(-1), size))


def conditioned(mean, cov, index, value, noise=None):
    """N(mean, cov) given that the entries at ``index`` were measured as ``value``."""
    s = cov[np.ix_(index, index)] + (0 if noise is None else noise)
    gain = np.linalg.solve(s, cov[index]).T
    return mean + gain @ (value - mean[index]), cov - gain @ cov[index], s


def kl(m, c, p, q):
    """KL(N(m, c) ‖ N(p, q))."""
    inverse = np.linalg.inv(q)
    logs = np.linalg.slogdet(q)[1] - np.linalg.slogdet(c)[1]
    return 0.5 * (np.trace(inverse @ c) - len(m) + (p - m) @ inverse @ (p - m) + logs)


@pytest.fixture
def chain():
    """x -> a -> y, all scalars with noise."""
    net = GaussianBayesNet()
    net.add_input("x", 1, mean=1.0, cov=2.0)
    net.add_linear("a", {"x": [[2.0]]}, bias=[0.5], cov=0.5)
    net.add_linear("y", {"a": [[-1.0]]}, cov=0.25)
    return net


class TestSoftEvidence:
    def test_by_hand(self, chain):
        post = chain.query(None, soft={"x": (3.0, 0.5)})
        np.testing.assert_allclose(post.var["x"], 1 / (1 / 2 + 1 / 0.5), rtol=1e-14)
        np.testing.assert_allclose(post.mean["x"], post.var["x"] * (1.0 / 2 + 3.0 / 0.5), rtol=1e-14)
        expected = -0.5 * (4.0 / 2.5 + np.log(2 * np.pi * 2.5))
        np.testing.assert_allclose(post.log_evidence, expected, rtol=1e-14)

    @given(SEEDS)
    def test_against_the_dense_joint(self, seed):
        rng = np.random.default_rng(seed)
        net = random_net(seed)
        evidence, do = random_evidence(net, seed)
        free = [n for n, v in net.vertices.items() if v.plated and n not in evidence and n not in do]
        if not free:
            return
        name = str(rng.choice(free))
        vertex = net[name]
        value = rng.normal(size=(3, *vertex.shape))
        value[rng.random(value.shape) < 0.3] = NAN
        cov = random_covariance(rng, vertex.size, vertex.shape)
        post = net.query(free, evidence, do, soft={name: (value, cov)})
        for n in range(3):
            dense = Dense(net, row(evidence, n), row(do, n))
            known = np.flatnonzero(~np.isnan(value[n].reshape(-1)))
            index, noise = dense.where[name][known], matrix(cov, vertex.size)[np.ix_(known, known)]
            mean, full, s = conditioned(dense.mean, dense.cov, index, value[n].reshape(-1)[known], noise)
            gap = value[n].reshape(-1)[known] - dense.mean[index]
            extra = -0.5 * (gap @ np.linalg.solve(s, gap) + np.linalg.slogdet(2 * np.pi * s)[1]) if len(known) else 0
            scale = 1 + np.abs(dense.prior_cov).max()
            np.testing.assert_allclose(post.log_evidence[n], dense.log_evidence + extra, rtol=1e-9, atol=1e-9 * scale)
            for target in free:
                where = dense.where[target]
                got = post.mean[target][n].reshape(-1)
                np.testing.assert_allclose(got, mean[where], rtol=1e-9, atol=1e-9 * scale)
                np.testing.assert_allclose(
                    post.cov(name, target)[n], full[np.ix_(dense.where[name], where)], rtol=1e-9, atol=1e-9 * scale
                )

    @pytest.mark.parametrize("options", [{"engine": "exact"}, {"engine": "pc", "prediction": "live", "tol": 1e-12}])
    def test_every_engine_takes_it(self, chain, options):
        post = chain.query(None, {"y": [[0.3], [NAN]]}, soft={"a": ([[1.0], [2.0]], 0.1)}, **options)
        by_hand = chain.copy()
        by_hand.add("seen", "Identity", ["a"], cov=0.1)
        expected = by_hand.query(["x", "a", "y"], {"y": [[0.3], [NAN]], "seen": [[1.0], [2.0]]})
        for name in post.targets:
            np.testing.assert_allclose(post.mean[name], expected.mean[name], rtol=1e-9)

    def test_the_helper_is_hidden(self, chain):
        chain.add_linear("x (soft evidence)", {"x": [[1.0]]}, cov=1.0)
        post = chain.query(None, {"y": 0.3}, soft={"x": (1.0, 0.5)})
        assert post.targets == tuple(n for n, v in chain.vertices.items() if v.plated)
        assert post.net.vertices == chain.vertices
        assert set(post.messages) == set(chain)
        assert set(post.surprise) == set(chain.latents)
        assert set(post.evidence.values) == {"y"}
        frame = post.to_frame()
        assert set(frame.vertex) == set(post.targets)
        assert not frame[frame.vertex == "x"].observed.any()
        assert post.sample(3)["x"].shape == (3, 1, 1)
        assert chain.outputs == ("y", "x (soft evidence)")
        assert "<table" in post._repr_html_()

    def test_on_a_deterministic_vertex_of_a_nonlinear_net(self):
        net = tanh_chain((2, 3, 2), prior=1.0)
        post = net.query(["a1", "h1"], soft={"h1": ([0.5, NAN, -0.2], [0.1, 0.2, 0.3])})
        dense = Dense(net, {})
        index = dense.where["h1"][[0, 2]]
        mean, cov, _ = conditioned(dense.mean, dense.cov, index, np.array([0.5, -0.2]), np.diag([0.1, 0.3]))
        for name in ("a1", "h1"):
            where = dense.where[name]
            np.testing.assert_allclose(post.mean[name][0], mean[where], rtol=1e-9)
            np.testing.assert_allclose(post.cov(name)[0], cov[np.ix_(where, where)], rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize(
        "soft, error, message",
        [
            ({"xx": (1.0, 1.0)}, UnknownNameError, "unknown vertex in soft 'xx': did you mean 'x'"),
            ({"x": 1.0}, EvidenceError, r"soft evidence on 'x': expected a pair \(value, cov\)"),
            ({"x": (1.0, None)}, EvidenceError, r"soft evidence on 'x': expected a pair"),
            ({"x": (1.0, 0.0)}, CovarianceError, r"covariance of 'x \(soft evidence\)': expected a positive definite"),
            ({"x": (1.0, [1.0, 2.0])}, CovarianceError, r"'x \(soft evidence\)': got shape \(2,\)"),
            ({"x": ([[1.0, 2.0]], 1.0)}, ShapeError, r"'x \(soft evidence\)': got shape \(1, 2\), expected"),
            ({"x": (np.inf, 1.0)}, EvidenceError, "got an infinite value"),
            ({"x": ([1.0, 2.0], 1.0)}, EvidenceError, "different numbers of samples"),
            ({"a.bias": (1.0, 1.0)}, EvidenceError, r"'a.bias', a parameter shared by all samples: give it a prior"),
            ({"label": (1, 1.0)}, EvidenceError, "'label', a label: give class probabilities as evidence"),
            ([("x", 1.0)], EvidenceError, "soft: got list, expected a mapping"),
        ],
    )
    def test_refusals(self, chain, soft, error, message):
        chain.add_likelihood("label", "bernoulli", "y")
        with pytest.raises(error, match=message):
            chain.query(None, {"y": [[0.1], [0.2], [0.3]]}, soft=soft)


class TestMutualInformation:
    def test_by_hand(self, chain):
        rho2 = 4 * 2 / (4 * 2 + 0.5)
        np.testing.assert_allclose(chain.mutual_information("x", "a"), [-0.5 * np.log(1 - rho2)], rtol=1e-12)

    @given(SEEDS)
    def test_against_determinants(self, seed):
        net = random_net(seed, mode="linear", noisy=1.0)
        evidence, do = random_evidence(net, seed, missing=0.0)
        free = [n for n, v in net.vertices.items() if v.random and n not in evidence and n not in do]
        if len(free) < 3:
            return
        a, b = free[::2], free[1::2]
        got = net.mutual_information(a, b, evidence, do=do)
        dense = Dense(net, row(evidence, 0), row(do, 0))
        i, j = (np.concatenate([dense.where[n] for n in names]) for names in (a, b))

        def logdet(index):
            return np.linalg.slogdet(dense.cov[np.ix_(index, index)])[1]

        expected = 0.5 * (logdet(i) + logdet(j) - logdet(np.concatenate([i, j])))
        np.testing.assert_allclose(got, np.full(3, expected), rtol=1e-10, atol=1e-10)

    def test_extremes(self, chain):
        chain.add("z", "Neg", ["a"])
        chain.add("zz", "Concat", ["z", "x"], axis=1)
        assert chain.mutual_information("a", "z") == np.inf
        assert chain.mutual_information("x", ["zz"]) == np.inf
        assert chain.mutual_information("x", "y", {"x": 1.0}) == 0
        np.testing.assert_allclose(chain.mutual_information("x", "y", {"a": 1.0}), 0, atol=1e-12)
        once = chain.mutual_information(["a"], ["y"])
        np.testing.assert_allclose(chain.mutual_information(["a", "z"], "y"), once, rtol=1e-9)

    def test_single_precision_stays(self):
        net = GaussianBayesNet(np.float32)
        net.add_input("x", 2, mean=0.0, cov=1.0)
        net.add_linear("y", {"x": [[1.0, 2.0]]}, cov=0.5)
        got = net.mutual_information("x", "y")
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, 0.5 * np.log(5.5 / 0.5), rtol=1e-5)
        post = net.query(None, {"y": 1.0})
        assert post.kl("x").dtype == post.joint(["x"]).entropy().dtype == np.float32
        assert post.conditional("x", {}).mean.dtype == np.float32
        assert net.counterfactual({"y": 1.0}, {"x": [1.0, 1.0]}).mean["y"].dtype == np.float32

    def test_per_sample_in_a_nonlinear_net(self):
        net = tanh_chain((2, 3, 2), prior=1.0)
        values = net.mutual_information("x", "h1", {"y": [[3.0, 0.0], [0.1, 0.2]]}, operating_point="equilibrium")
        assert values.shape == (2,)
        assert values[0] != values[1]


class TestFromThePosterior:
    @given(SEEDS)
    def test_joint_and_conditional(self, seed):
        net = random_net(seed, noisy=1.0)
        evidence, do = random_evidence(net, seed)
        free = [n for n, v in net.vertices.items() if v.random and n not in evidence and n not in do]
        if len(free) < 2:
            return
        names = free[::-1]
        post = net.query(names, evidence, do)
        joint = post.joint()
        value = np.random.default_rng(seed).normal(size=(3, *net[names[-1]].shape))
        conditional = post.conditional(names[:-1], {names[-1]: value})
        assert conditional.names == tuple(names[:-1])
        for n in range(3):
            dense = Dense(net, row(evidence, n), row(do, n))
            index = np.concatenate([dense.where[name] for name in names])
            scale = 1 + np.abs(dense.prior_cov).max()
            np.testing.assert_allclose(joint.mean[n], dense.mean[index], rtol=1e-9, atol=1e-9 * scale)
            np.testing.assert_allclose(joint.cov[n], dense.cov[np.ix_(index, index)], rtol=1e-9, atol=1e-9 * scale)
            mean, cov, _ = conditioned(dense.mean, dense.cov, dense.where[names[-1]], value[n].reshape(-1))
            index = index[: -net[names[-1]].size]
            np.testing.assert_allclose(conditional.mean[n], mean[index], rtol=1e-10, atol=1e-10 * scale)
            np.testing.assert_allclose(conditional.cov[n], cov[np.ix_(index, index)], rtol=1e-10, atol=1e-10 * scale)

    def test_a_joint_is_one_gaussian_a_sample(self, chain):
        post = chain.query(["y", "x", "a"], {"y": [[0.0], [1.0]]})
        joint = post.joint(["x", "a"])
        assert repr(joint) == "Joint(['x', 'a'], 2 samples, 2 entries)"
        assert joint.mean.shape == (2, 2)
        assert joint.cov.shape == (2, 2, 2)
        assert joint.cov.strides[0] == 0, "samples of one pattern share it"
        np.testing.assert_allclose(joint[1].mean, [post.mean["x"][1, 0], post.mean["a"][1, 0]])
        np.testing.assert_allclose(joint.entropy(), 0.5 * np.log(np.linalg.det(2 * np.pi * np.e * joint.cov)))
        np.testing.assert_allclose(joint.marginal("a").cov[:, 0, 0], post.var["a"][:, 0])
        np.testing.assert_array_equal(joint.marginal(["a", "x"]).mean, joint.mean[:, ::-1])
        assert post.joint("x").names == ("x",)
        weight = chain.query(["a.bias", "x"], {"y": [[0.0], [1.0]]}).joint()
        np.testing.assert_array_equal(weight.cov[:, 0], 0)
        np.testing.assert_array_equal(weight.mean[:, 0], 0.5)

    def test_one_sample_given_many_values(self, chain):
        many = chain.query().conditional("a", {"x": [0.0, 1.0, 2.0]})
        np.testing.assert_allclose(many.mean[:, 0], [0.5, 2.5, 4.5])
        np.testing.assert_allclose(many.cov, np.full((3, 1, 1), 0.5))

    def test_conditionals_refuse(self, chain):
        post = chain.query(None, {"y": [[0.0], [1.0], [2.0]]})
        for values, error, message in [
            ({"y": 0.0}, SingularEvidenceError, "conditioning on 'y': their covariance is singular"),
            ({"x": [[1.0, 2.0]]}, ShapeError, r"value of 'x': got shape \(1, 2\), expected \(3, 1\)"),
            ({"x": [1.0, 2.0]}, ShapeError, r"value of 'x': got shape \(2, 1\), expected \(3, 1\)"),
            ({"x": NAN}, EvidenceError, "value of 'x': expected finite numbers"),
            ({"xx": 1.0}, UnknownNameError, "unknown target 'xx'"),
        ]:
            with pytest.raises(error, match=message):
                post.conditional("a", values)
        with pytest.raises(UnknownNameError, match="unknown vertex of the joint 'q'"):
            post.joint(["x"]).marginal("q")
        with pytest.raises(EvidenceError, match=r"different numbers of rows: \[2, 3\]"):
            chain.query().conditional("a", {"x": [1.0, 2.0], "y": [1.0, 2.0, 3.0]})
        with pytest.raises(InferenceError, match="no covariances"):
            chain.query(None, {"y": 0.0}, engine="pc").joint()

    @given(SEEDS)
    def test_kl_from_the_prior(self, seed):
        net = random_net(seed, noisy=1.0)
        evidence, do = random_evidence(net, seed)
        given_inputs = {n: v for n, v in evidence.items() if net[n].needs_data}
        free = [n for n, v in net.vertices.items() if v.random and n not in evidence and n not in do]
        post = net.query(None, evidence, do)
        for name in free[:3]:
            got = post.kl(name)
            for n in range(3):
                after = Dense(net, row(evidence, n), row(do, n))
                before = Dense(net, row(given_inputs, n), row(do, n))
                i = after.where[name]
                expected = kl(
                    after.mean[i], after.cov[np.ix_(i, i)], before.prior_mean[i], before.prior_cov[np.ix_(i, i)]
                )
                np.testing.assert_allclose(got[n], expected, rtol=1e-10, atol=1e-10)

    def test_kl_where_there_is_no_density(self, chain):
        chain.add("copies", "Concat", ["a", "a"], axis=1)
        chain.add("above", "Neg", ["x"])
        post = chain.query(None, {"y": [[0.0], [1.0]]}, soft={"a": (1.0, 0.2)})
        assert (post.kl("y") == np.inf).all()
        np.testing.assert_allclose(post.kl("copies"), post.kl("a"), rtol=1e-9)
        np.testing.assert_allclose(post.kl("above"), post.kl("x"), rtol=1e-9)
        np.testing.assert_allclose(chain.query(None, {}, {"a": 3.0}).kl("a"), 0)
        np.testing.assert_allclose(chain.query(None, {}).kl("x"), 0, atol=1e-12)
        with pytest.raises(UnknownNameError, match="unknown target 'a'"):
            chain.query("x", {"y": 0.0}).kl("a")

    def test_map(self, chain):
        post = chain.query(None, {"y": [[0.3]]})
        assert post.map is post.mean
        net = tanh_chain((2, 3, 2), prior=1.0)
        evidence = {"y": [[0.8, -0.5], [NAN, 0.2]]}
        live = net.query(["x", "h1"], evidence, engine="pc", prediction="live", tol=1e-9)
        assert live.map is live.mean
        for options in ({}, {"engine": "pc"}, {"operating_point": "equilibrium", "tol": 1e-9}):
            found = net.query(["x", "h1"], evidence, **options).map
            assert set(found) == {"x", "h1"}
            for name in found:
                np.testing.assert_allclose(found[name], live.mean[name], atol=1e-4)
        fixed = chain.query(None, {"y": [[0.3]]}, engine="pc").map
        np.testing.assert_allclose(fixed["x"], post.mean["x"], atol=1e-5)


class TestCounterfactuals:
    def test_by_hand(self, chain):
        """x = 2 and y = 0 in fact; e_a and e_y share the surprise in the ratio of their variances."""
        post = chain.counterfactual({"x": 2.0, "y": 0.0}, {"x": 5.0})
        surprise = 0.0 - (-(2 * 2.0 + 0.5))  # y - E[y | x] = -e_a + e_y
        e_a, e_y = -surprise * 0.5 / 0.75, surprise * 0.25 / 0.75
        np.testing.assert_allclose(post.mean["x"], [[5.0]])
        np.testing.assert_allclose(post.mean["a"], [[2 * 5.0 + 0.5 + e_a]])
        np.testing.assert_allclose(post.mean["y"], [[-(2 * 5.0 + 0.5 + e_a) + e_y]], rtol=1e-14)
        np.testing.assert_allclose(post.var["x"], 0)
        np.testing.assert_allclose(post.var["a"], [[0.5 * 0.25 / 0.75]])
        np.testing.assert_allclose(post.var["y"], 0, atol=1e-15)  # -e_a + e_y was seen
        assert set(post.evidence.do) == {"x"}
        assert not post.evidence.values

    def test_an_action_cuts_what_is_above_it(self, chain):
        post = chain.counterfactual({"y": [[0.0], [1.0]]}, {"a": [[3.0], [4.0]]})
        factual = chain.query(None, {"y": [[0.0], [1.0]]})
        np.testing.assert_allclose(post.mean["x"], factual.mean["x"], rtol=1e-12)
        np.testing.assert_allclose(post.cov("x"), factual.cov("x"), rtol=1e-12)
        np.testing.assert_allclose(post.log_evidence, factual.log_evidence, rtol=1e-12)
        np.testing.assert_array_equal(post.mean["a"], [[3.0], [4.0]])
        assert set(post.messages) == set(chain)

    @given(SEEDS)
    def test_against_dense_abduction_action_prediction(self, seed):
        rng = np.random.default_rng(seed)
        net = random_net(seed)
        evidence, _ = random_evidence(net, seed)
        plated = [n for n, v in net.vertices.items() if v.plated]
        action = {n: rng.normal(size=(3, *net[n].shape)) for n in rng.choice(plated, 2, replace=False)}
        post = net.counterfactual(evidence, action)
        assert post.targets == tuple(plated)
        inputs = {n for n in plated if net[n].needs_data}
        for n in range(3):
            fact = Dense(net, row(evidence, n))
            size = len(fact.mean)
            # Noises of the factual world: e = (I - A) v - offset.
            out = np.eye(size) - fact.a
            noise, spread = out @ fact.mean - fact.offset, out @ fact.cov @ out.T
            # The mutilated system: v' = A' v' + offset' + e', with e' zero where v' is set.
            a, offset, keep = fact.a.copy(), fact.offset.copy(), np.ones(size)
            for name in inputs | set(action):
                where = fact.where[name]
                a[where], keep[where] = 0, 0
                offset[where] = action.get(name, evidence.get(name))[n].reshape(-1)
            total = np.linalg.inv(np.eye(size) - a)
            mean, cov = total @ (offset + keep * noise), total @ (spread * keep * keep[:, None]) @ total.T
            scale = 1 + np.abs(fact.prior_cov).max() + np.abs(cov).max() + np.abs(mean).max()
            for name in plated:
                i = fact.where[name]
                np.testing.assert_allclose(post.mean[name][n].reshape(-1), mean[i], rtol=1e-9, atol=1e-9 * scale)
                np.testing.assert_allclose(post.var[name][n].reshape(-1), np.diag(cov)[i], rtol=1e-9, atol=1e-9 * scale)
            for name in plated[:2]:
                block = cov[np.ix_(fact.where[name], fact.where["out"])]
                np.testing.assert_allclose(post.cov(name, "out")[n], block, rtol=1e-9, atol=1e-9 * scale)

    def test_samples_have_its_moments(self, chain):
        post = chain.counterfactual({"y": 0.0}, {"x": 5.0})
        draws = post.sample(40_000, rng=0)
        both = np.concatenate([draws["a"][:, 0], draws["y"][:, 0]], axis=1)
        np.testing.assert_allclose(both.mean(axis=0), post.joint(["a", "y"]).mean[0], atol=0.05)
        np.testing.assert_allclose(np.cov(both.T), post.joint(["a", "y"]).cov[0], atol=0.1)

    def test_what_was_done_anyway_changes_nothing(self):
        """In a nonlinear net too: with its factual inputs, the counterfactual world is the factual one."""
        net = tanh_chain((2, 4, 3, 2))
        x, y = np.array([[0.4, -1.0], [2.0, 0.3]]), np.array([[0.8, -0.5], [0.1, 0.2]])
        for options in ({}, {"operating_point": "equilibrium"}):
            factual = net.query(None, {"x": x, "y": y}, **options)
            post = net.counterfactual({"x": x, "y": y}, {"x": x}, **options)
            for name in ("a1", "h1", "h2"):
                np.testing.assert_allclose(post.mean[name], factual.mean[name], rtol=1e-9)
                np.testing.assert_allclose(post.cov(name), factual.cov(name), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(post.mean["y"], y, rtol=1e-9)
            np.testing.assert_allclose(post.var["y"], 0, atol=1e-12)

    def test_other_weights_and_other_engines(self, chain):
        chain.set_noise({"a": 1e-12})
        post = chain.counterfactual({"x": 2.0, "y": 0.0}, {"y.a.weight": [[1.0]]}, "y")
        np.testing.assert_allclose(post.mean["y"], [[4.5 + 4.5]], rtol=1e-9)
        live = chain.counterfactual({"x": 2.0, "y": 0.0}, {"x": 5.0}, engine="pc", prediction="live", tol=1e-12)
        exact = chain.counterfactual({"x": 2.0, "y": 0.0}, {"x": 5.0})
        np.testing.assert_allclose(live.mean["y"], exact.mean["y"], rtol=1e-8)

    def test_refusals(self, chain):
        chain.add_likelihood("label", "bernoulli", "y")
        with pytest.raises(InferenceError, match=r"'label' has no counterfactual value.*ask for its logits 'y'"):
            chain.counterfactual({"label": 1}, {"x": 1.0}, ["label"])
        assert chain.counterfactual({"label": 1}, {"x": 1.0}).targets == ("x", "a", "y")
        for arguments, error, message in [
            (({}, {"xx": 1.0}), UnknownNameError, "unknown vertex 'xx': did you mean 'x'"),
            (({}, {"x": NAN}), EvidenceError, "an intervention sets every entry"),
            (({"y": [[0.0]] * 2}, {"x": [1.0, 2.0, 3.0]}), EvidenceError, "different numbers of samples"),
            (({}, {"x": 1.0}, "z"), UnknownNameError, "unknown target 'z'"),
        ]:
            with pytest.raises(error, match=message):
                chain.counterfactual(*arguments)
        with pytest.raises(InferenceError, match="a counterfactual takes hard evidence only"):
            chain.counterfactual({}, {"x": 1.0}, soft={"y": (0.0, 1.0)})
        with pytest.raises(UnknownNameError, match="option of engine 'exact' 'tool': did you mean 'tol'"):
            chain.counterfactual({}, {"x": 1.0}, tool=1)


class TestGraph:
    @pytest.fixture
    def net(self):
        """x -> h -> d (no noise) -> y <- w, with d -> z."""
        net = GaussianBayesNet()
        net.add_input("x", 1, mean=0.0, cov=1.0)
        net.add_linear("h", {"x": [[1.0]]}, cov=1.0)
        net.add("d", "Tanh", ["h"])
        net.add_input("w", 1, mean=0.0, cov=1.0)
        net.add_linear("y", {"d": [[1.0]], "w": [[1.0]]}, bias=[0.0], cov=1.0)
        net.add_linear("z", {"d": [[1.0]]}, cov=1.0)
        return net

    @pytest.mark.parametrize(
        "a, b, given, expected",
        [
            ("x", "y", (), False),
            ("x", "y", ("h",), True),
            ("x", "y", ("d",), True),
            ("y", "z", (), False),
            ("y", "z", "h", True),  # h determines d
            ("h", "z", "d", True),
            ("x", "w", (), True),
            ("x", "w", "y", False),
            (["x", "h"], ["w"], "z", True),
            ("d", "y", "h", True),  # d is known
            ("x", "x", (), False),
            ("y.bias", "y", (), True),
        ],
    )
    def test_d_separation(self, net, a, b, given, expected):
        assert net.d_separated(a, b, given) is expected
        assert net.d_separated(b, a, given) is expected

    def test_data_inputs_are_known_unless_asked_for(self):
        net = GaussianBayesNet()
        net.add_input("x", 1)
        net.add_linear("a", {"x": [[1.0]]}, cov=1.0)
        net.add_linear("b", {"x": [[1.0]]}, cov=1.0)
        assert net.d_separated("a", "b")
        assert not net.d_separated("x", "b")

    def test_random_parameters_are_variables(self):
        net = GaussianBayesNet()
        net.add_input("x", 1)
        net.add_parameter("w", [[1.0]], cov=1.0)
        net.add("a", "MatMul", ["x", "w"], cov=1.0)
        net.add("b", "MatMul", ["x", "w"], cov=1.0)
        assert not net.d_separated("a", "b")
        assert net.d_separated("a", "b", "w")
        assert net.markov_blanket("a") == ("x", "w")
        assert net.markov_blanket("w") == ("x", "a", "b")

    def test_blankets(self, net):
        assert net.markov_blanket("h") == ("x", "w", "y", "z")
        assert net.markov_blanket("w") == ("h", "y")
        assert net.markov_blanket("d") == ("h",)
        assert net.markov_blanket("y") == ("h", "w")
        net.add_likelihood("label", "bernoulli", "z")
        assert net.markov_blanket("label") == ("z",)
        assert net.markov_blanket("z") == ("h", "label")
        with pytest.raises(GraphError, match=r"'y\.bias' is a parameter with a fixed value"):
            net.markov_blanket("y.bias")
        with pytest.raises(UnknownNameError, match="unknown vertex 'hh': did you mean 'h'"):
            net.markov_blanket("hh")
        with pytest.raises(UnknownNameError, match="unknown vertex 'q'"):
            net.d_separated("x", "h", ["q"])

    @given(SEEDS)
    def test_blankets_are_the_pattern_of_the_precision(self, seed):
        net = random_net(seed)
        data = {n: np.zeros(v.shape) for n, v in net.vertices.items() if v.needs_data}
        dense = Dense(net, data)
        names = list(net.latents)
        index = np.concatenate([dense.where[n] for n in names])
        precision = np.linalg.inv(dense.prior_cov[np.ix_(index, index)])
        ends = np.cumsum([0, *(net[n].size for n in names)])
        for i, a in enumerate(names):
            blanket = net.markov_blanket(a)
            assert net.d_separated(a, [n for n in net.latents if n != a and n not in blanket], blanket)
            for j, b in enumerate(names):
                if b != a and b not in blanket:
                    block = precision[ends[i] : ends[i + 1], ends[j] : ends[j + 1]]
                    np.testing.assert_allclose(block, 0, atol=1e-9 * np.abs(precision).max())

    @given(SEEDS)
    def test_separated_means_uncorrelated(self, seed):
        rng = np.random.default_rng(seed)
        net = random_net(seed)
        data = {n: np.zeros(v.shape) for n, v in net.vertices.items() if v.needs_data}
        names = [n for n, v in net.vertices.items() if v.plated and not v.needs_data]
        known = [n for n in names if net[n].random and rng.random() < 0.3]
        dense = Dense(net, data | {n: rng.normal(size=net[n].shape) for n in known})
        scale = 1 + np.abs(dense.prior_cov).max()
        for a in names:
            for b in names:
                if a != b and net.d_separated(a, b, known):
                    np.testing.assert_allclose(dense.cov_of(a, b), 0, atol=1e-9 * scale)


class TestLinearGiven:
    @pytest.fixture
    def net(self):
        net = GaussianBayesNet()
        net.add_input("x", 2)
        net.add("features", "Tanh", ["x"])
        net.add_linear("h", {"features": np.eye(2)}, cov=1.0)
        net.add("gated", "Mul", ["h", "features"])
        net.add_linear("y", {"gated": np.eye(2)}, cov=1.0)
        net.add_likelihood("label", "bernoulli", "y")
        return net

    @pytest.mark.parametrize(
        "given, do, expected",
        [
            ({}, {}, True),
            ({"y": [1.0, 2.0]}, {}, True),
            ({"label": [[1, 0]]}, {}, False),
            ({"label": [[1, 0]], "y": [1.0, 2.0]}, {}, True),
            ({"label": [[1, NAN]], "y": [1.0, NAN]}, {}, False),
        ],
    )
    def test_known_inputs(self, net, given, do, expected):
        evidence = Evidence.read(net, {"x": [1.0, 2.0]} | given, do)
        assert not net.is_linear()
        assert linear_given(evidence) is expected

    def test_latent_inputs_and_cuts(self, net):
        net.set_prior("x", 0.0, 1.0)
        assert not linear_given(Evidence.read(net, {}))
        assert linear_given(Evidence.read(net, {"x": [1.0, 2.0]}))
        assert not linear_given(Evidence.read(net, {"x": [1.0, NAN]}))
        assert linear_given(Evidence.read(net, {}, {"features": [1.0, 2.0]}))

    @given(SEEDS)
    def test_the_linearised_posterior_is_then_the_same_at_every_point(self, seed):
        net = random_net(seed, mode="smooth")
        evidence, do = random_evidence(net, seed, observe=0.7)
        if not linear_given(Evidence.read(net, evidence, do)):
            return
        names = [n for n in net.latents if n not in evidence]
        forward = net.query(names, evidence, do)
        other = net.query(names, evidence, do, operating_point="equilibrium")
        for name in names:
            np.testing.assert_allclose(forward.mean[name], other.mean[name], rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(forward.var[name], other.var[name], rtol=1e-6, atol=1e-6)
