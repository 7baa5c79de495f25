"""Converters: from the model of another library to a :class:`gbn.GaussianBayesNet`.

One module per source, each with ``accepts(obj)`` and ``convert(obj, example=None, **options)``; gbn finds them through
the entry-point group ``gbn.converters``, the same door third parties use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = [
    "BUILTIN",
    "from_keras",
    "from_networkx",
    "from_onnx",
    "from_pgmpy",
    "from_sklearn",
    "from_spec",
    "from_torch",
]

BUILTIN = tuple(f"converters.{source}" for source in ("torch", "onnx", "keras", "sklearn", "spec", "pgmpy", "networkx"))


def _converted(source: str, model: Any, example: Any, policy: tuple[Any, Any, Any, Any], **options: Any) -> Any:
    """The net of a model, with noise by the policy where it does not bring its own."""
    from gbn.latents import assign_noise

    converter = import_module(f"converters.{source}")
    net = converter.convert(model, example, **options)
    complete = getattr(converter, "COMPLETE", False)
    if not (complete(model) if callable(complete) else complete):
        assign_noise(net, *policy)
    return net


def from_torch(
    module: Any,
    example: Any = None,
    *,
    latents: str | Iterable[str] = "affine",
    noise: Any = 1.0,
    output_noise: Any = 1.0,
    likelihood: str | Mapping[str, str | None] | None = "auto",
    sample_axis: int | Sequence[int | None] | None = 0,
) -> GaussianBayesNet:
    """Convert a PyTorch module; see :func:`converters.torch.convert` and :func:`gbn.latents.assign_noise`.

    Raises:
        ConversionError: listing every layer that has no counterpart.
    """
    return _converted("torch", module, example, (latents, noise, output_noise, likelihood), sample_axis=sample_axis)


def from_onnx(
    model: Any,
    example: Any = None,
    *,
    latents: str | Iterable[str] = "affine",
    noise: Any = 1.0,
    output_noise: Any = 1.0,
    likelihood: str | Mapping[str, str | None] | None = "auto",
    sample_axis: int | Sequence[int | None] | None = 0,
) -> GaussianBayesNet:
    """Convert an ONNX model; see :func:`converters.onnx.convert` and :func:`gbn.latents.assign_noise`.

    Raises:
        ConversionError: listing every node that has no counterpart.
    """
    return _converted("onnx", model, example, (latents, noise, output_noise, likelihood), sample_axis=sample_axis)


def from_sklearn(
    estimator: Any,
    *,
    latents: str | Iterable[str] = "affine",
    noise: Any = 1.0,
    output_noise: Any = 1.0,
    likelihood: str | Mapping[str, str | None] | None = "auto",
) -> GaussianBayesNet:
    """Convert a fitted scikit-learn network; see :func:`converters.sklearn.convert`.

    ``likelihood`` "auto" keeps what the estimator trains with: categorical or bernoulli labels for a classifier.

    Raises:
        ConversionError: not fitted, or of a kind that is not supported.
    """
    return _converted("sklearn", estimator, None, (latents, noise, output_noise, likelihood))


def from_keras(
    model: Any,
    example: Any = None,
    *,
    latents: str | Iterable[str] = "affine",
    noise: Any = 1.0,
    output_noise: Any = 1.0,
    likelihood: str | Mapping[str, str | None] | None = "auto",
    **options: Any,
) -> GaussianBayesNet:
    """Convert a Keras model or a ``.keras`` file; see :func:`converters.keras.convert`.

    ``likelihood`` "auto" keeps what the last activation says: categorical below a softmax, bernoulli below a sigmoid.

    Raises:
        ConversionError: listing every layer that has no counterpart.
    """
    return _converted("keras", model, example, (latents, noise, output_noise, likelihood), **options)


def from_pgmpy(model: Any) -> GaussianBayesNet:
    """Convert a linear-Gaussian model of pgmpy, noise included; see :func:`converters.pgmpy.convert`.

    Raises:
        ConversionError: listing every variable without a CPD that fits.
    """
    from converters.pgmpy import convert

    return convert(model)


def from_networkx(graph: Any) -> GaussianBayesNet:
    """Convert a directed graph of scalar neurons, noise included; see :func:`converters.networkx.convert`.

    Raises:
        ConversionError: naming the node or edge at fault.
    """
    from converters.networkx import convert

    return convert(graph)


def from_spec(
    description: Any,
    *,
    latents: str | Iterable[str] = "affine",
    noise: Any = 1.0,
    output_noise: Any = 1.0,
    likelihood: str | Mapping[str, str | None] | None = "auto",
    **options: Any,
) -> GaussianBayesNet:
    """Convert a list of layers or variables; see :func:`converters.spec.convert`.

    Noise and likelihood are given to a list of layers that states no noise; others keep what they state.

    Raises:
        ConversionError: listing every fault, with its line and path.
    """
    return _converted("spec", description, None, (latents, noise, output_noise, likelihood), **options)
