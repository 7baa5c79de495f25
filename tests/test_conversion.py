"""Dispatch to converters, built in and of third parties."""

import importlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gbn import conversion
from gbn.conversion import convert
from gbn.errors import ConversionError, UnknownNameError
from gbn.net import GaussianBayesNet


class Foreign:
    """A model of a library of its own."""


def foreign_net(obj: object, example: object = None, *, width: int = 2) -> GaussianBayesNet:
    net = GaussianBayesNet()
    net.add_input("x", width)
    net.add_parameter("W", np.eye(width))
    net.add("h", "Gemm", ["x", "W"])
    net.add("y", "Tanh", ["h"])
    return net


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch):
    """Puts modules in the place of the registered converters: name -> module, or None for one that does not load."""

    def put(**modules: ModuleType | None) -> None:
        entries = []
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, f"third_party_{name}", module)
            entries.append(metadata.EntryPoint(name, f"third_party_{name}", conversion.GROUP))
        monkeypatch.setattr(metadata, "entry_points", lambda group: metadata.EntryPoints(entries))

    return put


def third_party(kind: type = Foreign) -> ModuleType:
    module = ModuleType("third_party")
    module.accepts = lambda obj: isinstance(obj, kind)
    module.convert = foreign_net
    module.TAKES = "models of a third party"
    return module


def test_a_third_party_converter_is_found(register) -> None:
    register(foreign=third_party())
    net = convert(Foreign(), noise=0.5)
    assert net.latents == ("h", "y")
    np.testing.assert_allclose(net.noise("h").matrix(), 0.5 * np.eye(2))
    assert convert(Foreign(), width=3)["x"].shape == (3,)


def test_a_complete_net_is_left_as_it_is(register) -> None:
    module = third_party()
    module.COMPLETE = True
    register(foreign=module)
    assert convert(Foreign()).latents == ()
    assert convert(Foreign(), latents="affine", noise=1.0).latents == ()
    with pytest.raises(ConversionError, match=r"^output_noise: got 0\.5, but this model brings the noise of its CPDs"):
        convert(Foreign(), output_noise=0.5)


@pytest.mark.parametrize(
    ("library", "kind"),
    [
        ("networkx", "networkx.DiGraph"),
        ("pgmpy", "pgmpy.models.LinearGaussianBayesianNetwork"),
        ("sklearn", "sklearn.neural_network.MLPRegressor"),
        ("spec", "builtins.dict"),
        ("spec", "builtins.list"),
    ],
)
def test_each_library_has_one_converter(library: str, kind: str) -> None:
    path, _, name = kind.rpartition(".")
    model = getattr(importlib.import_module(path), name)()
    takers = [module.__name__ for module in conversion.converters() if module.accepts(model)]
    assert takers == [f"converters.{library}"]


def test_a_converter_that_does_not_load_breaks_no_other(register) -> None:
    register(broken=None, foreign=third_party())
    with pytest.warns(UserWarning, match="'broken'"):
        net = convert(Foreign())
    assert net.outputs == ("y",)


def test_a_converter_without_its_functions_is_left_out(register) -> None:
    register(empty=ModuleType("empty"), foreign=third_party())
    with pytest.warns(UserWarning, match="no function accepts and no convert"):
        convert(Foreign())


def test_third_parties_come_before_the_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "third_party_special", third_party())
    entries = [
        metadata.EntryPoint("sklearn", "converters.sklearn", conversion.GROUP),
        metadata.EntryPoint("special", "third_party_special", conversion.GROUP),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: metadata.EntryPoints(entries))
    assert conversion.converters()[0].TAKES == "models of a third party"


def test_a_checkout_that_is_not_installed_has_the_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda group: metadata.EntryPoints(()))
    assert {module.__name__ for module in conversion.converters()} >= {
        f"converters.{name}" for name in ("torch", "sklearn", "pgmpy", "networkx", "keras", "spec")
    }


def test_an_unknown_object_is_answered_with_what_is_taken() -> None:
    with pytest.raises(ConversionError, match=r"type int(.|\n)*MLPClassifier(.|\n)*nn\.Module"):
        convert(3)
    with pytest.raises(ConversionError, match=r"test_conversion\.Foreign"):
        convert(Foreign())


def test_files_that_are_missing_or_of_no_known_kind(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="no file"):
        convert(tmp_path / "model.pt2")
    other = tmp_path / "model.txt"
    other.touch()
    with pytest.raises(ConversionError, match=r"model\.txt"):
        convert(str(other))


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.ckpt", "m.pkl", "m.pickle", "m.joblib"])
def test_pickles_are_never_loaded(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ConversionError, match="pickle"):
        convert(path)


def test_a_converter_may_know_samples_on_axis_0_only(register) -> None:
    module = third_party()
    register(foreign=module)
    assert convert(Foreign(), sample_axis=0).inputs == ("x",)
    with pytest.raises(ConversionError, match="sample_axis: got 1, but third_party knows samples on axis 0 only"):
        convert(Foreign(), sample_axis=1)
    module.convert = lambda obj, example=None, *, sample_axis=0: foreign_net(obj, width=2 + sample_axis)
    assert convert(Foreign(), sample_axis=1)["x"].shape == (3,)


def test_a_complete_net_may_be_so_for_some_objects_only(register) -> None:
    module = third_party()
    module.COMPLETE = lambda obj: getattr(obj, "noisy", False)
    register(foreign=module)
    model = Foreign()
    assert convert(model, noise=0.5).latents == ("h", "y")
    model.noisy = True
    assert convert(model).latents == ()
    with pytest.raises(ConversionError, match=r"^noise: got 0\.5, but this model brings"):
        convert(model, noise=0.5)


TOY = """
TAKES = "toy: a Toy"

def accepts(obj):
    return type(obj).__name__ == "Toy"

def convert(obj, example=None, *, width=1):
    from gbn.net import GaussianBayesNet
    net = GaussianBayesNet()
    net.add_input("x", width)
    net.add_parameter("W", [[obj.slope] * 1] * width)
    net.add("y", "Gemm", ["x", "W"])
    return net
"""
USE = """
import sys
import gbn
from gbn.conversion import converters

class Toy:
    slope = 3.0

net = gbn.convert(Toy(), width=2, output_noise=0.5)
print(net.forward({"x": [[1.0, 2.0]]})["y"], net.noise("y"), converters()[0].__name__)
try:
    gbn.convert(object())
except gbn.ConversionError as error:
    print("toy: a Toy" in str(error))
"""


def test_an_installed_third_party_distribution_is_found(tmp_path: Path) -> None:
    """As pip leaves it: a module, and beside it the metadata with the entry point."""
    (tmp_path / "toy_converter.py").write_text(TOY)
    info = tmp_path / "toy_gbn-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-gbn\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{conversion.GROUP}]\ntoy = toy_converter\n")
    path = os.pathsep.join([str(tmp_path), str(Path(conversion.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-W", "error", "-c", USE]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["[[9.]] Covariance(scalar, event=(1,), 0.5) toy_converter", "True"]


def test_likelihood_is_what_is_asked_for(register) -> None:
    def labelled(obj: object, example: object = None) -> GaussianBayesNet:
        net = foreign_net(obj)
        net.add_likelihood("recommended", "categorical", "y")
        return net

    module = third_party()
    module.convert = labelled
    register(foreign=module)
    assert convert(Foreign()).labels == ("recommended",)
    assert convert(Foreign(), likelihood="bernoulli")["y.label"].op == "bernoulli"
    assert convert(Foreign(), likelihood={"y": "bernoulli"}).labels == ("y.label",)
    for gaussian in (None, "gaussian"):
        net = convert(Foreign(), likelihood=gaussian)
        assert net.labels == ()
        assert net["y"].random


def test_the_policy_is_checked(register) -> None:
    register(foreign=third_party())
    with pytest.raises(UnknownNameError, match="latents"):
        convert(Foreign(), latents="layer")


def test_a_mapping_leaves_the_other_outputs_to_themselves(register) -> None:
    def two(obj: object, example: object = None) -> GaussianBayesNet:
        net = foreign_net(obj)
        net.add("p", "Softmax", ["h"])
        net.add("s", "Sigmoid", ["h"])
        return net

    module = third_party()
    module.convert = two
    register(foreign=module)
    assert convert(Foreign()).labels == ("p.label", "s.label")
    net = convert(Foreign(), likelihood={"y": "bernoulli", "s": None})
    assert net.labels == ("y.label", "p.label")
    assert net["s"].random
    for gaussian in (None, "gaussian"):
        assert convert(Foreign(), likelihood=gaussian).labels == ()
