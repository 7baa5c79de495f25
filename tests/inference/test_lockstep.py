"""Lockstep: what arrives when, where it settles, and that nothing reads further or sooner than it may."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbn.errors import EvidenceError, InferenceError
from gbn.evidence import Evidence
from gbn.inference.fixed_prediction import LossyChannel
from gbn.inference.lockstep import Lockstep, delays
from gbn.linearize import Linearization
from gbn.net import GaussianBayesNet
from tests.dense import backprop
from tests.inference.test_locality import CASE, Diary, Watched, WatchedPoint, awkward, blanket, chain, check_reads
from tests.nets import random_evidence, random_net, tanh_chain

SEEDS = st.integers(0, 2**32 - 1)


def held(net, evidence, ticks, **options):
    """A net to which the same is shown for some ticks."""
    state = Lockstep(net, evidence.samples, **options)
    for _ in range(ticks):
        state.tick(evidence)
    return state


@settings(max_examples=25)
@given(SEEDS, st.sampled_from(["linear", "smooth"]))
def test_what_is_held_arrives_at_one_sweep_after_the_delays(seed, mode):
    net = random_net(seed, mode)
    values, do = random_evidence(net, seed + 1, samples=2)
    evidence = Evidence.read(net, values, do)
    expected = net.query(None, values, do, engine="pc")
    forward = Linearization.forward(evidence).values
    when = delays(evidence)
    state = Lockstep(net, evidence.samples)
    for tick in range(2 + max([*when.activity.values(), *when.message.values()])):
        state.tick(evidence)
        for name, arrives in when.message.items():
            if tick >= arrives:
                scale = np.abs(expected.messages[name]).max()
                np.testing.assert_allclose(state.message(name), expected.messages[name], rtol=1e-9, atol=1e-12 * scale)
    for name, vertex in net.vertices.items():
        if vertex.plated and name not in evidence.values:
            np.testing.assert_allclose(state.activity(name), forward[name], rtol=1e-12)


@settings(max_examples=10)
@given(SEEDS)
def test_weights_hear_backprops_gradient(seed):
    """Against torch: what a weight hears after its delay is -∂L/∂θ."""
    net = random_net(seed, "smooth")
    values, do = random_evidence(net, seed + 1, samples=2)
    evidence = Evidence.read(net, values, do)
    inputs = {n: v for n, v in values.items() if net[n].needs_data}
    rest = {n: v for n, v in values.items() if n not in inputs}
    expected, _ = backprop(net, rest, do | inputs, 2)
    when = delays(evidence)
    heard = {}
    move = {n: lambda name, value, pulled: heard.update({name: pulled}) or value for n in net.parameters}
    held(net, evidence, when.period + 1, move=move)
    scale = max(np.abs(v).max(initial=0) for v in expected.values()) + 1e-30
    for name in set(when.message) & set(net.parameters):
        np.testing.assert_allclose(heard[name], expected[name], rtol=1e-9, atol=1e-12 * scale)


def test_on_a_chain_the_gradient_comes_down_one_edge_a_tick():
    """x -> a1 -> h1 -> a2 -> h2 -> y: five edges up, and as many down to the first weight."""
    net = tanh_chain((2, 4, 3, 2))
    evidence = Evidence.read(net, {"x": [[0.3, -1.0]], "y": [[2.0, 0.1]]})
    when = delays(evidence)
    assert when.activity == dict.fromkeys(net.parameters, 0) | {"x": 0, "a1": 1, "h1": 2, "a2": 3, "h2": 4, "y": 0}
    arrivals = {"y": 5, "h2": 6, "a2": 7, "h1": 8, "a1": 9, "x": 10, "a1.x.weight": 10, "a2.h1.weight": 8, "y.bias": 6}
    assert arrivals.items() <= when.message.items()
    assert when.period == 10
    full = net.query(None, {"x": [[0.3, -1.0]], "y": [[2.0, 0.1]]}, engine="pc").messages
    state = Lockstep(net, 1)
    for tick in range(12):
        state.tick(evidence)
        for name, arrives in arrivals.items():
            same = np.allclose(state.message(name), full[name], rtol=1e-12, atol=0)
            assert same == (tick >= arrives), f"{name} at tick {tick}"


def test_where_noise_is_small_live_activities_settle_at_the_minimum_of_f():
    for seed, (hidden, eta) in enumerate([(0.05, 1.0), (0.05, 0.5), (0.5, 0.1), (0.5, 0.05)]):
        net = tanh_chain((3, 5, 4, 2), hidden=hidden, seed=seed)
        rng = np.random.default_rng(seed)
        values = {"x": rng.normal(size=(3, 3)), "y": rng.normal(size=(3, 2))}
        expected = net.query(None, values, engine="pc", prediction="live", tol=1e-13, max_rounds=500)
        state = held(net, Evidence.read(net, values), 1200, step_size=eta, live=True)
        for name in ("a1", "h1", "a2", "h2"):
            np.testing.assert_allclose(state.activity(name), expected.mean[name], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(state.message(name), expected.messages[name], rtol=1e-9, atol=1e-9)


def test_partly_observed_vertices_settle_live_and_fixed():
    evidence = awkward()
    values = evidence.values | {"m": np.where(evidence.masks["m"], evidence.values["m"], np.nan)}
    for noise in ({}, {"a": 0.02, "m": 0.02 * (np.eye(3) + 0.4), "d": 0.02, "x": 0.02}):
        net = evidence.net.copy()
        net.set_noise(noise)
        live = bool(noise)
        shown = Evidence.read(net, values)
        limits = {"tol": 1e-13, "prediction": "live"} if live else {}
        expected = net.query(None, values, engine="pc", **limits)
        state = held(net, shown, 2000 if live else 20, live=live, step_size=0.05 if live else 1.0)
        for name in ("x", "a", "m", "d", "z", "s"):
            np.testing.assert_allclose(state.message(name), expected.messages[name], rtol=1e-9, atol=1e-9)
            if live:
                np.testing.assert_allclose(state.activity(name), expected.mean[name], rtol=1e-9, atol=1e-9)


def test_damped_messages_come_late_but_arrive():
    net = tanh_chain((2, 4, 3, 2))
    values = {"x": [[0.3, -1.0]], "y": [[2.0, 0.1]]}
    full = net.query(None, values, engine="pc").messages
    state = held(net, Evidence.read(net, values), 12, step_size=0.5)
    assert not np.allclose(state.message("a1"), full["a1"], rtol=1e-3)
    for _ in range(100):
        state.tick(state.evidence)
    np.testing.assert_allclose(state.message("a1"), full["a1"], rtol=1e-9)


def test_lossy_lines_delay_what_arrives_all_the_same():
    net = tanh_chain((2, 4, 3, 2))
    values = {"x": [[0.3, -1.0]], "y": [[2.0, 0.1]]}
    full = net.query(None, values, engine="pc")
    lines = [LossyChannel(0.3, 3, np.random.default_rng(k)) for k in (1, 2)]
    state = held(net, Evidence.read(net, values), 200, activities=lines[0], messages=lines[1])
    assert all(line.dropped > 50 for line in lines)
    for name in ("a1", "a2", "h1", "x"):
        np.testing.assert_allclose(state.message(name), full.messages[name], rtol=1e-12)
    slow = held(net, Evidence.read(net, values), 6, activities=LossyChannel(0.0, 9, np.random.default_rng(0)))
    assert not np.allclose(slow.activity("h2"), state.activity("h2"), rtol=1e-3)


def test_labels_that_go_fall_silent():
    net = tanh_chain((2, 3, 3, 3))
    net.set_noise({"y": None})
    net.add_likelihood("t", "categorical", "y")
    shown = Evidence.read(net, {"x": [[0.3, -1.0]], "t": [2]})
    alone = Evidence.read(net, {"x": [[0.3, -1.0]]})
    state = held(net, shown, 20)
    assert np.abs(state.message("a1")).max() > 0
    for _ in range(10):
        state.tick(alone)
    assert all(not state.message(name).any() for name in net.vertices if name != "t.none")


def test_unusable_evidence_is_named():
    net = tanh_chain((2, 4, 2))
    state = Lockstep(net, 2)
    with pytest.raises(EvidenceError, match="got 1 rows, expected 2"):
        state.tick(Evidence.read(net, {"x": [[0.0, 1.0]]}))
    with pytest.raises(EvidenceError, match="input 'x' has no prior"):
        state.tick(Evidence.read(net, {"y": np.zeros((2, 2))}))
    with pytest.raises(InferenceError, match="evidence on 'h1', a deterministic vertex"):
        state.tick(Evidence.read(net, {"x": np.zeros((2, 2)), "h1": np.zeros((2, 4))}))
    assert state.time == 0


# Locality, by a recording view, at every tick.


class Dated(Watched):
    """Watched values that know in which tick they were written; reading one of the same tick is an error."""

    def __init__(self, inner, diary, clock):
        super().__init__(inner, diary)
        self.clock, self.written = clock, {}

    def __getitem__(self, name):
        self.check(name)
        return super().__getitem__(name)

    def __setitem__(self, name, value):
        self.written[name] = self.clock()
        super().__setitem__(name, value)

    def check(self, name):
        if self.diary.current is not None:
            assert self.written.get(name, 0) < self.clock(), f"{self.diary.current!r} read {name!r} of the same tick"


class WatchedLockstep(Lockstep):
    """A state whose every mapping by vertex is watched."""

    def __init__(self, net, samples, **options):
        self.diary, self.now = Diary(), 0
        options.setdefault("move", {n: lambda name, value, pulled: value + 0.01 * pulled for n in net.parameters})
        super().__init__(net, samples, **options)
        for line in (self.activities, self.messages):
            line.spoken = Dated(line.spoken, self.diary, lambda: self.now)
            if isinstance(line, LossyChannel):
                heard_by = line.heard_by
                line.heard_by = lambda name, heard_by=heard_by: Watched(heard_by(name), self.diary)
        self.shared = Dated(self.shared, self.diary, lambda: self.now)
        # What a vertex works out of its parents is its own, and is read by it alone.
        self._means = Watched(self._means, self.diary)

    def tick(self, evidence):
        self.now += 1
        super().tick(evidence)

    def view(self, values, errors, maps):
        self._errors = Watched(errors, self.diary)
        point = WatchedPoint(super().view(values, errors, maps), self.diary)
        point._makers = maps
        return point

    def look(self, name):
        self.diary.during(name, super().look)(name)

    def update(self, name):
        self.diary.during(name, super().update)(name)


def watch(evidence, kind=WatchedLockstep, ticks=6, **options):
    state = kind(evidence.net, evidence.samples, **options)
    rng = np.random.default_rng(0)
    for tick in range(ticks):
        # Every tick replaces what is shown.
        shown = {
            n: v + rng.normal(size=v.shape) if n not in evidence.net.labels else v for n, v in evidence.values.items()
        }
        state.tick(Evidence(evidence.net, evidence.samples, shown, evidence.masks, evidence.do))
        assert tick < 2 or state.diary.reads
    assert set(state.diary.reads) >= {n for n, v in evidence.net.vertices.items() if v.kind == "op"}
    return state


@CASE
@pytest.mark.parametrize("options", [{}, {"live": True, "step_size": 0.3}], ids=["fixed", "live"])
def test_every_tick_reads_its_markov_blanket_of_the_tick_before(case, options):
    evidence = case()
    check_reads(evidence.net, watch(evidence, **options).diary)


def test_so_it_does_over_lossy_lines():
    evidence = awkward()
    lines = [LossyChannel(0.2, 2, np.random.default_rng(k)) for k in (1, 2)]
    state = watch(evidence, activities=lines[0], messages=lines[1], ticks=10)
    check_reads(evidence.net, state.diary)


class FarLearner(WatchedLockstep):
    """A mutant: latents peep at the activity of the output."""

    def _message(self, name, pulled):
        message = super()._message(name, pulled)
        return None if message is None else message + 0.0 * self.activities.spoken["y"].sum()


class Hasty(WatchedLockstep):
    """A mutant: every vertex shows its children at once what it has become."""

    def update(self, name):
        super().update(name)
        activity = self._next.get(name, (None, None))[0]
        if activity is not None and name not in self.shared:
            self.activities.speak(name, activity, ())


def test_the_view_catches_rules_that_read_further():
    evidence = chain()
    with pytest.raises(AssertionError, match=r"the update of '.+' read \["):
        check_reads(evidence.net, watch(evidence, FarLearner).diary)


def test_the_view_catches_rules_that_read_the_same_tick():
    class HastyReader(Hasty):
        def _message(self, name, pulled):
            self._seen_by(name)
            return super()._message(name, pulled)

    with pytest.raises(AssertionError, match="of the same tick"):
        watch(chain(), HastyReader)


@CASE
def test_what_lies_beyond_may_change_and_the_update_may_not(case):
    """From outside: another state of all that is not a neighbour leaves the next state of a vertex as it was."""
    evidence = case()
    net, rng = evidence.net, np.random.default_rng(1)
    names = [n for n, v in net.vertices.items() if v.kind != "constant"]
    for name in names:
        found = []
        for far in (0.0, 1.0):
            state = held(net, evidence, 4)
            near = blanket(net, name)
            for lines in (state.activities.spoken, state.messages.spoken):
                for other in lines.keys() - near:
                    lines[other] = lines[other] + far * rng.normal(size=lines[other].shape)
            state.tick(evidence)
            found.append((state.message(name), None if name in net.labels else state.activity(name)))
        np.testing.assert_array_equal(found[0][0], found[1][0])
        if name not in net.labels:
            np.testing.assert_array_equal(found[0][1], found[1][1])


@CASE
def test_the_order_of_updates_within_a_tick_is_of_no_account(case):
    class Backwards(Lockstep):
        def tick(self, evidence):
            names = list(self.net.vertices)
            updated, self.update = self.update, lambda name: None
            original = super().tick
            queue = []
            self.update = lambda name: (
                queue.append(name) or ([updated(n) for n in reversed(names)] if len(queue) == len(names) else None)
            )
            original(evidence)
            del self.update

    evidence = case()
    one, two = Lockstep(evidence.net, evidence.samples), Backwards(evidence.net, evidence.samples)
    for _ in range(6):
        one.tick(evidence)
        two.tick(evidence)
    for name in evidence.net.vertices:
        np.testing.assert_array_equal(one.message(name), two.message(name))


def test_rows_are_environments_of_their_own():
    net = random_net(3, "smooth")
    values, do = random_evidence(net, 4, samples=3)
    both = held(net, Evidence.read(net, values, do), 7)
    for row in range(3):
        index = np.array([row])
        alone = held(net, Evidence.read(net, values, do).rows(index), 7)
        for name, vertex in net.vertices.items():
            if vertex.plated:
                np.testing.assert_allclose(alone.message(name)[0], both.message(name)[row], rtol=1e-12, atol=1e-14)


def test_a_net_rests_where_it_has_no_finite_value():
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add("h", "Log", ["x"])
    net.add_linear("y", {"h": np.ones((1, 2))}, cov=1.0)
    state = Lockstep(net, 1)
    assert np.isfinite(state.activity("h")).all()
    evidence = Evidence.read(net, {"x": [[1.0, 2.0]], "y": [[0.5]]})
    with np.errstate(all="ignore"):
        state.tick(evidence)
        state.tick(evidence)
    np.testing.assert_allclose(state.activity("h"), [[0.0, np.log(2)]])


def test_edges_between_widths():
    """A skip makes the longest way count."""
    net = GaussianBayesNet()
    net.add_input("x", 2)
    before = "x"
    for k, (a, b) in enumerate(pairwise((2, 3, 3)), 1):
        before = net.add_linear(f"a{k}", {before: np.ones((b, a))}, cov=0.1)
    net.add_linear("y", {before: np.ones((1, 3)), "x": np.ones((1, 2))}, cov=1.0)
    when = delays(Evidence.read(net, {"x": [[0.0, 0.0]], "y": [[0.0]]}))
    assert (when.message["y"], when.message["x"], when.period) == (3, 6, 6)
