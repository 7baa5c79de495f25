"""PyTorch modules, against their own forward pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbn.conversion import convert
from gbn.errors import ConversionError
from gbn.net import GaussianBayesNet

torch = pytest.importorskip("torch")
# ruff: noqa: E402 - what follows needs torch

from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import converters.torch
from converters import from_torch

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class Call(nn.Module):
    """A module from a function of its inputs, with some layers."""

    def __init__(self, function: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


class Residual(nn.Module):
    """Batch-norm, pooling, and branches that add and concatenate."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding="same")
        self.bn, self.fc = nn.BatchNorm2d(4), nn.Linear(8, 3)
        self.bn.running_mean.uniform_(-1, 1)
        self.bn.running_var.uniform_(0.5, 2)

    def forward(self, x):
        h = F.relu(self.bn(self.c1(x)))
        h = torch.cat([h + self.c2(h), F.avg_pool2d(F.pad(h, (1, 0, 1, 0)), 2, 1)], 1)
        return self.fc(F.adaptive_avg_pool2d(h, 1).flatten(1))


class Tied(nn.Module):
    """Two inputs, nested outputs, a tied and a frozen weight, a buffer, and a weight that enters in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.a.bias.requires_grad_(False)
        self.register_buffer("shift", torch.arange(4.0))
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x, z):
        h = self.b(torch.tanh(self.a(x))) * self.gain + self.shift
        h = self.a(h) @ self.a.weight.t() + z
        return h, (h.view(h.size(0), 2, 2), x), {"second": h[:, 1], "pair": torch.stack(h.chunk(2, -1), 1), "same": h}


class Attention(nn.Module):
    """Pre-norm self-attention with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x):
        n, t, e = x.shape
        q, k, v = (part.view(n, t, 2, 4).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(heads.transpose(1, 2).reshape(n, t, e))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(4, 4), nn.Dropout()

    def forward(self, x):
        return x + self.drop(F.gelu(self.linear(x)))


class Variadic(nn.Module):
    """One layer called three times, further inputs, and an argument with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, *others, scale=2.0):
        for _ in range(3):
            x = torch.relu(self.layer(x))
        return x * scale + others[0]


def mlp(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), activation, nn.Linear(5, 3))


ACTIVATIONS = [
    nn.ReLU(), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.SELU(), nn.CELU(0.5), nn.GELU(), nn.GELU("tanh"), nn.Sigmoid(),
    nn.SiLU(), nn.Mish(), nn.Tanh(), nn.Softplus(), nn.Softplus(2.0), nn.LogSigmoid(), nn.Softsign(), nn.Tanhshrink(),
    nn.ReLU6(), nn.Hardtanh(-0.3, 0.4), nn.Hardswish(), nn.Hardsigmoid(), nn.PReLU(), nn.PReLU(5), nn.Softmax(1),
    nn.LogSoftmax(1), nn.LayerNorm(5), nn.LayerNorm(5, elementwise_affine=False), nn.BatchNorm1d(5),
    nn.BatchNorm1d(5, affine=False), nn.GroupNorm(1, 5), nn.Identity(), nn.Dropout(), nn.Sequential(),
]  # fmt: skip


def assigned(x: Any, y: Any) -> Any:
    y[:, 1] = x[:, 0] * 2
    y[:, 2:4] = x[:, :2]
    y[:, -1] = 3.0
    return y * y + y[:, :1]


def in_place(y: Any, change: Callable[[Any], Any]) -> Any:
    """Both what a change returns and what it has changed."""
    z = change(y)
    return torch.cat([y, z], 1)


# Functions of a positive x, shape (samples, 4).
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "scalars": lambda m, x: 3 - (2 * x + 1) / 4 + torch.sub(x, 1 / x, alpha=3),
    "alpha": lambda m, x: torch.add(x, x * x, alpha=0.5) - torch.rsub(x, 2.0, alpha=3),
    "powers": lambda m, x: x**2 + x**3 + x**4 + x**-1 + x**0.5 + torch.rsqrt(x) + torch.square(x),
    "functions": lambda m, x: torch.erf(torch.abs(torch.log(x))) + torch.exp(-x).sqrt(),
    "clamped": lambda m, x: torch.cat([x.clamp(0.4, 0.6), x.clamp(min=0.5), x.clamp(max=0.5), x.clamp_min(0)], 1),
    "views": lambda m, x: x.view(-1, 2, 2).transpose(1, 2).reshape(x.size(0), -1).unflatten(1, (2, 2)).flatten(1),
    "in place": lambda m, x: (x * 2).relu_() + (x + 1).add_(x).mul_(2),
    "in place, read again": lambda m, x: in_place(x * 2, lambda y: y.sub_(0.5).relu_()),
    "in place, through views": lambda m, x: in_place(x * 2, lambda y: y[:, :2].sub_(1).relu_()),
    "assignment": lambda m, x: assigned(x, x.new_zeros(x.size(0), 5)),
    "in place, seen by views": lambda m, x: in_place(x * 2, lambda y: (y.view(-1, 2, 2), y.exp_())[0].flatten(1)),
    "fixed by len": lambda m, x: x.reshape(len(x), 2, 2) * 2,
    "axes": lambda m, x: x[:, None].unsqueeze(2).squeeze(1).permute(0, 2, 1).squeeze(-1),
    "slices": lambda m, x: torch.cat([x[:, 1:], x[:, :-1], x[..., ::2], x[:, -1:], x.narrow(1, 1, 2)], 1),
    "select": lambda m, x: x[:, 0] * x[:, -1],
    "parts": lambda m, x: torch.stack([*x.split(2, 1), x.tensor_split(2, 1)[0]], 1) * x.unbind(1)[0][:, None, None],
    "uneven parts": lambda m, x: x.split([1, 3], 1),
    "pads": lambda m, x: F.pad(F.pad(x[:, None], (1, 2), value=0.5), (2, 1), mode="reflect"),
    "reductions": lambda m, x: (x.mean(1), x.sum(-1, keepdim=True), x.view(-1, 2, 2).mean((1, 2)), x.var(1)),
    "norm": lambda m, x: F.normalize(x, dim=1),
    "outer": lambda m, x: torch.einsum("ni,nj->nij", x, x),
    "glu": lambda m, x: F.glu(x, 1),
    "expand": lambda m, x: x[:, None].expand(-1, 3, -1).contiguous() + x.mean(1, keepdim=True).expand(-1, 4)[:, None],
    "constants": lambda m, x: x + (torch.ones(4, 4).tril() @ torch.arange(4.0)).to(x) + torch.zeros(x.size(0), 4).to(x),
    "addmm": lambda m, x: torch.addmm(m.w, x, m.v.t(), beta=2, alpha=0.5) + torch.matmul(x, m.v) @ (m.v * m.w),
    "bmm": lambda m, x: torch.bmm(x.view(-1, 2, 2), x.view(-1, 2, 2).mT) + torch.baddbmm(
        x.view(-1, 2, 2), x.view(-1, 2, 2), x.view(-1, 2, 2), alpha=2, beta=3),
}  # fmt: skip

MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "linear": (lambda: nn.Linear(4, 3, bias=False), ((4,),)),
    "residual": (Residual, ((2, 6, 6),)),
    "tied": (Tied, ((4,), (4,))),
    "attention": (Attention, ((3, 8),)),
    "blocks": (lambda: nn.Sequential(Block(), nn.Sequential(Block())), ((4,),)),
    "variadic": (Variadic, ((4,), (4,))),
    "scalar input": (lambda: Call(lambda m, x: torch.tanh(x) * 2), ((),)),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, 2, 1, 2, groups=2, bias=False, padding_mode="circular"), nn.ReLU(), nn.AvgPool1d(2)
        ),
        ((2, 12),),
    ),
    "conv2d": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, (3, 2), (2, 1), (1, 0)), nn.GroupNorm(2, 4), nn.MaxPool2d(3, 2, 1)),
        ((2, 8, 8),),
    ),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.MaxPool3d(2)), ((2, 6, 6, 6),)),
    "pools": (
        lambda: Call(
            lambda m, x: (
                F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
                F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
                F.adaptive_max_pool2d(x, 2),
                F.adaptive_avg_pool2d(x, (4, 2)),
                F.max_pool1d(x[:, 0], 2),
            )
        ),
        ((2, 8, 8),),
    ),
    "pads": (lambda: Call(lambda m, x: F.pad(x, (1, 2, 0, 1), mode="replicate")), ((2, 4, 4),)),
}


def samples(shapes: tuple[tuple[int, ...], ...], n: int, dtype: Any) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(n)
    return tuple(torch.rand(n, *shape, generator=generator, dtype=dtype) + 0.1 for shape in shapes)


def forward(net: GaussianBayesNet, args: tuple[Any, ...]) -> list[np.ndarray]:
    given = {n: x.numpy().reshape(len(x), *net[n].shape) for n, x in zip(net.inputs, args, strict=True)}
    values = net.forward(given)
    return [values[name] for name in net.outputs]


def check(module: nn.Module, shapes: tuple[tuple[int, ...], ...], dtype: Any) -> GaussianBayesNet:
    """The net computes what the module does, for numbers of samples that it was not traced with."""
    module = module.to(dtype).eval()
    net = from_torch(module, samples(shapes, 1, dtype), latents=())
    for n in (1, 2, 7):
        args = samples(shapes, n, dtype)
        expected = pytree.tree_leaves(module(*args))
        for value, target in zip(forward(net, args), expected, strict=True):
            target = target.detach().numpy()
            assert (value.shape, value.dtype) == (target.shape, target.dtype)
            assert np.linalg.norm(value - target) <= TOLERANCE[dtype] * np.linalg.norm(target)
    return net


both = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@both
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_mlp(activation: nn.Module, dtype: Any) -> None:
    torch.manual_seed(0)
    check(mlp(activation), ((4,),), dtype)


@both
@pytest.mark.parametrize("name", MODULES)
def test_module(name: str, dtype: Any) -> None:
    torch.manual_seed(0)
    make, shapes = MODULES[name]
    check(make(), shapes, dtype)


@both
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str, dtype: Any) -> None:
    torch.manual_seed(0)
    layers = {"w": nn.Parameter(torch.rand(4)), "v": nn.Parameter(torch.rand(4, 4))} if name == "addmm" else {}
    check(Call(FUNCTIONS[name], **layers), ((4,),), dtype)


def test_names_are_paths_and_graph_names() -> None:
    net = from_torch(Residual().eval(), torch.randn(2, 2, 6, 6))
    assert net.inputs == ("x",)
    assert {"c1", "c2", "bn", "fc", "relu", "cat"} <= set(net)
    assert net.outputs == ("fc",)
    assert set(net.parameters) == set(dict(Residual().named_parameters()))
    assert net.latents == ("c1", "c2", "fc")
    assert net["bn.running_mean"].kind == "constant"
    assert net.source_of("bn.running_var") == "bn.running_var"


def test_names_inside_composite_modules() -> None:
    net = from_torch(nn.Sequential(Block(), nn.ModuleList([Block()])[0]).eval(), torch.randn(2, 4))
    assert [n for n in net if net[n].kind == "op"] == [
        "0.linear", "0.gelu", "0.drop", "0", "1.linear", "1.gelu_1", "1.drop", "1",
    ]  # fmt: skip


def test_repeated_calls_are_numbered_and_share_their_weights() -> None:
    net = from_torch(Variadic().eval(), (torch.randn(2, 4), torch.randn(2, 4)))
    assert net.inputs == ("x", "others_0")
    assert [n for n in net if net[n].op == "Gemm"] == ["layer", "layer#2", "layer#3"]
    assert {net[n].parents[1] for n in net if net[n].op == "Gemm"} == {"layer.weight"}
    (factor,) = (n for n in net if n.endswith(".other"))
    assert net[factor].value == 2.0


def test_tied_and_frozen_weights() -> None:
    net = from_torch(Tied().eval(), (torch.randn(2, 4), torch.randn(2, 4)))
    assert set(net.parameters) == {"a.weight", "a.bias", "b.bias", "gain"}
    assert net["b"].parents[1] == "a.weight"
    assert not net["a.bias"].trainable
    assert net["a.weight"].trainable
    assert net.source_of("a.weight") == "a.weight"
    assert len(set(net.outputs)) == 6


def test_a_parameter_may_have_the_name_of_a_part() -> None:
    """Its own ``scale`` and the constant that batch-norm without weights needs are both inside one module."""
    inner = Call(lambda m, x: F.batch_norm(x * m.scale, m.mean, m.var), scale=nn.Parameter(torch.rand(4)))
    inner.register_buffer("mean", torch.rand(4))
    inner.register_buffer("var", torch.rand(4) + 1)
    net = check(nn.Sequential(inner), ((4,),), torch.float64)
    assert net.parameters == ("0.scale",)


def test_the_module_is_left_as_it_was() -> None:
    module = mlp(nn.Tanh()).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    from_torch(module, np.zeros((1, 4)))
    assert all(layer.training for layer in module.modules())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert list(module.state_dict()) == list(before)


def test_later_training_does_not_reach_into_the_net() -> None:
    module = mlp(nn.Tanh()).eval()
    net = from_torch(module, torch.zeros(2, 4))
    before = net["0.weight"].value.copy()
    with torch.no_grad():
        module[0].weight.add_(1.0)
    np.testing.assert_array_equal(net["0.weight"].value, before)


def test_training_mode_is_refused_by_name() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Dropout(0.1)), nn.Dropout(0.0))
    with pytest.raises(ConversionError, match=r"eval\(\)") as caught:
        from_torch(module, torch.randn(3, 4))
    assert [(layer.path, layer.operation) for layer in caught.value.layers] == [
        ("1", "BatchNorm1d"),
        ("2.0", "Dropout"),
    ]


def test_every_unsupported_layer_is_listed() -> None:
    module = Call(
        lambda m, x: torch.special.i0(m.act(torch.lgamma(m.act(m.fc(x)))).cumsum(0)),
        fc=nn.Linear(4, 4),
        act=nn.Sequential(nn.ReLU(), Call(lambda m, x: torch.linalg.inv(x.view(-1, 2, 2)).flatten(1))),
    )
    with pytest.raises(ConversionError) as caught:
        from_torch(module.eval(), torch.randn(3, 4))
    assert {layer.path for layer in caught.value.layers} >= {"act.1", "lgamma", "i0", "cumsum"}
    assert "act.1: Call: linalg_inv" in str(caught.value)
    message = str(caught.value)
    assert message.count("To add a counterpart, register an op with gbn.ops.op") == 1
    assert [line[:20] for line in message.splitlines()[-2:]] == ["To add a counterpart", "Where the samples of"]


def test_a_constant_that_would_take_all_memory() -> None:
    module = Call(lambda m, x: x + torch.full((1 << 16, 1 << 15), 0.5).mean())
    with pytest.raises(ConversionError, match=r"a constant of shape \(65536, 32768\), which would take all memory"):
        from_torch(module.eval(), torch.randn(3, 4))


def branching(m: nn.Module, x: Any) -> Any:
    return x if x.sum() > 0 else -x


def updating(m: nn.Module, x: Any) -> Any:
    m.count += 1
    return x * m.count


@pytest.mark.parametrize(
    "module, message",
    [
        (Call(branching), "depends on the data"),
        (nn.Sequential(nn.Linear(4, 4), Call(branching)), r"1: Call \(line \d+ of test_torch.py\)"),
        (Call(lambda m, x: x - x.mean(0)), "mixes samples"),
        (Call(lambda m, x: x @ x.t()), "number of samples|mixes samples"),
        (Call(lambda m, x: x.view(3, -1) * 2), "fixes the number of samples"),
        (Call(lambda m, x: x * x.size(0)), "number of samples"),
        (Call(lambda m, x: x[:, : x.size(0)]), "number of samples|sample"),
        (Call(lambda m, x: torch.arange(x.size(0))[:, None] + x), "number of samples"),
        (Call(lambda m, x: x + torch.randn_like(x)), "rand"),
        (Call(lambda m, x: F.dropout(x, 0.5, True)), "random|counterpart"),
        (Call(lambda m, x: torch.linalg.inv(x.view(-1, 2, 2))), r"no counterpart(?s:.)*gbn\.ops\.op"),
        (Call(lambda m, x: (x, x > 0)), "gt.*an output of torch.bool"),
        (Call(lambda m, x: x.flip(0)), "some of the samples"),
        (Call(updating, count=nn.Buffer(torch.zeros(()))), "count changes at each call"),
        (nn.BatchNorm1d(4, track_running_stats=False), "counterpart|statistics"),
        (nn.Linear(4, 4).half(), "float16"),
        (Call(lambda m, x: x.view(4, -1)), "mixes samples|number of samples"),
    ],
)
def test_refusals(module: nn.Module, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        from_torch(module.eval(), torch.rand(3, 4))


def test_integer_inputs_are_inputs_that_must_be_observed() -> None:
    net = from_torch(nn.Embedding(3, 2).double().eval(), torch.tensor([[0, 1], [2, 2]]))
    assert net["input"].needs_data
    x = torch.tensor([[2, 0], [1, 1], [0, 2]])
    weight = net["weight"].value
    np.testing.assert_array_equal(net.forward({"input": x.numpy()})[net.outputs[0]], weight[x.numpy()])


@pytest.mark.parametrize(
    "example, message",
    [
        (None, "needs an example batch"),
        (torch.zeros(()), "number of samples"),
        (torch.zeros(0, 4), "number of samples"),
        ((torch.zeros(2, 4), torch.zeros(3, 4)), "number of samples"),
        (torch.zeros(2, 5), "cannot trace"),
        (torch.tensor([[0.0, 0, 0, 0], [0, 0, torch.nan, 0]]), r"example: input 0 is nan at \(1, 2\); expected finite"),
        ((torch.zeros(2, 4), torch.full((2, 4), torch.inf)), r"example: input 1 is inf at \(0, 0\)"),
    ],
)
def test_wrong_examples(example: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        from_torch(nn.Linear(4, 2), example)


def test_options_are_refused() -> None:
    with pytest.raises(ConversionError, match="depth"):
        convert(nn.Linear(4, 2), torch.zeros(2, 4), depth=2)


def test_a_net_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from converters import _aten

    monkeypatch.setitem(_aten.RULES, "tanh", _aten.RULES["sigmoid"])
    with pytest.raises(ConversionError, match=r"does not compute what the model does.*first at '1'"):
        from_torch(mlp(nn.Tanh()).eval(), torch.randn(2, 4))


def exported(**shapes: Any) -> Any:
    return torch.export.export(mlp(nn.Tanh()).eval(), (torch.randn(3, 4),), **shapes)


@pytest.mark.parametrize("shapes", [{}, {"dynamic_shapes": ({0: "n"},)}])
def test_exported_programs_need_no_example(shapes: dict[str, Any]) -> None:
    if shapes:
        shapes = {"dynamic_shapes": ({0: torch.export.Dim("n")},)}
    program = exported(**shapes)
    net = convert(program)
    x = torch.randn(3, 4)
    np.testing.assert_allclose(forward(net, (x,))[0], program.module()(x).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert [n for n in net if net[n].kind == "op"] == ["0", "1", "2"]
    assert set(net.parameters) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_pt2_round_trip(tmp_path: Path) -> None:
    program = exported()
    torch.export.save(program, tmp_path / "model.pt2")
    net = convert(str(tmp_path / "model.pt2"))
    expected = convert(program)
    assert list(net) == list(expected)
    for name in net.parameters:
        np.testing.assert_array_equal(net[name].value, expected[name].value)


class Evil:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("unpickled",))


def test_pt2_files_with_pickles_are_refused(tmp_path: Path) -> None:
    import pickle
    import zipfile

    source, target = tmp_path / "good.pt2", tmp_path / "evil.pt2"
    torch.export.save(exported(), source)
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for name in before.namelist():
            evil = name.endswith("sample_inputs/model.pt")
            after.writestr(name, pickle.dumps(Evil(), protocol=2) if evil else before.read(name))
    with pytest.raises(ConversionError, match=r"would unpickle .*sample_inputs"):
        convert(target)
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(ConversionError, match=r"not a torch\.export archive"):
        convert(tmp_path / "text.pt2")


def test_accepts_looks_at_types_and_suffixes() -> None:
    assert converters.torch.accepts(Block())
    assert converters.torch.accepts(exported())
    assert converters.torch.accepts("m.PT2")
    assert not converters.torch.accepts(torch.zeros(2))
    assert not converters.torch.accepts("m.onnx")


def test_likelihood_and_policy() -> None:
    net = from_torch(mlp(nn.Tanh()).eval(), torch.randn(2, 4), latents="layers", noise=0.1, likelihood="categorical")
    assert net.latents == ("1",)
    assert net.labels == ("2.label",)
    assert convert(mlp(nn.Tanh()).eval(), torch.randn(2, 4)).labels == ()
