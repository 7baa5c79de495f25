"""Answers for rows in blocks: every figure is asked of the blocks when it is first read, and stacked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from gbn import io
from gbn.blocks import Runner, Source, runner
from gbn.blocks.source import check_alike, columns_of, read_block
from gbn.errors import InferenceError
from gbn.evidence import Evidence
from gbn.inference import solver
from gbn.joint import is_shared
from gbn.net import GaussianBayesNet
from gbn.posterior import ByName, Posterior

__all__ = ["MappedPosterior", "mapped"]

Array = np.ndarray[Any, Any]
T = TypeVar("T")
# Arrays of all vertices that a posterior may come to hold at a time.
_HELD = 4


def mapped(
    net: GaussianBayesNet,
    source: Source,
    client: Any,
    targets: Sequence[str],
    engine: str,
    *,
    do: Any,
    soft: Any,
    options: Mapping[str, Any],
) -> MappedPosterior:
    """The posterior for rows in blocks, here or on the cluster of a Dask client.

    Raises:
        InferenceError: soft evidence, or parameters with a prior, which couple all rows; and what
            :func:`gbn.inference.query` raises, with the label of the block.
    """
    if soft:
        raise InferenceError("soft: rows in blocks take hard evidence only; give a noisy copy of the vertex instead")
    random = [name for name in net.parameters if net.vertices[name].random]
    if random:
        raise InferenceError(
            f"parameter {random[0]!r} has a prior, and couples all rows, so that they cannot be taken in blocks; give "
            "the evidence in one piece"
        )
    asking = _Asking(net if client is None else io.to_bytes(net), do, tuple(targets), engine, dict(options))
    return MappedPosterior(net, runner(source, asking, client), engine, targets, options)


@dataclass(frozen=True)
class _Asking:
    """From a block's content to its answer.

    net: or the bytes of its file.
    """

    net: GaussianBayesNet | bytes
    do: Any
    targets: tuple[str, ...]
    engine: str
    options: Mapping[str, Any]

    def __call__(self, content: Any, _: Any, number: int) -> _Answer:
        answer = _Answer(self, columns_of(content), number, None)
        answer.evidence = Evidence.read(answer.net, read_block(answer.net, content), self.do)
        return answer


_loaded = lru_cache(maxsize=4)(io.from_bytes)


class _Answer:
    """The evidence of a block, and its posterior, which is found when it is first asked for."""

    evidence: Evidence

    def __init__(self, asking: _Asking, columns: tuple[str, ...], number: int, held: tuple[Any, ...] | None) -> None:
        self.asking, self.columns, self.number = asking, columns, number
        self.net = _loaded(asking.net).apart() if isinstance(asking.net, bytes) else asking.net
        if held is not None:
            self.evidence = Evidence(self.net, *held)
        self._post: Posterior | None = None

    @property
    def nbytes(self) -> int:
        entries = sum(vertex.size for vertex in self.net.vertices.values() if vertex.plated)
        return _HELD * entries * self.evidence.samples * self.net.dtype.itemsize

    def __sizeof__(self) -> int:
        return self.nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        # The posterior is found again wherever the answer arrives.
        e = self.evidence
        held = e.samples, dict(e.values), dict(e.masks), dict(e.do)
        return _Answer, (self.asking, self.columns, self.number, held)

    @property
    def post(self) -> Posterior:
        """As :func:`gbn.inference.query` gives it."""
        if self._post is None:
            asking = self.asking
            self._post = solver(asking.engine)(self.net, self.evidence, asking.targets, **asking.options)
            self._post.options = asking.options
        return self._post


class MappedPosterior(Posterior):
    """A posterior for rows in blocks: the same figures, with all rows stacked in their order.

    What is read of it is computed block by block, where the blocks are, and kept; nothing else is.  Where a figure of
    all rows is too large for memory, :meth:`each` makes something smaller of every block.  ``messages`` of parameters
    are sums over all rows.  ``history`` is empty; ``diagnostics`` are those of the first block, with the number of
    ``blocks`` and the labels of those that are ``not_converged``.  ``evidence`` and ``asked`` know the number of rows.
    """

    def __init__(
        self,
        net: GaussianBayesNet,
        run: Runner,
        engine: str,
        targets: Sequence[str],
        options: Mapping[str, Any],
    ) -> None:
        told = run.each(_told)
        check_alike(run.labels, [columns for columns, _, _, _ in told])
        late = [label for label, (_, _, converged, _) in zip(run.labels, told, strict=True) if not converged]
        figures = dict(told[0][3]) | {"blocks": len(told), "not_converged": late}
        evidence = Evidence(net, sum(samples for _, samples, _, _ in told), {}, {}, {})
        super().__init__(
            net, evidence, engine, targets, _Stacked(net, run), converged=not late, diagnostics=figures
        )  # fmt: skip
        self.run, self.options = run, options

    def each(self, function: Callable[[Posterior], T]) -> list[T]:
        """A function of the posterior of every block, in order, called where the block is.

        Args:
            function: what it returns must travel; with a cluster, it must, too.
        """
        return self.run.each(_called, function)

    @property
    def map(self) -> Mapping[str, Array]:
        return ByName(self.targets, lambda name: _stack(self.net, name, self.run.each(_mode, name)))

    def kl(self, name: str) -> Array:
        return np.concatenate(self.run.each(_divergence, name))

    def observed(self, name: str) -> Array:
        return _stack(self.net, name, self.run.each(_seen, name))


class _Stacked:
    """See :class:`gbn.posterior.Solution`."""

    def __init__(self, net: GaussianBayesNet, run: Runner) -> None:
        self.net, self.run = net, run

    def mean(self, name: str) -> Array:
        return _stack(self.net, name, self.run.each(_figure, "mean", name))

    def variance(self, name: str) -> Array:
        return _stack(self.net, name, self.run.each(_figure, "var", name))

    def covariance(self, a: str, b: str) -> Array:
        found = self.run.each(_covariance, a, b)
        first, total = found[0][0], sum(samples for _, samples in found)
        if all(len(cov) == 1 and np.array_equal(cov, first) for cov, _ in found):
            return np.broadcast_to(first, (total, *first.shape[1:]))
        return np.concatenate([np.broadcast_to(cov, (samples, *cov.shape[1:])) for cov, samples in found])

    def sample(self, n: int, rng: np.random.Generator, names: Sequence[str]) -> dict[str, Array]:
        parts = self.run.each(_draws, n, int(rng.integers(1 << 62)))
        return {
            name: np.concatenate([part[name] for part in parts], axis=1) if self.net[name].plated else parts[0][name]
            for name in names
        }

    def messages(self) -> Mapping[str, Array]:
        def message(name: str) -> Array:
            parts = self.run.each(_message, name)
            return np.concatenate(parts) if self.net[name].plated else sum(parts[1:], parts[0])

        return ByName(list(self.net.vertices), message)

    def log_evidence(self) -> Array:
        return np.concatenate(self.run.each(_attribute, "log_evidence"))

    def free_energy(self) -> Array:
        return np.concatenate(self.run.each(_attribute, "free_energy"))

    def surprise(self, name: str) -> Array:
        return np.concatenate(self.run.each(_figure, "surprise", name))


def _stack(net: GaussianBayesNet, name: str, parts: Sequence[Array]) -> Array:
    """All rows, or what is the same for all of them."""
    return np.concatenate(parts) if net[name].plated else parts[0]


def _told(answer: _Answer) -> tuple[tuple[str, ...], int, bool, Mapping[str, Any]]:
    return answer.columns, answer.evidence.samples, answer.post.converged, answer.post.diagnostics


def _called(answer: _Answer, function: Callable[[Posterior], T]) -> T:
    return function(answer.post)


def _figure(answer: _Answer, kind: str, name: str) -> Array:
    return np.asarray(getattr(answer.post, kind)[name])


def _attribute(answer: _Answer, kind: str) -> Array:
    return np.asarray(getattr(answer.post, kind))


def _covariance(answer: _Answer, a: str, b: str) -> tuple[Array, int]:
    """The covariance, in one row where all samples share it, and the number of samples."""
    cov = answer.post.cov(a, b)
    return (cov[:1].copy() if is_shared(cov) else cov), answer.evidence.samples


def _draws(answer: _Answer, n: int, seed: int) -> dict[str, Array]:
    return answer.post.sample(n, np.random.default_rng([seed, answer.number]))


def _message(answer: _Answer, name: str) -> Array:
    return np.asarray(answer.post.messages[name])


def _mode(answer: _Answer, name: str) -> Array:
    return np.asarray(answer.post.map[name])


def _divergence(answer: _Answer, name: str) -> Array:
    return answer.post.kl(name)


def _seen(answer: _Answer, name: str) -> Array:
    return answer.post.observed(name)
