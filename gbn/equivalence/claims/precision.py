"""A large error at the top is surprise, at the bottom override: what precision decides, level by level.

Where evidence from below contradicts expectation from above, the most probable explanation spreads the contradiction
over the levels between them.  In a chain of unit weights each level takes the share of the total variance that is its
own, so that the least precise level gives way: the bottom one (the senses are overridden), or the top one (the
expectation is given up).  The same errors, in nats, tell how strange an input is, and to which level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from gbn.equivalence.claims.finding import Finding
from gbn.errors import MissingDependencyError
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["auroc", "classifier", "contradiction", "digits", "experiment", "generator", "kinds", "max_softmax"]

Array = np.ndarray[Any, Any]
CLAIM = "A large error at the top is surprise, at the bottom override."
LEVELS = ("top", "middle", "bottom")
_CLASS = 0.1


def contradiction(variances: Sequence[float], expected: float = 1.0, sensed: float = -1.0) -> dict[str, float]:
    """Expectation → two hidden levels → senses, with a variance for each of the three steps.

    Returns:
        the share of the squared precision-weighted errors that "top", "middle" and "bottom" take, and "percept", where
        the level next to the senses ends up.
    """
    net = GaussianBayesNet()
    net.add_input("expectation", 1)
    for name, parent, variance in zip(LEVELS, ("expectation", *LEVELS[:2]), variances, strict=True):
        net.add_linear(name, {parent: [[1.0]]}, cov=float(variance))
    post = net.query(LEVELS, {"expectation": [expected], "bottom": [sensed]})
    rest = net.query(LEVELS, {"expectation": [expected], "bottom": [expected]})
    # Surprise without any error is the constant ½ log 2πQ.
    errors = [float((post.surprise[name] - rest.surprise[name])[0]) for name in LEVELS]
    shares = {name: error / sum(errors) for name, error in zip(LEVELS, errors, strict=True)}
    return shares | {"percept": float(post.mean["middle"][0, 0])}


def digits(train: int, test: int, rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """Images of 8 x 8 pixels from 0 to 1, and labels: for training and for testing.

    Raises:
        MissingDependencyError: scikit-learn, which ships them, is absent.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", "sklearn", "the digits of this experiment") from error
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(images))
    first, second = order[:train], order[train : train + test]
    return images[first] / 16, labels[first], images[second] / 16, labels[second]


def generator(images: Array, labels: Array, rng: np.random.Generator, units: int = 16) -> GaussianBayesNet:
    """class → h → x, linear, learned by exact EM with the classes observed; classes have a prior of their own."""
    net = GaussianBayesNet()
    net.add_input("class", 10, mean=0.1, cov=_CLASS)
    net.add_linear("h", {"class": 0.3 * rng.normal(size=(units, 10))}, bias=np.zeros(units), cov=np.full(units, 0.5))
    start = 0.1 * rng.normal(size=(images.shape[1], units))
    net.add_linear("x", {"h": start}, bias=images.mean(axis=0), cov=0.05)
    observed = {"class": np.eye(10)[labels], "x": images}
    return net.fit(observed, freeze=["class"], max_iter=200, tol=1e-4, progress=False).net


def classifier(images: Array, labels: Array, rng: np.random.Generator, epochs: int = 20) -> GaussianBayesNet:
    """x → tanh layer → logits → label, learned by local messages, which here are backprop's."""
    size = images.shape[1]
    net = GaussianBayesNet()
    net.add_input("x", size)
    net.add_linear("a", {"x": rng.normal(size=(32, size)) / np.sqrt(size)}, bias=np.zeros(32), cov=0.01)
    net.add("h", "Tanh", ["a"])
    net.add_linear("logits", {"h": rng.normal(size=(10, 32)) / 6}, bias=np.zeros(10))
    net.add_likelihood("label", "categorical", "logits")
    data = {"x": images, "label": labels}
    return net.fit(data, "local", epochs=epochs, learning_rate=5e-3, progress=False).net


def kinds(
    net: GaussianBayesNet, images: Array, labels: Array, strength: float, rng: np.random.Generator
) -> dict[str, Array]:
    """Normal digits, and what may befall them: moved by a pixel, turned, made adversarial, or replaced by noise.

    Adversarial: a step of that strength along the sign of the loss's gradient in each pixel, which is minus the message
    at the input (Goodfellow, Shlens & Szegedy, ICLR 2015).
    """
    square = images.reshape(-1, 8, 8)
    message = net.query([], {"x": images, "label": labels}, engine="pc").messages["x"]
    return {
        "normal": images,
        "moved": np.roll(square, 1, axis=2).reshape(images.shape),
        "turned": np.rot90(square, axes=(1, 2)).reshape(images.shape),
        "adversarial": np.clip(images - strength * np.sign(message), 0, 1),
        "noise": np.asarray(rng.uniform(0, 1, size=images.shape)),
    }


def max_softmax(net: GaussianBayesNet, images: Array) -> Array:
    """How unsure the classifier is: one less its largest probability.  Shape: (samples,)."""
    return np.asarray(1 - net.forward({"x": images})["label"].max(axis=1))


def auroc(normal: Array, strange: Array) -> float:
    """The probability that a strange score is above a normal one, ties counting half."""
    ranks = stats.rankdata(np.concatenate([normal, strange]))[len(normal) :]
    return float((ranks.sum() / len(strange) - (len(strange) + 1) / 2) / len(normal))


def experiment(
    *,
    train: int = 1000,
    test: int = 500,
    strength: float = 0.15,
    seed: int | np.random.Generator = 0,
) -> Finding:
    """A contradiction between expectation and senses under different precisions; then surprise on digits, by level.

    Args:
        train, test: numbers of images.
        strength: of the adversarial step in each pixel, of a range from 0 to 1.
    """
    rng = np.random.default_rng(seed)
    told = {weak: contradiction([4.0 if name == weak else 0.5 for name in LEVELS]) for weak in LEVELS}
    images, labels, held, answers = digits(train, test, rng)
    model, judge = generator(images, labels, rng), classifier(images, labels, rng)
    sets = kinds(judge, held, answers, strength, rng)
    surprise = {name: _surprise(model, x) for name, x in sets.items()}
    unsure = {name: max_softmax(judge, x) for name, x in sets.items()}
    right = {name: float((judge.forward({"x": x})["label"].argmax(1) == answers).mean()) for name, x in sets.items()}
    usual = {level: np.median(values) for level, values in surprise["normal"].items()}
    table: list[dict[str, Any]] = [
        {
            "input": name,
            "classified right": right[name] if name != "noise" else np.nan,
            **{f"surprise at {level}": float(np.median(surprise[name][level]) - usual[level]) for level in usual},
            "AUROC, surprise": auroc(surprise["normal"]["all"], surprise[name]["all"]),
            "AUROC, max-softmax": auroc(unsure["normal"], unsure[name]),
        }
        for name in sets
    ]
    figures = {f"contradiction, weak {weak}: share of the {weak}": told[weak][weak] for weak in LEVELS}
    figures |= {f"percept, weak {weak}": told[weak]["percept"] for weak in LEVELS}
    for row in table[1:]:
        for score in ("surprise", "max-softmax"):
            figures[f"AUROC, {row['input']}, {score}"] = row[f"AUROC, {score}"]
    better = [row["input"] for row in table[1:] if row["AUROC, surprise"] > row["AUROC, max-softmax"]]
    answer = (
        f"The least precise level takes the error: {told['bottom']['bottom']:.0%} at the bottom where the senses are "
        f"weak (the percept is overridden, to {told['bottom']['percept']:+.2f} of -1), {told['top']['top']:.0%} at the "
        f"top where the expectation is (the percept stays at {told['top']['percept']:+.2f}). It depends on precision, "
        "not on the level as such. On digits, surprise tells strange inputs from normal ones better than max-softmax "
        f"does for {len(better)} of {len(table) - 1} kinds ({', '.join(better) or 'none'})."
    )
    series = {"surprise": surprise, "unsure": unsure, "usual": usual, "sets": sets, "told": told}
    return Finding(CLAIM, answer, None, figures, table, series, _draw)


def _surprise(net: GaussianBayesNet, images: Array) -> dict[str, Array]:
    """Level -> nats of the errors at the most probable explanation, and "all": -log p(image).  Shape: (samples,)."""
    post = net.query(["class"], {"x": images})
    return {**{name: post.surprise[name] for name in ("x", "h", "class")}, "all": -post.log_evidence}


def _draw(finding: Finding, ax: Axes) -> None:
    rows = [row for row in finding.table if row["input"] != "normal"]
    where = np.arange(len(rows))
    for shift, score in ((-0.2, "AUROC, surprise"), (0.2, "AUROC, max-softmax")):
        ax.bar(where + shift, [row[score] for row in rows], width=0.38, label=score.removeprefix("AUROC, "))
    ax.axhline(0.5, color="k", linestyle=":", linewidth=1)
    ax.set(xticks=where, ylim=(0, 1.05), ylabel="AUROC", title="telling strange inputs from normal digits")
    ax.set_xticklabels([str(row["input"]) for row in rows])
    ax.legend(loc="lower right")
