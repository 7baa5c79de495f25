"""Files of strangers, two hundred damages a format: a named error, soon, in little memory; nothing runs."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbn.net import GaussianBayesNet
from tests.archives import packed, unpacked

pytest.importorskip("resource")
if not Path("/proc/self/statm").exists():
    pytest.skip("memory is measured by /proc", allow_module_level=True)

Mutation = tuple[str, bytes]
HOSTILE: list[Any] = [
    None, True, -1, 0, 7, 2**31, 2**63, 10**30, 0.5, float("nan"), "", "x", "W", "__import__('os').system('mkdir ran')",
    "\ud800", "../../x", [], [[]], [1, 2], [10**9] * 3, [-1], {}, {"tuple": [1]}, {"array": 0, "axes": []}, "[" * 5000,
    list(range(200_000)), "x" * 300_000,
]  # fmt: skip


def damaged(good: bytes, rng: np.random.Generator) -> Iterator[Mutation]:
    """Truncations, flipped bits, random and repeated bytes; members lost, doubled, swapped, compressed."""
    for length in rng.integers(0, len(good), 15):
        yield f"truncated to {length}", good[:length]
    for k in range(40):
        data = bytearray(good)
        for position in rng.integers(0, len(good), 1 + k // 10):
            data[position] ^= 1 << int(rng.integers(8))
        yield f"bits flipped {k}", bytes(data)
    for k in range(10):
        start, size = int(rng.integers(len(good))), int(rng.integers(1, 200))
        yield f"random bytes {k}", good[:start] + rng.bytes(size) + good[start + size :]
        yield f"bytes inserted {k}", good[:start] + rng.bytes(size) + good[start:]
    yield "random altogether", b"PK\x03\x04" + rng.bytes(5000)
    yield "twice", good + good
    members = unpacked(good)
    names = list(members)
    for name in rng.permutation(names)[:6]:
        yield f"without {name}", packed({n: d for n, d in members.items() if n != name})
        yield f"random {name}", packed(members | {name: rng.bytes(300)})
        yield f"empty {name}", packed(members | {name: b""})
        other = str(rng.choice(names))
        yield f"{name} for {other}", packed(members | {name: members[other]})
        yield f"zeros in {name}", packed(members | {name: bytes(20_000_000)}, zipfile.ZIP_DEFLATED)
    yield "compressed", packed(members, zipfile.ZIP_DEFLATED)


def places(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*prefix, key)
        yield from places(item, (*prefix, key))


def edited(good: bytes, member: str, change: Callable[[Any], Any]) -> bytes:
    members = unpacked(good)
    document = json.loads(members[member])
    change(document)
    return packed(members | {member: json.dumps(document).encode()})


def put(document: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        document = document[key]
    document[place[-1]] = value


def edits(good: bytes, member: str, count: int, rng: np.random.Generator) -> Iterator[Mutation]:
    """A hostile value at a random place of a JSON member."""
    found = list(places(json.loads(unpacked(good)[member])))
    for k in rng.integers(0, len(found), count):
        value = HOSTILE[int(rng.integers(len(HOSTILE)))]
        yield f"{found[k]} = {value!r:.40}", edited(good, member, lambda d, k=k, value=value: put(d, found[k], value))


def outcomes(kind: str, good: bytes, mutations: list[Mutation], folder: Path) -> dict[str, dict[str, Any]]:
    """What became of each mutation, read in a process of bounded memory and time."""
    names = {}
    for number, (name, data) in enumerate([("good", good), *mutations]):
        path = folder / f"{number}.{kind}"
        path.write_bytes(data)
        names[str(path)] = name
    command = [sys.executable, str(Path(__file__).with_name("hostile.py")), kind, *names]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    unfinished = list(names.values())[len(found) : len(found) + 1]
    assert done.returncode == 0, f"{unfinished} killed the reader: {done.returncode}, {done.stderr[-2000:]}"
    return {names[one["file"]]: one for one in found}


def check(kind: str, good: bytes, mutations: list[Mutation], folder: Path) -> dict[str, dict[str, Any]]:
    """Everything was read or refused in our words, naming the file, and nothing ran."""
    found = outcomes(kind, good, mutations, folder)
    assert found.pop("good")["error"] is None
    for name, one in found.items():
        assert not one["ran"], (name, one)
        assert one["error"] is None or one["gbn"], (name, one)
        assert one["error"] is None or Path(one["file"]).name in one["message"], (name, one)
        assert len(one["message"]) < 3000, (name, one)
    assert not any(folder.glob("ran*"))
    return found


def refused(found: dict[str, dict[str, Any]], names: list[str]) -> None:
    read = [name for name in names if found[name]["error"] is None]
    assert not read, read


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def net() -> GaussianBayesNet:
    rng = np.random.default_rng(0)
    net = GaussianBayesNet(np.float32)
    net.add_input("image", (2, 6, 6), mean=0.0, cov=1.0)
    net.add_parameter("w", rng.normal(size=(3, 2, 3, 3)))
    net.add("conv", "Conv", ["image", "w"], pads=[1, 1, 1, 1], cov=0.1)
    net.add("pool", "MaxPool", ["conv"], kernel_shape=[2, 2], strides=[2, 2])
    net.add("flat", "Flatten", ["pool"])
    net.add("part", "Slice", ["flat"], starts=[0], ends=[5], axes=[1])
    net.add_linear("y", {"part": rng.normal(size=(2, 5))}, bias=[1.0, 2.0], cov=np.eye(2))
    net.add_likelihood("y.label", "categorical", "y")
    net.keep_source("layer.w", np.zeros((3, 2, 3, 3)), "w")
    net.keep_source("tied.w", np.zeros((3, 2, 3, 3)), "w")
    net.keep_source("mask", np.array([True, False]))
    net.keep_source("far", np.array([-np.inf, 1.0]))
    return net


def test_nets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    net().save(tmp_path / "net.gbn")
    good = (tmp_path / "net.gbn").read_bytes()

    def at(vertex: str) -> int:
        return list(net().vertices).index(vertex)

    def forged(change: Callable[[Any], Any]) -> bytes:
        return edited(good, "net.json", change)

    def vertex(name: str, **fields: Any) -> bytes:
        return forged(lambda d: d["vertices"][at(name)].update(fields))

    record = json.loads(unpacked(good)["net.json"])["vertices"][at("pool")]
    forgeries = {
        "cycle": vertex("conv", parents=["y", "w"]),
        "a parent of itself": vertex("pool", parents=["pool"]),
        "reversed": forged(lambda d: d["vertices"].reverse()),
        "unknown op": vertex("pool", op="__import__('os').mkdir('ran')"),
        "private op": vertex("pool", op="__class__"),
        "huge shape": vertex("image", shape=[10**6, 10**6]),
        "huge shapes": vertex("image", shape=[10**18] * 30),
        "huge kernel": vertex("pool", attributes=record["attributes"] | {"kernel_shape": [10**9, 10**9]}),
        "huge pads": vertex("conv", attributes={"pads": [10**8] * 4}),
        "long pads": vertex("conv", attributes={"pads": [1] * 500_000}),
        "long starts": vertex("part", attributes={"starts": [0] * 500_000, "ends": [5] * 500_000}),
        "deep attribute": vertex("pool", attributes={"kernel_shape": json.loads("[" * 400 + "]" * 400)}),
        "many attributes": vertex("pool", attributes={f"a{k}": k for k in range(100_000)}),
        "many parents": vertex("y", parents=["part"] * 300_000),
        "many vertices": forged(lambda d: d["vertices"].extend([record] * 50_000)),
        "many sources": forged(lambda d: d["sources"].extend([d["sources"][0]] * 50_000)),
        "source of an op": forged(lambda d: d["sources"][0].update(vertex="y")),
        "source of nothing": forged(lambda d: d["sources"][0].update(vertex="q")),
        "source of object dtype": forged(lambda d: d["sources"][2].update(dtype="object")),
        "source of two": forged(lambda d: d["sources"][0].update(value={"array": 0, "axes": []})),
        "deep header": packed(unpacked(good) | {"net.json": b"[" * 2_000_000}),
        "long number": packed(unpacked(good) | {"net.json": b'{"version": ' + b"9" * 2_000_000 + b"}"}),
        "pickle": packed(unpacked(good) | {"arrays/0.npy": npy(np.array([Bomb()], object))}),
        "huge array": packed(unpacked(good) | {"arrays/0.npy": npy_header("<f4", (10**9, 10**9))}),
    }
    mutations = [*damaged(good, rng), *forgeries.items(), *edits(good, "net.json", 90, rng)]
    assert len(mutations) >= 200
    found = check("gbn", good, mutations, tmp_path)
    refused(found, list(forgeries))


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npy_header(descr: Any, shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(64)


def bomb(entries: int) -> bytes:
    """An array of zeros, compressed."""
    stream = io.BytesIO()
    header = npy_header("<f8", (entries,))
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        member.write(header[:-64])
        for _ in range(entries // 10**5):
            member.write(bytes(8 * 10**5))
    return stream.getvalue()


def test_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    stream = io.BytesIO()
    np.savez(stream, x=rng.normal(size=(4, 3)), y=np.arange(4), label=np.array(["a", "b"]), big=rng.normal(size=500))
    good = stream.getvalue()
    members = unpacked(good)
    long_header = b"\x93NUMPY\x02\x00" + (10**6).to_bytes(4, "little") + b"{" * 10**6
    forgeries = {
        "pickle": packed(members | {"x.npy": npy(np.array([Bomb()], object))}),
        "bare pickle": pickle.dumps(Bomb()),
        "pickle as a member": packed({"x.npy": pickle.dumps(Bomb())}),
        "single array": npy(np.ones(3)),
        "huge array": packed(members | {"x.npy": npy_header("<f8", (10**5, 10**6))}),
        "huge product": packed(members | {"x.npy": npy_header("<f8", (2**62, 2**62))}),
        "negative": packed(members | {"x.npy": npy_header("<f8", (-1, 10**12))}),
        "empty and huge": packed(members | {"x.npy": npy_header("<f8", (0, 2**62))}),
        "no bytes an entry": packed(members | {"x.npy": npy_header("|V0", (2**62,))}),
        "long header": packed(members | {"x.npy": long_header}),
        "code in the header": packed(members | {"x.npy": npy_header("<f8", (1,)).replace(b"False", b"f()  ")}),
        "zip bomb": bomb(4 * 10**7),
        "text": packed(members | {"readme.txt": b"hello"}),
    }
    mutations = [*damaged(good, rng), *forgeries.items()]
    for k in range(90):
        name = str(rng.choice(list(members)))
        data = bytearray(members[name])
        data[int(rng.integers(6, 128))] = int(rng.integers(256))
        mutations.append((f"header {k}", packed(members | {name: bytes(data)})))
    assert len(mutations) >= 200
    found = check("npz", good, mutations, tmp_path)
    refused(found, [name for name in forgeries if name != "empty and huge"])


RUN = "__import__('os').mkdir('ran')"


@pytest.mark.slow
def test_exported_graphs(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(2, 2)
            self.register_buffer("shift", torch.ones(2))

        def forward(self, x: Any) -> Any:
            h = torch.tanh(self.a(x)) + self.shift + torch.full((2,), 0.5)
            return {"y": h.reshape(x.shape[0], 2)}

    rng = np.random.default_rng(2)
    dynamic = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(Model().eval(), (torch.randn(3, 2),), dynamic_shapes=dynamic)
    stream = io.BytesIO()
    torch.export.save(program, stream)
    good = stream.getvalue()
    members = unpacked(good)
    (model,) = (name for name in members if "/models/" in name)
    (weights,) = (name for name in members if name.endswith("_weights_config.json"))
    root = model.partition("/")[0]

    def forged(place: str, value: Any) -> bytes:
        """A value at a dotted place of the model; * is the first key, or index."""

        def change(document: Any) -> None:
            keys = [int(key) if key.isdigit() else key for key in place.split(".")]
            for key in keys[:-1]:
                document = document[next(iter(document)) if key == "*" else key]
            document[next(iter(document)) if keys[-1] == "*" else keys[-1]] = value

        return edited(good, model, change)

    def node(operator: str) -> int:
        nodes = json.loads(members[model])["graph_module"]["graph"]["nodes"]
        return next(k for k, one in enumerate(nodes) if operator in one["target"])

    nodes, values = "graph_module.graph.nodes", "graph_module.graph.tensor_values"
    size = f"{values}.x.sizes.0.as_expr.expr_str"
    spec = {"type": "builtins.tuple", "context": "null", "children_spec": []}
    call = "graph_module.module_call_graph.0.signature"
    enum = [1, spec | {"type": "enum.Enum", "context": {"__enum__": True, "fqn": "ran:x", "name": "y"}}]
    forgeries = {
        "expression": forged(size, RUN),
        "expression in a text": forged(size, f"Add('{RUN}')".replace("'os'", '"os"').replace("'ran'", '"ran"')),
        "expression of letters": forged(size, "Symbol('s77').__class__"),
        "expression of powers": forged(size, "Pow(Pow(Integer(9), Integer(9)), Integer(9))"),
        "expression of a huge power": forged(size, "Pow(Integer(9), Integer(999999999))"),
        "expression in operators": forged(size, "9**9**9**9"),
        "long expression": forged(size, "Add(" + "1," * 200_000 + "1)"),
        "deep expression": forged(size, "Abs(" * 2000 + "1" + ")" * 2000),
        "guard": forged("guards_code", [RUN]),
        "guard of two lines": forged("guards_code", [f"1)\n  {RUN}\n  (1"]),
        "guard with a remark": forged("guards_code", [f"1 == 1) #{RUN}"]),
        "guard in an attribute": forged("guards_code", ["L.__class__.__base__.__subclasses__()"]),
        "guard in a text": forged("guards_code", ["L['x\\\"'] == 1"]),
        "operator of os": forged(f"{nodes}.{node('tanh')}.target", "torch.os.system"),
        "operator of torch": forged(f"{nodes}.{node('tanh')}.target", "torch.load"),
        "operator that calls": forged(f"{nodes}.{node('tanh')}.target", "torch.ops.load_library"),
        "operator of an extension": forged(f"{nodes}.{node('tanh')}.target", "#torch:x"),
        "name of a node": forged(f"{nodes}.{node('tanh')}.name", f"a={RUN}"),
        "name of an argument": forged(f"{nodes}.{node('tanh')}.inputs.0.name", f"a={RUN}, b"),
        "name of an input": forged("graph_module.graph.inputs.0.as_tensor.name", f"p={RUN}"),
        "name of a parameter": forged(
            "graph_module.signature.input_specs.0.parameter.parameter_name", f'a"+{RUN}+"'
        ),
        "name of an input of the module": forged(f"{call}.forward_arg_names", [f"x={RUN}"]),
        "container": forged(f"{call}.in_spec", json.dumps(enum)),
        "container that imports": forged(
            f"{call}.out_spec", json.dumps([1, spec | {"type": "collections.defaultdict"}])
        ),
        "container of no text": forged(f"{call}.in_spec", "[" * 5000),
        "large input": forged(f"{values}.x.sizes.1.as_int", 10**12),
        "pickled weight": edited(good, weights, lambda d: next(iter(d["config"].values())).update(use_pickle=True)),
        "huge weight": edited(
            good, weights, lambda d: next(iter(d["config"].values()))["tensor_meta"].update(
                sizes=[{"as_int": 10**6}, {"as_int": 10**6}], strides=[{"as_int": 0}, {"as_int": 0}]
            )
        ),
        "empty weight": packed(members | {f"{root}/data/weights/weight_0": b""}),
        "pickled sample": packed(members | {f"{root}/data/sample_inputs/model.pt": pickle.dumps(Bomb())}),
        "pickled state": packed(members | {f"{root}/data/weights/model.pt": pickle.dumps(Bomb())}),
        "script": packed(members | {f"{root}/data/constants/custom_obj_0": pickle.dumps(Bomb())}),
        "compiled code": packed(members | {f"{root}/data/aotinductor/model/x.so": b"ELF"}),
        "no version": packed({n: d for n, d in members.items() if not n.endswith("archive_version")}),
        "compressed": packed(members, zipfile.ZIP_DEFLATED),
    }  # fmt: skip
    mutations = [*damaged(good, rng), *forgeries.items()]
    mutations += [*edits(good, model, 50, rng), *edits(good, weights, 15, rng)]
    assert len(mutations) >= 200
    found = check("pt2", good, mutations, tmp_path)
    refused(found, list(forgeries))
