"""Which vertices of a converted net are random variables, and with what noise.

A converter returns a deterministic graph.  The policy here decides which CPDs v_i | pa ~ N(f_i, Q_i) have Q_i ≻ 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gbn import likelihoods, ops
from gbn.errors import GraphError, UnknownNameError, near_matches
from gbn.net import GaussianBayesNet, Vertex

__all__ = ["POLICIES", "assign_noise"]

_CONTRACTIONS = frozenset({"Gemm", "MatMul", "Einsum", "Conv", "ConvTranspose", "Linear"})
# Every entry of the parent is one of the result.
_MOVES = frozenset({"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
# A label's likelihood normalises the logits itself, so these would be applied twice.
_PROBABILITIES = frozenset({"Softmax", "Sigmoid"})


def assign_noise(
    net: GaussianBayesNet,
    latents: str | Iterable[str] = "affine",
    noise: Any = 1.0,
    output_noise: Any = 1.0,
    likelihood: str | Mapping[str, str | None] | None = None,
) -> None:
    """Give noise to hidden vertices and outputs of ``net``, in place.

    Args:
        latents: which hidden vertices become random variables:

            - "affine": results, after bias, of Gemm, MatMul, Einsum, Conv, ConvTranspose and Linear with a weight among
              their parents; every M-step is then a linear regression (one that is an output but for the order of its
              entries has the output's noise instead);
            - "layers": outputs of elementwise nonlinearities, and affine results that none follows;
            - "all": every op with a value per sample;
            - names of vertices.
        noise: covariance of the hidden ones: a number, an array over the event, or a mapping name -> covariance
            (those it leaves out get 1.0).
        output_noise: covariance of the outputs, in the same forms.
        likelihood: None keeps the labels that the net has; "categorical" or "bernoulli" puts a leaf ``<output>.label``
            under every output and leaves the logits deterministic; "gaussian" takes all labels away; a mapping
            output -> likelihood decides for each output.

    Vertices that have noise already keep it, unless they are named.

    Raises:
        UnknownNameError: an unknown policy, vertex or likelihood, with near matches.
        GraphError: a name that cannot be a latent, or a likelihood on top of probabilities.
        CovarianceError: a covariance that does not fit its vertex.
    """
    before = dict(net.vertices), dict(net.noises)
    try:
        _assign(net, latents, noise, output_noise, likelihood)
    except Exception:
        net.vertices, net.noises = before
        raise


def _assign(net: GaussianBayesNet, latents: Any, noise: Any, output_noise: Any, likelihood: Any) -> None:
    _set_labels(net, likelihood)
    labelled = {net.vertices[name].parents[0] for name in net.labels}
    chosen, named = _choose(net, latents)
    outputs = set(net.outputs)
    hidden = [name for name in chosen if name not in outputs]
    gaussian = [name for name in net.outputs if name not in labelled]
    covariances = _covariances(net, gaussian, output_noise, named & outputs, "output_noise")
    covariances |= _covariances(net, hidden, noise, named, "noise")
    net.set_noise(covariances)


def _covariances(
    net: GaussianBayesNet, chosen: Iterable[str], given: Any, named: set[str], argument: str
) -> dict[str, Any]:
    """name -> covariance, for the chosen vertices without noise of their own and for all that are named."""
    if not isinstance(given, Mapping):
        return {name: given for name in chosen if name in named or not net.vertices[name].random}
    for name in given:
        _check_name(net, name, argument)
    found = {name: 1.0 for name in chosen if name in named or not net.vertices[name].random}
    return found | dict(given)


def _check_name(net: GaussianBayesNet, name: object, argument: str) -> None:
    if name not in net.vertices:
        raise UnknownNameError(f"vertex in {argument}", name, net.vertices)
    if net.vertices[str(name)].kind == "input":
        raise GraphError(f"{argument}: {name!r} is an input; give it a prior with net.set_prior({name!r}, mean, cov)")


def _choose(net: GaussianBayesNet, latents: str | Iterable[str]) -> tuple[list[str], set[str]]:
    """The vertices that ``latents`` selects, and those of them that it selects by name."""
    if isinstance(latents, str):
        if latents not in POLICIES:
            hint = f"; or give names of vertices: latents=[{latents!r}]" if latents in net else ""
            raise UnknownNameError("policy in latents", latents, POLICIES, f"expected one of {_quoted(POLICIES)}{hint}")
        return POLICIES[latents](net), set()
    names = list(latents)
    for name in names:
        _check_name(net, name, "latents")
        kind = net.vertices[name].kind
        if kind != "op":
            raise GraphError(f"latents: {name!r} is a {kind}, expected the result of an op")
    return names, set(names)


def _all(net: GaussianBayesNet) -> list[str]:
    return [name for name, vertex in net.vertices.items() if vertex.kind == "op" and vertex.plated]


def _affine(net: GaussianBayesNet) -> list[str]:
    children = _children(net)
    found = (_after_bias(net, name, children) for name, vertex in net.vertices.items() if _is_affine(net, vertex))
    return list(dict.fromkeys(_moved_to_output(net, name, children) for name in found))


def _layers(net: GaussianBayesNet) -> list[str]:
    children = _children(net)
    activated = {name for name, vertex in net.vertices.items() if _is_nonlinearity(net, vertex)}
    bare = {name for name in _affine(net) if not _reaches(net, name, activated, children)}
    return [name for name in net.vertices if name in activated or name in bare]


POLICIES: dict[str, Callable[[GaussianBayesNet], list[str]]] = {"affine": _affine, "layers": _layers, "all": _all}


def _children(net: GaussianBayesNet) -> dict[str, list[str]]:
    children: dict[str, list[str]] = {name: [] for name in net.vertices}
    for name, vertex in net.vertices.items():
        for parent in vertex.parents:
            children[parent].append(name)
    return children


def _is_weight(net: GaussianBayesNet, name: str) -> bool:
    """A parameter, or what is computed from parameters alone (a transposed weight)."""
    vertex = net.vertices[name]
    if vertex.plated:
        return False
    return vertex.kind == "parameter" or any(_is_weight(net, parent) for parent in vertex.parents)


def _is_affine(net: GaussianBayesNet, vertex: Vertex) -> bool:
    return vertex.plated and vertex.op in _CONTRACTIONS and any(_is_weight(net, p) for p in vertex.parents)


def _after_bias(net: GaussianBayesNet, name: str, children: Mapping[str, list[str]]) -> str:
    """The Add of a shared bias that is the only thing done with an affine result; else the result itself."""
    if name in net.outputs or len(children[name]) != 1:
        return name
    child = net.vertices[children[name][0]]
    shared = [parent for parent in child.parents if not net.vertices[parent].plated]
    return child.name if child.op == "Add" and len(shared) == 1 else name


def _moved_to_output(net: GaussianBayesNet, name: str, children: Mapping[str, list[str]]) -> str:
    """The output that only orders the entries of a vertex anew, which is where they are observed; else the vertex."""
    last = name
    while last not in net.outputs:
        if len(children[last]) != 1 or net.vertices[children[last][0]].op not in _MOVES:
            return name
        last = children[last][0]
    return last


def _is_nonlinearity(net: GaussianBayesNet, vertex: Vertex) -> bool:
    """An entry-wise op that is not linear in the one per-sample vertex it reads."""
    if vertex.kind != "op" or not vertex.plated:
        return False
    entry = ops.get(str(vertex.op))
    varying = [net.vertices[parent].plated for parent in vertex.parents]
    sources = {parent for parent, varies in zip(vertex.parents, varying, strict=True) if varies}
    entrywise = entry.family in ("elementwise", "arithmetic")
    return entrywise and len(sources) == 1 and not entry.linear(varying)


def _reaches(net: GaussianBayesNet, name: str, targets: set[str], children: Mapping[str, list[str]]) -> bool:
    """Whether a path leads from a vertex to one of ``targets`` before it meets another affine op."""
    todo, seen = list(children[name]), set()
    while todo:
        child = todo.pop()
        if child in targets:
            return True
        if child not in seen and not _is_affine(net, net.vertices[child]):
            seen.add(child)
            todo += children[child]
    return False


def _set_labels(net: GaussianBayesNet, likelihood: str | Mapping[str, str | None] | None) -> None:
    if likelihood is None:
        return
    per_output = likelihood if isinstance(likelihood, Mapping) else dict.fromkeys(net.outputs, likelihood)
    for output, kind in per_output.items():
        if output not in net.outputs:
            raise UnknownNameError("output in likelihood", output, net.outputs)
        for label in [n for n in net.labels if net.vertices[n].parents[0] == output]:
            del net.vertices[label]
        if kind is not None and kind != "gaussian":
            _add_label(net, output, kind)


def _add_label(net: GaussianBayesNet, output: str, kind: str) -> None:
    if kind not in likelihoods.LIKELIHOODS:
        known = ["gaussian", *likelihoods.LIKELIHOODS]
        raise GraphError(f"likelihood: got {kind!r}, expected one of {_quoted(known)}; {near_matches(kind, known)}")
    operation = net.vertices[output].op
    if operation in _PROBABILITIES:
        raise GraphError(
            f"likelihood {kind!r} needs logits, but the output {output!r} is a {operation}, i.e. probabilities; "
            f"convert the model without its last layer, or use likelihood='gaussian'"
        )
    net.add_likelihood(f"{output}.label", kind, output)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
