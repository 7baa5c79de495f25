"""``.keras`` files, read without Keras: what they give, and what becomes of damaged and hostile ones."""

import io
import json
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbn.conversion import convert
from gbn.errors import ConversionError, MissingDependencyError

h5py = pytest.importorskip("h5py")

DATA = Path(__file__).parent / "data"
NAMES = ("classifier", "images", "sequence")
MOST_MEMORY = 64 << 20


def members(name: str) -> dict[str, bytes]:
    with zipfile.ZipFile(DATA / f"{name}.keras") as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def write(path: Path, parts: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def edited(name: str, path: Path, edit: Callable[[Any], None]) -> Path:
    """The file with its configuration changed in place."""
    parts = members(name)
    config = json.loads(parts["config.json"])
    edit(config)
    return write(path, parts | {"config.json": json.dumps(config).encode()})


def layers(config: Any) -> dict[str, Any]:
    return {record["config"]["name"]: record for record in config["config"]["layers"]}


@pytest.mark.parametrize("name", NAMES)
def test_files_give_what_keras_gave(name: str) -> None:
    expected = np.load(DATA / "keras.npz")
    net = convert(DATA / f"{name}.keras", likelihood="gaussian")
    y = net.forward({"x": expected[f"{name}.x"]})[net.outputs[0]]
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected[f"{name}.y"], rtol=1e-5, atol=1e-6)


def test_a_file_is_read_without_keras() -> None:
    code = (
        "import sys, gbn; net = gbn.convert(sys.argv[1]); print(net.labels, net.source_of(net.parameters[0]));"
        "print(sorted({'keras', 'torch', 'tensorflow', 'jax'} & set(sys.modules)))"
    )
    run = [sys.executable, "-c", code, str(DATA / "classifier.keras")]
    result = subprocess.run(run, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[1] == "[]"
    assert "dense_1.label" in result.stdout
    assert "layers/dense/vars/0" in result.stdout


def test_without_h5py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"gaussian-bayes-net\[keras\]"):
        convert(DATA / "classifier.keras")


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def scrambled(data: bytes, rng: np.random.Generator) -> bytes:
    found = bytearray(data)
    for place in rng.integers(0, len(found), rng.integers(1, 12)):
        found[place] = rng.integers(256)
    return bytes(found)


def rewritten(config: Any, rng: np.random.Generator) -> Any:
    """The configuration with one entry, somewhere, another."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                walk(value[key])

    walk(config)
    holder, key = places[rng.integers(len(places))]
    odd = [None, -1, 0, 1, 10**9, 2**63, 1e308, "", "x", "relu", [], [1, 2], {}, True, [["x", 0, 0]], {"class_name": 3}]
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = odd[rng.integers(len(odd))]
    return config


@pytest.mark.parametrize("seed", range(100))
def test_a_mutated_file_is_refused_or_read(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    name = NAMES[seed % len(NAMES)]
    path, kind = tmp_path / "mutant.keras", seed % 5
    parts = members(name)
    if kind in (0, 1):
        path.write_bytes((cut, scrambled)[kind]((DATA / f"{name}.keras").read_bytes(), rng))
    elif kind in (2, 3):
        damage = cut if rng.random() < 0.3 else scrambled
        write(path, parts | {"model.weights.h5": damage(parts["model.weights.h5"], rng)})
    else:
        config = rewritten(json.loads(parts["config.json"]), rng)
        write(path, parts | {"config.json": json.dumps(config).encode()})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        net = convert(path, max_bytes=MOST_MEMORY)
    except ConversionError:
        pass
    else:
        assert net.outputs
    if sys.platform == "linux":  # where it counts units of 1024 bytes
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (2 * MOST_MEMORY >> 10)


def test_sizes_in_the_configuration_are_checked_before_anything_is_made(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"

    def units(config: Any) -> None:
        layers(config)["dense"]["config"]["units"] = 10**12

    with pytest.raises(ConversionError, match=r"dense: Dense \(variables: got \(4, 5\), \(5,\)"):
        convert(edited("classifier", path, units))

    def wide(config: Any) -> None:
        layers(config)["x"]["config"]["batch_shape"] = [None, 10**6, 10**6, 1]

    with pytest.raises(ConversionError, match="more than max_bytes"):
        convert(edited("images", path, wide))

    def long(config: Any) -> None:
        layers(config)["x"]["config"]["batch_shape"] = [None, 10**6, 3]

    with pytest.raises(ConversionError, match="1000000 steps, of which at most"):
        convert(edited("sequence", path, long))


def test_python_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    def add_lambda(config: Any) -> None:
        code = {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None, "closure": None}}
        record = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "evil", "function": code}}
        config["config"]["layers"].append(record)

    with pytest.raises(ConversionError, match=r"evil: Lambda .*Python code, which is not run"):
        convert(edited("classifier", tmp_path / "m.keras", add_lambda))


def test_a_file_with_too_large_or_missing_members(tmp_path: Path) -> None:
    parts = members("classifier")
    with pytest.raises(ConversionError, match="expected at most 100; see max_bytes"):
        convert(DATA / "classifier.keras", max_bytes=100)
    for name in ("config.json", "model.weights.h5"):
        rest = {key: value for key, value in parts.items() if key != name}
        with pytest.raises(ConversionError, match="expected one"):
            convert(write(tmp_path / "m.keras", rest))
    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (65 << 20))
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(ConversionError, match="expected at most 67108864"):
        convert(bomb)
    deep = write(tmp_path / "deep.keras", parts | {"config.json": b"[" * 10**6})
    with pytest.raises(ConversionError, match=r"not a whole \.keras file"):
        convert(deep)
    (tmp_path / "old.h5").touch()
    with pytest.raises(ConversionError, match="format of Keras 2"):
        convert(tmp_path / "old.h5")


def weights_of(edit: Callable[[Any], None]) -> bytes:
    data = io.BytesIO(members("classifier")["model.weights.h5"])
    with h5py.File(data, "r+") as file:
        edit(file)
    return data.getvalue()


def test_links_out_of_the_file_are_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "secret.h5"
    with h5py.File(other, "w") as file:
        file["0"] = np.zeros((4, 5), np.float32)

    def external(file: Any) -> None:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = h5py.ExternalLink(str(other), "0")

    def soft(file: Any) -> None:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = h5py.SoftLink("/layers/dense_1/vars/0")

    def virtual(file: Any) -> None:
        del file["layers/dense/vars/0"]
        layout = h5py.VirtualLayout((4, 5), np.float32)
        layout[:] = h5py.VirtualSource(str(other), "0", (4, 5))
        file["layers/dense/vars"].create_virtual_dataset("0", layout)

    def outside(file: Any) -> None:
        del file["layers/dense/vars/0"]
        store = [(str(other), 0, 80)]
        file["layers/dense/vars"].create_dataset("0", (4, 5), np.float32, external=store)

    for edit, reason in ((external, "a link"), (soft, "a link"), (virtual, "another file"), (outside, "another file")):
        path = write(tmp_path / "m.keras", members("classifier") | {"model.weights.h5": weights_of(edit)})
        with pytest.raises(ConversionError, match=reason):
            convert(path)


def test_an_array_that_is_larger_than_the_file_is_not_read(tmp_path: Path) -> None:
    def huge(file: Any) -> None:
        del file["layers/dense/vars/0"]
        # Chunks that were never written take no space.
        file["layers/dense/vars"].create_dataset("0", (10**6, 5), np.float32, chunks=(1000, 5))

    def wide(config: Any) -> None:
        layers(config)["x"]["config"]["batch_shape"] = [None, 10**6]

    parts = members("classifier") | {"model.weights.h5": weights_of(huge)}
    config = json.loads(parts["config.json"])
    wide(config)
    path = write(tmp_path / "m.keras", parts | {"config.json": json.dumps(config).encode()})
    with pytest.raises(ConversionError, match="larger than what the file holds"):
        convert(path)


@pytest.mark.parametrize("value", [np.nan, "text"])
def test_an_array_that_holds_no_numbers(value: Any, tmp_path: Path) -> None:
    def spoil(file: Any) -> None:
        del file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = [value] * 5

    path = write(tmp_path / "m.keras", members("classifier") | {"model.weights.h5": weights_of(spoil)})
    with pytest.raises(ConversionError, match=r"NaN or infinity|expected numbers"):
        convert(path)


def test_graphs_that_are_none(tmp_path: Path) -> None:
    def circle(config: Any) -> None:
        record = layers(config)["max_pooling2d"]
        record["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = ["flatten", 0, 0]

    def unknown(config: Any) -> None:
        record = layers(config)["max_pooling2d"]
        record["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = ["nowhere", 0, 0]

    def twice(config: Any) -> None:
        config["config"]["layers"].append(config["config"]["layers"][1])

    def foreign(config: Any) -> None:
        config["class_name"] = "MyModel"

    for edit, reason in ((circle, "circle"), (unknown, "'nowhere'"), (twice, "twice"), (foreign, "MyModel is a class")):
        with pytest.raises(ConversionError, match=reason):
            convert(edited("images", tmp_path / "m.keras", edit))
