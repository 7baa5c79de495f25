"""What damage does, and what it leaves: the same to both on lost parts, not on lost messages."""

import numpy as np
import pytest

from gbn.equivalence.claims import lesions
from gbn.equivalence.claims.networks import tanh_mlp
from gbn.inference import gradient


@pytest.mark.slow
def test_a_net_cut_in_half_goes_on_and_learns_anew():
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    found = lesions.experiment((0.0, 0.5, 1.0), (0.0, 0.2), (0, 4), epochs=8, again=2, repeats=4)
    assert found.figures["before"] > 0.93
    assert 0.5 < found.figures["cut in half"] < found.figures["before"]
    assert found.figures["cut in half, learned anew locally"] > found.figures["before"] - 0.03
    assert found.figures["cut in half, learned anew by backprop"] > found.figures["before"] - 0.03
    assert found.figures["gradient error, local, largest"] < 1e-12
    assert found.figures["gradient error, one backward pass, 20% lost"] > 0.1
    assert found.figures["gradient error, 40 local rounds, 20% lost"] < 1e-9
    assert found.holds is True
    units = [row for row in found.table if row["damage"] == "hidden units"]
    assert units[-1]["at once"] < units[0]["at once"] - 0.1
    assert all(row["learned anew, locally"] >= row["at once"] - 0.02 for row in found.table)


def evidence(net):
    rng = np.random.default_rng(1)
    return {"x": rng.normal(size=(4, 5)), "y": rng.normal(size=(4, 3))}


def test_asynchronous_messages_converge_under_every_bounded_delay():
    net = tanh_mlp((5, 6, 6, 6, 3), np.random.default_rng(0))
    rows = [lesions.late(net, evidence(net), delay, seed) for seed in range(3) for delay in (0, 3, 12)]
    for row in rows:
        assert row["arrived"] == 1.0
        assert row["error"] < 1e-9
    mean = {delay: np.mean([row["rounds"] for row in rows if row["late"] == delay]) for delay in (0, 3, 12)}
    assert mean[0] < mean[3] < mean[12]


def test_what_one_pass_loses_rounds_say_again():
    net = tanh_mlp((5, 6, 6, 3), np.random.default_rng(0))
    none = lesions.lost_messages(net, evidence(net), 0.0, 30, 2)
    assert none["one backward pass"] == 0.0
    assert none["local rounds"] < 1e-12
    some = lesions.lost_messages(net, evidence(net), 0.3, 60, 10)
    assert some["one backward pass"] > 0.2
    assert some["local rounds"] < 1e-9


def test_backprop_of_a_damaged_net_is_torchs():
    """The net written anew in torch is the one that was damaged: same forward pass, same gradient."""
    torch = pytest.importorskip("torch")
    net = lesions.tanh_classifier((5, 6, 4, 3), np.random.default_rng(0))
    rng = np.random.default_rng(2)
    damaged = lesions.lesion(net, {"h1": 0.5, "a2.h1.weight": 0.5, "h2": 0.25}, 3)
    x, y = rng.normal(size=(7, 5)), rng.integers(0, 3, 7)
    exact, forward = lesions.backprop(damaged, x, y)
    np.testing.assert_allclose(forward(torch.tensor(x)).detach(), damaged.forward({"x": x})["y"], rtol=1e-12)
    found = gradient(damaged, {"x": x, "label": y})
    for name, value in exact.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-12)


def test_it_draws():
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    plt = pytest.importorskip("matplotlib.pyplot")
    found = lesions.experiment(
        (0.0, 1.0), (0.1,), (1,), sizes=(64, 6, 6, 10), train=60, test=30, epochs=1, again=1, repeats=1
    )
    assert len(found.plot().lines) == 6
    plt.close("all")
