"""The arguments of the commands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

from gbn import __version__, inference, learning
from gbn.latents import POLICIES

__all__ = ["parser"]

_Arguments = argparse.ArgumentParser | argparse._ArgumentGroup
_LIKELIHOODS = ("auto", "none", "categorical", "bernoulli")
_ROWS_HELP = (
    ".npz with a member for each vertex, or .csv or .parquet with columns vertex or vertex[i,j]; "
    "NaN or empty where missing"
)
_FACTORY_HELP = "file.py:function, which runs your Python file and calls its function, without arguments,"


def parser(runs: Mapping[str, Callable[[argparse.Namespace], Any]]) -> argparse.ArgumentParser:
    """The parser of the whole command line.

    Args:
        runs: command -> the function that does it, set as ``run`` on what is parsed.
    """
    root = argparse.ArgumentParser("gbn", description="Reads a neural network as a Gaussian Bayes net.")
    root.add_argument("--version", action="version", version=f"gbn {__version__}")
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, run in runs.items():
        description, add_arguments = _COMMANDS[name]
        command = commands.add_parser(name, help=description, description=description, allow_abbrev=False)
        command.set_defaults(run=run)
        add_arguments(command)
        command.add_argument("--json", action="store_true", help="print the result as one JSON object")
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return root


def _add_convert(add: argparse.ArgumentParser) -> None:
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


def _add_policy(add: argparse.ArgumentParser) -> None:
    add.add_argument("--latents", type=_latents, help=f"hidden vertices with noise: {', '.join(POLICIES)} or name,name")
    add.add_argument("--noise", type=float, metavar="X", help="variance of the hidden vertices (default 1)")


def _add_query(add: argparse.ArgumentParser) -> None:
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


def _add_engine(add: _Arguments, default: str) -> None:
    add.add_argument("--engine", default=default, help=f"{' or '.join(inference.ENGINES)} (default {default})")
    add.add_argument(
        "--option", type=_option, nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="options of the engine, such as prediction=live",
    )  # fmt: skip


def _add_learn(add: argparse.ArgumentParser) -> None:
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


def _add_compare(add: argparse.ArgumentParser) -> None:
    add.add_argument(
        "source", help=f"a model's file that can be run, such as model.pt2, or {_FACTORY_HELP} for the model"
    )
    _add_comparison(add, required=True)
    _add_engine(add, "pc")
    _add_policy(add)
    add.add_argument("--report", dest="output", metavar="HTML", help="write the report there")


def _add_comparison(add: _Arguments, required: bool) -> None:
    add.add_argument("--data", required=required, metavar="NPZ", help="members x (or x0, x1, ...) and y")
    add.add_argument("--loss", default="mse", help="mse, cross_entropy or bce (default mse)")
    add.add_argument("--reduction", default="mean", choices=("mean", "sum"), help="default mean")
    add.add_argument("--tol", type=float, metavar="T", help="relative error up to which gradients agree")


def _add_show(add: argparse.ArgumentParser) -> None:
    add.add_argument("net", help="a .gbn file")
    add.add_argument("--html", dest="output", metavar="HTML", help="write them as a page there")


def _add_report(add: argparse.ArgumentParser) -> None:
    add.add_argument("net", help="a .gbn file")
    add.add_argument("-o", "--output", required=True, metavar="HTML", help="the page to write")
    asked = add.add_argument_group("posterior, drawn when there is evidence")
    asked.add_argument("--evidence", metavar="FILE", help=f"observed values: {_ROWS_HELP}")
    asked.add_argument("--do", metavar="FILE", help="interventions, likewise")
    asked.add_argument("--ask", nargs="+", action="extend", metavar="VERTEX", help="vertices asked for (default: all)")
    asked.add_argument("--sample", type=int, default=0, metavar="K", help="the row that is drawn, from 0 (default 0)")
    _add_engine(asked, "exact")
    compared = add.add_argument_group("comparison with backprop, made when there are a model and data")
    compared.add_argument(
        "--model", metavar="SOURCE", help=f"the model of the net, such as model.pt2, or {_FACTORY_HELP} for it"
    )
    _add_comparison(compared, required=False)


def _add_export(add: argparse.ArgumentParser) -> None:
    add.add_argument("net", help="a .gbn file")
    add.add_argument(
        "--onto", metavar="MODEL", help="an .onnx or .keras file, of which a copy with these arrays is written"
    )
    add.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="the .npz file to write, or with --onto the copy"
    )


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


_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "convert": ("turn a model into a .gbn file", _add_convert),
    "query": ("posterior of some vertices given others", _add_query),
    "learn": ("parameters and noises of a net from data", _add_learn),
    "compare": ("gradients by local messages beside the model's own backprop", _add_compare),
    "show": ("the vertices of a net", _add_show),
    "report": ("one page about a net: its drawing, a posterior, a comparison with its model", _add_report),
    "export": ("the weights of a net, as arrays of the model it comes from", _add_export),
}
