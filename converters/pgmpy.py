"""pgmpy: linear-Gaussian Bayesian networks.  The model's CPDs are all that is read; pgmpy is not imported.

Each variable is a vertex of event (1,) with the CPD N(β_0 + Σ_p β_p v_p, std²).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from converters._scalars import number, ordered, square
from gbn.errors import ConversionError, UnsupportedLayer
from gbn.net import GaussianBayesNet

__all__ = ["COMPLETE", "TAKES", "accepts", "convert"]

TAKES = "pgmpy: LinearGaussianBayesianNetwork with a LinearGaussianCPD for each variable"
COMPLETE = True


def accepts(obj: Any) -> bool:
    """Whether this converter is the one for an object; decided without importing pgmpy."""
    return any(base.__module__.partition(".")[0] == "pgmpy" for base in type(obj).__mro__)


def convert(obj: Any, example: Any = None, **options: Any) -> GaussianBayesNet:
    """The linear-Gaussian net of a pgmpy model, noise included.

    Weights become parameters ``<child>.<parent>.weight``, intercepts ``<child>.bias``; a variable whose ``std`` is 0
    becomes a deterministic vertex.

    Args:
        obj: a ``LinearGaussianBayesianNetwork``.
        example: not needed.

    Raises:
        ConversionError: another model; variables without CPD, or with one that does not fit the graph, all of them
            listed; names that are not strings.
    """
    if options:
        raise ConversionError(f"options of the pgmpy converter: got {sorted(options)}, expected none")
    if not any(base.__name__ == "LinearGaussianBayesianNetwork" for base in type(obj).__mro__):
        raise ConversionError(
            f"pgmpy's {type(obj).__name__} is not linear-Gaussian; this converter takes LinearGaussianBayesianNetwork"
        )
    names = ordered(obj)
    cpds = {cpd.variable: cpd for cpd in obj.cpds}
    faults = [
        UnsupportedLayer(name, "CPD" if name in cpds else "no CPD", reason)
        for name in names
        if (reason := _fault(cpds.get(name), list(obj.predecessors(name))))
    ]
    if faults:
        raise ConversionError("these variables of the pgmpy model cannot be converted:", faults)
    net = GaussianBayesNet()
    for name in names:
        _add(net, name, cpds[name])
    return net


def _fault(cpd: Any, parents: Collection[str]) -> str | None:
    """What is wrong with a CPD, or that there is none: check_model of pgmpy lets much of this pass."""
    if cpd is None:
        return "give it one with add_cpds"
    if sorted(map(repr, cpd.evidence)) != sorted(map(repr, parents)):
        return f"evidence: got {list(cpd.evidence)}, expected its parents in the graph, {list(parents)}"
    shape, size = np.shape(cpd.beta), 1 + len(parents)
    if shape != (size,):
        return f"beta: got shape {shape}, expected ({size},): the intercept, and a coefficient for each of the evidence"
    try:
        for coefficient in cpd.beta:
            number(coefficient, "beta")
        square(number(cpd.std, "std"), "std")
    except ConversionError as error:
        return str(error)
    return None


def _add(net: GaussianBayesNet, name: str, cpd: Any) -> None:
    intercept, *coefficients = np.asarray(cpd.beta, dtype=np.float64)
    variance = square(number(cpd.std, "std"), "std")
    if not coefficients and variance is None:
        # add_linear refuses a constant root, which it takes for a slip; here it is what the model says.
        net.add(name, "Linear", [net.add_parameter(f"{name}.bias", [intercept])])
        return
    weights = {parent: [[beta]] for parent, beta in zip(cpd.evidence, coefficients, strict=True)}
    net.add_linear(name, weights, bias=[intercept], cov=variance)
