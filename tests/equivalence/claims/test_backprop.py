"""Predictive coding's gradients against autograd; the paper's scalar graph against its closed form."""

import numpy as np
import pytest
import torch
from scipy.stats import binom

from gbn.equivalence import claims
from gbn.equivalence.claims import backprop


def test_every_network_arrives_at_autograd():
    found = backprop.experiment(("mlp", "lstm"), rounds=60)
    assert found.holds
    assert {row["network"] for row in found.table} == {"mlp", "lstm"}
    for row in found.table:
        assert row["one sweep"] < 1e-12
        assert row["after 60 rounds"] < 1e-10
    # In an MLP all paths of a layer have one length, so its errors are tails of one binomial.
    errors = found.series["mlp"]
    np.testing.assert_allclose(errors, binom.cdf(2, np.arange(61), 0.5), atol=1e-12)


@pytest.mark.parametrize("network", ["cnn", "rnn", "transformer"])
def test_other_networks_arrive_too(network):
    found = backprop.experiment((network,), rounds=60)
    assert max(row["after 60 rounds"] for row in found.table) < 1e-9
    # Not before: the message needs a round for each latent on its way.
    assert found.series[network][1] > 0.1


def test_the_scalar_graph_of_the_paper():
    theta, y0 = torch.tensor(2.0, dtype=torch.float64), torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    (0.5 * (1 - torch.tan(torch.sqrt(theta * y0)) - torch.sin(y0**2)) ** 2).backward()
    gradient, errors = backprop.scalar_rounds()
    assert gradient == pytest.approx(float(y0.grad), rel=1e-12)
    assert gradient == pytest.approx(-11.3705, abs=5e-5)
    assert [int(np.argmax(errors <= level)) + 1 for level in (1e-2, 1e-3, 1e-6)] == [236, 353, 704]


def test_a_sign_slip_climbs_and_two_cancel():
    energy = backprop.ascents()
    assert (np.diff(energy["correct"]) < 0).all()
    for slip in ("eq. 2 as printed", "Algorithm 1 as printed"):
        assert (np.diff(energy[slip]) > 0).all()
    np.testing.assert_allclose(energy["both together"], energy["correct"], rtol=1e-12)


def test_the_energy_that_climbs_is_minus_the_log_density():
    net = backprop.scalar_graph()
    values = net.forward()
    density = net.log_prob({n: values[n] for n in ("sqrt", "tan", "sin")} | {"z": [[1.0]]})
    assert backprop.ascents(rounds=0)["correct"][0] == pytest.approx(-float(density[0]), rel=1e-12)


def test_the_claim_is_in_the_table_and_draws():
    plt = pytest.importorskip("matplotlib.pyplot")
    found = claims.run("backprop", networks=("mlp",), rounds=5)
    assert not found.holds  # five rounds are too few
    assert len(found.plot().lines) == 1
    plt.close("all")
