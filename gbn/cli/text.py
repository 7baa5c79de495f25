"""What commands say: figures as text for people and as plain values for JSON."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import (
    InferenceError,
    SingularEvidenceError,
)
from gbn.net import GaussianBayesNet, Vertex

if TYPE_CHECKING:
    from gbn.learning import FitResult
    from gbn.posterior import Posterior

from gbn.cli.streams import log, printable

__all__ = [
    "aligned",
    "collect",
    "fit_data",
    "fit_text",
    "net_data",
    "net_facts",
    "noise_text",
    "posterior_data",
    "posterior_facts",
    "posterior_summary",
    "posterior_text",
    "quoted",
    "save_arrays",
    "sizes_text",
    "write_arrays",
]

Array = np.ndarray[Any, Any]
Facts = list[tuple[str, Any]]

_LISTED = 8


@dataclass(frozen=True)
class _Figures:
    """Numbers of a posterior; None, or no entry, where the engine does not give them or nobody asked."""

    mean: Mapping[str, Array]
    std: Mapping[str, Array]
    cov: Mapping[str, Array]
    log_evidence: Array | None
    free_energy: Array | None


def collect(post: Posterior, std: bool, cov: bool) -> _Figures:
    """The figures asked for, as far as the engine has them; what it lacks is noted on stderr."""
    notes: list[str] = []

    def tried(figure: Callable[[], Array]) -> Array | None:
        try:
            return figure()
        except SingularEvidenceError:
            raise
        except InferenceError as error:
            notes.append(str(error))
            return None

    labels = post.net.labels
    spreads = {name: tried(lambda n=name: post.std[n]) for name in post.targets if std and name not in labels}  # type: ignore[misc]
    figures = _Figures(
        {name: post.mean[name] for name in post.targets},
        {name: value for name, value in spreads.items() if value is not None},
        {name: post.cov(name) for name in post.targets} if cov else {},
        tried(lambda: post.log_evidence),
        tried(lambda: post.free_energy),
    )
    for note in dict.fromkeys(notes):
        log(f"note: {note}")
    return figures


def save_arrays(path: Path, figures: _Figures) -> None:
    """Write figures as one ``.npz`` file."""
    arrays = {f"{name}.{kind}": a for kind in ("mean", "std", "cov") for name, a in getattr(figures, kind).items()}
    if figures.log_evidence is not None:
        arrays["log_evidence"] = figures.log_evidence
    write_arrays(path, arrays)


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write one ``.npz`` file, of arrays under any names: ``numpy.savez`` keeps some for itself."""
    with zipfile.ZipFile(path, "x") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def posterior_data(post: Posterior, figures: _Figures) -> dict[str, Any]:
    """A posterior as plain values."""
    targets = {
        name: {kind: _plain(getattr(figures, kind).get(name)) for kind in ("mean", "std", "cov")}
        for name in post.targets
    }
    return posterior_summary(post, figures) | {"targets": targets}


def posterior_summary(post: Posterior, figures: _Figures) -> dict[str, Any]:
    """The same without the targets."""
    return {
        "engine": post.engine,
        "converged": post.converged,
        "samples": post.evidence.samples,
        "log_evidence": _plain(figures.log_evidence),
        "free_energy": _plain(figures.free_energy),
        "diagnostics": _plain(post.diagnostics),
    }


def posterior_text(post: Posterior, figures: _Figures) -> str:
    """A posterior as a table."""
    columns = ("vertex", "shape", "mean", "std")
    rows = [(n, sizes_text(post.net[n]), _range(figures.mean[n]), _range(figures.std.get(n))) for n in post.targets]
    return f"{aligned(posterior_facts(post, figures))}\n\n{aligned([columns, *rows])}"


def posterior_facts(post: Posterior, figures: _Figures) -> Facts:
    """How a posterior was found, as label and text."""
    facts: Facts = [("engine", post.engine + ("" if post.converged else " (not converged)"))]
    facts += [("samples", post.evidence.samples), ("log-evidence", _nats(figures.log_evidence))]
    if figures.log_evidence is None:
        facts.append(("free energy", _nats(figures.free_energy)))
    return facts + [(key.replace("_", " "), _fact(value)) for key, value in post.diagnostics.items()]


def _nats(values: Array | None) -> str:
    if values is None:
        return "-"
    return f"{float(np.sum(values)):.6g} nats" + (f" in all, {_range(values)} a sample" if np.size(values) > 1 else "")


def _fact(value: Any) -> str:
    """A diagnostic in a cell: figures rounded, names listed."""
    if isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
        return _range(np.asarray(value))
    if isinstance(value, (list, tuple)):
        return _listed([str(entry) for entry in value])
    return "-" if value is None else str(value)


def fit_data(result: FitResult) -> dict[str, Any]:
    """A fit as plain values; rounds as a list of mappings."""
    return {
        "method": result.method,
        "converged": result.converged,
        "reason": result.reason,
        "rounds": len(result.history) - 1,
        "best_round": result.best_round,
        "history": _plain(list(result.history)),
        "diagnostics": _plain(result.diagnostics),
    }


def fit_text(result: FitResult) -> str:
    """A fit in short: why it stopped, and the figures of its best round."""
    best = result.history[result.best_round] if result.history else {}
    figures = [(key.replace("_", " "), f"{value:.6g}") for key, value in best.items() if key != "round"]
    facts = [("method", result.method), ("stopped", result.reason), ("best round", result.best_round), *figures]
    facts += [("not determined", note) for note in result.diagnostics.get("not_determined", ())]
    return aligned(facts)


def net_data(net: GaussianBayesNet) -> dict[str, Any]:
    """A net as plain values."""
    return {
        "dtype": str(net.dtype),
        "inputs": list(net.inputs),
        "outputs": list(net.outputs),
        "labels": list(net.labels),
        "latents": list(net.latents),
        "parameters": {"arrays": len(net.parameters), "numbers": sum(net[name].size for name in net.parameters)},
        "vertices": [_vertex_data(net, vertex) for vertex in net.vertices.values()],
    }


def _vertex_data(net: GaussianBayesNet, vertex: Vertex) -> dict[str, Any]:
    noise = net.noise(vertex.name)
    variances = None if noise is None else [float(noise.diagonal().min()), float(noise.diagonal().max())]
    return {
        "name": vertex.name,
        "kind": vertex.kind,
        "op": vertex.op,
        "shape": list(vertex.shape),
        "per_sample": vertex.plated,
        "parents": list(vertex.parents),
        "noise": noise and {"name": vertex.noise, "form": noise.form, "variances": variances},
        "trainable": vertex.trainable,
        "sources": list(net.sources_of(vertex.name)),
    }


def net_facts(net: GaussianBayesNet, data: Mapping[str, Any]) -> Facts:
    """What a net consists of, as label and text."""
    noises: dict[str, list[str]] = {}
    for name in net.latents:
        noises.setdefault(noise_text(net, net[name]), []).append(name)
    inputs, outputs = ([f"{n} ({sizes_text(net[n])})" for n in names] for names in (net.inputs, net.outputs))
    return [
        ("vertices", f"{len(net)}, {len(net.latents)} with noise"),
        ("parameters", "{arrays} arrays, {numbers:,} numbers".format(**data["parameters"])),
        ("inputs", _listed(inputs)),
        ("outputs", _listed(outputs)),
        *[("label", f"{name} ({net[name].op})") for name in net.labels],
        *[("noise", f"{variance} at {_listed(names)}") for variance, names in noises.items()],
        ("dtype", net.dtype),
    ]


def sizes_text(vertex: Vertex) -> str:
    """The shape of a vertex, N for its samples."""
    return "×".join([*(["N"] if vertex.plated else []), *map(str, vertex.shape)]) or "scalar"


def noise_text(net: GaussianBayesNet, vertex: Vertex) -> str:
    """The noise of a vertex, in short."""
    noise = net.noise(vertex.name)
    if noise is None:
        return "-"
    shared = f" ({vertex.noise})" if vertex.noise != vertex.name else ""
    return f"{'' if noise.form == 'scalar' else noise.form + ' '}{_range(noise.diagonal())}{shared}"


def _range(values: Array | None) -> str:
    finite = np.zeros(0) if values is None else values[np.isfinite(values)]
    if not finite.size:
        return "-"
    low, high = f"{float(finite.min()):.4g}", f"{float(finite.max()):.4g}"
    return low if low == high else f"{low} to {high}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "-") + more


def quoted(names: Iterable[str]) -> str:
    """Names in a message."""
    return ", ".join(map(repr, names)) or "none"


def aligned(rows: Iterable[Sequence[Any]]) -> str:
    """Rows of text in columns."""
    cells = [[printable(str(cell)).replace("\n", r"\n") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def _plain(value: Any) -> Any:
    """A value that JSON knows, None where a number is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        numbers = np.asarray(value)
        numbers = numbers.astype(np.float64) if numbers.dtype.kind == "f" else numbers
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            missing, numbers = ~np.isfinite(numbers), numbers.astype(object)
            numbers[missing] = None
        return numbers.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
