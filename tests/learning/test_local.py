"""Gradient learning: it is backprop's where prediction is fixed, and every figure has an oracle."""

import copy
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gbn
from gbn import cli
from gbn.errors import LearningError
from gbn.inference import gradient
from gbn.learning.numbers import numbers
from gbn.learning.optimizers import SGD, Adam, AdamW


def mlp(*widths, activation=nn.Tanh):
    torch.manual_seed(0)
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1]).double()


class Convolutions(nn.Module):
    """Two convolutions with pooling and three dense layers, as of the paper, but small."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 2)
        self.c, self.d, self.e = nn.Linear(16, 12), nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.a(x)), 2)
        x = functional.max_pool2d(functional.relu(self.b(x)), 1).flatten(1)
        return self.e(functional.relu(self.d(functional.relu(self.c(x)))))


class Recurrent(nn.Module):
    """The names-RNN: letters in, hidden state beside them, the language out after the last one."""

    def __init__(self, letters, hidden, classes):
        super().__init__()
        self.cell, self.out = nn.RNN(letters, hidden, batch_first=True), nn.Linear(hidden, classes)

    def forward(self, x):
        return self.out(self.cell(x)[0][:, -1])


class LSTM(nn.Module):
    """A char-LSTM: the next letter after every letter, classes on axis 1."""

    def __init__(self, letters, hidden):
        super().__init__()
        self.cell, self.out = nn.LSTM(letters, hidden, batch_first=True), nn.Linear(hidden, letters)

    def forward(self, x):
        return self.out(self.cell(x)[0]).transpose(1, 2)


SYLLABLES = (("ka", "to", "mi"), ("sch", "ber", "g"), ("ov", "ski", "na"))


def names(rows, length, rng):
    """Names made of the syllables of a language: one-hot letters, and the language."""
    language = rng.integers(0, len(SYLLABLES), rows)
    texts = ["".join(rng.choice(SYLLABLES[k], length)) for k in language]
    letters = sorted({c for group in SYLLABLES for s in group for c in s})
    codes = np.array([[letters.index(c) for c in text[:length]] for text in texts])
    return np.eye(len(letters))[codes], codes, language


OPTIMIZERS = {
    "sgd": (SGD(0.05, momentum=0.9), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
    "nesterov": (
        SGD(0.02, momentum=0.8, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.02, momentum=0.8, nesterov=True, weight_decay=0.01),
    ),
    "adam": (Adam(0.005, weight_decay=0.001), lambda p: torch.optim.Adam(p, 0.005, weight_decay=0.001)),
    "adamw": (AdamW(0.005, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.005, weight_decay=0.1)),
}


def by_backprop(model, make, loss, x, y, epochs, size, seed=0):
    """The model trained by torch, on the rows that ``fit`` takes, in its order."""
    model, rng = copy.deepcopy(model), np.random.default_rng(seed)
    optimizer = make(model.parameters())
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            optimizer.zero_grad()
            loss(model(torch.as_tensor(x[rows])), torch.as_tensor(y[rows])).backward()
            optimizer.step()
    return model


def assert_same(net, model, rtol=1e-6):
    for name, parameter in model.named_parameters():
        expected = parameter.detach().numpy()
        assert np.linalg.norm(net[name].value - expected) <= rtol * np.linalg.norm(expected), name


def assert_same_training(
    model, x, y, loss, optimizer="adam", size=8, epochs=40, scale="mean", x_test=None, y_test=None
):
    """Two hundred steps of ``fit`` give the weights and the accuracy that torch gets."""
    ours, theirs = OPTIMIZERS[optimizer]
    likelihood = "categorical" if loss is functional.cross_entropy else "gaussian"
    net = gbn.convert(model, torch.as_tensor(x[:2]), likelihood=likelihood, noise=0.3)
    observed = net.labels[0] if net.labels else net.outputs[0]
    result = net.fit(
        {net.inputs[0]: x, observed: y}, "local", optimizer=ours, batch_size=size, epochs=epochs, scale=scale
    )
    assert result.diagnostics["steps"] == 200
    trained = by_backprop(model, theirs, loss, x, y, epochs, size)
    assert_same(result.net, trained)
    assert not np.allclose(result.net[net.parameters[0]].value, net[net.parameters[0]].value, rtol=1e-3)
    if x_test is not None:
        got = result.net.forward({net.inputs[0]: x_test})[net.outputs[0]].argmax(1)
        expected = trained(torch.as_tensor(x_test)).argmax(1).numpy()
        assert (got == y_test).mean() == (expected == y_test).mean()
    return result


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_mse_equals_backprop(optimizer):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 3))
    assert_same_training(mlp(5, 7, 6, 3), x, y, functional.mse_loss, optimizer, scale=2 / 3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_cross_entropy_equals_backprop(optimizer):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(80, 5))
    y = (x @ rng.normal(size=(5, 4))).argmax(1)
    model = mlp(5, 9, 4, activation=nn.ReLU)
    assert_same_training(model, x[:40], y[:40], functional.cross_entropy, optimizer, x_test=x[40:], y_test=y[40:])


def test_rows_that_do_not_fill_a_batch_equal_backprop():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(35, 5)), rng.normal(size=(35, 3))
    assert_same_training(mlp(5, 7, 3), x, y, functional.mse_loss, "sgd", scale=2 / 3)


def test_a_convolutional_net_equals_backprop():
    torch.manual_seed(0)
    rng = np.random.default_rng(3)
    y = rng.integers(0, 4, 64)
    x = rng.normal(size=(64, 1, 8, 8)) + y[:, None, None, None] * np.linspace(-1, 1, 8)
    model = Convolutions().double()
    assert_same_training(model, x[:40], y[:40], functional.cross_entropy, "sgd", x_test=x[40:], y_test=y[40:])


@pytest.mark.parametrize("hidden", [8, 256])
def test_a_recurrent_net_on_names_equals_backprop(hidden):
    torch.manual_seed(0)
    x, _, language = names(60, 5, np.random.default_rng(4))
    model = Recurrent(x.shape[2], hidden, 3).double()
    result = assert_same_training(
        model, x[:40], language[:40], functional.cross_entropy, "adam", x_test=x[40:], y_test=language[40:]
    )
    assert result.history[-1]["free_energy"] < result.history[0]["free_energy"] - 0.2


def test_a_char_lstm_equals_backprop():
    torch.manual_seed(0)
    x, codes, _ = names(40, 6, np.random.default_rng(5))
    model = LSTM(x.shape[2], 6).double()
    # cross_entropy is the mean over five letters a row.
    assert_same_training(model, x[:, :-1], codes[:, 1:], functional.cross_entropy, "adam", scale=1 / 5)


def test_a_float32_net_stays_float32_and_near_backprop():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 5)).astype(np.float32), rng.normal(size=(40, 3)).astype(np.float32)
    model = mlp(5, 7, 3).float()
    net = gbn.convert(model, torch.as_tensor(x[:2]))
    result = net.fit({net.inputs[0]: x, net.outputs[0]: y}, "local", optimizer=SGD(0.05), scale=2 / 3, epochs=4)
    assert result.net[net.parameters[0]].value.dtype == np.float32
    assert_same(
        result.net, by_backprop(model, lambda p: torch.optim.SGD(p, 0.05), functional.mse_loss, x, y, 4, 32), 1e-4
    )


def linear_layers():
    """One layer as a vertex of op Gemm, as conversion makes it, and one by hand, of op Linear."""
    rng = np.random.default_rng(6)
    gemm = gbn.convert(mlp(4, 3), torch.zeros(2, 4, dtype=torch.float64))
    hand = gbn.GaussianBayesNet()
    hand.add_input("x", 4)
    hand.add_linear("y", {"x": rng.normal(size=(3, 4))}, bias=rng.normal(size=3), cov=0.5)
    return {"Gemm": gemm, "Linear": hand}


@pytest.mark.parametrize("op", ["Gemm", "Linear"])
def test_updates_are_hebbian(op):
    net = linear_layers()[op]
    assert net[net.outputs[0]].op == op
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 3))
    data = {net.inputs[0]: x, net.outputs[0]: y}
    post = net.query(evidence=data, engine="pc")
    weight, bias = (next(p for p in net.parameters if net[p].size == size) for size in (12, 3))
    hebbian = post.messages[net.outputs[0]].T @ x
    np.testing.assert_allclose(-gradient(net, data)[weight], hebbian, rtol=1e-12)
    result = net.fit(data, "local", optimizer=SGD(0.1), scale="sum", batch_size=None, epochs=1)
    np.testing.assert_allclose(result.net[weight].value, net[weight].value + 0.1 * hebbian, rtol=1e-12)
    moved = net[bias].value + 0.1 * post.messages[net.outputs[0]].sum(0)
    np.testing.assert_allclose(result.net[bias].value, moved, rtol=1e-12)


def problem(activation=nn.Tanh, rows=60):
    rng = np.random.default_rng(8)
    x = rng.normal(size=(rows, 4))
    y = np.tanh(x @ rng.normal(size=(4, 3))) @ rng.normal(size=(3, 2)) + 0.1 * rng.normal(size=(rows, 2))
    net = gbn.convert(mlp(4, 6, 5, 2, activation=activation), torch.zeros(2, 4, dtype=torch.float64), noise=0.1)
    return net, {net.inputs[0]: x, net.outputs[0]: y}


def test_parallel_rounds_at_step_one_arrive_after_as_many_as_there_are_latents():
    net, data = problem()
    options = {"optimizer": SGD(0.05), "epochs": 3}
    sweep = net.fit(data, "local", **options).net
    rounds = {k: net.fit(data, "local", schedule="parallel", step_size=1, max_rounds=k, **options).net for k in (1, 2)}
    first, last = net.parameters[0], net.parameters[-1]
    np.testing.assert_allclose(rounds[2][first].value, sweep[first].value, rtol=1e-12)
    np.testing.assert_allclose(rounds[2][last].value, sweep[last].value, rtol=1e-12)
    # After one round the error has not reached the first layer.
    np.testing.assert_array_equal(rounds[1][first].value, net[first].value)


@pytest.mark.parametrize("options", [{"prediction": "live"}, {"incremental": True}], ids=["live", "incremental"])
def test_live_learning_lowers_the_free_energy_and_learns(options):
    net, data = problem()
    result = net.fit(data, "local", learning_rate=0.01, epochs=20, seed=1, **options)
    energy = result.history.column("free_energy")[1:]
    assert energy[-1] < energy[0] - 0.1
    x, y = data[net.inputs[0]], data[net.outputs[0]]
    errors = [((n.forward({net.inputs[0]: x})[net.outputs[0]] - y) ** 2).mean() for n in (net, result.net)]
    assert errors[1] < 0.3 * errors[0]


def test_a_live_step_is_the_gradient_of_the_least_free_energy():
    net, data = problem(rows=5)
    step = 1e-3
    moved = net.fit(data, "local", prediction="live", tol=1e-10, optimizer=SGD(step), scale="sum", epochs=1).net
    rng = np.random.default_rng(0)
    name = net.parameters[0]
    direction = rng.normal(size=net[name].shape)

    def least(t):
        other = net.copy()
        other.set_value(name, net[name].value + t * direction)
        return other.query(evidence=data, engine="pc", prediction="live", tol=1e-12).free_energy.sum()

    expected = (least(1e-4) - least(-1e-4)) / 2e-4
    got = ((net[name].value - moved[name].value) / step * direction).sum()
    assert got == pytest.approx(expected, rel=1e-5)


def test_weights_count_rows():
    net, data = problem(rows=6)
    weights = np.array([1, 2, 0, 1, 3, 1])
    repeated = {name: np.repeat(value, weights, axis=0) for name, value in data.items()}
    for options in ({}, {"schedule": "parallel", "max_rounds": 3}, {"prediction": "live"}, {"incremental": True}):
        given = {"optimizer": SGD(0.05), "batch_size": None, "epochs": 2, **options}
        a = net.fit(data, "local", weights=weights, **given).net
        b = net.fit(repeated, "local", **given).net
        for name in net.parameters:
            np.testing.assert_allclose(a[name].value, b[name].value, rtol=1e-7, atol=1e-10)


def noisy_line(cov, rows=4000):
    net = gbn.GaussianBayesNet()
    net.add_input("x", 3)
    net.add_linear("y", {"x": np.zeros((2, 3))}, bias=np.zeros(2), cov=cov)
    rng = np.random.default_rng(9)
    x, weight = rng.normal(size=(rows, 3)), rng.normal(size=(2, 3))
    return net, {"x": x, "y": x @ weight.T + rng.normal(size=(rows, 2)) * np.sqrt([0.04, 0.3])}, weight


@pytest.mark.parametrize("cov", [1.0, np.ones(2)], ids=["scalar", "diagonal"])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_noise_is_learned_from_errors(cov, missing):
    net, data, weight = noisy_line(cov)
    y = data["y"].copy()
    y[np.random.default_rng(1).random(y.shape) < missing] = np.nan
    result = net.fit({**data, "y": y}, "local", learning_rate=0.02, epochs=15, batch_size=100, learn_noise=True)
    error = y - data["x"] @ result.net["y.x.weight"].value.T - result.net["y.bias"].value
    found = result.net.noise("y").value
    expected = np.nanmean(error**2, axis=0) if found.shape else np.nanmean(error**2)
    np.testing.assert_allclose(found, expected, rtol=0.06)
    np.testing.assert_allclose(result.net["y.x.weight"].value, weight, atol=0.05)
    assert not result.diagnostics["at_floor"]


def test_noise_that_shrinks_stops_at_the_floor():
    net, data, _ = noisy_line(1.0, rows=50)
    data["y"] = data["x"][:, :2]
    result = net.fit(data, "local", learning_rate=0.1, epochs=300, learn_noise=True, variance_floor=1e-3)
    floor = 1e-3 * data["y"].var(0).mean()
    assert result.net.noise("y").value == pytest.approx(floor)
    assert result.diagnostics["at_floor"] == ["y"]


def test_freeze_leaves_parameters_alone():
    net, data = problem()
    frozen = net.parameters[:2]
    result = net.fit(data, "local", freeze=frozen, epochs=1)
    assert all(result.net[name].value is net[name].value for name in frozen)
    assert not np.array_equal(result.net[net.parameters[2]].value, net[net.parameters[2]].value)


def same_numbers(a, b):
    first, second = numbers(a), numbers(b)
    return all(first[kind][name].tobytes() == second[kind][name].tobytes() for kind in first for name in first[kind])


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": SGD(0.05, momentum=0.9)},
        {"optimizer": "adam", "learn_noise": True},
        {"schedule": "asynchronous", "max_rounds": 3},
        {"incremental": True, "max_rounds": 2},
    ],
    ids=["sgd", "adam", "asynchronous", "incremental"],
)
def test_a_fit_resumes_bit_for_bit(tmp_path, options):
    net, data = problem()
    whole = net.fit(data, "local", epochs=5, **options)
    path = tmp_path / "fit.npz"
    net.fit(data, "local", epochs=2, checkpoint=path, **options)
    resumed = net.fit(data, "local", epochs=5, checkpoint=path, **options)
    assert same_numbers(whole.net, resumed.net)
    assert whole.history == resumed.history


def test_validation_chooses_the_best_epoch_and_patience_stops():
    net, data = problem()
    held = {name: value[:30] for name, value in data.items()}
    few = {name: value[30:34] for name, value in data.items()}
    result = net.fit(few, "local", learning_rate=0.05, epochs=200, validation=held, patience=10)
    scores = result.history.column("validation")
    assert result.best_round == int(scores.argmax())
    assert len(scores) == result.best_round + 11
    x, y = held[net.inputs[0]], held[net.outputs[0]]
    gap = result.net.forward({net.inputs[0]: x})[net.outputs[0]] - y
    density = -0.5 * (gap**2).sum(1) - np.log(2 * np.pi)
    assert scores.max() == pytest.approx(density.mean(), rel=1e-9)


def test_an_interrupt_returns_what_was_learned():
    net, data = problem()

    def interrupt(number, figures):
        if number == 2:
            raise KeyboardInterrupt

    result = net.fit(data, "local", epochs=50, callback=interrupt)
    assert result.best_round == 2
    assert same_numbers(result.net, net.fit(data, "local", epochs=2).net)


def test_learning_that_diverges_says_so_and_keeps_the_last_finite_net():
    net, data = problem(activation=nn.ReLU)
    with pytest.warns(gbn.ConvergenceWarning, match="lower learning_rate"):
        result = net.fit(data, "local", optimizer=SGD(1e6), epochs=20)
    assert all(np.isfinite(result.net[name].value).all() for name in net.parameters)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "rmsprop"}, "unknown optimizer"),
        ({"optimizer": "sgd", "momentum": 1.5}, "momentum: got 1.5"),
        ({"optimizer": "sgd", "nesterov": True}, "needs momentum"),
        ({"optimizer": "adam", "momentum": 0.9}, "has no momentum"),
        ({"optimizer": SGD(), "learning_rate": 0.1}, "belong into the optimizer"),
        ({"scale": "none"}, "scale: got 'none'"),
        ({"batch_size": 0, "epochs": -1}, "epochs: got -1.*batch_size: got 0"),
        ({"schedule": "spiral"}, "schedule: got 'spiral'"),
        ({"prediction": "live", "schedule": "sweep"}, "belong to prediction='fixed'"),
        ({"incremental": True, "solver": "lbfgs"}, "solver: incremental"),
        ({"learn_noise": "0"}, "hidden vertices no error"),
        ({"learn_noise": "nothing"}, "unknown noise"),
        ({"freeze": ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]}, "nothing is left"),
    ],
)
def test_options_that_cannot_be_used_are_named(options, message):
    net, data = problem()
    with pytest.raises((LearningError, gbn.InferenceError, gbn.UnknownNameError), match=message):
        net.fit(data, "local", **options)


def test_inputs_alone_teach_nothing():
    net, data = problem()
    with pytest.raises(LearningError, match="nothing but inputs"):
        net.fit({net.inputs[0]: data[net.inputs[0]]}, "local")


def test_the_command_line(tmp_path, capsys):
    net, data = problem()
    net.save(tmp_path / "net.gbn")
    np.savez(tmp_path / "data.npz", **data)
    options = ["optimizer=sgd", "learning_rate=0.05", "momentum=0.9", "epochs=3", "batch_size=16"]
    files = [str(tmp_path / "net.gbn"), "--data", str(tmp_path / "data.npz"), "-o", str(tmp_path / "out.gbn")]
    code = cli.main(["learn", *files, "--method", "local", "--json", "--option", *options])
    report = capsys.readouterr()
    assert code == 0, report.err
    assert json.loads(report.out)["rounds"] == 3
    given = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "epochs": 3, "batch_size": 16}
    assert same_numbers(gbn.load(tmp_path / "out.gbn"), net.fit(data, "local", **given).net)
