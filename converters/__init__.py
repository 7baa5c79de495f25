"""Converters: from the model of another library to a :class:`gbn.GaussianBayesNet`.

One module per source, each with ``accepts(obj)`` and ``convert(obj, example=None, **options)``; gbn finds them through
the entry-point group ``gbn.converters``, the same door third parties use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = ["BUILTIN", "from_networkx", "from_onnx", "from_pgmpy", "from_sklearn", "from_torch"]

BUILTIN = ("converters.torch", "converters.onnx", "converters.sklearn", "converters.pgmpy", "converters.networkx")


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
    from converters.torch import convert
    from gbn.latents import assign_noise

    net = convert(module, example, sample_axis=sample_axis)
    assign_noise(net, latents, noise, output_noise, likelihood)
    return net


def from_onnx(
    model: Any,
    example: Any = None,
    *,
    latents: str | Iterable[str] = "affine",
    noise: Any = 1.0,
    output_noise: Any = 1.0,
    likelihood: str | Mapping[str, str | None] | None = None,
    sample_axis: int | Sequence[int | None] | None = 0,
) -> GaussianBayesNet:
    """Convert an ONNX model; see :func:`converters.onnx.convert` and :func:`gbn.latents.assign_noise`.

    Raises:
        ConversionError: listing every node that has no counterpart.
    """
    from converters.onnx import convert
    from gbn.latents import assign_noise

    net = convert(model, example, sample_axis=sample_axis)
    assign_noise(net, latents, noise, output_noise, likelihood)
    return net


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
    from converters.sklearn import convert
    from gbn.latents import assign_noise

    net = convert(estimator)
    assign_noise(net, latents, noise, output_noise, likelihood)
    return net


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
