"""Where results and messages go, files written whole, and errors in a sentence."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gbn.errors import (
    ConvergenceWarning,
    GbnError,
)

__all__ = ["InputError", "check_target", "emit", "log", "named", "printable", "results_only", "sentence", "write_whole"]


class InputError(GbnError, ValueError):
    """What was given on the command line cannot be used."""


def check_target(path: str | None) -> None:
    """Refuse a place that cannot be written before the work is done, not after it."""
    if path is None:
        return
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise InputError(f"{path}: it is a folder, expected the name of a file to write")
    if not target.parent.is_dir():
        raise InputError(f"{path}: there is no folder {str(target.parent)!r}; make it first")


def write_whole(path: str, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and move it there, so that it appears whole or not at all."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        write(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    log(f"wrote {path}")


@contextlib.contextmanager
def results_only() -> Iterator[None]:
    """Keep stdout for the result: what a model's code prints, and warnings, go to stderr."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        log(f"warning: {message}")

    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("always", ConvergenceWarning)
        warnings.showwarning = show
        yield


def sentence(error: Exception) -> str:
    """An error as one sentence for stderr."""
    if isinstance(error, GbnError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    return f"unexpected {named(error)}; --debug shows where"


def named(error: BaseException) -> str:
    """An exception with its type."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def printable(text: str) -> str:
    """Control characters, which a name in a stranger's file may hold, as escapes."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def log(text: str) -> None:
    """A line on stderr."""
    print(f"gbn: {printable(text)}", file=sys.stderr)


def emit(text: str) -> None:
    """The result, on stdout."""
    encoding = sys.stdout.encoding or "utf-8"
    text = printable(text).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The reader has what it wanted.  Python flushes once more at exit, and must find something to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
