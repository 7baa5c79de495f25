"""Local engines read no further than the Markov blanket: by a recording view, and by perturbing what lies beyond."""

from collections.abc import Mapping, MutableMapping

import numpy as np
import pytest

from gbn.evidence import Evidence
from gbn.inference.fixed_prediction import SCHEDULES, Channel, LossyChannel, Rounds
from gbn.inference.live_prediction import Errors, States
from gbn.inference.live_solvers import Descent
from gbn.linearize import Linearization
from gbn.net import GaussianBayesNet
from tests.nets import random_covariance, random_evidence, random_net, tanh_chain


class Diary:
    """Who read what: vertex being updated -> vertices read."""

    def __init__(self):
        self.current, self.reads = None, {}

    def note(self, *names):
        if self.current is not None:
            self.reads.setdefault(self.current, set()).update(names)

    def during(self, name, act):
        """Run an update of one vertex."""

        def run(*arguments):
            before, self.current = self.current, name
            try:
                return act(*arguments)
            finally:
                self.current = before

        return run


class Watched(MutableMapping):
    """A mapping from vertices whose reading is written down; asking for an absent key is reading too."""

    def __init__(self, inner, diary):
        self.inner, self.diary = inner, diary

    def __getitem__(self, name):
        self.diary.note(name)
        return self.inner[name]

    def __setitem__(self, name, value):
        self.inner[name] = value

    def __delitem__(self, name):
        del self.inner[name]

    def __iter__(self):
        return iter(self.inner)

    def __len__(self):
        return len(self.inner)


class WatchedPoint(Linearization):
    """The accessor, seen through: values, errors and Jacobians note who reads them."""

    def __init__(self, point, diary):
        super().__init__(point.evidence, Watched(point.values, diary), Watched(point.errors, diary), point._makers)
        self.diary = diary

    def map(self, child, position):
        self.diary.note(child, self.net[child].parents[position])
        return super().map(child, position)

    def pull(self, rules, wanted):
        return super().pull({name: self.diary.during(name, rule) for name, rule in rules.items()}, wanted)


def blanket(net, name):
    """The vertex, its parents, its children and their parents."""
    children = [child for child, vertex in net.vertices.items() if name in vertex.parents]
    return {name, *net[name].parents, *children, *(p for child in children for p in net[child].parents)}


def check_reads(net, diary):
    assert diary.reads
    for name, read in diary.reads.items():
        beyond = read - blanket(net, name)
        assert not beyond, f"the update of {name!r} read {sorted(beyond)}"


def awkward():
    """Skips, deterministic vertices between latents, a partly observed middle, a label, products of vertices."""
    rng = np.random.default_rng(4)
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add_linear("a", {"x": rng.normal(size=(3, 2))}, cov=random_covariance(rng, 3))
    net.add("s", "Tanh", ["a"])
    net.add_linear("m", {"s": rng.normal(size=(3, 3)), "x": rng.normal(size=(3, 2))}, cov=np.eye(3) + 0.4)
    net.add("p", "Mul", ["m", "s"])
    net.add_linear("d", {"p": rng.normal(size=(3, 3))}, cov=0.3)
    net.add_linear("z", {"d": rng.normal(size=(3, 3)), "a": rng.normal(size=(3, 3))})
    net.add_likelihood("t", "categorical", "z")
    net.add_linear("y", {"d": rng.normal(size=(2, 3))}, cov=0.5)
    nan = np.nan
    evidence = {
        "y": rng.normal(size=(2, 2)),
        "m": np.array([[0.3, nan, nan], [nan] * 3]),
        "t": np.array([[1.0, 0, 0], [0, 0, 1.0]]),
    }
    return Evidence.read(net, evidence)


def chain():
    net = tanh_chain((2, 3, 3, 3, 2), prior=1.0)
    return Evidence.read(net, {"y": np.random.default_rng(0).normal(size=(2, 2))})


def random(seed):
    net = random_net(seed, "smooth", vertices=10)
    return Evidence.read(net, *random_evidence(net, seed + 1, samples=2))


CASES = {"awkward": awkward, "chain": chain, **{f"random {seed}": lambda seed=seed: random(seed) for seed in (3, 5, 8)}}
CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def rounds_of(point, schedule, kind=Rounds, wanted=None):
    rng = np.random.default_rng(0)
    channel = LossyChannel(0.2, 2, rng) if SCHEDULES[schedule].lossy else Channel()
    return kind(point, SCHEDULES[schedule], 0.5, channel, rng, wanted)


def watch_rounds(evidence, schedule, kind=Rounds):
    """Some rounds of fixed prediction, every mapping by vertex replaced by a watched one."""
    diary = Diary()
    rounds = rounds_of(WatchedPoint(Linearization.forward(evidence), diary), schedule, kind, evidence.net.vertices)
    channel = rounds.channel
    rounds.state, rounds.clamped = Watched(rounds.state, diary), Watched(rounds.clamped, diary)
    channel.spoken = Watched(channel.spoken, diary)
    update = rounds.update
    rounds.update = lambda name: diary.during(name, update)(name)
    if SCHEDULES[schedule].lossy:
        heard_by = channel.heard_by
        channel.heard_by = lambda name: Watched(heard_by(name), diary)
    for number in range(4):
        rounds.step(number)
    assert set(diary.reads) == set(rounds.visited)
    return diary


@CASE
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_fixed_prediction_reads_its_markov_blanket(case, schedule):
    evidence = case()
    check_reads(evidence.net, watch_rounds(evidence, schedule))


class FarListener(Rounds):
    """A mutant: every vertex also hears the loudest message anywhere."""

    def _pulled(self, name, heard):
        pulled = super()._pulled(name, heard)
        loudest = max(float(np.abs(message).max()) for message in self.channel.spoken.values())
        return None if pulled is None else pulled + 1e-9 * loudest


class FarSeer(Rounds):
    """A mutant: latents peep at the error of the output."""

    def _pulled(self, name, heard):
        pulled = super()._pulled(name, heard)
        return None if pulled is None else pulled + 0.0 * self.point.errors["y"].sum()


@pytest.mark.parametrize("mutant", [FarListener, FarSeer])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_view_catches_rules_that_read_further(mutant, schedule):
    evidence = chain()
    diary = watch_rounds(evidence, schedule, mutant)
    with pytest.raises(AssertionError, match=r"the update of '.+' read \["):
        check_reads(evidence.net, diary)


# Live prediction: rounds on the latents.


def watch_live(evidence, kind):
    diary = Diary()

    class Seen(kind):
        def at(self, x):
            return WatchedPoint(super().at(x), diary)

    descent = Descent(Seen(evidence), 1e-9, np.inf, 0.05)
    for number in range(3):
        descent.step(number)
    return diary


@CASE
def test_live_gradient_rounds_read_their_markov_blanket(case):
    evidence = case()
    check_reads(evidence.net, watch_live(evidence, States))


class FarState(States):
    """A mutant: the rule of a latent weighs its error by that of the output."""

    def latent(self, point, name, x, pulled):
        message, gradient = super().latent(point, name, x, pulled)
        return message, gradient * (1 + 1e-9 * np.abs(point.errors["y"]).max())


def test_the_view_catches_live_rules_that_read_further():
    evidence = chain()
    with pytest.raises(AssertionError, match="read"):
        check_reads(evidence.net, watch_live(evidence, FarState))


# The same from outside, with no view into the engine: what lies beyond the blanket may change, the update may not.


def terms(net, evidence):
    """The scopes of the terms of F: each vertex with noise, or label, with the latents that its mean depends on."""

    def sources(name):
        vertex = net[name]
        if vertex.random or name in evidence.do or not vertex.parents:
            return {name}
        return {source for parent in vertex.parents for source in sources(parent)}

    noisy = [n for n, v in net.vertices.items() if v.random or v.kind == "likelihood"]
    return [{n, *(source for p in net[n].parents for source in sources(p))} for n in noisy if n not in evidence.do]


def influences(problem):
    """Latent -> latents whose gradient changes when it does."""
    rng = np.random.default_rng(0)
    x = problem.start() + rng.normal(size=problem.start().shape)
    before, found = problem.split(problem.energy(x)[1]), {}
    for name in problem.names:
        moved = problem.split(x.copy())
        moved[name] = moved[name] + rng.normal(size=moved[name].shape)
        after = problem.split(problem.energy(problem.join(moved, x))[1])
        found[name] = {other for other in problem.names if not np.array_equal(before[other], after[other])}
    return found


def check_influences(problem):
    scopes = terms(problem.net, problem.evidence)
    for name, moved in influences(problem).items():
        near = {name}.union(*(scope for scope in scopes if name in scope))
        assert moved <= near, f"{name!r} moves {sorted(moved - near)} directly"


@CASE
def test_a_live_round_does_not_feel_what_lies_beyond(case):
    check_influences(States(case()))


def test_rounds_on_whitened_errors_do_feel_it():
    """Error-based predictive coding is not local in one round, and the check says so."""
    with pytest.raises(AssertionError, match=r"moves .* directly"):
        check_influences(Errors(chain()))


@CASE
def test_an_update_of_fixed_prediction_hears_its_children_alone(case):
    evidence = case()
    net, rng = evidence.net, np.random.default_rng(1)
    point = Linearization.forward(evidence)
    for name in rounds_of(point, "forward").visited:
        children = {child for child, vertex in net.vertices.items() if name in vertex.parents}
        outcomes = []
        for far in (0.0, 1.0):
            rounds = rounds_of(point, "sweep")
            for number in range(2):
                rounds.step(number)
            spoken: Mapping[str, np.ndarray] = rounds.channel.spoken
            for other in set(spoken) - children - {name}:
                spoken[other] = spoken[other] + far * rng.normal(size=spoken[other].shape)
            rounds.update(name)
            outcomes.append(spoken.get(name))
        assert (outcomes[0] is None) == (outcomes[1] is None)
        if outcomes[0] is not None:
            np.testing.assert_array_equal(*outcomes)
