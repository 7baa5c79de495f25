"""The node tests of the onnx package: forward values, and the maps of every op that they run.

Two tiers are required to pass, case by case, but for what the table of reasons lists.  Of the other cases with results
of floating point, none may come out wrong: each passes, or is refused.
"""

import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
# ruff: noqa: E402 - what follows needs onnx


from onnx import numpy_helper

from converters.onnx import convert
from gbn import ops
from gbn.testing import check_op
from tests.converters.onnx_cases import FLOATS, Case, check, load, outcome

# Layers and functions of feed-forward and recurrent networks.
_CORE = (
    "Abs Add AveragePool BatchNormalization Celu Clip Concat Conv ConvTranspose Cos Div Dropout Elu Erf Exp Flatten "
    "GRU Gelu Gemm GlobalAveragePool GlobalMaxPool GroupNormalization HardSigmoid HardSwish Identity "
    "InstanceNormalization LRN LSTM LayerNormalization LeakyRelu Log LogSoftmax MatMul Max MaxPool Mean Min Mul "
    "Neg PRelu Pow RMSNormalization RNN Reciprocal Relu Selu Sigmoid Sin Softmax Softplus Softsign Split "
    "Sqrt Sub Sum Tanh Transpose"
)
CORE = frozenset(_CORE.split())
# Whatever else has a derivative in an input of floating point.
_WIDE = (
    "Acos Acosh AffineGrid Asin Asinh Atan Atanh Attention Cast CastLike CausalConvWithState CenterCropPad Cosh "
    "CumSum DepthToSpace Einsum Expand FlexAttention Gather GatherElements GatherND GridSample Hardmax "
    "LinearAttention LpNormalization LpPool MeanVarianceNormalization Mish Mod NegativeLogLikelihoodLoss Pad "
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare Reshape Resize ReverseSequence RotaryEmbedding ScatterElements ScatterND Shrink Sinh Slice "
    "SoftmaxCrossEntropyLoss SpaceToDepth Squeeze Swish SwiGLU Tan ThresholdedRelu Tile Trilu "
    "Unsqueeze Upsample Where"
)
DIFFERENTIABLE = CORE | frozenset(_WIDE.split())

# Cases that are refused, by name, with what the refusal says.
REASONS: dict[str, str] = {
    r"batchnorm_.*training_mode": "in training mode it mixes the samples",
    r"training_dropout(_default|_mask|_default_mask)?$": "in training mode it draws at random",
    r"maxpool_with_argmax_2d": "result 1 of MaxPool",
    r"mod_float_edge_cases_fmod_0": "NaN or infinity",  # its inputs are infinite
    r"reshape_allowzero_reordered": "does not take its parents",  # no entries at all
    r"resize_tf_crop_and_resize": "roi",
    r"resize_.*antialias": "antialias",
    r"gridsample": "no counterpart",
    r"flexattention_(score_mod|prob_mod|causal_mask|soft_cap|relative)": "a function of a graph",
    r"cast.*(FLOAT8|FLOAT4|INT4|INT2|UINT4|UINT2|E8M0)": "is not supported",
    r"scatter(nd|_elements).*_(mul|multiply|max|min)": "Scatter",
    r"einsum_batch_diagonal": "diagonal",
}


def tier(operators: frozenset[str], all_floats: bool) -> dict[str, Case]:
    """Cases of one node: an operator of the tier, with inputs (all, or one at least) and first result of floats."""
    quantified = all if all_floats else any
    return {
        name: case
        for name, case in load("node").items()
        if case.single
        and case.op in operators
        and case.input_types
        and quantified(kind in FLOATS for kind in case.input_types)
        and (all(kind in FLOATS for kind in case.output_types) if all_floats else case.output_types[0] in FLOATS)
    }


CORE_CASES, WIDE_CASES = tier(CORE, True), tier(DIFFERENTIABLE, False)
REQUIRED = CORE_CASES | WIDE_CASES
REST = {
    name: case
    for name, case in load("node").items()
    if name not in REQUIRED and any(kind in FLOATS for kind in case.output_types)
}


def reason(name: str) -> str | None:
    return next((text for pattern, text in REASONS.items() if re.match(rf"test_({pattern})", name)), None)


def test_tiers_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """The package has many more cases than these figures say it should, and the tiers cover them."""
    assert len({case.op for case in CORE_CASES.values()}) == len(CORE)
    with capsys.disabled():
        passing = sum(not outcome("node", name).refusal for name in REQUIRED)
        rest = sum(not outcome("node", name).refusal for name in REST)
        print(
            f"\n{len(load('node'))} node tests; core tier {len(CORE_CASES)} of {len(CORE)} operators, differentiable "
            f"tier {len(WIDE_CASES)} of {len(DIFFERENTIABLE)}; of both {passing} of {len(REQUIRED)} convert, and "
            f"{rest} of the {len(REST)} others"
        )
    assert len(CORE_CASES) >= 278
    assert len(WIDE_CASES) >= 510
    assert passing + sum(reason(name) is not None for name in REQUIRED) == len(REQUIRED)


@pytest.mark.parametrize("name", REQUIRED)
def test_required(name: str) -> None:
    found, expected = outcome("node", name), reason(name)
    if expected is not None:
        assert expected in found.refusal
        return
    assert not found.refusal
    check(REQUIRED[name], found)


def test_core_lists_no_more_than_training_mode() -> None:
    assert {reason(name) for name in CORE_CASES} <= {
        None,
        "in training mode it mixes the samples",
        "in training mode it draws at random",
    }


@pytest.mark.parametrize("name", REST)
def test_rest_is_right_or_refused(name: str) -> None:
    found = outcome("node", name)
    if not found.refusal:
        check(REST[name], found)


def packaged() -> dict[tuple[str, str], Case]:
    """What PyTorch exported for the package, and its small models."""
    kinds = ("pytorch-converted", "pytorch-operator", "simple")
    return {(kind, name): case for kind in kinds for name, case in load(kind).items()}


PACKAGED = packaged()


@pytest.mark.parametrize("kind, name", PACKAGED)
def test_packaged(kind: str, name: str) -> None:
    case, found = PACKAGED[kind, name], outcome(kind, name)
    if not any(output in FLOATS for output in case.output_types) or "gradient" in name:
        return
    assert not found.refusal
    check(case, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet121", "inception_v1", "resnet50", "shufflenet", "squeezenet"])
def test_architectures(name: str) -> None:
    """Whole networks of the package, their weights constants that the graph computes."""
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}"
    net = convert(path.with_suffix(".onnx"))
    (x,), (y,) = net.inputs, net.outputs
    image = np.arange(net[x].size, dtype=np.float32).reshape(1, *net[x].shape)
    expected = numpy_helper.to_array(onnx.load_tensor(f"{path}_output_0.pb"))
    np.testing.assert_allclose(net.forward({x: image})[y], expected, rtol=1e-3)


# Dense checks of a map cost its entries; larger ones are checked by products.
ENTRIES, CASES_PER_OP = 4_000, 12


def calls() -> dict[str, list[tuple[dict[str, Any], list[np.ndarray]]]]:
    """Every op that ran in a required case, with attributes and inputs, once for each of their shapes."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for name in REQUIRED:
        for op, attributes, inputs in outcome("node", name).calls:
            key = repr((sorted(attributes.items()), [x.shape for x in inputs]))
            found[op].setdefault(key, (attributes, inputs))
    return {op: list(entries.values()) for op, entries in sorted(found.items())}


CALLS = calls()


def jittered(inputs: list[np.ndarray], maps: Any, rng: np.random.Generator) -> list[np.ndarray]:
    """Inputs that have a derivative, moved off the kinks that test values like to sit on."""
    return [
        x.astype(np.float64) + (0 if make is None else rng.uniform(0.001, 0.01, x.shape))
        for x, make in zip(inputs, maps, strict=True)
    ]


@pytest.mark.parametrize("op", CALLS)
def test_maps(op: str) -> None:
    rng = np.random.default_rng(0)
    taken = 0
    for attributes, given in CALLS[op]:
        # Masks of -1e30 drown every difference.
        if not all(x.size and np.abs(x).max() < 1e9 for x in given):
            continue
        inputs = jittered(given, ops.get(op)(*given, **attributes)[1], rng)
        with np.errstate(all="ignore"):
            value = np.asarray(ops.get(op)(*inputs, **attributes)[0])
        if not value.size or not np.isfinite(value).all():  # moved out of its domain
            continue
        if max(x.size for x in inputs) * value.size <= ENTRIES and taken < CASES_PER_OP:
            taken += 1
            check_op(op, inputs, attributes, rtol=1e-5)
        else:
            check_products(op, inputs, attributes, rng)


def check_products(op: str, inputs: list[np.ndarray], attributes: dict[str, Any], rng: np.random.Generator) -> None:
    """<push v, g> = <v, pull g>, and push against central differences along one direction."""
    step = 1e-6
    value, maps = ops.get(op)(*inputs, **attributes)
    for k, make in enumerate(maps):
        if make is None:
            continue
        linear_map, v, g = make(), rng.uniform(-1, 1, inputs[k].shape), rng.standard_normal(np.shape(value))
        push, pull = linear_map.push(v), linear_map.pull(g)
        scale = math.sqrt(float((push * push).sum() * (g * g).sum())) + 1e-300
        assert abs(float((push * g).sum()) - float((v * pull).sum())) <= 1e-9 * scale
        ahead, behind = (
            ops.get(op)(*[x + sign * step * v if j == k else x for j, x in enumerate(inputs)], **attributes)[0]
            for sign in (1, -1)
        )
        allowed = 1e-5 * float(np.abs(push).max()) + 1e-9 * float(np.abs(value).max())
        # Among many entries a few are at a kink by chance.
        assert (np.abs(push - (ahead - behind) / (2 * step)) > allowed).mean() <= 1e-3


def test_reasons_are_in_use() -> None:
    """A reason that nothing needs any more is taken off the table."""
    used = {text for text in map(reason, REQUIRED) if text}
    assert used == set(REASONS.values())
