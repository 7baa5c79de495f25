"""Training by local messages beside torch's backprop: the same initial weights, batches and optimiser, in float64.

Digits are scikit-learn's of 8x8 pixels, for the paper's CNN upscaled to 32x32; images, names and text are generated:
images are a smooth pattern of their class, moved about in noise; names are strings of a random Markov chain of letters,
one chain a language; text is words, drawn by Zipf's law from a lexicon.  Loss is that of an epoch's batches, each
before its step, and accuracy that of held-out rows (of the LSTM: of the next letter).  The gap is the largest over
parameters of ‖ours - torch's‖ / ‖torch's‖ after the last step; seconds are of one whole run of either, without the
passes that measure, one after the other in one process.

Usage: python benchmarks/training.py [--epochs 8] [--cases mlp cnn-digits cnn-images names-rnn char-lstm]
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import gbn  # noqa: E402
from gbn.learning.optimizers import SGD, Adam  # noqa: E402

Array = np.ndarray[Any, Any]
# Loss and accuracy of each epoch.
Curves = tuple[list[float], list[float]]
LETTERS = 26


@dataclass(frozen=True)
class Case:
    """A model and its data, the first rows of which are learned from.

    Attributes:
        x: shape (rows, ...).
        y: classes, shape (rows,), or (rows, length) where there is one for every letter.
        rate: of Adam, or with ``momentum`` of SGD.
    """

    model: nn.Module
    x: Array
    y: Array
    learned_from: int
    rate: float
    momentum: float | None = None
    batch: int = 32

    @property
    def labels(self) -> int:
        """Labels of a row: torch's loss is the mean over them, too."""
        return int(np.prod(self.y.shape[1:]))

    def train(self) -> tuple[Array, Array]:
        return self.x[: self.learned_from], self.y[: self.learned_from]

    def accuracy(self, predict: Callable[[Array], Array]) -> float:
        """Of held-out rows; classes are axis 1 of what is predicted."""
        return float((predict(self.x[self.learned_from :]).argmax(1) == self.y[self.learned_from :]).mean())


class Recurrent(nn.Module):
    """Letters in, the language out after the last one."""

    def __init__(self, letters: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.cell, self.out = nn.RNN(letters, hidden, batch_first=True), nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.cell(x)[0][:, -1])  # type: ignore[no-any-return]


class LSTM(nn.Module):
    """The next letter after every letter, classes on axis 1."""

    def __init__(self, letters: int, hidden: int) -> None:
        super().__init__()
        self.cell, self.out = nn.LSTM(letters, hidden, batch_first=True), nn.Linear(hidden, letters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.cell(x)[0]).transpose(1, 2)  # type: ignore[no-any-return]


def paper_cnn(channels: int) -> nn.Sequential:
    """The convolutional network of arXiv 2006.04182, section 4.1, for images of 32x32 pixels."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.Flatten(),
        nn.Linear(1600, 200), nn.ReLU(), nn.Linear(200, 150), nn.ReLU(), nn.Linear(150, 10),
    )  # fmt: skip


def digits(rng: np.random.Generator, rows: int) -> tuple[Array, Array]:
    x, y = load_digits(return_X_y=True)
    order = rng.permutation(len(x))[:rows]
    return x[order] / 16, y[order]


def mlp(rng: np.random.Generator) -> Case:
    model = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 10))
    return Case(model.double(), *digits(rng, 1797), 1347, rate=0.05, momentum=0.9)


def cnn_digits(rng: np.random.Generator) -> Case:
    x, y = digits(rng, 900)
    grown = functional.interpolate(torch.as_tensor(x.reshape(-1, 1, 8, 8)), size=(32, 32), mode="bilinear")
    return Case(paper_cnn(1).double(), grown.numpy(), y, 600, rate=1e-3)


def cnn_images(rng: np.random.Generator) -> Case:
    coarse = torch.as_tensor(rng.normal(size=(10, 3, 6, 6)))
    patterns = functional.interpolate(coarse, size=(32, 32), mode="bicubic").numpy()
    y = rng.integers(0, 10, 900)
    moved = [np.roll(patterns[k], rng.integers(-4, 5, 2), axis=(1, 2)) for k in y]
    return Case(paper_cnn(3).double(), np.array(moved) + rng.normal(size=(900, 3, 32, 32)), y, 600, rate=1e-3)


def strings(chains: Array, length: int, rng: np.random.Generator) -> Array:
    """A string of each chain, as codes of letters.  Shapes: chains (rows, letters, letters), result (rows, length)."""
    found = [rng.integers(0, LETTERS, len(chains))]
    while len(found) < length:
        reached = chains[np.arange(len(chains)), found[-1]].cumsum(axis=1)
        found.append((rng.random((len(chains), 1)) > reached[:, :-1]).sum(axis=1))
    return np.stack(found, axis=1)


def names_rnn(rng: np.random.Generator) -> Case:
    chains = rng.dirichlet(np.full(LETTERS, 0.1), size=(5, LETTERS))
    language = rng.integers(0, 5, 1800)
    letters = np.eye(LETTERS)[strings(chains[language], 8, rng)]
    return Case(Recurrent(LETTERS, 256, 5).double(), letters, language, 1200, rate=1e-3)


def char_lstm(rng: np.random.Generator) -> Case:
    chain = rng.dirichlet(np.full(LETTERS, 0.3), size=LETTERS)
    # The last code is the space between words.
    lexicon = [[*strings(chain[None], rng.integers(2, 8), rng)[0], LETTERS] for _ in range(60)]
    chance = 1 / np.arange(1, 61)
    text = np.concatenate([lexicon[k] for k in rng.choice(60, 6000, p=chance / chance.sum())])
    codes = text[: 900 * 21].reshape(900, 21)
    model = LSTM(LETTERS + 1, 64).double()
    return Case(model, np.eye(LETTERS + 1)[codes[:, :-1]], codes[:, 1:], 600, rate=5e-3)


CASES: dict[str, tuple[str, Callable[[np.random.Generator], Case]]] = {
    "mlp": ("MLP 64-100-100-10, digits", mlp),
    "cnn-digits": ("CNN of the paper, digits", cnn_digits),
    "cnn-images": ("CNN of the paper, images", cnn_images),
    "names-rnn": ("RNN, hidden 256, names", names_rnn),
    "char-lstm": ("LSTM, hidden 64, text", char_lstm),
}


def by_torch(case: Case, epochs: int, curves: Curves | None = None) -> nn.Module:
    """The model trained by backprop; what it passes through goes to ``curves``."""
    model, order = copy.deepcopy(case.model), np.random.default_rng(0)
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), case.rate)
    if case.momentum is not None:
        optimizer = torch.optim.SGD(model.parameters(), case.rate, momentum=case.momentum)
    x, y = (torch.as_tensor(array) for array in case.train())
    for _ in range(epochs):
        total = 0.0
        for rows in torch.as_tensor(order.permutation(len(x))).split(case.batch):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        if curves is not None:
            curves[0].append(total / len(x))
            curves[1].append(case.accuracy(lambda rows: model(torch.as_tensor(rows)).detach().numpy()))
    return model


def by_messages(case: Case, net: gbn.GaussianBayesNet, epochs: int, checkpoint: str | None = None) -> Any:
    x, y = case.train()
    optimizer = Adam(case.rate) if case.momentum is None else SGD(case.rate, momentum=case.momentum)
    return net.fit(
        {net.inputs[0]: x, net.labels[0]: y}, "local", optimizer=optimizer, batch_size=case.batch, epochs=epochs,
        scale=1 / case.labels, seed=0, progress=False, checkpoint=checkpoint,
    )  # fmt: skip


def curves_of(case: Case, net: gbn.GaussianBayesNet, epochs: int) -> Curves:
    """Epoch by epoch: a fit with a checkpoint goes on as if it had not stopped."""
    accuracy = []
    with tempfile.TemporaryDirectory() as folder:
        for epoch in range(1, epochs + 1):
            result = by_messages(case, net, epoch, os.path.join(folder, "fit"))
            learned = result.net
            accuracy.append(case.accuracy(lambda x, n=learned: n.forward({n.inputs[0]: x})[n.outputs[0]]))
    return [entry["free_energy"] / case.labels for entry in result.history[1:]], accuracy


def measure(title: str, make: Callable[[np.random.Generator], Case], epochs: int) -> str:
    """The line of the table; prints the curves."""
    torch.manual_seed(0)
    case = make(np.random.default_rng(0))
    # Fixed prediction takes no notice of hidden noises; of this variance they add nothing to the free energy, either.
    net = gbn.convert(case.model, torch.as_tensor(case.x[:2]), likelihood="categorical", noise=1 / (2 * np.pi))
    theirs: Curves = ([], [])
    by_torch(case, epochs, theirs)
    print(title)
    for who, (loss, accuracy) in {"messages": curves_of(case, net, epochs), "torch": theirs}.items():
        print(f"  {who:8s} loss    " + "".join(f"{value:9.5f}" for value in loss))
        print(f"  {who:8s} accuracy" + "".join(f"{value:9.4f}" for value in accuracy), flush=True)
    start = time.perf_counter()
    trained = by_torch(case, epochs)
    between = time.perf_counter()
    result = by_messages(case, net, epochs)
    torch_s, gbn_s = between - start, time.perf_counter() - between
    gap = 0.0
    for name, parameter in trained.named_parameters():
        expected = parameter.detach().numpy()
        gap = max(gap, float(np.linalg.norm(result.net[name].value - expected) / np.linalg.norm(expected)))
    steps = result.diagnostics["steps"]
    return f"{title:28s} {steps:6d} {gap:10.1e} {torch_s:9.2f} {gbn_s:9.2f} {gbn_s / torch_s:10.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Training by local messages beside torch's backprop.")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [measure(*CASES[name], args.epochs) for name in args.cases]
    print(f"\n{'network':28s} {'steps':>6s} {'gap':>10s} {'torch s':>9s} {'gbn s':>9s} {'gbn/torch':>10s}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
