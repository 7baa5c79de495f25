"""Local messages beside backprop of the original model, parameter by parameter."""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gbn import inference
from gbn.conversion import convert
from gbn.equivalence import losses, oracles
from gbn.equivalence.losses import Loss
from gbn.equivalence.report import Comparison, Report
from gbn.errors import EvidenceError, InferenceError, ShapeError
from gbn.evidence import Evidence
from gbn.net import GaussianBayesNet
from gbn.options import check_options

__all__ = ["METRICS", "compare", "measure"]

Array = np.ndarray[Any, Any]
# Relative gap up to which a report says that the gradients agree.
_TOLERANCES = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 1e-4}
_COARSE = 1e-2
# A gradient that is nothing but the rounding of others (that of a shift which a softmax takes out again) has no figure
# to get right: so many units in the last place of the whole gradient are let pass.
_ROUNDING = 64
_TIME_BUDGET = 2.0
_PROBABILITIES = ("Softmax", "Sigmoid")


def cosine(got: Array, expected: Array) -> float:
    """Cosine of the angle between two gradients; 1 if both are zero, 0 if one is."""
    lengths = _norm(got), _norm(expected)
    if 0 in lengths:
        return float(lengths == (0, 0))
    # Scaled first: the product of the two lengths may underflow.
    return float(np.clip(np.vdot(got / lengths[0], expected / lengths[1]), -1, 1))


def relative_error(got: Array, expected: Array) -> float:
    """‖got - expected‖ / ‖expected‖; 0 if both are zero, infinite if only ``expected`` is."""
    return _ratio(_norm(got - expected), _norm(expected))


def max_abs_error(got: Array, expected: Array) -> float:
    """Largest difference of two entries."""
    return float(np.abs(got - expected).max(initial=0))


def sign_agreement(got: Array, expected: Array) -> float:
    """Share of the entries that have the same sign, zero being a sign of its own."""
    return float((np.sign(got) == np.sign(expected)).mean()) if got.size else 1.0


def norm_ratio(got: Array, expected: Array) -> float:
    """‖got‖ / ‖expected‖; 1 if both are zero, infinite if only ``expected`` is."""
    return _ratio(_norm(got), _norm(expected), zero=1.0)


METRICS: dict[str, Callable[[Array, Array], float]] = {
    metric.__name__: metric for metric in (cosine, relative_error, max_abs_error, sign_agreement, norm_ratio)
}


def measure(got: Array, expected: Array) -> dict[str, float]:
    """Every metric of a gradient against the expected one, in float64."""
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    return {name: metric(got, expected) for name, metric in METRICS.items()}


def _norm(v: Array) -> float:
    return float(np.linalg.norm(v))


def _ratio(above: float, below: float, zero: float = 0.0) -> float:
    if below == 0:
        return zero if above == 0 else float("nan") if np.isnan(above) else float("inf")
    return above / below


def compare(
    model: Any,
    x: Any,
    y: Any,
    *,
    loss: str = "mse",
    reduction: str = "mean",
    engine: str = "pc",
    tol: float | None = None,
    net: GaussianBayesNet | None = None,
    noise: Any = 1.0,
    latents: Any = "affine",
    repeats: int = 5,
    **options: Any,
) -> Report:
    """Gradients by local messages in the converted net beside backprop of the model itself.

    With the input and the output observed, a parameter's message gives ∂loss/∂θ = -λ_θ · multiplier; a sweep of
    predictive coding ("pc") gives backprop's, other engines and schedules approach it.

    Args:
        model: a torch.nn.Module, a keras.Model under the backend of PyTorch, or a fitted MLPClassifier or MLPRegressor
            of scikit-learn.
        x: inputs, shape (samples, *event); a tuple for several inputs.
        y: targets, shaped like the output; for "cross_entropy" also class numbers, for a scikit-learn classifier its
            labels.  Of a Keras model that ends in a softmax or sigmoid, the losses of labels take the probabilities.
        loss: a name of :data:`gbn.equivalence.LOSSES`, or torch's longer one.
        reduction: "mean" or "sum".
        engine, options: as in a query; an option ``tol`` of the engine cannot be given.
        tol: relative error up to which gradients agree (default: 1e-10 in float64, 1e-4 in float32, 1e-2 below).
        net: the converted model, if there is one already, with unit output noise or this loss's label.
        noise, latents: of the conversion, when ``net`` is not given.
        repeats: timed repetitions; 0 leaves the wall-clock ratio out.

    Raises:
        UnknownNameError: unknown loss or engine, with near matches.
        ShapeError, EvidenceError: unusable x or y.
        InferenceError: unknown reduction; a model without oracle, with several outputs, or with nothing to
            differentiate; a net that is not the model's.
        ConversionError: the model cannot be converted.
    """
    chosen = losses.get(loss)
    losses.check_reduction(reduction)
    check_options(inference.solver(engine), options, f"engine {engine!r}")
    inputs = x if isinstance(x, tuple) else (x,)
    _check_finite(inputs)
    if net is None:
        example = tuple(value[:2] for value in inputs)
        net = convert(model, example, latents=latents, noise=noise, output_noise=1.0, likelihood=chosen.likelihood)
    chosen = replace(chosen, of_probabilities=_gives_probabilities(net, model, chosen))
    problem = _problem(net, inputs, oracles.read_target(model, y, chosen), chosen, reduction)
    backprop = oracles.prepare(model, inputs, problem.target, chosen, reduction)
    expected_loss, expected = backprop.read()
    names = _vertices(net, expected)
    local = _Local(problem, list(names.values()), engine, options)
    found = local.gradients()
    got = {name: found[vertex] if vertex in found else np.zeros_like(expected[name]) for name, vertex in names.items()}
    bound = max(_TOLERANCES.get(net.dtype, _COARSE), backprop.rtol) if tol is None else float(tol)
    rows, overall = _comparisons(got, expected, bound, net.dtype)
    timed = repeats if "callback" not in options and not backprop.rtol else 0
    return Report(
        model=type(model).__name__,
        loss=chosen.name,
        reduction=reduction,
        engine=engine,
        options=dict(options),
        oracle=backprop.oracle,
        dtype=str(net.dtype),
        samples=problem.evidence.samples,
        tol=bound,
        parameters=rows,
        overall=overall,
        loss_local=problem.loss_value(),
        loss_oracle=expected_loss,
        time_ratio=_time_ratio(local.gradients, backprop.run, timed),
        **local.figures,
    )


@dataclass(frozen=True)
class _Problem:
    """A net with its inputs and targets as evidence.

    output: what the loss is of: logits, or values.
    """

    net: GaussianBayesNet
    evidence: Evidence
    output: str
    target: Array
    loss: Loss
    multiplier: float

    def loss_value(self) -> float:
        """The loss of the net's own forward pass."""
        output = self.net.forward(self.evidence.do)[self.output]
        return self.loss.energy(output, self.target) * self.multiplier


def _check_finite(inputs: tuple[Any, ...]) -> None:
    """Raise EvidenceError before NaN in x can be taken for a fault of the conversion."""
    for number, value in enumerate(inputs):
        array = oracles.as_array(value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            where = tuple(int(k) for k in np.argwhere(~np.isfinite(array))[0])
            which = "x" if len(inputs) == 1 else f"x[{number}]"
            raise EvidenceError(f"{which}: got {array[where]} at {where}; backprop needs finite inputs")


def _problem(net: GaussianBayesNet, inputs: tuple[Any, ...], y: Array, loss: Loss, reduction: str) -> _Problem:
    if len(inputs) != len(net.inputs):
        raise ShapeError(f"x: got {len(inputs)} inputs, expected {len(net.inputs)}: {', '.join(map(repr, net.inputs))}")
    if len(net.outputs) != 1:
        raise InferenceError(
            f"the model has {len(net.outputs)} outputs ({', '.join(map(repr, net.outputs))}), and a loss takes one; "
            "wrap it to return that one"
        )
    arrays = {name: oracles.as_array(value) for name, value in zip(net.inputs, inputs, strict=True)}
    # Inputs without a prior are set, not observed; setting them all keeps priors out of the energy.
    samples = Evidence.read(net, do=arrays).samples
    observed = _observed(net, net.outputs[0], loss)
    output = observed if loss.likelihood == "gaussian" else net[observed].parents[0]
    shape = (samples, *net[output].shape)
    target = loss.target(y, shape, net.dtype)
    evidence = Evidence.read(net, {observed: target}, do=arrays)
    return _Problem(net, evidence, output, target, loss, loss.multiplier(reduction, shape))


def _gives_probabilities(net: GaussianBayesNet, model: Any, loss: Loss) -> bool:
    ends = len(net.outputs) == 1 and net[net.outputs[0]].op in _PROBABILITIES
    return ends and loss.likelihood != "gaussian" and oracles.may_end_in_probabilities(model)


def _observed(net: GaussianBayesNet, output: str, loss: Loss) -> str:
    """The vertex that takes the targets."""
    if loss.likelihood == "gaussian":
        noise = net.noise(output)
        if noise is None or not _is_unit(noise):
            raise InferenceError(
                f"net: the output {output!r} has {'no noise' if noise is None else 'another noise than 1'}, and loss "
                f"{loss.name!r} is a unit variance; use net.set_noise({{{output!r}: 1.0}})"
            )
        return output
    last = net[output]
    if last.op in _PROBABILITIES and not loss.of_probabilities:
        raise InferenceError(
            f"model: it ends in a {last.op}, and loss {loss.name!r} takes logits, of which it makes probabilities "
            "itself; compare the model without its last layer"
        )
    # The logarithms of probabilities are logits too: their softmax gives the probabilities back.
    logits = (output, *last.parents) if last.op == "LogSoftmax" or loss.of_probabilities else (output,)
    labels = [n for n in net.labels if n == f"{output}.label" or net[n].parents[0] in logits]
    labels = [n for n in labels if net[n].op == loss.likelihood]
    if not labels:
        raise InferenceError(
            f"net: the output {output!r} has no {loss.likelihood} label, which loss {loss.name!r} needs; convert with "
            f"likelihood={loss.likelihood!r}"
        )
    return labels[0]


def _is_unit(noise: Any) -> bool:
    unit = bool((noise.diagonal() == 1).all())
    return unit and (noise.form != "full" or np.count_nonzero(noise.value) == noise.size)


def _vertices(net: GaussianBayesNet, expected: Mapping[str, Array]) -> dict[str, str]:
    """Name in the model -> parameter of the net, for all that are compared.

    What the output does not use has no vertex in a converted net, and a gradient of zero: it goes by its own name.
    """
    by_source = {net.source_of(name): name for name in net.parameters}
    found = {name: by_source.get(name, name) for name in expected}
    for name, vertex in found.items():
        if vertex not in net.parameters:
            if expected[name].any():
                raise InferenceError(
                    f"net: it has no parameter for {name!r} of the model; compare a model with its own net "
                    f"(this one has {', '.join(map(repr, net.parameters))})"
                )
        elif net[vertex].shape != expected[name].shape:
            raise ShapeError(
                f"net: its parameter {vertex!r} has shape {net[vertex].shape}, that of the model {expected[name].shape}"
            )
    return found


class _Local:
    """The gradient by local messages, and what it took: rounds, passes, whether the engine arrived."""

    def __init__(self, problem: _Problem, vertices: list[str], engine: str, options: Mapping[str, Any]) -> None:
        self.problem, self.engine, self.options = problem, engine, dict(options)
        self.vertices = [name for name in vertices if name in problem.net]
        # One forward pass and one sweep: the default needs nothing of a whole posterior.
        self.single = engine == "pc" and not options
        self.figures: dict[str, Any] = {"rounds": 1, "passes": 2, "converged": True}

    def gradients(self) -> dict[str, Array]:
        """∂loss/∂θ by vertex."""
        net, multiplier = self.problem.net, self.problem.multiplier
        if self.single:
            energy = inference.gradient(net, self.problem.evidence, self.vertices)
            return {name: gradient * multiplier for name, gradient in energy.items()}
        post = inference.solver(self.engine)(net, self.problem.evidence, [], **self.options)
        figures = post.diagnostics
        self.figures = {
            "rounds": figures.get("rounds"),
            "passes": figures.get("passes"),
            "converged": post.converged,
        }
        return {name: post.messages[name] * -multiplier for name in self.vertices if name in post.messages}


def _comparisons(
    got: Mapping[str, Array], expected: Mapping[str, Array], tol: float, dtype: Any
) -> tuple[tuple[Comparison, ...], dict[str, float]]:
    whole = [np.concatenate([g[name].astype(np.float64).reshape(-1) for name in expected]) for g in (got, expected)]
    eps = float(np.finfo(dtype).eps)
    # At an exact fit both gradients are rounding, and have no relative error to speak of.
    nothing = max(map(_norm, whole)) <= _ROUNDING * eps
    slack = _ROUNDING * eps * (1.0 if nothing else _norm(whole[1]))
    rows = []
    for name, right in expected.items():
        error = _norm(got[name].astype(np.float64) - right)
        agrees = error <= tol * _norm(right.astype(np.float64)) + slack
        rows.append(Comparison(name, right.shape, measure(got[name], right), agrees))
    return tuple(rows), measure(*whole)


def _time_ratio(local: Callable[[], Any], backprop: Callable[[], Any], repeats: int) -> float | None:
    """Median seconds of the one over those of the other, interleaved; both have run before."""
    times: tuple[list[float], list[float]] = ([], [])
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 1
    if torch:
        # Small layers on several threads wait for one another: a time that says nothing of either side.
        torch.set_num_threads(1)
    started = time.perf_counter()
    with warnings.catch_warnings():
        # The run that was measured has said what there is to say.
        warnings.simplefilter("ignore")
        for _ in range(repeats):
            for run, seconds in zip((local, backprop), times, strict=True):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
            if time.perf_counter() - started > _TIME_BUDGET:
                break
    if torch:
        torch.set_num_threads(threads)
    return statistics.median(times[0]) / statistics.median(times[1]) if repeats > 0 else None
