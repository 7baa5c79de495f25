"""The commands: their arguments, and what each finds."""

from __future__ import annotations

import argparse
import inspect
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

from gbn import __version__, inference, io, learning
from gbn.cli.sources import (
    fixed_sizes,
    load_net,
    module_of,
    read_arrays,
    read_example,
    read_inputs,
    read_rows,
    read_source,
    read_values,
)
from gbn.cli.streams import InputError, check_target, emit, log, results_only, sentence, write_whole
from gbn.cli.text import (
    aligned,
    collect,
    fit_data,
    fit_text,
    net_data,
    net_facts,
    noise_text,
    posterior_data,
    posterior_text,
    quoted,
    save_arrays,
    sizes_text,
    write_arrays,
)
from gbn.conversion import convert, takes
from gbn.equivalence import compare, losses
from gbn.errors import (
    ConversionError,
    UnknownNameError,
)
from gbn.export.write_back import load_into
from gbn.latents import POLICIES
from gbn.net import GaussianBayesNet

__all__ = ["main"]


_LIKELIHOODS = ("auto", "none", "categorical", "bernoulli")
# What the value of an option may stand for, by the type that it is read as.
_TYPES: dict[type, set[str]] = {
    bool: {"bool"},
    int: {"int", "float"},
    float: {"float"},
    str: {"str"},
    NoneType: {"None"},
}
_ROWS_HELP = (
    ".npz with a member for each vertex, or .csv or .parquet with columns vertex or vertex[i,j]; "
    "NaN or empty where missing"
)
_FACTORY_HELP = "file.py:function, which runs your Python file and calls its function, without arguments,"


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
        with results_only():
            check_target(args.output)
            result = args.run(args)
        emit(json.dumps(result.data, allow_nan=False) if args.json else result.text)
    except KeyboardInterrupt:
        log("interrupted")
        return 130
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        log(f"error: {sentence(error)}")
        return 2
    return 0 if result.passed else 1


def _parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser("gbn", description="Reads a neural network as a Gaussian Bayes net.")
    root.add_argument("--version", action="version", version=f"gbn {__version__}")
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (_add_convert, _add_query, _add_learn, _add_compare, _add_show, _add_export):
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
    add.add_argument(
        "source",
        help=f"a file that a converter takes (.pt2, .onnx, .keras, .json, .yaml), or {_FACTORY_HELP} for the model, or "
        "(model, example)",
    )
    add.add_argument("-o", "--output", required=True, metavar="NET", help="the .gbn file to write")
    example = add.add_mutually_exclusive_group()
    example.add_argument("--example", metavar="NPZ", help="a batch of inputs to trace with: member x, or x0, x1, ...")
    example.add_argument(
        "--example-shape", type=_shape, nargs="+", action="extend", metavar="SIZES",
        help="the shape of one sample, such as 3,32,32, to trace with random numbers; one for each input",
    )  # fmt: skip
    add.add_argument(
        "--sample-axis", type=_axis, nargs="+", metavar="K",
        help="the axis of the inputs that counts the samples (default 0), or none: an input is one sample; one for all "
        "or one for each input",
    )  # fmt: skip
    _add_policy(add)
    add.add_argument("--output-noise", type=float, metavar="X", help="variance of the outputs (default 1)")
    add.add_argument("--likelihood", choices=_LIKELIHOODS, help="labels under the outputs (auto: as the model ends)")
    return add


def _add_policy(add: argparse.ArgumentParser) -> None:
    add.add_argument("--latents", type=_latents, help=f"hidden vertices with noise: {', '.join(POLICIES)} or name,name")
    add.add_argument("--noise", type=float, metavar="X", help="variance of the hidden vertices (default 1)")


def _add_query(commands: Any) -> argparse.ArgumentParser:
    add = _command(commands, "query", _query, "posterior of some vertices given others")
    add.add_argument("net", help="a .gbn file")
    add.add_argument("--evidence", metavar="FILE", help=f"observed values: {_ROWS_HELP}")
    add.add_argument("--do", metavar="FILE", help="interventions, likewise")
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


def _add_learn(commands: Any) -> argparse.ArgumentParser:
    add = _command(commands, "learn", _learn, "parameters and noises of a net from data")
    add.add_argument("net", help="a .gbn file")
    add.add_argument(
        "--data", required=True, metavar="FILE", help=f"rows: {_ROWS_HELP}",
    )  # fmt: skip
    add.add_argument("-o", "--output", required=True, metavar="NET", help="the .gbn file to write")
    add.add_argument("--method", default="em", help=f"{' or '.join(learning.METHODS)} (default em)")
    add.add_argument(
        "--weights", metavar="NAME", help="the member or column of the data that says how often a row counts"
    )
    add.add_argument("--validation", metavar="FILE", help="held-out rows, by which the best round is chosen")
    add.add_argument("--patience", type=int, metavar="N", help="stop after so many rounds without a better one")
    add.add_argument("--freeze", nargs="+", action="extend", default=[], metavar="NAME", help="what is not learned")
    add.add_argument("--seed", type=int, default=0, help="of all chance (default 0)")
    add.add_argument("--checkpoint", metavar="FILE", help="keep the state there; an unfinished fit goes on from it")
    add.add_argument(
        "--prior", metavar="FILE", help="method vb: the posterior of an earlier fit, which this one goes on from"
    )
    add.add_argument("--posterior", metavar="FILE", help="method vb: write the posterior of weights and noises there")
    add.add_argument("--history", metavar="CSV", help="write the figures of every round there")
    add.add_argument(
        "--option", type=_option, nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="options of the method, such as max_iter=100, or batch_size=64, with which em learns a converted network",
    )  # fmt: skip
    return add


def _add_compare(commands: Any) -> argparse.ArgumentParser:
    add = _command(commands, "compare", _compare, "gradients by local messages beside the model's own backprop")
    add.add_argument(
        "source", help=f"a model's file that can be run, such as model.pt2, or {_FACTORY_HELP} for the model"
    )
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


def _add_export(commands: Any) -> argparse.ArgumentParser:
    add = _command(commands, "export", _export, "the weights of a net, as arrays of the model it comes from")
    add.add_argument("net", help="a .gbn file")
    add.add_argument(
        "--onto", metavar="MODEL", help="an .onnx or .keras file, of which a copy with these arrays is written"
    )
    add.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="the .npz file to write, or with --onto the copy"
    )
    return add


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected positive sizes such as 3,32,32")
    return tuple(map(int, sizes))


def _axis(text: str) -> int | None:
    if text == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number such as 1, or none") from None


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
    if Path(args.output).resolve() == Path(args.source).resolve():
        raise InputError(f"{args.output}: this is the model itself, and would be overwritten; give another name to -o")
    options = _given(args, "latents", "noise", "output_noise")
    if args.likelihood:
        options["likelihood"] = None if args.likelihood == "none" else args.likelihood
    if args.sample_axis:
        options["sample_axis"] = args.sample_axis[0] if len(args.sample_axis) == 1 else args.sample_axis
    if Path(args.source).suffix.lower() == ".gbn":
        model, example = io.load(args.source), None
    else:
        model, example = read_source(args.source)
    example = read_example(args, example)
    if not isinstance(model, GaussianBayesNet):
        model = _converted(model, example, options)
    elif options or args.example or args.example_shape:
        raise InputError(
            f"{args.source}: it is a net already, with its own noise, and takes no options of conversion; change it in "
            "Python, with net.set_noise"
        )
    model.save(args.output)
    log(f"wrote {args.output}")
    data = net_data(model)
    return _Result(aligned(net_facts(model, data)), data)


def _converted(model: Any, example: Any, options: Mapping[str, Any]) -> GaussianBayesNet:
    try:
        return convert(model, example, **options)
    except ConversionError as error:
        # The library's remedy is a call in Python.
        if example is None and str(error).startswith("example:"):
            remedy = "give --example data.npz or --example-shape 3,32,32, or return (model, example) from the function"
            raise InputError(f"the model must be traced with an example batch: {remedy}") from error
        raise


def _query(args: argparse.Namespace) -> _Result:
    net = load_net(args.net)
    evidence, do = (None if path is None else read_values(path) for path in (args.evidence, args.do))
    post = net.query(list(dict.fromkeys(args.ask)), evidence, do, args.engine, **_engine_options(args))
    figures = collect(post, std=not args.mean_only, cov=args.cov)
    if args.output:
        write_whole(args.output, lambda path: save_arrays(path, figures))
    return _Result(posterior_text(post, figures), posterior_data(post, figures))


def _learn(args: argparse.Namespace) -> _Result:
    options = _checked_options(args.method, learning.learner(args.method), args.option, ("prior",))
    check_target(args.history)
    check_target(args.posterior)
    if args.method != "vb" and (args.prior or args.posterior):
        option = "--prior" if args.prior else "--posterior"
        raise InputError(f"{option}: method {args.method!r} learns no posterior of weights; give --method vb")
    net = load_net(args.net)
    if args.prior:
        from gbn.learning.weights_posterior import WeightPosterior

        options["prior"] = WeightPosterior.load(args.prior, net)
    rows, weights = read_rows(args.data, args.weights)
    held = None if args.validation is None else read_rows(args.validation, None)[0]
    given = _given(args, "patience", "checkpoint", "seed")
    result = net.fit(rows, args.method, weights=weights, validation=held, freeze=args.freeze, **given, **options)
    result.net.save(args.output)
    log(f"wrote {args.output}")
    if args.posterior and result.posterior is not None:
        result.posterior.save(args.posterior)
        log(f"wrote {args.posterior}")
    if args.history:
        write_whole(args.history, lambda path: path.write_text(result.history.to_frame().to_csv(), encoding="utf-8"))
    return _Result(fit_text(result), fit_data(result))


def _compare(args: argparse.Namespace) -> _Result:
    arrays = read_arrays(args.data)
    if "y" not in arrays:
        raise InputError(f"{args.data}: got members {quoted(arrays)}, expected y beside x (or x0, x1, ...)")
    inputs = read_inputs(arrays, args.data)
    policy = _given(args, "latents", "noise")
    options = _engine_options(args, besides=("tol",)) | {"engine": args.engine, "tol": args.tol}
    options |= {"loss": args.loss, "reduction": args.reduction}
    model, _ = read_source(args.source)
    if isinstance(model, str):
        if Path(model).suffix.lower() == ".gbn":
            raise InputError(f"{model}: compare needs a model with its own backprop: a .pt2 file, or file.py:function")
        module = module_of(model)
        net = convert(model, likelihood=losses.get(args.loss).likelihood, **policy)
        with fixed_sizes(model):
            report = compare(module, inputs, arrays["y"], net=net, **options)
        report = replace(report, model=Path(model).name)
    else:
        report = compare(model, inputs, arrays["y"], **policy, **options)
    if args.output:
        write_whole(args.output, report.save_html)
    return _Result(str(report), report.to_dict(), report.agrees)


def _show(args: argparse.Namespace) -> _Result:
    net = load_net(args.net)
    data = net_data(net)
    if args.output:
        from gbn.display.html import net_html, page

        document = page(Path(args.net).name, net_html(net))
        write_whole(args.output, lambda path: path.write_text(document, encoding="utf-8", errors="backslashreplace"))
    columns = ("vertex", "kind", "shape", "noise", "parents")
    vertices = net.vertices.values()
    rows = [(v.name, v.title, sizes_text(v), noise_text(net, v), ", ".join(v.parents)) for v in vertices]
    return _Result(f"{aligned(net_facts(net, data))}\n\n{aligned([columns, *rows])}", data)


def _export(args: argparse.Namespace) -> _Result:
    net = load_net(args.net)
    arrays = net.to_state_dict()
    if args.onto:
        load_into(args.onto, net, args.output)
        log(f"wrote {args.output}")
    elif takes(args.output):
        raise InputError(
            f"{args.output}: an .npz file is written; to write a copy of a model's file, give it as --onto"
        )
    else:
        write_whole(args.output, lambda path: write_arrays(path, arrays))
    data = {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in arrays.items()}
    rows = [(name, "×".join(map(str, a.shape)) or "scalar", str(a.dtype)) for name, a in arrays.items()]
    return _Result(aligned([("array", "shape", "dtype"), *rows]), {"arrays": data})


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were given; the rest is left to the library's defaults."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _engine_options(args: argparse.Namespace, besides: Sequence[str] = ()) -> dict[str, Any]:
    return _checked_options(args.engine, inference.solver(args.engine), args.option, besides)


def _checked_options(
    name: str, function: Callable[..., Any], given: Sequence[tuple[str, Any]], besides: Sequence[str]
) -> dict[str, Any]:
    """Options of an engine or method; those that no text can give (a callback), and ``besides``, are refused."""
    parameters = inspect.signature(function).parameters.values()
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("callback", *besides)]
    known = {p.name: str(p.annotation) for p in keywords}
    for option, value in given:
        if option not in known:
            raise UnknownNameError(f"option for {name!r}:", option, known)
        if not _fits(value, known[option]):
            raise InputError(f"option {option!r} of {name!r}: got {value!r}, expected {known[option]}")
    return dict(given)


def _fits(value: Any, annotation: str) -> bool:
    """Whether a value that was read from text is of an annotated type; types that no text gives are not judged."""
    wanted = {kind.strip() for kind in annotation.split("|")}
    return bool(wanted & _TYPES.get(type(value), set())) or not wanted <= set.union(*_TYPES.values())
