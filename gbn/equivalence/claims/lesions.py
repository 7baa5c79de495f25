"""A net with parts cut, killed, or hard of hearing: what it still does, what it learns anew, and what backprop does.

The same damage is done to both: weights and units lost in the forward and the backward pass; and messages lost on their
way.  Of the former backprop and local messages have the same gradient, that of the net that is left.  Of the latter a
single backward pass knows nothing: what is lost is missing.  Local rounds say it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims import CLAIMS, Finding
from gbn.equivalence.claims.lockstep import accuracy
from gbn.equivalence.claims.networks import tanh_classifier
from gbn.equivalence.claims.precision import digits
from gbn.equivalence.compare import relative_error
from gbn.errors import MissingDependencyError
from gbn.evidence import Evidence
from gbn.inference import gradient
from gbn.inference.fixed_prediction import SCHEDULES, LossyChannel, Rounds
from gbn.linearize import Linearization
from gbn.net import GaussianBayesNet
from gbn.surgery import between_halves, lesion

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["backprop", "experiment", "late", "lost_messages", "retrained"]

Array = np.ndarray[Any, Any]
Data = tuple[Array, Array]


def experiment(
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    drops: Sequence[float] = (0.0, 0.05, 0.1, 0.2, 0.4),
    delays: Sequence[int] = (0, 2, 5, 10),
    *,
    sizes: Sequence[int] = (64, 32, 32, 10),
    train: int = 1200,
    test: int = 450,
    epochs: int = 12,
    again: int = 3,
    learning_rate: float = 3e-3,
    rounds: int = 40,
    repeats: int = 10,
    seed: int = 0,
) -> Finding:
    """Digits under damage, beside backprop under the same.

    Args:
        shares: of the edges between the two halves of the hidden layers, and of hidden units, that are lost.
        drops: probabilities that a message is lost.
        delays: the most rounds by which messages are late, one in ten of them lost.
        sizes: of a tanh network, with two hidden layers or more.
        epochs: of learning before the damage; again: after it, of local messages and of backprop.
        rounds: of local messages where some are lost.
        repeats: over which gradient errors under losses are averaged.

    Raises:
        MissingDependencyError: scikit-learn, or torch, whose backprop it is, is absent.
    """
    rng = np.random.default_rng(seed)
    x, y, held, answers = digits(train, test, rng)
    net = tanh_classifier(sizes, rng)
    options: dict[str, Any] = {"learning_rate": learning_rate, "progress": False}
    net = net.fit({"x": x, "label": y}, "local", epochs=epochs, **options).net
    hidden = [f"h{k}" for k in range(1, len(sizes) - 1)]
    table: list[dict[str, Any]] = []
    for damage in ("edges between the halves", "hidden units"):
        for share in shares if damage != "hidden units" else [s for s in shares if s < 1]:
            lost = between_halves(net, share, seed) if damage != "hidden units" else dict.fromkeys(hidden, share)
            damaged = lesion(net, lost, seed)
            local = damaged.fit({"x": x, "label": y}, "local", epochs=again, **options).net
            exact, _ = backprop(damaged, x[:100], y[:100])
            found = gradient(damaged, {"x": x[:100], "label": y[:100]})
            table.append(
                {
                    "damage": damage,
                    "lost": share,
                    "at once": accuracy(damaged, held, answers),
                    "learned anew, locally": accuracy(local, held, answers),
                    "learned anew, by backprop": retrained(
                        damaged, (x, y), (held, answers), again, learning_rate, seed
                    ),
                    "gradient error, local": max(relative_error(found[n], exact[n]) for n in exact),
                }
            )
    shown = {"x": x[:16], "label": y[:16]}
    messages = [lost_messages(net, shown, drop, rounds, repeats, seed) for drop in drops]
    lates = [late(net, shown, delay, seed) for delay in delays]
    cut = next(row for row in reversed(table) if row["damage"].startswith("edges"))
    worst = max(messages, key=lambda row: row["lost"])
    figures = {
        "before": table[0]["at once"],
        "cut in half": cut["at once"],
        "cut in half, learned anew locally": cut["learned anew, locally"],
        "cut in half, learned anew by backprop": cut["learned anew, by backprop"],
        "gradient error, local, largest": max(row["gradient error, local"] for row in table),
        f"gradient error, one backward pass, {worst['lost']:.0%} lost": worst["one backward pass"],
        f"gradient error, {rounds} local rounds, {worst['lost']:.0%} lost": worst["local rounds"],
    }
    figures |= {f"rounds, up to {row['late']} late": row["rounds"] for row in lates}
    holds = cut["learned anew, locally"] >= figures["before"] - 0.05
    answer = (
        f"With all edges between its halves cut, accuracy falls from {figures['before']:.1%} to {cut['at once']:.1%}, "
        f"and is {cut['learned anew, locally']:.1%} after {again} more epochs of local learning; backprop comes to "
        f"{cut['learned anew, by backprop']:.1%}, for on what is left the two have the same gradient. Where messages "
        f"are lost they differ: with {worst['lost']:.0%} lost, one backward pass is off by "
        f"{worst['one backward pass']:.0%}, {rounds} local rounds by {worst['local rounds']:.1e}. "
        "Delays cost rounds, not the result."
    )
    series = {"messages": messages, "late": lates}
    return Finding(CLAIMS["lesions"].statement, answer, holds, figures, table, series, _draw)


def lost_messages(
    net: GaussianBayesNet, shown: Mapping[str, Any], drop: float, rounds: int, repeats: int, seed: int = 0
) -> dict[str, float]:
    """Error of all gradients together, relative to their norm, where messages are lost: mean over ``repeats``.

    Returns:
        ``lost``: the probability; ``one backward pass``: children before parents, each message sent once, as backprop
        does; ``local rounds``: that many rounds in random order, each vertex using what it heard last.
    """
    exact = gradient(net, shown)
    point = Linearization.forward(Evidence.read(net, shown))
    errors: dict[str, list[float]] = {"one backward pass": [], "local rounds": []}
    for repeat in range(repeats):
        for name, schedule, count in (("one backward pass", "sweep", 1), ("local rounds", "asynchronous", rounds)):
            rng = np.random.default_rng([seed, repeat])
            state = Rounds(point, SCHEDULES[schedule], 1.0, LossyChannel(drop, 0, rng), rng, net.vertices)
            for number in range(count):
                state.step(number)
            heard = state.channel.spoken
            errors[name].append(_together({n: -heard[n] if n in heard else 0 * exact[n] for n in exact}, exact))
    return {"lost": drop, **{name: float(np.mean(found)) for name, found in errors.items()}}


def late(
    net: GaussianBayesNet, shown: Mapping[str, Any], delay: int, seed: int = 0, tol: float = 1e-10
) -> dict[str, float]:
    """Rounds until messages up to ``delay`` rounds late, one in ten of them lost, agree to ``tol``; and their error."""
    post = net.query(
        [], dict(shown), engine="pc", schedule="asynchronous", delay=delay, rng=seed, tol=tol, progress=False
    )
    exact = gradient(net, shown)
    error = _together({n: -post.messages[n] for n in exact}, exact)
    return {
        "late": delay,
        "rounds": float(post.diagnostics["rounds"]),
        "error": error,
        "arrived": float(post.converged),
    }


def _together(found: Mapping[str, Array], exact: Mapping[str, Array]) -> float:
    return float(relative_error(*(np.concatenate([g[n].ravel() for n in exact]) for g in (found, exact))))


def backprop(net: GaussianBayesNet, x: Array, y: Array) -> tuple[dict[str, Array], Any]:
    """Gradients of the summed cross-entropy of a damaged tanh classifier, by torch, and torch's forward pass.

    Raises:
        MissingDependencyError: torch is absent.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("torch", "torch", "backprop beside local messages") from error
    weights = {n: torch.tensor(np.array(net[n].value), requires_grad=True) for n in net.parameters}
    masks = {n.removesuffix(".alive"): torch.tensor(v.value) for n, v in net.vertices.items() if n.endswith(".alive")}

    def forward(images: Any) -> Any:
        h, layer = images, 1
        while True:
            name, read = (f"a{layer}", f"h{layer - 1}" if layer > 1 else "x")
            name = name if name in net else "y"
            weight = weights[f"{name}.{read}.weight"] * masks.get(f"{name}.{read}.weight", 1.0)
            h = h @ weight.T + weights[f"{name}.bias"]
            if name == "y":
                return h
            h = torch.tanh(h) * masks.get(f"h{layer}", 1.0)
            layer += 1

    forward.weights = weights  # type: ignore[attr-defined]
    loss = torch.nn.functional.cross_entropy(forward(torch.tensor(x)), torch.tensor(y), reduction="sum")
    found = torch.autograd.grad(loss, list(weights.values()))
    return {n: g.numpy() for n, g in zip(weights, found, strict=True)}, forward


def retrained(
    net: GaussianBayesNet, train: Data, test: Data, epochs: int, learning_rate: float, seed: int = 0
) -> float:
    """Held-out accuracy of a damaged tanh classifier after some epochs of torch's backprop and Adam.

    Raises:
        MissingDependencyError: torch is absent.
    """
    _, forward = backprop(net, train[0][:1], train[1][:1])
    import torch

    x, y = (torch.tensor(a) for a in train)
    optimizer = torch.optim.Adam(forward.weights.values(), lr=learning_rate)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), 32):
            rows = order[start : start + 32]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(forward(x[rows]), y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return float((forward(torch.tensor(test[0])).numpy().argmax(axis=1) == test[1]).mean())


def _draw(finding: Finding, ax: Axes) -> None:
    styles = {"at once": ":", "learned anew, locally": "o-", "learned anew, by backprop": "x--"}
    for colour, damage in enumerate(dict.fromkeys(row["damage"] for row in finding.table)):
        rows = [row for row in finding.table if row["damage"] == damage]
        for name, style in styles.items():
            lost, kept = [row["lost"] for row in rows], [row[name] for row in rows]
            ax.plot(lost, kept, style, color=f"C{colour}", label=f"{damage}: {name}")
    ax.set(xlabel="share lost", ylabel="held-out accuracy", ylim=(0, 1.02))
    ax.legend(fontsize="x-small", loc="lower left")
