"""scikit-learn: fitted multi-layer perceptrons.  Importing this module does not import scikit-learn.

The estimator's arrays are all that is read: layer k is ``layerk`` (affine), ``layerk.<activation>``, and the last one
``output``, or ``logits`` under a classifier's labels.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from gbn.errors import ConversionError
from gbn.net import GaussianBayesNet

__all__ = ["TAKES", "accepts", "convert"]

TAKES = "scikit-learn: fitted MLPClassifier, MLPRegressor"
_PICKLES = (".joblib", ".pkl", ".pickle")
_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "identity": None}
_REGRESSIONS = {"identity": None, "exp": "Exp"}
# What the output activation of a classifier says about its labels.
_LIKELIHOODS = {"softmax": "categorical", "logistic": "bernoulli"}


def accepts(obj: Any) -> bool:
    """Whether this converter is the one for an object; decided without importing scikit-learn."""
    if isinstance(obj, (str, PathLike)):
        return Path(obj).suffix.lower() in _PICKLES
    return any(base.__module__.partition(".")[0] == "sklearn" for base in type(obj).__mro__)


def convert(obj: Any, example: Any = None, **options: Any) -> GaussianBayesNet:
    """The computation graph of a fitted network, with labels under a classifier's logits and no noise yet.

    Args:
        obj: an ``MLPClassifier`` or ``MLPRegressor``.
        example: not needed.

    Raises:
        ConversionError: another estimator, one that is not fitted, or a pickle file.
    """
    if options:
        raise ConversionError(f"options of the scikit-learn converter: got {sorted(options)}, expected none")
    if isinstance(obj, (str, PathLike)):
        raise ConversionError(
            f"{Path(obj).name}: a pickle can run any code when it is loaded; load it yourself, if you trust it, "
            "and convert the estimator"
        )
    _check(obj)
    net = GaussianBayesNet(dtype=obj.coefs_[0].dtype)
    net.add_input("x", obj.coefs_[0].shape[0])
    _describe_features(net, obj)
    if hasattr(obj, "classes_"):
        likelihood = _entry(_LIKELIHOODS, obj.out_activation_, "out_activation_")
        net.set_outputs([_add_layers(net, obj, "logits")])
        _add_label(net, obj, likelihood)
        return net
    final = _entry(_REGRESSIONS, obj.out_activation_, "out_activation_")
    last = _add_layers(net, obj, "output" if final is None else f"layer{len(obj.coefs_)}")
    net.set_outputs([last if final is None else net.add("output", final, [last])])
    return net


def _entry(table: dict[str, Any], key: str, argument: str) -> Any:
    if key not in table:
        raise ConversionError(f"{argument}: got {key!r}, expected one of {', '.join(map(repr, table))}")
    return table[key]


def _check(estimator: Any) -> None:
    kind = type(estimator).__name__
    bases = {base.__name__ for base in type(estimator).__mro__}
    if not bases & {"MLPClassifier", "MLPRegressor"}:
        raise ConversionError(
            f"{kind} is not a neural network that this converter knows; it takes MLPClassifier and MLPRegressor (of a "
            "pipeline, convert the last step and transform the data before)"
        )
    if not hasattr(estimator, "coefs_"):
        raise ConversionError(f"this {kind} is not fitted; call fit(X, y) before converting it")


def _add_layers(net: GaussianBayesNet, estimator: Any, output: str) -> str:
    """Affine layers and activations; the name of the last one."""
    last, value = len(estimator.coefs_), "x"
    for k, (weight, bias) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True), start=1):
        layer = f"layer{k}"
        net.add_parameter(f"{layer}.weight", weight)
        net.add_parameter(f"{layer}.bias", bias)
        net.describe(f"{layer}.weight", source=f"coefs_[{k - 1}]")
        net.describe(f"{layer}.bias", source=f"intercepts_[{k - 1}]")
        name = output if k == last else layer
        value = net.add(name, "Gemm", [value, f"{layer}.weight", f"{layer}.bias"])
        if k < last:
            value = _activate(net, value, estimator.activation)
    return value


def _activate(net: GaussianBayesNet, layer: str, activation: str) -> str:
    op = _entry(_ACTIVATIONS, activation, "activation")
    return layer if op is None else net.add(f"{layer}.{activation}", op, [layer])


def _describe_features(net: GaussianBayesNet, estimator: Any) -> None:
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        net.describe("x", source="features " + ", ".join(map(str, names)))


def _add_label(net: GaussianBayesNet, estimator: Any, likelihood: str) -> None:
    """The leaf that a classifier trains with; its classes are numbered in the order of ``classes_``."""
    source = "classes " + ", ".join(map(str, np.ravel(estimator.classes_).tolist()))
    net.describe(net.add_likelihood("logits.label", likelihood, "logits"), source=source)
    net.describe("logits", source=source)
