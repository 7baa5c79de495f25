"""PyTorch models of every common kind, small: what converters are tested on.

``ZOO[name]`` has the module (in evaluation mode, seeded) and its inputs for any number of samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["ZOO", "Model"]


@dataclass(frozen=True)
class Model:
    """A module and what it takes.

    build: makes the module.
    inputs: for each input its shape for one sample without the axis of samples, and the number of classes where it is
        one of integers.
    sample_axis: of each input.
    """

    build: Callable[[], nn.Module]
    inputs: tuple[tuple[tuple[int, ...], int | None], ...]
    sample_axis: int | tuple[int | None, ...] = 0

    def module(self, dtype: torch.dtype) -> nn.Module:
        torch.manual_seed(0)
        module = self.build().eval()
        for layer in module.modules():  # running statistics that are not 0 and 1
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
                layer.running_mean.uniform_(-0.5, 0.5)
                layer.running_var.uniform_(0.5, 2.0)
        return module.to(dtype)

    def example(self, n: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(n)
        found = []
        for k, (shape, classes) in enumerate(self.inputs):
            axis = self.sample_axis[k] if isinstance(self.sample_axis, tuple) else self.sample_axis
            full = list(shape) if axis is None else [*shape[:axis], n, *shape[axis:]]
            if classes is None:
                found.append(torch.randn(full, generator=generator, dtype=torch.float64).to(dtype))
            else:
                found.append(torch.randint(classes, full, generator=generator))
        return tuple(found)


def floats(*shapes: tuple[int, ...]) -> tuple[tuple[tuple[int, ...], None], ...]:
    return tuple((shape, None) for shape in shapes)


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(144, 30), nn.Tanh(), nn.Linear(30, 10),
    )  # fmt: skip


def paper_cnn() -> nn.Module:
    """The convolutional network of arXiv 2006.04182, section 4.1."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.Flatten(),
        nn.Linear(1600, 200), nn.ReLU(), nn.Linear(200, 150), nn.ReLU(), nn.Linear(150, 10),
    )  # fmt: skip


class BasicBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.downsample: nn.Module | None = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """The 18 layers of arXiv 1512.03385 for images of 32 x 32; the paper's width is 64."""

    def __init__(self, width: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        for k in range(1, 5):
            blocks = [BasicBlock(sizes[k - 1], sizes[k], 1 if k == 1 else 2), BasicBlock(sizes[k], sizes[k], 1)]
            setattr(self, f"layer{k}", nn.Sequential(*blocks))
        self.fc = nn.Linear(sizes[-1], classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class UNet(nn.Module):
    """Two levels with skip concatenation; upsampling by interpolation and by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.middle = nn.Conv2d(6, 8, 3, padding=1)
        self.up2 = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.merge2, self.merge1 = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a = F.silu(self.down1(x))
        b = F.silu(self.down2(F.max_pool2d(a, 2)))
        c = F.silu(self.middle(F.max_pool2d(b, 2)))
        b = F.silu(self.merge2(torch.cat([b, self.up2(c)], 1)))
        up = F.interpolate(b, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(F.silu(self.merge1(torch.cat([a, up], 1))))


class Gate(nn.Module):
    """The hard sigmoid in parts: torch's own has a derivative with the digits of single precision only."""

    def forward(self, x):
        return F.relu6(x + 3) / 6


def mobilenet() -> nn.Module:
    """Inverted residuals with depthwise convolutions and squeeze-and-excitation."""

    class Inverted(nn.Module):
        def __init__(self, width: int, stride: int) -> None:
            super().__init__()
            wide = 2 * width
            self.expand = nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish())
            self.depthwise = nn.Sequential(
                nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()
            )
            self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 4, 1), nn.ReLU(),
                                         nn.Conv2d(4, wide, 1), Gate())  # fmt: skip
            self.project = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))
            self.skips = stride == 1

        def forward(self, x):
            h = self.depthwise(self.expand(x))
            h = self.project(h * self.squeeze(h))
            return x + h if self.skips else h

    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), Inverted(4, 1), Inverted(4, 2), nn.Flatten(), nn.Linear(64, 5))


class NamesRNN(nn.Module):
    """Letters of a name to a language: the recurrent network of PyTorch's first tutorials, written step by step."""

    def __init__(self, letters: int = 12, hidden: int = 256, classes: int = 6) -> None:
        super().__init__()
        self.hidden = hidden
        self.i2h, self.h2h = nn.Linear(letters, hidden), nn.Linear(hidden, hidden)
        self.h2o = nn.Linear(hidden, classes)

    def forward(self, name):
        h = name.new_zeros(name.size(0), self.hidden)
        for letter in name.unbind(1):
            h = torch.tanh(self.i2h(letter) + self.h2h(h))
        return F.log_softmax(self.h2o(h), -1)


class CharLSTM(nn.Module):
    """A language model of characters, two layers, times first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(9, 6), nn.LSTM(6, 7, num_layers=2), nn.Linear(7, 9)

    def forward(self, text):
        h, _ = self.lstm(self.embed(text))
        return self.head(h)


class BiGRU(nn.Module):
    """The last states of both directions, and the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, bidirectional=True, batch_first=True)
        self.head = nn.Linear(20, 3)

    def forward(self, x):
        y, h = self.gru(x)
        return self.head(torch.cat([y.mean(1), h.transpose(0, 1).flatten(1)], 1))


class TransformerLM(nn.Module):
    """Two encoder layers over embeddings with positions, causal."""

    def __init__(self, norm_first: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(9, 8), nn.Parameter(0.1 * torch.randn(5, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 12, activation="gelu", batch_first=batch_first, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=False)
        self.head, self.batch_first = nn.Linear(8, 9), batch_first
        for parameter in self.parameters():
            if parameter.dim() == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)

    def forward(self, tokens):
        positions = self.positions if self.batch_first else self.positions[:, None]
        mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=self.positions.dtype)
        return self.head(self.encoder(self.embed(tokens) + positions, mask=mask))


class VisionTransformer(nn.Module):
    """Patches, a class token repeated for every sample, multi-head attention with its weights as a second output."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(1, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, image):
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(image), -1, -1), x], 1)
        y, weights = self.attention(x, x, x)
        return {"classes": self.head(self.norm(x + y)[:, 0]), "weights": weights * 1.0}


class TwoTowers(nn.Module):
    """An image and a vector, compared."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
        self.vector = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, image, vector):
        a, b = self.image(image), self.vector(vector)
        return self.scale * (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(-1), {"image": a + 0, "code": b * b}


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.shift = nn.Linear(6, 3), nn.Parameter(torch.randn(6))

    def forward(self, x):
        return F.linear(torch.sigmoid(self.encode(x)), self.encode.weight.t(), self.shift)


class MixtureDensity(nn.Module):
    """Weights, means and scales of three Gaussians."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 8), nn.ELU()), nn.Linear(8, 9)

    def forward(self, x):
        weight, mean, scale = self.head(self.body(x)).chunk(3, -1)
        return F.softmax(weight, -1), mean, F.softplus(scale) + 1e-3


class TimeDistributed(nn.Module):
    """A convolutional network on each frame, then a recurrent one over frames."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2))
        self.gru, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, video):
        n, t = video.shape[:2]
        features = self.frame(video.reshape(n * t, *video.shape[2:])).flatten(1)
        return self.head(self.gru(features.view(n, t, -1))[0])


class Seq2Seq(nn.Module):
    """An LSTM whose initial states are given; times first for the states, samples first for the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True, proj_size=2)

    def forward(self, x, h, c):
        y, (h, c) = self.lstm(x, (h, c))
        return y, h[-1], c.squeeze(0)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 6), nn.GELU(), nn.Linear(6, 3))


ZOO: dict[str, Model] = {
    "mlp": Model(mlp, floats((5,))),
    "lenet": Model(lenet, floats((1, 20, 20))),
    "paper_cnn": Model(paper_cnn, floats((3, 32, 32))),
    "resnet18": Model(ResNet18, floats((3, 32, 32))),
    "unet": Model(UNet, floats((1, 8, 8))),
    "mobilenet": Model(mobilenet, floats((3, 16, 16))),
    "names_rnn": Model(NamesRNN, floats((4, 12))),
    "char_lstm": Model(CharLSTM, (((5,), 9),), sample_axis=1),
    "bidirectional_gru": Model(BiGRU, floats((4, 4))),
    "transformer": Model(TransformerLM, (((5,), 9),)),
    "transformer_time_first": Model(lambda: TransformerLM(True, False), (((5,), 9),), sample_axis=1),
    "vision_transformer": Model(VisionTransformer, floats((1, 8, 8))),
    "two_towers": Model(TwoTowers, floats((1, 6, 6), (4,))),
    "tied_autoencoder": Model(TiedAutoencoder, floats((6,))),
    "mixture_density": Model(MixtureDensity, floats((4,))),
    "time_distributed": Model(TimeDistributed, floats((3, 1, 6, 6))),
    "seq2seq": Model(Seq2Seq, floats((3, 3), (1, 2), (1, 4)), sample_axis=(0, 1, 1)),
}
