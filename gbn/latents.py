"""Which vertices of a converted net are random variables, and with what noise.

A converter returns a deterministic graph.  The policy here decides which CPDs v_i | pa ~ N(f_i, Q_i) have Q_i ≻ 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gbn import likelihoods, ops
from gbn.errors import GraphError, UnknownNameError, near_matches
from gbn.net import GaussianBayesNet, Vertex

__all__ = ["POLICIES", "assign_noise", "label_output"]

_CONTRACTIONS = frozenset({"Gemm", "MatMul", "Einsum", "Conv", "ConvTranspose", "Linear"})
# Every entry of the parent is one of the result.
_MOVES = frozenset({"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
# What an output that ends in this op says of its labels.  A likelihood normalises the logits itself, so the label hangs
# on what the op reads.
_PROBABILITIES = {"Softmax": "categorical", "LogSoftmax": "categorical", "Sigmoid": "bernoulli"}


def assign_noise(
    net: GaussianBayesNet,
    latents: str | Iterable[str] = "affine",
    noise: Any = 1.0,
    output_noise: Any = 1.0,
    likelihood: str | Mapping[str, str | None] | None = "auto",
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
        likelihood: of the outputs.

            - "auto" keeps the labels that the net has, and recognises others by the op that an output ends in: Softmax
              or LogSoftmax is categorical, Sigmoid bernoulli, anything else Gaussian, as are outputs that have noise or
              are named in one of the arguments above;
            - "categorical" or "bernoulli" for every output;
            - "gaussian" or None takes all labels away;
            - a mapping output -> one of these decides for each output; "auto" for those that it leaves out.

            A label is a leaf ``<output>.label`` on the logits: on the output, or on what its last op reads where that
            makes probabilities of logits, transposed (``<output>.classes_first``) where that has the classes on another
            axis than the first of the event.  Output and logits are deterministic then, unless they are named.

    Vertices that have noise already keep it, unless they are named.

    Raises:
        UnknownNameError: an unknown policy, vertex or likelihood, with near matches.
        GraphError: a name that cannot be a latent, or a likelihood on top of probabilities of another kind.
        CovarianceError: a covariance that does not fit its vertex.
    """
    before = dict(net.vertices), dict(net.noises)
    try:
        _assign(net, latents, noise, output_noise, likelihood)
    except Exception:
        net.vertices, net.noises = before
        raise


def _assign(net: GaussianBayesNet, latents: Any, noise: Any, output_noise: Any, likelihood: Any) -> None:
    mentioned = {name for argument in (noise, output_noise) if isinstance(argument, Mapping) for name in argument}
    if not isinstance(latents, str):
        latents = list(latents)
        mentioned.update(latents)
    _set_labels(net, likelihood, mentioned)
    chosen, named = _choose(net, latents)
    outputs = set(net.outputs)
    gaussian = [name for name in net.outputs if not _labels(net, name)]
    quiet = {net.vertices[label].parents[0] for label in net.labels}
    for ending in (_ending(net, output) for output in outputs - set(gaussian)):
        quiet.update(ending.path, [ending.logits])
    hidden = [name for name in chosen if name not in outputs and (name in named or name not in quiet)]
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


@dataclass(frozen=True)
class _Ending:
    """How an output ends.

    path: the vertices from the output down to its last op, which computes something; that op included.
    logits: what the op reads; the output itself where it makes no probabilities.
    kind: the likelihood that the op says, if any.
    axis: of the classes.
    """

    path: tuple[str, ...]
    logits: str
    kind: str | None = None
    axis: int = 1


def _ending(net: GaussianBayesNet, output: str) -> _Ending:
    path = [output]
    while net.vertices[path[-1]].op == "Identity":
        path.append(net.vertices[path[-1]].parents[0])
    last = net.vertices[path[-1]]
    kind = _PROBABILITIES.get(str(last.op))
    if kind is None:
        return _Ending(tuple(path), output)
    axis = last.attributes.get("axis", -1) % (len(last.shape) + 1) if kind == "categorical" else 1
    return _Ending(tuple(path), last.parents[0], kind, axis)


def _labels(net: GaussianBayesNet, output: str) -> list[str]:
    """The labels of an output: on itself, or of its kind on logits under it that are no output of their own."""
    ending = _ending(net, output)

    def belongs(label: str) -> bool:
        (logits,) = net.vertices[label].parents
        under = logits == ending.logits and net.vertices[label].op == ending.kind and logits not in net.outputs
        return logits == output or under or label == f"{output}.label"

    return [label for label in net.labels if belongs(label)]


def _set_labels(
    net: GaussianBayesNet, likelihood: str | Mapping[str, str | None] | None, mentioned: Collection[str]
) -> None:
    per_output: dict[str, str | None] = dict.fromkeys(net.outputs, "auto")
    per_output |= likelihood if isinstance(likelihood, Mapping) else dict.fromkeys(net.outputs, likelihood)
    for output, kind in per_output.items():
        if output not in net.outputs:
            raise UnknownNameError("output in likelihood", output, net.outputs)
        if kind != "auto":
            label_output(net, output, kind)
        elif output not in mentioned and not net.vertices[output].random and not _labels(net, output):
            ending = _ending(net, output)
            if ending.kind is not None and net.vertices[ending.logits].plated:
                label_output(net, output, ending.kind)


def label_output(net: GaussianBayesNet, output: str, kind: str | None) -> None:
    """Give an output of ``net`` a label, in place of those it has: see :func:`assign_noise`.

    Args:
        kind: "categorical" or "bernoulli"; "gaussian" or None for no label.

    Raises:
        GraphError: an unknown likelihood, or one on top of probabilities of another kind.
    """
    if kind not in (None, "gaussian", *likelihoods.LIKELIHOODS):
        known = ["auto", "gaussian", *likelihoods.LIKELIHOODS]
        raise GraphError(f"likelihood: got {kind!r}, expected one of {_quoted(known)}; {near_matches(kind, known)}")
    moved = f"{output}.classes_first"
    for label in _labels(net, output):
        (logits,) = net.vertices.pop(label).parents
        if logits == moved:
            del net.vertices[moved]
    if kind is None or kind == "gaussian":
        return
    ending = _ending(net, output)
    operation, logits = net.vertices[ending.path[-1]].op, ending.logits
    if ending.kind not in (None, kind):
        # The logarithms of probabilities may be logits of anything.
        if operation != "LogSoftmax":
            raise GraphError(
                f"likelihood {kind!r} needs logits under the output {output!r}: it ends in a {operation}, which says "
                f"{ending.kind!r}; convert the model without its last layer, or use likelihood='gaussian'"
            )
        logits = output
    elif ending.axis != 1:
        others = [axis for axis in range(1, len(net.vertices[logits].shape) + 1) if axis != ending.axis]
        net.set_outputs(net.outputs)  # the new vertex, which has no children either, is none
        logits = net.add(moved, "Transpose", [logits], perm=[0, ending.axis, *others])
    net.add_likelihood(f"{output}.label", kind, logits)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
