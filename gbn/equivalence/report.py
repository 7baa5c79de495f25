"""What comparing local messages with backprop found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gbn.errors import MissingDependencyError

if TYPE_CHECKING:
    import matplotlib.axes
    import pandas

__all__ = ["Comparison", "Report"]


@dataclass(frozen=True)
class Comparison:
    """One parameter.

    name: in the original model.
    figures: metric -> number; see :data:`gbn.equivalence.METRICS`.
    agrees: whether the relative error is within the tolerance, or the difference within rounding of the whole gradient.
    """

    name: str
    shape: tuple[int, ...]
    figures: Mapping[str, float]
    agrees: bool


@dataclass(frozen=True, repr=False)
class Report:
    """Local messages beside backprop, parameter by parameter and overall.

    model: class of the original model.
    loss, reduction, engine, options: what was asked for.
    oracle: who computed backprop's gradients.
    tol: relative error up to which gradients, and losses, agree.
    parameters: one comparison each, in the model's order.
    overall: metric -> number, for the gradient as a whole.
    loss_local, loss_oracle: the loss by the net's forward pass and by the model's.
    rounds, passes: what the engine made; a pass goes once through the net, forward or back, so backprop takes two.
        None where the engine does not count them.
    converged: whether the engine says that it arrived.
    time_ratio: wall-clock time over that of backprop, medians of one run; None where it was not measured.
    """

    model: str
    loss: str
    reduction: str
    engine: str
    oracle: str
    dtype: str
    samples: int
    tol: float
    parameters: tuple[Comparison, ...]
    overall: Mapping[str, float]
    loss_local: float
    loss_oracle: float
    options: Mapping[str, Any] = field(default_factory=dict)
    rounds: int | None = None
    passes: int | None = None
    converged: bool = True
    time_ratio: float | None = None

    @property
    def loss_agrees(self) -> bool:
        """Whether both forward passes give the same loss, to the tolerance."""
        # A loss near zero is the difference of numbers near one, and no better than their rounding.
        slack = 1e-14 if self.dtype == "float64" else 1e-5
        return abs(self.loss_local - self.loss_oracle) <= self.tol * abs(self.loss_oracle) + slack

    @property
    def agrees(self) -> bool:
        """The verdict: every parameter's gradient, and the loss."""
        return self.loss_agrees and all(row.agrees for row in self.parameters)

    @property
    def worst(self) -> Comparison:
        """The parameter furthest from backprop's gradient, those that disagree first."""
        return max(self.parameters, key=lambda row: (not row.agrees, _order(row.figures["relative_error"])))

    @property
    def verdict(self) -> str:
        """The verdict in a sentence."""
        error, whole = self.worst.figures["relative_error"], self.overall["relative_error"]
        gap = (
            f"relative error {whole:.1e} overall, at most {error:.1e} (at {self.worst.name!r}), tolerance {self.tol:g}"
        )
        if not self.loss_agrees:
            return (
                f"The two do not compute the same: the net's loss is {self.loss_local:.10g}, the model's "
                f"{self.loss_oracle:.10g}; gradients: {gap}."
            )
        if self.agrees:
            return f"Local messages equal backprop: {gap}."
        apart = sum(not row.agrees for row in self.parameters)
        count = f"{apart} of {len(self.parameters)} parameters"
        hint = "" if self.converged else "; the engine had not converged"
        return f"Local messages differ from backprop at {count}: {gap}{hint}."

    def summary(self) -> dict[str, str]:
        """What was compared and what it took, as label -> text."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        both = f"{self.loss_local:.10g} by the net, {self.loss_oracle:.10g} by the model"
        facts = {
            "model": f"{self.model}, {len(self.parameters)} parameters, {self.samples} samples, {self.dtype}",
            "loss": f"{self.loss} ({self.reduction}): {both}",
            "engine": f"{self.engine}{options}" + ("" if self.converged else " (not converged)"),
            "oracle": self.oracle,
        }
        if self.rounds is not None:
            facts["rounds"] = str(self.rounds)
        if self.passes is not None:
            facts["passes"] = f"{self.passes} (backprop: 2)"
        if self.time_ratio is not None:
            facts["time"] = f"{self.time_ratio:.2f} times backprop's"
        return facts

    def rows(self) -> list[tuple[str, str, Mapping[str, float], bool]]:
        """Name, shape, figures and whether they agree: the whole gradient first, then every parameter."""
        whole = ("(all)", "", self.overall, self.agrees)
        return [whole, *((row.name, _times(row.shape), row.figures, row.agrees) for row in self.parameters)]

    def __repr__(self) -> str:
        return f"Report({self.model}, {self.loss}: {self.verdict})"

    def __str__(self) -> str:
        facts = [f"{label:8}{text}" for label, text in self.summary().items()]
        header = ["parameter", "shape", *(name.replace("_", " ") for name in self.overall), ""]
        cells = [
            [name, shape, *(f"{value:.3g}" for value in figures.values()), "" if agrees else "differs"]
            for name, shape, figures, agrees in self.rows()
        ]
        return "\n".join([self.verdict, "", *facts, "", *_aligned([header, *cells])])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values; None where a figure is not finite."""
        return {
            "agrees": self.agrees,
            "verdict": self.verdict,
            "model": self.model,
            "loss": self.loss,
            "reduction": self.reduction,
            "engine": self.engine,
            "options": {name: _plain(value) for name, value in self.options.items()},
            "oracle": self.oracle,
            "dtype": self.dtype,
            "samples": self.samples,
            "tol": self.tol,
            "rounds": self.rounds,
            "passes": self.passes,
            "converged": self.converged,
            "time_ratio": _plain(self.time_ratio),
            "loss_local": _plain(self.loss_local),
            "loss_oracle": _plain(self.loss_oracle),
            "overall": {name: _plain(value) for name, value in self.overall.items()},
            "parameters": [
                {"name": row.name, "shape": list(row.shape), "agrees": row.agrees}
                | {name: _plain(value) for name, value in row.figures.items()}
                for row in self.parameters
            ],
        }

    def to_json(self, indent: int | None = 2) -> str:
        """:meth:`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_frame(self) -> pandas.DataFrame:
        """One row for each parameter: its name as index, shape, metrics, agrees."""
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingDependencyError("pandas", "all", "a report as a data frame") from error
        records = [{"shape": row.shape, **row.figures, "agrees": row.agrees} for row in self.parameters]
        return pd.DataFrame(records, index=pd.Index([row.name for row in self.parameters], name="parameter"))

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Relative error of every parameter as bars on a log scale, with the tolerance.

        Raises:
            MissingDependencyError: matplotlib is absent.
        """
        from gbn.display.plots import layer_errors

        return layer_errors(self, ax=ax)

    def save_html(self, path: str | PathLike[str]) -> None:
        """Write the report as one HTML file that loads nothing else."""
        from gbn.display.html import page, report_html

        title = f"{self.model}: local messages beside backprop"
        Path(path).write_text(page(title, report_html(self)), encoding="utf-8")

    def _repr_html_(self) -> str:
        from gbn.display.html import report_html

        return report_html(self)


def _order(error: float) -> float:
    return math.inf if math.isnan(error) else error


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "1"


def _plain(value: Any) -> Any:
    """A value that JSON knows."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _aligned(cells: list[list[str]]) -> list[str]:
    """Rows of text in columns: the first two to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
