"""Answers for rows in blocks are the answers for the rows."""

from itertools import pairwise

import numpy as np
import pytest

import gbn
from gbn.errors import EvidenceError, InferenceError, UnknownNameError
from gbn.inference.mapped import MappedPosterior

ROWS = 12


def net():
    rng = np.random.default_rng(0)
    made = gbn.GaussianBayesNet()
    made.add_input("x", 3)
    made.add_input("z", 2, mean=0.0, cov=1.0)
    weight = made.add_parameter("W", rng.normal(size=(2, 3)))
    made.add_linear("a", {"x": weight, "z": rng.normal(size=(2, 2))}, bias=np.ones(2), cov=0.1)
    made.add("h", "Tanh", parents=["a"])
    made.add_linear("t", {"h": rng.normal(size=(3, 2))})
    made.add_likelihood("label", "categorical", "t")
    made.add_linear("y", {"z": rng.normal(size=(2, 2))}, cov=[0.2, 0.3])
    return made


def rows():
    rng = np.random.default_rng(1)
    y, label = rng.normal(size=(ROWS, 2)), rng.integers(0, 3, ROWS).astype(float)
    y[rng.random(y.shape) < 0.3] = np.nan
    label[:4] = np.nan
    return {"x": rng.normal(size=(ROWS, 3)), "y": y, "label": label}


def cut(data, places=(1, 5, 6)):
    return [{n: a[i:j] for n, a in data.items()} for i, j in pairwise([0, *places, ROWS])]


def answers(**options):
    data = rows()
    return net().query(None, data, **options), net().query(None, cut(data), **options)


def equal(expected, found):
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert found.shape == expected.shape


@pytest.mark.parametrize("options", [{}, {"do": {"z": [[0.1, 0.2]]}}, {"engine": "pc"}])
def test_every_figure(options):
    whole, parts = answers(**options)
    assert isinstance(parts, MappedPosterior)
    assert (parts.targets, parts.engine, parts.converged) == (whole.targets, whole.engine, whole.converged)
    assert parts.diagnostics["blocks"] == 4
    for name in whole.targets:
        equal(whole.mean[name], parts.mean[name])
        equal(whole.observed(name), parts.observed(name))
    for name in whole.surprise:
        equal(whole.surprise[name], parts.surprise[name])
    for name in ("a", "h", "z", "W", "a.bias"):
        equal(whole.messages[name], parts.messages[name])
    equal(whole.free_energy, parts.free_energy)
    if options.get("engine") == "pc":
        return
    equal(whole.log_evidence, parts.log_evidence)
    for name in ("a", "z", "y"):
        equal(whole.var[name], parts.var[name])
        equal(whole.std[name], parts.std[name])
    equal(whole.cov("a", "z"), parts.cov("a", "z"))
    equal(whole.kl("a"), parts.kl("a"))
    one, other = whole.joint(["z", "a"]), parts.joint(["z", "a"])
    equal(one.mean, other.mean)
    equal(one.entropy(), other.entropy())


def test_the_most_probable_values():
    """Found by a search that stops a little elsewhere where other rows are beside."""
    whole, parts = answers()
    np.testing.assert_allclose(parts.map["a"], whole.map["a"], rtol=1e-4, atol=1e-4)


def test_a_covariance_that_all_rows_share_is_held_once():
    made = gbn.GaussianBayesNet()
    made.add_input("z", 2, mean=0.0, cov=1.0)
    made.add_linear("y", {"z": np.ones((2, 2))}, cov=[0.2, 0.3])
    data = {"y": np.random.default_rng(0).normal(size=(ROWS, 2))}
    whole, parts = made.query(["z"], data), made.query(["z"], cut(data))
    equal(whole.cov("z"), parts.cov("z"))
    assert parts.cov("z").strides[0] == 0


def test_draws_have_the_moments_of_the_posterior_and_follow_the_seed():
    _, parts = answers()
    draws = parts.sample(4000, rng=0)
    assert draws["z"].shape == (4000, ROWS, 2)
    spread = parts.std["z"] / np.sqrt(4000)
    assert (np.abs(draws["z"].mean(axis=0) - parts.mean["z"]) < 5 * spread).all()
    np.testing.assert_array_equal(draws["z"], answers()[1].sample(4000, rng=0)["z"])
    assert not np.array_equal(draws["z"], parts.sample(4000, rng=1)["z"])


def test_tables_and_pages():
    pandas = pytest.importorskip("pandas")
    whole, parts = answers()
    pandas.testing.assert_frame_equal(whole.to_frame(), parts.to_frame())
    pandas.testing.assert_frame_equal(whole.to_frame(wide=True), parts.to_frame(wide=True))
    page = parts._repr_html_()
    assert str(ROWS) in page
    known = rows()["y"]
    assert f"{1 - np.isnan(known).mean():.0%}" in page


def test_a_function_of_every_block():
    whole, parts = answers()
    assert parts.each(lambda post: post.evidence.samples) == [1, 4, 1, 6]
    assert sum(parts.each(lambda post: post.log_evidence.sum())) == pytest.approx(whole.log_evidence.sum(), rel=1e-10)


def test_rows_in_one_piece_can_be_taken_in_blocks():
    data = rows()
    parts = net().query(["z"], data, block_rows=5)
    assert parts.diagnostics["blocks"] == 3
    equal(net().query(["z"], data).mean["z"], parts.mean["z"])
    assert not isinstance(net().query(["z"], data), MappedPosterior)


def test_what_did_not_converge_is_named():
    with pytest.warns(gbn.ConvergenceWarning):
        _, parts = answers(engine="pc", prediction="live", max_rounds=1)
    assert not parts.converged
    assert {"block 1", "block 3"} <= set(parts.diagnostics["not_converged"])


def test_bad_blocks_and_questions():
    made, data = net(), rows()
    with pytest.raises(EvidenceError, match="block 1: 'x': 1 entries are NaN"):
        made.query(None, [data, {**data, "x": np.where(np.arange(36).reshape(ROWS, 3) == 7, np.nan, data["x"])}])
    with pytest.raises(EvidenceError, match=r"compared with block 0, block 1 lacks 'y' and has 'z' besides"):
        made.query(None, [data, {"x": data["x"], "label": data["label"], "z": np.ones((ROWS, 2))}])
    with pytest.raises(EvidenceError, match="block 0: it has no rows"):
        made.query(None, [{name: array[:0] for name, array in data.items()}])
    with pytest.raises(UnknownNameError, match="unknown target 'v'"):
        made.query(["v"], [data])
    with pytest.raises(InferenceError, match="soft: rows in blocks take hard evidence only"):
        made.query(None, [data], soft={"y": ([0.0, 0.0], 0.1)})
    made.set_noise({"W": 1.0})
    with pytest.raises(InferenceError, match="parameter 'W' has a prior, and couples all rows"):
        made.query(None, [data], engine="vmp")
