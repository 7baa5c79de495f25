"""Moment linearisation: nonlinearities regressed under a Gaussian of their parent, in place of a Taylor expansion.

An entry-wise f of x ~ N(m, V) becomes its affine regression on x, and what that leaves over a noise of the vertex::

    f(x) ≈ E f + E f' (x - m) + ω,    Var ω = Ω = Var f - (E f')² V            E f' = Cov(f, x) / V (Stein's lemma)

ω is uncorrelated with x, and taken as Gaussian and independent over entries.  Which Gaussian: the prior, evidence
clamped (:func:`forward`), or the posterior (:mod:`gbn.inference.posterior_linearization`).  Source: García-Fernández,
Svensson, Morelande & Särkkä, *Posterior linearization filter* (IEEE Trans. Signal Processing 63, 2015).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from gbn import ops
from gbn.evidence import Evidence
from gbn.graph import uncertain_given
from gbn.linearize import Linearization, Regression, Rule
from gbn.moments import has_moments, moments

__all__ = ["clamped_variance", "expanded", "forward", "regressed", "regressions"]

Array = np.ndarray[Any, Any]
_CHUNK_ENTRIES = 2**24


def regressed(evidence: Evidence) -> dict[str, str]:
    """The vertices that can be regressed, each with its parent: entry-wise nonlinearities of what is uncertain."""
    net, uncertain = evidence.net, uncertain_given(evidence)
    return {
        name: vertex.parents[0]
        for name, vertex in net.vertices.items()
        if vertex.kind == "op"
        and name not in evidence.do
        and has_moments(vertex.op)
        and vertex.parents[0] in uncertain
        and net[vertex.parents[0]].plated
    }


def expanded(evidence: Evidence, regressed: Iterable[str] = ()) -> list[str]:
    """The vertices that a linearisation expands at its point: other nonlinearities of what is uncertain, and labels."""
    net, uncertain, others = evidence.net, uncertain_given(evidence), set(regressed)
    found = []
    for name, vertex in net.vertices.items():
        varying = [parent in uncertain for parent in vertex.parents]
        label = vertex.kind == "likelihood" and name in evidence.values and any(varying)
        bent = vertex.kind == "op" and name not in evidence.do and not ops.get(str(vertex.op)).linear(varying)
        if (label or bent) and name not in others:
            found.append(name)
    return found


def regressions(evidence: Evidence, variances: Mapping[str, Array]) -> dict[str, Regression]:
    """What :class:`~gbn.linearize.Linearization` takes as ``regress``.

    Args:
        variances: regressed vertex -> V of its parent, shape (samples, *event), in float64; where it is 0, f and f'
            are taken at the mean.
    """

    def regress(name: str, variance: Array, mean: Array) -> tuple[Array, Array, Array]:
        vertex, dtype = evidence.net[name], evidence.net.dtype
        value, maps = ops.get(str(vertex.op))(mean, **vertex.attributes)
        slope = np.broadcast_to(maps[0]().factor, mean.shape)  # type: ignore[misc, union-attr]
        value, slope, spread = value.astype(np.float64), slope.astype(np.float64), np.zeros(mean.shape)
        at = variance > 0
        v = variance[at]
        value[at], slope[at], total = moments(str(vertex.op), mean[at].astype(np.float64), v, vertex.attributes)
        spread[at] = np.maximum(total - slope[at] ** 2 * v, 0)
        return value.astype(dtype), slope.astype(dtype), spread.astype(dtype)

    return {name: partial(regress, name, variance) for name, variance in variances.items()}


def forward(evidence: Evidence) -> tuple[Linearization, dict[str, Array]]:
    """The forward pass with moments: each nonlinearity regressed under the prior of the net linearised above it.

    Returns:
        the linearisation; regressed vertex -> V of its parent.
    """
    point = Linearization.forward(evidence)
    variances: dict[str, Array] = {}
    known: dict[str, Array] = {}
    for name, parent in regressed(evidence).items():
        if parent not in known:
            known[parent] = clamped_variance(point, parent)
        variances[name] = known[parent]
        point = Linearization.forward(evidence, regress=regressions(evidence, variances))
    return point, variances


def clamped_variance(point: Linearization, name: str) -> Array:
    """Prior variances of a vertex of the linearised net, evidence clamped and nothing above it conditioned on it.

    Each entry's variance is Σ_i λ_iᵀ (Q_i + Ω_i) λ_i over the vertices with noise, λ the pull of its unit vector.  The
    free entries of a partly observed vertex keep the spread that their own noise has given the observed ones.

    Returns:
        shape (samples, *event), in float64; 0 at observed entries.
    """
    net, evidence, vertex = point.net, point.evidence, point.net[name]
    shape = (evidence.samples, *vertex.shape)
    out = np.zeros((evidence.samples, vertex.size))
    if point.closed(name) or name in evidence.do:
        return out.reshape(shape)
    noisy = ({*net.latents, *point.spread} - set(evidence.do)) & point.upstream([name])
    entries = evidence.samples * sum(net[n].size for n in net.vertices if net[n].plated)
    width = max(1, _CHUNK_ENTRIES // max(1, entries))
    for start in range(0, vertex.size, width):
        index = np.arange(start, min(start + width, vertex.size))
        unit = np.zeros((len(index), evidence.samples, vertex.size), net.dtype)
        unit[np.arange(len(index)), :, index] = 1
        rules: dict[str, Rule] = {n: partial(_clamped, evidence, n) for n in evidence.masks}
        sent = _clamped(evidence, name, unit.reshape(len(index), *shape))
        rules[name] = lambda _, sent=sent: sent  # type: ignore[misc]
        for other, message in point.pull(rules, noisy).items():
            noise, spread = net.noise(other), point.spread.get(other)
            part = np.zeros(message.shape[:2]) if noise is None else noise.quadratic(message)
            if spread is not None:
                part = part + (spread * message**2).reshape(*message.shape[:2], -1).sum(axis=-1)
            out[:, index] += part.T
    return out.reshape(shape)


def _clamped(evidence: Evidence, name: str, pulled: Array | None) -> Array | None:
    """What a vertex passes on of a message about its free entries; the noise of observed ones is known."""
    if pulled is None or name not in evidence.masks:
        return pulled
    conditional = evidence.conditionals.get(name)
    free = np.where(evidence.masks[name], pulled.dtype.type(0), pulled)
    if conditional is None or conditional.cov.form != "full":
        return free
    nothing = np.zeros_like(free[0])
    return np.stack([conditional.messages(nothing, one) for one in free])
