"""What an op should give: by onnx.reference; where that has no such op or case, by torch or the definition."""

import math

import numpy as np
import pytest

from gbn import ops

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
reference = pytest.importorskip("onnx.reference")

# What ONNX passes as constant inputs, in its order, and gbn as attributes.
CONSTANT_INPUTS = {
    "Clip": ("min", "max"),
    "CenterCropPad": ("shape",),
    "Expand": ("shape",),
    "Resize": ("roi", "scales", "sizes"),
    "OneHot": ("depth", "values"),
    "Split": ("split",),
    "Tile": ("repeats",),
    "Trilu": ("k",),
    "Dropout": ("ratio", "training_mode"),
    "Pad": ("pads", "value", "axes"),
    "CumSum": ("axis",),
    **dict.fromkeys((name for name in ops.OPS if name.startswith("Reduce")), ("axes",)),
    "Reshape": ("shape",),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Squeeze": ("axes",),
    "Unsqueeze": ("axes",),
}
# Inputs that are truth values or whole numbers in ONNX, by position; here they are held as numbers of the net's dtype.
BOOLEAN = {"And": (0, 1), "Not": (0,), "Or": (0, 1), "Where": (0,), "Xor": (0, 1)}
WHOLE = {"OneHot": (0,)} | dict.fromkeys(
    ("Gather", "GatherElements", "GatherND", "ReverseSequence", "ScatterElements", "ScatterND"), (1,)
)


def in_onnx(name, position, x):
    """An input in the type that ONNX gives it."""
    kind = bool if position in BOOLEAN.get(name, ()) else np.int64 if position in WHOLE.get(name, ()) else x.dtype
    return x.astype(kind)


def by_onnx(name, inputs, attributes):
    """The value that onnx.reference computes for a model of this one node."""
    attributes = {k: v for k, v in attributes.items() if not (k == "perm" and v == [])}
    feed = {f"x{k}": in_onnx(name, k, x) for k, x in enumerate(inputs)}
    names = list(feed)
    for constant in CONSTANT_INPUTS.get(name, ()):
        value = attributes.pop(constant, None)
        names.append(constant if value is not None else "")
        if value is not None:
            like = inputs[0].dtype
            kinds = {
                "value": like,
                "min": like,
                "max": like,
                "values": like,
                "ratio": np.float32,
                "scales": like,
                "training_mode": bool,
            }
            kind = kinds.get(constant, np.int64)
            feed[constant] = np.asarray(value, kind)
    while not names[-1]:
        names.pop()
    parts = len(feed["split"]) if "split" in feed else attributes.get("num_outputs", 1)
    outputs, wanted = [f"y{k}" for k in range(parts)], attributes.pop("index", 0)
    node = onnx.helper.make_node(name, names, outputs, **attributes)
    values = [
        onnx.helper.make_tensor_value_info(k, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for k, x in feed.items()
    ]
    kind = onnx.helper.np_dtype_to_tensor_dtype(inputs[0].dtype)
    results = [onnx.helper.make_tensor_value_info(name, kind, None) for name in outputs]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "one", values, results),
        opset_imports=[onnx.helper.make_opsetid("", min(25, onnx.defs.onnx_opset_version()))],
    )
    return reference.ReferenceEvaluator(model).run(None, feed)[wanted]


def torch_linear(inputs, attributes):
    *pairs, bias = inputs if len(inputs) % 2 else [*inputs, np.zeros(len(inputs[1]))]
    y = torch.as_tensor(bias)[None]
    for u, w in zip(pairs[0::2], pairs[1::2], strict=True):
        y = y + torch.nn.functional.linear(torch.as_tensor(u).flatten(1), torch.as_tensor(w))
    return y.reshape(len(y), *attributes.get("shape", y.shape[1:])).numpy()


def torch_gemm(inputs, attributes):
    a, b, *c = map(torch.as_tensor, inputs)
    a = a.mT if attributes.get("transA") else a
    b = b.mT if attributes.get("transB") else b
    y = attributes.get("alpha", 1.0) * torch.einsum("...mk,kn->...mn", a, b)
    return (y + attributes.get("beta", 1.0) * c[0] if c else y).numpy()


def torch_pad(inputs, attributes):
    """Constant padding, of either sign."""
    x = torch.as_tensor(inputs[0])
    axes = attributes.get("axes", range(x.ndim))
    width = np.zeros((x.ndim, 2), int)
    width[list(axes)] = np.reshape(attributes["pads"], (2, -1)).T
    return torch.nn.functional.pad(x, width[::-1].reshape(-1).tolist(), value=attributes.get("value", 0.0)).numpy()


def windowed(inputs, attributes, reduce):
    """Pooling by its definition: ``reduce`` of each window's entries, and of how many it would count with padding."""
    x, kernel = inputs[0], attributes["kernel_shape"]
    rank, spatial = len(kernel), x.shape[2:]
    strides, dilations = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    begins, ends, out = [], [], []
    for axis, size in enumerate(spatial):
        begin, end = (attributes.get("pads", [0] * (2 * rank))[i] for i in (axis, rank + axis))
        if attributes.get("auto_pad", "").startswith("SAME"):
            total = max(0, (math.ceil(size / strides[axis]) - 1) * strides[axis] + reach[axis] - size)
            begin, end = total // 2, total - total // 2
            begin, end = (end, begin) if attributes["auto_pad"] == "SAME_LOWER" else (begin, end)
        positions = range(-begin, size + end - reach[axis] + 1, strides[axis])
        count = len(positions)
        if attributes.get("ceil_mode") and positions[-1] + reach[axis] < size + end:
            count += -begin + count * strides[axis] < size
        begins.append(begin)
        ends.append(end)
        out.append(count)
    y = np.empty((*x.shape[:2], *out))
    for position in np.ndindex(*out):
        corner = [p * s - b for p, s, b in zip(position, strides, begins, strict=True)]
        taps = [[c + d * k for k in range(size)] for c, d, size in zip(corner, dilations, kernel, strict=True)]
        inside = [[t for t in axis if 0 <= t < size] for axis, size in zip(taps, spatial, strict=True)]
        padded = [
            sum(-b <= t < size + e for t in axis) for axis, size, b, e in zip(taps, spatial, begins, ends, strict=True)
        ]
        y[(..., *position)] = reduce(x[(..., *np.ix_(*inside))].reshape(*x.shape[:2], -1), math.prod(padded))
    return y


def transposed(inputs, attributes):
    """Transposed convolution by its definition: every entry of the input spreads the kernel, scaled by itself."""
    x, w, *b = inputs
    rank, groups = w.ndim - 2, attributes.get("group", 1)
    strides, dilations = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    more, pads = attributes.get("output_padding", [0] * rank), attributes.get("pads", [0] * (2 * rank))
    full = [
        s * (n - 1) + d * (k - 1) + 1 for s, n, d, k in zip(strides, x.shape[2:], dilations, w.shape[2:], strict=True)
    ]
    auto = attributes.get("auto_pad", "NOTSET")
    begins, sizes = [], []
    for axis in range(rank):
        size = full[axis] + more[axis] - pads[axis] - pads[rank + axis]
        begin = pads[axis]
        if "output_shape" in attributes or auto.startswith("SAME"):
            size = (
                attributes["output_shape"][axis] if "output_shape" in attributes else x.shape[2 + axis] * strides[axis]
            )
            total = max(0, full[axis] + more[axis] - size)
            begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
        begins.append(begin)
        sizes.append(size)
    room = [max(f, b + s) for f, b, s in zip(full, begins, sizes, strict=True)]
    y = np.zeros((len(x), groups, w.shape[1], *room))
    grouped, kernels = x.reshape(len(x), groups, -1, *x.shape[2:]), w.reshape(groups, -1, *w.shape[1:])
    for tap in np.ndindex(*w.shape[2:]):
        place = tuple(
            slice(t * d, t * d + s * (n - 1) + 1, s)
            for t, d, s, n in zip(tap, dilations, strides, x.shape[2:], strict=True)
        )
        y[(..., *place)] += np.einsum("ngc...,gcm->ngm...", grouped, kernels[(..., *tap)])
    y = y[(..., *(slice(b, b + s) for b, s in zip(begins, sizes, strict=True)))].reshape(len(x), -1, *sizes)
    return y + b[0].reshape(-1, *[1] * rank) if b else y


def by_definition(name, inputs, attributes):
    if name == "MaxPool":
        return windowed(inputs, attributes, lambda entries, count: entries.max(-1))
    if name == "LpPool":
        p = attributes.get("p", 2)
        return windowed(inputs, attributes, lambda entries, count: (np.abs(entries) ** p).sum(-1) ** (1 / p))
    padded = attributes.get("count_include_pad")
    return windowed(inputs, attributes, lambda e, count: e.sum(-1) / (count if padded else e.shape[-1]))


def reference_pools(name, attributes):
    """Whether onnx.reference pools as specified: not with these options."""
    pads = attributes.get("pads", [0, 0])
    dilated = name == "AveragePool" and max(attributes.get("dilations", [1])) > 1
    uneven = list(pads[: len(pads) // 2]) != list(pads[len(pads) // 2 :])
    counted = attributes.get("ceil_mode") and attributes.get("count_include_pad")
    padded = name == "MaxPool" and any(pads)
    if name == "LpPool":
        return False
    return "auto_pad" not in attributes and not uneven and not counted and not padded and not dilated


def reference_transposes(attributes):
    """Whether onnx.reference transposes convolutions as specified: not with these options."""
    shaped = "output_shape" in attributes or attributes.get("auto_pad", "").startswith("SAME")
    return not {"group", "output_padding"} & set(attributes) and "VALID" not in attributes.values() and not shaped


def torch_normalize(inputs, attributes):
    x, *affine = map(torch.as_tensor, inputs)
    axis = attributes.get("axis", -1)
    return torch.nn.functional.layer_norm(x, x.shape[axis:], *affine, eps=attributes.get("epsilon", 1e-5)).numpy()


def torch_batch_normalization(inputs, attributes):
    x, scale, bias, mean, var = map(torch.as_tensor, inputs)
    return torch.nn.functional.batch_norm(x, mean, var, scale, bias, eps=attributes.get("epsilon", 1e-5)).numpy()


def torch_group_normalization(inputs, attributes):
    x, scale, bias = map(torch.as_tensor, inputs)
    groups = attributes.get("num_groups", len(scale))
    return torch.nn.functional.group_norm(x, groups, scale, bias, attributes.get("epsilon", 1e-5)).numpy()


def torch_rms_normalization(inputs, attributes):
    x, scale = map(torch.as_tensor, inputs)
    shape = x.shape[attributes.get("axis", -1) :]
    return torch.nn.functional.rms_norm(x, shape, scale, attributes.get("epsilon", 1e-5)).numpy()


def torch_lp_normalization(inputs, attributes):
    """onnx.reference takes no magnitudes where p is 1."""
    x = torch.as_tensor(inputs[0])
    return torch.nn.functional.normalize(x, attributes.get("p", 2), attributes.get("axis", -1)).numpy()


def torch_standardise(inputs, attributes):
    axes = attributes.get("axes", (0, 2, 3))
    spread, mean = torch.std_mean(torch.as_tensor(inputs[0]), axes, correction=0, keepdim=True)
    return ((inputs[0] - mean.numpy()) / (spread.numpy() + 1e-9)).astype(inputs[0].dtype)


def response_normalized(x, size, alpha=1e-4, beta=0.75, bias=1.0):
    """By the definition: onnx.reference takes as many channels as there are samples."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        first, last = max(0, c - math.floor((size - 1) / 2)), min(x.shape[1] - 1, c + math.ceil((size - 1) / 2))
        total = (x[:, first : last + 1] ** 2).sum(1)
        y[:, c] = x[:, c] / (bias + alpha / size * total) ** beta
    return y


def torch_unary(function):
    return lambda inputs, attributes: function(torch.as_tensor(inputs[0]), attributes).numpy()


# Where onnx.reference computes in single precision or rounds an attribute to it.
IN_DOUBLE = {
    "BatchNormalization": torch_batch_normalization,
    "Celu": torch_unary(lambda x, a: torch.nn.functional.celu(x, a.get("alpha", 1.0))),
    "Elu": torch_unary(lambda x, a: torch.nn.functional.elu(x, a.get("alpha", 1.0))),
    "Erf": torch_unary(lambda x, a: torch.erf(x)),
    "Gelu": torch_unary(lambda x, a: torch.nn.functional.gelu(x, approximate=a.get("approximate", "none"))),
    "GroupNormalization": torch_group_normalization,
    "HardSigmoid": torch_unary(lambda x, a: (a.get("alpha", 0.2) * x + a.get("beta", 0.5)).clamp(0, 1)),
    "HardSwish": torch_unary(lambda x, a: torch.nn.functional.hardswish(x)),
    "InstanceNormalization": torch_group_normalization,
    "LayerNormalization": torch_normalize,
    "LpNormalization": torch_lp_normalization,
    "MeanVarianceNormalization": torch_standardise,
    "RMSNormalization": torch_rms_normalization,
    "LeakyRelu": torch_unary(lambda x, a: torch.nn.functional.leaky_relu(x, a.get("alpha", 0.01))),
    "Swish": torch_unary(lambda x, a: x * torch.sigmoid(a.get("alpha", 1.0) * x)),
}


def torch_gather(inputs, attributes):
    """Indices of less entries than the input, which onnx.reference refuses."""
    x, index = torch.as_tensor(inputs[0]), torch.as_tensor(inputs[1]).long()
    axis = attributes.get("axis", 0)
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index)).numpy()


def expected(name, inputs, attributes):
    if name == "Linear":
        return torch_linear(inputs, attributes)
    if name == "Gemm" and inputs[0].ndim > 2:
        return torch_gemm(inputs, attributes)
    if name == "Pad" and min(attributes["pads"]) < 0:
        return torch_pad(inputs, attributes)
    if name == "Cast" and attributes["to"] in (1, 11):
        return inputs[0]
    if name == "Mean":  # onnx.reference takes no shapes that broadcast
        return torch.stack(torch.broadcast_tensors(*map(torch.as_tensor, inputs))).mean(0).numpy()
    if name == "Softsign":  # nor scalars
        return torch.nn.functional.softsign(torch.as_tensor(inputs[0])).numpy()
    if name == "ConvTranspose" and not reference_transposes(attributes):
        return transposed(inputs, attributes)
    if name == "GlobalLpPool":
        p, axes = attributes.get("p", 2), tuple(range(2, inputs[0].ndim))
        return torch.linalg.vector_norm(torch.as_tensor(inputs[0]), p, axes, keepdim=True).numpy()
    if name == "LpNormalization":
        return torch_lp_normalization(inputs, attributes)
    if name == "LRN":
        return response_normalized(*inputs, **attributes)
    if name == "Upsample":  # no op of the newest opset
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return by_onnx("Resize", inputs, attributes | how)
    if name == "SpaceToDepth" and attributes.get("mode") == "CRD":  # new in opset 28
        return torch.nn.functional.pixel_unshuffle(torch.as_tensor(inputs[0]), attributes["blocksize"]).numpy()
    if name == "SpaceToDepth":
        attributes = {"blocksize": attributes["blocksize"]}
    if name == "GlobalMaxPool":
        return torch.as_tensor(inputs[0]).amax(tuple(range(2, inputs[0].ndim)), keepdim=True).numpy()
    if name == "GatherElements":
        return torch_gather(inputs, attributes)
    if name == "Mod" and not attributes.get("fmod"):
        return torch.remainder(*map(torch.as_tensor, inputs)).numpy()
    if name.endswith("Pool") and "kernel_shape" in attributes and not reference_pools(name, attributes):
        return by_definition(name, inputs, attributes)
    if name in IN_DOUBLE and inputs[0].dtype == np.float64:
        return IN_DOUBLE[name](inputs, attributes)
    return by_onnx(name, inputs, attributes)
