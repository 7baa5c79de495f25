"""Keras 3: models of layers, Sequential or functional, of any backend, and ``.keras`` files.

Importing this module does not import Keras, and a file is read without it: the configuration says what the layers are,
and h5py reads the variables.  Every layer's result is a vertex of the layer's name (inside another model
``model.layer``, at its second call ``layer#2``).  Before an activation lies ``layer.affine``, or before probabilities
``layer.logits``; other steps of a layer are ``layer.<step>``.  Parameters are ``layer.kernel``, ... in Keras's own
shape, with the path of the Keras variable as their source (of a file: its place in the file).
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from gbn.errors import ConversionError
from gbn.net import GaussianBayesNet

__all__ = ["TAKES", "accepts", "convert"]

TAKES = "Keras 3: Sequential or functional keras.Model (any backend), .keras file"
_LEGACY = (".h5", ".hdf5")


def accepts(obj: Any) -> bool:
    """Whether this converter is the one for an object; decided without importing Keras.

    Under the backend of PyTorch a layer of Keras is a torch module as well; it is Keras's all the same.
    """
    if isinstance(obj, (str, PathLike)):
        return Path(obj).suffix.lower() in (".keras", *_LEGACY)
    return any(base.__module__.partition(".")[0] == "keras" and base.__name__ == "Layer" for base in type(obj).__mro__)


def convert(obj: Any, example: Any = None, *, max_bytes: int = 4 << 30, **options: Any) -> GaussianBayesNet:
    """The computation graph of a Keras model at inference, without noise yet.

    Args:
        obj: a ``keras.Sequential`` or a functional ``keras.Model``, or the path of a ``.keras`` file.
        example: a batch of inputs, shape (samples, *event), or a tuple of them; needed only where the model leaves a
            size open.
        max_bytes: what a file's members, and trying one op on two samples, may need.

    Raises:
        ConversionError: a model without graph of layers; layers without counterpart, all of them listed with their
            paths; a file that is damaged.
        MissingDependencyError: a file is to be read and h5py is not installed.
    """
    from converters._keras.archive import read
    from converters._keras.graph import convert_model
    from converters._keras.records import LiveWeights

    if options:
        raise ConversionError(f"options of the Keras converter: got {sorted(options)}, expected max_bytes")
    if isinstance(obj, (str, PathLike)):
        record, weights = read(_checked(Path(obj)), max_bytes)
        return convert_model(record, weights, example, max_bytes)
    return convert_model(_record(obj), LiveWeights(obj), example, max_bytes)


def _checked(path: Path) -> Path:
    if path.suffix.lower() in _LEGACY:
        raise ConversionError(
            f"{path.name}: the HDF5 format of Keras 2 is not read; load the model with keras.models.load_model and "
            "convert it, or write it with model.save('name.keras')"
        )
    return path


def _record(model: Any) -> dict[str, Any]:
    """The model as Keras serialises it: what a .keras file holds."""
    bases = type(model).__mro__
    names = [base.__name__ for base in bases if base.__module__.partition(".")[0] == "keras"]
    kind = next((name for name in names if name in ("Sequential", "Functional")), type(model).__name__)
    if kind not in ("Sequential", "Functional"):
        raise ConversionError(
            f"{kind} is a class of its own, whose code says how its layers are joined; build the same with "
            "keras.Sequential or keras.Model(inputs, outputs)"
        )
    # A model's own class may keep a configuration that says nothing of its layers.
    owner: Any = next(base for base in bases if base.__name__ == kind)
    # As text, tuples are the lists that they are in a file.
    return json.loads(
        json.dumps({"module": "keras", "class_name": kind, "config": owner.get_config(model)}, default=str)
    )  # type: ignore[no-any-return]
