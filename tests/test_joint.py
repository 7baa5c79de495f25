"""Jeffrey's rule on a joint Gaussian, against mixtures of its conditionals and the divergence that it minimises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gbn
from gbn.joint import Joint, divergence


def spd(rng, size):
    root = rng.normal(size=(size, size))
    return root @ root.T + 0.3 * np.eye(size)


def random_joint(rng, samples=3):
    sizes = {"a": 2, "b": 3, "c": 1}
    n = sum(sizes.values())
    cov = np.stack([spd(rng, n) for _ in range(samples)])
    return Joint(tuple(sizes), tuple((k,) for k in sizes.values()), rng.normal(size=(samples, n)), cov)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_what_is_not_named_is_a_mixture_of_its_conditionals(seed):
    rng = np.random.default_rng(seed)
    joint = random_joint(rng)
    mean, cov = rng.normal(size=(3, 3)), spd(rng, 3)
    found = joint.revise({"b": (mean, cov)})
    assert found.names == joint.names
    np.testing.assert_allclose(found.marginal("b").mean, mean, atol=1e-12)
    np.testing.assert_allclose(found.marginal("b").cov, np.broadcast_to(cov, (3, 3, 3)), atol=1e-9)
    # E[h] over conditionals at the sigma points of N(mean, cov), which have its first two moments.
    root = np.linalg.cholesky(3 * cov)
    for n in range(3):
        points = np.concatenate([mean[n] + root.T, mean[n] - root.T])
        alone = Joint(joint.names, joint.events, joint.mean[n : n + 1], joint.cov[n : n + 1])
        given_b = alone.condition({"b": points})
        expected = given_b.mean.mean(axis=0)
        spread = given_b.cov[0] + np.cov(given_b.mean.T, bias=True)
        rest = found.marginal(["a", "c"])
        np.testing.assert_allclose(rest.mean[n], expected, atol=1e-9)
        np.testing.assert_allclose(rest.cov[n], spread, atol=1e-9 * np.abs(spread).max())


def test_the_nearest_of_all_with_that_marginal():
    rng = np.random.default_rng(1)
    joint = random_joint(rng, samples=1)
    found = joint.revise({"c": (0.7, 0.4)})
    least = divergence(found, joint)
    # With the marginal kept, every other regression on c and every other rest is farther away.
    c, rest = joint.entries("c"), joint.entries(["a", "b"])
    for _ in range(20):
        mean, cov = found.mean.copy(), found.cov.copy()
        mean[0, rest] += 0.1 * rng.normal(size=len(rest))
        step = 0.05 * rng.normal(size=(len(rest), 1))
        cov[0][np.ix_(rest, c)] += step
        cov[0][np.ix_(c, rest)] += step.T
        other = Joint(joint.names, joint.events, mean, cov)
        if np.linalg.eigvalsh(cov[0]).min() > 0:
            assert divergence(other, joint) > least


def test_certain_marginals_are_conditioning_and_known_ones_change_nothing():
    joint = random_joint(np.random.default_rng(2))
    value = np.ones((3, 2))
    sharp, given_a = joint.revise({"a": (value, 1e-12)}), joint.condition({"a": value})
    np.testing.assert_allclose(sharp.marginal(["b", "c"]).mean, given_a.mean, atol=1e-9)
    np.testing.assert_allclose(sharp.marginal(["b", "c"]).cov, given_a.cov, atol=1e-9)
    one = joint.marginal("c")
    shared = Joint(joint.names, joint.events, joint.mean, np.broadcast_to(joint.cov[:1], joint.cov.shape))
    same = shared.revise({"c": (one.mean, one.cov[0])})
    np.testing.assert_allclose(same.mean, shared.mean, atol=1e-12)
    np.testing.assert_allclose(same.cov, shared.cov, atol=1e-12)
    assert same.cov.strides[0] == 0


def test_several_marginals_at_once_and_rows():
    net = gbn.GaussianBayesNet()
    net.add_input("x", 1, mean=0.0, cov=1.0)
    net.add_linear("y", {"x": [[1.0], [2.0]]}, cov=0.5)
    joint = net.query(["x", "y"]).joint()
    found = joint.revise({"y": (np.zeros((4, 2)), [0.1, 0.2])})
    assert found.mean.shape == (4, 3)
    np.testing.assert_allclose(found.cov[3][1:, 1:], np.diag([0.1, 0.2]), atol=1e-12)


def test_faults_are_named():
    joint = random_joint(np.random.default_rng(3))
    with pytest.raises(gbn.UnknownNameError, match="'q'"):
        joint.revise({"q": (0.0, 1.0)})
    with pytest.raises(gbn.ShapeError, match="'b'"):
        joint.revise({"b": (np.zeros(2), 1.0)})
    with pytest.raises(gbn.CovarianceError, match="'c'"):
        joint.revise({"c": (0.0, -1.0)})
    with pytest.raises(gbn.SingularEvidenceError, match="'c'"):
        Joint(("c",), ((1,),), np.zeros((1, 1)), np.zeros((1, 1, 1))).revise({"c": (0.0, 1.0)})
