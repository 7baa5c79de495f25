"""Descriptions of layers as nets: the rules are those of Keras's layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters._keras import attention, layers, recurrent, shapes  # noqa: F401 - enter their rules
from converters._keras.call import Call, Ref, Refused, State, run
from converters._keras.graph import name_outputs
from converters._keras.records import BadEntry, Config, Layer
from converters._spec.nodes import Faults, Node
from converters._spec.schema import COMMON, LAYERS
from converters._spec.weights import INITS, Archive, Budget, Drawn, Given
from gbn import likelihoods
from gbn.errors import ConversionError, GbnError, near_matches
from gbn.latents import label_output
from gbn.net import GaussianBayesNet

__all__ = ["TOP", "Layered", "entry", "keys"]

TOP = ("inputs", "layers", "outputs", "likelihood", "weights", "dtype")
_INPUT = ("name", "shape", "mean", "variance")
_LIKELIHOODS = ("auto", "gaussian", *likelihoods.LIKELIHOODS)


def keys(node: Node, known: Any, faults: Faults, needs: tuple[str, ...] = ()) -> bool:
    """Note whatever a mapping may not have, or lacks; whether it is a mapping."""
    if not isinstance(node.value, dict):
        faults.add(node, f"got {str(node.plain())[:40]!r}, expected a mapping with {', '.join(known)}")
        return False
    for key in node.value:
        if key not in known:
            faults.unknown(node, key, known)
    for key in needs:
        if key not in node.value:
            faults.add(node, f"lacks {key!r}")
    return True


def entry(node: Node, key: str, default: Any = None) -> Any:
    """An entry of a mapping as plain values; the default where it is absent or null."""
    value = node.value[key].plain() if key in node.value else None
    return default if value is None else value


class Layered:
    """Makes a net of a description, and notes all that is wrong with it."""

    def __init__(self, top: Node, folder: Path, faults: Faults, max_bytes: int) -> None:
        self.top, self.folder, self.faults = top, folder, faults
        self.budget = Budget(max_bytes)
        self.state = State(GaussianBayesNet(dtype=self._dtype()), max_bytes)
        # Every name that a layer may read; None for one that could not be made.
        self.made: dict[str, str | None] = {}
        self.last: str | None = None
        self.source = self._source()

    def net(self) -> GaussianBayesNet:
        """The net.

        Raises:
            ConversionError: listing every fault.
        """
        keys(self.top, TOP, self.faults)
        for node in self._list("inputs"):
            self._input(node)
        for node in self._list("layers"):
            if isinstance(node.value, dict) and entry(node, "type") == "input":
                self._input(Node({k: v for k, v in node.value.items() if k != "type"}, node.path, node.line))
            else:
                self._layer(node)
        self._outputs()
        self._unused()
        self.faults.check()
        net = self.state.net
        for name, vertex in self.state.known.items():
            net.keep_source(str(name), np.asarray(net[vertex].value), vertex)
        return net

    def _list(self, key: str) -> list[Node]:
        node = self.top.value.get(key, Node([], key))
        if not isinstance(node.value, list):
            self.faults.add(node, f"got {str(node.plain())[:40]!r}, expected a list")
            return []
        return list(node.value)

    def _dtype(self) -> Any:
        name = entry(self.top, "dtype", "float64")
        if name not in ("float32", "float64"):
            self.faults.add(self.top.value["dtype"], f"got {name!r}, expected 'float32' or 'float64'")
            return np.float64
        return np.dtype(name)

    def _source(self) -> Drawn | Archive:
        """Where weights that a layer does not hold itself come from."""
        node = self.top.value.get("weights")
        value = "random" if node is None else node.plain()
        if node is None or value == "random":
            return Drawn()
        if isinstance(value, str):
            return self._archive(node, value)
        if not keys(node, ("init", "seed", "file"), self.faults):
            return Drawn()
        if "file" in value:
            if len(value) > 1:
                self.faults.add(node, "weights come from a file or are drawn, not both")
            return self._archive(node.value["file"], value["file"])
        init, seed = value.get("init", "glorot"), value.get("seed", 0)
        if init not in INITS:
            self.faults.add(node.value["init"], f"got {init!r}, {near_matches(init, INITS)}")
            init = "glorot"
        if type(seed) is not int or seed < 0:
            self.faults.add(node.value["seed"], f"got {seed!r}, expected a whole number from 0 on")
            seed = 0
        return Drawn(init, seed)

    def _archive(self, node: Node, name: Any) -> Drawn | Archive:
        """The file, which must lie in the folder of the description."""
        if not isinstance(name, str) or not name.endswith(".npz"):
            self.faults.add(node, f"got {name!r}, expected 'random', or the name of an .npz file")
            return Drawn()
        try:
            folder, path = self.folder.resolve(), (self.folder / name).resolve()
            if not path.is_relative_to(folder):
                self.faults.add(node, f"{name!r} lies outside the folder of the description, and is not read")
                return Drawn()
            return Archive(path)
        except (ConversionError, OSError, ValueError) as error:
            self.faults.add(node, str(error))
            return Drawn()

    def _named(self, node: Node, default: str = "") -> str | None:
        """The name of an entry, which must be new."""
        name = entry(node, "name", default)
        where = node.value.get("name", node)
        if not isinstance(name, str) or not name:
            self.faults.add(where, f"name: got {name!r}, expected a string")
            return None
        if name in self.made:
            self.faults.add(where, f"the name {name!r} is taken already")
            return None
        return name

    def _input(self, node: Node) -> None:
        if not keys(node, _INPUT, self.faults, ("name", "shape")):
            return
        name, shape = self._named(node) if "name" in node.value else None, entry(node, "shape")
        if name is None:
            return
        self.made[name], self.last = None, name
        sizes = [shape] if type(shape) is int else shape
        if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
            if "shape" in node.value:
                self.faults.add(node.value["shape"], f"got {shape!r}, expected the sizes of one sample")
            return
        try:
            self.state.net.add_input(name, sizes, mean=entry(node, "mean"), cov=entry(node, "variance"))
            self.made[name] = name
        except (GbnError, TypeError, ValueError) as error:
            self.faults.add(node, str(error))

    def _layer(self, node: Node) -> None:
        if not isinstance(node.value, dict) or "type" not in node.value:
            keys(node, COMMON, self.faults, ("type",))
            return
        kind = entry(node, "type")
        default, count = str(kind), 1
        while default in self.made:
            count += 1
            default = f"{kind}{count}"
        name = self._named(node, default)
        if not isinstance(kind, str) or kind not in LAYERS:
            self.faults.add(node.value["type"], f"got {kind!r}, {near_matches(kind, ['input', *LAYERS])}")
        inputs = self._inputs(node)
        if name is not None:
            self.made[name], self.last = None, name
        if not isinstance(kind, str) or kind not in LAYERS:
            return
        known = len(self.faults.found)
        keys(node, (*COMMON, *LAYERS[kind].needs, *LAYERS[kind].takes), self.faults, LAYERS[kind].needs)
        if name is not None and inputs is not None and len(self.faults.found) == known:
            self._attempt(node, kind, name, inputs)

    def _inputs(self, node: Node) -> list[str] | None:
        """The vertices that a layer reads; None where one is not known or could not be made."""
        given = node.value.get("inputs")
        if given is None:
            if self.last is None or (len(self.made) > 1 and len(self.state.net.inputs) == len(self.made)):
                self.faults.add(node, "inputs: name them, for there is not one input before this layer")
                return None
            vertex = self.made[self.last]
            return None if vertex is None else [vertex]
        items = given.value if isinstance(given.value, list) else [given]
        found: list[str | None] = []
        for item in items:
            if not isinstance(item.value, str) or item.value not in self.made:
                self.faults.add(item, f"got {item.plain()!r}, which no entry before has as its name; "
                                f"{near_matches(item.plain(), self.made)}")  # fmt: skip
                found.append(None)
            else:
                found.append(self.made[item.value])
        return None if None in found else [vertex for vertex in found if vertex is not None]

    def _attempt(self, node: Node, kind: str, name: str, inputs: list[str]) -> None:
        """Add a layer; where that fails, note the entry that is to blame."""
        try:
            self.made[name] = self._made(node, kind, name, inputs)
        except BadEntry as error:
            self.faults.add(node.value.get(error.key, node), str(error))
        except (Refused, GbnError, TypeError, ValueError) as error:
            where = next((key for key in ("weights", "noise", "prior") if key in str(error)[:60]), "")
            self.faults.add(node.value.get(where, node), str(error))

    def _made(self, node: Node, kind: str, name: str, inputs: list[str]) -> str:
        fewest = LAYERS[kind].inputs
        if len(inputs) < fewest or (fewest == 1 and len(inputs) > 1):
            raise BadEntry("inputs", inputs, "one name" if fewest == 1 else "two names or more")
        values = {key: item.plain() for key, item in node.value.items() if key not in COMMON}
        if LAYERS[kind].keras == "Activation":
            values["activation"] = kind
        rank = len(self.state.net[inputs[0]].shape) - 1
        if "{}" in LAYERS[kind].keras and not 1 <= rank <= 3:
            raise Refused(
                f"its input has the event {self.state.net[inputs[0]].shape}, expected 1 to 3 axes and channels"
            )
        weights = self._weights(node, name)
        trainable = not Config(node.plain()).flag("frozen")
        layer = Layer(LAYERS[kind].keras.format(rank), Config(values), weights, name, trainable)
        before = set(self.state.net.parameters)
        arguments = [Ref(vertex) for vertex in inputs]
        vertex = run(Call(self.state, layer, name, list(arguments)))[0]
        for key in set(weights.inline) - weights.used:
            path = f"{name}."
            known = [p.removeprefix(path) for p in self.state.net if p.startswith(path)]
            self.faults.unknown(node.value["weights"], key, known)
        noise, prior = entry(node, "noise"), entry(node, "prior")
        if noise is not None:
            self.state.net.set_noise({vertex: noise})
        if prior is not None:
            self.state.net.set_noise({p: prior for p in self.state.net.parameters if p not in before})
        return vertex

    def _weights(self, node: Node, name: str) -> Given:
        inline = entry(node, "weights", {})
        if not isinstance(inline, Mapping):
            raise BadEntry("weights", inline, "a mapping of the layer's variables to their numbers")
        return Given(name, self.source, self.budget, inline)

    def _outputs(self) -> None:
        """Name the outputs, with their labels."""
        net = self.state.net
        names = self._output_names()
        kinds = self._kinds(names)
        if self.faults.found or not names:
            if not self.faults.found:
                self.faults.add(self.top, "it has no layers")
            return
        name_outputs(net, names)
        for name, output in zip(names, net.outputs, strict=True):
            try:
                if kinds[name] in likelihoods.LIKELIHOODS:
                    label_output(net, output, kinds[name])
                elif kinds[name] == "gaussian" and not net[output].random:
                    # Noise says that it is observed as it is, whatever op it ends in.
                    net.set_noise({output: 1.0})
            except GbnError as error:
                self.faults.add(self.top.value["likelihood"], str(error))

    def _output_names(self) -> list[str]:
        given = self.top.value.get("outputs")
        if given is None:
            read = {parent for vertex in self.state.net.vertices.values() for parent in vertex.parents}
            return [v for v in self.made.values() if v is not None and v not in read and self.state.net[v].kind == "op"]
        names = []
        for item in given.value if isinstance(given.value, list) else [given]:
            if not isinstance(item.value, str) or item.value not in self.made:
                self.faults.add(item, f"got {item.plain()!r}; {near_matches(item.plain(), self.made)}")
            elif self.made[item.value] is not None:
                names.append(item.value)
        return names

    def _kinds(self, names: list[str]) -> dict[str, str]:
        """The likelihood of each output."""
        node = self.top.value.get("likelihood", Node("auto", "likelihood"))
        each = isinstance(node.value, dict)
        given = node.value if each else dict.fromkeys(names or [""], node)
        for name, item in given.items():
            if each and name not in names:
                self.faults.add(item, f"{name!r} is no output; {near_matches(name, names)}")
            if item.value not in _LIKELIHOODS:
                self.faults.add(item, f"got {item.plain()!r}, {near_matches(item.plain(), _LIKELIHOODS)}")
        return {name: str(given[name].value) if name in given else "auto" for name in names}

    def _unused(self) -> None:
        """Members of the file that no layer reads are slips in a name."""
        if isinstance(self.source, Archive) and not self.faults.found:
            for name in sorted(self.source.names - self.source.used):
                message = f"{self.source.path.name}: no layer reads its member {name!r}"
                self.faults.add(self.top.value["weights"], f"{message}; {near_matches(name, self.source.used)}")
