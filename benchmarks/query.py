"""One query with all marginal covariances: gbn against pgmpy on layered linear-Gaussian nets.

Every scalar depends on all scalars of the layer above; the first and the last layer are observed, and the posterior
mean and covariance of every hidden layer are asked for, of 1 row and of 1000.  gbn holds a layer as one vertex; pgmpy
has scalars, and answers by ``predict_probability``.  Building the nets is not timed.  Sizes above --limit are left
out, and said so.  Last, a net of 200 000 scalars, beyond pgmpy altogether.  One thread, one process.

Two more peers answer 1 row where they can be imported: gtsam, a C++ library that also holds a layer as one variable
(factors between hidden layers and the elimination order are made beforehand), and pyAgrum's CLG, scalar by scalar in
Python, which eliminates anew for every layer asked for, up to --small scalars (at 1000 it takes tens of seconds).
Both take one row at a time.  gbn is timed again beside each of them, in turns; a first turn, in which gbn plans its
elimination, goes unmeasured.
Usage: python benchmarks/query.py [--repeats 5] [--limit 5000] [--small 200]
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

import gbn  # noqa: E402

Array = np.ndarray[Any, Any]
LAYERS = {50: (5, 10), 200: (10, 20), 1000: (20, 50), 5000: (50, 100), 5001: (500, 10)}
AIMS = {(50, 1): 3, (1000, 1): 50, (5000, 1): 500, (50, 1000): 1, (1000, 1000): 15, (5000, 1000): 100}
NOISE = 0.25


def weights(layers: int, width: int) -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(width, width)) / np.sqrt(width) for _ in range(layers - 1)]


def network(matrices: list[Array]) -> gbn.GaussianBayesNet:
    width = matrices[0].shape[1]
    net = gbn.GaussianBayesNet()
    net.add_input("l0", width, mean=0.0, cov=1.0)
    for k, weight in enumerate(matrices):
        net.add_linear(f"l{k + 1}", {f"l{k}": weight}, cov=NOISE)
    return net


def rows(width: int, count: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(count, width)), rng.normal(size=(count, width))


def ours(net: gbn.GaussianBayesNet, first: Array, last: Array) -> tuple[list[Array], list[Array]]:
    top = len(net.latents) - 1
    hidden = [f"l{k}" for k in range(1, top)]
    post = net.query(hidden, {"l0": first, f"l{top}": last})
    return [post.mean[name] for name in hidden], [post.cov(name) for name in hidden]


def scalars(matrices: list[Array]) -> Any:
    """The same net in pgmpy, scalar by scalar."""
    from pgmpy.factors.continuous import LinearGaussianCPD
    from pgmpy.models import LinearGaussianBayesianNetwork

    width = matrices[0].shape[1]
    names = [[f"l{k}_{i}" for i in range(width)] for k in range(len(matrices) + 1)]
    model = LinearGaussianBayesianNetwork()
    model.add_nodes_from(names[0])
    cpds = [LinearGaussianCPD(name, [0.0], 1.0) for name in names[0]]
    for above, here, weight in zip(names, names[1:], matrices, strict=False):
        model.add_edges_from([(u, v) for u in above for v in here])
        deviation = float(np.sqrt(NOISE))
        cpds += [LinearGaussianCPD(v, [0.0, *row], deviation, above) for v, row in zip(here, weight, strict=True)]
    model.add_cpds(*cpds)
    return model


def theirs(model: Any, first: Array, last: Array) -> tuple[Array, Array, list[str]]:
    import pandas as pd

    width = first.shape[1]
    layers = len(model.nodes()) // width
    observed = [f"l{k}_{i}" for k in (0, layers - 1) for i in range(width)]
    frame = pd.DataFrame(np.concatenate([first, last], axis=1), columns=observed)
    names, mean, cov = model.predict_probability(frame)
    return np.asarray(mean), np.asarray(cov), list(names)


def seconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def difference(found: tuple[list[Array], list[Array]], other: tuple[Array, Array, list[str]], width: int) -> float:
    """Largest difference of the means and of the marginal covariances."""
    mean, cov, names = other
    place = {name: k for k, name in enumerate(names)}
    worst = 0.0
    for layer, (m, c) in enumerate(zip(*found, strict=True), 1):
        index = [place[f"l{layer}_{i}"] for i in range(width)]
        worst = max(worst, np.abs(m - mean[:, index]).max(), np.abs(c[0] - cov[np.ix_(index, index)]).max())
    return worst


def optional(name: str) -> Any:
    """The module, or None where it or something that it needs is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def blocks(gtsam: Any, matrices: list[Array]) -> Callable[[Array, Array], tuple[list[Array], list[Array]]]:
    """The posterior by gtsam, one key a hidden layer; the observed layers enter as right-hand sides."""
    top, width = len(matrices), len(matrices[0])
    noise, eye, zero = gtsam.noiseModel.Isotropic.Variance(width, NOISE), np.eye(width), np.zeros(width)
    between = [gtsam.JacobianFactor(k, -matrices[k], k + 1, eye, zero, noise) for k in range(1, top - 1)]
    order = gtsam.Ordering()
    for k in range(1, top):
        order.push_back(k)

    def run(first: Array, last: Array) -> tuple[list[Array], list[Array]]:
        graph = gtsam.GaussianFactorGraph()
        graph.push_back(gtsam.JacobianFactor(1, eye, matrices[0] @ first[0], noise))
        for factor in between:
            graph.push_back(factor)
        graph.push_back(gtsam.JacobianFactor(top - 1, matrices[-1], last[0], noise))
        tree = graph.eliminateMultifrontal(order)
        mean = tree.optimize()
        return [mean.at(k)[None] for k in range(1, top)], [tree.marginalCovariance(k) for k in range(1, top)]

    return run


def canonical(clg: Any, matrices: list[Array]) -> Callable[[Array, Array], tuple[list[Array], list[Array]]]:
    """The posterior by pyAgrum's variable elimination over canonical forms, a layer at a time."""
    top, width = len(matrices), len(matrices[0])
    names = [[f"l{k}_{i}" for i in range(width)] for k in range(top + 1)]
    model = clg.CLG()
    for k, layer in enumerate(names):
        for name in layer:
            model.add(clg.GaussianVariable(name, 0.0, float(np.sqrt(NOISE)) if k else 1.0))
    for above, here, weight in zip(names, names[1:], matrices, strict=False):
        for v, row in zip(here, weight, strict=True):
            for u, value in zip(above, row, strict=True):
                model.addArc(u, v, float(value))
    engine = clg.CLGVariableElimination(model)

    def run(first: Array, last: Array) -> tuple[list[Array], list[Array]]:
        observed = zip(names[0] + names[-1], [*first[0], *last[0]], strict=True)
        engine.updateEvidence({name: float(value) for name, value in observed})
        means, covs = [], []
        for layer in names[1:-1]:
            scope, mean, cov = engine.canonicalPosterior(layer).toGaussian()
            index = [list(scope).index(model.idFromName(name)) for name in layer]
            means.append(np.ravel(mean)[None, index])
            covs.append(np.asarray(cov)[np.ix_(index, index)])
        return means, covs

    return run


def beside(name: str, net: gbn.GaussianBayesNet, peer: Any, row: tuple[Array, Array], repeats: int) -> None:
    """One line: gbn and a peer in turns on the same row."""
    found, other = ours(net, *row), peer(*row)
    times: dict[str, list[float]] = {"gbn": [], name: []}
    for _ in range(repeats):
        times["gbn"].append(seconds(lambda: ours(net, *row), 1))
        times[name].append(seconds(lambda: peer(*row), 1))
    mine, its = (statistics.median(values) for values in times.values())
    pairs = [*zip(found[0], other[0], strict=True), *zip([c[0] for c in found[1]], other[1], strict=True)]
    worst, largest = max(np.abs(a - b).max() for a, b in pairs), max(np.abs(a).max() for a, _ in pairs)
    print(
        f"    beside {name}: gbn {1e3 * mine:.2f} ms, {name} {1e3 * its:.2f} ms, {name} / gbn {its / mine:.2f}; "
        f"largest difference {worst:.0e} (largest entry {largest:.0e})"
    )


def more_peers(size: int, repeats: int, small: int) -> None:
    layers, width = LAYERS[size]
    matrices = weights(layers, width)
    net, row = network(matrices), rows(width, 1)
    gtsam = optional("gtsam")
    if gtsam is not None:
        beside("gtsam", net, blocks(gtsam, matrices), row, repeats)
    clg = optional("pyagrum.clg") if layers * width <= small else None
    if clg is not None:
        beside("pyAgrum", net, canonical(clg, matrices), row, repeats)


def compare(size: int, repeats: int, limit: int) -> None:
    layers, width = LAYERS[size]
    matrices = weights(layers, width)
    net = network(matrices)
    model = scalars(matrices) if layers * width <= limit else None
    for count in (1, 1000):
        first, last = rows(width, count)
        found = ours(net, first, last)
        mine = seconds(lambda first=first, last=last: ours(net, first, last), repeats)  # type: ignore[misc]
        line = f"{layers:3} layers of {width:3}, {count:4} rows: gbn {1e3 * mine:8.1f} ms"
        if model is None:
            print(f"{line}, pgmpy left out (above --limit)")
            continue
        start = time.perf_counter()
        other = theirs(model, first, last)
        once = time.perf_counter() - start
        again = repeats if once < 2 else 1
        peer = once if again == 1 else seconds(lambda f=first, t=last: theirs(model, f, t), again)  # type: ignore[misc]
        aim = AIMS.get((size, count))
        goal = f" (aim: at least {aim})" if aim else ""
        print(
            f"{line}, pgmpy {1e3 * peer:9.1f} ms, ratio {peer / mine:7.1f}{goal}; "
            f"largest difference {difference(found, other, width):.0e}"
        )


def far_beyond(repeats: int, layers: int = 4000, width: int = 50) -> None:
    matrices = weights(layers, width)
    start = time.perf_counter()
    net = network(matrices)
    built = time.perf_counter() - start
    first, last = rows(width, 1)
    start = time.perf_counter()
    ours(net, first, last)
    print(
        f"{layers} layers of {width} ({layers * width} scalars), 1 row: built in {built:.1f} s, all marginal "
        f"covariances in {time.perf_counter() - start:.1f} s; pgmpy would need a joint covariance of "
        f"{(layers * width) ** 2 * 8 / 2**30:.0f} GiB"
    )
    gtsam = optional("gtsam")
    if gtsam is not None:
        beside("gtsam", net, blocks(gtsam, matrices), (first, last), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=int, default=5000, help="the largest net, in scalars, that pgmpy is asked for")
    parser.add_argument("--small", type=int, default=200, help="the largest net, in scalars, that pyAgrum is asked for")
    arguments = parser.parse_args()
    for name in ("gtsam", "pyagrum.clg"):
        if optional(name) is None:
            print(f"{name}, or a module that it imports, is not installed: skipped")
    for size in LAYERS:
        compare(size, arguments.repeats, arguments.limit)
        more_peers(size, arguments.repeats, arguments.small)
    far_beyond(arguments.repeats)


if __name__ == "__main__":
    main()
