"""Which nets infer in one pass up and down: those that can be eliminated with few neighbours at a time.

What matters is the graph of the hidden vertices, parents of a common child joined.  On a forest belief propagation is
exact after two passes.  Elsewhere elimination still is one pass up and one down, between cliques; its work is that of
the widest clique, cubed.  Iterating between single vertices instead may take long, or never arrive.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.conversion import convert
from gbn.equivalence.claims import CLAIMS, Finding
from gbn.equivalence.claims.networks import torch_case
from gbn.errors import ConvergenceWarning, InferenceError
from gbn.evidence import Evidence
from gbn.inference import query
from gbn.inference.hidden import Structure
from gbn.inference.plan import minimum_degree
from gbn.linearize import Linearization
from gbn.net import GaussianBayesNet
from gbn.posterior import Posterior

if TYPE_CHECKING:
    import networkx
    from matplotlib.axes import Axes

__all__ = ["elimination", "experiment", "field"]

Array = np.ndarray[Any, Any]


def field(graph: networkx.Graph, rng: np.random.Generator, coupling: float) -> GaussianBayesNet:
    """One hidden scalar a node, v0, v1, ... in the order of the graph, and a noisy sight o0, o1, ... of each.

    An edge leads from the earlier node to the later one, with a weight of ± ``coupling``.
    """
    net = GaussianBayesNet()
    number = {node: k for k, node in enumerate(graph)}
    for node, k in number.items():
        parents = sorted(number[other] for other in graph[node] if number[other] < k)
        weights = {f"v{p}": [[coupling * rng.choice([-1.0, 1.0])]] for p in parents}
        net.add_linear(f"v{k}", weights, bias=[0.0], cov=1.0)
    for k in number.values():
        net.add_linear(f"o{k}", {f"v{k}": [[1.0]]}, cov=1.0)
    return net


def elimination(evidence: Evidence) -> tuple[int, float]:
    """The width of the elimination, and its multiplications (one system), hidden vertices as they are.

    The width is the most other hidden vertices that one meets when its turn comes, in the order of minimum degree: 1
    on trees, and nowhere less than the treewidth.
    """
    names = [n for n, v in evidence.net.vertices.items() if v.plated]
    structure = Structure.of(Linearization.forward(evidence), names)
    sizes = structure.sizes
    order, neighbours = minimum_degree(sizes, structure.variables)
    width = max((len(neighbours[v]) for v in order), default=0)
    return width, float(sum(sizes[v] * (sizes[v] + sum(sizes[u] for u in neighbours[v])) ** 2 for v in order))


def experiment(
    widths: Sequence[int] = (1, 2, 3, 4),
    *,
    nodes: int = 24,
    coupling: float = 0.9,
    networks: Sequence[str] = ("mlp", "cnn", "rnn", "lstm", "transformer"),
    max_rounds: int = 100,
    seed: int = 0,
) -> Finding:
    """One pass of elimination against iteration between vertices, on grids of growing width; and widths of networks.

    Args:
        widths: of grids of about ``nodes`` hidden scalars; a tree and a ring of the same size come with them.
        coupling: size of the weights along their edges; the larger, the harder for loops.
        networks: torch networks whose width is told, with input and output observed; () needs no torch.
        max_rounds: cap of loopy belief propagation, and of gradient rounds times ten.

    Raises:
        MissingDependencyError: torch is absent, and ``networks`` are asked for.
    """
    rng = np.random.default_rng(seed)
    table = [_row(name, field(graph, rng, coupling), rng, max_rounds) for name, graph in _graphs(widths, nodes).items()]
    grids = [row for row in table if row["graph"].startswith("grid")]
    trees = [row for row in table if row["width"] == 1]
    loopy = [row for row in table if row["width"] > 1]
    arrived = [row for row in loopy if row["belief propagation"] == "arrived"]
    figures: dict[str, float] = {
        "largest error of one pass": max(row["one pass, error"] for row in table),
        "graphs with loops": len(loopy),
        "of these, belief propagation arrived": len(arrived),
        **{f"multiplications a vertex, {row['graph']}": row["multiplications a vertex"] for row in grids},
        **{f"width, {name}": float(_network_width(name, seed)) for name in networks},
    }
    chains = [name for name in networks if figures[f"width, {name}"] == 1]
    answer = (
        f"Every net here is inferred by one pass up and one down; what grows is its work, from "
        f"{grids[0]['multiplications a vertex']:.0f} multiplications a vertex at width {grids[0]['width']} to "
        f"{grids[-1]['multiplications a vertex']:.0f} at width {grids[-1]['width']}. Messages between single vertices "
        f"are exact after two passes on the {len(trees)} trees; on {len(loopy)} graphs with loops they arrived "
        f"{len(arrived)} times"
    )
    if arrived:
        answer += f", with variances up to {max(row['variance error'] for row in arrived):.0%} off"
    answer += "."
    if chains:
        answer += f" Of the networks, {', '.join(chains)} are chains of their layers, of width 1."
    series = {key: np.array([row[key] for row in grids]) for key in ("width", "multiplications a vertex", "rounds")}
    return Finding(CLAIMS["one_pass"].statement, answer, None, figures, table, series, _draw)


def _graphs(widths: Sequence[int], nodes: int) -> Mapping[str, networkx.Graph]:
    import networkx

    graphs = {"tree": networkx.full_rary_tree(2, nodes), "ring": networkx.cycle_graph(nodes)}
    grids = {f"grid {w} x {nodes // w}": networkx.grid_2d_graph(nodes // w, w) for w in widths}
    return graphs | grids


def _row(name: str, net: GaussianBayesNet, rng: np.random.Generator, max_rounds: int) -> dict[str, Any]:
    """One pass, belief propagation and gradient rounds on one field, each against the dense joint."""
    hidden = [n for n in net if n.startswith("v") and net[n].plated]
    given = {n: value for n, value in net.sample(1, rng).items() if n.startswith("o") and net[n].plated}
    width, work = elimination(Evidence.read(net, given))
    mean, variance = _dense(net, hidden, given)

    def errors(post: Posterior) -> tuple[float, float]:
        """Largest error of a mean, and relative error of a variance."""
        off = [abs(float(post.mean[n][0, 0]) - m) for n, m in zip(hidden, mean, strict=True)]
        ratio = [abs(float(post.var[n][0, 0]) / v - 1) for n, v in zip(hidden, variance, strict=True)]
        return float(max(off)), float(max(ratio))

    row: dict[str, Any] = {
        "graph": name,
        "width": width,
        "one pass, error": max(errors(query(net, hidden, given, solver="information"))),
        "multiplications a vertex": work / len(hidden),
        "belief propagation": "broke down",
        "rounds": np.nan,
        "mean error": np.nan,
        "variance error": np.nan,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            post = query(net, hidden, given, engine="bp", max_rounds=max_rounds, tol=1e-8)
            row["mean error"], row["variance error"] = errors(post)
            row["rounds"] = float(post.diagnostics["rounds"])
            row["belief propagation"] = "arrived" if post.converged else "did not arrive"
        except InferenceError:
            pass  # the table says it
        options: dict[str, Any] = {
            "prediction": "live",
            "solver": "gradient",
            "step_size": 0.2,
            "max_rounds": 10 * max_rounds,
        }
        row["gradient rounds"] = int(query(net, hidden, given, engine="pc", **options).diagnostics["rounds"])
    return row


def _dense(net: GaussianBayesNet, hidden: Sequence[str], given: Mapping[str, Array]) -> tuple[Array, Array]:
    """Means and variances by the dense joint of a field: v = A v + e, o = v + e', all noises of variance 1."""
    number = {name: k for k, name in enumerate(hidden)}
    errors = np.eye(len(hidden))
    for name, k in number.items():
        for parent, weight in zip(net[name].parents[0:-1:2], net[name].parents[1::2], strict=True):
            errors[k, number[parent]] -= float(net[weight].value[0, 0])  # type: ignore[index]
    cov = np.linalg.inv(errors.T @ errors + np.eye(len(hidden)))
    return cov @ np.array([given[f"o{name[1:]}"][0, 0] for name in hidden]), cov.diagonal()


def _network_width(name: str, seed: int) -> int:
    """Width of a torch network, input and output observed."""
    case = torch_case(name, seed=seed)
    net = convert(case.module, case.x)
    given = {net.inputs[0]: case.x.numpy(), net.outputs[0]: case.y.numpy()}
    return elimination(Evidence.read(net, given))[0]


def _draw(finding: Finding, ax: Axes) -> None:
    """Work of one pass by width; beside it the rounds of belief propagation, where it arrived."""
    width, work = finding.series["width"], finding.series["multiplications a vertex"]
    ax.plot(width, work, "o-", label="one pass: multiplications a vertex")
    rounds = finding.series["rounds"]
    ax.plot(width, rounds, "s--", label="belief propagation: rounds")
    for across in width[np.isnan(rounds)]:
        ax.axvline(across, color="gray", linestyle=":", linewidth=1)
    ax.set(xlabel="width of the elimination (dotted: belief propagation has no answer)", yscale="log", xticks=width)
    ax.legend()
