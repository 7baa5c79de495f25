"""Every engine's answer to one query, beside the exact one."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import ConvergenceWarning, InferenceError, UnknownNameError
from gbn.inference import ENGINES, query
from gbn.joint import Joint, divergence
from gbn.net import GaussianBayesNet
from gbn.posterior import Posterior

if TYPE_CHECKING:
    import pandas

__all__ = ["Answer", "SideBySide", "compare_engines"]

Array = np.ndarray[Any, Any]
# Above this many entries a target's covariance is not formed for its divergence.
_LARGEST = 512
_NAN = float("nan")
_COLUMNS = ("engine", "target", "mean error", "variance ratio", "KL (nats)", "rounds", "passes", "converged", "time")


@dataclass(frozen=True)
class Answer:
    """What one engine says of one target.

    mean_error: root mean square, over samples and entries, of (mean - exact mean) / exact standard deviation; entries
        that are certain are left out, and where all are it is NaN.
    variance_ratio: geometric mean of variance / exact variance; NaN where the engine has no variances.
    kl: KL(this ‖ exact) in nats, averaged over the samples; NaN where there are no covariances.
    rounds, passes: as the engine counts them; None where it does not.
    converged: whether the engine says that it arrived.
    time_ratio: wall-clock time over that of "exact", means and variances included.
    """

    engine: str
    target: str
    mean_error: float
    variance_ratio: float
    kl: float
    rounds: int | None
    passes: int | None
    converged: bool
    time_ratio: float


@dataclass(frozen=True, repr=False)
class SideBySide:
    """Engines beside ``exact``: one answer for each engine and target, and why other engines refused.

    answers: by engine, then target.
    refused: engine -> its reason.
    posteriors: engine -> its whole answer.
    """

    answers: tuple[Answer, ...]
    refused: Mapping[str, str]
    posteriors: Mapping[str, Posterior]

    def __repr__(self) -> str:
        return f"SideBySide(engines {list(self.posteriors)}, refused {list(self.refused)})"

    def rows(self) -> list[tuple[Any, ...]]:
        """The table's rows: figures as numbers, what is not known as "–"."""

        def shown(value: Any) -> Any:
            return "–" if value is None or value != value else "yes" if value is True else value or "no"

        return [
            (a.engine, a.target, *_figures(a), shown(a.rounds), shown(a.passes), shown(a.converged), a.time_ratio)
            for a in self.answers
        ]

    def __str__(self) -> str:
        cells = [list(_COLUMNS), *([_text(value) for value in row] for row in self.rows())]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in cells
        ]
        return "\n".join([*lines, *(f"{engine}: {reason}" for engine, reason in self.refused.items())])

    def to_frame(self) -> pandas.DataFrame:
        """A row for each engine and target; columns are the attributes of :class:`Answer`, and ``refused``."""
        import pandas as pd

        records = [vars(answer) | {"refused": None} for answer in self.answers]
        records += [{"engine": engine, "refused": reason} for engine, reason in self.refused.items()]
        return pd.DataFrame(records, columns=[*Answer.__dataclass_fields__, "refused"])

    def _repr_html_(self) -> str:
        from gbn.display.html import facts, fragment, table

        return fragment(table(_COLUMNS, self.rows()), facts(self.refused.items()))


def compare_engines(
    net: GaussianBayesNet,
    targets: str | Sequence[str] | None = None,
    evidence: Any = None,
    engines: Sequence[str] | None = None,
    do: Any = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    soft: Mapping[str, Any] | None = None,
    repeats: int = 3,
) -> SideBySide:
    """Ask several engines the same and set their answers beside that of ``exact``.

    Args:
        targets: names (None: every Gaussian vertex with a value per sample that the evidence does not settle).
        evidence, do, soft: as for :func:`gbn.inference.query`.
        engines: names (None: all there are); "exact" always comes first.
        options: engine -> its options; those of "exact" too (``{"exact": {"operating_point": "equilibrium"}}``).
        repeats: runs of each engine, of which the fastest is taken for the time.

    Raises:
        As :func:`gbn.inference.query` for unusable evidence, unknown names and options; InferenceError where "exact"
        itself refuses.  Refusals of other engines are listed.
    """
    options = dict(options or {})
    for name in [*(engines or ()), *options]:
        if name not in ENGINES:
            raise UnknownNameError("engine", name, ENGINES)
    refused: dict[str, str] = {}
    posteriors: dict[str, Posterior] = {}
    seconds: dict[str, float] = {}
    for engine in dict.fromkeys(["exact", *(ENGINES if engines is None else engines)]):
        given = dict(options.get(engine, {}), soft=soft)
        try:
            posteriors[engine], seconds[engine] = _timed(net, targets, evidence, do, engine, given, repeats)
        except InferenceError as error:
            if engine == "exact":
                raise
            refused[engine] = str(error)
    exact = posteriors["exact"]
    names = exact.targets if targets is not None else [n for n in exact.targets if _uncertain(exact, n)]
    answers = tuple(
        replace(_answer(post, exact, name), time_ratio=seconds[engine] / seconds["exact"])
        for engine, post in posteriors.items()
        for name in names
    )
    return SideBySide(answers, refused, posteriors)


def _timed(
    net: GaussianBayesNet, targets: Any, evidence: Any, do: Any, engine: str, options: Mapping[str, Any], repeats: int
) -> tuple[Posterior, float]:
    """An answer with its means, and its variances where there are any, and the seconds of the fastest run."""
    best = float("inf")
    for _ in range(max(repeats, 1)):
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the table says it
            post = query(net, targets, evidence, do, engine, **options)
        for name in post.targets:
            _ = post.mean[name], _variance(post, name)
        best = min(best, time.perf_counter() - start)
    return post, best


def _variance(post: Posterior, name: str) -> Array | None:
    try:
        return post.var[name]
    except InferenceError:
        return None


def _uncertain(exact: Posterior, name: str) -> bool:
    variance = _variance(exact, name)
    return variance is not None and bool((variance > 0).any())


def _answer(post: Posterior, exact: Posterior, name: str) -> Answer:
    variance, truth = _variance(post, name), _variance(exact, name)
    error = ratio = _NAN
    if truth is not None and (truth > 0).any():
        free = truth > 0
        error = float(np.sqrt(np.mean((post.mean[name] - exact.mean[name])[free] ** 2 / truth[free])))
        if variance is not None:
            with np.errstate(divide="ignore"):
                ratio = float(np.exp(np.mean(np.log(variance[free] / truth[free]))))
    return Answer(
        post.engine,
        name,
        error,
        ratio,
        _NAN if variance is None or truth is None else _kl(post, exact, name),
        post.diagnostics.get("rounds"),
        post.diagnostics.get("passes"),
        post.converged,
        _NAN,
    )


def _kl(post: Posterior, exact: Posterior, name: str) -> float:
    if post.net[name].size > _LARGEST:
        return _NAN
    try:
        pair: list[Joint] = [post.joint([name]), exact.joint([name])]
    except InferenceError:
        return _NAN
    return float(divergence(*pair).mean())


def _figures(answer: Answer) -> list[Any]:
    figures = (answer.mean_error, answer.variance_ratio, answer.kl)
    return ["–" if np.isnan(value) else value for value in figures]


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
