"""``.pt2`` files of strangers: torch.export.load unpickles, evaluates and compiles what is in one, so it is read first.

Everything that torch would execute is checked: pickles, the names of operators, expressions of sizes (which sympy
evaluates), guards and names (which become source code), and the types of containers (which are imported).  What passed
the check is what torch gets, in an archive written anew, so that two readers of one zip cannot see two things.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import keyword
import logging
import math
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch.export import ExportedProgram

from gbn.errors import ConversionError

__all__ = ["MAX_ENTRIES", "check_size", "load_program"]

# Of all values of one sample together, and of one constant: 4 GiB in single precision.
MAX_ENTRIES = 1 << 30
_SMALL = 1 << 24
_LOG = logging.getLogger("torch.export")
_MAX_EXPRESSION = 10_000

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|torchvision)\.\w+\.\w+"
    r"|torch\.ops\.higher_order\.(wrap_with_\w+|cond|while_loop|map_impl|scan)"
    r"|_operator\.\w+|math\.\w+|torch\._?sym_\w+"
)
_PATH = re.compile(r"""[^"'\\\n]*""")
# Texts that torch keeps, or hands on as they are.
_REMARKS = (
    "stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "custom", "from_node", "as_string", "as_strings",
)  # fmt: skip
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_FUNCTIONS = frozenset({
    "Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv",
    "IntTrueDiv", "FloatTrueDiv", "Max", "Min", "Abs", "CeilToInt", "FloorToInt", "TruncToInt", "TruncToFloat",
    "RoundToInt", "ToFloat", "ModularIndexing", "Where", "Identity", "Eq", "Ne", "Gt", "Ge", "Lt", "Le", "Equality",
    "Unequality", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan", "And", "Or", "Not",
    "IsNonOverlappingAndDenseIndicator", "Pow", "PowByNatural", "max", "min", "abs",
})  # fmt: skip
_POWERS = ("Pow", "PowByNatural")
_METHODS = ("size", "stride", "storage_offset")
_MATH = ("ceil", "floor", "trunc", "sqrt", "isnan", "inf")
_GRAMMAR = (
    ast.Expression, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div,
    ast.FloorDiv, ast.Mod, ast.Compare, ast.cmpop, ast.Constant, ast.Name, ast.expr_context, ast.Call, ast.keyword,
    ast.Subscript, ast.Attribute,
)  # fmt: skip


def load_program(path: Path) -> ExportedProgram:
    """Load a ``.pt2`` file that holds a graph and plain tensors, and nothing that runs.

    Raises:
        ConversionError: not such a file, damaged, or one with something in it that would run.
        OSError: it cannot be read.
    """
    members = _members(path)
    faults = [name for name, data in members.items() if not _is_plain(name, data)]
    legacy = not any(name.endswith("_weights_config.json") for name in members)
    if faults or legacy:
        found = ", ".join(faults) or "the format of an old version of torch"
        raise _refusal(path, f"loading it would unpickle {found}, which can run any code")
    try:
        for name, data in members.items():
            if "/models/" in name:
                _check_model(json.loads(data))
        _check_weights(members)
    except _Hostile as error:
        raise _refusal(path, str(error)) from None
    except Exception as error:  # damaged text surfaces as almost any exception
        raise ConversionError(f"{path.name}: not a whole torch.export archive ({_named(error)})") from error
    try:
        with _quiet():
            program = torch.export.load(_archive(members))
    except Exception as error:  # and so does what torch makes of it
        what = "torch.export.load does not read it; it is damaged, or of another version of torch"
        raise ConversionError(f"{path.name}: {what} ({_named(error)})") from error
    check_size(program, path)
    return program


def check_size(program: ExportedProgram, path: Path) -> None:
    """Raise ConversionError where one sample of all values would not fit into memory."""
    total = 0
    for node in program.graph.nodes:
        value = node.meta.get("val")
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, torch.Tensor):
                total += math.prod(int(size) if isinstance(size, int) else 1 for size in part.shape)
    if total > MAX_ENTRIES:
        raise _refusal(path, f"its values have {total} entries a sample, where at most {MAX_ENTRIES} are taken")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither warnings nor the log of torch's reader: what is wrong is said in the error."""
    level = _LOG.level
    _LOG.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _LOG.setLevel(level)


class _Hostile(Exception):
    """Something in a file that must not reach torch."""


def _refusal(path: Path, reason: str) -> ConversionError:
    return ConversionError(
        f"{path.name}: {reason}; if you trust its source, load it with torch.export.load and convert the program"
    )


def _named(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}{': ' + lines[-1][:300] if lines else ''}"


def _members(path: Path) -> dict[str, bytes]:
    """The files of the archive.  Without compression none is larger than the archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            names = {info.filename for info in infos}
            if len(names) != len(infos) or any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                raise _refusal(path, "it has compressed members, or two of one name")
            if sum(info.file_size for info in infos) > path.stat().st_size:
                raise zipfile.BadZipFile("its members are larger than the file")
            return {info.filename: archive.read(info) for info in infos}
    # Damaged bytes surface as almost any exception of the zip parser.
    except (ConversionError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise ConversionError(f"{path.name}: not a torch.export archive ({_named(error)})") from error


def _archive(members: dict[str, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    stream.seek(0)
    return stream


def _is_plain(name: str, data: bytes) -> bool:
    """Whether a member of the archive holds nothing that is unpickled without a check."""
    inside = name.partition("/")[2]
    if inside.startswith("data/sample_inputs/"):
        return _is_tensors(data)
    if inside.startswith(("data/weights/", "data/constants/")):
        if inside.endswith("_config.json"):
            return not any(entry["use_pickle"] for entry in _config(data))
        return PurePosixPath(inside).name.startswith(("weight_", "tensor_"))
    return inside.startswith(("models/", "extra/", ".data/")) or inside in (
        "archive_format",
        "archive_version",
        "byteorder",
    )


def _config(data: bytes) -> list[Any]:
    """The entries of a table of weights; one that says nothing of pickles counts as one."""
    try:
        entries = list(json.loads(data)["config"].values())
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return [{"use_pickle": True}]
    return [entry if isinstance(entry, dict) and "use_pickle" in entry else {"use_pickle": True} for entry in entries]


def _is_tensors(data: bytes) -> bool:
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception:  # whatever is wrong with it, torch would go on to unpickle it in full
        return not data
    return True


def _check_weights(members: dict[str, bytes]) -> None:
    """Refuse tensors of more entries than the bytes they are stored in: copies of them would take all memory."""
    for name, data in members.items():
        if not name.endswith("_config.json"):
            continue
        for key, entry in json.loads(data)["config"].items():
            meta = entry["tensor_meta"]
            sizes, strides = ([int(size["as_int"]) for size in meta[part]] for part in ("sizes", "strides"))
            steps = [(size - 1) * stride for size, stride in zip(sizes, strides, strict=True)]
            stored = len(members.get(f"{name.rpartition('/')[0]}/{entry['path_name']}", b""))
            last = int(meta["storage_offset"]["as_int"]) + sum(steps)
            inside = min(sizes, default=1) == 0 or (min(steps, default=0) >= 0 and 0 <= last < stored)
            if min(sizes, default=1) < 0 or not inside or math.prod(sizes) > max(stored, _SMALL):
                raise _Hostile(f"{key!r:.80} has sizes {sizes}, strides {strides} and {stored} bytes")
            if not _PATH.fullmatch(key):
                raise _Hostile(f"a tensor is named {key!r:.80}")


def _check_model(model: Any) -> None:
    """Refuse a model with text that torch would run."""
    for key, text in _texts(model):
        if key == "expr_str":
            _check_expression(text)
        elif key == "guards_code":
            _check_guard(text)
        elif key in ("in_spec", "out_spec"):
            _check_container(json.loads(text)) if text else None
        elif key in ("target", "as_operator"):
            if not _OPERATOR.fullmatch(text):
                raise _Hostile(f"it names the operator {text!r:.80}")
        elif key in ("name", "as_name", "forward_arg_names") and text and not _is_name(text):
            raise _Hostile(f"it names a value {text!r:.80}")
        elif key not in _REMARKS and not _PATH.fullmatch(text):
            raise _Hostile(f"its {key!r:.40} is {text!r:.80}")


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a JSON document with the key that it stands under; names that are keys themselves as "fqn"."""
    todo: list[tuple[str, Any]] = [(key, value)]
    while todo:
        key, value = todo.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            yield from (("fqn", name) for name in value)
            todo += value.items()
        elif isinstance(value, list):
            todo += ((key, entry) for entry in value)


def _is_name(text: str) -> bool:
    """Whether a text is safe as a name in source code, or as a path of names."""
    return all((part.isidentifier() and not keyword.iskeyword(part)) or part.isdigit() for part in text.split("."))


def _check_container(spec: Any) -> None:
    """Refuse containers of types that torch would have to import."""
    for entry in spec if isinstance(spec, list) else [spec]:
        if isinstance(entry, dict):
            if entry.get("type") not in _CONTAINERS or "__enum__" in str(entry.get("context")):
                raise _Hostile(f"it has a container of type {entry.get('type')!r:.80}")
            _check_container(entry.get("children_spec"))


def _parsed(text: str) -> list[ast.AST]:
    """The parts of an expression of sizes, of which only arithmetic is taken."""
    if len(text) > _MAX_EXPRESSION or not re.fullmatch(r"[\w\s.,'\[\]()<>=!+\-*/%]*", text) or "\n" in text:
        raise _Hostile(f"it has the expression {text!r:.80}")
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _Hostile(f"it has the expression {text!r:.80}") from error
    numbers = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, (int, float))]
    if not all(isinstance(n, _GRAMMAR) for n in nodes) or any(abs(number) >= 1 << 63 for number in numbers):
        raise _Hostile(f"it has the expression {text!r:.80}")
    return nodes


def _check_expression(text: str) -> None:
    """Refuse all but functions of numbers and symbols."""
    nodes = _parsed(text)
    symbols = {id(n.args[0]) for n in nodes if isinstance(n, ast.Call) and _called(n) == "Symbol" and n.args}
    for node in nodes:
        text_elsewhere = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in symbols
        outside = isinstance(node, (ast.Subscript, ast.Attribute)) or text_elsewhere
        if outside or (isinstance(node, ast.Call) and (_called(node) not in _FUNCTIONS or not _is_bounded(node))):
            raise _Hostile(f"it has the expression {text!r:.80}")


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _is_bounded(call: ast.Call) -> bool:
    """Whether a call is no power, or a small one of something without powers in it."""
    if _called(call) not in _POWERS:
        return True
    below = [inner for argument in call.args for inner in ast.walk(argument) if isinstance(inner, ast.Call)]
    exponents = [n.value for n in ast.walk(call.args[-1]) if isinstance(n, ast.Constant)] if call.args else []
    small = len(exponents) == 1 and isinstance(exponents[0], int) and exponents[0] <= 16
    return len(call.args) == 2 and small and not any(_called(inner) in _POWERS for inner in below)


def _check_guard(text: str) -> None:
    """Refuse all but comparisons of the sizes of inputs: guards become source code."""
    for node in _parsed(text):
        good = True
        if isinstance(node, ast.Call):
            method = node.func.attr in (*_METHODS, *_MATH) if isinstance(node.func, ast.Attribute) else False
            good = method or _called(node) in _FUNCTIONS - {"Symbol", *_POWERS}
        elif isinstance(node, ast.Attribute):
            of_math = isinstance(node.value, ast.Name) and node.value.id == "math"
            good = node.attr in (_MATH if of_math else _METHODS)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            good = _is_name(node.value)
        if not good:
            raise _Hostile(f"it has the guard {text!r:.80}")
