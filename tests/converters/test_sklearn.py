"""scikit-learn's networks, against their own predictions."""

import numpy as np
import pytest

from gbn.conversion import convert
from gbn.errors import ConversionError

pytest.importorskip("sklearn")

from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor

import converters.sklearn
from converters import from_sklearn

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]


def data(dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 4)).astype(dtype), np.arange(40) % 3


def fit(estimator: BaseEstimator, x: np.ndarray, y: np.ndarray) -> BaseEstimator:
    return estimator.set_params(max_iter=3, random_state=0).fit(x, y)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_regressor(activation: str, dtype: type) -> None:
    x, _ = data(dtype)
    model = fit(MLPRegressor(hidden_layer_sizes=(5, 6), activation=activation), x, x[:, :2])
    net = convert(model)
    assert net.dtype == dtype
    for n in (1, 2, 7):
        y = net.forward({"x": x[:n]})["output"]
        assert y.dtype == dtype
        np.testing.assert_allclose(
            y,
            model.predict(x[:n]),
            rtol=1e-4 if dtype == np.float32 else 1e-10,
            atol=1e-6 if dtype == np.float32 else 1e-12,
        )
    assert net.outputs == ("output",)
    assert net.latents == ("layer1", "layer2", "output")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_classifier_of_several_classes(activation: str) -> None:
    x, y = data()
    model = fit(MLPClassifier(hidden_layer_sizes=(5,), activation=activation), x, np.array(["a", "b", "c"])[y])
    net = from_sklearn(model)
    values = net.forward({"x": x[:7]})
    np.testing.assert_allclose(values["logits.label"], model.predict_proba(x[:7]), atol=1e-12)
    assert net["logits.label"].op == "categorical"
    assert net.source_of("logits.label") == "classes a, b, c"
    assert net.latents == ("layer1",)


def test_classifier_of_two_classes_and_of_several_labels() -> None:
    x, y = data()
    two = fit(MLPClassifier(hidden_layer_sizes=(5,)), x, y % 2)
    net = convert(two)
    assert net["logits.label"].op == "bernoulli"
    np.testing.assert_allclose(net.forward({"x": x[:5]})["logits.label"][:, 0], two.predict_proba(x[:5])[:, 1])
    many = fit(MLPClassifier(hidden_layer_sizes=(5,)), x, (x[:, :3] > 0).astype(int))
    net = convert(many)
    assert net["logits.label"].op == "bernoulli"
    np.testing.assert_allclose(net.forward({"x": x[:5]})["logits.label"], many.predict_proba(x[:5]))


def test_regressor_with_an_output_activation() -> None:
    x, _ = data()
    model = fit(MLPRegressor(loss="poisson", hidden_layer_sizes=(5,)), x, np.abs(x[:, 0]))
    net = convert(model)
    np.testing.assert_allclose(net.forward({"x": x[:5]})["output"][:, 0], model.predict(x[:5]))
    assert net.latents == ("layer1", "layer2", "output")


def test_names_and_sources() -> None:
    x, _ = data()
    net = convert(fit(MLPRegressor(hidden_layer_sizes=(5,), activation="tanh"), x, x[:, 0]))
    assert net.parameters == ("layer1.weight", "layer1.bias", "layer2.weight", "layer2.bias")
    assert net.source_of("layer2.weight") == "coefs_[1]"
    assert [name for name in net if net[name].kind == "op"] == ["layer1", "layer1.tanh", "output"]
    assert convert(fit(MLPRegressor(hidden_layer_sizes=(5,)), x, x[:, 0]), latents="layers").latents == (
        "layer1.relu",
        "output",
    )


def test_what_is_refused() -> None:
    x, y = data()
    with pytest.raises(ConversionError, match="not fitted"):
        convert(MLPClassifier())
    with pytest.raises(ConversionError, match="LinearRegression"):
        convert(LinearRegression().fit(x, y))
    with pytest.raises(ConversionError, match="options"):
        convert(fit(MLPRegressor(hidden_layer_sizes=(5,)), x, y), depth=3)


def test_a_subclass_is_taken() -> None:
    class Mine(MLPRegressor):
        pass

    x, y = data()
    assert converters.sklearn.accepts(Mine())
    assert convert(fit(Mine(hidden_layer_sizes=(5,)), x, y)).outputs == ("output",)
