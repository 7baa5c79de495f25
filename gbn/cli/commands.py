"""The commands: what each does and finds."""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gbn import inference, io, learning
from gbn.cli.arguments import parser
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
    posterior_facts,
    posterior_summary,
    posterior_text,
    quoted,
    save_arrays,
    sizes_text,
    write_arrays,
)
from gbn.conversion import convert, takes
from gbn.display.html import net_html, page, posterior_html, report_html, section
from gbn.equivalence import Report, compare, losses
from gbn.errors import (
    ConversionError,
)
from gbn.export.write_back import load_into
from gbn.net import GaussianBayesNet
from gbn.options import check_options
from gbn.posterior import Posterior

__all__ = ["main"]


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
        args = parser(_RUNS).parse_args(argv)
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
    post = _asked(load_net(args.net), args, list(dict.fromkeys(args.ask)))
    figures = collect(post, std=not args.mean_only, cov=args.cov)
    if args.output:
        write_whole(args.output, lambda path: save_arrays(path, figures))
    return _Result(posterior_text(post, figures), posterior_data(post, figures))


def _asked(net: GaussianBayesNet, args: argparse.Namespace, targets: list[str] | None) -> Posterior:
    evidence, do = (None if path is None else read_values(path) for path in (args.evidence, args.do))
    return net.query(targets, evidence, do, args.engine, **_engine_options(args))


def _learn(args: argparse.Namespace) -> _Result:
    options = _checked_options(f"method {args.method!r}", learning.learner(args.method), args.option, ("prior",))
    check_target(args.history)
    check_target(args.posterior)
    if args.method != "vb" and (args.prior or args.posterior):
        option = "--prior" if args.prior else "--posterior"
        raise InputError(f"{option}: method {args.method!r} learns no posterior of weights; give --method vb")
    net = load_net(args.net)
    if args.prior:
        options["prior"] = learning.load_posterior(args.prior, net)
    rows, weights = read_rows(args.data, args.weights)
    held = None if args.validation is None else read_rows(args.validation, None)[0]
    if held is not None and args.weights in held:
        held.pop(args.weights)
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
    options = _engine_options(args, besides=("tol",)) | {"engine": args.engine}
    report = _compared(args, args.source, _given(args, "latents", "noise") | options)
    if args.output:
        write_whole(args.output, report.save_html)
    return _Result(str(report), report.to_dict(), report.agrees)


def _compared(args: argparse.Namespace, source: str, options: Mapping[str, Any]) -> Report:
    """A model beside its net: the one among the options, or the one that it converts to."""
    arrays = read_arrays(args.data)
    if "y" not in arrays:
        raise InputError(f"{args.data}: got members {quoted(arrays)}, expected y beside x (or x0, x1, ...)")
    inputs = read_inputs(arrays, args.data)
    options = {"loss": args.loss, "reduction": args.reduction, "tol": args.tol, **options}
    model, _ = read_source(source)
    if not isinstance(model, str):
        return compare(model, inputs, arrays["y"], **options)
    if Path(model).suffix.lower() == ".gbn":
        raise InputError(f"{model}: compare needs a model with its own backprop: a .pt2 file, or file.py:function")
    module = module_of(model)
    if "net" not in options:
        policy = {name: options.pop(name) for name in ("latents", "noise") if name in options}
        options["net"] = convert(model, likelihood=losses.get(args.loss).likelihood, **policy)
    with fixed_sizes(model):
        report = compare(module, inputs, arrays["y"], **options)
    return replace(report, model=Path(model).name)


def _report(args: argparse.Namespace) -> _Result:
    if bool(args.model) != bool(args.data):
        given, other = ("--model", "--data") if args.model else ("--data", "--model")
        raise InputError(f"{given} needs {other}: a comparison is of a model, on data")
    read = [path for path in (args.net, args.evidence, args.do, args.model, args.data) if path]
    if Path(args.output).resolve() in [Path(path).resolve() for path in read]:
        raise InputError(f"{args.output}: the page would overwrite what it is made from; give another name to -o")
    if args.sample and not (args.evidence or args.do):
        raise InputError("--sample needs --evidence or --do: it says which of their rows is drawn")
    net = load_net(args.net)
    data: dict[str, Any] = {"net": net_data(net)}
    told, passed = net_facts(net, data["net"]), True
    sections = [section("The net", net_html(net))]
    if args.evidence or args.do:
        post = _asked(net, args, args.ask and list(dict.fromkeys(args.ask)))
        sections.append(section("What the evidence says of it", posterior_html(post, args.sample)))
        figures = collect(post, std=False, cov=False)
        data["posterior"] = posterior_summary(post, figures)
        told += [(f"posterior: {label}", text) for label, text in posterior_facts(post, figures)[:3]]
    if args.model:
        found = _compared(args, args.model, {"net": _with_unit_output(net, args.loss)})
        sections.append(section("Its gradients, beside the model's backprop", report_html(found)))
        data["comparison"], passed = found.to_dict(), found.agrees
        told.append(("comparison", found.verdict))
    document = page(Path(args.net).name, *sections)
    write_whole(args.output, lambda path: path.write_text(document, encoding="utf-8", errors="backslashreplace"))
    return _Result(aligned(told), data, passed)


def _with_unit_output(net: GaussianBayesNet, loss: str) -> GaussianBayesNet:
    """The net that a squared error is compared with: its output has a variance of 1, whatever it was converted with."""
    out = net.copy()
    if losses.get(loss).likelihood == "gaussian":
        out.set_noise(dict.fromkeys(net.outputs, 1.0))
    return out


def _show(args: argparse.Namespace) -> _Result:
    net = load_net(args.net)
    data = net_data(net)
    if args.output:
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
    return _checked_options(f"engine {args.engine!r}", inference.solver(args.engine), args.option, besides)


def _checked_options(
    owner: str, function: Callable[..., Any], given: Sequence[tuple[str, Any]], besides: Sequence[str] = ()
) -> dict[str, Any]:
    """Options of an engine or method; those that no text can give (a callback), and ``besides``, are refused."""
    check_options(function, dict(given), owner, without=("callback", *besides))
    return dict(given)


_RUNS: dict[str, Callable[[argparse.Namespace], _Result]] = {
    "convert": _convert,
    "query": _query,
    "learn": _learn,
    "compare": _compare,
    "show": _show,
    "report": _report,
    "export": _export,
}
