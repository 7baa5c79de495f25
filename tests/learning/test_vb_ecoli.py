"""A textbook net with uncertain weights: ecoli70, its 116 weights and 46 noises recovered with honest intervals."""

import json
from importlib.resources import files

import numpy as np
import pytest

import gbn


@pytest.fixture(scope="module")
def ecoli():
    """The net with bnlearn's numbers, from the file in pgmpy's wheel."""
    model = json.loads(files("pgmpy").joinpath("utils/example_models/ecoli70.json").read_text())
    net, waiting = gbn.GaussianBayesNet(), dict(model["cpds"])
    while waiting:
        for name in [n for n, cpd in waiting.items() if all(p in net for p in cpd["parents"])]:
            cpd = waiting.pop(name)
            weights = {p: [cpd["coefficients"][p]] for p in cpd["parents"]}
            net.add_linear(name, weights, bias=cpd["coefficients"]["(Intercept)"], cov=cpd["variance"][0])
    return net


def blank(net):
    """The graph with no knowledge of its numbers."""
    out = net.copy()
    for name in net.parameters:
        out.set_value(name, np.zeros(net[name].shape))
    out.set_noise(dict.fromkeys(net.latents, 1.0))
    return out


@pytest.mark.parametrize("missing, least", [(0.0, 0.85), (0.08, 0.8)])
def test_intervals_hold_the_truth(ecoli, missing, least):
    rng = np.random.default_rng(3)
    rows = {name: value for name, value in ecoli.sample(200, rng=1).items() if ecoli[name].plated}
    for value in rows.values():
        value[rng.random(value.shape) < missing] = np.nan
    rounds = 2 if not missing else 25
    result = blank(ecoli).fit(rows, "vb", max_iter=rounds, tol=None, callback=lambda n, _: n == rounds)
    trace = result.history.column("elbo")
    assert (np.diff(trace) >= -1e-9 * np.abs(trace[:-1])).all()
    post, hits = result.posterior, []
    for name in ecoli.parameters:
        low, high = post.interval(name)
        hits.append(((low <= ecoli[name].value) & (ecoli[name].value <= high)).reshape(-1))
    held = np.concatenate(hits)
    assert len(held) == 116
    assert least <= held.mean() <= 0.97
    noises = [post.noise_interval(name) for name in ecoli.latents]
    inside = [
        low[0] <= ecoli.noise(name).value <= high[0] for name, (low, high) in zip(ecoli.latents, noises, strict=True)
    ]
    assert np.mean(inside) >= least - 0.1
    # Posterior variance speaks for what is uncertain, and the mean net for the rest.
    further = {name: value for name, value in ecoli.sample(50, rng=2).items() if ecoli[name].plated}
    by_average = post.log_predictive(further, draws=20).mean()
    assert by_average > ecoli.query([], further).log_evidence.mean() - 3


def test_complete_rows_need_one_round(ecoli):
    rows = {name: value for name, value in ecoli.sample(100, rng=1).items() if ecoli[name].plated}
    result = blank(ecoli).fit(rows, "vb")
    assert len(result.history) - 1 == 2
    assert set(result.diagnostics["conjugate"]) == set(ecoli.latents)
