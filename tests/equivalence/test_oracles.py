"""Gradients by the original framework: the module's own, and scikit-learn's two ways."""

import importlib.util
import sys
import warnings
from typing import Any

import numpy as np
import pytest

from gbn.equivalence import compare, difference_gradients, sklearn_gradients, torch_gradients
from gbn.errors import EvidenceError, InferenceError, MissingDependencyError

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("training", [False, True])
def test_torch_oracle_leaves_the_module_as_it_was(training: bool) -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train(training)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x, y = torch.randn(5, 4), torch.randn(5, 3)
    with torch.no_grad():
        loss, gradients = torch_gradients(module, x, y)
    assert module.training is training
    assert all(part.training is training for part in module)
    assert all((value == before[name]).all() for name, value in module.state_dict().items())
    assert all((parameter.grad == 1).all() for parameter in module.parameters())
    module.eval().zero_grad()
    expected = F.mse_loss(module(x), y)
    expected.backward()
    assert loss == pytest.approx(expected.item())
    for name, parameter in module.named_parameters():
        assert gradients[name] == pytest.approx(parameter.grad.numpy())
        assert gradients[name].dtype == np.float32


needs_sklearn = pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="scikit-learn is absent")


def fitted(kind: str, activation: str) -> tuple[Any, Array, Any, str]:
    """An estimator, data that it takes, and the loss of its output layer."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3))
    y, loss, make = {
        "regressor": (rng.normal(size=30), "mse", MLPRegressor),
        "several": (rng.normal(size=(30, 2)), "mse", MLPRegressor),
        "binary": (rng.choice(["no", "yes"], 30), "bce", MLPClassifier),
        "classes": (rng.choice([10, 20, 40], 30), "cross_entropy", MLPClassifier),
        "multilabel": (rng.integers(0, 2, (30, 3)), "bce", MLPClassifier),
    }[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make(hidden_layer_sizes=(5, 4), activation=activation, max_iter=3, random_state=0).fit(x, y)
        return model, x, y, loss


@needs_sklearn
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("kind", ["regressor", "several", "binary", "classes", "multilabel"])
def test_sklearn_oracles_agree_with_each_other_and_with_the_net(kind: str, activation: str) -> None:
    model, x, y, loss = fitted(kind, activation)
    for reduction in ("mean", "sum"):
        value, gradients = sklearn_gradients(model, x, y, loss, reduction)
        again, differences = difference_gradients(model, x, y, loss, reduction)
        assert value == pytest.approx(again, rel=1e-12)
        assert set(gradients) == set(differences)
        for name, gradient in gradients.items():
            assert gradient == pytest.approx(differences[name], rel=1e-6, abs=1e-7)
    report = compare(model, x, y, loss=loss, repeats=0)
    assert report.agrees, report.verdict
    assert "written out in torch" in report.oracle
    assert report.tol == 1e-10


@needs_sklearn
def test_without_torch_predictions_are_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y, loss = fitted("classes", "tanh")
    monkeypatch.setitem(sys.modules, "torch", None)
    report = compare(model, x, y, loss=loss)
    assert report.agrees, report.verdict
    assert "central differences" in report.oracle
    assert report.tol == 1e-6
    assert report.time_ratio is None
    with pytest.raises(MissingDependencyError, match="torch"):
        sklearn_gradients(model, x, y, loss)


@needs_sklearn
def test_sklearn_refusals() -> None:
    model, x, y, _ = fitted("classes", "tanh")
    with pytest.raises(InferenceError, match="use loss='cross_entropy'"):
        compare(model, x, y)
    with pytest.raises(EvidenceError, match=r"got label .*30.*, expected one of \[10, 20, 40\]"):
        compare(model, x, np.where(y == 10, 30, y), loss="cross_entropy")
    model, x, y, _ = fitted("binary", "relu")
    with pytest.raises(EvidenceError, match="got label"):
        compare(model, x, np.full(30, "maybe"), loss="bce")


@needs_sklearn
def test_an_output_without_its_loss_is_refused() -> None:
    model, x, y, _ = fitted("regressor", "tanh")
    model.out_activation_ = "exp"
    with pytest.raises(InferenceError, match="ends in 'exp'; compare takes those that end in 'identity'"):
        sklearn_gradients(model, x, y)


def test_refusals_of_torch_gradients() -> None:
    module, x = nn.Linear(4, 3), torch.randn(5, 4)
    with pytest.raises(InferenceError, match="reduction"):
        torch_gradients(module, x, torch.zeros(5, 3), reduction="batchmean")
    with pytest.raises(InferenceError, match="no parameter that requires a gradient"):
        torch_gradients(nn.Tanh(), x, x)
