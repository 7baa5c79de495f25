"""A textbook net from complete and partial rows: ecoli70 (Schäfer & Strimmer 2005), 46 genes, 70 edges."""

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
    values = {name: np.zeros(net[name].shape) for name in net.parameters}
    out = net.copy()
    for name, value in values.items():
        out.set_value(name, value)
    out.set_noise(dict.fromkeys(net.latents, 1.0))
    return out


def regressions(net, rows):
    """Vertex -> (coefficients with the intercept last, residual variance, rows used), by least squares on the rows that
    are complete in the vertex and its parents."""
    out = {}
    for name in net.latents:
        parents = [p for p in net[name].parents if net[p].plated]
        table = np.concatenate([rows[n] for n in (*parents, name)], axis=1)
        table = table[~np.isnan(table).any(axis=1)]
        design = np.column_stack([table[:, :-1], np.ones(len(table))])
        found, *_ = np.linalg.lstsq(design, table[:, -1], rcond=None)
        out[name] = found, ((table[:, -1] - design @ found) ** 2).mean(), len(table)
    return out


def coefficients(net, name):
    parents = [p for p in net[name].parents if net[p].plated]
    return np.concatenate([*(net[f"{name}.{p}.weight"].value[0] for p in parents), net[f"{name}.bias"].value])


def test_complete_rows_give_least_squares(ecoli):
    rows = {name: value for name, value in ecoli.sample(10_000, rng=0).items() if name in ecoli.latents}
    result = blank(ecoli).fit(rows)
    assert len(result.history) <= 4
    for name, (expected, variance, _) in regressions(ecoli, rows).items():
        np.testing.assert_allclose(coefficients(result.net, name), expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(result.net.noise(name).value, variance, rtol=1e-9)


def test_partial_rows_tell_more_than_the_complete_ones_among_them(ecoli):
    rows = {name: value for name, value in ecoli.sample(400, rng=1).items() if name in ecoli.latents}
    rng = np.random.default_rng(2)
    for value in rows.values():
        value[rng.random(value.shape) < 0.3] = np.nan
    result = blank(ecoli).fit(rows, tol=1e-5)
    trace = result.history.column("log_evidence")
    assert (np.diff(trace) >= -1e-9 * np.abs(trace[:-1])).all()
    complete = regressions(ecoli, rows)
    ours, theirs = [], []
    for name in ecoli.latents:
        truth, scale = coefficients(ecoli, name), float(ecoli.noise(name).value)
        ours += [*(coefficients(result.net, name) - truth), (result.net.noise(name).value - scale) / scale]
        theirs += [*(complete[name][0] - truth), (complete[name][1] - scale) / scale]
    assert np.mean(np.square(ours)) < 0.8 * np.mean(np.square(theirs))
