"""EM on random nets of all kinds of linear ops, with missing entries: monotone, and its score is the slope."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gbn.learning.numbers import with_values
from gbn.learning.standard_errors import score
from tests.nets import random_evidence, random_net

SEEDS = st.integers(0, 10**6)


def problem(seed):
    net = random_net(seed, "linear", vertices=9)
    data, _ = random_evidence(net, seed + 1, samples=5, do=0.0)
    return net, data


@settings(max_examples=30)
@given(SEEDS, st.sampled_from([{}, {"ridge": 0.3}, {"fixed_noise": True}, {"px": False}]))
def test_the_objective_never_falls(seed, options):
    net, data = problem(seed)
    result = net.fit(data, max_iter=8, tol=None, callback=lambda number, _: number == 8, **options)
    trace = result.history.column("objective")
    assert result.reason == "stopped by the callback after 8 iterations"
    # Rows that are fitted exactly, to a billionth of their variance, leave fewer digits.
    exactly = any("variance_floor" in note for note in result.diagnostics["not_determined"])
    resolution = 1e-7 if exactly else 1e-9
    assert (np.diff(trace) >= -resolution * (1 + np.abs(trace[:-1]))).all()
    if not options.get("ridge"):
        expected = result.net.query([], data).log_evidence.sum()
        np.testing.assert_allclose(trace.max(), expected, rtol=resolution, atol=resolution)


@settings(max_examples=20)
@given(SEEDS)
def test_the_score_is_the_slope_of_the_log_evidence(seed):
    net, data = problem(seed)
    for name, slope in score(net, data).values.items():
        value = np.array(net[name].value)
        index = tuple(np.random.default_rng(seed).integers(size) for size in value.shape)
        sides = []
        for sign in (1, -1):
            moved = value.copy()
            moved[index] += sign * 1e-5
            sides.append(with_values(net, {name: moved}).query([], data).log_evidence.sum())
        numeric = (sides[0] - sides[1]) / 2e-5
        np.testing.assert_allclose(slope[index], numeric, rtol=1e-6, atol=1e-6 * max(1, np.abs(slope).max()))
