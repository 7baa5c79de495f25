"""How far messages parallelise, and how long they take to settle, beside the forward pass.

Time is counted in vertex updates: a vertex hears its neighbours, moves and speaks in one unit, whatever its size, and
any processor can take any vertex.  The schedule of the engine says which messages an update uses; the updates and what
they wait for form a graph, whose longest path is the time on any number of processors, and which a greedy list schedule
(Hu, 1961: the update with the longest way still to go first) distributes over a given number.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.equivalence.claims import CLAIMS, Finding
from gbn.equivalence.claims.networks import tanh_mlp
from gbn.equivalence.claims.single_pass import arrival
from gbn.evidence import Evidence
from gbn.inference import query
from gbn.inference.fixed_prediction import SCHEDULES, Channel, Rounds
from gbn.linearize import Linearization
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["critical_path", "experiment", "forward_tasks", "makespan", "message_tasks", "towers"]

Array = np.ndarray[Any, Any]
# Task -> the tasks it waits for; in an order in which these come first.
Tasks = Mapping[Hashable, Sequence[Hashable]]
_TOL = 1e-3


def towers(branches: int, depth: int, width: int, rng: np.random.Generator) -> GaussianBayesNet:
    """x, several towers of ``depth`` tanh layers beside one another, and y, which reads them all."""
    net = GaussianBayesNet()
    net.add_input("x", width)
    tops = {}
    for branch in range(branches):
        below = "x"
        for layer in range(1, depth + 1):
            weight = rng.normal(size=(width, width)) / np.sqrt(width)
            name = net.add_linear(f"a{branch}.{layer}", {below: weight}, cov=1.0)
            below = net.add(f"h{branch}.{layer}", "Tanh", [name])
        tops[below] = rng.normal(size=(2, width)) / np.sqrt(width * branches)
    net.add_linear("y", tops, cov=1.0)
    return net


def forward_tasks(evidence: Evidence) -> Tasks:
    """The forward pass: every vertex with an op waits for its parents."""
    net = evidence.net
    computed = [n for n, v in net.vertices.items() if v.kind == "op" and n not in evidence.do]
    return {n: [p for p in net[n].parents if net[p].kind == "op" and p not in evidence.do] for n in computed}


def message_tasks(evidence: Evidence, schedule: str, rounds: int) -> Tasks:
    """The updates (round, vertex) of fixed prediction at vertices with a value per sample, and what each waits for.

    Observed vertices have spoken before the first round, so nothing waits for them.
    """
    net, chosen = evidence.net, SCHEDULES[schedule]
    state = Rounds(Linearization.forward(evidence), chosen, 1.0, Channel(), np.random.default_rng(0))
    visited = [n for n in state.visited if net[n].plated and n not in state.clamped]
    children: dict[str, list[str]] = {name: [] for name in visited}
    for child in visited:
        for parent in state.point.listeners(child):
            if parent in children:
                children[parent].append(child)
    tasks: dict[Hashable, list[Hashable]] = {}
    for number in range(1, rounds + 1):
        seen = set()
        for name in chosen.order(visited, np.random.default_rng(number)):
            # Synchronous latents speak from their state before the round; all others from their last update.
            current = [c for c in children[name] if c in seen and not (chosen.together and c in state.latents)]
            before = {name, *children[name]} - set(current) if number > 1 else set()
            tasks[number, name] = [*((number, c) for c in current), *((number - 1, c) for c in before)]
            seen.add(name)
    return tasks


def critical_path(tasks: Tasks) -> int:
    """The time on as many processors as one likes: tasks on the longest path."""
    end: dict[Hashable, int] = {}
    for task, waits in tasks.items():
        end[task] = 1 + max((end[other] for other in waits), default=0)
    return max(end.values(), default=0)


def makespan(tasks: Tasks, processors: int) -> int:
    """The time of a greedy list schedule on so many processors, each task taking one unit."""
    followers: dict[Hashable, list[Hashable]] = {task: [] for task in tasks}
    for task, waits in tasks.items():
        for other in waits:
            followers[other].append(task)
    to_go: dict[Hashable, int] = {}
    for task in reversed(list(tasks)):
        to_go[task] = 1 + max((to_go[other] for other in followers[task]), default=0)
    missing = {task: len(waits) for task, waits in tasks.items()}
    number = {task: k for k, task in enumerate(tasks)}
    ready = [(-to_go[task], number[task], task) for task, count in missing.items() if not count]
    heapq.heapify(ready)
    time = 0
    while ready:
        time += 1
        for _, _, task in [heapq.heappop(ready) for _ in range(min(processors, len(ready)))]:
            for other in followers[task]:
                missing[other] -= 1
                if not missing[other]:
                    heapq.heappush(ready, (-to_go[other], number[other], other))
    return time


def experiment(
    depths: Sequence[int] = (2, 4, 8, 16),
    processors: Sequence[int] = (1, 2, 4, 8, 16, 32),
    *,
    branches: int = 8,
    depth: int = 6,
    width: int = 6,
    samples: int = 2,
    live: bool = True,
    seed: int = 0,
) -> Finding:
    """Rounds, messages and idealised time until the gradient is backprop's to 1e-3, by schedule, depth and processors.

    Args:
        depths: weight layers of tanh networks; settling time is in vertex updates, on any number of processors.
        processors: for time against processors, on a net of ``branches`` towers of ``depth`` layers.
        live: settle live prediction too, by gradient rounds on the latents to 1e-3 of the starting gradient.
    """
    rng = np.random.default_rng(seed)
    table: list[dict[str, Any]] = []
    settling: dict[str, list[float]] = {}
    for layers in depths:
        net = tanh_mlp([width] * layers + [2], rng)
        evidence = _data(net, samples, rng)
        for row in _settled(evidence, live):
            settling.setdefault(row["what"], []).append(row["critical path"])
            table.append({"layers": layers, **row})
    evidence = _data(towers(branches, depth, width, rng), samples, rng)
    spent = {"forward pass": forward_tasks(evidence)}
    for label, (schedule, eta) in _SCHEDULES.items():
        spent[label] = message_tasks(evidence, schedule, arrival(evidence, schedule, step_size=eta, tol=_TOL)[0])
    times = {label: np.array([makespan(tasks, p) for p in processors]) for label, tasks in spent.items()}
    deepest = {what: values[-1] for what, values in settling.items()}
    figures: dict[str, float] = {f"critical path, {what}, {depths[-1]} layers": t for what, t in deepest.items()}
    last = {row["what"]: row for row in table if row["layers"] == depths[-1]}
    figures |= {f"messages, {what}, {depths[-1]} layers": last[what]["messages"] for what in _SCHEDULES}
    most = processors[-1]
    figures |= {f"time on {most} processors, {branches} towers, {label}": float(t[-1]) for label, t in times.items()}
    figures |= {f"speed-up on {most} processors, {label}": float(t[0] / t[-1]) for label, t in times.items()}
    sweep, forward, slow = deepest["sweep"], deepest["forward pass"], deepest["parallel, step 0.1"]
    together = deepest["parallel, step 1"]
    extra = last["parallel, step 1"]["messages"] / last["sweep"]["messages"]
    answer = (
        f"At step 1 it settles in the time of a forward pass: on {depths[-1]} layers the critical path is {sweep:.0f} "
        f"updates long in a sweep and {together:.0f} in synchronous rounds, against {forward:.0f} forward; at step 0.1 "
        f"it is {slow:.0f}. A sweep gains from processors what the forward pass gains; synchronous rounds keep more of "
        f"them busy, with {extra:.0f} times the messages, and are done no sooner."
    )
    if live:
        answer += f" Live prediction by gradient rounds takes {deepest['live prediction, gradient rounds']:.0f}."
    series = {"depths": np.array(depths), "processors": np.array(processors), "settling": settling, "times": times}
    return Finding(CLAIMS["parallel"].statement, answer, None, figures, table, series, _draw)


# Label -> schedule of the engine, and step size.
_SCHEDULES = {
    "sweep": ("sweep", 1.0),
    "parallel, step 1": ("parallel", 1.0),
    "parallel, step 0.1": ("parallel", 0.1),
}


def _data(net: GaussianBayesNet, samples: int, rng: np.random.Generator) -> Evidence:
    values = {name: rng.normal(size=(samples, net[name].size)) for name in ("x", "y")}
    return Evidence.read(net, {"y": values["y"]}, {"x": values["x"]})


def _settled(evidence: Evidence, live: bool) -> list[dict[str, Any]]:
    """One record for the forward pass and each schedule: rounds, messages, critical path in vertex updates."""
    forward = forward_tasks(evidence)
    lines = sum(map(len, forward.values()))
    rows = [{"what": "forward pass", "rounds": 1, "messages": lines, "critical path": critical_path(forward)}]
    for label, (schedule, eta) in _SCHEDULES.items():
        rounds, messages = arrival(evidence, schedule, step_size=eta, tol=_TOL)
        path = critical_path(message_tasks(evidence, schedule, rounds))
        rows.append({"what": label, "rounds": rounds, "messages": messages, "critical path": path})
    if live:
        net = evidence.net
        given = {**evidence.values, **evidence.do}
        post = query(net, [], given, engine="pc", prediction="live", solver="gradient", step_size=0.3, tol=_TOL)
        rounds = post.diagnostics["rounds"]
        # A round recomputes what lies between neighbouring latents, then pulls through it: an op and a nonlinearity.
        path, label = 4 * rounds, "live prediction, gradient rounds"
        rows.append({"what": label, "rounds": rounds, "messages": post.diagnostics["messages"], "critical path": path})
    return rows


def _draw(finding: Finding, ax: Axes) -> None:
    from gbn.display.plots import curves

    depths = finding.series["depths"]
    curves(
        finding.series["settling"],
        x=depths,
        ax=ax,
        xlabel="weight layers",
        ylabel="updates until settled",
        title="any number of processors",
        xscale="log",
        yscale="log",
    )
    ax.set_xticks(depths, map(str, depths), minor=False)
    ax.set_xticks([], minor=True)
    for line, style in zip(ax.lines, ("-", "--", ":", "-", "-"), strict=False):
        line.set(marker="o", linestyle=style)
    ax.set_ylim(top=50 * ax.get_ylim()[1])  # room for the legend
    ax.legend(fontsize="small", loc="upper left")
