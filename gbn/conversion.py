"""The way in: from the model of another library to a net, by whichever converter takes it.

Converters are found through the entry-point group ``gbn.converters``.  Each entry names a module with
``accepts(obj) -> bool``, which must not import the library it is for, and
``convert(obj, example=None, **options) -> GaussianBayesNet``, which returns a graph without noise and may take
``sample_axis``; a ``TAKES`` string says what it takes.  One that reads files may have ``load(path)``, which gives the
model in a file.  A module whose nets bring their own noise says ``COMPLETE = True``, or where only some do, has a
function ``COMPLETE(obj) -> bool``; no policy is applied to such nets.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from inspect import signature
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from gbn.errors import ConversionError
from gbn.latents import assign_noise
from gbn.net import GaussianBayesNet

__all__ = ["GROUP", "convert", "converters", "load_model", "takes"]

GROUP = "gbn.converters"
# Served where nothing is registered: a checkout that is not installed.
_BARE = "converters"


def convert(
    obj_or_path: Any,
    example: Any = None,
    *,
    latents: str | Iterable[str] = "affine",
    noise: Any = 1.0,
    output_noise: Any = 1.0,
    likelihood: str | Mapping[str, str | None] | None = "auto",
    sample_axis: int | Sequence[int | None] | None = 0,
    **options: Any,
) -> GaussianBayesNet:
    """Read a neural network as a Gaussian Bayes net.

    Args:
        obj_or_path: a model, or the path of one; which kinds is up to the converters installed.
        example: a batch of inputs, shape (samples, *event), for models that must be traced; a tuple for several inputs.
        latents, noise, output_noise: which vertices are random, and their covariances; see
            :func:`gbn.latents.assign_noise`.  Models that bring their own noise (pgmpy, networkx, factor
            models) take none of these.
        likelihood: what the outputs are observed by.

            - "auto": the labels that the converter knows the model to be trained with (a classifier of scikit-learn);
              else an output that ends in Softmax or LogSoftmax is "categorical", one that ends in Sigmoid
              "bernoulli", and any other Gaussian, as is one that is named in ``latents``, ``noise`` or
              ``output_noise``.
            - "categorical", "bernoulli": every output, which holds logits or ends in that op.
            - "gaussian" or None: every output, whatever it ends in.
            - a mapping output -> one of these; "auto" for the outputs that it leaves out.

            A labelled output gets a leaf ``<output>.label``, which is what to observe; it hangs on the logits: the
            output itself, or what its Softmax, LogSoftmax or Sigmoid reads (with the classes moved to axis 1, where
            labels have them).  Both have no noise; the output stays in the net and gives the probabilities.
        sample_axis: the axis of the model's inputs that counts the samples, one for all inputs or a sequence with one
            for each; the net has samples on axis 0 of every vertex nonetheless, ``(N, *the other axes)``, and an output
            whose model merges samples with another axis has that axis in its event.  None: the whole of an input is
            one sample, so that each vertex has one more axis in front than the model's tensor.
        options: passed to the converter.

    Raises:
        ConversionError: no converter takes the object, or the one that does cannot convert it.
        UnknownNameError, GraphError, CovarianceError: the policy does not fit the net.
    """
    _check_path(obj_or_path)
    converter = _converter(obj_or_path)
    if sample_axis != 0:
        _check_takes_axes(converter, sample_axis)
        options["sample_axis"] = sample_axis
    complete = getattr(converter, "COMPLETE", False)
    if complete(obj_or_path) if callable(complete) else complete:
        _refuse_policy(latents=latents, noise=noise, output_noise=output_noise, likelihood=likelihood)
        return converter.convert(obj_or_path, example, **options)  # type: ignore[no-any-return]
    net = converter.convert(obj_or_path, example, **options)
    assign_noise(net, latents, noise, output_noise, likelihood)
    return net


def _check_takes_axes(converter: ModuleType, sample_axis: Any) -> None:
    if "sample_axis" not in signature(converter.convert).parameters:
        raise ConversionError(
            f"sample_axis: got {sample_axis!r}, but {converter.__name__} knows samples on axis 0 only; wrap the model "
            "so that they are on axis 0 of its inputs and outputs"
        )


def load_model(path: str | PathLike[str]) -> Any:
    """The model in a file, read by the converter that takes it, as safely as it is converted.

    Raises:
        ConversionError: no such file, no converter that takes it, or one that has only the net of it to give.
    """
    _check_path(path)
    converter = _converter(path)
    if not hasattr(converter, "load"):
        raise ConversionError(
            f"{path}: this file can be converted, but holds no model that runs by itself; "
            "give a .pt2 file, or the model itself"
        )
    return converter.load(path)


def takes(obj_or_path: Any) -> bool:
    """Whether an installed converter takes an object or a path."""
    return any(module.accepts(obj_or_path) for module in converters())


def _check_path(path: Any) -> None:
    if isinstance(path, (str, PathLike)) and not Path(path).exists():
        raise ConversionError(f"no file {str(path)!r}; give a model, or the path of a file that holds one")


def _refuse_policy(**given: Any) -> None:
    """Raise ConversionError where a policy is asked for that would not be applied."""
    defaults = signature(convert).parameters
    for argument, value in given.items():
        default = defaults[argument].default
        if type(value) is not type(default) or value != default:
            raise ConversionError(
                f"{argument}: got {value!r}, but this model brings the noise of its CPDs with it; leave the argument "
                "out, and change the net afterwards with net.set_noise({name: variance})"
            )


def converters() -> list[ModuleType]:
    """The converter modules, those of third parties first; one that does not load is left out with a warning."""
    entries = metadata.entry_points(group=GROUP)
    if not entries:
        builtin = importlib.import_module(_BARE).BUILTIN
        entries = metadata.EntryPoints(metadata.EntryPoint(n.rpartition(".")[2], n, GROUP) for n in builtin)
    # A third party may specialise in what a converter of ours takes too.
    ordered = sorted(entries, key=lambda entry: (entry.value.startswith(f"{_BARE}."), entry.name))
    return [module for entry in ordered if (module := _load(entry)) is not None]


def _load(entry: metadata.EntryPoint) -> ModuleType | None:
    try:
        module = entry.load()
    except Exception as error:  # whatever a third party raises, the others still work
        warnings.warn(
            f"the converter {entry.name!r} ({entry.value}) does not load and is left out: "
            f"{type(error).__name__}: {error}",
            stacklevel=4,
        )
        return None
    missing = [name for name in ("accepts", "convert") if not callable(getattr(module, name, None))]
    if missing:
        warnings.warn(
            f"the converter {entry.name!r} ({entry.value}) is left out: it has no function {' and no '.join(missing)}",
            stacklevel=4,
        )
        return None
    return module


def _converter(obj: Any) -> ModuleType:
    installed = converters()
    for module in installed:
        if module.accepts(obj):
            return module
    taken = "\n  - ".join(getattr(module, "TAKES", module.__name__) for module in installed) or "none"
    kind = f"file {str(obj)!r}" if isinstance(obj, (str, PathLike)) else f"object of type {_full_name(type(obj))}"
    raise ConversionError(f"no converter takes the {kind}; the converters installed take\n  - {taken}")


def _full_name(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
