"""Learning in lockstep: against gradient descent and torch, with chained nets, and below the period a net needs."""

import signal
from itertools import count, islice, pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import gbn
from gbn.errors import ArgumentTypeError, EvidenceError, GraphError, InferenceError, LearningError, ShapeError
from gbn.learning.stream import Stream, shuffled
from gbn.surgery import join
from tests.nets import tanh_chain


def classifier(*widths, seed=0, last="label"):
    """x -> a1 -> h1 -> ... -> logits -> label."""
    rng = np.random.default_rng(seed)
    net = gbn.GaussianBayesNet()
    before = net.add_input("x", widths[0])
    for k, (inner, outer) in enumerate(pairwise(widths), 1):
        weight = {before: rng.normal(size=(outer, inner)) / np.sqrt(inner)}
        top = k == len(widths) - 1
        before = net.add_linear(f"a{k}", weight, bias=np.zeros(outer), cov=None if top else 0.05)
        before = before if top else net.add(f"h{k}", "Tanh", [before])
    net.add_likelihood(last, "categorical", before)
    return net


def toy(rows=40, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4))
    return {"x": x, "label": (x @ rng.normal(size=(4, 3))).argmax(1)}


def samples(data, rows):
    total = len(data["x"])
    return [{n: v[k : k + rows] for n, v in data.items()} for k in range(0, total, rows)]


def same(a, b, **tolerance):
    for name in a.parameters:
        np.testing.assert_allclose(a[name].value, b[name].value, **tolerance)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_where_weights_wait_for_the_signal_it_is_gradient_descent(optimizer):
    """Period and settle at the delay: each sample makes one step, along torch's gradient."""
    net, data = classifier(4, 6, 5, 3), toy()
    period = Stream(net).delays({n: v[:2] for n, v in data.items()}).period
    # Six edges to the label, through two hidden layers, and six down.
    assert period == 12
    stream = Stream(net, period=period, settle=period, optimizer=optimizer, learning_rate=0.05)
    result = stream.run(samples(data, 5))
    stream.tick(samples(data, 5)[0])

    weights = {n: torch.tensor(net[n].value, requires_grad=True) for n in net.parameters}
    maker = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    optimiser = maker(weights.values(), lr=0.05)
    for sample in samples(data, 5):
        h = torch.tensor(sample["x"])
        for k in (1, 2, 3):
            h = h @ weights[f"a{k}.{'x' if k == 1 else f'h{k - 1}'}.weight"].T + weights[f"a{k}.bias"]
            h = torch.tanh(h) if k < 3 else h
        optimiser.zero_grad()
        functional.cross_entropy(h, torch.tensor(sample["label"])).backward()
        optimiser.step()
    for name, value in weights.items():
        np.testing.assert_allclose(stream.net[name].value, value.detach(), rtol=1e-9, atol=1e-11)
    assert result.reason == "the source ended after 8 samples"
    assert result.diagnostics["ticks"] == 8 * period
    assert not np.allclose(result.net["a1.bias"].value, 0)
    assert not net["a1.bias"].value.any()


def test_alignment_is_that_of_the_sample_that_stood():
    """Held for the delay, the gradient is exact at the last tick, and is not before."""
    net, data = classifier(4, 6, 3), toy()
    (first, second) = samples(data, 20)
    stream = Stream(net, optimizer="sgd", learning_rate=0.0, align=1)
    period = stream.delays(first).period
    found = [stream.tick(first).get("alignment") for _ in range(period + 1)]
    assert found[0] is None
    np.testing.assert_allclose(found[-1], 1.0, rtol=1e-12)
    assert max(found[1:-1]) < 0.999
    # The exact one, by hand.
    exact = gbn.inference.gradient(net, first)
    heard = stream._heard
    flat = [
        np.concatenate([g[n].ravel() for n in net.parameters]) for g in (exact, {n: s for n, (s, _) in heard.items()})
    ]
    np.testing.assert_allclose(flat[0] / 20, flat[1], rtol=1e-10, atol=1e-14)
    # The tick that shows another sample still reads the one before.
    np.testing.assert_allclose(stream.tick(second)["alignment"], 1.0, rtol=1e-12)
    assert stream.tick()["alignment"] < 0.999


def test_every_weight_moves_at_every_tick():
    net, data = classifier(4, 6, 3), toy()
    stream = Stream(net, optimizer="sgd", learning_rate=0.1)
    for sample in islice(shuffled(data, 8), 20):
        before = stream.net
        stream.tick(sample)
    for name in net.parameters:
        assert not np.array_equal(before[name].value, stream.net[name].value), name


def test_frozen_weights_rest():
    net = classifier(4, 6, 3)
    stream = Stream(net, period=8, freeze=["a1"], learning_rate=0.01)
    stream.run(shuffled(toy(), 8), ticks=100)
    for name in net.parameters:
        assert np.array_equal(net[name].value, stream.net[name].value) == name.startswith("a1")


def test_labels_may_follow_their_inputs():
    """With the label as late as the prediction that it is compared with, the error is never of two samples."""
    net, data = classifier(4, 6, 3), toy()
    late = Stream(net, period=1, lag=3, optimizer="sgd", learning_rate=0.0)
    forward = net.forward({"x": data["x"]})["a2"]
    rows = [{n: v[k : k + 1] for n, v in data.items()} for k in range(20)]
    for k, sample in enumerate(rows):
        late.tick(sample)
        if k >= 5:
            # The label heard the logits of the tick before, those of four samples ago.
            logits = forward[k - 4]
            expected = np.eye(3)[data["label"][k - 4]] - np.exp(logits) / np.exp(logits).sum()
            np.testing.assert_allclose(late.state.message("label")[0], expected, rtol=1e-12)
    assert Stream(net, lag=9).delays(rows[0]).message["label"] == 10


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order] / 16, y[order]
    return {"x": x[:1347], "label": y[:1347]}, {"x": x[1347:], "label": y[1347:]}


def accuracy(net, data, logits="a2", label="label"):
    return (net.forward({"x": data["x"]})[logits].argmax(1) == data[label]).mean()


@pytest.mark.slow
def test_digits_are_learned_as_well_as_in_batches(digits):
    """Four edges up to the label and four down; samples stand for twice as long, and weights move at every tick."""
    train, test = digits
    net = classifier(64, 32, 10)
    batch = net.fit(train, method="local", epochs=20, optimizer="adam", learning_rate=3e-3)
    stream = Stream(net, period=16, lag=3, optimizer="adam", learning_rate=3e-3)
    assert stream.delays({n: v[:2] for n, v in train.items()}).period == 8
    result = stream.run(shuffled(train, 64), ticks=9600, every=100)
    assert accuracy(result.net, test) > accuracy(batch.net, test) - 0.02
    assert result.history.column("accuracy")[-1] > 0.95


@pytest.mark.slow
def test_where_weights_wait_eight_ticks_are_enough(digits):
    train, test = digits
    net = classifier(64, 32, 10)
    batch = net.fit(train, method="local", epochs=20, optimizer="adam", learning_rate=3e-3)
    stream = Stream(net, period=8, settle=8, optimizer="adam", learning_rate=1e-2)
    result = stream.run(shuffled(train, 64), ticks=4800, every=100)
    assert accuracy(result.net, test) > accuracy(batch.net, test) - 0.02


def two_nets(seed=1):
    """Digits, and from what the first makes of them whether they are even."""
    first, second = classifier(64, 32, 10), classifier(10, 16, 2, seed=seed)
    return first, second


@pytest.mark.slow
@pytest.mark.parametrize("own_label", [True, False])
def test_two_chained_nets_learn(digits, own_label):
    train, test = digits
    first, second = two_nets()
    options = {"period": 14, "optimizer": "adam", "learning_rate": 3e-3}
    chain = Stream(first, **options).chain(Stream(second, **options), {"a2": "x"}, names=("digit", "parity"))
    data = {"digit.x": train["x"], "parity.label": train["label"] % 2}
    data |= {"digit.label": train["label"]} if own_label else {}
    result = chain.run(shuffled(data, 64), ticks=5600 if own_label else 9800, every=100)
    reader, judge = result.diagnostics["nets"]
    logits = reader.forward({"x": test["x"]})["a2"]
    parity = judge.forward({"x": logits})["a2"].argmax(1)
    assert (parity == test["label"] % 2).mean() > 0.9
    assert (accuracy(reader, test) > 0.9) == own_label
    whole = result.net.forward({"digit.x": test["x"]})["parity.a2"].argmax(1)
    np.testing.assert_array_equal(whole, parity)


@pytest.mark.parametrize("feedback", [True, False])
def test_a_chain_hears_what_backprop_through_both_gives(feedback):
    """Against torch: both labels, through the shared vertex, or with the way back cut."""
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(a, 5), nn.Tanh(), nn.Linear(5, b)).double() for a, b in ((4, 3), (3, 2))]
    x = torch.randn(6, 4, dtype=torch.float64)
    y, z = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 1, 0, 0, 1])
    nets = [
        gbn.convert(m, torch.zeros(2, a).double(), likelihood="categorical")
        for m, a in zip(models, (4, 3), strict=True)
    ]
    streams = [Stream(net, period=20, settle=20, optimizer="sgd", learning_rate=0.5, scale="sum") for net in nets]
    chain = streams[0].chain(streams[1], {"2": "input"}, names=("a", "b"), feedback=feedback)
    sample = {"a.input": x.numpy(), "a.2.label": y.numpy(), "b.2.label": z.numpy()}
    # Up through both nets to the second label are 3 + 4 edges; back to the first weights 7, to those of the second 4.
    assert chain.delays(sample).period == (14 if feedback else 11)
    for _ in range(21):
        chain.tick(sample if chain.time == 0 else None)
    logits = models[0](x)
    passed = logits if feedback else logits.detach()
    loss = functional.cross_entropy(logits, y, reduction="sum")
    (loss + functional.cross_entropy(models[1](passed), z, reduction="sum")).backward()
    for net, model in zip(chain.nets, models, strict=True):
        for name, parameter in model.named_parameters():
            moved = parameter.detach() - 0.5 * parameter.grad
            np.testing.assert_allclose(net[name].value, moved, rtol=1e-9, atol=1e-11)


def test_chains_of_chains():
    nets = [tanh_chain((2, 3, 2), seed=k) for k in range(3)]
    streams = [Stream(net, learning_rate=0.01 * (k + 1)) for k, net in enumerate(nets)]
    two = streams[0].chain(streams[1], {"y": "x"}, names=("a", "b"), feedback=False)
    three = two.chain(streams[2], {"b.y": "x"}, names=("ab", "c"))
    assert [net.parameters for net in three.nets] == [net.parameters for net in nets]
    x = np.random.default_rng(0).normal(size=(4, 2))
    expected = x
    for net in nets:
        expected = net.forward({"x": expected})["y"]
    np.testing.assert_allclose(three.net.forward({"ab.a.x": x})["c.y"], expected, rtol=1e-12)
    three.run([{"ab.a.x": x, "c.y": x}] * 40)
    moved = [
        any(not np.array_equal(a[n].value, b[n].value) for n in a.parameters)
        for a, b in zip(three.nets, nets, strict=True)
    ]
    assert moved == [False, True, True]


def test_joining_what_does_not_fit_says_all_that_is_wrong():
    a, b = tanh_chain((2, 3, 2)), tanh_chain((3, 3, 2))
    with pytest.raises(GraphError, match=r"'y' has the shape \(2,\), but 'x' has \(3,\); both have 'a1'"):
        join(a, b, {"y": "x"})
    with pytest.raises(GraphError, match=r"'q' is no vertex of the first .*; 'a1' is no input of the second"):
        join(a, b, {"q": "x", "y": "a1"}, ("one", "two"))
    with pytest.raises(GraphError, match="nothing is shared"):
        join(a, b, {}, ("one", "two"))
    with pytest.raises(LearningError, match=r"one environment; they differ in period \(1 and 2\), align \(0 and 5\)"):
        Stream(a).chain(Stream(b, period=2, align=5), {"y": "x"})


def test_shared_noises_and_priors_survive_joining():
    first, second = tanh_chain((2, 3, 2), prior=1.0), tanh_chain((2, 3, 2), prior=4.0, hidden=0.7)
    first.add_noise("own", 0.2, (3,))
    first.set_noise({"a1": "own"})
    both = join(first, second, {"y": "x"}, ("p", "q"))
    assert both.net.noise("p.x").value == 1.0
    assert both.net["p.a1"].noise == "p.own"
    assert both.net.noise("q.a1").value == 0.7
    assert "q.x" not in both.net
    assert both.net["q.a1"].parents[:1] == ("p.y",)
    assert both.net.outputs == ("q.y",)


def test_a_run_goes_on_where_it_stopped():
    net, data = classifier(4, 6, 3), toy()
    whole, parts = (Stream(net, period=3, learning_rate=0.02) for _ in range(2))
    whole.run(samples(data, 5))
    parts.run(samples(data, 5)[:3])
    result = parts.run(samples(data, 5)[3:])
    same(whole.net, parts.net, rtol=0)
    assert result.history[0] == {"round": 0.0, "tick": 9.0}
    assert list(result.history.to_frame().columns) == ["tick", "surprise", "accuracy"]
    assert result.history[-1]["tick"] == 24


def test_an_endless_source_is_read_one_by_one():
    read = []

    def endless():
        for k in count():
            read.append(k)
            yield {n: v[k % 40 : k % 40 + 1] for n, v in toy().items()}

    stream = Stream(classifier(4, 6, 3), period=4)
    result = stream.run(endless(), ticks=30)
    assert (stream.time, len(read), result.reason, result.converged) == (30, 8, "made 30 ticks", True)
    result = stream.run(endless(), callback=lambda number, figures: figures["tick"] >= 50)
    assert result.reason == "stopped by the callback after 5 rounds"
    assert not result.converged
    assert stream.time == 50


@pytest.mark.filterwarnings("ignore:stream")
def test_an_interrupt_keeps_what_was_learned():
    stream = Stream(classifier(4, 6, 3), period=4, learning_rate=0.01)

    def source():
        for k, sample in enumerate(shuffled(toy(), 4)):
            if k == 10:
                signal.raise_signal(signal.SIGINT)
            yield sample

    result = stream.run(source())
    assert result.reason == "interrupted after 10 rounds"
    same(result.net, stream.net, rtol=0)
    assert not np.array_equal(result.net["a1.bias"].value, np.zeros(6))


@pytest.mark.filterwarnings("ignore:stream")
def test_what_runs_away_is_stopped():
    stream = Stream(tanh_chain((2, 3, 2)), period=8, optimizer="sgd", learning_rate=1e200)
    rng = np.random.default_rng(0)
    result = stream.run({"x": rng.normal(size=(3, 2)), "y": rng.normal(size=(3, 2))} for _ in range(50))
    assert not result.converged
    assert "lower learning_rate" in result.reason
    assert len(result.history) < 50


def test_accuracy_counts_the_labels_there_are():
    net = classifier(4, 6, 3)
    stream = Stream(net, optimizer="sgd", learning_rate=0.0)
    assert np.isnan(stream.accuracy())
    x = toy()["x"][:4]
    found = net.forward({"x": x})["a2"].argmax(1)
    labels = np.array([found[0], (found[1] + 1) % 3, found[2], np.nan])
    for _ in range(5):
        stream.tick({"x": x, "label": labels})
    assert stream.accuracy() == pytest.approx(2 / 3)


def test_float32_stays():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    net = gbn.convert(model, torch.zeros(2, 4), likelihood="categorical")
    stream = Stream(net, period=2, learning_rate=0.01)
    stream.run([{"input": np.ones((2, 4)), "2.label": [0, 1]}] * 6)
    assert {stream.state.activity(n).dtype for n in net.vertices if n != "2.label"} == {np.dtype("float32")}
    assert {stream.state.message(n).dtype for n in net.vertices} == {np.dtype("float32")}


@pytest.mark.parametrize(
    "options, error, message",
    [
        (
            {"period": 0, "settle": -1},
            LearningError,
            "period: got 0, expected a number of ticks, 1 or more; settle: got -1",
        ),
        ({"period": 2, "settle": 3}, LearningError, "settle: got 3, more than the 2 ticks of a period"),
        ({"prediction": "bold"}, LearningError, "prediction: got 'bold', expected 'fixed' or 'live'"),
        ({"step_size": 1.5}, LearningError, "step_size: got 1.5"),
        ({"scale": "most"}, LearningError, "scale: got 'most'"),
        ({"freeze": ["a1", "a2"]}, LearningError, "nothing is left to be learned"),
        ({"drop": 1.0}, InferenceError, "drop: got 1.0, expected a probability below 1"),
        ({"optimizer": "sdg"}, gbn.UnknownNameError, "unknown optimizer 'sdg'"),
        ({"lag": -1}, LearningError, "lag: got -1"),
        ({"period": "long"}, ArgumentTypeError, "period"),
    ],
)
def test_options_that_cannot_be_used_are_named(options, error, message):
    with pytest.raises(error, match=message):
        Stream(classifier(4, 6, 3), **options)


def test_samples_that_cannot_be_used_are_named():
    stream = Stream(classifier(4, 6, 3))
    with pytest.raises(LearningError, match="nothing is shown yet"):
        stream.tick()
    stream.tick({"x": np.zeros((2, 4)), "label": [0, 1]})
    with pytest.raises(EvidenceError, match="got 3 rows, expected 2"):
        stream.tick({"x": np.zeros((3, 4)), "label": [0, 1, 2]})
    with pytest.raises(gbn.UnknownNameError, match="unknown vertex 'lable'"):
        stream.tick({"x": np.zeros((2, 4)), "lable": [0, 1]})
    with pytest.raises(ShapeError, match=r"arrays of \[2, 3\] rows"):
        shuffled({"x": np.zeros((2, 4)), "label": [0, 1, 2]})
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("w", np.ones((2, 2)), cov=1.0)
    net.add("y", "MatMul", ["x", "w"], cov=1.0)
    with pytest.raises(LearningError, match="'w' is random"):
        Stream(net)
