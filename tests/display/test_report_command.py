"""``gbn report``: one page with net, posterior and comparison."""

import json

import numpy as np
import pytest

import gbn
from gbn import cli
from tests.display.documents import check

MODULE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()

def other():
    return make().apply(lambda m: None if not hasattr(m, "bias") else m.bias.data.add_(1))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A net of a module, the module, evidence and data."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODULE)
    names = {}
    exec(MODULE, names)
    rng = np.random.default_rng(0)
    net = gbn.convert(names["make"](), np.zeros((2, 3)), noise=0.1, output_noise=0.5, likelihood=None)
    net.save("net.gbn")
    np.savez("evidence.npz", input=rng.normal(size=(3, 3)), **{"2": rng.normal(size=(3, 2))})
    np.savez("data.npz", x=rng.normal(size=(6, 3)), y=rng.normal(size=(6, 2)))
    return tmp_path


def headings(text):
    seen = check(text)
    assert sum(tag == "h1" for tag, _ in seen.tags) == 1
    return [text for text in seen.text if text in ("The net", POSTERIOR, COMPARISON)]


POSTERIOR = "What the evidence says of it"
COMPARISON = "Its gradients, beside the model's backprop"


def test_a_report_of_a_net_alone(folder, capsys):
    assert cli.main(["report", "net.gbn", "-o", "report.html"]) == 0
    captured = capsys.readouterr()
    assert "parameters  4 arrays, 26 numbers" in captured.out
    assert captured.err == "gbn: wrote report.html\n"
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert headings(text) == ["The net"]
    assert check(text).classes("gbn-drawing") == 1


def test_a_report_of_everything(folder, capsys):
    command = ["report", "net.gbn", "--evidence", "evidence.npz", "--sample", "2", "--model", "model.py:make"]
    code = cli.main([*command, "--data", "data.npz", "-o", "report.html", "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    found = json.loads(captured.out)
    net = gbn.load("net.gbn")
    evidence = dict(np.load("evidence.npz"))
    post = net.query(None, evidence)
    np.testing.assert_allclose(found["posterior"]["log_evidence"], post.log_evidence)
    assert found["net"]["outputs"] == ["2"]
    assert found["comparison"]["agrees"] is True  # although the net's output has another noise than the loss
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert headings(text) == ["The net", POSTERIOR, COMPARISON]
    seen = check(text)
    assert seen.classes("gbn-drawing") == 2
    assert "drawn: sample 2 of 3; post.drawing(k) draws sample k" in seen.text
    assert any("Local messages equal backprop" in line for line in seen.text)


def test_a_net_that_is_not_the_models_is_found_out(folder, capsys):
    code = cli.main(["report", "net.gbn", "--model", "model.py:other", "--data", "data.npz", "-o", "report.html"])
    assert code == 1
    assert "The two do not compute the same" in capsys.readouterr().out
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert headings(text) == ["The net", COMPARISON]


def test_targets_engine_and_interventions_are_passed_on(folder, capsys):
    np.savez("do.npz", **{"0": np.zeros((1, 4)), "input": np.zeros((1, 3))})
    command = ["report", "net.gbn", "--do", "do.npz", "--ask", "2", "--engine", "pc", "--option", "prediction=live"]
    code = cli.main([*command, "-o", "report.html", "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    told = json.loads(captured.out)["posterior"]
    assert (told["engine"], told["diagnostics"]["prediction"]) == ("pc", "live")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "model.py:make"], "--model needs --data"),
        (["--data", "data.npz"], "--data needs --model"),
        (["--sample", "1"], "--sample needs --evidence or --do"),
        (["--evidence", "evidence.npz", "--sample", "3"], "sample: got 3, expected a number from 0 to 2"),
        (["--evidence", "data.npz"], "unknown vertex 'x'"),
        (["--evidence", "evidence.npz", "--ask", "7"], "unknown target '7'"),
        (["--model", "net.gbn", "--data", "data.npz"], "needs a model with its own backprop"),
    ],
)
def test_errors(arguments, message, folder, capsys):
    code = cli.main(["report", "net.gbn", *arguments, "-o", "report.html"])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert message in captured.err
    assert not (folder / "report.html").exists()


def test_the_page_is_not_written_over_what_it_is_made_from(folder, capsys):
    before = (folder / "net.gbn").read_bytes()
    assert cli.main(["report", "net.gbn", "-o", "./net.gbn"]) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert (folder / "net.gbn").read_bytes() == before
