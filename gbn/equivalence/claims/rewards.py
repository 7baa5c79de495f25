"""Adding up rewards: the discounted return as a linear-Gaussian net, and the value of states as a query.

The value of a state is what the sum r_t + γ r_{t+1} + γ² r_{t+2} + … is expected to be.  Sums are linear, so that
values are vertices like any other, in three nets that differ in what they take for noise:

- "planning": unknown mean rewards r, transitions as counted, v_{k+1} = r + γ P̂ v_k deterministic, rewards observed
  with noise.  Least-squares temporal differences (Bradtke & Barto, Machine Learning 22, 1996) is its mean.
- "returns": returns G_t = V(s_t) + noise, rewards observed as G_t - γ G_{t+1} (Engel, Mannor & Meir, ICML 2005).
- "residuals": rewards observed as V(s_t) - γ V(s_{t+1}) + noise of their own, which takes the chance of the next state
  for noise of the reward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims.finding import Finding
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["World", "experiment", "planning", "residuals", "returns", "temporal_differences"]

Array = np.ndarray[Any, Any]
CLAIM = "Adding up rewards isn't natural in graphical models."
_PRIOR = 1e6
_FORGOTTEN = 1e-10
_READING = 1e-6
_NINETY = 1.6448536269514722


@dataclass(frozen=True)
class World:
    """A Markov reward process: a walk on a ring that mostly goes ahead.

    transitions: shape (states, states), from row to column.
    rewards: mean of the reward on leaving a state.  Shape: (states,).
    noise: standard deviation of a reward.
    """

    transitions: Array
    rewards: Array
    noise: float
    discount: float

    @classmethod
    def ring(cls, states: int = 8, noise: float = 0.5, discount: float = 0.9) -> World:
        """Two places are good, one is bad."""
        eye = np.eye(states)
        transitions = 0.6 * np.roll(eye, 1, axis=1) + 0.25 * np.roll(eye, -1, axis=1) + 0.15 * eye
        rewards = np.zeros(states)
        rewards[[1, states // 2, states - 2]] = 2.0, -3.0, 1.0
        return cls(transitions, rewards, noise, discount)

    def values(self, transitions: Array | None = None) -> Array:
        """(I - γ P)⁻¹ r.  Shape: (states,)."""
        p = self.transitions if transitions is None else transitions
        return np.linalg.solve(np.eye(len(p)) - self.discount * p, self.rewards)

    def walk(self, steps: int, rng: np.random.Generator) -> Array:
        """States visited.  Shape: (steps + 1,)."""
        path = [0]
        for _ in range(steps):
            path.append(int(rng.choice(len(self.rewards), p=self.transitions[path[-1]])))
        return np.array(path)

    def reap(self, path: Array, rows: int, rng: np.random.Generator) -> Array:
        """Rewards along a path, drawn anew in every row.  Shape: (rows, steps)."""
        means = self.rewards[path[:-1]]
        return np.asarray(means + self.noise * rng.standard_normal((rows, len(means))))


def temporal_differences(path: Array, rewards: Array, states: int, discount: float) -> Array:
    """LSTD(0): w with Φᵀ(Φ - γ Φ') w = Φᵀ r, Φ the indicators of states.  Shape: (states,)."""
    here, there = np.eye(states)[path[:-1]], np.eye(states)[path[1:]]
    return np.linalg.solve(here.T @ (here - discount * there), here.T @ rewards)


def counted(path: Array, states: int) -> Array:
    """Frequencies of transitions.  Shape: (states, states)."""
    counts = np.zeros((states, states))
    np.add.at(counts, (path[:-1], path[1:]), 1.0)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def planning(world: World, path: Array) -> tuple[GaussianBayesNet, str]:
    """The net of rewards and discounted sums, and the name of its values."""
    states, discount = len(world.rewards), world.discount
    net = GaussianBayesNet()
    net.add_input("r", states, mean=0.0, cov=_PRIOR)
    net.add_parameter("one", np.eye(states))
    net.add_parameter("next", discount * counted(path, states))
    net.add_linear("rewards", {"r": np.eye(states)[path[:-1]]}, cov=world.noise**2)
    last = "r"
    for k in range(1, math.ceil(math.log(_FORGOTTEN) / math.log(discount))):
        last = net.add_linear(f"v{k}", {"r": "one", last: "next"})
    return net, last


def returns(world: World, path: Array, spread: float) -> tuple[GaussianBayesNet, str]:
    """Returns vary about the value of their state by ``spread``, each by itself."""
    states, steps = len(world.rewards), len(path) - 1
    net = GaussianBayesNet()
    net.add_input("v", states, mean=0.0, cov=_PRIOR)
    net.add_linear("G", {"v": np.eye(states)[path]}, cov=spread**2)
    differences = np.eye(steps, steps + 1) - world.discount * np.eye(steps, steps + 1, k=1)
    net.add_linear("rewards", {"G": differences}, cov=_READING)
    return net, "v"


def residuals(world: World, path: Array) -> tuple[GaussianBayesNet, str]:
    """Rewards are differences of values, and all else is noise of the reward."""
    net = GaussianBayesNet()
    net.add_input("v", len(world.rewards), mean=0.0, cov=_PRIOR)
    eye = np.eye(len(world.rewards))
    net.add_linear("rewards", {"v": eye[path[:-1]] - world.discount * eye[path[1:]]}, cov=world.noise**2)
    return net, "v"


def experiment(
    *,
    steps: int = 250,
    walks: int = 10,
    redraws: int = 400,
    states: int = 8,
    discount: float = 0.9,
    seed: int | np.random.Generator = 0,
) -> Finding:
    """Values of a ring of states by three nets and by LSTD, on walks of some length.

    Args:
        walks: over which errors are averaged.
        redraws: of the rewards along the first walk, for how often 90 % intervals hold the value.
    """
    rng = np.random.default_rng(seed)
    world = World.ring(states, discount=discount)
    truth, gaps = world.values(), []
    spread = _spread_of_returns(world)
    found: dict[str, list[Array]] = {"LSTD": [], "planning": [], "returns": [], "residuals": []}
    shown: dict[str, tuple[Array, Array]] = {}
    for number in range(walks):
        path = _through_all(world, steps, rng)
        rewards = world.reap(path, redraws if number == 0 else 1, rng)
        found["LSTD"].append(temporal_differences(path, rewards[0], states, discount))
        nets = {
            "planning": planning(world, path),
            "returns": returns(world, path, spread),
            "residuals": residuals(world, path),
        }
        for name, (net, value) in nets.items():
            post = net.query([value], {"rewards": rewards[:1]}, solver="information")
            found[name].append(post.mean[value][0])
            if number == 0:
                shown[name] = (post.mean[value][0], post.std[value][0])
        gaps.append(np.abs(found["planning"][-1] - found["LSTD"][-1]).max())
        if number == 0:
            held = _coverage(world, path, rewards)
    errors = {name: float(np.sqrt(np.mean((np.array(v) - truth) ** 2))) for name, v in found.items()}
    bias = {name: float(np.abs(np.mean(v, axis=0) - truth).max()) for name, v in found.items()}
    figures = {
        "planning against LSTD, largest difference": float(max(gaps)),
        **{f"error, {name}": error for name, error in errors.items()},
        "bias, residuals": bias["residuals"],
        "bias, planning": bias["planning"],
        "90 % intervals that hold the value, dynamics as counted": held[0],
        "90 % intervals that hold the value, true dynamics": held[1],
    }
    table = [{"estimate": name, "error (rms)": errors[name], "largest bias": bias[name]} for name in found]
    answer = (
        "A discounted sum is a linear vertex, and its value a query. With rewards uncertain and transitions as "
        f"counted, the posterior mean is LSTD (to {max(gaps):.0e}), and it comes with error bars: {held[0]:.0%} of the "
        f"90 % intervals hold the value, given the transitions; {held[1]:.0%} hold that of the true process, for they "
        "do not know that transitions were only counted. The net that takes the chance of the next state for noise of "
        f"the reward is biased by up to {bias['residuals']:.1f}."
    )
    series = {"truth": truth, "lstd": found["LSTD"][0], "shown": shown}
    return Finding(CLAIM, answer, False, figures, table, series, _draw)


def _through_all(world: World, steps: int, rng: np.random.Generator) -> Array:
    """A walk that leaves every state at least once."""
    while True:
        path = world.walk(steps, rng)
        if len(np.unique(path[:-1])) == len(world.rewards):
            return path


def _spread_of_returns(world: World) -> float:
    """The standard deviation of a return about the value of its state, mean over states (Sobel, 1982)."""
    p, discount, values = world.transitions, world.discount, world.values()
    chance = world.noise**2 + discount**2 * (p @ values**2 - (p @ values) ** 2)
    return float(np.sqrt(np.linalg.solve(np.eye(len(p)) - discount**2 * p, chance).mean()))


def _coverage(world: World, path: Array, rewards: Array) -> tuple[float, float]:
    """Share of 90 % intervals of "planning" that hold the value under the counted and under the true transitions."""
    net, value = planning(world, path)
    post = net.query([value], {"rewards": rewards})
    shares = []
    for truth in (world.values(counted(path, len(world.rewards))), world.values()):
        shares.append(float((np.abs(post.mean[value] - truth) < _NINETY * post.std[value]).mean()))
    return shares[0], shares[1]


def _draw(finding: Finding, ax: Axes) -> None:
    truth = finding.series["truth"]
    where = np.arange(len(truth))
    for shift, (name, (mean, std)) in zip((-0.2, 0.0, 0.2), finding.series["shown"].items(), strict=True):
        ax.errorbar(where + shift, mean, yerr=_NINETY * std, fmt="o", markersize=4, label=name)
    ax.plot(where - 0.2, finding.series["lstd"], "kx", label="LSTD")
    ax.step(where, truth, where="mid", color="k", linewidth=1, label="truth")
    ax.set(xlabel="state", ylabel="value, with 90 % intervals", title="what the future is worth")
    ax.legend(fontsize=8)
