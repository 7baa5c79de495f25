"""Rows in blocks: more than one piece of memory, or one machine, holds.

What a query or a fit makes of rows is computed block by block, and then stacked or added up: one block after the other
in this process, or on an existing Dask cluster.  Sums are taken along a tree that the number of blocks alone decides,
so that a result does not depend on who computed which block, or when.
"""

from __future__ import annotations

from typing import Any

from gbn.blocks.cluster import OnCluster
from gbn.blocks.running import Faults, Here, Make, Runner
from gbn.blocks.source import Block, Source, in_blocks

__all__ = ["Block", "Faults", "Here", "OnCluster", "Runner", "Source", "in_blocks", "runner"]


def runner(source: Source, make: Make, client: Any = None) -> Runner:
    """Who computes: a Dask client's cluster, or without one this process.

    Args:
        make: what to make of a block's content and weights, once; it can be pickled where there is a client.

    Raises:
        LearningError: what was given is no client, or an asynchronous one.
    """
    return Here(source, make) if client is None else OnCluster(source, make, client)
