"""Converters: from the model of another library to a :class:`gbn.GaussianBayesNet`.

One module per source, each with ``accepts(obj)`` and ``convert(obj, example=None, **options)``; gbn finds them through
the entry-point group ``gbn.converters``, the same door third parties use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = ["BUILTIN", "from_keras", "from_networkx", "from_pgmpy", "from_sklearn", "from_spec", "from_torch"]

BUILTIN = (
    "converters.torch",
    "converters.sklearn",
    "converters.pgmpy",
    "converters.networkx",
    "converters.keras",
    "converters.spec",
)


def from_torch(
    module: Any,
    example: Any = None,
    *,
    latents: str | Iterable[str] = "affine",
    noise: Any = 1.0,
    output_noise: Any = 1.0,
    likelihood: str | Mapping[str, str | None] | None = None,
) -> GaussianBayesNet:
    """Convert a PyTorch module; see :func:`converters.torch.convert` and :func:`gbn.latents.assign_noise`.

    Raises:
        ConversionError: listing every layer that has no counterpart.
    """
    from converters.torch import convert
    from gbn.latents import assign_noise

    net = convert(module, example)
    assign_noise(net, latents, noise, output_noise, likelihood)
    return net


def from_sklearn(
    estimator: Any,
    *,
    latents: str | Iterable[str] = "affine",
    noise: Any = 1.0,
    output_noise: Any = 1.0,
    likelihood: str | Mapping[str, str | None] | None = None,
) -> GaussianBayesNet:
    """Convert a fitted scikit-learn network; see :func:`converters.sklearn.convert`.

    ``likelihood`` None keeps what the estimator trains with: categorical or bernoulli labels for a classifier.

    Raises:
        ConversionError: not fitted, or of a kind that is not supported.
    """
    from converters.sklearn import convert
    from gbn.latents import assign_noise

    net = convert(estimator)
    assign_noise(net, latents, noise, output_noise, likelihood)
    return net


def from_keras(
    model: Any,
    example: Any = None,
    *,
    latents: str | Iterable[str] = "affine",
    noise: Any = 1.0,
    output_noise: Any = 1.0,
    likelihood: str | Mapping[str, str | None] | None = None,
    **options: Any,
) -> GaussianBayesNet:
    """Convert a Keras model or a ``.keras`` file; see :func:`converters.keras.convert`.

    ``likelihood`` None keeps what the last activation says: categorical below a softmax, bernoulli below a sigmoid.

    Raises:
        ConversionError: listing every layer that has no counterpart.
    """
    from converters.keras import convert
    from gbn.latents import assign_noise

    net = convert(model, example, **options)
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


def from_spec(
    description: Any,
    *,
    latents: str | Iterable[str] = "affine",
    noise: Any = 1.0,
    output_noise: Any = 1.0,
    likelihood: str | Mapping[str, str | None] | None = None,
    **options: Any,
) -> GaussianBayesNet:
    """Convert a list of layers or variables; see :func:`converters.spec.convert`.

    Noise and likelihood are given to a list of layers that states no noise; others keep what they state.

    Raises:
        ConversionError: listing every fault, with its line and path.
    """
    from converters.spec import COMPLETE, convert
    from gbn.latents import assign_noise

    net = convert(description, **options)
    if not COMPLETE(description):
        assign_noise(net, latents, noise, output_noise, likelihood)
    return net
