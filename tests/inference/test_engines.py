"""The same nets through every engine, and what each must get right.

Rows of ``MUST``: engine, options, kind of net, and the quantities that equal the dense joint there.
"""

import warnings

import numpy as np
import pytest

from gbn.errors import ConvergenceWarning
from gbn.inference import ENGINES
from gbn.net import GaussianBayesNet
from tests.dense import Dense
from tests.nets import random_covariance, random_evidence, random_net, row

ALL = ("mean", "variance", "covariance", "log_evidence", "messages")
MUST = {
    "exact, from observations": ("exact", {"solver": "observations"}, ("tree", "loopy"), ALL),
    "exact, by elimination": ("exact", {"solver": "information"}, ("tree", "loopy"), ALL),
    "bp on trees": ("bp", {}, ("tree",), ALL),
    "bp on loops": ("bp", {"damping": 0.3, "max_rounds": 5000}, ("loopy",), ("mean",)),
    "vmp": ("vmp", {"tol": 1e-11, "max_rounds": 20000}, ("tree", "loopy"), ("mean",)),
    "pc, live": ("pc", {"prediction": "live", "tol": 1e-10}, ("tree", "loopy"), ("mean",)),
}
LOOSE = {"rtol": 1e-6, "atol": 1e-6}
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def tree(seed):
    """A chain of vector vertices with deterministic ones between: its hidden part is a chain."""
    rng = np.random.default_rng(seed)
    net = GaussianBayesNet()
    top, size = net.add_input("x", 3, mean=rng.normal(size=3), cov=random_covariance(rng, 3)), 3
    for layer in range(4):
        out = int(rng.integers(1, 4))
        weight = rng.normal(size=(out, size))
        top = net.add_linear(f"a{layer}", {top: weight}, bias=rng.normal(size=out), cov=random_covariance(rng, out))
        size = out
        if layer % 2:
            top = net.add(f"n{layer}", "Neg", [top])
    values = net.sample(3, rng)
    evidence = {"a3": values["a3"], "a1": np.where(rng.random(values["a1"].shape) < 0.5, values["a1"], np.nan)}
    return net, evidence, {}


def loopy(seed):
    net = random_net(seed)
    return net, *random_evidence(net, seed + 1)


NETS = {"tree": tree, "loopy": loopy}


def test_every_engine_stands_in_the_table():
    assert {case[0] for case in MUST.values()} == set(ENGINES)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("case", MUST)
def test_what_must_match_matches(case, kind, seed):
    engine, options, kinds, quantities = MUST[case]
    if kind not in kinds:
        pytest.skip("the table promises nothing here")
    net, evidence, do = NETS[kind](seed)
    with warnings.catch_warnings():
        # Loopy propagation may say beforehand that nothing guarantees its arrival.
        warnings.simplefilter("ignore" if case == "bp on loops" else "error", ConvergenceWarning)
        post = net.query(None, evidence, do, engine=engine, **options)
    if case == "bp on loops" and not post.converged:
        pytest.skip("did not converge, and says so")
    close = LOOSE if quantities == ("mean",) else TIGHT
    for n in range(3):
        dense = Dense(net, row(evidence, n), row(do, n))
        for name in dense.where:
            np.testing.assert_allclose(post.mean[name][n], dense.mean_of(name), **close, err_msg=name)
            if "variance" in quantities:
                own = dense.cov_of(name, name)
                np.testing.assert_allclose(post.var[name][n].reshape(-1), np.diag(own), **close, err_msg=name)
                np.testing.assert_allclose(post.cov(name)[n], own, **close, err_msg=name)
            if "messages" in quantities and net[name].random and name not in do:
                np.testing.assert_allclose(post.messages[name][n], dense.message_of(name), rtol=1e-7, atol=1e-7)
        if "log_evidence" in quantities:
            np.testing.assert_allclose(post.log_evidence[n], dense.log_evidence, **close)
