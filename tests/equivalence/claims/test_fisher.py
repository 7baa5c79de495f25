"""Fisher's gradient and the EM step against torch autograd of the marginal likelihood, written out."""

import numpy as np
import pytest
import torch

from gbn.equivalence.claims import fisher


def matrices(net, names):
    """Weights and biases as torch leaves."""
    out = {}
    for name in names:
        parents = net[name].parents
        out[name] = tuple(torch.tensor(net[p].value, requires_grad=True) for p in (parents[1], parents[-1]))
    return out


def together(pair):
    weight, bias = (value.grad.numpy() for value in pair)
    return np.concatenate([weight, bias[:, None]], axis=1)


@pytest.mark.parametrize("noise", [1e-3, 1.0, 20.0])
def test_layers_against_the_marginal_likelihood(noise):
    rng = np.random.default_rng(0)
    net = fisher.layers((4, 3, 3, 2), noise, rng)
    x, y = rng.normal(size=(7, 4)), rng.normal(size=(7, 2))
    leaves = matrices(net, ("a1", "a2", "y"))
    (w1, b1), (w2, b2), (w3, b3) = leaves.values()
    mean = ((torch.tensor(x) @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    below = w3 @ w2
    s = torch.eye(2, dtype=torch.float64) + noise * (w3 @ w3.T + below @ below.T)
    torch.distributions.MultivariateNormal(mean, s).log_prob(torch.tensor(y)).sum().backward()
    for name, found in fisher.fisher_gradient(net, {"x": x, "y": y}).items():
        np.testing.assert_allclose(found, together(leaves[name]), rtol=1e-8, atol=1e-9)


def test_hidden_causes_and_missing_cells():
    rng = np.random.default_rng(1)
    net = fisher.factors(rng)
    y = rng.normal(size=(30, 5))
    y[rng.random(y.shape) < 0.3] = np.nan
    leaves = matrices(net, ("y",))
    ((weight, bias),) = leaves.values()
    cov = weight @ weight.T + 0.5 * torch.eye(5, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for row in y:
        o = ~np.isnan(row)
        if o.any():
            normal = torch.distributions.MultivariateNormal(bias[o], cov[o][:, o])
            total = total + normal.log_prob(torch.tensor(row[o]))
    total.backward()
    gradient = together(leaves["y"])
    np.testing.assert_allclose(fisher.fisher_gradient(net, {"y": y})["y"], gradient, rtol=1e-8, atol=1e-9)
    # The EM step by the textbook's formulas, row by row.
    w, b = weight.detach().numpy(), bias.detach().numpy()
    c_xu, c_uu = np.zeros((5, 3)), np.zeros((3, 3))
    for row in y:
        o = ~np.isnan(row)
        gain = w[o].T @ np.linalg.inv(w[o] @ w[o].T + 0.5 * np.eye(o.sum()))
        z, spread = gain @ (row[o] - b[o]), np.eye(2) - gain @ w[o]
        u = np.append(z, 1.0)
        c_uu += np.outer(u, u) + np.pad(spread, ((0, 1), (0, 1)))
        filled = np.where(o, np.nan_to_num(row), w @ z + b)
        c_xu += np.outer(filled, u)
        c_xu[:, :2] += np.where(o[:, None], 0.0, w @ spread)
    expected = c_xu @ np.linalg.inv(c_uu) - np.column_stack([w, b])
    np.testing.assert_allclose(fisher.em_step(net, {"y": y})["y"], expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(expected, 0.5 * gradient @ np.linalg.inv(c_uu), rtol=1e-8, atol=1e-10)


def test_backprop_is_the_limit_of_no_hidden_noise():
    found = fisher.experiment((1e-4, 1e-3, 1.0), sizes=(3, 2, 2), rows=15)
    assert found.holds
    assert found.figures["largest error of Fisher's gradient"] < 1e-6
    assert found.figures["largest error of the EM law"] < 1e-9
    cosines = found.series["Fisher's gradient"]
    assert cosines[0] > 1 - 1e-6
    # One minus the cosine is quadratic in the noise.
    assert (1 - cosines[1]) / (1 - cosines[0]) == pytest.approx(100, rel=0.1)
    assert cosines[2] < 0.999
    for row in found.table:
        assert row["EM step, nats gained"] > 0


def test_it_draws():
    plt = pytest.importorskip("matplotlib.pyplot")
    assert len(fisher.experiment((0.1, 1.0), sizes=(2, 2, 1), rows=6).plot().lines) == 2
    plt.close("all")
