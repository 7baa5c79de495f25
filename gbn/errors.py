"""Exceptions and warnings: each says what was got, what was expected, and what to do.

Everything gbn raises on purpose derives from :class:`GbnError` and from the built-in exception a caller would
expect, so ``except ValueError`` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "NO_COUNTERPART",
    "ArgumentTypeError",
    "ConvergenceWarning",
    "ConversionError",
    "CovarianceError",
    "EvidenceError",
    "FileFormatError",
    "GbnError",
    "GraphError",
    "IllConditionedError",
    "InferenceError",
    "LearningError",
    "MissingDependencyError",
    "ShapeError",
    "SingularEvidenceError",
    "UnknownNameError",
    "UnsupportedLayer",
    "near_matches",
]

NO_COUNTERPART = "no counterpart"
_ADD_ONE = (
    "To add a counterpart, register an op with gbn.ops.op (see gbn/ops/base.py), and enter a rule for the operation "
    "into the converter's table."
)


class GbnError(Exception):
    """Base class of every error that gbn raises on purpose."""


class ArgumentTypeError(GbnError, TypeError):
    """An argument or option is of another type than its function takes."""


class GraphError(GbnError, ValueError):
    """The net cannot be built like this: duplicate names, wrong parents, an op used wrongly."""


class ShapeError(GbnError, ValueError):
    """An array has another shape than its vertex."""


class CovarianceError(GbnError, ValueError):
    """A covariance is not symmetric, not positive definite, or of the wrong shape."""


class EvidenceError(GbnError, ValueError):
    """Evidence that cannot be used: infinite values, missing inputs, wrong labels."""


class InferenceError(GbnError, ValueError):
    """An engine cannot answer this query; the message says which one can."""


class SingularEvidenceError(InferenceError):
    """The observed quantities determine one another, so their joint density does not exist."""


class IllConditionedError(InferenceError):
    """Rounding would spoil the answer; the message names the vertex, and the solver that may do better."""


class LearningError(GbnError, ValueError):
    """A method cannot learn this net, or an option of it cannot be used; the message says what can."""


class FileFormatError(GbnError, ValueError):
    """A file is truncated, of another format or version, or inconsistent."""


class UnknownNameError(GbnError, KeyError):
    """A name that is not in the net (or not in a table); the message lists near matches."""

    def __init__(self, kind: str, name: object, known: Iterable[str], remedy: str = "") -> None:
        super().__init__(f"unknown {kind} {name!r}: {near_matches(name, known)}{remedy and '; ' + remedy}")

    def __str__(self) -> str:
        return str(self.args[0])


class MissingDependencyError(GbnError, ImportError):
    """An optional package is needed; the message gives the pip command."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'gaussian-bayes-net[{extra}]'")


class UnsupportedLayer:
    """One layer that a converter cannot take: its path in the model, what it is, and why.

    reason: NO_COUNTERPART where it could be taken if somebody added an op or a rule for it.
    """

    def __init__(self, path: str, operation: str, reason: str = "") -> None:
        self.path, self.operation, self.reason = path, operation, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.operation}" + (f" ({self.reason})" if self.reason else "")


class ConversionError(GbnError, ValueError):
    """A model cannot be converted; ``layers`` lists every layer at fault, not only the first, ``remedy`` ends it."""

    def __init__(self, message: str, layers: Iterable[UnsupportedLayer] = (), remedy: str = "") -> None:
        self.layers = tuple(layers)
        text = "\n  - ".join([message, *map(str, self.layers)])
        missing = any(layer.reason == NO_COUNTERPART for layer in self.layers)
        super().__init__("\n".join(filter(None, [text, _ADD_ONE if missing else "", remedy])))


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it arrived; the message says how far it came and what to change."""


def near_matches(name: object, known: Iterable[str]) -> str:
    """A clause that helps with a misspelt name: its near matches, else what there is to choose from."""
    known = [str(k) for k in known]
    # Case apart, so that 'Y' finds 'y'.
    by_folded: dict[str, list[str]] = {}
    for one in known:
        by_folded.setdefault(one.casefold(), []).append(one)
    folded = difflib.get_close_matches(str(name).casefold(), by_folded, n=3)
    close = [one for key in folded for one in by_folded[key]][:3]
    if close:
        return "did you mean " + " or ".join(map(repr, close)) + "?"
    shown = ", ".join(map(repr, known[:12])) + (", ..." if len(known) > 12 else "")
    return f"known are {shown}" if known else "there are none yet"
