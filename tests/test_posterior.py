"""The result object: lazy, complete, readable."""

import numpy as np
import pytest

from gbn.errors import InferenceError
from gbn.inference import observation_space
from gbn.net import GaussianBayesNet
from tests.nets import tanh_chain

NAN = np.nan


@pytest.fixture
def net():
    return tanh_chain((2, 3, 2), prior=1.0)


@pytest.fixture
def post(net):
    return net.query(["x", "h1", "y"], {"y": [[0.5, NAN], [0.1, 0.2]]})


def test_means_cost_no_covariance(net, monkeypatch):
    calls = []
    for method in ("variance", "covariance", "_sensitivity", "_diagonal", "sample", "log_evidence"):
        whole = getattr(observation_space.ObservationPosterior, method)

        def counted(self, *args, method=method, whole=whole):
            calls.append(method)
            return whole(self, *args)

        monkeypatch.setattr(observation_space.ObservationPosterior, method, counted)
    products = []
    whole = observation_space._System.product
    monkeypatch.setattr(
        observation_space._System, "product", lambda self, u: products.append(u.shape) or whole(self, u)
    )
    post = net.query(None, {"y": [[0.5, 0.1]]}, solver="observations")
    assert products == []
    for name in post.targets:
        assert np.isfinite(post.mean[name]).all()
    assert calls == []
    assert products == [(2, 1, 2)], "S is built once"
    _ = post.messages, dict(post.surprise)
    assert calls == []
    _ = post.var["x"]
    assert calls == ["variance", "_diagonal", "_sensitivity"]
    _ = post.var["x"], post.std["x"]
    assert len(calls) == 3, "what is known is not computed again"
    _ = post.cov("x", "a1"), post.log_evidence, post.sample(2)
    assert len(products) == 1


def test_the_evidence_is_in_the_answer(post):
    np.testing.assert_array_equal(post.mean["y"][1], [0.1, 0.2])
    np.testing.assert_array_equal(post.var["y"][1], [0, 0])
    assert post.mean["y"][0, 0] == 0.5
    assert post.var["y"][0, 0] == 0
    assert post.var["y"][0, 1] > 0
    np.testing.assert_array_equal(post.cov("y")[1], np.zeros((2, 2)))
    np.testing.assert_array_equal(post.std["y"], np.sqrt(post.var["y"]))


def test_mappings_are_complete(post):
    assert list(post.mean) == list(post.var) == ["x", "h1", "y"]
    assert len(post.mean) == 3
    assert set(post.surprise) == {"x", "a1", "y"}
    assert set(post.messages) == set(post.net)
    assert post.targets == ("x", "h1", "y")


def test_one_target_as_a_string(net):
    assert net.query("x", {}).targets == ("x",)
    assert net.query(None, {}).targets == ("x", "a1", "h1", "y")


def test_it_says_what_it_is(net, post):
    assert repr(post) == "Posterior(exact, 2 samples, targets ['x', 'h1', 'y'])"
    assert post.engine == "exact"
    assert post.diagnostics["observed_coordinates"] == 2
    assert post.diagnostics["solver"] in ("dense", "information")
    assert "linearis" in post.diagnostics["approximate"]
    assert post.history == []
    live = net.query("x", {"y": [[0.5, 0.1]]}, engine="pc", prediction="live")
    assert repr(live) == "Posterior(pc, 1 samples, targets ['x'])"
    assert live.history


def test_the_covariance_of_two_is_that_of_two_turned_around(post):
    np.testing.assert_allclose(post.cov("x", "h1"), np.swapaxes(post.cov("h1", "x"), 1, 2), atol=1e-12)
    np.testing.assert_allclose(np.diagonal(post.cov("x"), axis1=1, axis2=2), post.var["x"], atol=1e-12)


def test_a_table(post):
    frame = post.to_frame()
    assert list(frame.columns) == ["sample", "vertex", "index", "observed", "mean", "std"]
    assert len(frame) == 2 * (2 + 3 + 2)
    y = frame[(frame.vertex == "y") & (frame["sample"] == 0)]
    assert list(y["index"]) == ["[0]", "[1]"]
    assert list(y.observed) == [True, False]
    np.testing.assert_allclose(y["mean"], post.mean["y"][0])
    np.testing.assert_allclose(y["std"], post.std["y"][0])
    h = frame[(frame.vertex == "h1") & (frame["sample"] == 1)]
    np.testing.assert_allclose(h["mean"], post.mean["h1"][1])
    assert not h.observed.any()
    assert "std" not in post.to_frame(std=False)


def test_a_table_of_matrices_interventions_and_labels():
    net = GaussianBayesNet()
    net.add_input("x", (2, 3), mean=0.0, cov=1.0)
    net.add("n", "Neg", ["x"])
    net.add_likelihood("t", "bernoulli", "n")
    frame = net.query(None, {"t": np.full((1, 2, 3), NAN)}, {"x": np.arange(6.0).reshape(2, 3)}).to_frame(std=False)
    x = frame[frame.vertex == "x"]
    assert list(x["index"]) == ["[0, 0]", "[0, 1]", "[0, 2]", "[1, 0]", "[1, 1]", "[1, 2]"]
    assert x.observed.all()
    np.testing.assert_allclose(frame[frame.vertex == "t"]["mean"], 1 / (1 + np.exp(np.arange(6.0))))
    assert not frame[frame.vertex == "t"].observed.any()
    half = net.query(["t"], {"t": np.array([[[1, NAN, 0], [NAN] * 3]])}).to_frame(std=False)
    assert list(half.observed) == [True, False, True, False, False, False]


def test_a_table_of_parameters():
    """A shared vertex has one value, whatever the number of samples."""
    rng = np.random.default_rng(0)
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("w", rng.normal(size=(2, 3)), cov=0.2)
    net.add("y", "MatMul", ["x", "w"], cov=0.5)
    for samples in (1, 2, 4):
        post = net.query(["w", "y"], {"x": np.ones((samples, 2)), "y": np.zeros((samples, 3))}, engine="pc")
        frame = post.to_frame(std=False)
        w = frame[frame.vertex == "w"]
        assert list(w["index"]) == ["[0, 0]", "[0, 1]", "[0, 2]", "[1, 0]", "[1, 1]", "[1, 2]"]
        np.testing.assert_allclose(w["mean"], post.mean["w"].reshape(-1))
        assert not w.observed.any()
        assert len(frame) == 6 + 3 * samples


def test_a_wide_table_is_evidence_again(net, post):
    wide = post.to_frame(wide=True)
    assert wide.shape == (2, 2 * (2 + 3 + 2))
    assert wide.index.name == "sample"
    np.testing.assert_array_equal(wide[["h1[0]", "h1[1]", "h1[2]"]], post.mean["h1"])
    np.testing.assert_array_equal(wide[["std(x[0])", "std(x[1])"]], post.std["x"])
    again = net.query(["y.bias", "a1"], post.to_frame(std=False, wide=True)[["x[0]", "x[1]", "y[0]", "y[1]"]])
    np.testing.assert_array_equal(again.evidence.values["x"], post.mean["x"])
    assert list(again.to_frame(std=False, wide=True).columns) == ["a1[0]", "a1[1]", "a1[2]"]
    scalar = GaussianBayesNet()
    scalar.add_input("t", 1, mean=2.0, cov=1.0)
    scalar.add_likelihood("label", "bernoulli", "t")
    assert list(scalar.query().to_frame(std=False, wide=True).columns) == ["t", "label"]


def test_shared_vertices_under_exact(net):
    """Plain parameters are certain: their value, and no variance."""
    post = net.query(["y.bias", "x"], {"y": [[0.5, 0.1]] * 3})
    np.testing.assert_array_equal(post.mean["y.bias"], net["y.bias"].value)
    np.testing.assert_array_equal(post.var["y.bias"], np.zeros(2))
    assert post.to_frame()["std"].min() == 0


def test_samples_are_reproducible(post):
    first, again = post.sample(4, rng=7), post.sample(4, rng=np.random.default_rng(7))
    assert first.keys() == {"x", "h1", "y"}
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert first["x"].shape == (4, 2, 2)
    assert post.sample()["x"].shape == (1, 2, 2)


def test_an_answer_stays_that_of_the_net_it_was_asked_of():
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add_linear("y", {"x": np.eye(2)}, cov=0.5)
    post = net.query(["x"], {"y": [[1.0, 2.0]]})
    net.set_noise({"y": 50.0})
    np.testing.assert_allclose(post.mean["x"], [[2 / 3, 4 / 3]])
    np.testing.assert_allclose(post.var["x"], [[1 / 3, 1 / 3]])


def test_tables_of_engines_without_deviations_hold_nan():
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add_linear("y", {"x": np.eye(2)}, cov=0.5)
    frame = net.query(["x"], {"y": [[1.0, 2.0]]}, engine="pc").to_frame()
    assert frame["std"].isna().all()
    assert frame["mean"].notna().all()


@pytest.mark.parametrize("engine", ["exact", "bp", "vmp", "pc"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_callers_arrays_are_neither_read_later_nor_shown(engine, dtype):
    net = GaussianBayesNet(dtype)
    net.add_input("x", 2)
    net.add_linear("h", {"x": np.eye(2)}, cov=0.5)
    net.add_linear("y", {"h": np.eye(2)}, cov=0.5)
    net.add_likelihood("t", "bernoulli", "y")
    given = {"x": np.ones((1, 2), dtype), "y": np.array([[1.0, 2.0]], dtype), "t": np.array([[0.0, 1.0]], dtype)}
    post = net.query(None, given, engine=engine)
    expected = net.query(None, {name: value.copy() for name, value in given.items()}, engine=engine).mean["h"]
    for value in given.values():
        assert value.flags.writeable
        value[...] = 100
    for name in ("x", "y", "t"):
        assert not post.mean[name].flags.writeable
        assert not np.shares_memory(post.mean[name], given[name])
        assert post.mean[name].max() < 3
    np.testing.assert_array_equal(post.mean["h"], expected)
    with pytest.raises(ValueError, match="read-only"):
        post.mean["h"][...] = 0


def test_tensors_are_copied_too():
    torch = pytest.importorskip("torch")
    net = tanh_chain((2, 3, 2), prior=1.0)
    y = torch.ones(1, 2, dtype=torch.float64)
    post = net.query(["y"], {"y": y})
    y[:] = 5
    np.testing.assert_array_equal(post.mean["y"], [[1.0, 1.0]])


def test_figures_print_as_a_mapping(net):
    post = net.query(["x"], {"y": [[0.5, 0.1]]})
    assert repr(post.mean) == repr(dict(post.mean))
    post = net.query(["x"], {"y": [[0.5, 0.1]]}, engine="pc")
    assert "no variances" in repr(post.var), "what an engine lacks is said, not raised"


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_no_number_of_draws(post, n):
    with pytest.raises(InferenceError, match=f"n: got {n}, expected a number of draws, 1 or more"):
        post.sample(n)
