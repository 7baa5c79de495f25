"""A list of layers, or of variables, in JSON, in YAML, or as dicts and lists of Python.

**Layers.**  Entries of ``layers`` are added in order; each reads the one before it, or those it names in ``inputs``::

    inputs:
      - {name: x, shape: [8, 8, 1]}
    layers:
      - {name: c, type: conv, filters: 4, kernel_size: 3, padding: same, activation: relu}
      - {type: max_pooling, pool_size: 2}
      - {type: flatten}
      - {name: h, type: dense, units: 16}
      - {type: tanh}
      - {name: y, type: dense, units: 3, activation: softmax}
    weights: {init: glorot, seed: 0}

``inputs``
    ``name``, ``shape`` (the sizes of one sample, samples excluded); ``mean`` and ``variance`` for a Gaussian prior.  An
    input may also stand among the layers, as ``type: input``; so a list is a description by itself.

``layers``
    ``type``, and of every type ``name`` (default: the type, numbered where it occurs again), ``inputs`` (a name or a
    list), ``noise`` (variance of the layer's result: a number, a list, or a matrix), ``prior`` (variance of a Gaussian
    prior on each of its weights), ``frozen: true``, and ``weights`` (variable -> numbers).  A type means the layer of
    Keras that has this name, its other keys are named and defined as there, and the channels come last unless
    ``data_format: channels_first``:

    - ``dense`` (units), ``embedding`` (input_dim, output_dim);
    - over 1 to 3 spatial axes, as the input has: ``conv`` (filters, kernel_size; strides, padding, dilation_rate,
      groups), ``conv_transpose``, ``depthwise_conv``, ``separable_conv``, ``max_pooling`` and ``average_pooling``
      (pool_size), ``global_max_pooling``, ``global_average_pooling``, ``up_sampling`` (size), ``zero_padding``
      (padding), ``cropping`` (cropping);
    - ``batch_normalization``, ``layer_normalization``, ``group_normalization`` (groups), ``rms_normalization``,
      ``unit_normalization``, ``rescaling`` (scale);
    - ``flatten``, ``reshape`` (target_shape), ``permute`` (dims), ``repeat_vector`` (n), ``dropout`` (nothing, at
      inference);
    - ``add``, ``subtract``, ``multiply``, ``average``, ``maximum``, ``minimum``, ``concatenate`` (axis) and ``dot``
      (axes), which read several layers;
    - ``simple_rnn``, ``gru``, ``lstm`` (units; return_sequences, go_backwards), and ``attention`` (num_heads, key_dim),
      which reads a query and a value, and where there is a third, a key;
    - the activation functions: ``relu``, ``tanh``, ``sigmoid``, ``softmax``, ``gelu``, ...

    Layers with weights take ``activation`` and ``use_bias``.  Variables are named as in Keras, ``<layer>.kernel``,
    ``<layer>.bias``, ..., with Keras's shapes: (in, units) for ``dense``, (\\*kernel, in, filters) for ``conv``.

``weights``
    Where weights come from that no layer holds itself: ``random`` (the default), ``{init: ..., seed: ...}`` with init
    one of glorot (uniform ± √(6 / (fan-in + fan-out)), the default), he (normal, variance 2 / fan-in), normal (variance
    1 / fan-in) or zeros; or the name of an ``.npz`` file in the description's folder, with a member for each variable,
    such as ``np.savez("weights.npz", **net.to_state_dict())`` writes.  Random biases are zeros, and the gains of
    normalisations ones.

``outputs``
    Names; by default the layers that no other reads.

``likelihood``
    ``auto`` (the default: logits and a categorical label in the place of a softmax, a bernoulli label for a sigmoid),
    ``gaussian``, ``categorical`` or ``bernoulli``, or a mapping output -> one of these.

``dtype``
    ``float64`` (the default) or ``float32``.

Where a layer states its ``noise``, the description is complete: vertices without noise are deterministic, and no policy
of conversion is applied.

**Variables.**  A linear-Gaussian Bayes net, v ~ N(Σ_p W_p v_p + bias, variance), in any order::

    variables:
      rain: {bias: 2.0, variance: 1.0}
      sprinkler: {parents: {rain: -0.5}, bias: 3.0, variance: 0.5}
      grass: {parents: {rain: 1.0, sprinkler: 0.8}, variance: 0.1}

A weight is a number, or a matrix (child, parent) where a variable has several entries (``size``, or as many as its bias
or variance has).  A variable without parents and variance must be observed; one with parents and no variance is
deterministic.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from converters._spec.nodes import Faults, Node, of_file, of_object
from gbn.errors import ConversionError
from gbn.net import GaussianBayesNet

__all__ = ["COMPLETE", "TAKES", "accepts", "convert"]

TAKES = "a list of layers or variables: dict or list, .json file, .yaml file"
_SUFFIXES = (".json", ".yaml", ".yml")


def accepts(obj: Any) -> bool:
    """Whether this converter is the one for an object."""
    if isinstance(obj, (str, PathLike)):
        return Path(obj).suffix.lower() in _SUFFIXES
    return type(obj) in (dict, list)


def COMPLETE(obj: Any) -> bool:
    """Whether a description states the noise of its vertices: of variables it does, of layers where one has any."""
    top = _tree(obj, Faults(""))
    return "variables" in top.value or any(
        isinstance(layer.value, dict) and "noise" in layer.value
        for layer in (top.value["layers"].value if isinstance(top.value.get("layers", top).value, list) else [])
    )


def convert(obj: Any, example: Any = None, *, max_bytes: int = 4 << 30, **options: Any) -> GaussianBayesNet:
    """The net of a description, with the noise, priors and labels that it states.

    Args:
        obj: a dict or list, or the path of a ``.json``, ``.yaml`` or ``.yml`` file, in the format of this module's
            docstring.
        example: not needed.
        max_bytes: what all weights, and trying one op on two samples, may need.

    Raises:
        ConversionError: listing every fault, with its line in a file, its path, and the nearest key there is.
        MissingDependencyError: a YAML file, and PyYAML is not installed.
    """
    from converters._spec.bayes import bayes_net
    from converters._spec.layered import Layered

    if options:
        raise ConversionError(f"options of the converter of layer lists: got {sorted(options)}, expected max_bytes")
    faults = Faults(Path(obj).name if isinstance(obj, (str, PathLike)) else "the description")
    top = _tree(obj, faults)
    if "variables" in top.value:
        return bayes_net(top, faults)
    folder = Path(obj).parent if isinstance(obj, (str, PathLike)) else Path.cwd()
    return Layered(top, folder, faults, max_bytes).net()


def _tree(obj: Any, faults: Faults) -> Node:
    """The description as a mapping; a list is one of layers."""
    top = of_file(Path(obj), faults) if isinstance(obj, (str, PathLike)) else of_object(obj)
    if isinstance(top.value, list):
        return Node({"layers": top}, top.path, top.line)
    if not isinstance(top.value, dict):
        raise ConversionError(f"{faults.source or 'the description'}: expected a mapping, or a list of layers")
    return top
