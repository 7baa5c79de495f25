"""Plots: Axes in, Axes out."""

import sys

import numpy as np
import pytest

import gbn
from gbn.display import plots
from gbn.equivalence.report import Comparison, Report
from gbn.errors import InferenceError, MissingDependencyError, ShapeError, UnknownNameError

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _no_open_figures():
    yield
    plt.close("all")


def test_curves_draw_every_line_and_band():
    ax = plt.figure().subplots()
    lines = {"a": np.arange(4.0), "b": ([1, 2, 3], [4, 5, 6])}
    out = plots.curves(lines, band={"a": (np.zeros(4), np.ones(4))}, ax=ax, xlabel="rounds", yscale="symlog")
    assert out is ax
    np.testing.assert_array_equal([line.get_label() for line in ax.lines], ["a", "b"])
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), np.arange(4))
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), [[1, 4], [2, 5], [3, 6]])
    assert len(ax.collections) == 1
    assert ax.get_xlabel() == "rounds"


def test_bars_stand_from_top_to_bottom():
    ax = plots.bars({"first": 1.0, "second": 2.0}, errors={"second": 0.5}, xlabel="nats")
    assert [bar.get_width() for bar in ax.patches] == [1.0, 2.0]
    low, high = ax.get_ylim()
    assert low > high


def chain():
    """x -> h (tanh) -> y, with a prior on x."""
    rng = np.random.default_rng(0)
    net = gbn.GaussianBayesNet()
    net.add_input("x", (3,), mean=0.0, cov=[1.0, 0.25, 4.0])
    net.add_linear("h", {"x": rng.normal(size=(4, 3))}, cov=0.5)
    net.add("t", "Tanh", ["h"])
    net.add_linear("y", {"t": rng.normal(size=(2, 4))}, cov=0.1)
    return net


def test_free_energy_is_the_history_of_an_engine():
    post = chain().query(None, {"y": [[0.3, -0.2]]}, engine="pc", prediction="live")
    ax = plots.free_energy(post)
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_ydata(), [figures["free_energy"] for figures in post.history])
    assert (np.diff(line.get_ydata()) <= 1e-9).all()
    assert "nats" in ax.get_ylabel()


def test_free_energy_of_learning_falls_as_the_evidence_rises():
    net = gbn.GaussianBayesNet()
    net.add_input("z", 1, mean=0.0, cov=1.0)
    net.add_linear("y", {"z": [[1.0], [0.5]]}, bias=[0.0, 0.0], cov=[1.0, 1.0])
    result = net.fit({"y": np.random.default_rng(0).normal(size=(60, 2))}, freeze=["z"])
    ax = plots.free_energy({"fit": result, "history": result.history})
    for line in ax.lines:
        np.testing.assert_array_equal(line.get_ydata(), -result.history.column("log_evidence"))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["fit", "history"]


def test_free_energy_without_rounds_names_what_iterates():
    with pytest.raises(InferenceError, match="vmp"):
        plots.free_energy(chain().query(None, {"y": [[0.3, -0.2]]}))


def test_errors_against_rounds_show_the_law_beside_the_dots():
    rounds, errors = np.arange(1, 5), {"a": [1e-1, 1e-2, 0.0, 1e-4], "b": [0.5, 0.4, 0.3, 0.2]}
    ax = plots.error_against_rounds(rounds, errors, predicted={"a": [1e-1, 1e-2, 1e-3, 1e-4]}, tolerance=1e-3)
    dots, law, other, tolerance = ax.lines
    assert ax.get_yscale() == "log"
    assert (dots.get_ydata() > 0).all()
    assert dots.get_color() == law.get_color() != other.get_color()
    np.testing.assert_array_equal(law.get_ydata(), [1e-1, 1e-2, 1e-3, 1e-4])
    assert tolerance.get_ydata()[0] == 1e-3
    assert len(plots.error_against_rounds(rounds, errors["b"], predicted=errors["b"]).lines) == 2


def test_layer_errors_mark_what_differs_by_more_than_colour():
    rows = (
        Comparison("w", (2, 3), {"relative_error": 0.0}, True),
        Comparison("b", (2,), {"relative_error": 0.25}, False),
        Comparison("c", (2,), {"relative_error": float("nan")}, False),
    )
    report = Report("M", "mse", "mean", "pc", "an oracle", "float64", 5, 1e-10, rows, {}, 1.0, 1.0)
    ax = report.plot()
    assert [bar.get_width() for bar in ax.patches] == [1e-17, 0.25, 1.0]
    assert [bool(bar.get_hatch()) for bar in ax.patches] == [False, True, True]
    assert ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["w", "b", "c"]


def test_learning_curves_take_the_figure_that_all_have():
    one = [{"round": 0.0, "loss": 3.0, "accuracy": 0.1}, {"round": 2.0, "loss": 1.0, "accuracy": 0.4}]
    two = [{"round": 0.0, "accuracy": 0.2}, {"round": 1.0, "accuracy": 0.5}]
    ax = plots.learning_curves({"one": one, "two": two})
    assert ax.get_ylabel() == "accuracy"
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 0.1], [2, 0.4]])
    with pytest.raises(UnknownNameError, match="'two'"):
        plots.learning_curves({"one": one, "two": two}, measure="loss")
    with pytest.raises(UnknownNameError, match="'empty'"):
        plots.learning_curves({"empty": []})


def test_learning_curves_mark_the_best_round():
    net = gbn.GaussianBayesNet()
    net.add_linear("y", {}, bias=[0.0], cov=1.0)
    result = net.fit({"y": np.random.default_rng(0).normal(2, 1, size=(20, 1))})
    ax = plots.learning_curves({"em": result}, measure="log_evidence")
    assert ax.lines[1].get_xdata() == [result.best_round]
    assert ax.lines[1].get_ydata() == [result.history[result.best_round]["log_evidence"]]


def test_precision_map_of_a_net_and_of_a_posterior():
    net = chain()
    picture = plots.precision_map(net).images[0].get_array()
    np.testing.assert_allclose(picture[0, :3], -np.log10([1.0, 0.25, 4.0]))
    np.testing.assert_allclose(picture[1], -np.log10(0.5))
    post = net.query(["x", "t", "y"], {"y": [[0.3, float("nan")]]})
    ax = plots.precision_map(post)
    found = ax.images[0].get_array().filled(np.nan)
    np.testing.assert_allclose(found[0, :3], -np.log10(post.var["x"][0]))
    assert np.isnan(found[2, 0])  # observed: no finite precision
    np.testing.assert_allclose(found[2, 1], -np.log10(post.var["y"][0, 1]))
    assert [text.get_text() for text in ax.get_yticklabels()] == ["x", "t", "y"]
    with pytest.raises(InferenceError, match="no vertex"):
        plots.precision_map(gbn.GaussianBayesNet())


def test_precision_map_averages_what_has_no_room():
    net = gbn.GaussianBayesNet()
    net.add_input("x", (128,), mean=0.0, cov=10.0 ** np.arange(128))
    picture = plots.precision_map(net).images[0].get_array()
    np.testing.assert_allclose(picture[0], -(np.arange(64) * 2 + 0.5))


def test_posterior_images_show_observed_mean_and_uncertainty():
    rng = np.random.default_rng(0)
    net = gbn.GaussianBayesNet()
    net.add_input("image", (1, 2, 3), mean=0.5, cov=rng.uniform(0.5, 1, (1, 2, 3)))
    seen = rng.uniform(size=(4, 1, 2, 3))
    seen[:, :, 1] = np.nan
    post = net.query(["image"], {"image": seen})
    ax = plots.posterior_images(post, "image", samples=2)
    tiles = [image.get_array() for image in ax.images]
    assert len(tiles) == 6
    np.testing.assert_array_equal(tiles[1].filled(np.nan), seen[1, 0])
    np.testing.assert_array_equal(tiles[2], post.mean["image"][0, 0])
    np.testing.assert_array_equal(tiles[5], post.std["image"][1, 0])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1"]
    assert plots.posterior_images(post, "image", (3, 2), samples=[3]).images[0].get_array().shape == (3, 2)
    with pytest.raises(ShapeError, match="shape="):
        plots.posterior_images(post, "image", (4, 2))
    with pytest.raises(UnknownNameError):
        plots.posterior_images(post, "other")


@pytest.mark.parametrize("name", sorted(set(plots.__all__) - {"axes"}))
def test_every_plot_says_what_it_lacks(name, monkeypatch):
    post = chain().query(None, {"y": [[0.3, -0.2]]}, engine="vmp")
    report = Report("M", "mse", "mean", "pc", "", "float64", 5, 1e-10, (), {}, 1.0, 1.0)
    arguments = {
        "curves": ({},), "bars": ({},), "error_against_rounds": ([1], [1]), "free_energy": (post,),
        "layer_errors": (report,), "learning_curves": ({"a": [{"loss": 1.0}]},), "precision_map": (chain(),),
        "posterior_images": (post, "h", (2, 2)),
    }[name]  # fmt: skip
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        getattr(plots, name)(*arguments)
