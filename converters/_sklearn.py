"""What each kind of fitted scikit-learn estimator is as a net; only its arrays are read.

A *predictor* ends a net in an output, or in logits with a label.  A *transformer* is a step before it.  A *factor
model* is a net by itself, z ~ N(0, I) with x below it, and brings its noise with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbn.errors import ConversionError, near_matches
from gbn.net import GaussianBayesNet

__all__ = ["FACTORS", "PREDICTORS", "TRANSFORMERS", "check", "find", "unknown"]

Array = np.ndarray[Any, Any]
# Adds a predictor that reads a vertex; its vertices begin with the prefix.
Predictor = Callable[[GaussianBayesNet, Any, str, str], None]
# Adds a step under its name, and returns that vertex.
Transformer = Callable[[GaussianBayesNet, Any, str, str], str]

_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "identity": None}
_REGRESSIONS = {"identity": None, "exp": "Exp"}
# What the output activation of a classifier says about its labels.
_LIKELIHOODS = {"softmax": "categorical", "logistic": "bernoulli"}


def find(table: dict[str, Any], estimator: Any) -> Any:
    """The entry of the estimator's class, or of the nearest class that it is derived from; else None."""
    return next((table[base.__name__] for base in type(estimator).__mro__ if base.__name__ in table), None)


def check(estimator: Any) -> None:
    """Raise ConversionError where an estimator that is known is not fitted."""
    fitted = ("coefs_", "coef_", "components_", "scale_", "n_features_in_")
    if not any(hasattr(estimator, name) for name in fitted):
        raise ConversionError(f"this {type(estimator).__name__} is not fitted; call fit(X, y) before converting it")


def described(net: GaussianBayesNet, name: str, source: str) -> str:
    """The vertex, once it is recorded where it comes from."""
    net.describe(name, source=source)
    return name


def _entry(table: dict[str, Any], key: str, argument: str) -> Any:
    if key not in table:
        raise ConversionError(f"{argument}: got {key!r}, expected one of {', '.join(map(repr, table))}")
    return table[key]


def _mlp_classifier(net: GaussianBayesNet, estimator: Any, x: str, prefix: str) -> None:
    likelihood = _entry(_LIKELIHOODS, estimator.out_activation_, "out_activation_")
    net.set_outputs([_mlp_layers(net, estimator, x, prefix, "logits")])
    _add_label(net, estimator, f"{prefix}logits", likelihood)


def _mlp_regressor(net: GaussianBayesNet, estimator: Any, x: str, prefix: str) -> None:
    final = _entry(_REGRESSIONS, estimator.out_activation_, "out_activation_")
    last = "output" if final is None else f"layer{len(estimator.coefs_)}"
    name = _mlp_layers(net, estimator, x, prefix, last)
    net.set_outputs([name if final is None else net.add(f"{prefix}output", final, [name])])


def _mlp_layers(net: GaussianBayesNet, estimator: Any, value: str, prefix: str, output: str) -> str:
    """Affine layers and activations; the name of the last one."""
    last = len(estimator.coefs_)
    for k, (weight, bias) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True), start=1):
        layer = f"{prefix}layer{k}"
        terms = [
            described(net, net.add_parameter(f"{layer}.weight", weight), f"coefs_[{k - 1}]"),
            described(net, net.add_parameter(f"{layer}.bias", bias), f"intercepts_[{k - 1}]"),
        ]
        value = net.add(f"{prefix}{output}" if k == last else layer, "Gemm", [value, *terms])
        if k < last:
            op = _entry(_ACTIVATIONS, estimator.activation, "activation")
            value = value if op is None else net.add(f"{layer}.{estimator.activation}", op, [value])
    return value


def _affine(net: GaussianBayesNet, estimator: Any, x: str, prefix: str, name: str) -> str:
    """x Wᵀ + b.  W: (outputs, features), of ``coef_``, which lacks the first axis where there is one output."""
    coef = estimator.coef_
    weight = np.atleast_2d(coef.toarray() if hasattr(coef, "toarray") else coef)
    name = f"{prefix}{name}"
    terms = [described(net, net.add_parameter(f"{name}.weight", weight), "coef_")]
    if getattr(estimator, "fit_intercept", True):
        bias = np.broadcast_to(np.ravel(estimator.intercept_), len(weight))
        terms.append(described(net, net.add_parameter(f"{name}.bias", bias), "intercept_"))
    return net.add(name, "Gemm", [x, *terms], transB=1)


def _linear(net: GaussianBayesNet, estimator: Any, x: str, prefix: str) -> None:
    net.set_outputs([_affine(net, estimator, x, prefix, "output")])


def _log_linear(net: GaussianBayesNet, estimator: Any, x: str, prefix: str) -> None:
    """A generalised linear model whose mean is exp of the linear predictor."""
    net.set_outputs([net.add(f"{prefix}output", "Exp", [_affine(net, estimator, x, prefix, "layer1")])])


def _tweedie(net: GaussianBayesNet, estimator: Any, x: str, prefix: str) -> None:
    link = estimator.link if estimator.link != "auto" else "identity" if estimator.power <= 0 else "log"
    (_linear if link == "identity" else _log_linear)(net, estimator, x, prefix)


def _linear_classifier(net: GaussianBayesNet, estimator: Any, x: str, prefix: str) -> None:
    """Softmax, or for two classes a sigmoid, of the decision function."""
    classes = len(estimator.classes_)
    one_by_one = getattr(estimator, "multi_class", None) == "ovr" or getattr(estimator, "solver", None) == "liblinear"
    if classes > 2 and one_by_one:
        raise ConversionError(
            f"this {type(estimator).__name__} is one model for each of {classes} classes, whose probabilities are no "
            "softmax; fit it with another solver, and multi_class='multinomial' where there is such an argument"
        )
    if getattr(estimator, "multi_class", None) == "multinomial" and classes == 2:
        raise ConversionError(
            "multi_class='multinomial' of two classes halves its softmax; fit it without the argument"
        )
    logits = _affine(net, estimator, x, prefix, "logits")
    net.set_outputs([logits])
    _add_label(net, estimator, logits, "categorical" if classes > 2 else "bernoulli")


def _add_label(net: GaussianBayesNet, estimator: Any, logits: str, likelihood: str) -> None:
    """The leaf that a classifier trains with; its classes are numbered in the order of ``classes_``."""
    source = "classes " + ", ".join(map(str, np.ravel(estimator.classes_).tolist()))
    described(net, net.add_likelihood(f"{logits}.label", likelihood, logits), source)
    net.describe(logits, source=source)


PREDICTORS: dict[str, Predictor] = {
    "MLPClassifier": _mlp_classifier,
    "MLPRegressor": _mlp_regressor,
    "LogisticRegression": _linear_classifier,
    "LinearDiscriminantAnalysis": _linear_classifier,
    # Their scores are no logits.
    "RidgeClassifier": _linear,
    "RidgeClassifierCV": _linear,
    "LinearSVC": _linear,
    "PoissonRegressor": _log_linear,
    "GammaRegressor": _log_linear,
    "TweedieRegressor": _tweedie,
    # LinearRegression, Ridge, Lasso, ElasticNet, ... and all that derive from them.
    "LinearModel": _linear,
    "SGDRegressor": _linear,
}


def _chain(net: GaussianBayesNet, x: str, name: str, *steps: tuple[str, str, Any, str], **attributes: Any) -> str:
    """Ops with a constant each, (part, op, constant, source); the last one has the step's name."""
    used = [step for step in steps if step[2] is not None]
    for k, (part, op, value, source) in enumerate(used, start=1):
        constant = described(net, net.add_constant(f"{name}.{part}", value), source)
        last = k == len(used)
        x = net.add(name if last else f"{name}.{part}ed", op, [x, constant], **(attributes if op == "Gemm" else {}))
    return x if used else net.add(name, "Identity", [x])


def _standard_scaler(net: GaussianBayesNet, estimator: Any, x: str, name: str) -> str:
    mean = estimator.mean_ if estimator.with_mean else None
    return _chain(net, x, name, ("center", "Sub", mean, "mean_"), ("scale", "Div", estimator.scale_, "scale_"))


def _robust_scaler(net: GaussianBayesNet, estimator: Any, x: str, name: str) -> str:
    steps = ("center", "Sub", estimator.center_, "center_"), ("scale", "Div", estimator.scale_, "scale_")
    return _chain(net, x, name, *steps)


def _max_abs_scaler(net: GaussianBayesNet, estimator: Any, x: str, name: str) -> str:
    return _chain(net, x, name, ("scale", "Div", estimator.scale_, "scale_"))


def _min_max_scaler(net: GaussianBayesNet, estimator: Any, x: str, name: str) -> str:
    steps = ("scale", "Mul", estimator.scale_, "scale_"), ("shift", "Add", estimator.min_, "min_")
    if not estimator.clip:
        return _chain(net, x, name, *steps)
    low, high = estimator.feature_range
    return net.add(name, "Clip", [_chain(net, x, f"{name}.free", *steps)], min=float(low), max=float(high))


def _pca_step(net: GaussianBayesNet, estimator: Any, x: str, name: str) -> str:
    """(x - mean) Cᵀ, over the deviations where it whitens."""
    variances = estimator.explained_variance_
    floor = np.finfo(np.asarray(variances).dtype).eps
    deviation = np.maximum(np.sqrt(variances), floor) if estimator.whiten else None
    steps = [
        ("center", "Sub", estimator.mean_, "mean_"),
        ("components", "Gemm", estimator.components_, "components_"),
        ("deviation", "Div", deviation, "sqrt(explained_variance_)"),
    ]
    return _chain(net, x, name, *steps, transB=1)


def _svd_step(net: GaussianBayesNet, estimator: Any, x: str, name: str) -> str:
    return _chain(net, x, name, ("components", "Gemm", estimator.components_, "components_"), transB=1)


def _factors_step(net: GaussianBayesNet, estimator: Any, x: str, name: str) -> str:
    """The posterior mean of the factors, (x - mean) Ψ⁻¹ W (I + Wᵀ Ψ⁻¹ W)⁻¹."""
    weight = np.asarray(estimator.components_).T
    scaled = weight / np.asarray(estimator.noise_variance_)[:, None]
    regression = np.linalg.solve(np.eye(weight.shape[1]) + weight.T @ scaled, scaled.T)
    steps = ("center", "Sub", estimator.mean_, "mean_"), ("regression", "Gemm", regression, "components_")
    return _chain(net, x, name, *steps, transB=1)


TRANSFORMERS: dict[str, Transformer] = {
    "StandardScaler": _standard_scaler,
    "RobustScaler": _robust_scaler,
    "MaxAbsScaler": _max_abs_scaler,
    "MinMaxScaler": _min_max_scaler,
    "PCA": _pca_step,
    "TruncatedSVD": _svd_step,
    "FactorAnalysis": _factors_step,
}


def _factor_net(weight: Array, mean: Array, noise: Any) -> GaussianBayesNet:
    """z ~ N(0, I), x ~ N(zᵀ W + mean, noise).  W: (factors, features), as scikit-learn has it."""
    net = GaussianBayesNet(dtype=np.result_type(weight, np.float32))
    net.add_input("z", len(weight), mean=0.0, cov=1.0)
    terms = [net.add_parameter("x.z.weight", weight), net.add_parameter("x.bias", mean)]
    net.add("x", "Gemm", ["z", *terms], cov=noise)
    net.set_outputs(["x"])
    return net


def _pca_net(estimator: Any) -> GaussianBayesNet:
    """Probabilistic PCA: W = √(explained variance - noise) C; whitening is no part of the model of x.

    W is no array of the estimator, so that nothing of this net is written back.
    """
    noise = float(estimator.noise_variance_)
    if noise <= 0:
        raise ConversionError(
            f"this PCA keeps {len(estimator.components_)} components, which leave no noise, so that x has no density; "
            "fit it with fewer (n_components), or put it into a Pipeline, where it is a projection"
        )
    excess = np.maximum(estimator.explained_variance_ - noise, 0.0)
    return _factor_net(np.sqrt(excess)[:, None] * estimator.components_, estimator.mean_, noise)


def _factor_analysis_net(estimator: Any) -> GaussianBayesNet:
    net = _factor_net(np.asarray(estimator.components_), estimator.mean_, estimator.noise_variance_)
    described(net, "x.z.weight", "components_")
    described(net, "x.bias", "mean_")
    return net


FACTORS: dict[str, Callable[[Any], GaussianBayesNet]] = {
    "PCA": _pca_net,
    "FactorAnalysis": _factor_analysis_net,
}


def unknown(estimator: Any, tables: tuple[dict[str, Any], ...]) -> str:
    """Why a class is not taken, and what is."""
    known = [name for table in tables for name in table]
    return f"not known; {near_matches(type(estimator).__name__, known)}"
