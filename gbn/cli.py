"""The command line: ``gbn convert | query | compare | show``, also as ``python -m gbn``.

Results go to stdout, everything else to stderr.  Exit codes: 0 done, 1 a comparison that does not agree, 2 wrong usage
or input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import math
import os
import re
import secrets
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, NoneType
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn import __version__, inference, io
from gbn.conversion import convert
from gbn.equivalence import compare, losses
from gbn.errors import (
    ConvergenceWarning,
    ConversionError,
    FileFormatError,
    GbnError,
    InferenceError,
    SingularEvidenceError,
    UnknownNameError,
)
from gbn.latents import POLICIES
from gbn.net import GaussianBayesNet, Vertex

if TYPE_CHECKING:
    from gbn.posterior import Posterior

__all__ = ["main"]

Array = np.ndarray[Any, Any]
Facts = list[tuple[str, Any]]

_FACTORY = re.compile(r"(.+\.py):([^:/\\]+)", re.DOTALL | re.IGNORECASE)
_PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
_LIKELIHOODS = ("auto", "none", "categorical", "bernoulli")
_LISTED = 8
# What the value of an option may stand for, by the type that it is read as.
_TYPES: dict[type, set[str]] = {
    bool: {"bool"},
    int: {"int", "float"},
    float: {"float"},
    str: {"str"},
    NoneType: {"None"},
}
_FACTORY_HELP = "file.py:function, which runs your Python file and calls its function, without arguments,"


class _InputError(GbnError, ValueError):
    """What was given on the command line cannot be used."""


@dataclass(frozen=True)
class _Result:
    """What a command found: as text, as plain values for JSON, and whether a check passed."""

    text: str
    data: Mapping[str, Any]
    passed: bool = True


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: arguments without the program's name (default: those of the process).
    """
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:  # help, version or wrong usage: argparse has printed it
        return stop.code if isinstance(stop.code, int) else 2
    try:
        with _results_only():
            _check_target(args.output)
            result = args.run(args)
        _emit(json.dumps(result.data, allow_nan=False) if args.json else result.text)
    except KeyboardInterrupt:
        _log("interrupted")
        return 130
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        _log(f"error: {_sentence(error)}")
        return 2
    return 0 if result.passed else 1


def _parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser("gbn", description="Reads a neural network as a Gaussian Bayes net.")
    root.add_argument("--version", action="version", version=f"gbn {__version__}")
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (_add_convert, _add_query, _add_compare, _add_show):
        command = add(commands)
        command.add_argument("--json", action="store_true", help="print the result as one JSON object")
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return root


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], _Result], description: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=description, description=description, allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def _add_convert(commands: Any) -> argparse.ArgumentParser:
    add = _command(commands, "convert", _convert, "turn a model into a .gbn file")
    add.add_argument("source", help=f"a model's file (.pt2), or {_FACTORY_HELP} for the model, or (model, example)")
    add.add_argument("-o", "--output", required=True, metavar="NET", help="the .gbn file to write")
    example = add.add_mutually_exclusive_group()
    example.add_argument("--example", metavar="NPZ", help="a batch of inputs to trace with: member x, or x0, x1, ...")
    example.add_argument(
        "--example-shape", type=_shape, nargs="+", action="extend", metavar="SIZES",
        help="the shape of one sample, such as 3,32,32, to trace with random numbers; one for each input",
    )  # fmt: skip
    _add_policy(add)
    add.add_argument("--output-noise", type=float, metavar="X", help="variance of the outputs (default 1)")
    add.add_argument("--likelihood", choices=_LIKELIHOODS, help="labels under the outputs (auto: as the model says)")
    return add


def _add_policy(add: argparse.ArgumentParser) -> None:
    add.add_argument("--latents", type=_latents, help=f"hidden vertices with noise: {', '.join(POLICIES)} or name,name")
    add.add_argument("--noise", type=float, metavar="X", help="variance of the hidden vertices (default 1)")


def _add_query(commands: Any) -> argparse.ArgumentParser:
    add = _command(commands, "query", _query, "posterior of some vertices given others")
    add.add_argument("net", help="a .gbn file")
    add.add_argument("--evidence", metavar="NPZ", help="observed values: a member for each vertex, NaN where missing")
    add.add_argument("--do", metavar="NPZ", help="interventions: a member for each vertex")
    add.add_argument("--ask", nargs="+", action="extend", required=True, metavar="VERTEX", help="vertices asked for")
    _add_engine(add, "exact")
    add.add_argument("--cov", action="store_true", help="also the covariance of each vertex, samples x size x size")
    add.add_argument("--mean-only", action="store_true", help="no standard deviations, which cost a sweep an entry")
    add.add_argument(
        "-o", "--output", metavar="NPZ", help="write <vertex>.mean, <vertex>.std, <vertex>.cov and log_evidence there"
    )
    return add


def _add_engine(add: argparse.ArgumentParser, default: str) -> None:
    add.add_argument("--engine", default=default, help=f"{' or '.join(inference.ENGINES)} (default {default})")
    add.add_argument(
        "--option", type=_option, nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="options of the engine, such as prediction=live",
    )  # fmt: skip


def _add_compare(commands: Any) -> argparse.ArgumentParser:
    add = _command(commands, "compare", _compare, "gradients by local messages beside the model's own backprop")
    add.add_argument("source", help=f"a .pt2 file, or {_FACTORY_HELP} for the model")
    add.add_argument("--data", required=True, metavar="NPZ", help="members x (or x0, x1, ...) and y")
    add.add_argument("--loss", default="mse", help="mse, cross_entropy or bce (default mse)")
    add.add_argument("--reduction", default="mean", choices=("mean", "sum"), help="default mean")
    _add_engine(add, "pc")
    _add_policy(add)
    add.add_argument("--tol", type=float, metavar="T", help="relative error up to which gradients agree")
    add.add_argument("--report", dest="output", metavar="HTML", help="write the report there")
    return add


def _add_show(commands: Any) -> argparse.ArgumentParser:
    add = _command(commands, "show", _show, "the vertices of a net")
    add.add_argument("net", help="a .gbn file")
    add.add_argument("--html", dest="output", metavar="HTML", help="write them as a page there")
    return add


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected positive sizes such as 3,32,32")
    return tuple(map(int, sizes))


def _latents(text: str) -> str | list[str]:
    return text if text in POLICIES else [name.strip() for name in text.split(",")]


def _option(text: str) -> tuple[str, Any]:
    """A value is what JSON reads it as (a number, true, null), else the text itself."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected key=value, such as max_rounds=100")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _convert(args: argparse.Namespace) -> _Result:
    options = _given(args, "latents", "noise", "output_noise")
    if args.likelihood:
        options["likelihood"] = None if args.likelihood == "none" else args.likelihood
    if Path(args.source).suffix.lower() == ".gbn":
        model, example = io.load(args.source), None
    else:
        model, example = _read_source(args.source)
    example = _example(args, example)
    if not isinstance(model, GaussianBayesNet):
        model = _converted(model, example, options)
    elif options or args.example or args.example_shape:
        raise _InputError(
            f"{args.source}: it is a net already, with its own noise, and takes no options of conversion; change it in "
            "Python, with net.set_noise"
        )
    model.save(args.output)
    _log(f"wrote {args.output}")
    data = _described(model)
    return _Result(_aligned(_facts(model, data)), data)


def _converted(model: Any, example: Any, options: Mapping[str, Any]) -> GaussianBayesNet:
    try:
        return convert(model, example, **options)
    except ConversionError as error:
        # The library's remedy is a call in Python.
        if example is None and str(error).startswith("example:"):
            remedy = "give --example data.npz or --example-shape 3,32,32, or return (model, example) from the function"
            raise _InputError(f"the model must be traced with an example batch: {remedy}") from error
        raise


def _query(args: argparse.Namespace) -> _Result:
    net = _load(args.net)
    evidence, do = (None if path is None else _read_arrays(path) for path in (args.evidence, args.do))
    post = net.query(list(dict.fromkeys(args.ask)), evidence, do, args.engine, **_engine_options(args))
    figures = _figures(post, std=not args.mean_only, cov=args.cov)
    if args.output:
        _write(args.output, lambda path: _save_arrays(path, figures))
    return _Result(_posterior_text(post, figures), _posterior_data(post, figures))


def _compare(args: argparse.Namespace) -> _Result:
    arrays = _read_arrays(args.data)
    if "y" not in arrays:
        raise _InputError(f"{args.data}: got members {_quoted(arrays)}, expected y beside x (or x0, x1, ...)")
    inputs = _inputs(arrays, args.data)
    policy = _given(args, "latents", "noise")
    options = _engine_options(args, besides=("tol",)) | {"engine": args.engine, "tol": args.tol}
    options |= {"loss": args.loss, "reduction": args.reduction}
    model, _ = _read_source(args.source)
    if isinstance(model, str):
        if Path(model).suffix.lower() != ".pt2":
            raise _InputError(f"{model}: compare needs a model with its own backprop: a .pt2 file, or file.py:function")
        # Converting comes first: it refuses files that would run code when torch loads them.
        net = convert(model, likelihood=losses.get(args.loss).likelihood, **policy)
        with _fixed_sizes(model):
            report = compare(_exported_module(model), inputs, arrays["y"], net=net, **options)
        report = replace(report, model=Path(model).name)
    else:
        report = compare(model, inputs, arrays["y"], **policy, **options)
    if args.output:
        _write(args.output, report.save_html)
    return _Result(str(report), report.to_dict(), report.agrees)


def _show(args: argparse.Namespace) -> _Result:
    net = _load(args.net)
    data = _described(net)
    if args.output:
        from gbn.display.html import net_html, page

        document = page(Path(args.net).name, net_html(net))
        _write(args.output, lambda path: path.write_text(document, encoding="utf-8", errors="backslashreplace"))
    columns = ("vertex", "kind", "shape", "noise", "parents")
    rows = [(v.name, _kind(v), _sizes(v), _noise(net, v), ", ".join(v.parents)) for v in net.vertices.values()]
    return _Result(f"{_aligned(_facts(net, data))}\n\n{_aligned([columns, *rows])}", data)


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were given; the rest is left to the library's defaults."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _engine_options(args: argparse.Namespace, besides: Sequence[str] = ()) -> dict[str, Any]:
    """The engine's options by name; those that no text can give (a callback), and ``besides``, are refused."""
    parameters = inspect.signature(inference.solver(args.engine)).parameters.values()
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("callback", *besides)]
    known = {p.name: str(p.annotation) for p in keywords}
    for name, value in args.option:
        if name not in known:
            raise UnknownNameError(f"option for {args.engine!r}:", name, known)
        if not _fits(value, known[name]):
            raise _InputError(f"option {name!r} of {args.engine!r}: got {value!r}, expected {known[name]}")
    return dict(args.option)


def _fits(value: Any, annotation: str) -> bool:
    """Whether a value that was read from text is of an annotated type; types that no text gives are not judged."""
    wanted = {kind.strip() for kind in annotation.split("|")}
    return bool(wanted & _TYPES.get(type(value), set())) or not wanted <= set.union(*_TYPES.values())


def _load(path: str) -> GaussianBayesNet:
    if _FACTORY.fullmatch(path) or Path(path).suffix.lower() in (".pt2", ".py", *_PICKLES):
        raise _InputError(f"{path}: expected a .gbn file; make one with: gbn convert {path} -o net.gbn")
    return io.load(path)


def _read_source(source: str) -> tuple[Any, Any]:
    """A model with its example (or None); the path itself where it names a file that converters read."""
    factory = _FACTORY.fullmatch(source)
    if factory:
        return _made_by(Path(factory[1]), factory[2])
    suffix = Path(source).suffix.lower()
    if suffix == ".py":
        raise _InputError(f"{source}: expected a function in it as well, {source}:function, that returns the model")
    if suffix in _PICKLES:
        raise _InputError(
            f"{source}: a {suffix} file is a pickle, which can run any code when it is loaded, and is refused; save "
            "the graph with torch.export.save to a .pt2 file, or write a Python file with a function that builds the "
            "model and loads its weights (torch.load(path, weights_only=True) runs nothing), and give file.py:function"
        )
    return source, None


def _made_by(path: Path, name: str) -> tuple[Any, Any]:
    """What a function in a person's own Python file makes: a model, and its example where it returns both."""
    code = path.read_bytes()
    with _importable(path.parent):
        with _blame(path, str(path)):
            module = _executed(path, code)
        factory = getattr(module, name, None)
        if not callable(factory):
            known = [n for n, value in vars(module).items() if inspect.isroutine(value) or inspect.isclass(value)]
            raise UnknownNameError(f"function of {path.name}", name, [n for n in known if not n.startswith("_")])
        with _blame(path, f"{path}:{name}"):
            made = factory()
    if isinstance(made, tuple) and len(made) == 2:
        return made
    if isinstance(made, (tuple, str)) or made is None:
        got = f"{len(made)} things" if isinstance(made, tuple) else repr(made)
        raise _InputError(f"{path}:{name} returned {got}, expected the model, or (model, example)")
    return made, None


def _executed(path: Path, code: bytes) -> ModuleType:
    """The file as a module; compiled here, so that no bytecode is left beside it."""
    module = ModuleType(f"_gbn_source_{path.stem}")
    module.__file__ = str(path)
    # Decorators and tracers look up the module of a class or function by its name.
    sys.modules[module.__name__] = module
    exec(compile(code, str(path), "exec"), module.__dict__)
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours, as when Python runs it."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


@contextlib.contextmanager
def _blame(path: Path, what: str) -> Iterator[None]:
    """Report whatever a person's own code raises as one sentence, with the line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        steps = traceback.walk_tb(error.__traceback__)
        lines = [line for frame, line in steps if frame.f_code.co_filename == str(path)]
        where = f" (line {lines[-1]} of {path.name})" if lines else ""
        raise _InputError(f"{what} raised {_named(error)}{where}") from error


def _exported_module(path: str) -> Any:
    import torch

    with warnings.catch_warnings():
        # What torch deprecates in its own reader is not the caller's affair.
        warnings.simplefilter("ignore")
        module = torch.export.load(path).module()
    for part in module.modules():
        # The mode of an exported graph is fixed, whatever the flag says.
        part.training = False
    return module


@contextlib.contextmanager
def _fixed_sizes(path: str) -> Iterator[None]:
    """Say what to do about a graph that was exported for another number of samples than the data has."""
    try:
        yield
    except AssertionError as error:
        raise _InputError(
            f"{path}: the exported graph does not take this data ({error}); export it for any number of samples: "
            "torch.export.export(model, args, dynamic_shapes=({0: torch.export.Dim.AUTO},))"
        ) from error


def _example(args: argparse.Namespace, example: Any) -> Any:
    """The example batch: from a file, of given shapes, or the one that came with the model."""
    if args.example:
        return _inputs(_read_arrays(args.example), args.example)
    if args.example_shape:
        rng = np.random.default_rng(0)
        return tuple(rng.standard_normal((2, *shape)) for shape in args.example_shape)
    return example


def _inputs(arrays: Mapping[str, Array], path: str) -> tuple[Array, ...]:
    """Members x, or x0, x1, ... in this order."""
    found = [name for name in arrays if re.fullmatch(r"x\d*", name)]
    numbered = [f"x{k}" for k in range(len(found))]
    if found != ["x"] and (not found or set(found) != set(numbered)):
        raise _InputError(f"{path}: got members {_quoted(arrays)}, expected the inputs as x, or as x0, x1, ...")
    return tuple(arrays[name] for name in (["x"] if found == ["x"] else numbered))


def _read_arrays(path: str) -> dict[str, Array]:
    """The arrays of an .npz file by name; objects, which are pickled, are refused."""
    remedy = "write plain arrays with numpy.savez(path, name=array)"
    with open(path, "rb") as file:
        magic = file.read(4)
        file.seek(0)
        try:
            if magic[:2] != b"PK" and magic != b"\x93NUM":
                raise ValueError(f"it begins with {magic!r}")
            archive = np.load(file, allow_pickle=False)
            arrays = {name: archive[name] for name in archive.files} if hasattr(archive, "files") else None
        # Damaged bytes surface as almost any exception of the zip and number parsers.
        except Exception as error:
            if "pickle" in str(error):
                what = "it holds pickled objects, which can run any code when they are loaded, and is refused"
                raise FileFormatError(f"{path}: {what}; {remedy}") from error
            raise FileFormatError(f"{path}: not a whole .npz file: {error}; {remedy}") from error
    if arrays is None:
        raise FileFormatError(f"{path}: got a single array without a name, expected an .npz file; {remedy}")
    strange = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
    if strange:
        raise FileFormatError(f"{path}: its members {_quoted(strange)} are not arrays; {remedy}")
    return arrays


@dataclass(frozen=True)
class _Figures:
    """Numbers of a posterior; None, or no entry, where the engine does not give them or nobody asked."""

    mean: Mapping[str, Array]
    std: Mapping[str, Array]
    cov: Mapping[str, Array]
    log_evidence: Array | None
    free_energy: Array | None


def _figures(post: Posterior, std: bool, cov: bool) -> _Figures:
    notes: list[str] = []

    def tried(figure: Callable[[], Array]) -> Array | None:
        try:
            return figure()
        except SingularEvidenceError:
            raise
        except InferenceError as error:
            notes.append(str(error))
            return None

    labels = post.net.labels
    spreads = {name: tried(lambda n=name: post.std[n]) for name in post.targets if std and name not in labels}  # type: ignore[misc]
    figures = _Figures(
        {name: post.mean[name] for name in post.targets},
        {name: value for name, value in spreads.items() if value is not None},
        {name: post.cov(name) for name in post.targets} if cov else {},
        tried(lambda: post.log_evidence),
        tried(lambda: post.free_energy),
    )
    for note in dict.fromkeys(notes):
        _log(f"note: {note}")
    return figures


def _save_arrays(path: Path, figures: _Figures) -> None:
    arrays = {f"{name}.{kind}": a for kind in ("mean", "std", "cov") for name, a in getattr(figures, kind).items()}
    if figures.log_evidence is not None:
        arrays["log_evidence"] = figures.log_evidence
    with open(path, "xb") as file:
        np.savez(file, **arrays)


def _posterior_data(post: Posterior, figures: _Figures) -> dict[str, Any]:
    return {
        "engine": post.engine,
        "converged": post.converged,
        "samples": post.evidence.samples,
        "log_evidence": _plain(figures.log_evidence),
        "free_energy": _plain(figures.free_energy),
        "diagnostics": _plain(post.diagnostics),
        "targets": {
            name: {kind: _plain(getattr(figures, kind).get(name)) for kind in ("mean", "std", "cov")}
            for name in post.targets
        },
    }


def _posterior_text(post: Posterior, figures: _Figures) -> str:
    facts: Facts = [("engine", post.engine + ("" if post.converged else " (not converged)"))]
    facts += [("samples", post.evidence.samples), ("log-evidence", _nats(figures.log_evidence))]
    if figures.log_evidence is None:
        facts.append(("free energy", _nats(figures.free_energy)))
    facts += [(key.replace("_", " "), value) for key, value in post.diagnostics.items()]
    columns = ("vertex", "shape", "mean", "std")
    rows = [(n, _sizes(post.net[n]), _range(figures.mean[n]), _range(figures.std.get(n))) for n in post.targets]
    return f"{_aligned(facts)}\n\n{_aligned([columns, *rows])}"


def _nats(values: Array | None) -> str:
    if values is None:
        return "-"
    return f"{float(np.sum(values)):.6g} nats" + (f" in all, {_range(values)} a sample" if np.size(values) > 1 else "")


def _described(net: GaussianBayesNet) -> dict[str, Any]:
    """A net as plain values."""
    return {
        "dtype": str(net.dtype),
        "inputs": list(net.inputs),
        "outputs": list(net.outputs),
        "labels": list(net.labels),
        "latents": list(net.latents),
        "parameters": {"arrays": len(net.parameters), "numbers": sum(net[name].size for name in net.parameters)},
        "vertices": [_vertex_data(net, vertex) for vertex in net.vertices.values()],
    }


def _vertex_data(net: GaussianBayesNet, vertex: Vertex) -> dict[str, Any]:
    noise = net.noise(vertex.name)
    variances = None if noise is None else [float(noise.diagonal().min()), float(noise.diagonal().max())]
    return {
        "name": vertex.name,
        "kind": vertex.kind,
        "op": vertex.op,
        "shape": list(vertex.shape),
        "per_sample": vertex.plated,
        "parents": list(vertex.parents),
        "noise": noise and {"name": vertex.noise, "form": noise.form, "variances": variances},
        "trainable": vertex.trainable,
        "source": vertex.source,
    }


def _facts(net: GaussianBayesNet, data: Mapping[str, Any]) -> Facts:
    noises: dict[str, list[str]] = {}
    for name in net.latents:
        noises.setdefault(_noise(net, net[name]), []).append(name)
    inputs, outputs = ([f"{n} ({_sizes(net[n])})" for n in names] for names in (net.inputs, net.outputs))
    return [
        ("vertices", f"{len(net)}, {len(net.latents)} with noise"),
        ("parameters", "{arrays} arrays, {numbers:,} numbers".format(**data["parameters"])),
        ("inputs", _listed(inputs)),
        ("outputs", _listed(outputs)),
        *[("label", f"{name} ({net[name].op})") for name in net.labels],
        *[("noise", f"{variance} at {_listed(names)}") for variance, names in noises.items()],
        ("dtype", net.dtype),
    ]


def _kind(vertex: Vertex) -> str:
    if vertex.kind == "op":
        return str(vertex.op)
    if vertex.kind == "likelihood":
        return f"label ({vertex.op})"
    return vertex.kind if vertex.trainable or vertex.kind != "parameter" else "parameter (frozen)"


def _sizes(vertex: Vertex) -> str:
    return "×".join([*(["N"] if vertex.plated else []), *map(str, vertex.shape)]) or "scalar"


def _noise(net: GaussianBayesNet, vertex: Vertex) -> str:
    noise = net.noise(vertex.name)
    if noise is None:
        return "-"
    shared = f" ({vertex.noise})" if vertex.noise != vertex.name else ""
    return f"{'' if noise.form == 'scalar' else noise.form + ' '}{_range(noise.diagonal())}{shared}"


def _range(values: Array | None) -> str:
    finite = np.zeros(0) if values is None else values[np.isfinite(values)]
    if not finite.size:
        return "-"
    low, high = f"{float(finite.min()):.4g}", f"{float(finite.max()):.4g}"
    return low if low == high else f"{low} to {high}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "-") + more


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _aligned(rows: Iterable[Sequence[Any]]) -> str:
    """Rows of text in columns."""
    cells = [[_printable(str(cell)).replace("\n", r"\n") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def _plain(value: Any) -> Any:
    """A value that JSON knows, None where a number is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        numbers = np.asarray(value)
        numbers = numbers.astype(np.float64) if numbers.dtype.kind == "f" else numbers
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            missing, numbers = ~np.isfinite(numbers), numbers.astype(object)
            numbers[missing] = None
        return numbers.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _check_target(path: str | None) -> None:
    """Refuse a place that cannot be written before the work is done, not after it."""
    if path is None:
        return
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise _InputError(f"{path}: it is a folder, expected the name of a file to write")
    if not target.parent.is_dir():
        raise _InputError(f"{path}: there is no folder {str(target.parent)!r}; make it first")


def _write(path: str, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and move it there, so that it appears whole or not at all."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        write(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _log(f"wrote {path}")


@contextlib.contextmanager
def _results_only() -> Iterator[None]:
    """Keep stdout for the result: what a model's code prints, and warnings, go to stderr."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        _log(f"warning: {message}")

    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("always", ConvergenceWarning)
        warnings.showwarning = show
        yield


def _sentence(error: Exception) -> str:
    if isinstance(error, GbnError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    return f"unexpected {_named(error)}; --debug shows where"


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _printable(text: str) -> str:
    """Control characters, which a name in a stranger's file may hold, as escapes."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _log(text: str) -> None:
    print(f"gbn: {_printable(text)}", file=sys.stderr)


def _emit(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    text = _printable(text).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The reader has what it wanted.  Python flushes once more at exit, and must find something to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
