"""Plots: Axes in, Axes out."""

import numpy as np
import pytest

from gbn.display import plots

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
