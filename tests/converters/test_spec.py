"""Lists of layers and variables: all kinds of layers, all forms of a description, and every fault with its place."""

import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import from_spec
from converters._spec.schema import COMMON, LAYERS
from gbn.cli import main
from gbn.conversion import convert
from gbn.errors import ConversionError, MissingDependencyError

yaml = pytest.importorskip("yaml")

SEQUENCE, IMAGE = [5, 3], [6, 4, 2]
# type -> (event of the input, or of all inputs; keys; event of the result)
CASES: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    "dense": ([3], {"units": 4, "activation": "tanh"}, (4,)),
    "embedding": ([3], {"input_dim": 5, "output_dim": 2}, (3, 2)),
    "conv": (IMAGE, {"filters": 3, "kernel_size": [3, 2], "padding": "same", "activation": "relu"}, (6, 4, 3)),
    "conv_transpose": (IMAGE, {"filters": 3, "kernel_size": 2, "strides": 2, "use_bias": False}, (12, 8, 3)),
    "depthwise_conv": (IMAGE, {"kernel_size": 3, "depth_multiplier": 2}, (4, 2, 4)),
    "separable_conv": (SEQUENCE, {"filters": 4, "kernel_size": 2}, (4, 4)),
    "max_pooling": (IMAGE, {"pool_size": 2}, (3, 2, 2)),
    "average_pooling": (SEQUENCE, {"pool_size": 2, "strides": 1, "padding": "same"}, (5, 3)),
    "global_max_pooling": (IMAGE, {}, (2,)),
    "global_average_pooling": (IMAGE, {"data_format": "channels_first"}, (6,)),
    "up_sampling": (IMAGE, {"size": 2, "interpolation": "bilinear"}, (12, 8, 2)),
    "zero_padding": (IMAGE, {"padding": 1}, (8, 6, 2)),
    "cropping": (SEQUENCE, {"cropping": [1, 2]}, (2, 3)),
    "batch_normalization": (IMAGE, {"epsilon": 0.01}, (6, 4, 2)),
    "layer_normalization": (SEQUENCE, {"axis": [1, 2], "center": False}, (5, 3)),
    "group_normalization": ([5, 4], {"groups": 2}, (5, 4)),
    "rms_normalization": (SEQUENCE, {}, (5, 3)),
    "unit_normalization": (SEQUENCE, {}, (5, 3)),
    "rescaling": (SEQUENCE, {"scale": 2.0, "offset": [1, 2, 3]}, (5, 3)),
    "flatten": (IMAGE, {}, (48,)),
    "reshape": (SEQUENCE, {"target_shape": [3, -1]}, (3, 5)),
    "permute": (SEQUENCE, {"dims": [2, 1]}, (3, 5)),
    "repeat_vector": ([3], {"n": 2}, (2, 3)),
    "dropout": ([3], {"rate": 0.5}, (3,)),
    "prelu": (SEQUENCE, {"shared_axes": [1]}, (5, 3)),
    "add": ([[3], [3], [3]], {}, (3,)),
    "subtract": ([[3], [3]], {}, (3,)),
    "multiply": ([[3], [3]], {}, (3,)),
    "average": ([[3], [3]], {}, (3,)),
    "maximum": ([[3], [3]], {}, (3,)),
    "minimum": ([[3], [3]], {}, (3,)),
    "concatenate": ([[2, 3], [4, 3]], {"axis": 1}, (6, 3)),
    "dot": ([[3], [3]], {"axes": 1}, (1,)),
    "simple_rnn": (SEQUENCE, {"units": 2, "return_sequences": True}, (5, 2)),
    "gru": (SEQUENCE, {"units": 2, "reset_after": False}, (2,)),
    "lstm": (SEQUENCE, {"units": 2, "return_sequences": True, "go_backwards": True}, (5, 2)),
    "attention": ([[4, 3], [5, 3]], {"num_heads": 2, "key_dim": 2}, (4, 3)),
    "glu": ([4], {}, (2,)),
}
CASES |= {name: ([3], {}, (3,)) for name, kind in LAYERS.items() if kind.keras == "Activation" and name not in CASES}


def description(kind: str) -> dict[str, Any]:
    events, keys, _ = CASES[kind]
    events = events if isinstance(events[0], list) else [events]
    inputs = [{"name": f"x{k}", "shape": event} for k, event in enumerate(events)]
    layer = {"name": "y", "type": kind, "inputs": [entry["name"] for entry in inputs], **keys}
    return {"inputs": inputs, "layers": [layer], "weights": {"init": "he", "seed": 3}, "likelihood": "gaussian"}


def data(net: Any, samples: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.1, 4, (samples, *net[name].shape)) for name in net.inputs}


def as_file(tmp_path: Path, text: str, name: str = "net.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_type_has_a_case() -> None:
    assert set(CASES) == set(LAYERS)


@pytest.mark.parametrize("kind", CASES)
def test_a_layer_in_every_form(kind: str, tmp_path: Path) -> None:
    spec = description(kind)
    net = convert(spec)
    assert net.outputs == ("y",)
    assert net["y"].shape == CASES[kind][2]
    x = data(net)
    y = net.forward(x)["y"]
    assert np.isfinite(y).all()
    files = as_file(tmp_path, json.dumps(spec), "a.json"), as_file(tmp_path, yaml.safe_dump(spec), "b.yml")
    for path in files:
        np.testing.assert_array_equal(convert(path).forward(x)["y"], y)


@pytest.mark.parametrize("kind", CASES)
def test_a_layer_means_that_of_keras(kind: str) -> None:
    pytest.importorskip("torch")
    from tests.keras_models import keras

    net = convert(description(kind))
    for seed, name in enumerate(net.parameters):
        net.set_value(name, np.random.default_rng(seed).uniform(-1, 1, net[name].shape))
    x = data(net)
    entry = {key: value for key, value in description(kind)["layers"][0].items() if key not in COMMON}
    name = LAYERS[kind].keras.format(len(net["x0"].shape) - 1)
    layer = getattr(keras.layers, name)(**({"activation": kind} if name == "Activation" else entry))
    inputs = [keras.Input(event.shape[1:]) for event in x.values()]
    made = layer(*inputs) if kind == "attention" else layer(inputs if len(inputs) > 1 else inputs[0])
    model = keras.Model(inputs, made)
    layer.set_weights([net[n].value for n in net if net[n].kind == "parameter" or n.startswith("y.moving")])
    expected = model(list(x.values()), training=False).detach().numpy()
    np.testing.assert_allclose(net.forward(x)["y"], expected, rtol=1e-10, atol=1e-11)


DENSE = ("relu", "tanh", "sigmoid", "softplus", None)
FUNCTIONS = {
    "relu": lambda a: np.maximum(a, 0),
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "softplus": lambda a: np.log1p(np.exp(a)),
    None: lambda a: a,
}


@settings(max_examples=60)
@given(st.data())
def test_random_graphs_against_numpy(draw: st.DataObject) -> None:
    """Graphs of dense layers, sums, products, joins and reshapes, computed beside them by numpy."""
    seed = draw.draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {}
    inputs, layers = [], []
    for k in range(draw.draw(st.integers(1, 3))):
        event = rng.integers(1, 4, rng.integers(1, 3)).tolist()
        inputs.append({"name": f"x{k}", "shape": event})
        values[f"x{k}"] = rng.standard_normal((2, *event))
    given_values = dict(values)
    for k in range(draw.draw(st.integers(1, 7))):
        name, source = f"l{k}", str(rng.choice(list(values)))
        x = values[source]
        same = [other for other, y in values.items() if y.shape == x.shape]
        kind = draw.draw(st.sampled_from(["dense", "add", "multiply", "concatenate", "flatten", "layer_normalization"]))
        layer: dict[str, Any] = {"name": name, "type": kind, "inputs": source}
        if kind == "dense":
            units, activation = int(rng.integers(1, 5)), draw.draw(st.sampled_from(DENSE))
            kernel, bias = rng.standard_normal((x.shape[-1], units)), rng.standard_normal(units)
            layer |= {"units": units, "activation": activation}
            layer["weights"] = {"kernel": kernel.tolist(), "bias": bias.tolist()}
            values[name] = FUNCTIONS[activation](x @ kernel + bias)
        elif kind == "flatten":
            values[name] = x.reshape(2, -1)
        elif kind == "layer_normalization":
            gain = rng.standard_normal(x.shape[-1])
            layer |= {"center": False, "epsilon": 0.5, "weights": {"gamma": gain.tolist()}}
            centred = x - x.mean(-1, keepdims=True)
            values[name] = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.5) * gain
        else:
            other = str(rng.choice(same))
            layer["inputs"] = [source, other]
            y = values[other]
            values[name] = {"add": x + y, "multiply": x * y}.get(kind, np.concatenate([x, y], -1))
        layers.append(layer)
    names = [layer["name"] for layer in layers]
    net = convert({"inputs": inputs, "layers": layers, "outputs": names, "likelihood": "gaussian"})
    found = net.forward(given_values)
    for name in names:
        np.testing.assert_allclose(found[name], values[name], rtol=1e-10, atol=1e-12)


def test_defaults_and_names() -> None:
    net = convert([{"type": "input", "name": "x", "shape": 3}, {"type": "dense", "units": 2}, {"type": "relu"},
                   {"type": "dense", "units": 2}])  # fmt: skip
    assert net.outputs == ("dense2",)
    assert net.latents == ("dense", "dense2")
    assert net.source_of("dense.kernel") == "random (glorot, seed 0)"
    bound = math.sqrt(6 / 5)
    assert np.abs(net["dense.kernel"].value).max() <= bound
    assert (net["dense.bias"].value == 0).all()
    assert convert([{"type": "input", "name": "x", "shape": 3}, {"type": "tanh"}]).dtype == np.float64


def test_random_weights_depend_on_their_name_and_the_seed_only() -> None:
    def kernels(seed: int, *types: str) -> dict[str, np.ndarray]:
        layers = [{"name": f"l{k}", "type": "dense", "units": 2} for k in range(len(types))]
        spec = {"inputs": [{"name": "x", "shape": 2}], "layers": layers, "weights": {"seed": seed, "init": "normal"}}
        net = convert(spec)
        return {name: net[name].value for name in net.parameters if name.endswith("kernel")}

    short, long, other = kernels(1, "a"), kernels(1, "a", "b"), kernels(2, "a")
    np.testing.assert_array_equal(short["l0.kernel"], long["l0.kernel"])
    assert (short["l0.kernel"] != other["l0.kernel"]).all()
    assert (long["l0.kernel"] != long["l1.kernel"]).all()


def test_noise_priors_and_frozen_layers() -> None:
    spec = {
        "inputs": [{"name": "x", "shape": 2, "mean": [1, 2], "variance": 0.5}],
        "layers": [
            {"name": "h", "type": "dense", "units": 2, "noise": [0.1, 0.2], "frozen": True},
            {"type": "tanh"},
            {"name": "y", "type": "dense", "units": 1, "noise": 0.3, "prior": 2.0},
        ],
        "dtype": "float32",
    }
    net = convert(spec)
    assert net.latents == ("x", "h", "y")
    assert net.dtype == np.float32
    np.testing.assert_allclose(net.noise("h").diagonal(), [0.1, 0.2])
    assert [net[name].random for name in net.parameters] == [False, False, True, True]
    assert [net[name].trainable for name in net.parameters] == [False, False, True, True]
    with pytest.raises(ConversionError, match="brings the noise of its CPDs"):
        convert(spec, noise=2.0)
    del spec["layers"][0]["noise"], spec["layers"][2]["noise"]
    assert float(convert(spec, noise=2.0).noise("h").value) == 2.0
    assert float(from_spec(spec, noise=2.0).noise("h").value) == 2.0


def test_likelihoods() -> None:
    def net(last: str, **top: Any) -> Any:
        layers = [{"name": "y", "type": "dense", "units": 3, "activation": last}]
        return convert({"inputs": [{"name": "x", "shape": 2}], "layers": layers, **top})

    assert net("softmax")["y.label"].parents == ("y.logits",)
    assert net("sigmoid")["y.label"].op == "bernoulli"
    assert net("softmax", likelihood="gaussian").labels == ()
    assert net("linear", likelihood="categorical").labels == ("y.label",)
    assert net("linear", likelihood={"y": "bernoulli"})["y.label"].op == "bernoulli"
    with pytest.raises(ConversionError, match=r"likelihood: .*'y': it ends in a Softmax, which says"):
        net("softmax", likelihood="bernoulli")


def test_state_is_what_a_weights_file_holds(tmp_path: Path) -> None:
    text = """
inputs: [{name: x, shape: [4, 3]}]
layers:
  - {name: n, type: batch_normalization}
  - {name: r, type: lstm, units: 2}
  - {name: y, type: dense, units: 3, frozen: true}
weights: random
"""
    net = convert(as_file(tmp_path, text))
    state = net.to_state_dict()
    assert set(state) == {
        *(f"n.{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")),
        *(f"r.{name}" for name in ("kernel", "recurrent_kernel", "bias")),
        *("y.kernel", "y.bias"),
    }
    for k, name in enumerate(net.parameters):
        net.set_value(name, net[name].value + 0.1 * (k + 1))
    np.savez(tmp_path / "w.npz", **net.to_state_dict())
    again = convert(as_file(tmp_path, text.replace("random", "w.npz")))
    x = np.random.default_rng(0).standard_normal((5, 4, 3))
    np.testing.assert_array_equal(net.forward({"x": x})["y"], again.forward({"x": x})["y"])


def test_weights_of_a_file(tmp_path: Path) -> None:
    text = """
inputs: [{name: x, shape: 2}]
layers:
  - {name: y, type: dense, units: 3}
  - {name: z, type: lstm, units: 1, inputs: r}
weights: w.npz
"""
    text = text.replace("  - {name: z", "  - {name: r, type: reshape, target_shape: [1, 3]}\n  - {name: z")
    rng = np.random.default_rng(0)
    shapes = {"y.kernel": (2, 3), "y.bias": (3,), "z.kernel": (3, 4), "z.recurrent_kernel": (1, 4), "z.bias": (4,)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    np.savez(tmp_path / "w.npz", **arrays)
    path = as_file(tmp_path, text)
    net = convert(path)
    for name, value in arrays.items():
        np.testing.assert_array_equal(net[name].value, value)
    assert net.source_of("y.kernel") == "w.npz: y.kernel"
    np.savez(tmp_path / "w.npz", **{**arrays, "y.bias": np.zeros(4), "extra": np.zeros(1)})
    with pytest.raises(ConversionError, match=r"line 4, layers\[0\]: .*'y.bias' has shape \(4,\) of float64"):
        convert(path)
    np.savez(tmp_path / "w.npz", **arrays, y_kernl=np.zeros(1))
    with pytest.raises(ConversionError, match=r"line 7, weights: .*no layer reads its member 'y_kernl'"):
        convert(path)
    np.savez(tmp_path / "w.npz", **{**arrays, "y.bias": np.array([{}, 1, 2])})
    with pytest.raises(ConversionError, match="expected numbers"):
        convert(path)
    (tmp_path / "w.npz").write_bytes((tmp_path / "w.npz").read_bytes()[:100])
    with pytest.raises(ConversionError, match=r"not a whole \.npz file"):
        convert(path)


def test_a_file_of_weights_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    path = as_file(
        tmp_path, "inputs: [{name: x, shape: 100000}]\nlayers: [{name: y, type: dense, units: 100000}]\nweights: w.npz"
    )
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 100000), }"
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("y.kernel.npy", header.ljust(127) + b"\n")
    with pytest.raises(ConversionError, match="more than what max_bytes leaves"):
        convert(path)
    with pytest.raises(ConversionError, match="more than what max_bytes leaves"):
        convert({"inputs": [{"name": "x", "shape": 10**6}], "layers": [{"type": "dense", "units": 10**6}]})


@pytest.mark.parametrize("name", ["../w.npz", "/etc/w.npz", "link.npz"])
def test_weights_stay_in_the_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    np.savez(tmp_path / "w.npz", **{"y.kernel": np.zeros((2, 1)), "y.bias": np.zeros(1)})
    (folder / "link.npz").symlink_to(tmp_path / "w.npz")
    spec = {"inputs": [{"name": "x", "shape": 2}], "layers": [{"name": "y", "type": "dense", "units": 1}]}
    path = as_file(folder, json.dumps({**spec, "weights": name}), "net.json")
    with pytest.raises(ConversionError, match="outside the folder"):
        convert(path)


BAD = """\
inputs:
  - {name: x, shape: [8, 8, 1]}
  - {nam: q, shape: 3}
layers:
  - name: c
    type: conv
    filters: 1e1
    kernel_size: 3
  - type: dens
    units: 3
  - type: dense
    unit: 4
    inputs: [x]
  - {type: flatten, inputs: y}
  - {name: x, type: relu, inputs: x}
  - name: d
    type: dense
    inputs: x
    units: 3
    weights: {kernel: [[1, 2]], bais: [1]}
  - {name: e, type: add, inputs: x}
likelihood: catgorical
wieghts: random
"""
FAULTS = [
    ("line 3, inputs[1].nam", "unknown key 'nam'; did you mean 'name'?"),
    ("line 3, inputs[1]", "lacks 'name'"),
    ("line 7, layers[0].filters", "filters: got 10.0, expected a whole number from 1 on"),
    ("line 9, layers[1].type", "got 'dens', did you mean 'dense'"),
    ("line 12, layers[2].unit", "unknown key 'unit'; did you mean 'units'?"),
    ("line 11, layers[2]", "lacks 'units'"),
    ("line 14, layers[3].inputs", "got 'y', which no entry before has as its name"),
    ("line 15, layers[4].name", "the name 'x' is taken already"),
    ("line 20, layers[5].weights", "weights.kernel: got shape (1, 2), expected (1, 3)"),
    ("line 21, layers[6].inputs", "inputs: got ['x'], expected two names or more"),
    ("line 22, likelihood", "got 'catgorical', did you mean 'categorical'"),
    ("line 23, wieghts", "unknown key 'wieghts'; did you mean 'weights'?"),
]


def test_every_fault_is_listed_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"^net\.yaml: 12 faults") as caught:
        convert(as_file(tmp_path, BAD))
    found = [(fault.path, fault.operation) for fault in caught.value.layers]
    for place, message in FAULTS:
        assert any(path == place and text.startswith(message) for path, text in found), (place, message, found)
    lines = [int(path.split(",")[0].removeprefix("line ")) for path, _ in found]
    assert lines == sorted(lines)


def test_lines_of_json_are_those_of_yaml(tmp_path: Path) -> None:
    text = """{
 "inputs": [
  {"name": "x", "shape": 2}],
 "layers": [
  {"type":
   "dense", "units": "\\"a{[,"},
  {}
 ]
}
"""
    with pytest.raises(ConversionError) as caught:
        convert(as_file(tmp_path, text, "net.json"))
    found = [str(fault) for fault in caught.value.layers]
    assert found[0].startswith("line 6, layers[0].units: units: got '\"a{[,'")
    assert found[1] == "line 7, layers[1]: lacks 'type'"


def test_paths_stand_where_there_are_no_lines() -> None:
    with pytest.raises(ConversionError) as caught:
        convert({"inputs": [{"name": "x", "shape": 2}], "layers": [{"type": "dense", "units": 0}]})
    assert [fault.path for fault in caught.value.layers] == ["layers[0].units"]
    for bad in ({1: 2}, {"layers": {"a": 1}}, {"layers": ["relu"]}, {"inputs": 3}, {"layers": []}, {}, []):
        with pytest.raises(ConversionError):
            convert(bad)
    circular: list[Any] = []
    circular.append(circular)
    with pytest.raises(ConversionError, match="deep"):
        convert(circular)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{\n"a": 1,\n}', "a.json, line 3: not JSON"),
        ("a.json", '{"a": NaN}', "no number of JSON"),
        ("a.json", "[" * 100_000, "nested too deeply|not JSON"),
        ("a.json", "[" * 100 + "]" * 100, "nested more than 64 deep"),
        ("a.json", '{"inputs": [],\n"inputs": []}', "line 2, inputs: key 'inputs' occurs twice"),
        ("a.json", "3", "expected a mapping"),
        ("a.yaml", "inputs: []\nlayers: []\ninputs: []", "line 3, inputs: key 'inputs' occurs twice"),
        ("a.yaml", "a: [1,\nb: }", "line 2: not plain YAML"),
        ("a.yaml", "layers: [!!python/object/apply:os.system [echo]]", "lacks 'type'|expected a mapping"),
        (
            "a.yaml",
            "layers: !!python/name:os.system x",
            "a.yaml, line 1: got 'x', no value of tag:yaml.org,2002:python",
        ),
        ("a.yaml", "layers: !!int ''", "no value of tag:yaml.org,2002:int"),
        ("a.yaml", "a: 1\nlayers: !!timestamp x", "line 2: got 'x', no value of"),
        ("a.yaml", 'layers: "\\UFFFFFFFF"', "not plain YAML"),
        ("a.yaml", "", "empty"),
        ("a.yaml", "? [a, b]\n: 3", "no plain text"),
        ("a.yaml", "layers: &a [*a]", "deep"),
    ],
)
def test_files_that_are_no_descriptions(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=message):
        convert(as_file(tmp_path, text, name))


def test_aliases_cannot_multiply_without_end(tmp_path: Path) -> None:
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)]
    with pytest.raises(ConversionError, match="more than 100000 entries"):
        convert(as_file(tmp_path, "\n".join(bomb)))


def test_yaml_without_pyyaml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingDependencyError, match=r"gaussian-bayes-net\[yaml\]"):
        convert(as_file(tmp_path, "layers: []"))


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = as_file(tmp_path, yaml.safe_dump(description("dense")))
    assert main(["convert", str(path), "-o", str(tmp_path / "net.gbn")]) == 0
    assert main(["show", str(tmp_path / "net.gbn")]) == 0
    assert main(["convert", str(as_file(tmp_path, BAD)), "-o", str(tmp_path / "bad.gbn")]) == 2
    assert "line 7, layers[0].filters" in capsys.readouterr().err


def test_a_description_is_read_without_other_libraries() -> None:
    code = (
        "import sys, gbn; gbn.convert([{'type': 'input', 'name': 'x', 'shape': 2}, {'type': 'dense', 'units': 1}]);"
        "print(sorted({'keras', 'torch', 'h5py', 'yaml', 'sklearn'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


VARIABLES = {
    "grass": {"parents": {"rain": 1.0, "sprinkler": 0.8}, "variance": 0.1},
    "rain": {"bias": 2.0, "variance": 1.0},
    "sprinkler": {"parents": {"rain": -0.5}, "bias": 3.0, "variance": 0.5},
}


def test_a_bayes_net_of_scalars() -> None:
    net = convert({"variables": VARIABLES})
    assert net.latents == ("rain", "sprinkler", "grass")
    # rain = 2 + r; sprinkler = 3 - rain / 2 + s; grass = rain + 0.8 sprinkler + g.
    mean, variance = 2 + 0.8 * 2, 0.6**2 + 0.8**2 * 0.5 + 0.1
    post = net.query("rain", {"grass": [[4.0]]})
    np.testing.assert_allclose(post.mean["rain"], [[2 + 0.6 / variance * (4.0 - mean)]], rtol=1e-12)
    np.testing.assert_allclose(post.log_evidence, [-0.5 * ((4 - mean) ** 2 / variance + np.log(2 * np.pi * variance))])
    assert net.parameters == (
        "rain.bias", "sprinkler.rain.weight", "sprinkler.bias", "grass.rain.weight", "grass.sprinkler.weight",
        "grass.bias",
    )  # fmt: skip


@settings(max_examples=30)
@given(st.integers(0, 2**31))
def test_random_bayes_nets_against_the_dense_joint(seed: int) -> None:
    """Vector variables in random order; mean and covariance by solving the structural equations at once."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 3, rng.integers(2, 5)).tolist()
    ends = np.cumsum([0, *sizes])
    weight, bias, noise = np.zeros((ends[-1], ends[-1])), rng.standard_normal(ends[-1]), np.zeros((ends[-1], ends[-1]))
    variables: dict[str, Any] = {}
    for k, size in enumerate(sizes):
        rows = slice(ends[k], ends[k + 1])
        parents = {}
        for j in range(k):
            if rng.random() < 0.6:
                block = rng.standard_normal((size, sizes[j]))
                weight[rows, ends[j] : ends[j + 1]] = block
                parents[f"v{j}"] = block.tolist() if block.size > 1 else float(block[0, 0])
        root = rng.standard_normal((size, size))
        noise[rows, rows] = root @ root.T + 0.3 * np.eye(size)
        variables[f"v{k}"] = {"parents": parents, "bias": bias[rows].tolist(), "variance": noise[rows, rows].tolist()}
    names = rng.permutation(list(variables)).tolist()
    net = convert({"variables": {name: variables[name] for name in names}})
    total = np.linalg.inv(np.eye(ends[-1]) - weight)
    post = net.query()
    for k in range(len(sizes)):
        rows = slice(ends[k], ends[k + 1])
        np.testing.assert_allclose(post.mean[f"v{k}"][0], (total @ bias)[rows], rtol=1e-9, atol=1e-9)
        covariance = (total @ noise @ total.T)[rows, rows]
        np.testing.assert_allclose(post.cov(f"v{k}")[0], covariance, rtol=1e-9, atol=1e-9)


def test_arrays_of_variables_have_their_names() -> None:
    arrays = convert({"variables": VARIABLES}).to_state_dict()
    assert {name: value.item() for name, value in arrays.items()} == {
        f"{name}.{part}": number
        for name, one in VARIABLES.items()
        for part, number in (
            ("bias", one.get("bias", 0.0)),
            *((f"{parent}.weight", weight) for parent, weight in one.get("parents", {}).items()),
        )
    }


def test_observed_and_deterministic_variables() -> None:
    net = convert(
        {"variables": {"u": {"size": 2}, "v": {"parents": {"u": [1.0, 2.0]}}, "w": {"parents": {"v": [[1], [3]]}}}}
    )
    assert net.latents == ()
    np.testing.assert_allclose(net.forward({"u": [[1.0, 1.0]]})["w"], [[3.0, 9.0]])
    column = convert({"variables": {"a": {"variance": 1}, "b": {"parents": {"a": [1, 2]}, "variance": [1, 1]}}})
    assert column["b"].shape == (2,)


def test_faults_of_variables(tmp_path: Path) -> None:
    text = """\
variables:
  a: {parents: {b: 1.0}, variance: 1}
  b: {parents: {a: 1.0}, variance: 1}
  c: {parents: {d: 1.0}, varianse: 1}
  e: {bias: 1}
  f: {variance: -1}
  g: {bias: [x]}
  h: 3
"""
    with pytest.raises(ConversionError) as caught:
        convert(as_file(tmp_path, text))
    found = "\n".join(map(str, caught.value.layers))
    for line in ("line 4, variables.c.varianse: unknown key", "line 4, variables.c.parents.d: unknown parent 'd'"):
        assert line in found
    assert "line 8, variables.h: got" in found
    assert "the circle" in found
    with pytest.raises(ConversionError) as caught:
        convert(as_file(tmp_path, "\n".join([text.splitlines()[0], *text.splitlines()[4:7]])))
    places = [fault.path for fault in caught.value.layers]
    assert places == ["line 2, variables.e", "line 3, variables.f", "line 4, variables.g"]


WORDS = ["", "-", "{", "]", ": ", ",", '"', "&a ", "*a", "!!int ", "-1", "1e400", "99999999999", "null", "x", "y", "\n"]


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_mutated_description_is_refused_or_read(suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = list(CASES)
    for _ in range(100):
        spec = description(kinds[rng.integers(len(kinds))])
        text = json.dumps(spec, indent=1) if suffix == "json" else yaml.safe_dump(spec)
        for _ in range(rng.integers(1, 4)):
            at, width = int(rng.integers(len(text))), int(rng.integers(0, 4))
            text = text[:at] + WORDS[rng.integers(len(WORDS))] + text[at + width :]
        try:
            net = convert(as_file(tmp_path, text, f"net.{suffix}"), max_bytes=1 << 24)
        except ConversionError:
            continue
        assert net.outputs
