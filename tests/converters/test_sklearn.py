"""scikit-learn's networks, against their own predictions."""

import numpy as np
import pytest

from gbn.conversion import convert
from gbn.errors import ConversionError

pytest.importorskip("sklearn")

from sklearn import linear_model
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA, FactorAnalysis, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, PolynomialFeatures, RobustScaler, StandardScaler
from sklearn.svm import LinearSVC

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
    with pytest.raises(ConversionError, match="KNeighborsRegressor"):
        convert(KNeighborsRegressor().fit(x, y))
    with pytest.raises(ConversionError, match="options"):
        convert(fit(MLPRegressor(hidden_layer_sizes=(5,)), x, y), depth=3)


def test_a_subclass_is_taken() -> None:
    class Mine(MLPRegressor):
        pass

    x, y = data()
    assert converters.sklearn.accepts(Mine())
    assert convert(fit(Mine(hidden_layer_sizes=(5,)), x, y)).outputs == ("output",)


def regression(seed: int = 0, targets: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((60, 5)) * [1, 3, 0.5, 2, 1] + [0, 1, 2, 3, 4]
    weight = rng.standard_normal((5, targets)) if targets else rng.standard_normal(5)
    return x, x @ weight + 0.1 * rng.standard_normal((60, targets) if targets else 60)


LINEAR = [
    linear_model.LinearRegression(),
    linear_model.LinearRegression(fit_intercept=False),
    linear_model.Ridge(0.5),
    linear_model.RidgeCV(),
    linear_model.Lasso(0.1),
    linear_model.LassoCV(cv=3),
    linear_model.ElasticNet(0.1),
    linear_model.BayesianRidge(),
    linear_model.HuberRegressor(),
    linear_model.SGDRegressor(random_state=0),
    linear_model.TweedieRegressor(power=0),
]


@pytest.mark.parametrize("model", LINEAR, ids=lambda model: type(model).__name__)
def test_linear_regressors(model: BaseEstimator) -> None:
    x, y = regression()
    net = convert(model.fit(x, y))
    np.testing.assert_allclose(net.forward({"x": x})["output"][:, 0], model.predict(x), rtol=1e-12, atol=1e-12)
    assert net.latents == ("output",)
    assert net.source_of("output.weight") == "coef_"


@pytest.mark.parametrize(
    "model", [linear_model.LinearRegression(), linear_model.Ridge(), linear_model.MultiTaskLasso()]
)
def test_linear_regressors_of_several_targets(model: BaseEstimator) -> None:
    x, y = regression(targets=3)
    net = from_sklearn(model.fit(x, y))
    np.testing.assert_allclose(net.forward({"x": x})["output"], model.predict(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model", [linear_model.PoissonRegressor(), linear_model.GammaRegressor()])
def test_log_linear_regressors(model: BaseEstimator) -> None:
    x, y = regression()
    net = convert(model.fit(x, np.exp(y / 10)))
    np.testing.assert_allclose(net.forward({"x": x})["output"][:, 0], model.predict(x), rtol=1e-12)


def test_sparse_coefficients() -> None:
    x, y = regression()
    model = linear_model.LogisticRegression(max_iter=500).fit(x, y > 0)
    expected = model.decision_function(x)
    np.testing.assert_allclose(convert(model.sparsify()).forward({"x": x})["logits"][:, 0], expected, rtol=1e-12)


CLASSIFIERS = [
    linear_model.LogisticRegression(max_iter=500),
    linear_model.LogisticRegressionCV(Cs=2, cv=3, max_iter=500, scoring="accuracy"),
    LinearDiscriminantAnalysis(),
]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("model", CLASSIFIERS, ids=lambda model: type(model).__name__)
def test_linear_classifiers(model: BaseEstimator, classes: int) -> None:
    x, y = regression()
    labels = np.array(["a", "b", "c"])[np.digitize(y, np.quantile(y, np.arange(1, classes) / classes))]
    fitted = clone(model).fit(x, labels)
    net = convert(fitted)
    values = net.forward({"x": x})
    probabilities = fitted.predict_proba(x)
    if classes == 2:
        assert net["logits.label"].op == "bernoulli"
        np.testing.assert_allclose(values["logits"][:, 0], fitted.decision_function(x), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(values["logits.label"][:, 0], probabilities[:, 1], rtol=0, atol=1e-12)
    else:
        assert net["logits.label"].op == "categorical"
        np.testing.assert_allclose(values["logits"], fitted.decision_function(x), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(values["logits.label"], probabilities, rtol=0, atol=1e-12)
    assert net.latents == ()
    assert net.source_of("logits.label") == "classes " + ", ".join(fitted.classes_)


def test_scores_that_are_no_logits_have_no_label() -> None:
    x, y = regression()
    for model in (linear_model.RidgeClassifier(), LinearSVC()):
        net = convert(model.fit(x, y > 0))
        assert net.labels == ()
        np.testing.assert_allclose(net.forward({"x": x})["output"][:, 0], model.decision_function(x), atol=1e-12)


FACTOR_MODELS = [PCA(2), PCA(3, whiten=True), FactorAnalysis(2), FactorAnalysis(3, rotation="varimax")]


@pytest.mark.parametrize("model", FACTOR_MODELS, ids=lambda model: f"{type(model).__name__} {model.n_components}")
def test_factor_models_are_their_generative_nets(model: BaseEstimator) -> None:
    x, _ = regression()
    model = clone(model).fit(x)
    net = convert(model)
    post = net.query("z", {"x": x})
    # What scikit-learn calls the covariance of a whitened PCA is not that of its data.
    reference = PCA(3).fit(x) if getattr(model, "whiten", False) else model
    np.testing.assert_allclose(post.log_evidence, reference.score_samples(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(net.query("x").cov("x")[0], reference.get_covariance(), rtol=1e-9, atol=1e-9)
    if isinstance(model, FactorAnalysis):
        np.testing.assert_allclose(post.mean["z"], model.transform(x), rtol=1e-9, atol=1e-9)
    assert net.latents == ("z", "x")
    with pytest.raises(ConversionError, match=r"noise: got 2\.0, but this model brings the noise"):
        convert(model, noise=2.0)
    with pytest.raises(ConversionError, match="noise: this model brings the noise"):
        from_sklearn(model, noise=2.0)


def test_a_pca_without_noise() -> None:
    x, _ = regression()
    with pytest.raises(ConversionError, match="leave no noise"):
        convert(PCA().fit(x))


TRANSFORMS = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_mean=False, with_std=False),
    RobustScaler(),
    MaxAbsScaler(),
    MinMaxScaler((-1, 2)),
    MinMaxScaler(clip=True),
    PCA(2),
    PCA(whiten=True),
    FactorAnalysis(2),
    TruncatedSVD(2, random_state=0),
]


@pytest.mark.parametrize("step", TRANSFORMS, ids=lambda step: f"{type(step).__name__}")
def test_steps_of_a_pipeline(step: BaseEstimator) -> None:
    x, y = regression()
    model = make_pipeline(clone(step), linear_model.Ridge()).fit(x, y)
    net = convert(model)
    (name, fitted), _ = model.steps
    other = 1.5 * regression(1)[0]
    values = net.forward({"x": other})
    np.testing.assert_allclose(values[name], fitted.transform(other), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(values["ridge.output"][:, 0], model.predict(other), rtol=1e-10, atol=1e-10)
    assert net.parameters == ("ridge.output.weight", "ridge.output.bias")
    assert net.latents == ("ridge.output",)


def test_pipelines_in_pipelines_and_without_predictor() -> None:
    x, y = regression()
    inner = Pipeline([("scale", StandardScaler()), ("nothing", "passthrough"), ("pca", PCA(3))])
    model = Pipeline([("pre", inner), ("mlp", MLPClassifier((4,), max_iter=3, random_state=0))]).fit(x, y > 0)
    net = convert(model)
    assert {"pre.scale", "pre.pca", "mlp.layer1", "mlp.layer1.relu", "mlp.logits", "mlp.logits.label"} <= set(net)
    np.testing.assert_allclose(net.forward({"x": x})["mlp.logits.label"][:, 0], model.predict_proba(x)[:, 1])
    net = convert(model.named_steps["pre"])
    assert net.outputs == ("pca",)
    np.testing.assert_allclose(net.forward({"x": x})["pca"], model.named_steps["pre"].transform(x), atol=1e-12)
    assert convert(StandardScaler().fit(x)).outputs == ("output",)


def test_all_steps_at_fault_are_listed() -> None:
    x, y = regression()
    model = make_pipeline(PolynomialFeatures(), StandardScaler(), KNeighborsRegressor()).fit(x, y)
    with pytest.raises(ConversionError) as caught:
        convert(model)
    assert [fault.path for fault in caught.value.layers] == ["polynomialfeatures", "kneighborsregressor"]
    with pytest.raises(ConversionError, match=r"standardscaler: StandardScaler .*not fitted"):
        convert(make_pipeline(StandardScaler(), linear_model.Ridge()))
    with pytest.raises(ConversionError, match="no steps"):
        convert(Pipeline([("a", "passthrough")]))
    with pytest.raises(ConversionError, match="SGDClassifier"):
        convert(linear_model.SGDClassifier().fit(x, y > 0))
