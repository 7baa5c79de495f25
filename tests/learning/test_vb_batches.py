"""Variational Bayes in batches: what it shares with that on all rows, and networks."""

import numpy as np
import pytest

import gbn
from gbn.errors import LearningError
from gbn.learning.numbers import numbers
from tests.nets import tanh_chain


def network_and_data(seed=0, rows=80):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 2))
    y = np.tanh(x @ [[1.5], [-1.0]]) + 0.3 * x[:, :1] + 0.1 * rng.normal(size=(rows, 1))
    return tanh_chain([2, 5, 1], hidden=0.01, output=0.02, seed=seed), {"x": x, "y": y}


def test_one_batch_of_everything_is_the_fit_of_all_rows():
    """In a linear net, a step of size 1 with exact covariances is a round of coordinate ascent."""
    rng = np.random.default_rng(0)
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_linear("h", {"x": rng.normal(size=(2, 2))}, bias=np.zeros(2), cov=0.5)
    net.add_linear("y", {"h": rng.normal(size=(3, 2))}, bias=np.zeros(3), cov=np.ones(3))
    data = {"x": rng.normal(size=(30, 2)), "y": rng.normal(size=(30, 3))}
    options = {"noise_rate": 0.2, "weight_precision": 0.3}
    whole = net.fit(data, "vb", max_iter=5, tol=None, px=False, callback=lambda n, _: n == 5, **options)
    batch = net.fit(
        data, "vb", batch_size=30, epochs=5, step_size=1.0, samples=None, fixed_noise=False, **options,
        callback=lambda n, _: n == 5,
    )  # fmt: skip
    np.testing.assert_allclose(batch.posterior.theta, whole.posterior.theta, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        batch.posterior.cov("y.h.weight"), whole.posterior.cov("y.h.weight"), rtol=1e-8, atol=1e-12
    )
    np.testing.assert_allclose(batch.posterior.noise("h"), whole.posterior.noise("h"), rtol=1e-8)
    # The figure of an epoch is that of its beginning, less the divergence at its end.
    assert np.isfinite(batch.history.column("elbo")).all()


@pytest.mark.parametrize("options", [{}, {"fixed_noise": False}, {"linearisations": 2, "samples": None}])
def test_a_network_learns_and_knows_how_sure_it_is(options):
    net, data = network_and_data()
    rows = {name: value[:60] for name, value in data.items()}
    held = {name: value[60:] for name, value in data.items()}
    settings = {"conjugate": False, "weight_precision": 1.0, "batch_size": 20, "epochs": 40}
    result = net.fit(rows, "vb", progress=False, **settings, **options)
    error = result.net.forward({"x": held["x"]})["y"] - held["y"]
    before = net.forward({"x": held["x"]})["y"] - held["y"]
    assert (error**2).mean() < 0.1 * (before**2).mean()
    assert (error**2).mean() < 0.08
    post = result.posterior
    few = net.fit({n: v[:8] for n, v in rows.items()}, "vb", progress=False, **settings, **options).posterior
    assert post.std["y.h1.weight"].mean() < few.std["y.h1.weight"].mean()
    found = post.predict({"x": held["x"]}, draws=30)
    low, high = found.interval("y")
    assert ((low < held["y"]) & (held["y"] < high)).mean() > 0.7
    assert few.predict({"x": held["x"]}, draws=30).std["y"].mean() > 1.05 * found.std["y"].mean()


def test_a_fit_in_batches_goes_on_from_its_checkpoint(tmp_path):
    net, data = network_and_data()
    options = {"batch_size": 25, "conjugate": False, "weight_precision": 1.0, "progress": False}
    whole = net.fit(data, "vb", epochs=5, **options)
    net.fit(data, "vb", epochs=2, checkpoint=tmp_path / "c", **options)
    rest = net.fit(data, "vb", epochs=5, checkpoint=tmp_path / "c", **options)
    assert whole.history == rest.history
    first, second = numbers(whole.net), numbers(rest.net)
    for kind in first:
        for name in first[kind]:
            np.testing.assert_array_equal(first[kind][name], second[kind][name])
    np.testing.assert_array_equal(whole.posterior.precision, rest.posterior.precision)


def test_held_out_rows_choose_the_epoch_and_its_posterior():
    net, data = network_and_data()
    train, held = ({n: v[part] for n, v in data.items()} for part in (slice(60), slice(60, None)))
    result = net.fit(
        train, "vb", batch_size=20, epochs=8, conjugate=False, weight_precision=1.0, validation=held, progress=False
    )
    assert result.best_round == int(np.argmax(result.history.column("validation")))
    np.testing.assert_array_equal(result.posterior.mean["y.h1.weight"], result.net["y.h1.weight"].value)


def test_what_batches_do_not_take():
    net, data = network_and_data()
    for options, message in [
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"batch_size": 8, "step_decay": 2.0, "samples": 0}, "step_decay: got 2.0.*samples: got 0"),
    ]:
        with pytest.raises(LearningError, match=message):
            net.fit(data, "vb", **options)
    data["y"][3] = np.nan
    with pytest.raises(LearningError, match="some rows say nothing"):
        net.fit(data, "vb", batch_size=8)
