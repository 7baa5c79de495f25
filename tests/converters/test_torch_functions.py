"""Functions of torch, a family at a time: values, and the gradient of a weight below them, against torch's own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gbn
from gbn.errors import ConversionError

torch = pytest.importorskip("torch")
# ruff: noqa: E402 - what follows needs torch

from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from converters import from_torch


class Weighted(nn.Module):
    """A function of x times a weight, with layers of its own."""

    def __init__(self, function: Callable[..., Any], shape: tuple[int, ...], layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.rand(shape) * 0.2 + 0.9)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x * self.weight)


VECTORS: dict[str, Callable[..., Any]] = {
    "trigonometry": lambda m, x: (x.sin(), x.cos(), x.tan(), (x / 2).asin(), (x / 2).acos(), x.atan(), x.sinh(),
                                  x.cosh(), x.asinh(), (x + 1.5).acosh(), (x / 2).atanh(), torch.atan2(x, x - 0.3)),
    "powers": lambda m, x: (x**1.5, x**-2, 2.0**x, x**x, x.square(), x.rsqrt(), x.reciprocal(), x.exp2(), x.expm1(),
                            x.log1p(), x.log2(), x.log10(), torch.erfc(x), torch.pow(x, torch.tensor([1.0, 2, 3, 4]))),
    "activations": lambda m, x: (F.hardshrink(x - 0.5, 0.2), F.softshrink(x - 0.5, 0.2), F.threshold(x, 0.5, 9.0),
                                 F.mish(x), F.hardswish(x), F.softsign(x), F.tanhshrink(x), F.glu(x), F.softmin(x, 1),
                                 F.logsigmoid(x), F.rrelu(x - 0.5), F.selu(x - 0.5), F.relu6(x), torch.logit(x / 3)),
    "two": lambda m, x: (torch.maximum(x, 1 - x), torch.minimum(x, 0.6 + 0 * x), torch.addcmul(x, x, x, value=2),
                         torch.addcdiv(x, x, x + 1), torch.lerp(x, x * x, 0.3), torch.logaddexp(x, 1 - x), x % 0.3,
                         x.fmod(0.3), torch.clamp(x, min=1 - x), torch.clamp(x, 0.4, 0.7), torch.hypot(x, x + 1),
                         torch.outer(m.weight, m.weight) + x[:, None], torch.heaviside(x * 0, x).detach() * 0 + x),
    "choice": lambda m, x: (torch.where(x > 0.6, x, x * x), x.masked_fill(x < 0.6, 0.0), (x > 0.5).to(x.dtype) * x,
                            x * ((x >= 0.4) & (x <= 0.8)), x * ~(x > 0.5), x * (x != 0.5), x * (x.floor() == 0),
                            x - x.round(), x.frac(), x.trunc() + x, x * x.sign(), x * torch.isnan(x).logical_not(),
                            x * (x > 0.5).any(1, keepdim=True), (x.argmax(1) * x[:, 0])),
    "reductions": lambda m, x: (x.amax(1), x.amin(1, keepdim=True), x.max(1).values, x.min(1)[0], x.prod(1),
                                x.logsumexp(1), x.norm(dim=1), torch.linalg.vector_norm(x, 3, 1), x.norm(1, dim=1),
                                torch.linalg.vector_norm(x, torch.inf, 1), x.var(1), x.std(1, unbiased=False),
                                *torch.var_mean(x, 1), x.cumsum(1), x.cumprod(1), x.logcumsumexp(1),
                                F.cosine_similarity(x, x + 1, dim=1), x.mean(1), F.pairwise_distance(x, x * x)),
    "moves": lambda m, x: (x.flip(1), x.roll(1, 1), x.roll((1, 2), (1, 1)), x.repeat(1, 2), x.repeat_interleave(2, 1),
                           x.tile(1, 3), x.unfold(1, 2, 1), x[:, [2, 0]], x.index_select(1, torch.tensor([1, 1])),
                           torch.gather(x, 1, torch.argsort(torch.tensor([[3, 1, 2, 0]])).expand(len(x), -1)),
                           torch.stack(x.unbind(1), 1), torch.hstack(x.chunk(2, 1)), torch.cat([x, x]).chunk(2)[1],
                           x.expand(2, -1, -1)[1], x.broadcast_to(3, *x.shape)[2]),
    "constants": lambda m, x: (x + torch.arange(4), x * torch.linspace(0, 1, 4), x @ torch.eye(4), x + x.new_ones(4),
                               x @ torch.ones(4, 4).tril(), torch.cat([x, x.new_zeros(x.shape[0], 2)], 1),
                               torch.cat([torch.ones_like(x), x, x], 1), x + torch.zeros(x.size(0), 1),
                               torch.cat([m.weight.expand(x.shape[0], -1), x], 1)),
}  # fmt: skip

MATRICES: dict[str, Callable[..., Any]] = {
    "products": lambda m, x: (torch.einsum("nij,nkj->nik", x, x), torch.einsum("...ij,jk->...ik", x, x.new_ones(4, 2)),
                              torch.einsum("nij,ij->n", x, m.weight), torch.baddbmm(x, x, x, beta=0, alpha=2),
                              x @ x.mT, x.transpose(0, 1) @ x.new_ones(4, 4), torch.bmm(x, x), x.matmul(m.weight[0]),
                              torch.tensordot(x, m.weight, dims=([2], [0])), F.bilinear(x, x, x.new_ones(1, 4, 4)),
                              torch.linalg.cross(x[..., :3], x[..., 1:]), (x.flatten(0, 1) @ m.weight).view(x.shape)),
    "triangles": lambda m, x: (x.tril(), x.triu(1), x.diagonal(dim1=1, dim2=2), x.diagonal(1, 1, 2), x.permute(1, 2, 0),
                               x.movedim(0, 2), x.transpose(0, 2).softmax(1), x.amax((1, 2)), x.var((1, 2)),
                               torch.diagonal(x, -1, 1, 2).sum(-1), x.rot90(1, (1, 2))),
    "attention": lambda m, x: (
        F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(4, 4, dtype=torch.bool).tril()),
        F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=True),
        F.scaled_dot_product_attention(x.view(-1, 4, 2, 2), x[:, :2].view(-1, 2, 2, 2), x[:, 2:].view(-1, 2, 2, 2),
                                       enable_gqa=True)),
    "norms": lambda m, x: (F.rms_norm(x, (4,)), F.rms_norm(x, (4, 4), m.weight, 1e-3), F.layer_norm(x, (4, 4)),
                           F.instance_norm(x), F.group_norm(x, 2), F.local_response_norm(x, 3), m.instance(x),
                           m.batch(x), F.normalize(x, p=1, dim=2)),
    "windows in one dimension": lambda m, x: (
        F.avg_pool1d(x, 2, ceil_mode=True), F.adaptive_avg_pool1d(x, 3), F.adaptive_max_pool1d(x, 3),
        F.interpolate(x, 7), F.interpolate(x, scale_factor=1.5, mode="linear"), F.lp_pool1d(x, 2, 2),
        F.interpolate(x, 6, mode="linear", align_corners=True), F.conv_transpose1d(x, x.new_ones(4, 2, 3), stride=2),
        F.pad(x, (1, 2), mode="circular"), F.interpolate(x, 6, mode="nearest-exact")),
}  # fmt: skip

IMAGES: dict[str, Callable[..., Any]] = {
    "windows": lambda m, x: (
        m.up(x), m.deep(x), F.adaptive_avg_pool2d(x, (3, 5)), F.adaptive_max_pool2d(x, (4, 3)), F.pixel_shuffle(x, 2),
        F.pixel_unshuffle(x, 2), F.interpolate(x, scale_factor=2), F.channel_shuffle(x, 2), F.lp_pool2d(x, 2, 3),
        F.interpolate(x, (7, 5), mode="bilinear"), F.interpolate(x, (4, 9), mode="bilinear", align_corners=True),
        F.interpolate(x, (9, 8), mode="bicubic"), F.avg_pool2d(x, 2, divisor_override=3), F.max_pool2d(x, 3, 1, 1),
        F.dropout2d(x, training=False), F.unfold(x, 1)),
    "several images": lambda m, x: (
        m.conv(torch.cat([x, x * x], 0)).chunk(2)[1],
        m.scaling(x.unflatten(1, (2, 2)).flatten(0, 1)).view(len(x), 2, -1),
        F.max_pool2d(x.reshape(-1, 1, 6, 6), 2).view(x.size(0), -1), m.conv(torch.stack([x, -x]).flatten(0, 1)),
        F.interpolate(x.reshape(-1, 2, 6, 6), scale_factor=2).relu().view(x.size(0), -1)),
    "volumes": lambda m, x: (
        m.solid(x[:, None]), F.avg_pool3d(x[:, None], 2), F.max_pool3d(x[:, None], 2),
        F.interpolate(x[:, None], (4, 5, 7), mode="trilinear"), F.adaptive_avg_pool3d(x[:, None], (3, 4, 5)),
        m.deeper(x[:, None])),
}  # fmt: skip

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "up": lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2, dilation=2),
    "deep": lambda: nn.Conv2d(4, 8, 3, dilation=2, groups=4, padding="same"),
    "conv": lambda: nn.Conv2d(4, 2, 3),
    "scaling": lambda: nn.BatchNorm2d(2),
    "solid": lambda: nn.Conv3d(1, 2, (2, 3, 3), stride=(1, 2, 1), padding=1),
    "deeper": lambda: nn.ConvTranspose3d(1, 2, 2, stride=2),
    "instance": lambda: nn.InstanceNorm1d(4, affine=True),
    "batch": lambda: nn.BatchNorm1d(4),
}

CASES = (
    [(name, f, (4,)) for name, f in VECTORS.items()]
    + [(name, f, (4, 4)) for name, f in MATRICES.items()]
    + [(name, f, (4, 6, 6)) for name, f in IMAGES.items()]
)


def placed(value: np.ndarray, shape: tuple[int, ...], n: int) -> np.ndarray:
    """An output of the net in the shape of the model's, whose samples are an axis, or a factor of the first."""
    if value.shape == shape:
        return value
    if n in shape:
        return np.moveaxis(value, 0, shape.index(n))
    blocks = np.moveaxis(value, 0, 1) if value.ndim == len(shape) + 1 else value
    return blocks.reshape(shape)


@pytest.mark.parametrize("name, function, shape", CASES, ids=[case[0] for case in CASES])
def test_family(name: str, function: Callable[..., Any], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    used = [key for key in LAYERS if key in function.__code__.co_names]
    module = Weighted(function, shape, {key: LAYERS[key]() for key in used}).double().eval()
    generator = torch.Generator().manual_seed(1)
    before, default = torch.get_default_dtype(), torch.float64
    torch.set_default_dtype(default)
    try:
        net = from_torch(module, torch.rand(2, *shape, generator=generator) * 0.8 + 0.1, likelihood="gaussian")
        x = torch.rand(7, *shape, generator=generator) * 0.8 + 0.1
        found = [leaf for leaf in pytree.tree_leaves(module(x)) if isinstance(leaf, torch.Tensor)]
    finally:
        torch.set_default_dtype(before)
    values = net.forward({"x": x.numpy()})
    targets: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(0)
    loss = torch.zeros(())
    for vertex, leaf in zip(net.outputs, found, strict=True):
        expected = leaf.detach().numpy()
        got = placed(values[vertex], expected.shape, 7)
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12, err_msg=vertex)
        push = rng.normal(size=values[vertex].shape)
        targets[vertex] = values[vertex] + push
        loss = loss - (torch.from_numpy(placed(push, expected.shape, 7).copy()) * leaf).sum()
    gradient = torch.autograd.grad(loss, list(module.parameters()))
    got_gradient = gbn.gradient(net, {"x": x.numpy()} | targets)
    for (key, _), want in zip(module.named_parameters(), gradient, strict=True):
        np.testing.assert_allclose(got_gradient[key], want.numpy(), rtol=1e-9, atol=1e-9 * float(want.abs().max() + 1))


RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2),
    "gru": lambda: nn.GRU(3, 4, 2, bias=False, batch_first=True),
    "relu": lambda: nn.RNN(3, 4, nonlinearity="relu", bidirectional=True),
    "cells": lambda: Cells(),
    "long": lambda: nn.RNN(3, 4, batch_first=True),
}


class Cells(nn.Module):
    """A loop of the user's own over cells."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(3, 4), nn.GRUCell(4, 4), nn.RNNCell(4, 2, nonlinearity="relu")

    def forward(self, x):
        h, c = x.new_zeros(x.shape[1], 4), x.new_ones(x.shape[1], 4)
        state, out, rows = None, None, []
        for row in x:
            h, c = self.lstm(row, (h, c))
            state = self.gru(h, state)
            out = self.rnn(state, out)
            rows.append(out)
        return torch.stack(rows), h


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers(name: str) -> None:
    torch.manual_seed(0)
    module = RECURRENT[name]().double().eval()
    axis = 0 if getattr(module, "batch_first", False) else 1
    steps = 20 if name == "long" else 3

    def batch(n: int) -> Any:
        shape = [n, steps, 3] if axis == 0 else [steps, n, 3]
        return torch.randn(shape, generator=torch.Generator().manual_seed(n), dtype=torch.float64)

    net = from_torch(module, batch(2), sample_axis=axis)
    x = batch(7)
    found = [leaf for leaf in pytree.tree_leaves(module(x)) if isinstance(leaf, torch.Tensor)]
    given = {net.inputs[0]: np.moveaxis(x.numpy(), axis, 0)}
    values = net.forward(given)
    for vertex, leaf in zip(net.outputs, found, strict=True):
        np.testing.assert_allclose(placed(values[vertex], tuple(leaf.shape), 7), leaf.detach().numpy(), rtol=1e-10)
    loss = -sum(leaf.sum() for leaf in found)
    expected = torch.autograd.grad(loss, list(module.parameters()))
    got = gbn.gradient(net, given | {vertex: values[vertex] + 1.0 for vertex in net.outputs})
    for (key, _), want in zip(module.named_parameters(), expected, strict=True):
        np.testing.assert_allclose(got[key], want.numpy(), rtol=1e-9, atol=1e-9 * float(want.abs().max()), err_msg=key)


class Whole(nn.Module):
    """Its samples meet: a function of the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3)

    def forward(self, x):
        h = self.conv(x)
        h = torch.tanh(h - h.mean((0, 2), keepdim=True))
        scores = h.flatten(1) @ h.flatten(1).t()
        return torch.softmax(scores, 0).cumsum(0), F.avg_pool1d(h, 2)


def test_the_whole_input_as_one_sample() -> None:
    torch.manual_seed(0)
    module = Whole().double().eval()
    with pytest.raises(ConversionError, match=r"mixes samples(?s:.*)say which axis it is, sample_axis=1, or None"):
        from_torch(module, torch.randn(5, 3, 6))
    net = from_torch(module, torch.randn(5, 3, 6), sample_axis=None, likelihood="gaussian")
    assert net["x"].shape == (5, 3, 6)
    x = torch.randn(4, 5, 3, 6).double()
    values = net.forward({"x": x.numpy()})
    each = [module(row) for row in x]
    for k, vertex in enumerate(net.outputs):
        np.testing.assert_allclose(values[vertex], torch.stack([row[k] for row in each]).detach().numpy(), rtol=1e-10)
    targets = {vertex: values[vertex] + 1.0 for vertex in net.outputs}
    expected = torch.autograd.grad(-sum(y.sum() for row in each for y in row), list(module.parameters()))
    got = gbn.gradient(net, {"x": x.numpy()} | targets)
    for (key, _), want in zip(module.named_parameters(), expected, strict=True):
        np.testing.assert_allclose(got[key], want.numpy(), rtol=1e-9, atol=1e-11)


class Five(Whole):
    def forward(self, x):
        return super().forward(x + torch.arange(5.0, dtype=x.dtype)[:, None, None])


@pytest.mark.parametrize(("kind", "shapes"), [(Whole, None), (Five, ({0: torch.export.Dim.AUTO},))])
def test_a_program_of_fixed_shapes_that_mixes_is_one_sample(kind: type[Whole], shapes: Any) -> None:
    """Of the second, torch keeps a size in symbolic form that the graph has fixed."""
    program = torch.export.export(kind().double().eval(), (torch.randn(5, 3, 6).double(),), dynamic_shapes=shapes)
    with pytest.warns(UserWarning, match="whole of each input is one sample"):
        net = gbn.convert(program)
    assert net["x"].shape == (5, 3, 6)


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_sample_axis(axis: int) -> None:
    """Samples on another axis in the model; on axis 0 in the net."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 4).double()
    module = Weighted(lambda m, x: torch.tanh(m.layer(x.movedim(axis, 0).flatten(2).transpose(1, 2))), (1,),
                      {"layer": layer}).double().eval()  # fmt: skip
    shape = [3, 2, 2]
    shape.insert(axis % 4, 5)
    net = gbn.convert(module, torch.randn(shape), sample_axis=axis)
    assert net["x"].shape == (3, 2, 2)
    x = torch.randn(shape).double()
    values = net.forward({"x": np.moveaxis(x.numpy(), axis, 0)})
    np.testing.assert_allclose(values[net.outputs[0]], module(x).detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize(
    "sample_axis, message", [(3, "with 2 axes"), ((0, 0), "one for each of 1 inputs"), ("x", "'x'")]
)
def test_sample_axes_that_are_none(sample_axis: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=f"sample_axis.*{message}"):
        from_torch(nn.Linear(4, 2).eval(), torch.randn(3, 4), sample_axis=sample_axis)


def test_torch_says_nothing_when_an_export_fails(capfd: pytest.CaptureFixture[str]) -> None:
    branching = Weighted(lambda m, x: x if x.sum() > 0 else -x, (4,), {}).eval()
    with pytest.raises(ConversionError, match="depends on the data"):
        from_torch(branching, torch.randn(3, 4))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
