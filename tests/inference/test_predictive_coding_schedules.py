"""Fixed prediction in other orders, and over lines that lose and delay messages: the same fixed point."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbn.errors import ConvergenceWarning, InferenceError
from gbn.inference.fixed_prediction import SCHEDULES, Channel, LossyChannel
from tests.dense import LOG_2PI, backprop, covariance
from tests.nets import random_evidence, random_net, tanh_chain

SEEDS = st.integers(0, 2**32 - 1)
Y = {"y": np.array([[2.0, 0.1], [0.3, -1.0]])}
OTHERS = [
    {"schedule": "random"},
    {"schedule": "forward"},
    {"schedule": "forward", "step_size": 0.5},
    {"schedule": "asynchronous"},
    {"schedule": "asynchronous", "drop": 0.5, "delay": 3},
    {"schedule": "asynchronous", "drop": 0.3, "delay": 0, "step_size": 0.6},
]


def split(net, evidence, do):
    inputs = {n: v for n, v in evidence.items() if net[n].needs_data}
    return {n: v for n, v in evidence.items() if n not in inputs}, do | inputs


@settings(max_examples=12)
@given(SEEDS, st.sampled_from(OTHERS))
def test_every_order_ends_at_backprop(seed, options):
    net = random_net(seed, "smooth")
    evidence, do = split(net, *random_evidence(net, seed + 1, samples=2))
    expected, _ = backprop(net, evidence, do, 2)
    scale = max(np.abs(v).max(initial=0) for v in expected.values()) + 1e-30
    rng = {} if options["schedule"] == "forward" else {"rng": seed}
    post = net.query(None, evidence, do, engine="pc", tol=1e-12, **options, **rng)
    assert post.converged
    for name, value in expected.items():
        if name not in evidence:
            np.testing.assert_allclose(post.messages[name], value, rtol=1e-8, atol=1e-9 * scale)


@pytest.mark.parametrize("options", OTHERS)
def test_rounds_messages_and_free_energy_are_reported(options):
    net = tanh_chain((2, 4, 3, 2), prior=1.0)
    rng = {} if options["schedule"] == "forward" else {"rng": 1}
    post = net.query(None, Y, engine="pc", **options, **rng)
    figures = post.diagnostics
    assert figures["rounds"] == len(post.history)
    assert figures["messages"] == post.history[-1]["messages"]
    assert (figures["dropped"] > 0) == (options["schedule"] == "asynchronous")
    sent = np.diff([entry["messages"] for entry in post.history])
    assert (sent <= 14).all()
    assert sent[-1] == 5 if options["schedule"] == "forward" else True
    energy = 0.0
    for name in net.latents:
        lam, q = post.messages[name].reshape(2, -1), covariance(net, name)
        energy += 0.5 * ((lam @ q * lam).sum(1) + np.linalg.slogdet(q)[1] + len(q) * LOG_2PI)
    np.testing.assert_allclose(post.history[-1]["free_energy"], energy.mean(), rtol=1e-6)


def test_forward_order_carries_a_message_one_line_a_round():
    """Six vertices from y to x along a chain: a1 hears after h1 has, and so on."""
    net = tanh_chain((2, 4, 3, 2), prior=1.0)
    full = net.query(None, Y, engine="pc").messages
    for rounds in range(7):
        post = net.query(None, Y, engine="pc", schedule="forward", max_rounds=rounds)
        # h2 hears in round 1, a2 in round 2, h1 in 3, a1 in 4, x in 5.
        for arrival, name in ((2, "a2"), (4, "a1"), (5, "x")):
            expected = full[name] if rounds >= arrival else 0 * full[name]
            np.testing.assert_allclose(post.messages[name], expected, rtol=1e-12)


def test_a_seed_makes_it_reproducible():
    net = random_net(5, "smooth")
    evidence, do = random_evidence(net, 6)
    for schedule in ("random", "asynchronous"):
        runs = [
            net.query(None, evidence, do, engine="pc", schedule=schedule, rng=seed, max_rounds=2).history
            for seed in (3, 3, np.random.default_rng(3))
        ]
        assert runs[0] == runs[1] == runs[2]
    net = tanh_chain((2, 4, 3, 2), prior=1.0)
    histories = [
        net.query(None, Y, engine="pc", schedule="asynchronous", drop=0.5, rng=seed, max_rounds=6).history
        for seed in range(4)
    ]
    assert any(history != histories[0] for history in histories[1:])


def test_nothing_is_heard_over_dead_lines_for_long():
    net = tanh_chain((2, 4, 3, 2), prior=1.0)
    with pytest.warns(ConvergenceWarning, match="lower drop or delay"):
        post = net.query(None, Y, engine="pc", schedule="asynchronous", drop=0.999, rng=0, max_rounds=5, tol=1e-8)
    assert not post.converged
    assert post.history[-1]["gap"] == 1.0


def test_lines_lose_and_delay_as_told():
    channel = LossyChannel(0.25, 3, np.random.default_rng(0))
    waits, heard = [], 0
    for number in range(4000):
        channel.speak("c", np.array([float(number)]), ["p"])
        before = channel.heard_by("p").get("c")
        heard += before is not None and before[0] == number
        channel.tick()
        latest = channel.heard_by("p").get("c")
        if latest is not None:
            waits.append(number - latest[0])
    assert channel.sent == 4000
    assert abs(channel.dropped / 4000 - 0.25) < 0.03
    assert abs(heard / 4000 - 0.75 / 4) < 0.03
    assert min(waits) >= 0
    assert (np.diff([number - wait for number, wait in enumerate(waits)]) >= 0).all()


def test_reliable_lines_are_heard_at_once():
    channel = Channel()
    channel.speak("c", np.ones(1), ["p", "q"])
    assert channel.sent == 2
    assert channel.heard_by("p")["c"] == 1


# The default, one sweep.


def test_a_callback_sees_the_single_sweep():
    net, seen = tanh_chain((2, 4, 3, 2), prior=1.0), []
    post = net.query(None, Y, engine="pc", callback=lambda n, figures: seen.append((n, dict(figures))))
    assert seen == [(1, post.history[0])]
    assert post.converged
    assert post.diagnostics["stopped"] == "one sweep at step 1 arrives"
    stopped = net.query(None, Y, engine="pc", callback=lambda n, figures: True)
    assert not stopped.converged
    np.testing.assert_array_equal(stopped.messages["x"], post.messages["x"])


@pytest.mark.parametrize("limit, rounds", [(0, 0), (1, 1), (7, 1)])
def test_the_single_sweep_keeps_to_its_rounds(limit, rounds):
    net = tanh_chain((2, 4, 3, 2), prior=1.0)
    post = net.query(None, Y, engine="pc", max_rounds=limit)
    assert post.diagnostics["rounds"] == rounds
    expected, _ = backprop(net, Y, {}, 2)
    np.testing.assert_allclose(post.messages["x"], rounds * expected["x"], rtol=1e-10)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"schedule": "forward", "rng": 1}, "rng: schedule 'forward' draws nothing"),
        ({"rng": 1}, "rng: schedule 'sweep' draws nothing"),
        (
            {"schedule": "random", "drop": 0.1},
            "drop and delay belong to schedule='asynchronous'; got schedule='random'",
        ),
        ({"delay": 1}, "belong to schedule='asynchronous'"),
        ({"schedule": "asynchronous", "drop": 1.0}, "drop: got 1.0, expected a probability below 1"),
        ({"schedule": "asynchronous", "drop": -0.1}, "drop: got -0.1"),
        ({"schedule": "asynchronous", "delay": -1}, "delay: got -1, expected a whole number of rounds"),
        ({"solver": "lbfgs"}, "solver: got 'lbfgs', but it belongs to prediction='live'"),
        ({"schedule": "asynchronous", "step_size": 2.0}, "step_size: got 2.0"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(InferenceError, match=message):
        tanh_chain((2, 3, 2), prior=1.0).query(None, {"y": [[1.0, 0.0]]}, engine="pc", **options)


def test_every_schedule_is_tried():
    assert {"sweep", "parallel"} | {options["schedule"] for options in OTHERS} == set(SCHEDULES)
