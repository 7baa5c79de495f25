"""A linear-Gaussian net as a pgmpy model over scalars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg

from gbn.errors import ConversionError
from gbn.export.affine import AffineCPD, affine_cpds, check_distinct, check_plain, entries, entry_names
from gbn.net import GaussianBayesNet

if TYPE_CHECKING:
    from pgmpy.models import LinearGaussianBayesianNetwork

__all__ = ["to_pgmpy"]

Array = np.ndarray[Any, Any]


def to_pgmpy(net: GaussianBayesNet) -> LinearGaussianBayesianNetwork:
    """The same joint Gaussian as a pgmpy model, with one variable for each entry of each vertex.

    A vertex h becomes ``h[0]``, ``h[1]``, ... (a matrix ``h[0,0]``, ...; event (1,) plain ``h``).  Correlated noise
    with covariance Q = L Lᵀ becomes a chain in which entry k also depends on the entries before it: with
    T = diag(L) L⁻¹, unit lower triangular, v = f + e is T v = T f + diag(L) z.  Deterministic vertices have std 0.
    Parameters are folded into coefficients.

    Raises:
        ConversionError: labels, random parameters, a mean that is not linear, an input without a prior, or two
            scalars of the same name.
    """
    check_plain(net, "to_pgmpy")
    if not net.is_linear():
        raise ConversionError(
            "to_pgmpy: the net is not linear, and pgmpy knows linear-Gaussian CPDs only; export the linear net at an "
            "operating point, net.linearize({input: array}).to_pgmpy()"
        )
    names = [name for name, vertex in net.vertices.items() if vertex.plated]
    for name in names:
        if net.vertices[name].needs_data:
            raise ConversionError(
                f"to_pgmpy: input {name!r} has no prior, and pgmpy needs a CPD for each variable; call "
                f"net.set_prior({name!r}, mean, cov) first"
            )
    cpds = affine_cpds(net, names)
    scalars = [cpd for name in names for cpd in _expand(net, name, cpds[name])]
    check_distinct((variable for variable, *_ in scalars), "to_pgmpy")

    from pgmpy.factors.continuous import LinearGaussianCPD
    from pgmpy.models import LinearGaussianBayesianNetwork

    model = LinearGaussianBayesianNetwork()
    model.add_nodes_from([variable for variable, *_ in scalars])
    model.add_edges_from([(parent, variable) for variable, _, _, parents in scalars for parent in parents])
    model.add_cpds(*(LinearGaussianCPD(variable, beta, std, parents) for variable, beta, std, parents in scalars))
    return model


def _expand(net: GaussianBayesNet, name: str, cpd: AffineCPD) -> Iterator[tuple[str, list[float], float, list[str]]]:
    """variable, beta, std, evidence of every entry of a vertex, in order."""
    names, noise = entry_names(net.vertices[name]), net.noise(name)
    weights = {tuple(entry_names(net.vertices[parent])): block for parent, block in cpd.weights.items()}
    bias, std = cpd.bias, np.zeros(len(names))
    if noise is not None and noise.form == "full":
        std = np.diagonal(noise.cholesky)
        inverse = linalg.solve_triangular(noise.cholesky, np.eye(len(names)), lower=True)
        chain = std[:, None] * inverse
        np.fill_diagonal(chain, 1.0)
        weights, bias = {parents: chain @ block for parents, block in weights.items()}, chain @ bias
        if len(names) > 1:
            weights[tuple(names)] = np.eye(len(names)) - chain
    elif noise is not None:
        std = np.sqrt(noise.diagonal()).reshape(-1)
    for row, variable in enumerate(names):
        edges = [edge for parents, block in weights.items() for edge in entries(block, row, parents)]
        beta = [float(bias[row]), *(weight for _, weight in edges)]
        yield variable, beta, float(std[row]), [parent for parent, _ in edges]
