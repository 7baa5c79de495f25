"""Variational Bayes on random nets with missing entries: the bound is the oracle's, never falls, ends at a maximum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbn.learning.numbers import Frozen
from gbn.learning.precisions import Gamma, Wishart
from gbn.learning.regressions import read_families
from tests.bound import bound
from tests.nets import random_evidence, random_net

SEEDS = st.integers(0, 10**6)
KAPPA, SHAPE, RATE = 0.8, 1.3, 0.6


def problem(seed, vertices=6):
    net = random_net(seed, "linear", vertices=vertices)
    data, _ = random_evidence(net, seed + 1, samples=3, do=0.0)
    return net, data


def noise_priors(net, post):
    out = {}
    for name, noise in post.noises.items():
        size = net.noises[name].size
        if isinstance(noise, Wishart):
            out[name] = Wishart(size - 1 + 2 * SHAPE, 2 * RATE * np.eye(size))
        elif isinstance(noise, Gamma):
            count = len(noise.shape)
            out[name] = Gamma(size, np.full(count, SHAPE), np.full(count, RATE))
    return out


def products(net):
    """Parameters that are multiplied by another one."""
    families = read_families(net, Frozen.read(net, ()))
    return {p for f in families for block in f.blocks()[1:] for p in block}


def fitted(net, data, rounds, **options):
    return net.fit(
        data, "vb", weight_precision=KAPPA, noise_shape=SHAPE, noise_rate=RATE, max_iter=rounds, tol=None,
        freeze=products(net), callback=lambda number, _: number == rounds, **options,
    )  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.booleans(), st.booleans())
def test_the_bound_is_that_of_the_dense_oracle(seed, conjugate, fixed):
    net, data = problem(seed)
    post = fitted(net, data, 3, conjugate=conjugate, fixed_noise=fixed).posterior
    expected = bound(net, data, None, post, KAPPA, noise_priors(net, post))
    np.testing.assert_allclose(post.elbo, expected, rtol=1e-8, atol=1e-7)


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.booleans(), st.sampled_from([{}, {"ard": True}, {"px": False}, {"fixed_noise": True}]))
def test_the_bound_never_falls(seed, conjugate, options):
    net, data = problem(seed, 9)
    result = fitted(net, data, 8, conjugate=conjugate, **options)
    trace = result.history.column("elbo")
    assert result.reason == "stopped by the callback after 8 iterations"
    assert (np.diff(trace) >= -1e-9 * (1 + np.abs(trace[:-1]))).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_end_is_a_maximum(seed):
    """By the oracle: means that are moved, or precisions made surer or less sure, lower the bound."""
    net, data = problem(seed)
    post = fitted(net, data, 300, conjugate=bool(seed % 2)).posterior
    priors = noise_priors(net, post)
    best = bound(net, data, None, post, KAPPA, priors)
    rng = np.random.default_rng(seed)
    for _ in range(2):
        step = 1e-3 * rng.normal(size=len(post.theta))
        for theta in (post.theta + step, post.theta - step):
            assert bound(net, data, None, post, KAPPA, priors, theta=theta) <= best + 1e-8 * (1 + abs(best))
