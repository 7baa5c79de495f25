"""The dense oracle of variational Bayes: the lower bound at a given q, computed the slow way.

The expected energy of a row is quadratic in what is hidden: it is found by trying out values of the hidden entries in a
forward pass of torch's, averaged over sigma points of the weights (exact, for errors are linear in weights), and then
integrated as a whole.  Divergences are those of torch.distributions.  Of the library it reads q, and nothing else.
"""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import torch
from scipy import special
from torch import distributions

from gbn.learning.precisions import Gamma, Known, Wishart
from tests.dense import LOG_2PI, Program, tensor


def expected_precision(noise):
    """E Λ as a matrix."""
    return noise.mean if noise.mean.ndim == 2 else np.diag(noise.mean)


def expected_logs(noise):
    """E log of each precision, or of a full one an equal share of E log |Λ|."""
    if isinstance(noise, Gamma):
        return np.broadcast_to(special.digamma(noise.shape) - np.log(noise.rate), (noise.size,))
    if isinstance(noise, Known) and noise.form != "full":
        return np.log(noise.precision)
    if isinstance(noise, Known):
        return np.full(noise.size, np.linalg.slogdet(expected_precision(noise))[1] / noise.size)
    d = noise.size
    total = special.digamma((noise.dof - np.arange(d)) / 2).sum() + d * np.log(2) - np.linalg.slogdet(noise.scatter)[1]
    return np.full(d, total / d)


def weight_covariance(post):
    """Of all learned entries, given the expected precision of their noise.  Shape: (entries, entries)."""
    blocks, n = post.blocks, post.blocks.entries
    of = np.empty(n, object)
    for name, where in post.where.items():
        of[where[where >= 0]] = name
    out = np.zeros((n, n))
    for e in range(n):
        owner = post.owner[blocks.label[e]]
        noise = post.noises[post.keys[owner]] if owner >= 0 else None
        unit = None if noise is None else np.linalg.inv(expected_precision(noise))
        mine = np.flatnonzero(blocks.label == blocks.label[e])
        for f in range(n):
            same = blocks.label[f] == blocks.label[e]
            i, j = post.row[blocks.label[e]], post.row[blocks.label[f]]
            if same:
                scale = 1.0 if unit is None else unit[i, i]
                out[e, f] = scale * post.covariance[blocks.place(np.array(e), np.array(f))]
            elif unit is not None and noise.form == "full" and post.owner[blocks.label[f]] == owner:
                other = np.flatnonzero(blocks.label == blocks.label[f])
                if [of[k] for k in mine] == [of[k] for k in other]:
                    twin = mine[list(other).index(f)]
                    out[e, f] = unit[i, j] * post.covariance[blocks.place(np.array(e), np.array(twin))]
    return out


class Rows:
    """One row at a time, of a net without labels.

    evidence, do: name -> array of shape (samples, *event), NaN where missing.
    """

    def __init__(self, net, evidence, do=None):
        self.net, self.program = net, Program(net)
        self.data = {n: np.asarray(v, float) for n, v in evidence.items()}
        self.do = {n: np.asarray(v, float) for n, v in (do or {}).items()}
        for name in list(self.data):
            if net.vertices[name].kind == "input" and not net.vertices[name].random:
                self.do[name] = self.data.pop(name)
        self.samples = len(next(iter((self.data | self.do).values())))
        graph = nx.DiGraph()
        graph.add_nodes_from(net.vertices)
        graph.add_edges_from((p, n) for n, v in net.vertices.items() if n not in self.do for p in v.parents)
        self.below = {n: nx.descendants(graph, n) for n in net.vertices}

    def known(self, name, row):
        if name not in self.data:
            return np.zeros(self.net.vertices[name].size, bool)
        return ~np.isnan(self.data[name][row].reshape(-1))

    def counted(self, name, row):
        known = self.known(name, row)
        if any(self.known(d, row).any() for d in self.below[name] if d in self.data):
            return np.ones_like(known)
        if self.net.noises[self.net.vertices[name].noise].form == "full":
            return np.full_like(known, known.any())
        return known

    def energy(self, row, hidden, parameters, precisions):
        """½ Σ eᵀ Λ e of the entries that count, at a batch of values of what is hidden: name -> (batch, size)."""
        net, values, total = self.net, {}, 0.0
        batch = len(next(iter(hidden.values()))) if hidden else 1
        for name, vertex in net.vertices.items():
            if name in self.do:
                values[name] = tensor(self.do[name][row]).expand(batch, *vertex.shape)
                continue
            if vertex.kind == "op":
                mean = self.program.apply(name, [values[p] for p in vertex.parents])
            else:
                mean = tensor(parameters.get(name, vertex.value))
            if not vertex.plated:
                values[name] = mean
                continue
            mean = mean.expand(batch, *vertex.shape)
            values[name] = mean
            if vertex.noise is not None:
                known, counts = (torch.as_tensor(f(name, row)) for f in (self.known, self.counted))
                value = hidden.get(name, torch.zeros(batch, vertex.size, dtype=torch.float64))
                if name in self.data:
                    value = torch.where(known, tensor(np.nan_to_num(self.data[name][row])).reshape(-1), value)
                error = (value - mean.reshape(batch, -1)) * counts
                total = total + 0.5 * ((error @ tensor(precisions[vertex.noise])) * error).sum(1)
                values[name] = value.reshape(batch, *vertex.shape)
        return total

    def log_partition(self, row, points, noises):
        """log ∫ exp E log p(row, hidden | weights, noises), the mean over sigma points of the weights."""
        net = self.net
        slots, constant = [], 0.0
        for name, vertex in net.vertices.items():
            if vertex.noise is None or not vertex.plated or name in self.do:
                continue
            counts = self.counted(name, row)
            slots += [(name, k) for k in np.flatnonzero(counts & ~self.known(name, row))]
            constant += 0.5 * float((expected_logs(noises[vertex.noise]) - LOG_2PI)[counts].sum())
        d = len(slots)
        places = [()] + [(i,) for i in range(d)] + list(itertools.combinations_with_replacement(range(d), 2))
        hidden = {n: np.zeros((len(places), net.vertices[n].size)) for n, v in net.vertices.items() if v.noise}
        for b, place in enumerate(places):
            for k in place:
                hidden[slots[k][0]][b, slots[k][1]] += 1.0
        hidden = {n: tensor(a) for n, a in hidden.items() if net.vertices[n].plated}
        precisions = {k: expected_precision(q) for k, q in noises.items()}
        energy = sum(self.energy(row, hidden, p, precisions) for p in points).numpy() / len(points)
        zero, one = energy[0], energy[1 : d + 1]
        square, slope = np.zeros((d, d)), np.zeros(d)
        for value, (i, j) in zip(energy[d + 1 :], places[d + 1 :], strict=True):
            # E(e_i + e_j) - E(e_i) - E(e_j) + E(0); of i = j it is that of E(2 e_i) - 2 E(e_i) + E(0).
            square[i, j] = square[j, i] = value - one[i] - one[j] + zero
        slope = one - zero - 0.5 * np.diag(square)
        if not d:
            return constant - zero
        log_k = np.linalg.slogdet(square / (2 * np.pi))[1]
        return constant - zero + 0.5 * slope @ np.linalg.solve(square, slope) - 0.5 * log_k


def sigma_points(post, theta, covariance):
    """Values of the learned parameters, whose mean over points is exact for quadratics."""
    n = len(theta)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0) * n)
    out = []
    for delta in [s * c for c in root.T for s in (1, -1)] or [np.zeros(0)]:
        point = {}
        for name, where in post.where.items():
            flat = np.array(post.values[name], float).reshape(-1)
            flat[where >= 0] = (theta + delta)[where[where >= 0]]
            point[name] = flat.reshape(post.values[name].shape)
        out.append(point)
    return out


def noise_divergence(q, p):
    if isinstance(q, Gamma):
        kl = distributions.kl_divergence(
            distributions.Gamma(tensor(q.shape), tensor(q.rate)), distributions.Gamma(tensor(p.shape), tensor(p.rate))
        )
        return float(kl.sum())
    if isinstance(q, Wishart):
        mine = distributions.Wishart(tensor(q.dof), precision_matrix=tensor(q.scatter))
        theirs = distributions.Wishart(tensor(p.dof), precision_matrix=tensor(p.scatter))
        # Its log-density is linear in Λ and log |Λ|: evaluated at the expected ones.
        d = q.size
        logdet = expected_logs(q).sum()
        at = tensor(expected_precision(q))
        gap = logdet - float(torch.logdet(at))
        cross = float(theirs.log_prob(at)) + 0.5 * (p.dof - d - 1) * gap
        own = float(mine.log_prob(at)) + 0.5 * (q.dof - d - 1) * gap
        return own - cross
    return 0.0


def bound(net, evidence, do, post, kappa, priors, theta=None, weights=None):
    """The lower bound, with the prior N(0, 1/κ) of every weight (in units of its noise where ``post`` says so).

    priors: noise -> Gamma or Wishart, of the learned ones.
    theta: another mean of the weights than q's.
    """
    theta = post.theta if theta is None else theta
    rows, covariance = Rows(net, evidence, do), weight_covariance(post)
    noises = dict(post.noises)
    for name, noise in net.noises.items():
        known = np.linalg.inv(noise.matrix())
        noises.setdefault(name, Known(noise.form, known if noise.form == "full" else np.diag(known)))
    points = sigma_points(post, theta, covariance)
    counts = np.ones(rows.samples) if weights is None else weights
    total = sum(w * rows.log_partition(n, points, noises) for n, w in enumerate(counts))
    if len(theta):
        prior = np.zeros((len(theta), len(theta)))
        for e in range(len(theta)):
            for f in range(len(theta)):
                a, b = post.blocks.label[[e, f]]
                if post.owner[a] < 0:
                    prior[e, f] = (e == f) / kappa
                elif post.owner[a] == post.owner[b]:
                    unit = np.linalg.inv(expected_precision(post.noises[post.keys[post.owner[a]]]))
                    mine, other = (np.flatnonzero(post.blocks.label == x) for x in (a, b))
                    same_column = list(mine).index(e) == list(other).index(f)
                    coupled = a == b or (covariance[np.ix_(mine, other)] != 0).any()
                    prior[e, f] = unit[post.row[a], post.row[b]] / kappa * (same_column and coupled)
        q = distributions.MultivariateNormal(tensor(theta), tensor((covariance + covariance.T) / 2))
        p = distributions.MultivariateNormal(torch.zeros_like(q.loc), tensor((prior + prior.T) / 2))
        total -= float(distributions.kl_divergence(q, p))
    return total - sum(noise_divergence(post.noises[name], p) for name, p in priors.items())
