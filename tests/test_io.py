"""Files: everything comes back bit for bit, and nothing that is not a net comes in."""

import io
import json
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbn import ops
from gbn.errors import FileFormatError, GbnError, GraphError
from gbn.io import load, save
from gbn.net import GaussianBayesNet
from tests.archives import packed, unpacked

# Bytes that a refusal may take; the largest file refused here has 5 MB.
MOST_MEMORY = 1 << 26


def same_bits(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.strides == b.strides and a.tobytes() == b.tobytes()


def assert_equal(a: GaussianBayesNet, b: GaussianBayesNet) -> None:
    """The same net in every field that there is, arrays bit for bit."""
    assert a.dtype == b.dtype
    assert list(a.vertices) == list(b.vertices)
    assert list(a.noises) == list(b.noises)
    assert a._outputs == b._outputs
    assert list(a.source_arrays) == list(b.source_arrays)
    for one, other in zip(a.source_arrays.values(), b.source_arrays.values(), strict=True):
        assert (one.dtype, one.vertex, one.value is None) == (other.dtype, other.vertex, other.value is None)
        if one.value is not None and other.value is not None:
            assert same_bits(one.value, other.value)
            assert not other.value.flags.writeable
    for p, q in zip(a.vertices.values(), b.vertices.values(), strict=True):
        for field in ("name", "kind", "shape", "plated", "parents", "op", "noise", "trainable", "source"):
            assert getattr(p, field) == getattr(q, field), (p.name, field)
        assert dict(p.attributes) == dict(q.attributes)
        assert list(map(type, p.attributes.values())) == list(map(type, q.attributes.values()))
        assert (p.value is None) == (q.value is None)
        if p.value is not None and q.value is not None:
            assert same_bits(p.value, q.value)
            assert not q.value.flags.writeable
    for name, p_noise in a.noises.items():
        q_noise = b.noises[name]
        assert (p_noise.form, p_noise.event) == (q_noise.form, q_noise.event)
        assert same_bits(p_noise.value, q_noise.value)


def assert_same_forward(a: GaussianBayesNet, b: GaussianBayesNet, samples: int = 3) -> None:
    rng = np.random.default_rng(5)
    inputs = {name: rng.normal(size=(samples, *a[name].shape)) for name in a.inputs}
    ours, theirs = a.forward(inputs), b.forward(inputs)
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in a)


def roundtrip(net: GaussianBayesNet, folder: Path) -> GaussianBayesNet:
    save(net, folder / "net.gbn")
    return load(folder / "net.gbn")


def perceptron(dtype: Any = np.float64) -> GaussianBayesNet:
    """One of everything: the three forms of noise, a prior, a random weight, a label, frozen and described vertices."""
    rng = np.random.default_rng(0)
    net = GaussianBayesNet(dtype)
    net.add_input("x", (3,), mean=[0.1, 0.2, 0.3], cov=np.diag([1.0, 2.0, 3.0]) + 0.1)
    net.add_parameter("W", rng.normal(size=(4, 3)).T, cov=0.3)
    net.add("a", "Gemm", ["x", "W"], cov=[0.1, 0.2, 0.3, 1 / 3])
    net.add("h", "Elu", ["a"], alpha=0.1)
    net.add_constant("c", [1.0, -2.0, 3.0, 1e-30])
    net.add("m", "Mul", ["h", "c"])
    net.add("twice", "Add", ["m", "m"])
    net.add_noise("shared", 0.5, (4,))
    net.add_noise("unused", np.eye(2) + 0.5, (2,))
    net.add("s", "Tanh", ["twice"], cov="shared")
    net.add("t", "Sigmoid", ["twice"], cov="shared")
    net.add_linear("y", {"s": rng.normal(size=(2, 4)), "t": rng.normal(size=(2, 4))}, bias=[1.0, 2.0], cov=0.1)
    net.add("r", "Reshape", ["s"], shape=(0, 2, -1))
    net.add_likelihood("y.label", "categorical", "y")
    net.describe("W", source="fc.weight", trainable=False)
    net.keep_source("fc.weight", np.zeros((3, 4), np.float32), "W")
    net.keep_source("tied", np.zeros((3, 4), np.float32), "W")
    net.keep_source("steps", np.array(7))
    net.keep_source("mask", np.array([[-np.inf, 1.0], [0.0, np.nan]]).T)
    net.keep_source("seen", np.array([True, False]))
    net.describe("a", source='fc — ‘quoted’ "name" \u2028')
    net.set_outputs(["y", "r"])
    return net


def convolutional(dtype: Any = np.float32) -> GaussianBayesNet:
    rng = np.random.default_rng(1)
    net = GaussianBayesNet(dtype)
    net.add_input("image", (2, 8, 8))
    net.add_parameter("w", np.moveaxis(rng.normal(size=(2, 3, 3, 4)), -1, 0))
    net.add_parameter("b", rng.normal(size=4))
    net.add("conv", "Conv", ["image", "w", "b"], strides=[2, 2], pads=[1, 1, 1, 1], cov=0.01)
    net.add_parameter("gain", rng.normal(size=4))
    net.add_parameter("spread", rng.uniform(0.5, 1, 4))
    net.add("norm", "BatchNormalization", ["conv", "gain", "b", "b", "spread"], epsilon=1e-3)
    net.add("pool", "MaxPool", ["norm"], kernel_shape=[2, 2], strides=[2, 2])
    net.add("average", "AveragePool", ["norm"], kernel_shape=[3, 3], auto_pad="SAME_UPPER")
    net.add("padded", "Pad", ["pool"], pads=[0, 0, 1, 1, 0, 0, -1, 2], value=float("-inf"))
    net.add("slice", "Slice", ["pool"], starts=[0], ends=[2**63 - 1], axes=[1])
    net.add("joined", "Concat", ["pool", "slice", "pool"], axis=1)
    net.add("flat", "Flatten", ["joined"])
    net.add("soft", "Softmax", ["flat"], axis=-1)
    net.add("mean", "ReduceMean", ["average"], axes=(2, 3), keepdims=0)
    return net


def roots() -> GaussianBayesNet:
    """Roots of all sorts, scalars, and an op of shared vertices with noise of its own."""
    net = GaussianBayesNet()
    net.add_parameter("p", 2.5)
    net.add_parameter("q", [1.0, 2.0])
    net.add_linear("root", {}, bias=[1.0], cov=2.0)
    net.add("noisy", "Mul", ["p", "q"], cov=[1.0, 2.0])
    net.add("child", "Exp", ["noisy"])
    net.add("was noisy", "Neg", ["q"], cov=1.0)
    net.add("below", "Abs", ["was noisy"])
    net.set_noise({"was noisy": None})
    net.add_input("fixed", (2,), mean=3.0, cov=1.0)
    net.set_noise({"fixed": None})
    net.add_noise("over a number", [4.0], ())
    net.add_likelihood("coin", "bernoulli", "child")
    return net


def empty() -> GaussianBayesNet:
    return GaussianBayesNet(np.float32)


NETS = [perceptron, convolutional, roots, empty]
DTYPES = [np.float16, np.float32, np.float64, np.longdouble]


@pytest.mark.parametrize("build", NETS)
def test_everything_comes_back(build: Callable[[], GaussianBayesNet], tmp_path: Path) -> None:
    net = build()
    other = roundtrip(net, tmp_path)
    assert_equal(net, other)
    assert_same_forward(net, other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: Any, tmp_path: Path) -> None:
    net = GaussianBayesNet(dtype)
    net.add_input("x", (2,))
    net.add_parameter("w", np.array([1, 3], dtype) / np.array(7, dtype))
    net.add("y", "Mul", ["x", "w"], cov=0.1)
    assert_equal(net, roundtrip(net, tmp_path))


def test_net_save_is_the_same_door(tmp_path: Path) -> None:
    net = perceptron()
    net.save(tmp_path / "a.gbn")
    save(net, str(tmp_path / "b.gbn"))
    assert (tmp_path / "a.gbn").read_bytes() == (tmp_path / "b.gbn").read_bytes()


def test_a_loaded_net_saves_to_the_same_file(tmp_path: Path) -> None:
    save(convolutional(), tmp_path / "a.gbn")
    save(load(tmp_path / "a.gbn"), tmp_path / "b.gbn")
    assert (tmp_path / "a.gbn").read_bytes() == (tmp_path / "b.gbn").read_bytes()


def test_a_loaded_net_can_be_changed(tmp_path: Path) -> None:
    net = roundtrip(perceptron(), tmp_path)
    net.set_noise({"h": 1.0})
    net.set_value("c", np.zeros(4))
    net.add("more", "Tanh", ["y"])
    assert net["more"].shape == (2,)


def test_members_have_names_of_a_fixed_scheme(tmp_path: Path) -> None:
    net = GaussianBayesNet()
    net.add_parameter("..", 1.0)
    net.add_parameter("net.json", 2.0)
    save(net, tmp_path / "net.gbn")
    assert zipfile.ZipFile(tmp_path / "net.gbn").namelist() == ["net.json", "arrays/0.npy", "arrays/1.npy"]
    assert_equal(net, load(tmp_path / "net.gbn"))


def test_shared_ops_many_levels_deep_load_in_no_time(tmp_path: Path) -> None:
    net = GaussianBayesNet()
    net.add_parameter("v0", [1.0])
    for k in range(1500):
        net.add(f"v{k + 1}", "Sub", [f"v{k}", f"v{k}"])
    assert_equal(net, roundtrip(net, tmp_path))


finite = st.floats(-1e3, 1e3, width=32)
variance = st.floats(1e-3, 1e3)


@st.composite
def nets(draw: st.DrawFn) -> GaussianBayesNet:
    """Layered nets with skips, all with one event shape."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    size = draw(st.integers(1, 4))
    vector = st.lists(finite, min_size=size, max_size=size)
    net = GaussianBayesNet(dtype)
    net.add_input("x", size, mean=draw(vector), cov=draw(variance)) if draw(st.booleans()) else net.add_input("x", size)
    net.add_noise("common", draw(variance), (size,))
    names = ["x"]
    for k in range(draw(st.integers(0, 6))):
        name = draw(st.text(min_size=1, max_size=4)) + str(k)
        cov: Any = draw(st.none() | variance | st.lists(variance, min_size=size, max_size=size) | st.just("common"))
        above = st.sampled_from(names)
        try:
            match draw(st.integers(0, 3)):
                case 0:
                    net.add(name, draw(st.sampled_from(["Tanh", "Relu", "Neg", "Softplus"])), [draw(above)], cov=cov)
                case 1:
                    net.add(name, draw(st.sampled_from(["Add", "Sub", "Mul"])), [draw(above), draw(above)], cov=cov)
                case 2:
                    weight = np.array([draw(vector) for _ in range(size)])
                    net.add_linear(name, {draw(above): weight}, bias=draw(st.none() | vector), cov=cov)
                case _:
                    net.add_parameter(name, draw(vector), cov=None if isinstance(cov, str) else cov)
        except GraphError:
            continue
        names.append(name)
    if draw(st.booleans()):
        net.set_outputs(draw(st.lists(st.sampled_from(names), max_size=3)))
    return net


@given(nets())
@settings(max_examples=60)
def test_generated_nets_come_back(tmp_path_factory: pytest.TempPathFactory, net: GaussianBayesNet) -> None:
    folder = tmp_path_factory.getbasetemp()
    other = roundtrip(net, folder)
    assert_equal(net, other)
    with np.errstate(all="ignore"):
        assert_same_forward(net, other)


class TestSave:
    def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "net.gbn"
        save(roots(), path)
        before = path.read_bytes()
        net = perceptron()
        net.vertices["h"].attributes["alpha"] = object()  # type: ignore[index]
        with pytest.raises(GraphError, match=r"'h': attribute 'alpha' is of type object"):
            save(net, path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["net.gbn"]

    def test_an_interruption_while_writing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save(roots(), tmp_path / "net.gbn")
        before = (tmp_path / "net.gbn").read_bytes()

        def interrupt(*args: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(perceptron(), tmp_path / "net.gbn")
        assert (tmp_path / "net.gbn").read_bytes() == before
        assert os.listdir(tmp_path) == ["net.gbn"]

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such folder"):
            save(roots(), tmp_path / "missing" / "net.gbn")
        assert os.listdir(tmp_path) == []

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "net.gbn").mkdir()
        with pytest.raises(OSError, match=r"net\.gbn"):
            save(roots(), tmp_path / "net.gbn")
        assert os.listdir(tmp_path) == ["net.gbn"]

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that this user cannot write to")
    def test_a_folder_without_permission(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(PermissionError):
                save(roots(), tmp_path / "net.gbn")
            assert os.listdir(tmp_path) == []
        finally:
            tmp_path.chmod(0o700)

    def test_a_link_stays_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "link.gbn").symlink_to(tmp_path / "real.gbn")
        save(roots(), tmp_path / "link.gbn")
        assert (tmp_path / "link.gbn").is_symlink()
        assert_equal(roots(), load(tmp_path / "real.gbn"))


class TestMissing:
    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "net.gbn")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(OSError):
            load(tmp_path)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "net.gbn"
    save(perceptron(), path)
    return path.read_bytes()


def refused(folder: Path, data: bytes, **options: Any) -> str:
    """The message with which these bytes are refused, before anything large is allocated; it must name the file."""
    path = folder / "bad.gbn"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError) as caught:
            load(path, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY
    message = str(caught.value)
    assert str(path) in message
    assert "got " in message
    assert "expected " in message
    return message


def npy_bytes(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def test_repacking_alone_changes_nothing(good: bytes, tmp_path: Path) -> None:
    (tmp_path / "again.gbn").write_bytes(packed(unpacked(good)))
    assert_equal(load(tmp_path / "again.gbn"), perceptron())


class TestBytes:
    """Damage of the file as such."""

    def test_truncated(self, good: bytes, tmp_path: Path) -> None:
        for length in [*range(8), *np.linspace(8, len(good) - 1, 120).astype(int).tolist()]:
            refused(tmp_path, good[:length])

    def test_flipped_bytes(self, good: bytes, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        path = tmp_path / "flipped.gbn"
        refusals = 0
        for position in rng.integers(0, len(good), 300):
            data = bytearray(good)
            data[position] ^= int(rng.integers(1, 256))
            path.write_bytes(data)
            try:
                # Some bytes of a zip mean nothing here, such as dates.
                assert_equal(load(path), perceptron())
            except FileFormatError:
                refusals += 1
        assert refusals > 200

    def test_random_bytes(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(1)
        for length in (0, 1, 3, 4, 100, 10_000):
            refused(tmp_path, rng.bytes(length))
            refused(tmp_path, b"PK\x03\x04" + rng.bytes(length))

    def test_other_formats(self, tmp_path: Path) -> None:
        assert "begins with" in refused(tmp_path, npy_bytes(np.ones(3)))
        assert "begins with" in refused(tmp_path, b'{"format": "gbn"}')
        stream = io.BytesIO()
        np.savez(stream, a=np.ones(3))
        assert "members" in refused(tmp_path, stream.getvalue())

    def test_bytes_before_and_after(self, good: bytes, tmp_path: Path) -> None:
        refused(tmp_path, b"#!/bin/sh\n" + good)

    def test_a_missing_an_extra_and_a_doubled_member(self, good: bytes, tmp_path: Path) -> None:
        members = unpacked(good)
        for name in members:
            refused(tmp_path, packed({n: d for n, d in members.items() if n != name}))
        refused(tmp_path, packed(members | {"arrays/../x.npy": b""}))
        refused(tmp_path, packed(members | {f"arrays/{len(members) - 1}.npy": npy_bytes(np.ones(3))}))
        stream = io.BytesIO(good)
        with zipfile.ZipFile(stream, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("net.json", members["net.json"])
        refused(tmp_path, stream.getvalue())

    def test_compressed_bomb(self, good: bytes, tmp_path: Path) -> None:
        bomb = npy_bytes(np.zeros(30_000_000))
        data = packed(unpacked(good) | {"arrays/0.npy": bomb}, zipfile.ZIP_DEFLATED)
        assert len(data) < len(bomb) / 100
        del bomb
        tracemalloc.start()
        assert "compressed" in refused(tmp_path, data)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()

    def test_sizes_that_the_file_does_not_have(self, good: bytes, tmp_path: Path) -> None:
        """Both sizes in the directory, as large as a zip can say without its 64-bit fields."""
        for position in _directory_entries(good):
            data = bytearray(good)
            data[position + 20 : position + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
            refused(tmp_path, bytes(data))

    def test_max_bytes(self, good: bytes, tmp_path: Path) -> None:
        assert "max_bytes" in refused(tmp_path, good, max_bytes=1000)
        assert "max_bytes" in refused(tmp_path, good, max_bytes=0)


def _directory_entries(data: bytes) -> list[int]:
    start, out = 0, []
    while (start := data.find(b"PK\x01\x02", start)) >= 0:
        out.append(start)
        start += 4
    return out


class TestArrays:
    """Damage of one array; the first one is the prior covariance of x, shape (3, 3)."""

    @pytest.mark.parametrize(
        "array",
        [
            np.ones((3, 3)),
            -np.eye(3),
            np.full((3, 3), np.nan),
            np.diag([np.inf, 1.0, 1.0]),
            np.eye(3)[:2],
            np.eye(4),
            np.float64(1.0),
            np.eye(3, dtype=np.float32),
            np.eye(3, dtype=int),
            np.eye(3, dtype=">f8"),
            np.eye(3).astype("U8"),
            np.arange(9.0).reshape(3, 3),
            np.zeros(3, [("a", float), ("b", float)]),
        ],
        ids=lambda array: f"{array.dtype} {array.shape}",
    )
    def test_another_array(self, array: Any, good: bytes, tmp_path: Path) -> None:
        refused(tmp_path, packed(unpacked(good) | {"arrays/0.npy": npy_bytes(array)}))

    def test_pickled_objects_are_not_unpickled(self, good: bytes, tmp_path: Path) -> None:
        witness = tmp_path / "executed"

        class Hostile:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(witness),)

        data = npy_bytes(np.array([Hostile()], dtype=object), allow_pickle=True)
        for name in unpacked(good):
            refused(tmp_path, packed(unpacked(good) | {name: data}))
        assert not witness.exists()

    @pytest.mark.parametrize(
        "shape", [(10**12,), (2**62, 2**62), (-3, -3), (3, 3, 10**9), (0, 10**18), (3,), (3,) * 60]
    )
    def test_a_header_that_declares_another_shape(self, shape: tuple[int, ...], good: bytes, tmp_path: Path) -> None:
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
        refused(tmp_path, packed(unpacked(good) | {"arrays/0.npy": stream.getvalue() + np.eye(3).tobytes()}))

    @pytest.mark.parametrize("name", ["net.json", "arrays/0.npy"])
    def test_random_contents(self, name: str, good: bytes, tmp_path: Path) -> None:
        rng = np.random.default_rng(2)
        members = unpacked(good)
        for length in (0, 5, 60, 1000):
            refused(tmp_path, packed(members | {name: rng.bytes(length)}))
            refused(tmp_path, packed(members | {name: members[name][:-1]}))
            refused(tmp_path, packed(members | {name: members[name] + b"\0"}))


def tampered(good: bytes, change: Callable[[Any], Any]) -> bytes:
    members = unpacked(good)
    header = json.loads(members["net.json"])
    change(header)
    return packed(members | {"net.json": json.dumps(header).encode()})


def paths_in(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of everything in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(path for key, item in items for path in paths_in(item, (*prefix, key)))]


def put(header: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        header = header[key]
    header[path[-1]] = value


HOSTILE: list[Any] = [
    None, True, -1, 0, 7, 10**9, 10**30, 0.5, float("nan"), "", "x", "W", "nothing of that name", "\ud800", [], [[]],
    [1, 2], [10**9], {}, {"tuple": [1]}, {"array": 0, "axes": []},
]  # fmt: skip


class TestHeader:
    """Claims that do not hold."""

    def test_versions(self, good: bytes, tmp_path: Path) -> None:
        for version in (0, 2, 1.0, "1", True, None, [1]):
            message = refused(tmp_path, tampered(good, lambda h, version=version: h.update(version=version)))
            assert "version" in message
        assert "upgrade gaussian-bayes-net" in refused(tmp_path, tampered(good, lambda h: h.update(version=2)))

    def test_each_field_by_itself(self, good: bytes, tmp_path: Path) -> None:
        """Every place of the header takes every hostile value: refused, or a net that runs."""
        header = json.loads(unpacked(good)["net.json"])
        path = tmp_path / "tampered.gbn"
        resource = pytest.importorskip("resource")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rng = np.random.default_rng(3)
        for place in paths_in(header)[1:]:
            for value in rng.choice(np.array(HOSTILE, dtype=object), 3, replace=False):
                path.write_bytes(tampered(good, lambda h, place=place, value=value: put(h, place, value)))
                try:
                    net = load(path)
                except FileFormatError:
                    continue
                _run(net)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000

    def test_each_field_missing(self, good: bytes, tmp_path: Path) -> None:
        header = json.loads(unpacked(good)["net.json"])
        records = [
            (),
            ("noises", 0),
            ("vertices", 0),
            ("vertices", 2),
            ("noises", 0, "value"),
            ("vertices", 1, "value"),
        ]
        for place in records:
            record = header
            for key in place:
                record = record[key]
            for field in record:

                def drop(h: Any, place: Any = place, field: Any = field) -> None:
                    for key in place:
                        h = h[key]
                    del h[field]

                refused(tmp_path, tampered(good, drop))

    def test_an_unknown_field(self, good: bytes, tmp_path: Path) -> None:
        assert "fields" in refused(tmp_path, tampered(good, lambda h: h.update(code="print()")))

    def test_sources(self, good: bytes, tmp_path: Path) -> None:
        for fields in (
            {"vertex": "y"},
            {"vertex": "nothing of that name"},
            {"vertex": None},
            {"dtype": "object"},
            {"dtype": "float32 "},
            {"name": "tied"},
        ):
            assert "source" in refused(tmp_path, tampered(good, lambda h, f=fields: h["sources"][0].update(f)))
        assert "uint8" in refused(tmp_path, tampered(good, lambda h: h["sources"][2].update(dtype="uint8")))

    def test_a_file_without_sources_is_one_of_a_net_that_was_not_converted(self, tmp_path: Path) -> None:
        save(roots(), tmp_path / "net.gbn")
        assert "sources" not in json.loads(unpacked((tmp_path / "net.gbn").read_bytes())["net.json"])

    def test_order_of_vertices(self, good: bytes, tmp_path: Path) -> None:
        message = refused(tmp_path, tampered(good, lambda h: h["vertices"].reverse()))
        assert "comes before it" in message or "parent" in message

    def test_an_array_used_twice(self, good: bytes, tmp_path: Path) -> None:
        def share(h: Any) -> None:
            h["noises"][2]["value"] = h["noises"][1]["value"]

        assert "nothing else takes" in refused(tmp_path, tampered(good, share))

    def test_deep_nesting_and_long_numbers(self, good: bytes, tmp_path: Path) -> None:
        members = unpacked(good)
        refused(tmp_path, packed(members | {"net.json": b"[" * 1_000_000}))
        refused(tmp_path, packed(members | {"net.json": b'{"version": ' + b"9" * 1_000_000 + b"}"}))
        refused(tmp_path, packed(members | {"net.json": b"null"}))

    def test_an_unregistered_op(self, good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "cube.gbn"
        monkeypatch.setitem(ops.OPS, "Cube", ops.OPS["Tanh"])
        net = GaussianBayesNet()
        net.add_input("x", (2,))
        net.add("y", "Cube", ["x"])
        save(net, path)
        assert_equal(net, load(path))
        monkeypatch.delitem(ops.OPS, "Cube")
        with pytest.raises(FileFormatError, match=r"'Cube'.*register it before loading"):
            load(path)


def _run(net: GaussianBayesNet) -> None:
    """A tampered net that was let in behaves like any other: it computes, or says in our words why not."""
    inputs = {name: np.ones((2, *net[name].shape)) for name in net.inputs}
    with np.errstate(all="ignore"):
        try:
            values = net.forward(inputs)
        except GbnError:
            return
    assert all(values[name].shape == ((2,) * net[name].plated + net[name].shape) for name in net if name in values)


Change = dict[str, Any]
BOMBS: dict[str, tuple[str, Change, Change]] = {
    # name: (vertex, fields of its record, attributes)
    "pads": ("padded", {}, {"pads": [0, 0, 10**9, 10**9, 0, 0, 0, 0]}),
    "pads with their shape": (
        "padded",
        {"shape": [4, 10**6, 10**6]},
        {"pads": [0, 0, 10**6 - 2, 10**6 - 2, 0, 0, 0, 0]},
    ),
    "pads cut and grown": ("padded", {}, {"pads": [0, 0, -(10**11), 1, 0, 0, 10**11, 2]}),
    "pads of a window": ("conv", {}, {"pads": [10**6] * 4}),
    "pads that strides hide": ("conv", {"shape": [4, 4, 4]}, {"pads": [10**6] * 4, "strides": [666_670] * 2}),
    "negative pads": ("conv", {}, {"pads": [-1] * 4}),
    "negative dilation": ("conv", {}, {"dilations": [-3, -3]}),
    "huge dilation": ("conv", {}, {"dilations": [10**12, 10**12], "auto_pad": "SAME_UPPER"}),
    "negative stride": ("conv", {}, {"strides": [-1, -1]}),
    "stride 0": ("conv", {}, {"strides": [0, 0]}),
    "groups": ("conv", {}, {"group": 0}),
    "too few pads": ("conv", {}, {"pads": [1, 1]}),
    "text for pads": ("conv", {}, {"pads": "1111"}),
    "kernel": ("pool", {}, {"kernel_shape": [10**9, 10**9]}),
    "kernel in pads": ("pool", {}, {"kernel_shape": [10**5, 10**5], "pads": [10**5] * 4}),
    "kernel of 0": ("pool", {}, {"kernel_shape": [0, 0]}),
    "average kernel": ("average", {}, {"kernel_shape": [10**9, 10**9]}),
    "list for a number": ("norm", {}, {"epsilon": [1e-5] * 1000}),
    "axis": ("joined", {}, {"axis": 10**30}),
    "unknown attribute": ("joined", {}, {"cov": 1.0}),
    "input": ("image", {"shape": [2, 8, 10**9]}, {}),
    "input by numbers": ("image", {"shape": [10**5, 10**5, 10**5]}, {}),
    "repeated parent": ("joined", {"parents": ["pool"] * 10**5}, {}),
    "repeated parent with its shape": ("joined", {"parents": ["pool"] * 10**4, "shape": [4 * 10**4, 2, 2]}, {}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_attributes_that_would_take_all_memory(name: str, tmp_path: Path) -> None:
    vertex, fields, attributes = BOMBS[name]
    save(convolutional(), tmp_path / "net.gbn")

    def change(header: Any) -> None:
        record = next(record for record in header["vertices"] if record["name"] == vertex)
        record.update(fields)
        record["attributes"].update(attributes)

    data = tampered((tmp_path / "net.gbn").read_bytes(), change)
    tracemalloc.start()
    refused(tmp_path, data)
    assert tracemalloc.get_traced_memory()[1] < 100_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Add", "Mul"])
def test_products_that_would_take_all_memory(op: str, tmp_path: Path) -> None:
    net = GaussianBayesNet()
    net.add_parameter("p", np.ones((300_000, 1)))
    net.add_parameter("q", np.ones((1, 300_000)))
    net.add("small", op, ["p", "r"] if net.add_parameter("r", [[1.0]]) else [])
    save(net, tmp_path / "net.gbn")

    def change(header: Any, shape: Any = None) -> None:
        header["vertices"][-1]["parents"] = ["p", "q"]
        header["vertices"][-1]["shape"] = shape or header["vertices"][-1]["shape"]

    data = (tmp_path / "net.gbn").read_bytes()
    refused(tmp_path, tampered(data, change))
    refused(tmp_path, tampered(data, lambda h: change(h, [300_000, 300_000])))


def test_doubling_is_stopped_by_its_sum(tmp_path: Path) -> None:
    net = GaussianBayesNet()
    net.add_parameter("o0", np.ones(1000))
    save(net, tmp_path / "net.gbn")

    def double(header: Any) -> None:
        record = header["vertices"][0] | {"kind": "op", "op": "Concat", "attributes": {"axis": 0}, "value": None}
        for k in range(1, 40):
            shape = [1000 * 2**k]
            header["vertices"].append(record | {"name": f"o{k}", "parents": [f"o{k - 1}"] * 2, "shape": shape})

    assert "max_bytes" in refused(tmp_path, tampered((tmp_path / "net.gbn").read_bytes(), double))
