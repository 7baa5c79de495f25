"""The outputs of a net of layers, and what their last activation says of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gbn.net import GaussianBayesNet

__all__ = ["finish"]


def finish(net: GaussianBayesNet, outputs: Sequence[str], labelled: Collection[str]) -> None:
    """Name the outputs; of those ``labelled``, logits take the place of probabilities, with the label these imply."""
    names: list[str] = []
    kinds = {}
    for name in outputs:
        logits = _logits(net, name) if name in labelled else None
        if logits is not None:
            name, kinds[logits[0]] = logits
        if name in names or net[name].kind != "op":
            name = net.add(f"{name}.output{len(names) or ''}", "Identity", [name])
        names.append(name)
    net.set_outputs(names)
    for name, kind in kinds.items():
        net.add_likelihood(f"{name}.label", kind, name)


def _logits(net: GaussianBayesNet, name: str) -> tuple[str, str] | None:
    """The logits under probabilities, classes first, and the likelihood; a softmax that nothing reads goes."""
    vertex = net[name]
    if vertex.op not in ("Softmax", "Sigmoid") or vertex.random:
        return None
    (logits,) = vertex.parents
    rank, axis = len(vertex.shape), int(vertex.attributes.get("axis", -1))
    if not rank or net[logits].kind != "op" or not net[logits].plated:
        return None
    if not any(name in other.parents for other in net.vertices.values()):
        del net.vertices[name]
    if vertex.op == "Sigmoid":
        return logits, "bernoulli"
    axis %= rank + 1
    if axis != 1:
        order = [0, axis, *(k for k in range(1, rank + 1) if k != axis)]
        logits = net.add(f"{logits}.classes_first", "Transpose", [logits], perm=order)
    return logits, "categorical"
