"""Plots with matplotlib: each takes Axes (or makes them) and returns them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import InferenceError, MissingDependencyError, ShapeError, UnknownNameError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gbn.equivalence import Report
    from gbn.net import GaussianBayesNet
    from gbn.posterior import Posterior

__all__ = [
    "axes",
    "bars",
    "curves",
    "error_against_rounds",
    "free_energy",
    "layer_errors",
    "learning_curves",
    "posterior_images",
    "precision_map",
]

Array = np.ndarray[Any, Any]
# What stands for zero on a scale of logarithms: less than any rounding error.
_FLOOR = 1e-17
# Entries of a vertex that have a column of their own.
_COLUMNS = 64


def axes(ax: Axes | None = None, *, size: tuple[float, float] = (6.0, 3.8)) -> Axes:
    """The Axes given, or those of a new figure of that size in inches.

    Raises:
        MissingDependencyError: matplotlib is absent.
    """
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "plot", "plotting") from error
    made: Axes = plt.subplots(figsize=size, layout="constrained")[1]
    return made


def curves(
    lines: Mapping[str, Any],
    *,
    x: Any = None,
    band: Mapping[str, Any] | None = None,
    ax: Axes | None = None,
    **settings: Any,
) -> Axes:
    """Lines with a legend.

    Args:
        lines: label -> values, or (x, values).  Shape of each: (points,).
        x: of the lines that do not bring their own; None: 0, 1, ...
        band: label -> (low, high), drawn as a shade around that line.
        settings: of the Axes: xlabel, ylabel, xscale, yscale, title, ...
    """
    ax = axes(ax)
    for label, values in lines.items():
        across, up = values if isinstance(values, tuple) else (x, values)
        across = np.arange(len(up)) if across is None else across
        (line,) = ax.plot(across, up, label=label)
        if band is not None and label in band:
            ax.fill_between(across, *band[label], color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(**settings)
    if len(lines) > 1:
        ax.legend()
    return ax


def bars(
    values: Mapping[str, float], *, errors: Mapping[str, float] | None = None, ax: Axes | None = None, **settings: Any
) -> Axes:
    """One horizontal bar a label, from top to bottom.

    Args:
        errors: label -> half the length of its error bar.
        settings: of the Axes: xlabel, xscale, title, ...
    """
    ax = axes(ax, size=(6.0, 1.2 + 0.28 * len(values)))
    spread = None if errors is None else [errors.get(label, 0.0) for label in values]
    ax.barh(list(values), list(values.values()), xerr=spread)
    ax.invert_yaxis()
    ax.set(**settings)
    return ax


def free_energy(traces: Any, *, ax: Axes | None = None, **settings: Any) -> Axes:
    """The objective round by round, in nats.

    Args:
        traces: a posterior, the result of a fit, or a history (a mapping for each round), or several as label -> trace.
            What records a log-evidence, or a bound of it, instead of a free energy is shown with its sign changed.
        settings: of the Axes.

    Raises:
        InferenceError: a trace without rounds, or without an objective.
    """
    several = isinstance(traces, Mapping)
    lines = {label: _energies(trace, label) for label, trace in (traces if several else {"": traces}).items()}
    return curves(lines, ax=ax, **{"xlabel": "round", "ylabel": "free energy (nats)", **settings})


def error_against_rounds(
    rounds: Any,
    errors: Any,
    *,
    predicted: Any = None,
    tolerance: float | None = None,
    ax: Axes | None = None,
    **settings: Any,
) -> Axes:
    """Relative errors on a log scale as dots, with the predicted law as lines of the same colours.

    Args:
        rounds: shape (points,).
        errors: shape (points,), or several as label -> errors.
        predicted: in the same form, with the same labels; a label without a prediction is left out.
        tolerance: a horizontal line.
        settings: of the Axes.
    """
    ax = axes(ax)
    several = isinstance(errors, Mapping)
    laws = (predicted or {}) if several else {} if predicted is None else {"": predicted}
    for label, values in (errors if several else {"": errors}).items():
        known = {"label": label or "measured"}
        (dots,) = ax.plot(rounds, _positive(values), linestyle="none", marker="o", markersize=3, **known)
        if label in laws:
            law = f"{label}, predicted" if label else "predicted"
            ax.plot(rounds, _positive(laws[label]), color=dots.get_color(), linewidth=1, label=law)
    if tolerance is not None:
        ax.axhline(tolerance, color="gray", linestyle="--", label=f"tolerance {tolerance:g}")
    ax.set(**{"yscale": "log", "xlabel": "round", "ylabel": "relative error", **settings})
    if len(ax.get_lines()) > 1:
        ax.legend()
    return ax


def layer_errors(report: Report, *, ax: Axes | None = None) -> Axes:
    """Relative error of every parameter as bars on a log scale, with the tolerance; those that differ are hatched."""
    ax = axes(ax, size=(7, 1.2 + 0.28 * len(report.parameters)))
    errors = [row.figures["relative_error"] for row in report.parameters]
    # Exact agreement has no place on a log scale; a bar at the rounding error stands for it.
    shown = [max(value, _FLOOR) if math.isfinite(value) else 1.0 for value in errors]
    drawn = ax.barh([row.name for row in report.parameters], shown)
    for bar, row in zip(drawn, report.parameters, strict=True):
        bar.set(color="tab:blue" if row.agrees else "tab:red", hatch="" if row.agrees else "//")
    ax.axvline(report.tol, color="gray", linestyle="--", label=f"tolerance {report.tol:g}")
    ax.set(xscale="log", xlabel="relative error to backprop", title=f"{report.model}: engine {report.engine!r}")
    ax.invert_yaxis()
    ax.legend()
    return ax


def learning_curves(
    fits: Mapping[str, Any], *, measure: str | None = None, ax: Axes | None = None, **settings: Any
) -> Axes:
    """A figure of learning over the rounds, one line a fit; a dot marks the best round, where the fit knows it.

    Args:
        fits: label -> the result of a fit, or its history.
        measure: which figure (default: the first that all of them have, the round's number excepted).
        settings: of the Axes.

    Raises:
        UnknownNameError: a fit without that figure, or no figure common to all.
    """
    histories = {label: list(getattr(fit, "history", fit)) for label, fit in fits.items()}
    known = {label: list(dict.fromkeys(name for figures in h for name in figures)) for label, h in histories.items()}
    common = [name for name in next(iter(known.values()), []) if all(name in names for names in known.values())]
    measure = measure or next((name for name in common if name != "round"), None)
    for label, names in known.items():
        if measure not in names:
            raise UnknownNameError(f"figure of the fit {label!r}", str(measure), names)
    ax = axes(ax)
    for label, fit in fits.items():
        values = _column(histories[label], str(measure))
        counted = [figures.get("round", k) for k, figures in enumerate(histories[label])]
        rounds = np.asarray(counted, float)
        (line,) = ax.plot(rounds, values, label=label)
        best = getattr(fit, "best_round", None)
        if best is not None:
            ax.plot(rounds[rounds == best], values[rounds == best], "o", color=line.get_color())
    ax.set(**{"xlabel": "round", "ylabel": str(measure).replace("_", " "), **settings})
    if len(fits) > 1:
        ax.legend()
    return ax


def precision_map(
    shown: GaussianBayesNet | Posterior, names: Sequence[str] | None = None, *, sample: int = 0, ax: Axes | None = None
) -> Axes:
    """The precision of each entry, 1 / variance, as log10: a row for each vertex.

    Of a net, the precisions of its noises; of a posterior, those of its beliefs.  Entries without variance are blank.
    Vertices of more than 64 entries are averaged, neighbour by neighbour.

    Args:
        names: vertices (default: all with noise, or all targets, labels excepted).
        sample: of a posterior.

    Raises:
        UnknownNameError, InferenceError: not a target, or an engine without variances; nothing to show.
    """
    rows = {name: _coarse(_log_precision(values)) for name, values in _variances(shown, names, sample).items()}
    if not rows:
        raise InferenceError("precision_map: no vertex with a variance to show; name some in names=")
    grid = np.full((len(rows), max(map(len, rows.values()))), np.nan)
    for line, values in zip(grid, rows.values(), strict=True):
        line[: len(values)] = values
    ax = axes(ax, size=(6.0, 1.2 + 0.3 * len(rows)))
    picture = ax.imshow(grid, aspect="auto", interpolation="nearest", cmap="viridis")
    ax.figure.colorbar(picture, ax=ax, label="log10 precision")
    ax.set(yticks=range(len(rows)), yticklabels=list(rows), xlabel="entry")
    return ax


def posterior_images(
    post: Posterior,
    name: str,
    shape: tuple[int, int] | None = None,
    *,
    samples: int | Sequence[int] = 8,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Beliefs about images: what was observed, the posterior mean, and its standard deviation, one column a sample.

    Args:
        name: a target.
        shape: rows and columns of an image (default: the event's, axes of length 1 apart).
        samples: how many, or which.
        limits: values of black and white for observed and mean (default: those that occur).

    Raises:
        UnknownNameError: not a target.
        ShapeError: the vertex is no image of that shape.
    """
    mean, event = post.mean[name], post.net[name].shape
    found = shape or tuple(size for size in event if size != 1)
    if len(found) != 2 or math.prod(found) != math.prod(event):
        raise ShapeError(
            f"{name!r} has events of shape {event}, which are no images of shape {shape or found}: give shape="
        )
    which = list(range(min(samples, len(mean)))) if isinstance(samples, int) else list(samples)
    low, high = limits or (float(mean[which].min()), float(mean[which].max()))
    rows: dict[str, tuple[Array, float, float]] = {"mean": (mean, low, high)}
    given = _given(post, name)
    if given is not None:
        rows = {"observed": (given, low, high)} | rows
    std = _std(post, name)
    if std is not None:
        top = float(std[which].max())
        rows[f"std, to {top:.3g}"] = (std, 0.0, top or 1.0)
    return _mosaic(rows, which, found, axes(ax, size=(0.9 * len(which) + 1.2, 0.9 * len(rows) + 0.3)))


def _mosaic(
    rows: Mapping[str, tuple[Array, float, float]], which: Sequence[int], shape: tuple[int, ...], ax: Axes
) -> Axes:
    """Pictures in a grid on one pair of axes, each row on a scale of its own."""
    tall, wide = shape
    for line, (values, low, high) in enumerate(rows.values()):
        for place, sample in enumerate(which):
            left, top = place * (wide + 1), line * (tall + 1)
            ax.imshow(
                values[min(sample, len(values) - 1)].reshape(shape), cmap="gray", vmin=low, vmax=high,
                extent=(left, left + wide, top + tall, top), interpolation="nearest",
            )  # fmt: skip
    ax.set(
        xlim=(-0.5, len(which) * (wide + 1) - 0.5), ylim=(len(rows) * (tall + 1) - 0.5, -0.5),
        xticks=[place * (wide + 1) + wide / 2 for place in range(len(which))], xticklabels=list(map(str, which)),
        yticks=[line * (tall + 1) + tall / 2 for line in range(len(rows))], yticklabels=list(rows), xlabel="sample",
    )  # fmt: skip
    ax.tick_params(length=0)
    ax.set_facecolor("none")
    return ax


def _energies(trace: Any, label: str) -> Array:
    """The objective of each round as something that falls.  Shape: (rounds,)."""
    history = list(getattr(trace, "history", trace))
    for name, sign in (("free_energy", 1), ("minus_free_energy", -1), ("log_evidence", -1)):
        values = sign * _column(history, name)
        if np.isfinite(values).any():
            return values
    what = f"{label!r}: " if label else ""
    raise InferenceError(
        f"free_energy: {what}there is nothing to trace in {len(history)} rounds without an objective; ask an engine "
        "that iterates, such as engine='vmp' or prediction='live'"
    )


def _column(history: Iterable[Mapping[str, float]], name: str) -> Array:
    """One figure over the rounds, NaN where a round has none."""
    return np.array([figures.get(name, np.nan) for figures in history], dtype=float)


def _positive(values: Any) -> Array:
    return np.maximum(np.asarray(values, dtype=float), _FLOOR)


def _variances(shown: Any, names: Sequence[str] | None, sample: int) -> dict[str, Array]:
    """vertex -> variances, one an entry; those of a net's noises, or of a posterior's targets."""
    if not hasattr(shown, "targets"):
        noises = {name: shown.noise(name) for name in (shown.latents if names is None else names)}
        return {
            name: np.asarray(noise.diagonal(), float).reshape(-1) for name, noise in noises.items() if noise is not None
        }
    chosen = [n for n in shown.targets if shown.net[n].kind != "likelihood"] if names is None else names
    plated = {name: shown.net[name].plated for name in chosen}
    return {n: np.asarray(shown.var[n][sample] if plated[n] else shown.var[n], float).reshape(-1) for n in chosen}


def _log_precision(variances: Array) -> Array:
    with np.errstate(divide="ignore"):
        found = -np.log10(variances)
    return np.where(np.isfinite(found), found, np.nan)


def _coarse(values: Array) -> Array:
    """At most as many values as there are columns: means of neighbours."""
    if len(values) <= _COLUMNS:
        return values
    parts = np.array_split(values, _COLUMNS)
    return np.array([part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan for part in parts])


def _given(post: Posterior, name: str) -> Array | None:
    """What was observed of a vertex, NaN elsewhere; None where nothing was.  Shape: (samples, *event)."""
    evidence = post.evidence
    if name in evidence.do:
        return evidence.do[name]
    if name not in evidence.values:
        return None
    mask = evidence.masks.get(name)
    return evidence.values[name] if mask is None else np.where(mask, evidence.values[name], np.nan)


def _std(post: Posterior, name: str) -> Array | None:
    try:
        return post.std[name]
    except InferenceError:
        return None
