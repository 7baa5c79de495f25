"""The pace of the environment: below the delay of the net nothing is learned well, well above it all is."""

import numpy as np
import pytest

from gbn.equivalence.claims import lockstep

pytest.importorskip("sklearn")


@pytest.mark.slow
def test_slow_environments_teach_as_much_as_batches_and_fast_ones_do_not():
    found = lockstep.experiment((2, 16), samples=260)
    # Four edges from the image to the label, and four back to the first weights.
    assert found.figures["period that the net needs"] == 8
    assert found.figures["in batches"] > 0.95
    assert found.figures["period 16, label with the answer"] > found.figures["in batches"] - 0.02
    assert found.figures["period 2, label with the answer"] < 0.5
    assert found.figures["period 2, label with the image"] < 0.8
    assert found.figures["shortest period within 2 points, and all longer ones"] == 16
    assert found.holds is False
    fast, slow = (row for row in found.table if row["label"] == "with the answer")
    # Whatever it has learned, in two ticks an answer cannot come.
    assert fast["in time"] < 0.25
    assert slow["in time"] > 0.9
    assert slow["alignment"] > fast["alignment"]
    assert "8 ticks after a sample appears" in found.answer


def test_it_draws():
    plt = pytest.importorskip("matplotlib.pyplot")
    found = lockstep.experiment((1, 8), sizes=(64, 8, 10), train=100, test=50, samples=3, rows=20)
    assert len(found.plot().lines) == 8
    plt.close("all")


def test_accuracy_is_of_the_forward_pass():
    net = lockstep.tanh_classifier((64, 4, 10), np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=(6, 64))
    said = net.forward({"x": x})["y"].argmax(axis=1)
    assert lockstep.accuracy(net, x, said) == 1.0
    assert lockstep.accuracy(net, x, (said + np.array([0, 0, 0, 1, 1, 1])) % 10) == 0.5
