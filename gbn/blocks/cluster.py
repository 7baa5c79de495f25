"""Functions of blocks on an existing Dask cluster.

Each block is made once, by a task that reads it, and stays where it was made; what the rounds send is their arguments,
and what comes back are merged results.  Every task can be run again from what the scheduler knows: a worker that is
lost costs the time of the blocks that it held.  Between scheduler and workers everything goes by Dask's own
serialisation, pickle among it: that is a matter of trust between the machines of a cluster.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from gbn.blocks.running import Faults, Make, applied, made, merged, sound, tree
from gbn.blocks.source import Block, Source
from gbn.errors import EvidenceError, GbnError, LearningError, MissingDependencyError, UnavailableError

__all__ = ["OnCluster"]

T = TypeVar("T")
_REMEDY = (
    "start one again and repeat the call; a fit with checkpoint= goes on from the last round that was written, on a "
    "cluster or without one"
)
# Seconds between looks at the cluster, and without any worker until it counts as lost.
_LOOK, _PATIENCE = 2.0, 60.0


class OnCluster:
    """The workers of a Dask client; see :class:`gbn.blocks.running.Runner`.

    Raises:
        LearningError: what was given is no client, or an asynchronous one.
        UnavailableError: the cluster is lost, or a block cannot be had.
        MissingDependencyError: distributed is not installed.
    """

    def __init__(self, source: Source, make: Make, client: Any) -> None:
        try:
            import distributed
        except ImportError:
            raise MissingDependencyError("distributed", "dask", "client=") from None
        if not isinstance(client, distributed.Client) or client.asynchronous:
            kind = "an asynchronous client" if isinstance(client, distributed.Client) else type(client).__name__
            raise LearningError(f"client: got {kind}, expected a dask.distributed.Client (not an asynchronous one)")
        self.client, self.source, self.make = client, source, make
        self._blocks: list[tuple[str, Any]] | None = None
        self._worked = False

    @property
    def blocks(self) -> list[tuple[str, Any]]:
        """Label, and the future of what is made of it, for every block."""
        if self._blocks is None:
            from dask import delayed

            blocks = list(self.source)
            with self._watched():
                make, run = self.keep(self.make), delayed(_made, pure=False)
                tasks = [run(make, block.content, block.weights, block.number, block.label) for block in blocks]
                futures = self.client.compute(tasks)
                self._blocks = [(block.label, future) for block, future in zip(blocks, futures, strict=True)]
            if not self._blocks:
                raise EvidenceError("data: got no blocks, expected at least one")
        return self._blocks

    @property
    def labels(self) -> Sequence[str]:
        return [label for label, _ in self.blocks]

    def keep(self, value: Any) -> Any:
        # By a task, not scattered: what a task returns can be had again when its worker is gone.
        with self._watched():
            return self.client.submit(_same, value, pure=False)

    def each(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        waiting = zip(self.blocks, self._applied(function, arguments), strict=True)
        return sound([self._result(future, *block) for block, future in waiting])

    def reduce(self, function: Callable[..., T], merge: Callable[[Sequence[T]], T], *arguments: Any) -> T:
        submit, parts = self.client.submit, self._applied(function, arguments)
        with self._watched():
            found = tree(parts, lambda group: submit(merged, merge, group, pure=False))
        return sound([self._result(found)])[0]

    def _applied(self, function: Callable[..., Any], arguments: Sequence[Any]) -> list[Any]:
        """A future for every block, in order."""
        blocks = self.blocks
        with self._watched():
            # Sent once, however many blocks there are.
            shared = self.keep(list(arguments))
            submit = self.client.submit
            return [submit(applied, function, block, shared, label, pure=False) for label, block in blocks]

    def _result(self, future: Any, label: str = "", block: Any = None) -> Any:
        """What a task returned, once it has; where a task of Dask's own could not make its block, a fault."""
        with self._watched():
            self._wait(future)
            error = future.exception() if future.status == "error" else None
            if error is None or type(error).__name__ == "KilledWorker":
                return future.result()
        if block is None or block.status != "error":
            raise error
        return Faults(((label, "UnavailableError", f"it cannot be had: {type(error).__name__}: {error}"),))

    def _wait(self, future: Any) -> None:
        from distributed import wait

        alone = None
        while not future.done():
            with suppress(TimeoutError):
                wait(future, timeout=_LOOK)
            workers = bool(self.client.nthreads()) if not future.done() else True
            self._worked |= workers
            # A cluster that has yet to get its first worker is waited for, as Dask does.
            alone = None if workers or not self._worked else alone or time.monotonic()
            if alone is not None and time.monotonic() - alone > _PATIENCE:
                raise UnavailableError(f"the Dask cluster has no worker left; {_REMEDY}")

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Dask's errors that say the cluster is gone, as one of ours; its advice on large blocks is not for here."""
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                yield
        except GbnError:
            raise
        except KilledWorker as error:
            raise UnavailableError(f"a block costs workers their life ({error}); make blocks smaller") from error
        except (OSError, TimeoutError, CancelledError, FutureCancelledError) as error:
            raise UnavailableError(f"the Dask cluster is lost ({type(error).__name__}: {error}); {_REMEDY}") from error
        except Exception as error:
            if self.client.status in ("running", "connecting"):
                raise
            raise UnavailableError(f"the Dask client is {self.client.status} ({error}); {_REMEDY}") from error


def _same(value: Any) -> Any:
    return value


def _made(make: Make, content: Any, weights: Any, number: int, label: str) -> Any:
    return made(make, Block(number, content, weights), label)
