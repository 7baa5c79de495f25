"""Functions of blocks, one block after the other in this process, and what all runners share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from gbn import errors
from gbn.blocks.source import Block, Source
from gbn.errors import EvidenceError, GbnError

__all__ = ["Faults", "Here", "Make", "Runner", "applied", "made", "merged", "sound", "tree"]

T = TypeVar("T")
# From a block's content, its weights and its number.
Make = Callable[[Any, Any, int], Any]
# Bytes of blocks that are kept from round to round instead of being read again, and parts that are merged at once.
_KEPT = 128 << 20
_WIDTH = 8
_MOST_FAULTS = 5


@dataclass(frozen=True)
class Faults:
    """What went wrong, with the block's label: in place of a result, and as plain text, which any process can read."""

    found: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, label: str, error: Exception) -> Faults:
        """That of one block."""
        return cls(((label, type(error).__name__, str(error)),))

    def raised(self) -> None:
        """Raise one error that names all of them, of the kind of the first."""
        lines = [f"{label}: {text}" for label, _, text in self.found[:_MOST_FAULTS]]
        more = len(self.found) - len(lines)
        lines += [f"and {more} more blocks"] * (more > 0)
        kind = getattr(errors, self.found[0][1], EvidenceError)
        # Not by its own constructor, which makes the message out of other arguments.
        raise kind.__new__(kind, "\n  - ".join(lines))


class Runner(Protocol):
    """Who computes functions of blocks.

    A block is first *made*: read, checked, and brought into the form that the functions take.

    labels: of the blocks, in order; known once a function has been called.
    """

    @property
    def labels(self) -> Sequence[str]:
        """See the class."""

    def keep(self, value: Any) -> Any:
        """Something to give to many calls, in a form in which it is sent once."""

    def each(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """``function(made block, *arguments)`` of every block, in order.

        Raises:
            GbnError: one of a block, with its label; all blocks at fault are named in one error.
            UnavailableError: a block cannot be had, or the cluster is lost.
        """

    def reduce(self, function: Callable[..., T], merge: Callable[[Sequence[T]], T], *arguments: Any) -> T:
        """``function(made block, *arguments)`` of all blocks, merged along a tree that their number alone decides."""


class Here:
    """One block after the other; those that fit into some memory are kept, the others are read anew each time."""

    def __init__(self, source: Source, make: Make) -> None:
        self.source, self.make = source, make
        self.kept: dict[int, tuple[str, Any]] = {}
        self.labels: list[str] = []
        self.bytes = 0

    def keep(self, value: Any) -> Any:
        return value

    def made(self) -> Iterator[tuple[str, Any]]:
        """Every block's label and what was made of it."""
        if self.labels and len(self.kept) == len(self.labels):
            yield from self.kept.values()
            return
        labels = []
        for number, block in enumerate(self.source):
            labels.append(block.label)
            entry = self.kept.get(number)
            if entry is None:
                entry = block.label, made(self.make, loaded(block), block.label)
                size = getattr(entry[1], "nbytes", 0)
                if self.bytes + size <= _KEPT:
                    self.bytes += size
                    self.kept[number] = entry
            yield entry
        if not labels or (self.labels and len(labels) != len(self.labels)):
            expected = f"{len(self.labels)}, as the first time" if self.labels else "at least one"
            raise EvidenceError(f"data: got {len(labels)} blocks, expected {expected}")
        self.labels = labels

    def _results(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Iterator[Any]:
        for label, block in self.made():
            yield applied(function, block, arguments, label)

    def each(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        return sound(list(self._results(function, arguments)))

    def reduce(self, function: Callable[..., T], merge: Callable[[Sequence[T]], T], *arguments: Any) -> T:
        with closing(self._results(function, arguments)) as results:  # type: ignore[type-var]
            found = tree(results, lambda parts: merged(merge, parts))
        return sound([found])[0]


def sound(results: list[Any]) -> list[Any]:
    """Results without faults; raises what the faults say."""
    found = [fault for result in results if isinstance(result, Faults) for fault in result.found]
    if found:
        Faults(tuple(found)).raised()
    return results


def loaded(block: Block) -> Block | Faults:
    """The block with what Dask has still to compute."""
    parts = [*block.content.values()] if isinstance(block.content, Mapping) else [block.content]
    if not any(hasattr(part, "__dask_graph__") for part in (*parts, block.weights)):
        return block
    import dask

    try:
        content, weights = dask.compute(block.content, block.weights)
    except Exception as error:
        return _unreadable(block.label, error)
    return replace(block, content=content, weights=weights)


def _unreadable(label: str, error: Exception) -> Faults:
    if isinstance(error, GbnError):
        return Faults.of(label, error)
    return Faults(((label, "UnavailableError", f"it cannot be had: {type(error).__name__}: {error}"),))


def made(make: Make, block: Block | Faults, label: str) -> Any:
    """What is made of a block, or what is wrong with it."""
    if isinstance(block, Faults):
        return block
    try:
        content = block.content() if callable(block.content) else block.content
    # It may be anyone's function.
    except Exception as error:
        return _unreadable(label, error)
    try:
        return make(content, block.weights, block.number)
    except GbnError as error:
        return Faults.of(label, error)


def applied(function: Callable[..., Any], block: Any, arguments: Sequence[Any], label: str) -> Any:
    """A function of a block, or what is wrong."""
    if isinstance(block, Faults):
        return block
    try:
        return function(block, *arguments)
    except GbnError as error:
        return Faults.of(label, error)


def merged(merge: Callable[[Sequence[Any]], Any], parts: Sequence[Any]) -> Any:
    """The parts as one, or all that is wrong with them."""
    found = [fault for part in parts if isinstance(part, Faults) for fault in part.found]
    return Faults(tuple(found)) if found else merge(parts)


def tree(parts: Iterable[T], merge: Callable[[list[T]], T]) -> T:
    """Parts merged in order, some at a time, then what came out likewise; few of them are held at once."""
    levels: list[list[T]] = []
    for part in parts:
        for level in levels:
            level.append(part)
            if len(level) < _WIDTH:
                break
            part = merge(list(level))
            level.clear()
        else:
            levels.append([part])
    rest: list[T] = []
    for level in levels:
        together = [*level, *rest]
        rest = [merge(together)] if len(together) > 1 else together
    return rest[0]
