"""Fixed and live prediction: which vertices listen to which, and what live prediction converges to, in numpy."""

import networkx as nx
import numpy as np
import pytest

from gbn.equivalence.claims import fixed_prediction
from gbn.equivalence.claims.networks import tanh_mlp
from gbn.evidence import Evidence
from gbn.graph import markov_blanket


def test_fixed_listens_to_children_and_live_to_the_markov_blanket():
    rng = np.random.default_rng(3)
    net = fixed_prediction.diamond(rng)
    found = fixed_prediction.dependencies(net, {"x": rng.normal(size=(1, 2)), "y": rng.normal(size=(1, 2))})
    assert found["fixed"] == {("b", "a"), ("c", "a"), ("d", "b"), ("d", "c")}
    assert nx.is_directed_acyclic_graph(nx.DiGraph(found["fixed"]))
    for name in "abcd":
        blanket = set(markov_blanket(net, name)) - {"x", "y"}
        assert {start for start, end in found["live"] if end == name} == blanket
    assert ("b", "c") in found["live"]  # parents of a common child


def numpy_gradients(net, x, t, noise, output):
    """Backprop of S⁻¹(T - f) in an x-tanh-tanh-y net, and of Q⁻¹(T - f), layer by layer."""
    w = [net[f"{a}.{b}.weight"].value for a, b in (("a1", "x"), ("a2", "h1"), ("y", "h2"))]
    b = [net[f"{a}.bias"].value for a in ("a1", "a2", "y")]
    h1 = np.tanh(x @ w[0].T + b[0])
    h2 = np.tanh(h1 @ w[1].T + b[1])
    error = t - (h2 @ w[2].T + b[2])
    out = {}
    for label in ("whitened", "backprop"):
        total = {name: np.zeros_like(net[name].value) for name in net.parameters}
        for n in range(len(x)):
            j2 = w[2] * (1 - h2[n] ** 2)
            j1 = j2 @ (w[1] * (1 - h1[n] ** 2))
            s = output * np.eye(len(error[n])) + (noise * (j1 @ j1.T + j2 @ j2.T) if label == "whitened" else 0)
            u = np.linalg.solve(s, error[n])
            for name, delta, heard in (("y", u, h2[n]), ("a2", j2.T @ u, h1[n]), ("a1", j1.T @ u, x[n])):
                parent = {"y": "h2", "a2": "h1", "a1": "x"}[name]
                total[f"{name}.{parent}.weight"] -= np.outer(delta, heard)
                total[f"{name}.bias"] -= delta
        out[label] = total
    return out


@pytest.mark.parametrize(("noise", "output"), [(0.01, 1.0), (1.0, 1.0), (50.0, 0.3)])
def test_the_whitened_gradient_is_that_of_numpy(noise, output):
    rng = np.random.default_rng(0)
    net = tanh_mlp((4, 5, 3, 2), rng, noise=noise, output_noise=output)
    x, t = rng.normal(size=(3, 4)), rng.normal(size=(3, 2))
    found, share = fixed_prediction.whitened_gradient(Evidence.read(net, {"x": x, "y": t}))
    expected = numpy_gradients(net, x, t, noise, output)["whitened"]
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-10, atol=1e-12)
    assert 0 < share < 1


def test_live_prediction_leaves_backprop_in_proportion_to_the_noise():
    found = fixed_prediction.experiment((1e-4, 1e-3, 1e2), sizes=(4, 5, 5, 2), samples=3)
    assert found.holds
    assert found.figures["slope of the gap in the hidden noise"] == pytest.approx(1, abs=0.02)
    assert found.figures["gap to the whitened error, linear net"] < 1e-9
    assert found.figures["gap of fixed prediction, any noise"] < 1e-12
    assert found.figures["gap to exact inference at the equilibrium"] < 1e-5
    rows = {(row["output noise"], row["hidden noise"]): row for row in found.table}
    assert rows[1.0, 1e-4]["regime"] == "backprop-like"
    assert rows[0.1, 1e2]["regime"] == "equilibrium"
    # Only the ratio of the noises matters.
    assert rows[0.1, 1e-4]["gap to backprop"] == pytest.approx(rows[1.0, 1e-3]["gap to backprop"], rel=1e-4)


def test_both_pictures_are_drawn():
    plt = pytest.importorskip("matplotlib.pyplot")
    found = fixed_prediction.experiment((1e-2, 1.0), sizes=(3, 3, 2), samples=2)
    assert len(found.plot().lines) == 3
    ax = plt.figure().subplots()
    fixed_prediction.draw_graphs(found, ax)
    arrows = [text for text in ax.texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == 4 + 10
    plt.close("all")
