"""Posteriors of weights: draws, predictions, and files."""

import contextlib
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import gbn
from gbn.errors import FileFormatError, LearningError
from gbn.learning.weights_posterior import WeightPosterior

SEEDS = st.integers(0, 10**6)
COVS = {"scalar": 1.0, "diagonal": np.ones(2), "full": np.eye(2)}
OPTIONS = {"noise_shape": 1.5, "noise_rate": 0.8, "weight_precision": 0.5}


def problem(cov, seed=0, count=25, outputs=2):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 2))
    y = x @ rng.normal(size=(2, outputs)) + 0.5 + 0.4 * rng.normal(size=(count, outputs))
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_linear("y", {"x": rng.normal(size=(outputs, 2))}, bias=np.zeros(outputs), cov=cov)
    return net, x, y


def chain(seed=0):
    """A hidden cause between input and readings: nothing is closed."""
    rng = np.random.default_rng(seed)
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_linear("h", {"x": rng.normal(size=(2, 2))}, bias=np.zeros(2), cov=0.5)
    net.add_linear("y", {"h": rng.normal(size=(3, 2))}, bias=np.zeros(3), cov=np.ones(3))
    x = rng.normal(size=(40, 2))
    return net, x, x @ rng.normal(size=(2, 3)) + 0.3 * rng.normal(size=(40, 3))


@pytest.mark.parametrize("form", COVS)
@pytest.mark.parametrize("missing", [False, True])
def test_log_predictive_is_what_a_further_row_adds_to_the_evidence(form, missing):
    net, x, y = problem(COVS[form])
    if missing:
        y[[3, 22]] = np.nan
        if form != "full":
            y[[5, 21], 0] = np.nan
    post = net.fit({"x": x[:20], "y": y[:20]}, "vb", **OPTIONS).posterior
    found = post.log_predictive({"x": x[20:], "y": y[20:]})
    for n in range(5):
        rows = [*range(20), 20 + n]
        with_it = net.fit({"x": x[rows], "y": y[rows]}, "vb", **OPTIONS).posterior
        np.testing.assert_allclose(found[n], with_it.elbo - post.elbo, rtol=1e-8, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.sampled_from(sorted(COVS)))
def test_predictions_of_a_regression_are_student_t(seed, form):
    net, x, y = problem(COVS[form], seed)
    post = net.fit({"x": x, "y": y}, "vb", **OPTIONS).posterior
    new = np.random.default_rng(seed).normal(size=(3, 2))
    found = post.predict({"x": new})
    assert found.exact == {"y"}
    phi, at = np.column_stack([x, np.ones(25)]), np.column_stack([new, np.ones(3)])
    v = np.linalg.inv(0.5 * np.eye(3) + phi.T @ phi)
    mean = at @ (v @ phi.T @ y)
    noise = post.noises["y"]
    if form == "full":
        dof, square = noise.dof - 1, np.diag(noise.scatter) / (noise.dof - 1)
    else:
        dof, square = 2 * noise.shape, np.broadcast_to(noise.rate / noise.shape, (2,))
    scale = np.sqrt(np.outer(1 + np.einsum("ni,ij,nj->n", at, v, at), square))
    np.testing.assert_allclose(found.mean["y"], mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.var["y"], scale**2 * dof / (dof - 2), rtol=1e-9)
    low, high = found.interval("y", 0.8)
    np.testing.assert_allclose(low, mean + stats.t.ppf(0.1, dof) * scale, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(high, mean + stats.t.ppf(0.9, dof) * scale, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("form", COVS)
@pytest.mark.parametrize("conjugate", [True, False])
def test_draws_have_the_moments_of_the_posterior(form, conjugate):
    net, x, y = problem(COVS[form])
    post = net.fit({"x": x, "y": y}, "vb", conjugate=conjugate, **OPTIONS).posterior
    nets = list(post.sample(1500, seed=1))
    draws = np.stack(
        [np.concatenate([n["y.x.weight"].value.reshape(-1), n.noise("y").matrix().reshape(-1)]) for n in nets]
    )
    weights = draws[:, :4]
    np.testing.assert_allclose(weights.mean(0), post.mean["y.x.weight"].reshape(-1), atol=5 * weights.std(0).max() / 38)
    np.testing.assert_allclose(np.cov(weights.T), post.cov("y.x.weight"), atol=0.2 * np.max(post.cov("y.x.weight")))
    expected = post.noise("y")
    expected = expected if form == "full" else np.diag(np.broadcast_to(expected, (2,)))
    np.testing.assert_allclose(draws[:, 4:].mean(0).reshape(2, 2), expected, atol=0.1 * expected.max())


def test_mixtures_agree_with_the_closed_form(monkeypatch):
    net, x, y = problem(1.0)
    post = net.fit({"x": x, "y": y}, "vb", **OPTIONS).posterior
    new = {"x": np.array([[0.3, -2.0], [4.0, 1.0]])}
    exact = post.predict(new)
    whole = new | {"y": exact.mean["y"] + 0.3}
    log_exact = post.log_predictive(whole)
    monkeypatch.setattr("gbn.learning.predictive._closed", lambda *_: None)
    drawn = post.predict(new, draws=600, seed=3)
    assert not drawn.exact
    np.testing.assert_allclose(drawn.mean["y"], exact.mean["y"], atol=0.06)
    np.testing.assert_allclose(drawn.std["y"], exact.std["y"], rtol=0.08)
    for mine, theirs in zip(drawn.interval("y"), exact.interval("y"), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.12)
    np.testing.assert_allclose(post.log_predictive(whole, draws=600), log_exact, atol=0.15)


def test_predictive_intervals_hold_as_often_as_they_say():
    rng, hits, count = np.random.default_rng(0), 0, 0
    for _ in range(120):
        precision = rng.gamma(3.0, 1 / 2.0)
        w = rng.normal(size=(3, 1)) / np.sqrt(0.5 * precision)
        x = rng.normal(size=(16, 2))
        y = np.column_stack([x, np.ones(16)]) @ w + rng.normal(size=(16, 1)) / np.sqrt(precision)
        net = gbn.GaussianBayesNet()
        net.add_input("x", 2)
        net.add_linear("y", {"x": np.zeros((1, 2))}, bias=[0.0], cov=1.0)
        options = {"weight_precision": 0.5, "noise_shape": 3.0, "noise_rate": 2.0}
        post = net.fit({"x": x[:8], "y": y[:8]}, "vb", **options).posterior
        low, high = post.predict({"x": x[8:]}).interval("y")
        hits, count = hits + int(((low < y[8:]) & (y[8:] < high)).sum()), count + 8
    assert 0.85 < hits / count < 0.95


def test_latent_causes_are_predicted_by_drawn_nets():
    net, x, y = chain()
    post = net.fit({"x": x, "y": y}, "vb", max_iter=60, tol=None, callback=lambda n, _: n == 60).posterior
    found = post.predict({"x": x}, ["h", "y"], draws=40)
    assert found.exact == {"h"}
    assert found.mean["y"].shape == (40, 3)
    low, high = found.interval("y")
    assert 0.75 < ((low < y) & (y < high)).mean() <= 1
    assert post.log_predictive({"x": x[:4], "y": y[:4]}, draws=20).shape == (4,)


def test_a_file_gives_the_posterior_back_bit_for_bit(tmp_path):
    for net, x, y in (problem(np.eye(2)), problem(1.0), chain()):
        post = net.fit({"x": x, "y": y}, "vb", max_iter=5, tol=1.0, ard=True).posterior
        post.save(tmp_path / "weights.post")
        back = WeightPosterior.load(tmp_path / "weights.post", net)
        assert back.elbo == post.elbo
        for name in post.mean:
            np.testing.assert_array_equal(back.mean[name], post.mean[name])
            np.testing.assert_array_equal(back.cov(name), post.cov(name))
            np.testing.assert_array_equal(back.net[name].value, post.net[name].value)
        for name in post.noises:
            np.testing.assert_array_equal(back.noise(name), post.noise(name))
            np.testing.assert_array_equal(back.net.noises[name].value, post.net.noises[name].value)
        assert back.relevance.keys() == post.relevance.keys()
        again, first = (net.fit({"x": x, "y": y}, "vb", prior=p, max_iter=2, tol=1.0).posterior for p in (back, post))
        np.testing.assert_array_equal(again.theta, first.theta)


def edited(source, target, change):
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(members["net.json"])
    change(header, members)
    members["net.json"] = json.dumps(header).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def entry(header, *path):
    node = header["state"]
    for key in path:
        node = next(value for name, value in node["map"] if name == key) if isinstance(key, str) else node[key]
    return node


HOSTILE = {
    "another format": lambda h, m: h.update(format="gbn.fit"),
    "a name of no parameter": lambda h, m: entry(h, "values")["map"][0].__setitem__(0, "nobody"),
    "a noise of another kind": lambda h, m: entry(h, "noises", "y")["map"][0].__setitem__(1, "laplace"),
    "a key without its noise": lambda h, m: entry(h, "keys").append("z"),
    "an elbo that is none": lambda h, m: h["state"]["map"][0].__setitem__(1, "much"),
    "means where precisions belong": lambda h, m: entry(h, "precision").update(array=entry(h, "theta")["array"]),
    "an array twice": lambda h, m: entry(h, "owner").update(array=entry(h, "row")["array"]),
    "no labels": lambda h, m: h["state"]["map"].__setitem__(3, ["label", None]),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_files_are_not_believed(tmp_path, change):
    net, x, y = problem(1.0)
    net.fit({"x": x, "y": y}, "vb").posterior.save(tmp_path / "good")
    edited(tmp_path / "good", tmp_path / "bad", change)
    with pytest.raises(FileFormatError, match="bad"):
        WeightPosterior.load(tmp_path / "bad", net)


def test_damaged_files_and_files_of_other_nets(tmp_path):
    net, x, y = problem(1.0)
    net.fit({"x": x, "y": y}, "vb").posterior.save(tmp_path / "good")
    whole = (tmp_path / "good").read_bytes()
    rng = np.random.default_rng(0)
    for k in range(40):
        data = bytearray(whole if k % 2 else whole[: rng.integers(len(whole))])
        if data and k % 2:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (tmp_path / "bad").write_bytes(data)
        # A flipped bit of padding may do no harm.
        with contextlib.suppress(FileFormatError):
            WeightPosterior.load(tmp_path / "bad", net)
    with pytest.raises(FileFormatError, match="give the net it is of"):
        WeightPosterior.load(tmp_path / "good", problem(1.0, outputs=3)[0])
    with pytest.raises(FileFormatError, match="'y'"):
        WeightPosterior.load(tmp_path / "good", problem(np.ones(2))[0])
    with pytest.raises(FileNotFoundError):
        WeightPosterior.load(tmp_path / "none", net)


def test_wrong_questions_are_named():
    net, x, y = problem(1.0)
    post = net.fit({"x": x, "y": y}, "vb").posterior
    for ask in (post.cov, post.interval):
        with pytest.raises(gbn.UnknownNameError, match="learned parameter 'w'"):
            ask("w")
    with pytest.raises(gbn.UnknownNameError, match="learned noise 'z'"):
        post.noise("z")
    with pytest.raises(LearningError, match=r"level: got 1\.5"):
        post.interval("y.bias", 1.5)
    with pytest.raises(gbn.UnknownNameError, match="vertex to predict 'z'"):
        post.predict({"x": x}, "z")
    with pytest.raises(LearningError, match="draws: got 0"):
        list(post.sample(0))


def test_a_table(monkeypatch):
    pytest.importorskip("pandas")
    net, x, y = problem(1.0)
    frame = net.fit({"x": x, "y": y}, "vb").posterior.to_frame()
    assert list(frame.columns) == ["parameter", "index", "mean", "std", "low", "high"]
    assert len(frame) == 6
    assert (frame["low"] < frame["mean"]).all()
