"""Engines side by side."""

import numpy as np
import pytest

import gbn
from gbn.errors import EvidenceError, InferenceError, UnknownNameError
from gbn.inference import ENGINES
from gbn.net import GaussianBayesNet
from tests.nets import tanh_chain

NAN = np.nan
EVIDENCE = {"y": [[0.8, -0.5], [NAN, 0.2]]}


@pytest.fixture
def net():
    return tanh_chain((2, 3, 2), prior=1.0)


def test_exact_stands_first_and_agrees_with_itself(net):
    table = gbn.compare_engines(net, ["x", "a1"], EVIDENCE)
    first = table.answers[:2]
    assert [(a.engine, a.target) for a in first] == [("exact", "x"), ("exact", "a1")]
    for answer in first:
        assert answer.mean_error == 0
        assert answer.variance_ratio == 1
        np.testing.assert_allclose(answer.kl, 0, atol=1e-12)
        assert answer.time_ratio == 1
    assert set(table.posteriors) | set(table.refused) == set(ENGINES)


def test_figures_by_hand(net):
    options = {"pc": {"prediction": "live"}}
    table = gbn.compare_engines(net, "x", EVIDENCE, engines=["pc"], options=options, repeats=1)
    exact, live = net.query("x", EVIDENCE), net.query("x", EVIDENCE, engine="pc", prediction="live")
    answer = table.answers[1]
    gap = (live.mean["x"] - exact.mean["x"]) / exact.std["x"]
    np.testing.assert_allclose(answer.mean_error, np.sqrt((gap**2).mean()), rtol=1e-12)
    assert np.isnan(answer.variance_ratio)
    assert np.isnan(answer.kl)
    assert answer.rounds == live.diagnostics["rounds"]
    assert answer.passes == live.diagnostics["passes"]
    assert answer.converged
    assert answer.time_ratio > 0


def test_a_divergence_by_hand(net, monkeypatch):
    """An engine that takes the net for another one, with twice the prior variance."""
    wide = net.copy()
    wide.set_prior("x", 0.0, 2.0)

    class Module:
        @staticmethod
        def solve(_, evidence, targets):
            post = wide.query(targets, EVIDENCE)
            post.engine = "wide"
            return post

    monkeypatch.setitem(ENGINES, "wide", "wide")
    monkeypatch.setattr("gbn.inference.import_module", lambda name: Module if name == "wide" else gbn.inference.exact)
    answer = gbn.compare_engines(net, "x", EVIDENCE, engines=["wide"]).answers[1]
    q, p = wide.query("x", EVIDENCE), net.query("x", EVIDENCE)
    values = []
    for n in range(2):
        inverse, gap = np.linalg.inv(p.cov("x")[n]), q.mean["x"][n] - p.mean["x"][n]
        trace = np.trace(inverse @ q.cov("x")[n])
        logs = np.linalg.slogdet(p.cov("x")[n])[1] - np.linalg.slogdet(q.cov("x")[n])[1]
        values.append(0.5 * (trace - 2 + gap @ inverse @ gap + logs))
    np.testing.assert_allclose(answer.kl, np.mean(values), rtol=1e-10)
    np.testing.assert_allclose(answer.variance_ratio, np.exp(np.log(q.var["x"] / p.var["x"]).mean()), rtol=1e-12)


def test_refusals_are_listed(net):
    table = gbn.compare_engines(net, None, {"h1": [[0.1, NAN, NAN]]}, engines=["exact", "pc"])
    assert list(table.posteriors) == ["exact"]
    assert "evidence on 'h1', a deterministic vertex" in table.refused["pc"]
    assert "pc: evidence on 'h1'" in str(table)
    frame = table.to_frame()
    assert frame.iloc[-1].engine == "pc"
    assert "deterministic" in frame.iloc[-1].refused
    assert "deterministic vertex" in table._repr_html_()
    assert repr(table) == "SideBySide(engines ['exact'], refused ['pc'])"


def test_without_targets_it_shows_what_is_uncertain(net):
    table = gbn.compare_engines(net, None, {"x": [[0.1, 0.2]], "y": [[0.8, -0.5]]}, engines=[])
    assert [a.target for a in table.answers] == ["a1", "h1"]
    settled = gbn.compare_engines(net, ["x"], {"x": [[0.1, 0.2]]}, engines=["pc"])
    assert np.isnan(settled.answers[1].mean_error)


def test_it_reads_well(net):
    options = {"pc": {"schedule": "parallel", "max_rounds": 2, "tol": 1e-9}}
    table = gbn.compare_engines(net, ["x"], EVIDENCE, engines=["pc"], options=options)
    lines = str(table).splitlines()
    assert lines[0].split("  ")[0] == "engine"
    assert lines[2].split()[:2] == ["pc", "x"]
    assert lines[2].split()[-2] == "no", "it did not arrive, and says so without a warning"
    assert "–" in lines[2]
    frame = table.to_frame()
    assert list(frame.engine) == ["exact", "pc"]
    assert list(frame.converged) == [True, False]
    assert table._repr_html_().count("<tr>") == 3


def test_soft_evidence_and_interventions_reach_every_engine(net):
    soft = {"a1": ([0.1, 0.2, 0.3], 0.5)}
    live = {"pc": {"prediction": "live", "tol": 1e-10}}
    table = gbn.compare_engines(net, ["a1"], None, ["pc"], {"x": [0.3, 0.1]}, live, soft=soft)
    assert table.answers[1].mean_error < 1e-9
    assert np.abs(table.posteriors["exact"].mean["a1"] - net.forward({"x": [0.3, 0.1]})["a1"]).max() > 0.01


def test_bad_questions_are_refused(net):
    with pytest.raises(UnknownNameError, match="unknown engine 'pcc': did you mean 'pc'"):
        gbn.compare_engines(net, "x", EVIDENCE, engines=["pcc"])
    with pytest.raises(UnknownNameError, match="unknown engine 'exakt'"):
        gbn.compare_engines(net, "x", EVIDENCE, options={"exakt": {}})
    with pytest.raises(UnknownNameError, match="option of engine 'pc' 'sched'"):
        gbn.compare_engines(net, "x", EVIDENCE, options={"pc": {"sched": 1}})
    with pytest.raises(EvidenceError, match="infinite"):
        gbn.compare_engines(net, "x", {"y": [[np.inf, 0.0]]})
    bayesian = GaussianBayesNet()
    bayesian.add_input("x", 1)
    bayesian.add_parameter("w", [[1.0]], cov=1.0)
    bayesian.add("y", "MatMul", ["x", "w"], cov=1.0)
    with pytest.raises(InferenceError, match="'w' has a prior"):
        gbn.compare_engines(bayesian, "y", {"x": [[1.0]]})
