"""scikit-learn: fitted networks, linear models, scalers, PCA and factor analysis, and pipelines of them.

Importing this module does not import scikit-learn; the estimators' arrays are all that is read.  Data enter at ``x`` (a
factor model has x at the bottom, under its factors ``z``).  A predictor ends in ``output``, or in ``logits`` under a
classifier's labels; a network's layers are ``layerk`` (affine) and ``layerk.<activation>``.  Steps of a pipeline have
the steps' names, and what the last one adds begins with its name.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from converters._sklearn import FACTORS, PREDICTORS, TRANSFORMERS, check, find, unknown
from gbn.errors import ConversionError, UnsupportedLayer
from gbn.net import GaussianBayesNet

__all__ = ["COMPLETE", "TAKES", "accepts", "convert"]

TAKES = (
    "scikit-learn, fitted: MLPClassifier, MLPRegressor, linear models, LogisticRegression, PCA, FactorAnalysis, and "
    "pipelines of scalers and these"
)
_PICKLES = (".joblib", ".pkl", ".pickle")


def COMPLETE(obj: Any) -> bool:
    """Whether the net brings its own noise: that of a factor model does."""
    return find(FACTORS, obj) is not None


def accepts(obj: Any) -> bool:
    """Whether this converter is the one for an object; decided without importing scikit-learn."""
    if isinstance(obj, (str, PathLike)):
        return Path(obj).suffix.lower() in _PICKLES
    return any(base.__module__.partition(".")[0] == "sklearn" for base in type(obj).__mro__)


def convert(obj: Any, example: Any = None, **options: Any) -> GaussianBayesNet:
    """The net of a fitted estimator or pipeline.

    Predictors have labels under a classifier's logits, and no noise yet.  A PCA or FactorAnalysis by itself is its
    generative model, noise included: z ~ N(0, I), x ~ N(W z + mean, Ψ), whose log-evidence is ``score_samples``; inside
    a pipeline it is its ``transform``.

    Args:
        obj: an estimator, or a ``Pipeline``.
        example: not needed.

    Raises:
        ConversionError: estimators that are not known or not fitted, all of them listed, or a pickle file.
    """
    if options:
        raise ConversionError(f"options of the scikit-learn converter: got {sorted(options)}, expected none")
    if isinstance(obj, (str, PathLike)):
        raise ConversionError(
            f"{Path(obj).name}: a pickle can run any code when it is loaded; load it yourself, if you trust it, "
            "and convert the estimator"
        )
    factors = find(FACTORS, obj)
    if factors is not None:
        check(obj)
        return factors(obj)  # type: ignore[no-any-return]
    steps = _steps(obj, "")
    _check_steps(steps)
    net = GaussianBayesNet(dtype=_dtype(steps))
    net.add_input("x", _features(steps[0][1]))
    _describe_features(net, steps[0][1])
    value = "x"
    for name, estimator in steps[:-1]:
        value = find(TRANSFORMERS, estimator)(net, estimator, value, name)
    name, last = steps[-1]
    predictor = find(PREDICTORS, last)
    if predictor is None:
        net.set_outputs([find(TRANSFORMERS, last)(net, last, value, name or "output")])
    else:
        predictor(net, last, value, f"{name}." if name else "")
    return net


def _steps(obj: Any, prefix: str) -> list[tuple[str, Any]]:
    """Estimators by name in the order that data pass them; a pipeline in a pipeline adds its name."""
    if "Pipeline" not in [base.__name__ for base in type(obj).__mro__]:
        return [(prefix, obj)]
    steps = []
    for name, estimator in obj.steps:
        if estimator is not None and not (isinstance(estimator, str) and estimator == "passthrough"):
            steps += _steps(estimator, f"{prefix}.{name}" if prefix else name)
    return steps


def _check_steps(steps: list[tuple[str, Any]]) -> None:
    """Raise ConversionError listing every step that is not known, or not fitted."""
    if not steps:
        raise ConversionError("the pipeline has no steps, and so no model to convert")
    faults = []
    for k, (name, estimator) in enumerate(steps):
        tables = (TRANSFORMERS, PREDICTORS) if k == len(steps) - 1 else (TRANSFORMERS,)
        kind = type(estimator).__name__
        try:
            if all(find(table, estimator) is None for table in tables):
                raise ConversionError(unknown(estimator, tables))
            check(estimator)
        except ConversionError as error:
            faults.append(UnsupportedLayer(name or kind, kind, str(error)))
    if faults:
        raise ConversionError("these estimators cannot be converted:", faults)


def _arrays(estimator: Any) -> list[Any]:
    """Arrays of a fitted estimator that say of which precision it is."""
    if hasattr(estimator, "coefs_"):
        return list(estimator.coefs_)
    return [v for v in (getattr(estimator, name, None) for name in ("coef_", "components_", "scale_")) if v is not None]


def _dtype(steps: list[tuple[str, Any]]) -> Any:
    """float32 where all arrays are."""
    kinds = [array.dtype for _, estimator in steps for array in _arrays(estimator)]
    return np.result_type(*kinds) if kinds else np.float64


def _features(estimator: Any) -> int:
    if hasattr(estimator, "coefs_"):
        return int(estimator.coefs_[0].shape[0])
    return int(estimator.n_features_in_)


def _describe_features(net: GaussianBayesNet, estimator: Any) -> None:
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        net.describe("x", source="features " + ", ".join(map(str, names)))
