"""Passes and labels on digits: backprop by torch, priors by dense Gaussians, and who is ahead where."""

import numpy as np
import pytest
import torch
from torch import nn

from gbn.equivalence import claims
from gbn.equivalence.claims import instinct, learners


@pytest.fixture(scope="module")
def found():
    options = {"rows": (60, 240), "widths": (24,), "seeds": 2, "epochs": 8, "test": 300, "lives": 0, "transfers": 0}
    return claims.run("data_efficiency", **options)


def test_backprop_is_torchs():
    """Adam along local messages gives torch's weights: the mean squared error of one-hot labels, the same batches."""
    rng = np.random.default_rng(0)
    rows = learners.Rows.drawn(70, 30, 30, rng)
    adam = learners.METHODS[learners.BACKPROP]
    net = learners.network(12, rng, hidden=adam.hidden, output=adam.output)
    layers = [nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 10)]
    model = nn.Sequential(*layers).double()
    places = ("a1.x", "a2.h1", "y.h2")
    with torch.no_grad():
        for layer, place in zip(layers[::2], places, strict=True):
            layer.weight.copy_(torch.tensor(np.array(net[f"{place}.weight"].value)))
            layer.bias.copy_(torch.tensor(np.array(net[f"{place[:2].strip('.')}.bias"].value)))
    optimizer, order = torch.optim.Adam(model.parameters(), 0.01), np.random.default_rng(5)
    for _ in range(4):
        for chosen in torch.as_tensor(order.permutation(70)).split(learners.batch(70)):
            optimizer.zero_grad()
            targets = torch.as_tensor(np.eye(10)[rows.labels])[chosen]
            nn.functional.mse_loss(model(torch.as_tensor(rows.x)[chosen]), targets).backward()
            optimizer.step()
    found = learners.path(net, adam, {"learning_rate": 0.01}, rows, 4, 5)
    for layer, place in zip(layers[::2], places, strict=True):
        np.testing.assert_allclose(found.net[f"{place}.weight"].value, layer.weight.detach().numpy(), atol=1e-10)
    predicted = model(torch.as_tensor(rows.test)).argmax(1).numpy()
    assert found.test[-1] == np.mean(predicted == rows.test_labels)


def test_em_is_ahead_after_one_pass_and_adam_catches_up(found):
    by_epoch = {name: passes.mean(axis=0) for name, passes in found.series["by epoch"].items()}
    em, adam = by_epoch["stepwise EM"], by_epoch[learners.BACKPROP]
    assert em[0] > adam[0] + 0.15
    assert adam.max() > em.max() - 0.03
    assert adam.max() > em[0]
    # Backprop, whose passes cost least, makes most.
    assert len(adam) == 4 * len(em) == 32


def test_labels_matter_more_than_the_method(found):
    for name, accuracy in found.series["by labels"].items():
        few, many = accuracy.mean(axis=1)
        assert many > few + 0.05, name
    at = {(row["labels"], row["width"], row["method"]): row["accuracy"] for row in found.table}
    assert len(at) == 2 * len(learners.METHODS) + 2
    many = [accuracy for (rows, _, _), accuracy in at.items() if rows == 240]
    assert min(many) > 0.85
    assert max(many) - min(many) < 0.08
    assert found.holds is None


def test_the_answer_names_what_the_table_holds(found):
    best = max((row for row in found.table if row["labels"] == 60), key=lambda row: row["accuracy"])
    assert f"at 60 labels {best['method']} is best ({best['accuracy']:.3f}" in found.answer


def test_splits_share_no_image():
    rows = learners.Rows.drawn(100, 50, 80, np.random.default_rng(0))
    for task in instinct.TASKS:
        first, second = instinct._tasks(task, 100, 30, np.random.default_rng(1))
        sets = [rows.x, rows.held, rows.test], [first.x, second.x, second.held, second.test]
        for parts in sets:
            images = np.concatenate(parts)
            # Scanned digits seldom repeat to the last pixel.
            assert len(np.unique(images, axis=0)) >= len(images) - 1
    assert set(second.labels) <= set(range(5))


def test_a_life_is_the_dense_posterior():
    rng = np.random.default_rng(2)
    curves = instinct.family(3, rng)
    sights = instinct.seen(curves, 4, rng)
    assert ((~np.isnan(sights)).sum(axis=1) == 4).all()
    size = len(instinct._CENTRES)
    root = rng.normal(size=(size, size))
    prior = rng.normal(size=size), root @ root.T / size + 0.1 * np.eye(size)
    bumps = np.asarray(instinct.life(*prior)["curve.w.weight"].value)
    squared = []
    for curve, sight in zip(curves, sights, strict=True):
        at = np.flatnonzero(~np.isnan(sight))
        cov = bumps[at] @ prior[1] @ bumps[at].T + instinct._NOISE**2 * np.eye(4)
        weights = prior[0] + prior[1] @ bumps[at].T @ np.linalg.solve(cov, sight[at] - bumps[at] @ prior[0])
        squared.append((bumps @ weights - curve) ** 2)
    assert instinct.error(prior, curves, sights) == pytest.approx(np.sqrt(np.mean(squared)), rel=1e-9)


def test_a_posterior_as_prior_is_learning_everything_at_once():
    assert instinct.in_halves(np.random.default_rng(3)) < 1e-11


def test_instinct_needs_fewer_points():
    known = instinct.instinct(30, (2, 3, 8, 20), tested=50)
    errors = known.errors
    for name in ("afresh", "fine-tuned", instinct.ONE):
        assert (errors["instinct"] < errors[name]).all(), name
    # Three points by instinct are worth eight or more without.
    assert errors["instinct"][1] < errors["fine-tuned"][2] < errors["afresh"][2]
    # Another's life, taken for one's own, misleads for good.
    assert errors[instinct.ONE][-1] > 3 * errors["afresh"][-1]


def test_what_was_learned_before_helps_related_tasks_and_misleads_others():
    # Ten labels: at thirty, starting afresh has nearly caught up, and two seeds do not tell.
    related = instinct.transfer(instinct.TASKS[0], (10,), seeds=2).accuracy
    other = instinct.transfer(instinct.TASKS[1], (30,), seeds=2).accuracy
    fresh, prior = instinct.STARTS[2:]
    assert related[prior].mean() > related[fresh].mean() + 0.05
    assert other[prior].mean() < other[fresh].mean() - 0.1


def test_the_picture(found):
    plt = pytest.importorskip("matplotlib.pyplot")
    assert len(found.plot().lines) == len(learners.METHODS)
    plt.close("all")
