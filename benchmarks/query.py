"""One query with all marginal covariances: gbn against pgmpy on layered linear-Gaussian nets.

Every scalar depends on all scalars of the layer above; the first and the last layer are observed, and the posterior
mean and covariance of every hidden layer are asked for, of 1 row and of 1000.  gbn holds a layer as one vertex; pgmpy
has scalars, and answers by ``predict_probability``.  Building the two nets is not timed.  Sizes above --limit are left
out, and said so.  Last, a net of 200 000 scalars, beyond pgmpy altogether.  One thread, one process.
Usage: python benchmarks/query.py [--repeats 5] [--limit 5000]
"""

from __future__ import annotations

import argparse
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


def far_beyond(layers: int = 4000, width: int = 50) -> None:
    start = time.perf_counter()
    net = network(weights(layers, width))
    built = time.perf_counter() - start
    first, last = rows(width, 1)
    start = time.perf_counter()
    ours(net, first, last)
    print(
        f"{layers} layers of {width} ({layers * width} scalars), 1 row: built in {built:.1f} s, all marginal "
        f"covariances in {time.perf_counter() - start:.1f} s; pgmpy would need a joint covariance of "
        f"{(layers * width) ** 2 * 8 / 2**30:.0f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=int, default=5000, help="the largest net, in scalars, that pgmpy is asked for")
    arguments = parser.parse_args()
    for size in LAYERS:
        compare(size, arguments.repeats, arguments.limit)
    far_beyond()


if __name__ == "__main__":
    main()
