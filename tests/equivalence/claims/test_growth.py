"""Growing in the midst of training: the function by torch, and errors beside training without growth."""

import numpy as np
import pytest
import torch

from gbn.equivalence import claims
from gbn.equivalence.claims import growth
from gbn.growth import widen


def by_torch(net, x):
    w, b, v, c = (torch.tensor(np.array(net[n].value)) for n in ("a.x.weight", "a.bias", "y.h.weight", "y.bias"))
    return (torch.tanh(torch.tensor(x) @ w.T + b) @ v.T + c).numpy()


def test_the_function_stays_and_new_units_hear():
    rng = np.random.default_rng(0)
    net, x = growth.regressor(3, rng), rng.normal(size=(20, 1))
    wide = widen(net, "a", 5, rng=rng)
    np.testing.assert_allclose(by_torch(wide, x), net.forward({"x": x})["y"], rtol=1e-13)
    assert np.abs(np.asarray(wide["a.x.weight"].value)[3:]).min() > 0


def test_growth_changes_nothing_and_then_helps():
    found = claims.run("growth", rows=120, epochs=100)
    assert found.holds
    figures = found.figures
    assert figures["function changed at growth by"] < 1e-13
    assert figures["log-evidence changed at growth by"] < 1e-9
    assert figures["test error at the end, grown"] < 0.7 * figures["test error at the end, stayed small"]
    paths = found.series["paths"]
    assert len(paths["grown"]) == len(paths["large from the start"]) == 201
    np.testing.assert_array_equal(paths["grown"][:101], paths["stayed small"][:101])


def test_the_picture():
    plt = pytest.importorskip("matplotlib.pyplot")
    assert len(claims.run("growth", rows=20, epochs=1).plot().lines) == 4
    plt.close("all")
