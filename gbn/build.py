"""How a net is built: vertices are added one by one, each checked when it is named.

Nothing is half-built: a call that raises leaves the net as it was.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gbn import likelihoods, ops
from gbn.arrays import detached
from gbn.errors import GraphError, ShapeError, UnknownNameError
from gbn.gaussian import Covariance
from gbn.options import check_arguments
from gbn.source import SourceNames
from gbn.trial import tried
from gbn.vertex import Array, Shape, Vertex

__all__ = ["NetBuilder"]

_RESERVED = frozenset("/\\\0")


class NetBuilder(SourceNames):
    """The part of a net that adds, changes and checks vertices; see :class:`gbn.net.GaussianBayesNet`.

    Args:
        dtype: of all values (float32 or float64); what is given is converted to it.
    """

    def __init__(self, dtype: Any = np.float64) -> None:
        super().__init__()
        self.dtype = np.dtype(dtype)
        if self.dtype.kind != "f":
            raise GraphError(f"dtype: got {self.dtype}, expected a floating-point type such as float32 or float64")
        self.vertices: dict[str, Vertex] = {}
        self.noises: dict[str, Covariance] = {}
        self._outputs: tuple[str, ...] | None = None
        self._remembered: dict[Hashable, tuple[tuple[Vertex, ...], Any]] = {}
        # What trials have told: a deep net asks for the same op on the same shapes again and again.
        self._shapes: dict[Any, tuple[Shape, bool]] = {}

    def add_input(self, name: str, shape: Sequence[int] | int, *, mean: Any = None, cov: Any = None) -> str:
        """A root.  With ``cov`` (and ``mean``, default 0) it has a Gaussian prior; without, it must be observed.

        shape: the event; () is taken as (1,).

        Raises:
            GraphError, ShapeError, CovarianceError: naming the vertex.
        """
        event = tuple(int(size) for size in np.atleast_1d(np.asarray(shape, dtype=int)))
        if any(size < 1 for size in event):
            raise ShapeError(f"shape of {name!r}: got {event}, expected positive sizes")
        self._insert(Vertex(name, "input", event or (1,), plated=True))
        if mean is not None or cov is not None:
            try:
                self.set_prior(name, 0.0 if mean is None else mean, cov)
            except Exception:
                del self.vertices[name]
                raise
        return name

    def add_parameter(self, name: str, value: Any, *, cov: Any = None, trainable: bool = True) -> str:
        """A weight, shared by all samples.  With ``cov`` it is a random variable with prior N(value, cov)."""
        array = self._array(value, name)
        noise = None if cov is None else Covariance(cov, array.shape, name)
        self._insert(Vertex(name, "parameter", array.shape, plated=False, value=array, trainable=trainable))
        self._own_noise(name, noise)
        return name

    def add_constant(self, name: str, value: Any) -> str:
        """A fixed array, shared by all samples, that is never learned (a buffer, a positional table)."""
        array = self._array(value, name)
        self._insert(Vertex(name, "constant", array.shape, plated=False, value=array, trainable=False))
        return name

    def add(self, name: str, op: str, parents: Sequence[str], *, cov: Any = None, **attributes: Any) -> str:
        """A vertex whose mean is an op of its parents.

        Args:
            name: must be new.
            op: ONNX operator name, see :data:`gbn.ops.OPS`.
            parents: names, in the op's order; a name may occur more than once.
            cov: None (deterministic), a number, an array over the event, a matrix, or the name of a shared noise.
            attributes: of the op.

        Raises:
            UnknownNameError: unknown op, attribute, parent or noise, with near matches.
            GraphError: the op does not take these parents, or it mixes samples.
            CovarianceError: naming the vertex.
        """
        entry = ops.get(op)
        parents = [parents] if isinstance(parents, str) else parents
        for parent in parents:
            self._known(parent, f"parent of {name!r}")
            if self.vertices[parent].kind == "likelihood":
                raise GraphError(f"{name!r}: its parent {parent!r} is a label; labels have no children")
        try:
            entry.check(len(parents), list(attributes))
        except GraphError as error:
            raise GraphError(f"{name!r}: {error}") from None
        event, plated = self._infer(name, entry, parents, attributes)
        if isinstance(cov, str):
            self._known_noise(cov)
        noise = None if cov is None or isinstance(cov, str) else Covariance(cov, event, name)
        vertex = Vertex(name, "op", event, plated or cov is not None, tuple(parents), op, dict(attributes))
        self._insert(vertex)
        self._own_noise(name, noise)
        if isinstance(cov, str):
            try:
                self.set_noise({name: cov})
            except ShapeError:
                del self.vertices[name]
                raise
        return name

    def add_linear(
        self,
        name: str,
        parents: Mapping[str, Any],
        *,
        bias: Any = None,
        cov: Any = None,
        shape: Sequence[int] | None = None,
    ) -> str:
        """The textbook CPD N(Σ_p W_p vec(u_p) + b, Q).

        Args:
            parents: parent -> weight of shape (child, prod(parent event)), or the name of a parameter to tie it to.
                New weights become parameters ``<name>.<parent>.weight``.
            bias: shape (child,), or a parameter's name; a new one becomes ``<name>.bias``.
            shape: event of the vertex, where it is not (child,).

        Raises:
            As :meth:`add`; the net is unchanged then.
        """
        before = len(self.vertices)
        try:
            terms: list[str] = []
            for parent, weight in parents.items():
                self._known(parent, f"parent of {name!r}")
                if not isinstance(weight, str):
                    weight = self.add_parameter(f"{name}.{parent}.weight", np.atleast_2d(weight))
                terms += [parent, weight]
                self._check_weight(name, parent, weight)
            if bias is not None:
                known = isinstance(bias, str)
                terms.append(bias if known else self.add_parameter(f"{name}.bias", np.atleast_1d(bias)))
                self._known(terms[-1], f"bias of {name!r}")
            self._check_children(name, terms)
            if not parents and cov is None:
                raise GraphError(f"{name!r}: a root without noise is a parameter; use add_parameter, or give cov=...")
            if not terms:
                raise GraphError(f"{name!r}: a root needs bias=..., its mean")
            attributes = {} if shape is None else {"shape": list(shape)}
            return self.add(name, "Linear", terms, cov=cov, **attributes)
        except Exception:
            while len(self.vertices) > before:
                self.vertices.popitem()
            raise

    def add_likelihood(self, name: str, likelihood: str, parent: str) -> str:
        """A label below logits: "categorical" (classes on the event's first axis) or "bernoulli"."""
        likelihoods.get(likelihood)
        self._known(parent, f"parent of {name!r}")
        logits = self.vertices[parent]
        if not logits.plated or (likelihood == "categorical" and not logits.shape):
            raise GraphError(f"{name!r}: expected logits for each sample, got {parent!r} of shape {logits.shape}")
        self._insert(Vertex(name, "likelihood", logits.shape, True, (parent,), likelihood))
        return name

    def add_noise(self, name: str, cov: Any, shape: Sequence[int]) -> str:
        """A noise that several vertices of one event shape share; use its name as their ``cov``."""
        if name in self.noises or name in self.vertices:
            what = "noise" if name in self.noises else "vertex"
            raise GraphError(f"{what} {name!r} exists already; names of vertices and noises must be new")
        self.noises[name] = Covariance(cov, shape, name)
        return name

    def set_noise(self, covariances: Mapping[str, Any]) -> None:
        """Give vertices noise: name -> cov as in :meth:`add` (None makes a vertex deterministic).

        An input with a prior becomes a known one by None: it has its mean as its value, where it is not given another.
        A vertex's own noise goes with its last use; those made by :meth:`add_noise` stay.

        Raises:
            UnknownNameError, CovarianceError, GraphError, ArgumentTypeError: and nothing is changed then.
        """
        check_arguments(NetBuilder.set_noise, {"covariances": covariances})
        # Only what changes is set aside: a copy of everything would make building by single calls quadratic.
        vertices: dict[str, Vertex] = {}
        noises: dict[str, Covariance] = {}
        for name, cov in covariances.items():
            self._known(name)
            vertex = self.vertices[name]
            if vertex.kind in ("constant", "likelihood"):
                raise GraphError(f"{name!r} is a {vertex.kind}: it has no Gaussian noise")
            if isinstance(cov, str):
                if cov not in noises:
                    self._known_noise(cov)
                shared = noises[cov] if cov in noises else self.noises[cov]
                if shared.event != vertex.shape:
                    raise ShapeError(f"{name!r}: got the noise {cov!r} of {shared.event}, expected {vertex.shape}")
                vertices[name] = replace(vertex, noise=cov, plated=vertex.plated or vertex.kind == "op")
            elif cov is None:
                vertices[name] = replace(vertex, noise=None)
            else:
                noises[name] = Covariance(cov, vertex.shape, name)
                vertices[name] = replace(vertex, noise=name, plated=vertex.plated or vertex.kind == "op")
            if cov is not None:
                self._check_noisy(vertex)
        self._replace(vertices, noises)

    def _replace(self, vertices: Mapping[str, Vertex], noises: Mapping[str, Covariance]) -> None:
        """Put changed vertices and noises in place, and drop own noises that nothing uses any more."""
        before = {name: self.vertices[name].noise for name in vertices}
        left = {before[name] for name, vertex in vertices.items() if vertex.noise != before[name]}
        self.vertices.update(vertices)
        self.noises.update(noises)
        own = {key for key in left if key in self.vertices}
        if own:
            for key in own - {vertex.noise for vertex in self.vertices.values()}:
                del self.noises[key]  # type: ignore[arg-type]

    def set_prior(self, name: str, mean: Any, cov: Any) -> None:
        """Give an input the prior N(mean, cov), so that it need not be observed; cov=None takes it away."""
        self._known(name)
        vertex = self.vertices[name]
        if vertex.kind != "input":
            raise GraphError(f"{name!r} is a vertex of kind {vertex.kind}: only inputs have priors; use set_noise")
        if cov is None:
            if mean is not None:
                raise GraphError(f"{name!r}: a prior needs cov, not only a mean")
            self._replace({name: replace(vertex, value=None, noise=None)}, {})
            return
        array = self._array(mean, name)
        if array.shape not in ((), vertex.shape):
            raise ShapeError(f"mean of {name!r}: got shape {array.shape}, expected {vertex.shape} or a number")
        value = np.broadcast_to(array, vertex.shape).copy()
        value.flags.writeable = False
        self.vertices[name] = replace(vertex, value=value)
        try:
            self.set_noise({name: cov})
        except Exception:
            self.vertices[name] = vertex
            raise

    def set_value(self, name: str, value: Any) -> None:
        """Replace the array of a parameter or constant by one of the same shape."""
        self._known(name)
        vertex = self.vertices[name]
        if vertex.kind not in ("parameter", "constant"):
            raise GraphError(f"{name!r} is a vertex of kind {vertex.kind}: only parameters and constants hold a value")
        array = self._array(value, name)
        if array.shape != vertex.shape:
            raise ShapeError(f"value of {name!r}: got shape {array.shape}, expected {vertex.shape}")
        self.vertices[name] = replace(vertex, value=array)

    def set_outputs(self, names: Sequence[str]) -> None:
        """Name the outputs, in the order the source model returns them (default: the vertices without children)."""
        names = [names] if isinstance(names, str) else names
        for name in names:
            self._known(name, "output")
        self._outputs = tuple(names)

    def _known(self, name: object, kind: str = "vertex") -> None:
        if name not in self.vertices:
            raise UnknownNameError(kind, name, self.vertices)

    def _known_noise(self, name: str) -> None:
        if name not in self.noises:
            raise UnknownNameError("noise", name, self.noises, "make it with add_noise")

    def _insert(self, vertex: Vertex) -> None:
        if not isinstance(vertex.name, str) or not vertex.name or _RESERVED & set(vertex.name):
            raise GraphError(f"vertex name: got {vertex.name!r}, expected a non-empty string without / or \\")
        if vertex.name in self.vertices:
            raise GraphError(f"vertex {vertex.name!r} exists already; names must be new")
        if vertex.name in self.noises:
            raise GraphError(f"noise {vertex.name!r} exists already; names of vertices and noises must be new")
        self.vertices[vertex.name] = vertex

    def _check_noisy(self, vertex: Vertex) -> None:
        """Refuse noise for an input without a mean, and for a shared vertex that others already took as shared."""
        if vertex.kind == "input" and vertex.value is None:
            raise GraphError(
                f"{vertex.name!r} is an input without a prior; use net.set_prior({vertex.name!r}, mean, cov)"
            )
        if vertex.kind == "op" and not vertex.plated:
            children = [n for n, v in self.vertices.items() if vertex.name in v.parents]
            if children:
                raise GraphError(
                    f"{vertex.name!r} is shared by all samples and has the child {children[0]!r}; with noise it would "
                    "have a value per sample, so give it noise when it is made: net.add(..., cov=...)"
                )

    def _own_noise(self, name: str, noise: Covariance | None) -> None:
        if noise is not None:
            self.noises[name] = noise
            self.vertices[name] = replace(self.vertices[name], noise=name)

    def _array(self, value: Any, name: str) -> Array:
        try:
            array = np.array(detached(value), dtype=self.dtype)
        except (TypeError, ValueError) as error:
            raise ShapeError(f"{name!r}: expected an array of numbers, got {type(value).__name__} ({error})") from None
        if not np.isfinite(array).all():
            raise GraphError(f"{name!r}: got NaN or infinity, expected finite numbers")
        array.flags.writeable = False
        return array

    def _check_weight(self, name: str, parent: str, weight: str) -> None:
        self._known(weight, f"weight of {name!r}")
        shape, size = self.vertices[weight].shape, self.vertices[parent].size
        if len(shape) != 2 or shape[1] != size:
            raise ShapeError(f"weight of {parent!r} in {name!r}: got shape {shape}, expected (child, {size})")

    def _check_children(self, name: str, terms: Sequence[str]) -> None:
        """Weights and bias agree on the child's size: numpy would broadcast a 1."""
        shapes = [self.vertices[term].shape for term in terms[1::2]]
        bias = self.vertices[terms[-1]].shape if len(terms) % 2 else None
        sizes = {shape[0] for shape in shapes}
        if bias is not None and (len(bias) != 1 or (sizes and {bias[0]} != sizes)):
            child = ", ".join(map(str, sorted(sizes))) or "child"
            raise ShapeError(f"bias of {name!r}: got shape {bias}, expected ({child},)")
        if len(sizes) > 1:
            raise ShapeError(f"weights of {name!r}: got shapes {shapes}, expected the same number of rows")

    def _infer(
        self, name: str, entry: ops.Op, parents: Sequence[str], attributes: Mapping[str, Any]
    ) -> tuple[Shape, bool]:
        """Event shape of an op's result and whether it is per sample."""
        vertices = [self.vertices[p] for p in parents]
        key = (entry, tuple((v.kind, v.shape, v.plated) for v in vertices), repr(attributes), len(set(parents)))
        if any(v.kind == "constant" for v in vertices):  # numbers of rows to pick, and the like
            return tried(name, entry, vertices, attributes, self.dtype)
        if key not in self._shapes:
            self._shapes[key] = tried(name, entry, vertices, attributes, self.dtype)
        return self._shapes[key]
