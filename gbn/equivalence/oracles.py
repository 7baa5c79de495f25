"""Gradients by the original framework: what local messages are held against.

Nothing here knows a net.  A PyTorch module is differentiated by its own autograd, as is a Keras model whose backend is
PyTorch.  A scikit-learn network has none: it is written out in torch, or differentiated by central differences of its
own predictions where torch is absent.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbn.equivalence import losses
from gbn.equivalence.losses import Loss
from gbn.errors import EvidenceError, InferenceError, MissingDependencyError

__all__ = [
    "Backprop",
    "as_array",
    "difference_gradients",
    "may_end_in_probabilities",
    "prepare",
    "read_target",
    "sklearn_gradients",
    "torch_gradients",
]

Array = np.ndarray[Any, Any]
Gradients = tuple[float, dict[str, Array]]
# Cube root of the rounding error, where truncation and rounding of central differences balance.
_STEP = 6e-6
_KERAS = ("keras.", "Layer")
_OUTPUT_LOSSES = {"identity": "mse", "softmax": "cross_entropy", "logistic": "bce"}


@dataclass(frozen=True)
class Backprop:
    """A backward pass of the original framework, ready to run.

    oracle: a sentence's worth of who computes it.
    run: one forward and one backward pass, in the framework's own arrays: this is what is timed.
    read: the same as numbers: the loss, and parameter name -> gradient.
    rtol: what the oracle itself may be off by, relative; 0 for autograd.
    """

    oracle: str
    run: Callable[[], Any]
    read: Callable[[], Gradients]
    rtol: float = 0.0


def torch_gradients(module: Any, inputs: Any, target: Any, loss: str = "mse", reduction: str = "mean") -> Gradients:
    """Loss and gradients of a PyTorch module by torch autograd, in evaluation mode and the module's dtype.

    The module's own gradients, mode and parameters stay as they are.

    Args:
        inputs: shape (samples, *event); a tuple for several inputs.
        target: as torch takes it for this loss.
        loss, reduction: see :data:`gbn.equivalence.LOSSES`.

    Returns:
        the loss, and name in the module's ``state_dict`` -> gradient of the parameter's shape.  Tied weights appear
        once, under their first name; parameters without ``requires_grad`` are left out; those that are not used get 0.

    Raises:
        UnknownNameError, InferenceError: unknown loss or reduction; nothing to differentiate; more than one output.
    """
    return _torch_backprop(module, _inputs(inputs), target, losses.get(loss), reduction).read()


def sklearn_gradients(model: Any, x: Any, y: Any, loss: str | None = None, reduction: str = "mean") -> Gradients:
    """Loss and gradients of a scikit-learn MLP: the same network written out in torch and differentiated there.

    Args:
        model: a fitted MLPClassifier or MLPRegressor; its penalty ``alpha`` is no part of the loss.
        x: shape (samples, features).
        y: targets as ``fit`` takes them.
        loss: default: the one of its output layer.

    Returns:
        the loss, and "coefs_[k]", "intercepts_[k]" -> gradient of that array's shape.

    Raises:
        MissingDependencyError: torch is absent; :func:`difference_gradients` needs none.
        InferenceError: a loss that is not the output layer's.
    """
    chosen = _sklearn_loss(model, loss)
    return _sklearn_backprop(model, as_array(x), _sklearn_target(model, y, chosen), chosen, reduction).read()


def difference_gradients(model: Any, x: Any, y: Any, loss: str | None = None, reduction: str = "mean") -> Gradients:
    """As :func:`sklearn_gradients`, by central differences of the estimator's own predictions, in float64.

    Good to about 1e-8 relative; takes two predictions for every entry of every parameter.
    """
    chosen = _sklearn_loss(model, loss)
    return _differences(model, as_array(x), _sklearn_target(model, y, chosen), chosen, reduction).read()


def prepare(model: Any, inputs: tuple[Any, ...], target: Array, loss: Loss, reduction: str) -> Backprop:
    """The backward pass of whichever framework the model is from.

    Raises:
        InferenceError: a model of a framework without oracle.
    """
    for key, make in _ORACLES.items():
        if _is(model, *key):
            return make(model, inputs, target, loss, reduction)
    raise InferenceError(
        f"model: got {type(model).__name__}, whose own gradients are not to be had; compare takes torch.nn.Module, "
        "keras.Model, and MLPClassifier and MLPRegressor of scikit-learn"
    )


def may_end_in_probabilities(model: Any) -> bool:
    """Whether a loss of the model's framework takes probabilities, as those of Keras do unless they are told."""
    return _is(model, *_KERAS)


def _is(model: Any, package: str, base: str) -> bool:
    return any(kind.__name__ == base and kind.__module__.startswith(package) for kind in type(model).__mro__)


def read_target(model: Any, y: Any, loss: Loss) -> Array:
    """y as an array; labels of a scikit-learn classifier as class numbers.

    Raises:
        EvidenceError: a label that the classifier does not know.
        InferenceError: a loss that is not the estimator's.
    """
    if not hasattr(model, "out_activation_"):
        return as_array(y)
    return _sklearn_target(model, y, _sklearn_loss(model, loss.name))


def as_array(value: Any) -> Array:
    """An array of anything array-like, tensors with a gradient or on a device included."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _inputs(inputs: Any) -> tuple[Any, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


@contextmanager
def _differentiable() -> Iterator[None]:
    """Autograd on, whatever context the caller is in."""
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        yield


def _torch_backprop(module: Any, inputs: tuple[Any, ...], target: Any, loss: Loss, reduction: str) -> Backprop:
    # A module in training mode would update its statistics, so a copy does the work.
    network = copy.deepcopy(module).eval() if any(part.training for part in module.modules()) else module
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    return _autograd(type(module).__name__, network, parameters, inputs, target, loss, reduction)


def _keras_backprop(model: Any, inputs: tuple[Any, ...], target: Any, loss: Loss, reduction: str) -> Backprop:
    """By the path of the variables; probabilities are made logits of, which have their classes on axis 1."""
    import keras

    if keras.backend.backend() != "torch":
        raise InferenceError(
            f"model: the backend of Keras is {keras.backend.backend()!r}, and its gradients are taken with that of "
            "PyTorch; start Python with KERAS_BACKEND=torch"
        )
    parameters = {variable.path: variable.value for variable in model.trainable_variables}

    def logits(*arguments: Any) -> Any:
        output = _single(model(arguments[0] if len(arguments) == 1 else list(arguments), training=False))
        return loss.logits(output) if loss.of_probabilities else output

    return _autograd(type(model).__name__, logits, parameters, inputs, target, loss, reduction)


def _autograd(
    kind: str,
    network: Callable[..., Any],
    parameters: Mapping[str, Any],
    inputs: tuple[Any, ...],
    target: Any,
    loss: Loss,
    reduction: str,
) -> Backprop:
    """Autograd of a function of tensors with respect to the parameters in it."""
    import torch

    losses.check_reduction(reduction)
    if not parameters:
        raise InferenceError("the model has no parameter that requires a gradient, so there is nothing to compare")
    like = next(iter(parameters.values()))
    arguments = [_tensor(value, like) for value in inputs]
    aim = _tensor(target, like)
    function = getattr(torch.nn.functional, loss.function)

    def run() -> Any:
        with _differentiable():
            value = function(_single(network(*arguments)), aim, reduction=reduction)
            return value, torch.autograd.grad(value, list(parameters.values()), materialize_grads=True)

    def read() -> Gradients:
        value, gradients = run()
        return float(as_array(value)), {n: as_array(g) for n, g in zip(parameters, gradients, strict=True)}

    return Backprop(f"torch autograd on the original {kind}", run, read)


def _tensor(value: Any, like: Any) -> Any:
    """A tensor on the device of the parameters, in their dtype where it holds no integers."""
    import torch

    with _differentiable():
        tensor = torch.tensor(as_array(value))
        return tensor.to(like.device, like.dtype if tensor.is_floating_point() else None)


def _single(output: Any) -> Any:
    """The one tensor that a module returns."""
    from torch.utils import _pytree as pytree

    tensors = pytree.tree_leaves(output)
    if len(tensors) != 1:
        raise InferenceError(
            f"the model returns {len(tensors)} tensors, and a loss takes one; wrap it to return that one"
        )
    return tensors[0]


def _sklearn_loss(model: Any, name: str | None) -> Loss:
    own = _OUTPUT_LOSSES.get(model.out_activation_)
    if own is None:
        raise InferenceError(
            f"model: this {type(model).__name__} ends in {model.out_activation_!r}; compare takes those that end in "
            f"{', '.join(map(repr, _OUTPUT_LOSSES))}"
        )
    if name is not None and losses.get(name).name != own:
        raise InferenceError(
            f"loss: got {name!r}, but this {type(model).__name__} ends in {model.out_activation_!r}; use loss={own!r}"
        )
    return losses.get(own)


def _sklearn_target(model: Any, y: Any, loss: Loss) -> Array:
    """Targets shaped like the output; labels of a classifier become class numbers."""
    y = as_array(y)
    if y.ndim == 1 and hasattr(model, "classes_"):
        classes = np.asarray(model.classes_)
        number = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
        if (classes[number] != y).any():
            wrong = y[classes[number] != y][0]
            raise EvidenceError(f"y: got label {wrong!r}, expected one of {classes.tolist()}")
        y = number
    return y[:, None] if y.ndim == 1 and not loss.by_class else y


def _sklearn_oracle(model: Any, inputs: tuple[Any, ...], target: Array, loss: Loss, reduction: str) -> Backprop:
    try:
        return _sklearn_backprop(model, as_array(inputs[0]), target, loss, reduction)
    except MissingDependencyError:
        return _differences(model, as_array(inputs[0]), target, loss, reduction)


def _sklearn_backprop(model: Any, x: Array, target: Array, loss: Loss, reduction: str) -> Backprop:
    losses.check_reduction(reduction)
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("torch", "torch", "the gradient of a scikit-learn network") from error
    with _differentiable():
        parameters = {name: torch.tensor(value).requires_grad_() for name, value in _weights(model).items()}
        tensors = list(parameters.values())
        data, aim = _tensor(x, tensors[0]), _tensor(target, tensors[0])
    activate = {"relu": torch.relu, "tanh": torch.tanh, "logistic": torch.sigmoid, "identity": lambda h: h}[
        model.activation
    ]
    function = getattr(torch.nn.functional, loss.function)
    aim = aim.to(tensors[0].dtype) if not loss.by_class else aim

    def run() -> Any:
        with _differentiable():
            h = data
            for k in range(0, len(tensors), 2):
                h = (activate(h) if k else h) @ tensors[k] + tensors[k + 1]
            value = function(h, aim, reduction=reduction)
            return value, torch.autograd.grad(value, tensors)

    def read() -> Gradients:
        value, gradients = run()
        return float(as_array(value)), {n: as_array(g) for n, g in zip(parameters, gradients, strict=True)}

    return Backprop(f"torch autograd on the {type(model).__name__}, written out in torch", run, read)


def _weights(model: Any) -> dict[str, Array]:
    pairs = enumerate(zip(model.coefs_, model.intercepts_, strict=True))
    return {name: a for k, (w, b) in pairs for name, a in ((f"coefs_[{k}]", w), (f"intercepts_[{k}]", b))}


def _differences(model: Any, x: Array, target: Array, loss: Loss, reduction: str) -> Backprop:
    losses.check_reduction(reduction)
    twin = copy.deepcopy(model)
    twin.coefs_ = [np.array(w, dtype=np.float64) for w in model.coefs_]
    twin.intercepts_ = [np.array(b, dtype=np.float64) for b in model.intercepts_]
    x = x.astype(np.float64)

    def value() -> float:
        return _predicted_loss(twin, x, target, loss, reduction)

    def run() -> Gradients:
        return value(), {name: _difference(array, value) for name, array in _weights(twin).items()}

    return Backprop(f"central differences of the predictions of the {type(model).__name__}", run, run, rtol=1e-6)


def _difference(array: Array, value: Callable[[], float]) -> Array:
    """∂value/∂array by central differences; the array is changed in place and put back."""
    out = np.empty_like(array)
    for index in np.ndindex(array.shape):
        before = array[index]
        step = _STEP * max(1.0, abs(float(before)))
        array[index] = before + step
        above = value()
        array[index] = before - step
        out[index] = (above - value()) / (2 * step)
        array[index] = before
    return out


def _predicted_loss(model: Any, x: Array, target: Array, loss: Loss, reduction: str) -> float:
    """The loss from what the estimator itself predicts: values, or probabilities."""
    if loss.name == "mse":
        terms = np.square(model.predict(x).reshape(target.shape) - target)
        return float(terms.sum() if reduction == "sum" else terms.mean())
    p = model.predict_proba(x)
    if loss.by_class:
        chances = np.eye(p.shape[1])[target] if target.ndim == 1 else target
        nats = -(chances * np.log(p)).sum(axis=1)
    else:
        p = p if p.shape == target.shape else p[:, 1:]
        nats = -(target * np.log(p) + (1 - target) * np.log1p(-p))
    return float(nats.sum() if reduction == "sum" else nats.mean())


# A Keras model may be a module of torch as well: it is first.
_ORACLES: Mapping[tuple[str, str], Callable[[Any, tuple[Any, ...], Array, Loss, str], Backprop]] = {
    _KERAS: _keras_backprop,
    ("torch.", "Module"): _torch_backprop,
    ("sklearn.", "MLPClassifier"): _sklearn_oracle,
    ("sklearn.", "MLPRegressor"): _sklearn_oracle,
}
