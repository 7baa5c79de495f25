"""Stepwise EM: on all rows at once it is EM, its E-step is Gaussian conditioning, and it learns in few passes."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import gbn
from gbn import cli
from gbn.errors import LearningError
from gbn.evidence import Evidence
from gbn.learning.numbers import numbers
from gbn.learning.stepwise import Expected


def same_numbers(a, b):
    first, second = numbers(a), numbers(b)
    return all(first[kind][name].tobytes() == second[kind][name].tobytes() for kind in first for name in first[kind])


def two_layers(rng, cov=0.3):
    net = gbn.GaussianBayesNet()
    net.add_input("x", 3)
    net.add_linear("a", {"x": rng.normal(size=(2, 3))}, bias=rng.normal(size=2), cov=0.5)
    net.add_linear("y", {"a": rng.normal(size=(4, 2)), "x": rng.normal(size=(4, 3))}, bias=np.zeros(4), cov=cov)
    return net


@pytest.mark.parametrize("cov", [0.3, np.full(4, 0.3), 0.3 * np.eye(4)], ids=["scalar", "diagonal", "full"])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_all_rows_at_once_are_an_iteration_of_em(cov, missing):
    rng = np.random.default_rng(0)
    net, x = two_layers(rng, cov), rng.normal(size=(40, 3))
    y = net.sample(do={"x": x}, rng=1)["y"] + rng.normal(size=(40, 4))
    y[rng.random(y.shape) < missing] = np.nan
    options = {"batch_size": 40, "step_size": 1.0, "damping": 0.0, "samples": None}
    stepwise = net.fit({"x": x, "y": y}, epochs=4, **options).net
    with pytest.warns(gbn.ConvergenceWarning):
        exact = net.fit({"x": x, "y": y}, max_iter=4, tol=None).net
    for name in net.parameters:
        np.testing.assert_allclose(stepwise[name].value, exact[name].value, rtol=1e-8, atol=1e-9)
    for name in net.noises:
        np.testing.assert_allclose(stepwise.noises[name].value, exact.noises[name].value, rtol=1e-8, atol=1e-10)


def deep(widths=(4, 5, 3, 2), activation=nn.Tanh, seed=0, **options):
    torch.manual_seed(seed)
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), activation())]
    model = nn.Sequential(*layers[:-1]).double()
    return model, gbn.convert(model, torch.zeros(2, widths[0], dtype=torch.float64), **options)


class ByConditioning:
    """The posterior of a net with two hidden layers, linearised in its noises by torch, row by row."""

    def __init__(self, model, x, y, hidden, output, at):
        self.model, self.sizes = model, (5, 3)
        noise = torch.as_tensor(at).requires_grad_()
        a, h, b, k, f = self.run(torch.as_tensor(x), noise)
        self.names = dict(zip(("a", "h", "b", "k"), (a, h, b, k), strict=True))
        slopes = [
            torch.autograd.functional.jacobian(lambda e, i=i: self.run(torch.as_tensor(x), e)[i], noise).numpy()
            for i in range(5)
        ]
        jacobian, prior = slopes[4], hidden * np.eye(8)
        spread = output * np.eye(2) + jacobian @ prior @ jacobian.T
        gain = prior @ jacobian.T @ np.linalg.inv(spread)
        self.mean = gain @ (y - f.detach().numpy() + jacobian @ at)
        cov = prior - gain @ jacobian @ prior
        self.cov = lambda i, j: slopes[i] @ cov @ slopes[j].T

    def run(self, x, noise):
        first, second = noise[:5], noise[5:]
        a = self.model[0](x) + first
        h = self.model[1](a)
        b = self.model[2](h) + second
        k = self.model[3](b)
        return a, h, b, k, self.model[4](k)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_the_e_step_is_conditioning_of_the_linearised_net(activation):
    model, net = deep(activation=activation, noise=0.2, output_noise=0.1)
    rng = np.random.default_rng(1)
    x, y, counts = rng.normal(size=(6, 4)), rng.normal(size=(6, 2)), rng.uniform(1, 2, 6)
    evidence = Evidence.read(net, {net.inputs[0]: x, net.outputs[0]: y})
    names = [n for n, v in net.vertices.items() if v.plated and v.kind == "op"]
    pre, post, second, last = names[:4]
    expected = Expected(evidence, names, 2, None, rng)
    wanted = {(0, 0): 0.0, (0, 1): 0.0, (2, 1): 0.0, (3, 3): 0.0}
    for row in range(6):
        point = np.zeros(8)
        for _ in range(2):
            oracle = ByConditioning(model, x[row], y[row], 0.2, 0.1, point)
            point = oracle.mean
        values = oracle.run(torch.as_tensor(x[row]), torch.as_tensor(point))
        for name, value in zip((pre, post, second, last), values, strict=False):
            np.testing.assert_allclose(expected.mean(name)[row], value.detach().numpy(), rtol=1e-9, atol=1e-11)
        for i, j in wanted:
            wanted[i, j] = wanted[i, j] + counts[row] * oracle.cov(i, j)
    for (i, j), value in wanted.items():
        found = expected.summed_covariance([(names[i], names[j])], counts)
        np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-11)


def test_draws_approach_the_exact_covariances():
    _, net = deep(noise=0.2, output_noise=0.1)
    rng = np.random.default_rng(1)
    evidence = Evidence.read(net, {net.inputs[0]: rng.normal(size=(9, 4)), net.outputs[0]: rng.normal(size=(9, 2))})
    names = [n for n, v in net.vertices.items() if v.plated and v.kind == "op"]
    exact, drawn = (Expected(evidence, names, 2, samples, rng) for samples in (None, 4000))
    for a, b in ((names[0], names[0]), (names[2], names[1]), (names[3], names[3])):
        expected = exact.summed_covariance([(a, b)], np.ones(9))
        np.testing.assert_allclose(
            drawn.summed_covariance([(a, b)], np.ones(9)), expected, atol=0.05 * np.abs(expected).max()
        )


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order] / 16, y[order]


def accuracy(net, x, y):
    return (net.forward({net.inputs[0]: x})[net.outputs[0]].argmax(1) == y).mean()


@pytest.mark.parametrize(
    "options",
    [{}, {"fixed_noise": True}, {"samples": None, "linearisations": 2}],
    ids=["learned", "fixed", "exact"],
)
def test_one_pass_teaches_digits(digits, options):
    x, y = digits
    _, net = deep((64, 32, 32, 10), nn.ReLU, noise=0.03, output_noise=0.01)
    data = {net.inputs[0]: x[:1300], net.outputs[0]: np.eye(10)[y[:1300]]}
    result = net.fit(data, batch_size=32, epochs=1, **options)
    assert accuracy(net, x[1300:], y[1300:]) < 0.3
    assert accuracy(result.net, x[1300:], y[1300:]) > 0.88
    adam = net.fit(data, "local", batch_size=32, epochs=1, learning_rate=1e-2, scale=0.2 * 0.01)
    assert accuracy(result.net, x[1300:], y[1300:]) > accuracy(adam.net, x[1300:], y[1300:])


def test_labels_teach_through_noisy_logits(digits):
    x, y = digits
    _, net = deep((64, 24, 10), nn.ReLU, noise=0.1, likelihood="categorical")
    data = {net.inputs[0]: x[:600], net.labels[0]: y[:600]}
    with pytest.raises(LearningError, match="no regression to learn it by"):
        net.fit(data, batch_size=50, epochs=1)
    net.set_noise({net.outputs[0]: 1.0})
    result = net.fit(data, batch_size=50, epochs=3, fixed_noise=True, samples=2)
    assert accuracy(result.net, x[1300:], y[1300:]) > 0.8


class Tied(nn.Module):
    """A recurrent net: one pair of layers at every step."""

    def __init__(self):
        super().__init__()
        self.read, self.keep, self.out = nn.Linear(2, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 1)

    def forward(self, x):
        state = torch.tanh(self.read(x[:, 0]))
        for t in range(1, x.shape[1]):
            state = torch.tanh(self.read(x[:, t]) + self.keep(state))
        return self.out(state)


def test_convolutions_and_layers_tied_over_time_are_learned():
    torch.manual_seed(0)
    rng = np.random.default_rng(3)
    filters = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 1)).double()
    for model, shape in ((filters, (1, 6, 6)), (Tied().double(), (4, 2))):
        x = rng.normal(size=(120, *shape))
        y = np.tanh(x.reshape(120, -1)[:, :3].sum(1, keepdims=True))
        net = gbn.convert(model, torch.as_tensor(x[:2]), noise=0.05, output_noise=0.05)
        options = {"batch_size": 120, "step_size": 1.0, "damping": 0.01, "samples": None, "fixed_noise": True}
        result = net.fit({net.inputs[0]: x, net.outputs[0]: y}, epochs=50, **options)
        errors = [((n.forward({n.inputs[0]: x})[n.outputs[0]] - y) ** 2).mean() for n in (net, result.net)]
        assert errors[1] < 0.7 * errors[0]
        assert len({p for p in net.parameters if np.array_equal(net[p].value, result.net[p].value)}) == 0


def problem():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(60, 4))
    y = np.tanh(x @ rng.normal(size=(4, 3))) @ rng.normal(size=(3, 2)) + 0.1 * rng.normal(size=(60, 2))
    _, net = deep(noise=0.1, output_noise=0.1)
    return net, {net.inputs[0]: x, net.outputs[0]: y}


@pytest.mark.parametrize("options", [{}, {"samples": None}, {"fixed_noise": True, "noise_decay": 0.9}])
def test_a_fit_resumes_bit_for_bit(tmp_path, options):
    net, data = problem()
    path = tmp_path / "fit.npz"
    whole = net.fit(data, batch_size=16, epochs=4, **options)
    net.fit(data, batch_size=16, epochs=2, checkpoint=path, **options)
    resumed = net.fit(data, batch_size=16, epochs=4, checkpoint=path, **options)
    assert same_numbers(whole.net, resumed.net)
    assert whole.history == resumed.history


def test_missing_cells_and_weights():
    net, data = problem()
    y = data[net.outputs[0]].copy()
    y[::3, 0] = np.nan
    y[1::7] = np.nan
    weights = np.random.default_rng(0).integers(0, 3, 60)
    options = {"batch_size": 1000, "epochs": 3, "samples": None}
    a = net.fit({**data, net.outputs[0]: y}, weights=weights, **options).net
    rows = {name: np.repeat(value, weights, axis=0) for name, value in {**data, net.outputs[0]: y}.items()}
    b = net.fit(rows, **options).net
    for name in net.parameters:
        np.testing.assert_allclose(a[name].value, b[name].value, rtol=1e-7, atol=1e-9)


def test_validation_is_the_log_evidence_of_the_linearised_net():
    net, data = problem()
    held = {name: value[:20] for name, value in data.items()}
    result = net.fit(data, batch_size=16, epochs=6, validation=held)
    scores = result.history.column("validation")
    assert result.best_round == int(scores.argmax())
    for fitted, score in ((net, scores[0]), (result.net, scores.max())):
        assert fitted.query(evidence=held).log_evidence.mean() == pytest.approx(score, rel=1e-9)
    assert scores.max() > scores[0]


def test_hidden_noise_is_annealed():
    net, data = problem()
    fitted = net.fit(data, batch_size=30, epochs=3, fixed_noise=True, noise_decay=0.5).net
    for name in net.latents:
        factor = 1 if name == net.outputs[0] else 0.125
        assert fitted.noise(name).value == pytest.approx(factor * net.noise(name).value)


def test_frozen_layers_stay():
    net, data = problem()
    names = net.parameters[:2]
    fitted = net.fit(data, batch_size=30, epochs=1, freeze=names).net
    assert all(fitted[name].value is net[name].value for name in names)
    assert not np.array_equal(fitted[net.parameters[2]].value, net[net.parameters[2]].value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0, "step_size": 2}, "batch_size: got 0.*step_size: got 2"),
        ({"batch_size": 8, "linearisations": 0, "samples": 0}, "linearisations: got 0.*samples: got 0"),
        ({"batch_size": 8, "engine": "vmp"}, "no other engine"),
        ({"batch_size": 8, "noise_decay": 1.5}, "noise_decay: got 1.5"),
    ],
)
def test_options_that_cannot_be_used_are_named(options, message):
    net, data = problem()
    with pytest.raises(LearningError, match=message):
        net.fit(data, **options)


def test_the_command_line(tmp_path, capsys):
    net, data = problem()
    net.save(tmp_path / "net.gbn")
    np.savez(tmp_path / "data.npz", **data)
    files = [str(tmp_path / "net.gbn"), "--data", str(tmp_path / "data.npz"), "-o", str(tmp_path / "out.gbn")]
    code = cli.main(["learn", *files, "--json", "--option", "batch_size=16", "epochs=2", "damping=0.1"])
    report = capsys.readouterr()
    assert code == 0, report.err
    assert json.loads(report.out)["rounds"] == 2
    assert same_numbers(gbn.load(tmp_path / "out.gbn"), net.fit(data, batch_size=16, epochs=2, damping=0.1).net)
