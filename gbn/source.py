"""Where a net comes from: the names that its arrays have in the converted model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gbn.errors import ShapeError, UnknownNameError
from gbn.vertex import Array, Vertex

__all__ = ["SourceArray", "SourceNames"]


@dataclass(frozen=True)
class SourceArray:
    """One array of the converted model.

    dtype: the one it has there.
    vertex: the parameter or constant that holds it; None for an array that the net does not use.
    value: the array, where no vertex holds it.
    """

    dtype: np.dtype[Any]
    vertex: str | None = None
    value: Array | None = None


class SourceNames:
    """The part of a net that knows the model it was converted from; see :class:`gbn.net.GaussianBayesNet`."""

    vertices: dict[str, Vertex]

    def __init__(self) -> None:
        self._sources: dict[str, SourceArray] = {}

    def describe(self, name: str, *, source: str | None = None, trainable: bool | None = None) -> None:
        """Record where a vertex comes from in the converted model, or that it is frozen there."""
        vertex = self._vertex(name)
        self.vertices[name] = replace(
            vertex,
            source=vertex.source if source is None else source,
            trainable=vertex.trainable if trainable is None else trainable,
        )

    def keep_source(self, name: str, value: Array, vertex: str | None = None) -> None:
        """Record an array of the converted model under its name there, for the way back.

        Needed for what :meth:`describe` does not say: further names of an array (tied weights), a dtype that is not the
        net's, arrays that the net does not use.  A converter that calls it does so for every array of the model.

        Args:
            value: the array in the model; a copy is kept where no vertex holds it.
            vertex: the parameter or constant that holds it.

        Raises:
            UnknownNameError, ShapeError: there is no such vertex, or it has another shape.
        """
        if vertex is None:
            kept = np.array(value)
            kept.flags.writeable = False
            self._sources[name] = SourceArray(kept.dtype, value=kept)
            return
        if self._vertex(vertex).kind not in ("parameter", "constant") or self.vertices[vertex].shape != value.shape:
            found = self.vertices[vertex]
            raise ShapeError(
                f"source {name!r} of shape {value.shape}: got {vertex!r}, of kind {found.kind} and shape "
                f"{found.shape}, expected a parameter or constant of that shape"
            )
        self._sources[name] = SourceArray(value.dtype, vertex)

    @property
    def source_arrays(self) -> Mapping[str, SourceArray]:
        """Every array of the converted model by its name there; see :func:`gbn.load_into`."""
        if self._sources:
            return self._sources
        # Constants may be computed from an array of the model, or a part of it.
        held = (v for v in self.vertices.values() if v.kind == "parameter" and v.source is not None)
        return {str(v.source): SourceArray(v.value.dtype, v.name) for v in held if v.value is not None}

    def source_of(self, name: str) -> str | None:
        """Where a vertex comes from in the converted model (a parameter's first name there), if it comes from one."""
        return self._vertex(name).source

    def sources_of(self, name: str) -> tuple[str, ...]:
        """All names that a vertex has in the converted model: several for tied weights, none where it has no source."""
        first = self._vertex(name).source
        others = [source for source, entry in self._sources.items() if entry.vertex == name and source != first]
        return (() if first is None else (first,)) + tuple(others)

    def _vertex(self, name: str) -> Vertex:
        if name not in self.vertices:
            raise UnknownNameError("vertex", name, self.vertices)
        return self.vertices[name]
