"""Who takes a contradiction, by the law of variances; surprise, by dense Gaussians; scores, by scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from gbn.equivalence import claims
from gbn.equivalence.claims import precision


@pytest.fixture(scope="module")
def found():
    return claims.run("precision", train=700, test=300)


@settings(max_examples=20)
@given(st.lists(st.floats(0.05, 20), min_size=3, max_size=3))
def test_each_level_takes_the_share_of_its_variance(variances):
    told = precision.contradiction(variances)
    shares = np.array(variances) / sum(variances)
    np.testing.assert_allclose([told[level] for level in precision.LEVELS], shares, rtol=1e-8, atol=1e-10)
    # From 1 down to -1, the percept is as far down as the first two levels go.
    assert told["percept"] == pytest.approx(1 - 2 * shares[:2].sum(), abs=1e-10)


def test_the_weak_level_gives_way(found):
    for weak in precision.LEVELS:
        assert found.figures[f"contradiction, weak {weak}: share of the {weak}"] == pytest.approx(0.8)
    assert found.figures["percept, weak bottom"] > 0 > found.figures["percept, weak top"]


def test_surprise_is_the_energy_of_the_dense_posterior():
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(size=(60, 9)), np.arange(60) % 10
    net = precision.generator(images, labels, rng, units=3)
    seen = precision._surprise(net, images[:5])
    a, b = (np.asarray(net[n].value) for n in ("h.class.weight", "x.h.weight"))
    bias_h, bias_x = (np.asarray(net[n].value) for n in ("h.bias", "x.bias"))
    qh, qx = net.noise("h").matrix(), net.noise("x").matrix()
    prior = 0.1 * np.eye(10)
    mean_x = b @ (a @ np.full(10, 0.1) + bias_h) + bias_x
    cov_h = a @ prior @ a.T + qh
    cov_x = b @ cov_h @ b.T + qx
    for n, x in enumerate(images[:5]):
        lam = np.linalg.solve(cov_x, x - mean_x)
        expected = 0.5 * ((x - mean_x) @ lam + np.linalg.slogdet(2 * np.pi * cov_x)[1])
        assert seen["all"][n] == pytest.approx(expected, rel=1e-8)
        # Errors at the mode: each level's covariance times what is pulled down to it.
        for name, cov, pulled in (("x", qx, lam), ("h", qh, b.T @ lam), ("class", prior, a.T @ b.T @ lam)):
            energy = 0.5 * (pulled @ cov @ pulled + np.linalg.slogdet(2 * np.pi * cov)[1])
            assert seen[name][n] == pytest.approx(energy, rel=1e-7, abs=1e-7)


def test_the_adversarial_step_follows_torchs_gradient():
    rng = np.random.default_rng(1)
    images, labels = rng.uniform(0.3, 0.7, size=(40, 64)), np.arange(40) % 10
    net = precision.classifier(images, labels, rng, epochs=2)
    w, b, v, c = (
        torch.tensor(np.array(net[n].value)) for n in ("a.x.weight", "a.bias", "logits.h.weight", "logits.bias")
    )
    x = torch.tensor(images, requires_grad=True)
    torch.nn.functional.cross_entropy(torch.tanh(x @ w.T + b) @ v.T + c, torch.tensor(labels)).backward()
    moved = precision.kinds(net, images, labels, 0.1, rng)["adversarial"]
    np.testing.assert_allclose(moved - images, 0.1 * np.sign(x.grad.numpy()), atol=1e-12)


def test_scores_on_digits(found):
    surprise, unsure = found.series["surprise"], found.series["unsure"]
    for row in found.table[1:]:
        name, truth = row["input"], np.repeat([0, 1], 300)
        both = np.concatenate([surprise["normal"]["all"], surprise[name]["all"]])
        assert row["AUROC, surprise"] == pytest.approx(roc_auc_score(truth, both), abs=1e-12)
        both = np.concatenate([unsure["normal"], unsure[name]])
        assert row["AUROC, max-softmax"] == pytest.approx(roc_auc_score(truth, both), abs=1e-12)
    figures, rows = found.figures, {row["input"]: row for row in found.table}
    assert rows["normal"]["classified right"] > 0.93
    assert rows["adversarial"]["classified right"] < 0.4
    for name in ("turned", "noise"):
        assert figures[f"AUROC, {name}, surprise"] > 0.98
    assert figures["AUROC, moved, surprise"] > 0.8
    assert figures["AUROC, adversarial, surprise"] > 0.55


def test_the_picture(found):
    plt = pytest.importorskip("matplotlib.pyplot")
    assert len(found.plot().patches) == 8
    plt.close("all")
