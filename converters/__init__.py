"""Converters: from the model of another library to a :class:`gbn.GaussianBayesNet`.

One module per source, each with ``accepts(obj)`` and ``convert(obj, example=None, **options)``; gbn finds them through
the entry-point group ``gbn.converters``, the same door third parties use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

if TYPE_CHECKING:
    from gbn.net import GaussianBayesNet

__all__ = [
    "BUILTIN",
    "Policy",
    "from_keras",
    "from_networkx",
    "from_onnx",
    "from_pgmpy",
    "from_sklearn",
    "from_spec",
    "from_torch",
]

BUILTIN = tuple(f"converters.{source}" for source in ("torch", "onnx", "keras", "sklearn", "spec", "pgmpy", "networkx"))


class Policy(TypedDict, total=False):
    """Noise and likelihood of a net whose model brings none; see :func:`gbn.latents.assign_noise`."""

    latents: str | Iterable[str]
    noise: Any
    output_noise: Any
    likelihood: str | Mapping[str, str | None] | None


def _converted(source: str, model: Any, example: Any, policy: Policy, **options: Any) -> GaussianBayesNet:
    """The net of a model, with noise by the policy where it does not bring its own."""
    from gbn.errors import ConversionError
    from gbn.latents import assign_noise

    converter = import_module(f"converters.{source}")
    net = converter.convert(model, example, **options)
    complete = getattr(converter, "COMPLETE", False)
    if not (complete(model) if callable(complete) else complete):
        assign_noise(net, **policy)
    elif policy:
        raise ConversionError(
            f"{', '.join(policy)}: this model brings the noise of its CPDs with it; leave the argument out, and change "
            "the net afterwards with net.set_noise({name: variance})"
        )
    return net  # type: ignore[no-any-return]


def from_torch(
    module: Any, example: Any = None, *, sample_axis: int | Sequence[int | None] | None = 0, **policy: Unpack[Policy]
) -> GaussianBayesNet:
    """Convert a PyTorch module; see :func:`converters.torch.convert` and :class:`Policy`.

    Raises:
        ConversionError: listing every layer that has no counterpart.
    """
    return _converted("torch", module, example, policy, sample_axis=sample_axis)


def from_onnx(
    model: Any, example: Any = None, *, sample_axis: int | Sequence[int | None] | None = 0, **policy: Unpack[Policy]
) -> GaussianBayesNet:
    """Convert an ONNX model; see :func:`converters.onnx.convert` and :class:`Policy`.

    Raises:
        ConversionError: listing every node that has no counterpart.
    """
    return _converted("onnx", model, example, policy, sample_axis=sample_axis)


def from_keras(
    model: Any, example: Any = None, *, max_bytes: int = 4 << 30, **policy: Unpack[Policy]
) -> GaussianBayesNet:
    """Convert a Keras model or a ``.keras`` file; see :func:`converters.keras.convert` and :class:`Policy`.

    Raises:
        ConversionError: listing every layer that has no counterpart.
    """
    return _converted("keras", model, example, policy, max_bytes=max_bytes)


def from_sklearn(estimator: Any, **policy: Unpack[Policy]) -> GaussianBayesNet:
    """Convert a fitted scikit-learn estimator; see :func:`converters.sklearn.convert` and :class:`Policy`.

    ``likelihood`` "auto" keeps what the estimator trains with: categorical or bernoulli labels for a classifier.

    Raises:
        ConversionError: not fitted, or of a kind that is not supported; a policy for a factor model.
    """
    return _converted("sklearn", estimator, None, policy)


def from_spec(description: Any, *, max_bytes: int = 4 << 30, **policy: Unpack[Policy]) -> GaussianBayesNet:
    """Convert a list of layers or variables; see :func:`converters.spec.convert` and :class:`Policy`.

    Noise and likelihood are given to a list of layers that states no noise; others keep what they state.

    Raises:
        ConversionError: listing every fault, with its line and path; a policy where there is noise.
    """
    return _converted("spec", description, None, policy, max_bytes=max_bytes)


def from_pgmpy(model: Any) -> GaussianBayesNet:
    """Convert a linear-Gaussian model of pgmpy, noise included; see :func:`converters.pgmpy.convert`.

    Raises:
        ConversionError: listing every variable without a CPD that fits.
    """
    return _converted("pgmpy", model, None, {})


def from_networkx(graph: Any) -> GaussianBayesNet:
    """Convert a directed graph of scalar neurons, noise included; see :func:`converters.networkx.convert`.

    Raises:
        ConversionError: naming the node or edge at fault.
    """
    return _converted("networkx", graph, None, {})
