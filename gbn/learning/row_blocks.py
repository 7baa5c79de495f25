"""Rows to learn from in blocks: what :class:`gbn.learning.data.Data` is for rows in one piece.

A block is read and checked once.  Where sums suffice (a linear net, exact inference) it is then replaced by a few rows
with the same sums, and where these make up little of all rows, by those of all blocks together, in one piece: one pass
over the data is all that they cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn import io
from gbn.blocks import Runner, in_blocks, runner
from gbn.blocks.running import Here, applied, sound
from gbn.blocks.source import check_alike, columns_of, read_block
from gbn.errors import EvidenceError, LearningError, UnknownNameError
from gbn.evidence import Evidence
from gbn.learning.condensation import condensed
from gbn.learning.data import Data, joined
from gbn.learning.facts import Digest, Facts, digests_of
from gbn.learning.numbers import Frozen, moved, numbers
from gbn.learning.regressions import read_families
from gbn.learning.statistics import InOnePiece, Statistics, Sums

if TYPE_CHECKING:
    from gbn.learning.regressions import Family
    from gbn.net import GaussianBayesNet

__all__ = ["Blocks", "read"]

Array = np.ndarray[Any, Any]
Numbers = Mapping[str, Mapping[str, Array]]
# Condensed rows are brought together where they are at most one in so many, and not too large.
_FEW, _MOST_BYTES = 8, 32 << 20


def read(
    net: GaussianBayesNet,
    data: Any,
    frozen: Frozen,
    weights: Any = None,
    client: Any = None,
    block_rows: int | None = None,
    sums_suffice: bool = False,
) -> Data | Blocks:
    """Rows in any form, in one piece or in blocks; see :func:`gbn.blocks.in_blocks` and :meth:`Data.read`.

    Args:
        frozen: what is not learned, by which workers know the regressions of the net as the learner does.
        weights: of the rows, or the name of the member or column that says them.
        client: of the Dask cluster that is to compute; None: this process.
        block_rows: rows for each block, where rows in one piece are to be taken in blocks.
        sums_suffice: whether rows may be replaced by fewer ones with the same sums.

    Raises:
        UnknownNameError, ShapeError, EvidenceError: naming the vertex or the argument.
    """
    if isinstance(data, Data | Blocks):
        return data
    source = in_blocks(data, weights, block_rows, cut=client is not None)
    name = weights if isinstance(weights, str) else None
    if source is None:
        data, weights = _apart(data, name) if name is not None else (data, weights)
        return Data.read(net, data, weights)
    # The net travels as the bytes of its file.
    make = _Reading(net if client is None else io.to_bytes(net), name, sums_suffice)
    return Blocks(net, frozen, runner(source, make, client))


def _apart(content: Any, name: str) -> tuple[Any, Any]:
    """Rows, and the member or column of that name, which weighs them."""
    if not hasattr(content, "keys"):
        return content, None
    if name not in content:
        raise UnknownNameError("member or column for the weights", name, list(content.keys()))
    rest = [key for key in content.keys() if key != name]  # noqa: SIM118 - a table, whose iteration differs
    return (content[rest] if hasattr(content, "iloc") else {key: content[key] for key in rest}), content[name]


@dataclass(frozen=True)
class _Reading:
    """From a block's content to what is kept of it.

    net: or the bytes of its file.
    weights: the member or column that says how often a row counts.
    """

    net: GaussianBayesNet | bytes
    weights: str | None
    sums_suffice: bool

    def __call__(self, content: Any, weights: Any, _: int) -> _Piece:
        net = _net_of(self.net) if isinstance(self.net, bytes) else self.net
        if weights is None and self.weights is not None:
            content, weights = _apart(content, self.weights)
        columns, arrays = columns_of(content), read_block(net, content)
        data = Data.read(net, arrays, weights, part=True)
        kept = condensed(data) if self.sums_suffice else data
        return _Piece(kept, _Summary(columns, data.facts, digests_of(data, arrays), kept.samples, _bytes(kept)))


_loaded = lru_cache(maxsize=4)(io.from_bytes)


def _net_of(data: bytes) -> GaussianBayesNet:
    """The net that these bytes describe, for one piece: pieces may be at work at the same time."""
    return _loaded(data).apart()


@dataclass(frozen=True)
class _Summary:
    """What is known of a block before the first round.

    columns: names of its members or columns.
    kept, nbytes: rows that are kept, and their size.
    """

    columns: tuple[str, ...]
    facts: Facts
    digests: Mapping[str, Digest]
    kept: int
    nbytes: int


def _bytes(data: Data) -> int:
    evidence = data.evidence
    held = (*evidence.values.values(), *evidence.masks.values(), *evidence.do.values(), data.counts)
    return sum(array.nbytes for array in held)


class _Piece:
    """The rows of one block, or a few with the same sums, and their E-step, which is found when it is first needed."""

    def __init__(self, data: Data, summary: _Summary) -> None:
        self.data, self.summary = data, summary
        self._steps: dict[str, InOnePiece] = {}

    @property
    def nbytes(self) -> int:
        return self.summary.nbytes

    def __sizeof__(self) -> int:
        return self.nbytes

    def __getstate__(self) -> tuple[Any, ...]:
        # The E-step is found again wherever the piece arrives.
        evidence = self.data.evidence
        held = evidence.samples, dict(evidence.values), dict(evidence.masks), dict(evidence.do)
        return io.to_bytes(evidence.net), held, self.data.weights, self.summary

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        net, held, weights, self.summary = state
        self.data, self._steps = Data(Evidence(_net_of(net), *held), weights), {}

    def statistics(self, frozen: Frozen, engine: str, options: Mapping[str, Any]) -> InOnePiece:
        """The E-step of these rows."""
        key, net = repr((engine, sorted(options.items()))), self.data.evidence.net
        if key not in self._steps:
            families = net.remembered(("families", frozen), lambda: read_families(net, frozen))
            self._steps[key] = InOnePiece(self.data, families, engine, options)
        return self._steps[key]


class Blocks:
    """Rows to learn from in blocks, with what :class:`gbn.learning.data.Data` says of rows in one piece."""

    def __init__(self, net: GaussianBayesNet, frozen: Frozen, run: Runner) -> None:
        self.net, self.frozen, self.run = net, frozen, run

    @cached_property
    def _summary(self) -> _Summary:
        """Of all blocks; raises EvidenceError where they do not go together."""
        parts = self.run.each(_summary)
        check_alike(self.run.labels, [part.columns for part in parts])
        facts = Facts.merged(part.facts for part in parts)
        if not facts.total:
            raise EvidenceError("weights: expected one above 0 in at least one block")
        digests = {n: reduce(Digest.then, (p.digests[n] for p in parts)) for n in parts[0].digests}
        kept, size = (sum(found) for found in zip(*((p.kept, p.nbytes) for p in parts), strict=True))
        return _Summary(parts[0].columns, facts, digests, kept, size)

    @property
    def facts(self) -> Facts:
        """Sums over the rows, which are known before the first round."""
        return self._summary.facts

    @property
    def digests(self) -> Mapping[str, Digest]:
        """What tells the rows from others, by vertex."""
        return self._summary.digests

    @property
    def samples(self) -> int:
        """Number of rows."""
        return self.facts.samples

    @property
    def total(self) -> float:
        """The weights of all rows together."""
        return self.facts.total

    def of(self, net: GaussianBayesNet) -> Blocks:
        """The same rows: what is asked of them says of which net."""
        return self

    def batches(self, size: int | None, rng: np.random.Generator | None = None, shuffle: bool = True) -> Iterator[Data]:
        """All rows once, block by block, ``size`` at a time; in random order within each block, or in their own.

        Raises:
            LearningError: all rows together are asked for, or the blocks are on a cluster.
        """
        if not isinstance(self.run, Here):
            raise LearningError(
                "client: this method takes one step after another, and no cluster makes that faster; leave client out, "
                "and blocks are read one after the other, or use method='em' without batch_size"
            )
        if size is None:
            raise LearningError("batch_size: got None, all rows together, and they are in blocks; give a number")
        for label, piece in self.run.made():
            yield from sound([applied(_itself, piece, (), label)])[0].data.batches(size, rng, shuffle)

    @cached_property
    def few(self) -> Data | None:
        """Rows in one piece with the same sums; None where they would not be few."""
        known = self._summary
        if known.kept * _FEW > known.facts.samples or known.nbytes > _MOST_BYTES:
            return None
        return self.run.reduce(_itself, _together).data.of(self.net)

    def statistics(self, families: Sequence[Family], engine: str, options: Mapping[str, Any]) -> Statistics:
        """The E-step; see :func:`gbn.learning.statistics.statistics`."""
        if engine == "exact" and self.few is not None:
            return InOnePiece(self.few, families, engine, options)
        return _Spread(self, engine, options)


class _Spread:
    """The E-step, block by block; see :class:`gbn.learning.statistics.Statistics`."""

    def __init__(self, blocks: Blocks, engine: str, options: Mapping[str, Any]) -> None:
        self.net, self.run = blocks.net, blocks.run
        self.how = self.run.keep((blocks.frozen, engine, dict(options)))

    def __call__(self, net: GaussianBayesNet) -> Sums:
        return self.run.reduce(_expected, Sums.merged, self.how, self._changed(net))

    def objective(self, net: GaussianBayesNet) -> float:
        return self.run.reduce(_objective, _added, self.how, self._changed(net))

    def _changed(self, net: GaussianBayesNet) -> Numbers:
        """The numbers that differ from those of the net that the blocks have."""
        now, then = numbers(net), numbers(self.net)
        return {kind: {n: a for n, a in held.items() if a is not then[kind][n]} for kind, held in now.items()}


def _summary(piece: _Piece) -> _Summary:
    return piece.summary


def _itself(piece: _Piece) -> _Piece:
    return piece


def _together(parts: Sequence[_Piece]) -> _Piece:
    return _Piece(condensed(joined([part.data for part in parts])), parts[0].summary)


def _expected(piece: _Piece, how: tuple[Frozen, str, Mapping[str, Any]], found: Numbers) -> Sums:
    return piece.statistics(*how)(moved(piece.data.evidence.net, found))


def _objective(piece: _Piece, how: tuple[Frozen, str, Mapping[str, Any]], found: Numbers) -> float:
    return piece.statistics(*how).objective(moved(piece.data.evidence.net, found))


def _added(parts: Sequence[float]) -> float:
    return sum(parts)
