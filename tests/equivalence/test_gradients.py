"""A sweep of local messages gives backprop's gradient of every parameter.

The reference is torch autograd on the module that was converted; nothing of gbn.equivalence is used.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from gbn import inference  # noqa: E402
from gbn.conversion import convert  # noqa: E402
from gbn.net import GaussianBayesNet  # noqa: E402

Array = np.ndarray[Any, Any]
OUTPUTS = 4


def mlp(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 12),
        activation(),
        nn.Linear(12, 9),
        activation(),
        nn.Linear(9, 7),
        activation(),
        nn.Linear(7, OUTPUTS),
    )


class ConvNet(nn.Module):
    def __init__(self, pool: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            pool(),
            nn.Conv2d(4, 6, 3, stride=2, bias=False),
            nn.BatchNorm2d(6, affine=False),
            nn.Tanh(),
        )
        self.head = nn.Linear(6, OUTPUTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).flatten(1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, OUTPUTS)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.enter(x)
        for block in self.blocks:
            h = h + block(h)
        return self.leave(F.relu(h))


class Branches(nn.Module):
    """Two convolutional branches, concatenated along the channels, beside the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 2, 3, padding=1)
        self.merge = nn.Conv2d(7, 3, 3)
        self.head = nn.Linear(3 * 4 * 4, OUTPUTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.cat([torch.sigmoid(self.left(x)), F.relu(self.right(x)), x], dim=1)
        return self.head(torch.tanh(self.merge(h)).flatten(1))


class Tied(nn.Module):
    """Two layers that hold one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, OUTPUTS)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Twice(nn.Module):
    """One layer called twice, and its weight once more, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, OUTPUTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.layer(torch.tanh(self.layer(x))))
        return self.head(F.linear(h, self.layer.weight.t()))


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}
VECTOR, IMAGE = (5,), (2, 6, 6)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{f"mlp_{name}": (lambda a=activation: mlp(a), VECTOR) for name, activation in ACTIVATIONS.items()},
    "cnn_max_pool": (lambda: ConvNet(lambda: nn.MaxPool2d(2)), IMAGE),
    "cnn_avg_pool": (lambda: ConvNet(lambda: nn.AvgPool2d(2)), IMAGE),
    "residual": (Residual, VECTOR),
    "branches": (Branches, IMAGE),
    "tied": (Tied, VECTOR),
    "twice": (Twice, VECTOR),
}
# Summed energies: what the free energy of a net with unit output noise, or of a label, is up to a constant.
LOSSES: dict[str, tuple[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    "mse": ("gaussian", lambda out, y: 0.5 * F.mse_loss(out, y, reduction="sum")),
    "cross_entropy": ("categorical", lambda out, y: F.cross_entropy(out, y, reduction="sum")),
    "bce": ("bernoulli", lambda out, y: F.binary_cross_entropy_with_logits(out, y.to(out.dtype), reduction="sum")),
}


@cache
def module_of(name: str, dtype: torch.dtype) -> nn.Module:
    """The model, with running statistics of a batch-norm that matter.  The float64 twin has the float32 numbers."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    torch.manual_seed(sum(map(ord, name)))
    module = MODELS[name][0]()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = torch.randn(layer.num_features, generator=generator)
            layer.running_var = torch.rand(layer.num_features, generator=generator) + 0.5
            if layer.affine:
                nn.init.normal_(layer.weight, 1.0, 0.3, generator=generator)
                nn.init.normal_(layer.bias, 0.0, 0.3, generator=generator)
    return module.to(dtype).eval()


@cache
def net_of(name: str, dtype: torch.dtype, loss: str, latents: str = "affine", noise: float = 1.0) -> GaussianBayesNet:
    module, event = module_of(name, dtype), MODELS[name][1]
    return convert(module, torch.zeros(2, *event), latents=latents, noise=noise, likelihood=LOSSES[loss][0])


def data(name: str, loss: str, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(samples)
    x = torch.randn(samples, *MODELS[name][1], generator=generator)
    if loss == "mse":
        return x, torch.randn(samples, OUTPUTS, generator=generator)
    if loss == "cross_entropy":
        return x, torch.randint(0, OUTPUTS, (samples,), generator=generator)
    return x, torch.randint(0, 2, (samples, OUTPUTS), generator=generator)


def autograd(module: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: str) -> dict[str, Array]:
    parameters = dict(module.named_parameters())
    dtype = next(module.parameters()).dtype
    value = LOSSES[loss][1](module(x.to(dtype)), y.to(dtype) if loss == "mse" else y)
    gradients = torch.autograd.grad(value, list(parameters.values()))
    return {name: g.numpy() for name, g in zip(parameters, gradients, strict=True)}


def evidence_of(net: GaussianBayesNet, x: torch.Tensor, y: torch.Tensor) -> dict[str, Array]:
    return {net.inputs[0]: x.numpy(), (net.labels or net.outputs)[0]: y.numpy()}


def local(net: GaussianBayesNet, x: torch.Tensor, y: torch.Tensor) -> dict[str, Array]:
    gradients = inference.gradient(net, evidence_of(net, x, y))
    return {str(net.source_of(name)): g for name, g in gradients.items()}


def relative(got: Array, expected: Array) -> float:
    return float(np.linalg.norm(got.astype(float) - expected) / np.linalg.norm(expected.astype(float)))


def check_float64(net: GaussianBayesNet, name: str, loss: str, samples: int) -> float:
    """The worst relative error, which must be within the claim."""
    x, y = data(name, loss, samples)
    expected = autograd(module_of(name, torch.float64), x, y, loss)
    got = local(net, x, y)
    assert set(got) == set(expected)
    errors = {key: relative(got[key], expected[key]) for key in expected}
    assert max(errors.values()) <= 1e-10, errors
    return max(errors.values())


@pytest.mark.parametrize("samples", [1, 2, 257])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_in_float64(name: str, loss: str, samples: int) -> None:
    check_float64(net_of(name, torch.float64, loss), name, loss, samples)


@pytest.mark.parametrize("noise", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("latents", ["affine", "layers", "all"])
@pytest.mark.parametrize("name", ["mlp_tanh", "cnn_max_pool", "residual", "branches", "tied", "twice"])
def test_hidden_noise_and_latents_make_no_difference(name: str, latents: str, noise: float) -> None:
    net = net_of(name, torch.float64, "mse", latents).copy()
    net.set_noise({hidden: noise for hidden in net.latents if hidden not in net.outputs})
    check_float64(net, name, "mse", 5)


@pytest.mark.parametrize("name", ["mlp_gelu", "cnn_avg_pool"])
def test_noise_of_any_form_makes_no_difference(name: str) -> None:
    net = net_of(name, torch.float64, "mse", "all").copy()
    rng = np.random.default_rng(0)
    for k, hidden in enumerate(set(net.latents) - set(net.outputs)):
        size = net[hidden].size
        root = rng.normal(size=(size, size))
        net.set_noise({hidden: root @ root.T + np.eye(size) if k % 2 else rng.uniform(0.01, 10, net[hidden].shape)})
    check_float64(net, name, "mse", 3)


def test_latents_by_name() -> None:
    module = module_of("mlp_relu", torch.float64)
    net = convert(module, torch.zeros(2, 5), latents=["2"], noise=0.1, likelihood="categorical")
    assert net.latents == ("2",)
    check_float64(net, "mlp_relu", "cross_entropy", 4)


def test_no_hidden_latents_at_all() -> None:
    net = convert(module_of("residual", torch.float64), torch.zeros(2, 5), latents=[])
    check_float64(net, "residual", "mse", 4)


# Torch's own error is sometimes nought to the last digit; so much rounding is nobody's fault.
FLOOR = 4 * float(np.finfo(np.float32).eps)


SINGLE = [(name, "mse") for name in MODELS] + [
    (name, loss)
    for name in ("mlp_relu", "mlp_softplus", "cnn_max_pool", "residual")
    for loss in ("cross_entropy", "bce")
]


@pytest.mark.parametrize("samples", [1, 2, 257])
@pytest.mark.parametrize("name, loss", SINGLE)
def test_float32_errs_at_most_four_times_as_much_as_torch(name: str, loss: str, samples: int) -> None:
    x, y = data(name, loss, samples)
    exact = autograd(module_of(name, torch.float64), x, y, loss)
    torchs = autograd(module_of(name, torch.float32), x, y, loss)
    got = local(net_of(name, torch.float32, loss), x, y)
    for key, reference in exact.items():
        assert got[key].dtype == np.float32
        assert relative(got[key], reference) <= 4 * relative(torchs[key], reference) + FLOOR, key


@pytest.mark.parametrize("name", ["mlp_tanh", "cnn_max_pool", "branches"])
def test_messages_of_a_query_are_the_same(name: str) -> None:
    x, y = data(name, "bce", 6)
    net = net_of(name, torch.float64, "bce", "layers", 10.0)
    post = inference.query(net, [], evidence_of(net, x, y), engine="pc")
    for key, expected in autograd(module_of(name, torch.float64), x, y, "bce").items():
        assert relative(-post.messages[key], expected) <= 1e-10


def test_messages_at_hidden_vertices_are_backprops_errors() -> None:
    x, y = data("mlp_elu", "mse", 6)
    module = module_of("mlp_elu", torch.float64)
    values = [x.double().requires_grad_()]
    for layer in module:
        values.append(layer(values[-1]))
    hidden = torch.autograd.grad(LOSSES["mse"][1](values[-1], y), values)
    net = net_of("mlp_elu", torch.float64, "mse", "all", 0.3)
    post = inference.query(net, [], evidence_of(net, x, y), engine="pc")
    for name, expected in zip([net.inputs[0], *map(str, range(len(module)))], hidden, strict=True):
        assert relative(-post.messages[name], expected.numpy()) <= 1e-10


@pytest.mark.parametrize("soft", [False, True])
def test_one_label_for_each_place_of_an_image(soft: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1)).double().eval()
    x = torch.randn(5, 2, 4, 6, dtype=torch.float64)
    y = torch.softmax(torch.randn(5, 3, 4, 6).double(), 1) if soft else torch.randint(0, 3, (5, 4, 6))
    net = convert(module, x[:2], likelihood="categorical")
    expected = autograd(module, x, y, "cross_entropy")
    got = local(net, x, y)
    assert set(got) == set(expected)
    assert max(relative(got[key], g) for key, g in expected.items()) <= 1e-10


def test_several_inputs() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)

        def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.a(x)) * self.b(z)

    torch.manual_seed(0)
    module, x, z, y = Pair().double().eval(), torch.randn(7, 3), torch.randn(7, 2), torch.randn(7, 4).double()
    net = convert(module, (x[:2], z[:2]))
    value = LOSSES["mse"][1](module(x.double(), z.double()), y)
    expected = torch.autograd.grad(value, list(module.parameters()))
    got = inference.gradient(
        net, {**dict(zip(net.inputs, (x.numpy(), z.numpy()), strict=True)), net.outputs[0]: y.numpy()}
    )
    for (name, _), g in zip(module.named_parameters(), expected, strict=True):
        assert relative(got[name], g.numpy()) <= 1e-10
