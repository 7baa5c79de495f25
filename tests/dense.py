"""The dense oracle: a net's graph rerun in torch, its joint Gaussian written out whole, and numpy.linalg on that.

Of gbn it reads what a person put in (the graph, arrays, covariances); values, Jacobians and answers are its own.
"""

from __future__ import annotations

import math

import numpy as np
import torch

LOG_2PI = math.log(2 * math.pi)
F64 = {"dtype": torch.float64}


def _linear(*terms, shape=None):
    total = 0.0
    for u, w in zip(terms[0 : len(terms) - 1 : 2], terms[1::2], strict=False):
        total = total + u.reshape(len(u), -1) @ w.T
    if len(terms) % 2:
        total = total + (terms[-1] if len(terms) > 1 else terms[-1][None])
    return total if shape is None else total.reshape(len(total), *shape)


def _slice(x, *, starts, ends, axes):
    for start, end, axis in zip(starts, ends, axes, strict=True):
        x = x.narrow(axis, start, end - start)
    return x


def _gemm(a, b, c=None, *, transB=0):
    y = a @ (b.T if transB else b)
    return y if c is None else y + c


def _conv(x, w, b=None, *, pads=(0, 0, 0, 0), strides=(1, 1)):
    return torch.nn.functional.conv2d(x, w, b, stride=tuple(strides), padding=tuple(pads[:2]))


OPS = {
    "Linear": _linear,
    "Gemm": _gemm,
    "MatMul": torch.matmul,
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Tanh": torch.tanh,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Concat": lambda *xs, axis: torch.cat(xs, dim=axis),
    "Reshape": lambda x, *, shape: x.reshape(*shape),
    "Flatten": lambda x: x.reshape(len(x), -1),
    "Transpose": lambda x, *, perm=None: x.permute(*(perm or range(x.ndim)[::-1])),
    "Slice": _slice,
    "Conv": _conv,
    "MaxPool": lambda x, *, kernel_shape, strides: torch.nn.functional.max_pool2d(x, kernel_shape, strides),
}


def covariance(net, name):
    """Q of a vertex as a matrix, from the form it was given in; None where it is deterministic."""
    key = net.vertices[name].noise
    if key is None:
        return None
    value, size = np.asarray(net.noises[key].value), net.vertices[name].size
    if value.shape == (size, size) and net.noises[key].form == "full":
        return np.array(value)
    return np.diag(np.broadcast_to(value, net.vertices[name].shape).reshape(-1))


def tensor(value):
    return torch.as_tensor(np.array(value, dtype=np.float64))


def negative_log_likelihood(kind, logits, target):
    """-log p of labels, one row.  Target: probabilities of the logits' shape, NaN where missing."""
    known = ~torch.isnan(target)
    target = torch.where(known, target, 0.0)
    if kind == "categorical":
        return -(target * torch.log_softmax(logits, dim=0)).sum()
    terms = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (terms * known).sum()


class Program:
    """The net's forward pass in torch, given evidence: observed entries are clamped and feed the children."""

    def __init__(self, net):
        self.net = net
        self.plated = [n for n, v in net.vertices.items() if v.plated and v.kind != "likelihood"]

    def apply(self, name, parents):
        """One op on its parents' values, which have a sample axis where they are plated."""
        vertex = self.net.vertices[name]
        y = OPS[vertex.op](*parents, **vertex.attributes)
        alone = vertex.plated and not any(self.net.vertices[p].plated for p in vertex.parents)
        return y[None] if alone and y.ndim == len(vertex.shape) else y

    def run(self, evidence, do, samples, innovations=None, parameters=None):
        """Values and means of every vertex.

        innovations: vertex -> what is added to its free entries (torch, differentiable).
        """
        net, innovations, parameters = self.net, innovations or {}, parameters or {}
        values, means = {}, {}
        for name, vertex in net.vertices.items():
            if vertex.kind == "likelihood":
                continue
            if name in do:
                value = tensor(do[name])
                values[name] = value.expand(samples, *vertex.shape) if vertex.plated else value
                means[name] = values[name]
                continue
            if vertex.kind == "op":
                mean = self.apply(name, [values[p] for p in vertex.parents])
            else:
                mean = parameters[name] if name in parameters else tensor(vertex.value)
            if vertex.plated:
                mean = mean.expand(samples, *vertex.shape)
            means[name] = mean
            free = mean + innovations[name] if name in innovations else mean
            values[name] = self._clamped(name, mean, free, evidence[name]) if name in evidence else free
        return values, means

    def _clamped(self, name, mean, free, given):
        q, rows = covariance(self.net, name), []
        for m, f, t in zip(mean, free, tensor(given), strict=True):
            known = ~torch.isnan(t)
            if q is not None and not bool(known.all()) and bool(known.any()):
                o = known.reshape(-1).numpy()
                gain = tensor(q[np.ix_(~o, o)] @ np.linalg.inv(q[np.ix_(o, o)]))
                implied = torch.zeros(f.numel(), **F64)
                implied[torch.as_tensor(~o)] = gain @ (t - m).reshape(-1)[torch.as_tensor(o)]
                f = f + implied.reshape(f.shape)
            rows.append(torch.where(known, torch.where(known, t, 0.0), f))
        return torch.stack(rows)


def loss(net, values, means, evidence):
    """The negative log-density of the observed entries given the values of their parents, less constants; per row."""
    total = 0.0
    for name, given in evidence.items():
        vertex, target = net.vertices[name], tensor(given)
        if vertex.kind == "likelihood":
            logits = values[vertex.parents[0]]
            pairs = zip(logits, target, strict=True)
            total = total + torch.stack([negative_log_likelihood(vertex.op, a, t) for a, t in pairs])
            continue
        q, rows = covariance(net, name), []
        for mean, t in zip(means[name].reshape(len(target), -1), target.reshape(len(target), -1), strict=True):
            o = (~torch.isnan(t)).numpy()
            error = (t - mean)[torch.as_tensor(o)]
            rows.append(
                0.5 * error @ tensor(np.linalg.inv(q[np.ix_(o, o)])) @ error if o.any() else torch.zeros((), **F64)
            )
        total = total + torch.stack(rows)
    return total


def backprop(net, evidence, do, samples=1):
    """-∂loss/∂v of every vertex that can move, and the loss of each row, by torch autograd."""
    program = Program(net)
    moved, parameters = {}, {}
    for name, vertex in net.vertices.items():
        if vertex.kind == "parameter":
            parameters[name] = tensor(vertex.value).requires_grad_()
        elif vertex.kind != "likelihood" and vertex.plated and name not in do:
            moved[name] = torch.zeros(samples, *vertex.shape, **F64, requires_grad=True)
    values, means = program.run(evidence, do, samples, moved, parameters)
    rows = loss(net, values, means, evidence)
    leaves = moved | parameters
    total = rows.sum() + 0.0 * sum(leaf.sum() for leaf in leaves.values())
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {
        name: np.zeros(leaf.shape) if g is None else -g.numpy()
        for (name, leaf), g in zip(leaves.items(), found, strict=True)
    }, rows.detach().numpy()


class Dense:
    """One row of a query, as the joint Gaussian of the net linearised at its forward pass (or at ``at``).

    evidence, do: name -> array over the event (no sample axis), NaN where missing.
    """

    def __init__(self, net, evidence, do=None, at=None):
        self.net, do = net, dict(do or {})
        for name, vertex in net.vertices.items():
            if vertex.kind == "input" and vertex.noise is None and vertex.value is None and name in evidence:
                do[name] = evidence[name]
        self.do = do
        self.evidence = {n: np.asarray(v, float) for n, v in evidence.items() if n not in do and not np.isnan(v).all()}
        self.program = Program(net)
        rows = {n: v[None] for n, v in self.evidence.items()}
        with torch.no_grad():
            self.values, self.means = self.program.run(rows, {n: np.asarray(v)[None] for n, v in do.items()}, 1)
            if at is not None:
                self._move(at)
        ends = np.cumsum([0, *(net.vertices[n].size for n in self.program.plated)])
        self.where = {n: np.arange(a, b) for n, a, b in zip(self.program.plated, ends[:-1], ends[1:], strict=True)}
        self._joint(int(ends[-1]))
        self._condition()

    def _move(self, at):
        self.values = self.values | {n: tensor(v)[None] for n, v in at.items()}
        for name in self.program.plated:
            vertex = self.net.vertices[name]
            if vertex.kind == "op" and name not in self.do:
                self.means[name] = self.program.apply(name, [self.values[p] for p in vertex.parents]).reshape(
                    1, *vertex.shape
                )

    def jacobians(self, name):
        """Parent -> J, summed over its occurrences."""
        vertex, out = self.net.vertices[name], {}
        if name in self.do or vertex.kind != "op":
            return out
        arguments = [self.values[p] for p in vertex.parents]
        chosen = [k for k, p in enumerate(vertex.parents) if self.net.vertices[p].plated]
        if not chosen:
            return out
        found = torch.func.jacrev(lambda *xs: self.program.apply(name, xs), argnums=tuple(chosen))(*arguments)
        for k, block in zip(chosen, found, strict=True):
            parent = vertex.parents[k]
            block = block.detach().numpy().reshape(vertex.size, self.net.vertices[parent].size)
            out[parent] = out.get(parent, 0) + block
        return out

    def _joint(self, n):
        self.a, self.q = np.zeros((n, n)), np.zeros((n, n))
        self.point, mean = np.zeros(n), np.zeros(n)
        for name, index in self.where.items():
            self.point[index] = self.values[name].reshape(-1).numpy()
            mean[index] = self.means[name].reshape(-1).numpy()
            for parent, block in self.jacobians(name).items():
                self.a[np.ix_(index, self.where[parent])] = block
            q = covariance(self.net, name)
            if q is not None and name not in self.do:
                self.q[np.ix_(index, index)] = q
        self.offset = mean - self.a @ self.point
        self.total = np.linalg.inv(np.eye(n) - self.a)
        self.prior_mean = self.total @ self.offset
        self.prior_cov = self.total @ self.q @ self.total.T

    def _condition(self):
        index, target = [], []
        for name, value in self.evidence.items():
            if name in self.where:
                known = ~np.isnan(value.reshape(-1))
                index += list(self.where[name][known])
                target += list(value.reshape(-1)[known])
        self.observed = o = np.array(index, int)
        s = self.prior_cov[np.ix_(o, o)]
        self.innovation = np.array(target) - self.prior_mean[o]
        gain = np.linalg.solve(s, self.prior_cov[o]).T
        self.mean = self.prior_mean + gain @ self.innovation
        self.cov = self.prior_cov - gain @ self.prior_cov[o]
        whitened = np.linalg.solve(s, self.innovation)
        self.log_evidence = -0.5 * (self.innovation @ whitened + np.linalg.slogdet(s)[1] + len(o) * LOG_2PI)
        labels = [n for n in self.evidence if self.net.vertices[n].kind == "likelihood"]
        if labels:
            self._laplace(labels)

    def _laplace(self, labels):
        """(I + W P) u = score - W b, all labels jointly."""
        where = np.concatenate([self.where[self.net.vertices[n].parents[0]] for n in labels])
        score, w, known = np.zeros(len(where)), np.zeros((len(where), len(where))), 0.0
        start = 0
        for name in labels:
            vertex = self.net.vertices[name]
            logits, target = self.values[vertex.parents[0]][0], tensor(self.evidence[name])

            def energy(x, vertex=vertex, target=target):
                return negative_log_likelihood(vertex.op, x, target)

            part = slice(start, start + vertex.size)
            known -= float(energy(logits))
            score[part] = -torch.func.grad(energy)(logits).reshape(-1).numpy()
            w[part, part] = torch.func.hessian(energy)(logits).reshape(vertex.size, vertex.size).numpy()
            start += vertex.size
        p, b = self.cov[np.ix_(where, where)], (self.mean - self.point)[where]
        inner = np.eye(len(where)) + w @ p
        g = score - w @ b
        u = np.linalg.solve(inner, g)
        cross = self.cov[:, where]
        self.mean = self.mean + cross @ u
        self.cov = self.cov - cross @ np.linalg.solve(inner, w) @ cross.T
        quadratic = score @ b - 0.5 * b @ w @ b + 0.5 * g @ p @ u
        self.log_evidence += known + quadratic - 0.5 * np.linalg.slogdet(inner)[1]

    def mean_of(self, name):
        return self.mean[self.where[name]].reshape(self.net.vertices[name].shape)

    def cov_of(self, a, b):
        return self.cov[np.ix_(self.where[a], self.where[b])]

    def message_of(self, name):
        """Λ ε at the posterior mean of a vertex with noise."""
        index = self.where[name]
        error = self.mean - self.offset - self.a @ self.mean
        q = self.q[np.ix_(index, index)]
        return np.linalg.solve(q, error[index]).reshape(self.net.vertices[name].shape)


def pgmpy_joint(model, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a pgmpy model, from the equations v = B v + b + e; pgmpy's own are rounded."""
    place = {name: k for k, name in enumerate(names)}
    weights, bias, variance = np.zeros((len(names),) * 2), np.zeros(len(names)), np.zeros(len(names))
    for cpd in model.cpds:
        k = place[cpd.variable]
        bias[k], variance[k] = cpd.beta[0], cpd.std**2
        for parent, beta in zip(cpd.evidence, cpd.beta[1:], strict=True):
            weights[k, place[parent]] = beta
    total = np.linalg.inv(np.eye(len(names)) - weights)
    return total @ bias, total @ np.diag(variance) @ total.T
