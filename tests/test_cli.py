"""The command line: results, files, exit codes and errors, mostly in process."""

import errno
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gbn
from gbn import cli
from gbn.cli import sources, text

ROOT = Path(__file__).resolve().parents[1]

NET = """
import numpy as np
import gbn

def net():
    rng = np.random.default_rng(0)
    net = gbn.GaussianBayesNet()
    net.add_input("x", (3,), mean=0.0, cov=1.0)
    net.add_linear("a", {"x": rng.normal(size=(4, 3))}, bias=rng.normal(size=4), cov=0.5)
    net.add("h", "Tanh", ["a"])
    net.add_linear("y", {"h": rng.normal(size=(2, 4))}, cov=[0.1, 0.2])
    return net
"""

ESTIMATOR = """
import numpy as np
from sklearn.neural_network import MLPRegressor

def make():
    rng = np.random.default_rng(0)
    model = MLPRegressor(hidden_layer_sizes=(4,), activation="tanh", solver="lbfgs", tol=1.0, random_state=0)
    return model.fit(rng.normal(size=(20, 3)), rng.normal(size=(20, 2)))
"""

MODULE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()

def pair():
    return make(), torch.zeros(2, 3).double()

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, a, b):
        return self.left(a) + self.right(b)
"""


class Bomb:
    """Unpickling one is an error that no command reports."""

    def __reduce__(self):
        return pytest.fail, ("a pickle has been loaded",)


@pytest.fixture
def gbn_command(capsys):
    """Run a command: exit code, stdout, stderr."""

    def run(*argv):
        code = cli.main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def fails(gbn_command):
    """Run a command that must end in one error on stderr and nothing on stdout; returns the message."""

    def run(*argv):
        code, out, err = gbn_command(*argv)
        errors = [line for line in err.splitlines() if line.startswith("gbn: error: ")]
        assert (code, out, len(errors)) == (2, "", 1), err
        assert "Traceback" not in err
        return err[err.index("gbn: error: ") + len("gbn: error: ") :].rstrip("\n")

    return run


@pytest.fixture
def source(tmp_path):
    """Write a Python file and return its path."""

    def write(code, name="model.py"):
        path = tmp_path / name
        path.write_text(code, encoding="utf-8")
        return path

    return write


@pytest.fixture
def net(tmp_path):
    namespace = {}
    exec(NET, namespace)
    made = namespace["net"]()
    made.save(tmp_path / "net.gbn")
    return made


@pytest.fixture
def net_file(net, tmp_path):
    return tmp_path / "net.gbn"


@pytest.fixture
def npz(tmp_path):
    def write(name="data.npz", **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


@pytest.fixture
def evidence():
    y = np.random.default_rng(1).normal(size=(5, 2))
    y[0, 1] = np.nan
    return {"y": y}


@pytest.fixture
def data(npz):
    rng = np.random.default_rng(2)
    return npz(x=rng.normal(size=(6, 3)), y=rng.normal(size=(6, 2)))


@pytest.fixture
def module(source):
    pytest.importorskip("torch")
    return source(MODULE)


@pytest.fixture
def exported(tmp_path):
    """A .pt2 file, exported for any number of samples."""
    torch = pytest.importorskip("torch")
    namespace = {}
    exec(MODULE, namespace)
    sizes = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(namespace["make"](), (torch.ones(3, 3).double(),), dynamic_shapes=sizes)
    torch.export.save(program, tmp_path / "model.pt2")
    return tmp_path / "model.pt2"


def parsed(text):
    """JSON as the standard has it, on one line."""

    def refuse(constant):
        raise AssertionError(f"not JSON: {constant}")

    assert text.count("\n") == 1
    return json.loads(text, parse_constant=refuse)


# convert


def test_convert_writes_the_net_and_prints_a_summary(gbn_command, source, tmp_path):
    out = tmp_path / "out.gbn"
    code, stdout, stderr = gbn_command("convert", f"{source(ESTIMATOR)}:make", "-o", out, "--noise", 0.25)
    assert (code, stderr) == (0, f"gbn: wrote {out}\n")
    net = gbn.load(out)
    assert [net.noise(name).value for name in net.latents] == [0.25, 1.0]
    for line in ("vertices    8, 2 with noise", "parameters  4 arrays, 26 numbers", "outputs     output (N×2)"):
        assert line in stdout.splitlines()
    assert "noise       0.25 at layer1" in stdout.splitlines()


def test_convert_prints_json(gbn_command, source, tmp_path):
    code, stdout, _ = gbn_command("convert", f"{source(ESTIMATOR)}:make", "-o", tmp_path / "out.gbn", "--json")
    found = parsed(stdout)
    assert code == 0
    assert found["outputs"] == ["output"]
    assert found["parameters"] == {"arrays": 4, "numbers": 26}
    vertices = {vertex["name"]: vertex for vertex in found["vertices"]}
    assert vertices["layer1"]["noise"] == {"name": "layer1", "form": "scalar", "variances": [1.0, 1.0]}
    assert vertices["layer1.weight"]["sources"] == ["coefs_[0]"]
    assert vertices["layer1"]["sources"] == []


def test_convert_saves_a_net_that_a_function_builds(gbn_command, source, tmp_path):
    code, *_ = gbn_command("convert", f"{source(NET)}:net", "-o", tmp_path / "out.gbn")
    assert code == 0
    assert list(gbn.load(tmp_path / "out.gbn")) == ["x", "a.x.weight", "a.bias", "a", "h", "y.h.weight", "y"]


def test_convert_copies_a_net_file_and_takes_no_noise_for_it(gbn_command, fails, net_file, tmp_path):
    copy = tmp_path / "copy.gbn"
    assert gbn_command("convert", net_file, "-o", copy)[0] == 0
    assert copy.read_bytes() == net_file.read_bytes()
    assert "it is a net already" in fails("convert", net_file, "-o", copy, "--noise", 2)


@pytest.mark.parametrize(
    "example", [["--example-shape", "3"], ["--example", "data.npz"], []], ids=["shape", "file", "with the model"]
)
def test_convert_traces_a_module_with_an_example(example, gbn_command, module, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function = "make" if example else "pair"
    arguments = ["convert", f"{module.name}:{function}", "-o", "out.gbn", *example, "--latents", "layers"]
    code, _, stderr = gbn_command(*arguments, "--output-noise", 0.5)
    assert code == 0, stderr
    net = gbn.load("out.gbn")
    assert (net.latents, float(net.noise("2").value)) == (("1", "2"), 0.5)


def test_convert_takes_several_inputs(gbn_command, module, npz, tmp_path):
    arguments = ["convert", f"{module}:Two", "-o", tmp_path / "out.gbn"]
    assert gbn_command(*arguments, "--example-shape", 3, "--example-shape", 4)[0] == 0
    assert gbn_command(*arguments, "--example-shape", 3, 4)[0] == 0
    assert gbn_command(*arguments, "--example", npz(x0=np.zeros((2, 3)), x1=np.zeros((2, 4))))[0] == 0
    net = gbn.load(tmp_path / "out.gbn")
    assert [net[name].shape for name in net.inputs] == [(3,), (4,)]


def test_convert_takes_the_axis_of_the_samples(gbn_command, fails, tmp_path):
    code = "class Last(nn.Module):\n    def forward(self, x, y):\n        return x[-1] + y\n"
    (tmp_path / "last.py").write_text(f"from torch import nn\n\n\n{code}")
    source = f"{tmp_path / 'last.py'}:Last"
    arguments = ["convert", source, "-o", tmp_path / "out.gbn", "--example-shape", "5,3", 3]
    code, _, stderr = gbn_command(*arguments, "--sample-axis", 1, 0)
    assert code == 0, stderr
    net = gbn.load(tmp_path / "out.gbn")
    assert [net[name].shape for name in net.inputs] == [(5, 3), (3,)]
    code, _, stderr = gbn_command(*arguments, "--sample-axis", "none")
    assert code == 0, stderr
    assert gbn.load(tmp_path / "out.gbn")["x"].shape == (5, 3)
    assert "cannot trace" in fails(*arguments)
    assert "sample_axis" in fails(*arguments, "--sample-axis", 7)


def test_convert_takes_names_as_latents_and_a_likelihood(gbn_command, module, tmp_path):
    arguments = ["convert", f"{module}:pair", "-o", tmp_path / "out.gbn"]
    code, stdout, _ = gbn_command(*arguments, "--latents", "0,1", "--likelihood", "categorical")
    assert code == 0
    assert gbn.load(tmp_path / "out.gbn").latents == ("0", "1")
    assert "label       2.label (categorical)" in stdout.splitlines()


def test_convert_reads_an_exported_program(gbn_command, exported, tmp_path):
    code, stdout, _ = gbn_command("convert", exported, "-o", tmp_path / "out.gbn")
    assert (code, "parameters  4 arrays, 26 numbers" in stdout) == (0, True)


def test_convert_says_how_to_give_the_example_that_is_missing(fails, module, tmp_path):
    message = fails("convert", f"{module}:make", "-o", tmp_path / "out.gbn")
    assert "--example-shape 3,32,32" in message
    assert not (tmp_path / "out.gbn").exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".joblib"])
def test_pickles_are_refused_without_being_opened(suffix, fails, data, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(Bomb()))
    for arguments in (("convert", path, "-o", tmp_path / "out.gbn"), ("compare", path, "--data", data)):
        message = fails(*arguments)
        assert "a pickle, which can run any code" in message
        assert "torch.export.save" in message
        assert "file.py:function" in message


def test_an_exported_program_with_pickles_is_refused_by_both_commands(fails, data, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({}, tmp_path / "model.pt2")
    assert "can run any code" in fails("convert", tmp_path / "model.pt2", "-o", tmp_path / "out.gbn")
    assert "can run any code" in fails("compare", tmp_path / "model.pt2", "--data", data)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.pt2"], "no file 'missing.pt2'"),
        (["missing.py:make"], "missing.py: No such file or directory"),
        (["model.py"], "expected a function in it as well, model.py:function"),
        (["model.py:mak"], "unknown function of model.py 'mak': did you mean 'make'?"),
        (["data.npz"], "no converter takes the file 'data.npz'"),
        (["model.py:make", "--noise", "nan"], "covariance of 'layer1': expected finite numbers"),
        (["model.py:make", "--latents", "layer9"], "unknown vertex in latents 'layer9': did you mean 'layer1'"),
        (["model.py:make", "--example", "missing.npz"], "missing.npz: No such file or directory"),
        (["model.py:make", "--example", "other.npz"], "got members 'x0', 'x2', expected the inputs as x, or as x0, x1"),
    ],
)
def test_convert_errors(arguments, message, fails, source, data, npz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source(ESTIMATOR)
    npz("other.npz", x0=np.zeros(1), x2=np.zeros(1))
    assert message in fails("convert", *arguments, "-o", "out.gbn")
    assert not Path("out.gbn").exists()


@pytest.mark.parametrize("place, message", [("no/out.gbn", "there is no folder"), (".", "it is a folder")])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(place, message, fails, source, tmp_path):
    path = source("def make():\n    raise RuntimeError('the function has been called')\n")
    assert message in fails("convert", f"{path}:make", "-o", tmp_path / place)


# a person's own Python file


@pytest.mark.parametrize(
    "code, message",
    [
        (
            "def make():\n    raise ValueError('no weights')\n",
            "make raised ValueError: no weights (line 2 of model.py)",
        ),
        ("def make():\n    raise SystemExit(0)\n", "make raised SystemExit: 0 (line 2 of model.py)"),
        ("def make(size):\n    return size\n", "make raised TypeError: make() missing 1 required positional argument"),
        ("import no_such_module_at_all\n", "model.py raised ModuleNotFoundError: No module named"),
        ("def make(:\n", "model.py raised SyntaxError"),
        ("def make():\n    pass\n", "make returned None, expected the model, or (model, example)"),
        ("def make():\n    return 1, 2, 3\n", "make returned 3 things, expected the model"),
        ("def make():\n    return 3\n", "no converter takes the object of type int"),
        ("make = 3\n", "unknown function of model.py 'make': there are none yet"),
    ],
)
def test_faults_of_the_file_are_one_sentence(code, message, fails, source, tmp_path):
    assert message in fails("convert", f"{source(code)}:make", "-o", tmp_path / "out.gbn")


def test_a_model_is_not_written_over_itself(fails, tmp_path):
    path = tmp_path / "net.json"
    path.write_text('{"inputs": [{"name": "x", "shape": 2}], "layers": [{"name": "y", "type": "dense", "units": 1}]}')
    before = path.read_bytes()
    assert "would be overwritten" in fails("convert", path, "-o", tmp_path / "." / "net.json")
    assert path.read_bytes() == before


def test_debug_shows_the_traceback(gbn_command, source, tmp_path):
    path = source("def make():\n    raise ValueError('no weights')\n")
    code, _, stderr = gbn_command("convert", f"{path}:make", "-o", tmp_path / "out.gbn", "--debug")
    assert code == 2
    assert "Traceback (most recent call last)" in stderr
    assert "in make" in stderr
    assert stderr.splitlines()[-1].startswith("gbn: error: ")


def test_an_interrupt_has_its_own_exit_code(gbn_command, source, tmp_path):
    path = source("def make():\n    raise KeyboardInterrupt\n")
    code, stdout, stderr = gbn_command("convert", f"{path}:make", "-o", tmp_path / "out.gbn")
    assert (code, stdout, stderr) == (130, "", "gbn: interrupted\n")


def test_the_file_may_import_its_neighbours_and_print(gbn_command, source, tmp_path):
    source("SIZE = 3\n", "a_neighbour_of_the_model.py")
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport gbn\n"
        "from a_neighbour_of_the_model import SIZE\n"
        "@dataclass\nclass Settings:\n    size: int = SIZE\n"
        "def make():\n    print('building')\n    net = gbn.GaussianBayesNet()\n"
        "    net.add_input('x', (Settings().size,), mean=0, cov=1)\n    return net\n"
    )
    before = list(sys.path)
    found = gbn_command("convert", f"{source(code)}:make", "-o", tmp_path / "out.gbn", "--json")
    assert (found[0], parsed(found[1])["inputs"]) == (0, ["x"])
    assert "building" in found[2]
    assert sys.path == before
    assert not list(tmp_path.glob("**/model*.pyc"))


# query


def test_query_writes_what_the_library_computes(gbn_command, net, net_file, npz, evidence, tmp_path):
    out = tmp_path / "post.npz"
    code, stdout, stderr = gbn_command(
        "query", net_file, "--evidence", npz(**evidence), "--ask", "a", "--ask", "y", "-o", out, "--cov"
    )
    assert (code, stderr) == (0, f"gbn: wrote {out}\n")
    post = net.query(["a", "y"], evidence)
    with np.load(out, allow_pickle=False) as found:
        expected = {f"{name}.mean": post.mean[name] for name in "ay"} | {f"{name}.std": post.std[name] for name in "ay"}
        expected |= {f"{name}.cov": post.cov(name) for name in "ay"} | {"log_evidence": post.log_evidence}
        assert sorted(found.files) == sorted(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
    lines = stdout.splitlines()
    assert f"log-evidence          {post.log_evidence.sum():.6g} nats in all" in stdout
    low, high = post.mean["a"].min(), post.mean["a"].max()
    assert any(line.startswith("a ") and f"{low:.4g} to {high:.4g}" in line for line in lines)


def test_query_prints_whole_arrays_as_json(gbn_command, net, net_file, npz, evidence):
    do = {"a": np.ones((1, 4))}
    code, stdout, _ = gbn_command(
        "query", net_file, "--evidence", npz(**evidence), "--do", npz("do.npz", **do), "--ask", "h", "x", "--json"
    )
    found = parsed(stdout)
    post = net.query(["h", "x"], evidence, do)
    assert (code, found["engine"], found["samples"], found["converged"]) == (0, "exact", 5, True)
    np.testing.assert_array_equal(found["log_evidence"], post.log_evidence)
    for name in ("h", "x"):
        np.testing.assert_array_equal(found["targets"][name]["mean"], post.mean[name])
        np.testing.assert_array_equal(found["targets"][name]["std"], post.std[name])
        assert found["targets"][name]["cov"] is None


def test_query_without_evidence_gives_the_prior(gbn_command, net, net_file):
    code, stdout, _ = gbn_command("query", net_file, "--ask", "a", "--json")
    assert code == 0
    np.testing.assert_array_equal(parsed(stdout)["targets"]["a"]["mean"], net.query("a").mean["a"])


def test_query_leaves_standard_deviations_out_on_request(gbn_command, net_file, npz, evidence, tmp_path):
    arguments = ["query", net_file, "--evidence", npz(**evidence), "--ask", "a", "--mean-only"]
    code, stdout, _ = gbn_command(*arguments, "--json", "-o", tmp_path / "post.npz")
    assert (code, parsed(stdout)["targets"]["a"]["std"]) == (0, None)
    with np.load(tmp_path / "post.npz") as found:
        assert sorted(found.files) == ["a.mean", "log_evidence"]


def test_query_by_predictive_coding_has_means_and_says_what_it_lacks(
    gbn_command, net, net_file, npz, evidence, tmp_path
):
    out = tmp_path / "post.npz"
    arguments = ["query", net_file, "--evidence", npz(**evidence), "--ask", "a", "h", "--engine", "pc"]
    code, stdout, stderr = gbn_command(*arguments, "--option", "prediction=live", "tol=1e-4", "-o", out, "--json")
    post = net.query(["a", "h"], evidence, engine="pc", prediction="live", tol=1e-4)
    found = parsed(stdout)
    assert (code, found["log_evidence"], found["targets"]["a"]["std"]) == (0, None, None)
    np.testing.assert_array_equal(found["free_energy"], post.free_energy)
    assert stderr.count("no variances") == 1
    with np.load(out) as saved:
        assert sorted(saved.files) == ["a.mean", "h.mean"]
        np.testing.assert_array_equal(saved["a.mean"], post.mean["a"])
    code, stdout, _ = gbn_command(*arguments)
    assert (code, "log-evidence  -\n" in stdout, "free energy" in stdout) == (0, True, True)


def test_query_reports_labels_without_standard_deviation(gbn_command, tmp_path):
    net = gbn.GaussianBayesNet()
    net.add_input("x", (3,), mean=0.0, cov=1.0)
    net.add_likelihood("class", "categorical", "x")
    net.save(tmp_path / "net.gbn")
    code, stdout, stderr = gbn_command("query", tmp_path / "net.gbn", "--ask", "class", "x", "--json")
    found = parsed(stdout)["targets"]
    assert (code, stderr, found["class"]["std"]) == (0, "", None)
    assert found["x"]["std"] == [[1.0, 1.0, 1.0]]


def test_query_that_has_not_converged_warns_and_ends_well(gbn_command, net_file, npz, evidence):
    code, stdout, stderr = gbn_command(
        "query", net_file, "--evidence", npz(**evidence), "--ask", "a", "--engine", "pc", "--json",
        "--option", "schedule=parallel", "max_rounds=2", "--option", "tol=1e-9",
    )  # fmt: skip
    assert (code, parsed(stdout)["converged"]) == (0, False)
    assert "gbn: warning: predictive coding: made 2 rounds" in stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.gbn"], "missing.gbn: No such file or directory"),
        (["data.npz"], "expected"),
        (["model.pt2"], "make one with: gbn convert model.pt2 -o net.gbn"),
        (["model.py:make"], "make one with: gbn convert model.py:make -o net.gbn"),
        (["net.gbn", "--evidence", "missing.npz"], "missing.npz: No such file or directory"),
        (["net.gbn", "--evidence", "data.npz"], "evidence for 'y': got shape (6, 3), expected (samples, 2)"),
        (["net.gbn", "--evidence", "names.npz"], "unknown vertex 'yy': did you mean 'y'?"),
        (["net.gbn", "--ask", "aa"], "unknown target 'aa': did you mean 'a'?"),
        (["net.gbn", "--engine", "exactly"], "unknown engine 'exactly': did you mean 'exact'?"),
        (["net.gbn", "--option", "dense_limits=3"], "'dense_limits': did you mean 'dense_limit'?"),
        (["net.gbn", "--option", "dense_limit=few"], "dense_limit: got 'few' (str), expected int"),
        (["net.gbn", "--option", "dense_limit=true"], "dense_limit: got True (bool), expected int"),
        (["net.gbn", "--engine", "pc", "--option", "schedule=1"], "schedule: got 1 (int), expected str | None"),
        (["net.gbn", "--engine", "pc", "--option", "callback=x"], "option of engine 'pc' 'callback'"),
        (["net.gbn", "--engine", "pc", "--cov"], "no covariances"),
        (["net.gbn", "--evidence", "certain.npz"], "evidence on deterministic vertex 'h'"),
    ],
)
def test_query_errors(arguments, message, fails, net_file, npz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    npz(y=np.zeros((6, 3)))
    npz("names.npz", yy=np.zeros((6, 2)))
    npz("certain.npz", h=np.zeros((1, 4)), a=np.zeros((1, 4)))
    ask = [] if "--ask" in arguments else ["--ask", "a"]
    assert message in fails("query", *arguments, *ask, "-o", "post.npz")
    assert not Path("post.npz").exists()


def test_evidence_that_holds_objects_is_refused(fails, net_file, npz, tmp_path):
    arguments = ["query", net_file, "--ask", "a", "--evidence"]
    assert "it holds pickled objects" in fails(*arguments, npz(y=np.array([Bomb()], dtype=object)))
    (tmp_path / "bomb.npz").write_bytes(pickle.dumps(Bomb()))
    assert "not a whole .npz file: it begins with" in fails(*arguments, tmp_path / "bomb.npz")


def test_evidence_that_is_no_npz_file_is_refused(fails, net_file, npz, tmp_path):
    arguments = ["query", net_file, "--ask", "a", "--evidence"]
    whole = npz(y=np.zeros((100, 2))).read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(2))
    files = {"cut.npz": whole[:200], "empty.npz": b"", "text.npz": b"y\n0\n"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert "not a whole .npz file" in fails(*arguments, tmp_path / name)
    assert "a single array without a name" in fails(*arguments, tmp_path / "one.npy")
    assert "Is a directory" in fails(*arguments, tmp_path)


def test_a_failed_write_leaves_the_old_file(fails, net_file, tmp_path, monkeypatch):
    out = tmp_path / "post.npz"
    out.write_bytes(b"old")

    def full(file, array, **options):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(text.np.lib.format, "write_array", full)
    assert "No space left on device" in fails("query", net_file, "--ask", "a", "-o", out)
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"net.gbn", "post.npz"}


def test_an_error_that_nobody_foresaw_is_one_sentence(fails, net_file, monkeypatch):
    monkeypatch.setattr(sources.io, "load", lambda path: 1 / 0)
    message = fails("show", net_file)
    assert message == "unexpected ZeroDivisionError: division by zero; --debug shows where"


def test_json_has_null_where_a_number_is_not_finite():
    found = text._plain(
        {"a": np.array([[1, np.nan], [np.inf, 2]], np.float32), "b": -np.inf, "c": (np.float64(3), True)}
    )
    assert found == {"a": [[1.0, None], [None, 2.0]], "b": None, "c": [3.0, True]}
    assert json.dumps(found, allow_nan=False)


def test_query_reads_tables_as_learn_does(gbn_command, net_file, npz, tmp_path):
    pytest.importorskip("pandas")
    arrays = npz(y=[[0.5, np.nan], [0.25, -1.0]])
    table = tmp_path / "evidence.csv"
    table.write_text("y[0],y[1]\n0.5,\n0.25,-1.0\n", encoding="utf-8")
    change = tmp_path / "do.csv"
    change.write_text("x[0],x[1],x[2]\n1,2,3\n", encoding="utf-8")
    for option, given, same in (("--evidence", table, arrays), ("--do", change, npz("do.npz", x=[[1.0, 2.0, 3.0]]))):
        code, out, err = gbn_command("query", net_file, option, given, "--ask", "a", "--json")
        assert code == 0, err
        again = gbn_command("query", net_file, option, same, "--ask", "a", "--json")
        assert parsed(out)["targets"] == parsed(again[1])["targets"]


def test_query_lists_diagnostics_as_text(gbn_command, net_file, npz):
    given = npz(y=[[0.5, 1.0]])
    code, out, _ = gbn_command("query", net_file, "--evidence", given, "--ask", "x", "--option", "solver=information")
    assert code == 0
    facts = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in out.split("\n\n")[0].splitlines())
    assert facts["regressed"] == "-"
    assert facts["expanded"] == "h"
    assert len(facts["plan seconds"]) < 12


# export


def test_export_writes_the_arrays_of_the_model(gbn_command, module, exported, tmp_path):
    torch = pytest.importorskip("torch")
    assert gbn_command("convert", exported, "-o", tmp_path / "net.gbn")[0] == 0
    code, out, _ = gbn_command("export", tmp_path / "net.gbn", "-o", tmp_path / "weights.npz", "--json")
    assert code == 0
    state = torch.export.load(exported).state_dict
    listed = parsed(out)["arrays"]
    with np.load(tmp_path / "weights.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == set(state) == set(listed)
        for name, tensor in state.items():
            np.testing.assert_array_equal(arrays[name], tensor.detach().numpy())
            assert listed[name] == {"shape": list(tensor.shape), "dtype": "float64"}


def test_export_takes_any_name(gbn_command, net, tmp_path):
    first, second, *_ = net.parameters
    net.describe(first, source="file")
    net.describe(second, source="a/b")
    net.save(tmp_path / "net.gbn")
    assert gbn_command("export", tmp_path / "net.gbn", "-o", tmp_path / "out.npz")[0] == 0
    with np.load(tmp_path / "out.npz") as arrays:
        assert set(arrays.files) == {"file", "a/b"}
        np.testing.assert_array_equal(arrays["file"], net[first].value)


def test_export_onto_a_graph(gbn_command, fails, tmp_path):
    onnx = pytest.importorskip("onnx")
    net = gbn.GaussianBayesNet()
    net.add_parameter("W", np.eye(2))
    net.describe("W", source="weight")
    net.save(tmp_path / "net.gbn")
    weight = onnx.numpy_helper.from_array(np.zeros((2, 2), np.float32), "weight")
    values = [onnx.helper.make_tensor_value_info(n, 1, ["N", 2]) for n in "xy"]
    nodes = [onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "old.onnx")
    command = ["export", tmp_path / "net.gbn", "--onto", tmp_path / "old.onnx", "-o", tmp_path / "new.onnx"]
    assert gbn_command(*command)[0] == 0
    (initialiser,) = onnx.load(tmp_path / "new.onnx").graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(initialiser), np.eye(2))
    net.describe("W", source="wait")
    net.save(tmp_path / "net.gbn")
    assert "wait: the ModelProto has no such array; did you mean 'weight'?" in fails(*command)


def test_export_errors(fails, net_file, tmp_path):
    assert "no names to give" in fails("export", net_file, "-o", tmp_path / "out.npz")
    assert "No such file" in fails("export", tmp_path / "none.gbn", "-o", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_export_does_not_call_arrays_a_model(net, fails, tmp_path):
    net.describe(net.parameters[0], source="weight")
    net.save(tmp_path / "net.gbn")
    message = fails("export", tmp_path / "net.gbn", "-o", tmp_path / "out.onnx")
    assert "an .npz file is written" in message
    assert "--onto" in message
    assert not (tmp_path / "out.onnx").exists()


# compare


def test_compare_agrees_and_writes_the_report(gbn_command, module, data, tmp_path):
    report = tmp_path / "report.html"
    code, stdout, stderr = gbn_command("compare", f"{module}:pair", "--data", data, "--report", report)
    assert code == 0
    assert stdout.startswith("Local messages equal backprop")
    assert stderr.endswith(f"gbn: wrote {report}\n")
    html = report.read_text(encoding="utf-8")
    assert "Local messages equal backprop" in html
    assert html.startswith("<!DOCTYPE html>")


def test_compare_that_disagrees_exits_with_1(gbn_command, module, data, tmp_path):
    report = tmp_path / "report.html"
    arguments = ["compare", f"{module}:make", "--data", data, "--engine", "exact", "--noise", 0.01, "--report", report]
    code, stdout, _ = gbn_command(*arguments, "--json")
    found = parsed(stdout)
    assert (code, found["agrees"], found["engine"]) == (1, False, "exact")
    assert 1e-4 < found["overall"]["relative_error"] < 0.1
    assert "differ from backprop" in report.read_text(encoding="utf-8")
    assert gbn_command(*arguments, "--tol", 0.1)[0] == 0


def test_compare_passes_loss_and_options_on(gbn_command, module, npz):
    rng = np.random.default_rng(0)
    data = npz(x=rng.normal(size=(6, 3)), y=rng.integers(0, 2, 6))
    code, stdout, stderr = gbn_command(
        "compare", f"{module}:make", "--data", data, "--loss", "cross_entropy", "--reduction", "sum", "--json",
        "--option", "schedule=parallel", "step_size=1", "max_rounds=3",
    )  # fmt: skip
    found = parsed(stdout)
    assert code == 0, stderr
    assert (found["loss"], found["reduction"], found["rounds"]) == ("cross_entropy", "sum", 3)
    assert found["options"] == {"schedule": "parallel", "step_size": 1, "max_rounds": 3}


def test_compare_takes_an_exported_program(gbn_command, exported, data):
    code, stdout, stderr = gbn_command("compare", exported, "--data", data, "--json")
    found = parsed(stdout)
    assert (code, stderr, found["model"]) == (0, "", "model.pt2")
    assert [row["name"] for row in found["parameters"]] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_compare_says_how_to_export_for_any_number_of_samples(fails, data, tmp_path):
    torch = pytest.importorskip("torch")
    program = torch.export.export(torch.nn.Linear(3, 2).double(), (torch.ones(2, 3).double(),))
    torch.export.save(program, tmp_path / "fixed.pt2")
    assert "dynamic_shapes" in fails("compare", tmp_path / "fixed.pt2", "--data", data)


def test_compare_takes_an_estimator(gbn_command, source, data):
    code, stdout, _ = gbn_command("compare", f"{source(ESTIMATOR)}:make", "--data", data, "--json", "--tol", 1e-6)
    assert (code, parsed(stdout)["model"]) == (0, "MLPRegressor")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["model.py:make", "--data", "missing.npz"], "missing.npz: No such file or directory"),
        (["model.py:make", "--data", "x.npz"], "x.npz: got members 'x', expected y beside x"),
        (["model.py:make", "--data", "y.npz"], "y.npz: got members 'y', expected the inputs as x, or as x0, x1"),
        (["model.py:make", "--data", "both.npz"], "expected the inputs as x, or as x0, x1"),
        (["net.gbn", "--data", "data.npz"], "compare needs a model with its own backprop"),
        (["missing.pt2", "--data", "data.npz"], "no file 'missing.pt2'"),
        (["data.npz", "--data", "data.npz"], "no converter takes the file 'data.npz'"),
        (["model.py:make", "--data", "data.npz", "--loss", "mes"], "unknown loss 'mes': did you mean 'mse'"),
        (["model.py:make", "--data", "data.npz", "--engine", "vmpp"], "unknown engine 'vmpp'"),
        (["model.py:make", "--data", "data.npz", "--option", "tol=1"], "option of engine 'pc' 'tol'"),
        (["model.py:make", "--data", "data.npz", "--option", "loss=bce"], "option of engine 'pc' 'loss'"),
        (["model.py:make", "--data", "short.npz"], "y: got shape (6, 1), expected (6, 2)"),
        (["model.py:make", "--data", "data.npz", "--report", "no/report.html"], "there is no folder"),
    ],
)
def test_compare_errors(arguments, message, fails, source, net_file, data, npz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source(ESTIMATOR)
    x = np.zeros((6, 3))
    for name, members in {"x": {"x": x}, "y": {"y": x}, "both": {"x": x, "x0": x, "y": x}}.items():
        npz(f"{name}.npz", **members)
    npz("short.npz", x=x, y=np.zeros((6, 1)))
    assert message in fails("compare", *arguments)


# show


def test_show_lists_the_vertices(gbn_command, net_file):
    code, stdout, stderr = gbn_command("show", net_file)
    rows = [line.split() for line in stdout.partition("\n\n")[2].splitlines()]
    assert (code, stderr) == (0, "")
    assert rows[0] == ["vertex", "kind", "shape", "noise", "parents"]
    assert ["a.x.weight", "parameter", "4×3", "-"] in rows
    assert ["x", "input", "N×3", "1"] in rows
    assert ["h", "Tanh", "N×4", "-", "a"] in rows
    assert ["y", "Linear", "N×2", "diagonal", "0.1", "to", "0.2", "h,", "y.h.weight"] in rows


def test_show_writes_a_page_and_json(gbn_command, net_file, tmp_path):
    code, stdout, _ = gbn_command("show", net_file, "--html", tmp_path / "net.html", "--json")
    assert (code, parsed(stdout)["latents"]) == (0, ["x", "a", "y"])
    page = (tmp_path / "net.html").read_text(encoding="utf-8")
    assert "<title>net.gbn</title>" in page
    assert "y.h.weight" in page


def test_names_of_a_strangers_file_cannot_steer_the_terminal(gbn_command, fails, tmp_path):
    net = gbn.GaussianBayesNet()
    net.add_input("x\x1b[2J\nvertices", (2,), mean=0, cov=1)
    net.save(tmp_path / "net.gbn")
    _, stdout, _ = gbn_command("show", tmp_path / "net.gbn")
    assert r"x\x1b[2J\nvertices" in stdout
    assert "\x1b" not in stdout
    assert "\x1b" not in fails("query", tmp_path / "net.gbn", "--ask", "z")


# the program


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: COMMAND"),
        (["show"], "required: net"),
        (["query", "net.gbn"], "required: --ask"),
        (["query", "net.gbn", "--ask", "a", "--option", "rounds"], "got 'rounds', expected key=value"),
        (["convert", "model.pt2"], "required: -o/--output"),
        (["convert", "model.pt2", "-o", "n.gbn", "--example-shape", "3,0"], "expected positive sizes such as 3,32,32"),
        (["convert", "model.pt2", "-o", "n.gbn", "--noise", "much"], "invalid float value: 'much'"),
        (["convert", "m.pt2", "-o", "n.gbn", "--example", "e.npz", "--example-shape", "3"], "not allowed with"),
        (["compare", "model.pt2", "--data", "d.npz", "--reduction", "none"], "invalid choice: 'none'"),
    ],
)
def test_wrong_usage(arguments, message, gbn_command):
    code, stdout, stderr = gbn_command(*arguments)
    assert (code, stdout) == (2, "")
    assert message in stderr


def test_help_and_version_end_well(gbn_command):
    assert gbn_command("--version") == (0, f"gbn {gbn.__version__}\n", "")
    for command in ("convert", "query", "compare", "show"):
        code, stdout, _ = gbn_command(command, "--help")
        assert (code, f"usage: gbn {command}" in stdout) == (0, True)


def run_program(*arguments, **options):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, text=True, check=False, **options)


def test_it_runs_as_a_module(net_file, net, npz, evidence, tmp_path):
    query = ["-m", "gbn", "query", net_file, "--evidence", npz(**evidence), "--ask", "a", "--json"]
    done = run_program(*query, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_array_equal(parsed(done.stdout)["targets"]["a"]["mean"], net.query("a", evidence).mean["a"])
    failed = run_program("-m", "gbn", "show", tmp_path / "missing.gbn", capture_output=True)
    missing = f"gbn: error: {tmp_path / 'missing.gbn'}: No such file or directory\n"
    assert (failed.returncode, failed.stdout, failed.stderr) == (2, "", missing)


def test_a_reader_that_has_gone_is_no_error(net_file):
    command = [sys.executable, "-m", "gbn", "show", str(net_file)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        program.stdout.close()
        assert (program.stderr.read(), program.wait()) == (b"", 0)


def test_a_terminal_of_few_letters_is_no_error(net_file):
    code = "import sys, gbn.cli; sys.stdout.reconfigure(encoding='ascii'); sys.exit(gbn.cli.main(sys.argv[1:]))"
    done = run_program("-c", code, "show", net_file, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"N\xd73" in done.stdout


def test_showing_a_net_loads_no_heavy_library(net_file):
    code = "import sys, gbn.cli; gbn.cli.main(sys.argv[1:]); print(*sys.modules, sep='\\n', file=sys.stderr)"
    done = run_program("-c", code, "show", net_file, capture_output=True)
    loaded = set(done.stderr.split())
    assert "gbn.net" in loaded
    assert not loaded & {"torch", "sklearn", "pgmpy", "pandas", "matplotlib", "converters"}
