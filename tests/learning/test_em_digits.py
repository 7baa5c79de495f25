"""EM where digits are scarce: data far from zero, sharp sensors under vague priors, noises below their floor."""

import numpy as np
import pytest

import gbn


def factor_net(noise=1.0, prior=1.0, loadings=None):
    net = gbn.GaussianBayesNet()
    net.add_input("z", 2, mean=0.0, cov=prior)
    loadings = np.random.default_rng(1).normal(size=(5, 2)) if loadings is None else loadings
    net.add_linear("y", {"z": loadings}, bias=np.zeros(5), cov=np.full(5, noise))
    return net


@pytest.mark.parametrize("offset", [1e6, 1e8, 1e10])
@pytest.mark.parametrize("px", [True, False])
def test_data_far_from_zero_are_explained_as_well_as_those_about_it(offset, px):
    """The first expectation of z lies as far out as the data; later ones do not."""
    rng = np.random.default_rng(0)
    y = np.round(rng.normal(size=(40, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(40, 5)), 3)
    options = {"px": px, "tol": None, "max_iter": 12, "callback": lambda number, _: number == 12}
    near, far = factor_net().fit({"y": y}, **options), factor_net().fit({"y": y + offset}, **options)
    assert far.reason == "stopped by the callback after 12 iterations"
    explained = [r.net["y.z.weight"].value @ r.net["y.z.weight"].value.T for r in (near, far)]
    np.testing.assert_allclose(explained[1], explained[0], rtol=0, atol=1e-5 * np.abs(explained[0]).max())
    ends = [r.history[-1]["log_evidence"] for r in (near, far)]
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-5)


def test_an_e_step_takes_the_solver_that_keeps_digits():
    """Sensors 10⁶ times as sharp as the prior: observation space explains away 12 digits of z's variance."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(5, 2))
    y = rng.normal(size=(60, 2)) @ loadings.T * 1e4 + 1e-2 * rng.normal(size=(60, 5))
    y[rng.random(y.shape) < 0.1] = np.nan
    traces = {}
    for solver in ("auto", "information"):
        result = factor_net(1e-4, 1e8, 1.01 * loadings).fit(
            {"y": y}, px=False, tol=None, max_iter=5, freeze=["z", "y.bias"], fixed_noise=True,
            engine_options={"solver": solver}, callback=lambda number, _: number == 5,
        )  # fmt: skip
        traces[solver] = result.history.column("log_evidence")
    np.testing.assert_allclose(traces["auto"], traces["information"], rtol=1e-9)
    singular = factor_net(1e-10, 1e10, 1.01 * loadings)
    assert np.isfinite(singular.fit({"y": y}, px=False, fixed_noise=True, tol=1e-2).history[-1]["log_evidence"])


@pytest.mark.parametrize("form", ["scalar", "diagonal", "full"])
def test_a_noise_below_its_floor_begins_there(form):
    """EM climbs from where it begins, and noises that it may not keep are no place to begin."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2))
    cov = {"scalar": 1e-12, "diagonal": np.full(3, 1e-12), "full": 1e-12 * np.eye(3)}[form]
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_linear("y", {"x": rng.normal(size=(3, 2))}, bias=np.zeros(3), cov=cov)
    y = net.forward({"x": x})["y"] + 1e-6 * rng.normal(size=(30, 3))
    result = net.fit({"x": x, "y": y}, variance_floor=1e-6)
    assert result.converged, result.reason
    assert (np.diff(result.history.column("log_evidence")) >= -1e-6).all()
    floor = result.diagnostics["variance_floor"]["y"]
    np.testing.assert_allclose(np.diagonal(result.net.noise("y").matrix()), floor, rtol=1e-9)
    # What is not learned stays where it was.
    assert net.fit({"x": x, "y": y}, variance_floor=1e-6, fixed_noise=["y"]).net.noise("y").diagonal().max() == 1e-12
