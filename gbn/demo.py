"""The main job in one run: two trained networks become Bayes nets, answer questions, and are compared with backprop.

On scikit-learn's digits: ``python -m gbn.demo [--report report.html]``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbn.conversion import convert
from gbn.display import html
from gbn.equivalence import Report, compare
from gbn.gaussian import Gaussian
from gbn.net import GaussianBayesNet

__all__ = ["Digits", "digits", "impute", "main", "train"]

Array = np.ndarray[Any, Any]
_SHOWN = 8


@dataclass(frozen=True)
class Digits:
    """Images, shape (n, 1, 8, 8), pixels from 0 to 1, and their labels, shape (n,); split for training and test."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


def digits() -> Digits:
    """scikit-learn's 8x8 digits, a quarter of them held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    images = (x / 16).reshape(-1, 1, 8, 8)
    train_x, test_x, train_y, test_y = train_test_split(images, y, test_size=0.25, random_state=0, stratify=y)
    return Digits(train_x, train_y, test_x, test_y)


def mlp() -> Any:
    """64-32-16-10 with tanh."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 10))


def cnn() -> Any:
    """Two convolutions with batch normalisation and pooling, then a linear read-out."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def train(module: Any, data: Digits, epochs: int = 12, seed: int = 0) -> float:
    """Train with Adam and return the test accuracy; the module is left in evaluation mode, in float64."""
    import torch
    from tqdm import tqdm

    torch.manual_seed(seed)
    module.double().train()
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    for _ in tqdm(range(epochs), desc=f"training {type(module).__name__}", leave=False, disable=None):
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
    module.eval()
    with torch.no_grad():
        guess = module(torch.from_numpy(data.test_x)).argmax(dim=1).numpy()
    return float((guess == data.test_y).mean())


def with_pixel_prior(net: GaussianBayesNet, images: Array, ridge: float = 1e-3) -> GaussianBayesNet:
    """A copy of the net whose input has the Gaussian prior fitted to these images, so that pixels may be missing."""
    flat = images.reshape(len(images), -1)
    out = net.copy()
    cov = np.cov(flat, rowvar=False) + ridge * np.eye(flat.shape[1])
    out.set_prior(net.inputs[0], flat.mean(axis=0).reshape(images.shape[1:]), cov)
    return out


@dataclass(frozen=True)
class Imputation:
    """Missing pixels inferred, by what they were inferred from.

    mean, std: shape (n, 1, 8, 8); rmse: over the missing pixels; log_prob: of the true missing pixels, nats an image;
    coverage: share of them within the central 90 % interval.
    """

    title: str
    mean: Array
    std: Array
    rmse: float
    log_prob: float
    coverage: float


def lower_half_missing(images: Array) -> Array:
    """The images with the lower four rows NaN."""
    partial = images.copy()
    partial[:, :, 4:] = np.nan
    return partial


def impute(net: GaussianBayesNet, title: str, images: Array, evidence: dict[str, Any]) -> Imputation:
    """Infer the lower half of images from the evidence, and score it against the truth."""
    name = net.inputs[0]
    post = net.query([name], evidence, operating_point="equilibrium")
    missing = np.arange(32, 64)
    truth, mean = images.reshape(len(images), -1), post.mean[name].reshape(len(images), -1)
    std, cov = post.std[name].reshape(len(images), -1), post.cov(name)
    gap = (truth - mean)[:, missing]
    densities = [
        Gaussian(m[missing], c[np.ix_(missing, missing)]).log_prob(t[missing])
        for m, c, t in zip(mean, cov, truth, strict=True)
    ]
    inside = np.abs(gap) <= 1.6449 * std[:, missing]
    rmse = float(np.sqrt((gap * gap).mean()))
    return Imputation(title, post.mean[name], post.std[name], rmse, float(np.mean(densities)), float(inside.mean()))


def _hidden_rows(name: str, net: GaussianBayesNet, data: Digits, rows: int) -> list[list[Any]]:
    """For each hidden vertex with noise: its spread, and how far its mean moves when it learns the label.

    Images that the network gets wrong contradict their label, and the hidden layers have to give way.
    """
    image = {net.inputs[0]: data.test_x}
    guess = net.forward(image)[net.outputs[0]].argmax(axis=1)
    wrong = np.flatnonzero(guess != data.test_y)[: rows // 2]
    right = np.flatnonzero(guess == data.test_y)[: rows - len(wrong)]
    chosen = np.concatenate([right, wrong])
    image = {net.inputs[0]: data.test_x[chosen]}
    before = net.query(list(net.latents), image)
    after = net.query(list(net.latents), image | {net.labels[0]: data.test_y[chosen]})
    table = []
    for vertex in net.latents:
        moved = np.abs(after.mean[vertex] - before.mean[vertex]) / before.std[vertex]
        by_image = moved.reshape(len(chosen), -1).max(axis=1)
        table.append([
            name, vertex, str(net[vertex].shape), float(before.std[vertex].mean()), float(after.std[vertex].mean()),
            float(by_image[: len(right)].mean()), float(by_image[len(right) :].mean()),
        ])  # fmt: skip
    return table


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    cells = [list(columns), *([f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    print(f"\n{title}")
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _stage(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_HIDDEN = ["net", "vertex", "shape", "std given image", "and label", "shift / std, right", "shift / std, wrong"]
_MISSING = ["inferred from", "RMSE", "log-density (nats/image)", "in 90 % interval"]
_GRADIENT = ["net", "engine", "relative error", "cosine", "passes", "time / backprop", "equal"]


def _comparisons(nets: dict[str, Any], data: Digits) -> list[tuple[str, Report]]:
    x, y = data.train_x[:64], data.train_y[:64]
    reports = []
    for name, module in nets.items():
        reports.append((name, compare(module, x, y, loss="cross_entropy")))
        slow: dict[str, Any] = {"schedule": "parallel", "step_size": 0.1, "max_rounds": 100}
        reports.append((name, compare(module, x, y, loss="cross_entropy", **slow)))
    return reports


def _gradient_row(name: str, report: Report) -> list[Any]:
    kind = "sweep, step 1" if not report.options else "parallel, step 0.1, 100 rounds"
    ratio = float("nan") if report.time_ratio is None else report.time_ratio
    figures = report.overall
    equal = "yes" if report.agrees else "no"
    return [name, kind, figures["relative_error"], figures["cosine"], report.passes, ratio, equal]


def _pictures(truth: Array, imputations: Sequence[Imputation]) -> html.Markup:
    partial = lower_half_missing(truth)

    def strip(title: str, images: Array, limits: tuple[float, float] = (0.0, 1.0)) -> html.Markup:
        tiles = [html.image(image[0], limits=limits, scale=6, diverging=False) for image in images[:_SHOWN]]
        return html.Markup(f"<h3>{html.escape(title)}</h3>" + "".join(tiles))

    strips = [strip("the image", truth), strip("what is observed", partial)]
    for item in imputations[1:]:
        strips.append(strip(f"{item.title}: posterior mean", item.mean.clip(0, 1)))
        strips.append(strip(f"{item.title}: posterior standard deviation", item.std, (0.0, 0.4)))
    return html.Markup("".join(strips))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns 0 when local messages equal backprop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", metavar="PATH", help="write the tables and pictures to one HTML file")
    parser.add_argument("--rows", type=int, default=64, help="test images used in queries (default 64)")
    arguments = parser.parse_args(argv)
    start, data = time.perf_counter(), digits()
    modules: dict[str, Any] = {"MLP": mlp(), "CNN": cnn()}
    accuracy = {}
    for name, module in modules.items():
        _stage(f"training the {name} ...")
        accuracy[name] = train(module, data)
    _stage("converting ...")
    nets = {
        name: convert(module, data.train_x[:2], noise=0.05, likelihood="categorical")
        for name, module in modules.items()
    }
    summary = [
        [name, f"{accuracy[name]:.1%}", len(net), len(net.parameters), len(net.latents)] for name, net in nets.items()
    ]
    trained = ["network", "test accuracy", "vertices", "parameters", "hidden vertices with noise"]
    _print_table("Trained networks, read as Gaussian Bayes nets", trained, summary)

    _stage("asking for hidden layers, given image and label ...")
    hidden = [row for name, net in nets.items() for row in _hidden_rows(name, net, data, arguments.rows)]
    _print_table("Posterior of hidden layers, given an image, then its label too", _HIDDEN, hidden)

    _stage("asking for the lower half of images ...")
    truth, labels = data.test_x[: arguments.rows], data.test_y[: arguments.rows]
    imputations = _impute_all(nets, data, truth, labels)
    missing = [[item.title, item.rmse, item.log_prob, f"{item.coverage:.0%}"] for item in imputations]
    _print_table("The missing lower half of held-out images", _MISSING, missing)

    _stage("comparing local messages with backprop ...")
    reports = _comparisons(modules, data)
    gradients = [_gradient_row(name, report) for name, report in reports]
    _print_table("Gradients by local messages, beside backprop of the original network", _GRADIENT, gradients)
    sweeps = [report for _, report in reports if not report.options]
    if arguments.report:
        sections: list[Any] = [
            html.Markup("<h2>The networks</h2>"), html.table(trained, summary),
            html.Markup("<h2>Hidden layers have posteriors</h2>"), html.table(_HIDDEN, hidden),
            html.Markup("<h2>Missing pixels can be inferred</h2>"), html.table(_MISSING, missing),
            _pictures(truth, imputations),
            html.Markup("<h2>Local messages are backprop's gradients</h2>"), html.table(_GRADIENT, gradients),
            *[html.report_html(report) for report in sweeps],
            html.Markup("<h2>The net of the MLP</h2>"), html.net_html(nets["MLP"]),
        ]  # fmt: skip
        with open(arguments.report, "w", encoding="utf-8") as file:
            file.write(html.page("A neural network, read as a Gaussian Bayes net", *sections))
        print(f"\nwritten: {arguments.report}")
    print(f"\n{time.perf_counter() - start:.0f} s. " + " ".join(report.verdict for report in sweeps))
    return 0 if all(report.agrees for report in sweeps) else 1


def _impute_all(nets: dict[str, GaussianBayesNet], data: Digits, truth: Array, labels: Array) -> list[Imputation]:
    """From less to more evidence: nothing, the upper half, then the label through each net."""
    known = {name: with_pixel_prior(net, data.train_x) for name, net in nets.items()}
    partial = lower_half_missing(truth)
    first = known["MLP"]
    results = [
        impute(first, "the prior (mean image)", truth, {first.inputs[0]: np.full_like(truth, np.nan)}),
        impute(first, "upper half", truth, {first.inputs[0]: partial}),
    ]
    for name, net in known.items():
        both = {net.inputs[0]: partial, net.labels[0]: labels}
        results.append(impute(net, f"upper half and label, {name}", truth, both))
    return results


if __name__ == "__main__":
    sys.exit(main())
