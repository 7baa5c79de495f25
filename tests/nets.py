"""Random nets and evidence for tests: small, and as awkward as the library allows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gbn.net import GaussianBayesNet

MODES = ("linear", "smooth")


def random_covariance(rng, size, event=None, scale=1.0):
    """A scalar, a diagonal or a full covariance."""
    form = rng.integers(3)
    if form == 0:
        return float(scale * rng.uniform(0.3, 2.0))
    if form == 1:
        return scale * rng.uniform(0.3, 2.0, event or (size,))
    root = rng.normal(size=(size, size))
    return scale * (root @ root.T / size + 0.3 * np.eye(size))


class _Builder:
    def __init__(self, rng, mode, noisy, dtype=np.float64):
        self.rng, self.mode, self.noisy = rng, mode, noisy
        self.net = GaussianBayesNet(dtype)
        self.count = 0

    def name(self):
        self.count += 1
        return f"v{self.count}"

    def noise(self, event):
        if self.rng.random() > self.noisy:
            return None
        size = int(np.prod(event))
        name = f"noise{size}"
        if len(event) == 1 and self.rng.random() < 0.3:
            if name not in self.net.noises:
                self.net.add_noise(name, random_covariance(self.rng, size), event)
            return name
        return random_covariance(self.rng, size, event)

    def pick(self, accept=lambda vertex: True):
        vertices = [n for n, v in self.net.vertices.items() if v.plated and accept(v)]
        return str(self.rng.choice(vertices)) if vertices else None

    def weight(self, *shape):
        return self.rng.normal(size=shape) / np.sqrt(shape[-1])

    def root(self):
        rng, size = self.rng, int(self.rng.integers(1, 4))
        kind = rng.integers(3)
        if kind == 0:
            self.net.add_input(self.name(), (size,))
        elif kind == 1:
            self.net.add_input(self.name(), (size,), mean=rng.normal(size=size), cov=random_covariance(rng, size))
        else:
            self.net.add_linear(self.name(), {}, bias=rng.normal(size=size), cov=random_covariance(rng, size))

    def grow(self):
        kinds = ["linear", "linear", "sum", "neg", "concat", "reshape", "slice", "product", "scale"]
        kinds += ["tanh", "sigmoid", "multiply"] if self.mode == "smooth" else []
        getattr(self, "_" + str(self.rng.choice(kinds)))()

    def _linear(self):
        rng, net, size = self.rng, self.net, int(self.rng.integers(1, 4))
        parents = {self.pick() for _ in range(int(rng.integers(1, 4)))}
        weights = {p: self.weight(size, net[p].size) for p in sorted(parents)}
        bias = rng.normal(size=size) if rng.random() < 0.7 else None
        net.add_linear(self.name(), weights, bias=bias, cov=self.noise((size,)))

    def _sum(self):
        a = self.pick()
        b = self.pick(lambda v: v.shape == self.net[a].shape)
        self.net.add(self.name(), str(self.rng.choice(["Add", "Sub"])), [a, b], cov=self.noise(self.net[a].shape))

    def _neg(self):
        a = self.pick()
        self.net.add(self.name(), "Neg", [a], cov=self.noise(self.net[a].shape))

    def _concat(self):
        parts = [self.pick(lambda v: len(v.shape) == 1) for _ in range(int(self.rng.integers(2, 4)))]
        total = sum(self.net[p].size for p in parts)
        if total <= 6:
            self.net.add(self.name(), "Concat", parts, axis=1, cov=self.noise((total,)))

    def _reshape(self):
        a = self.pick(lambda v: v.size % 2 == 0)
        if a:
            event = (2, self.net[a].size // 2) if len(self.net[a].shape) == 1 else (self.net[a].size,)
            self.net.add(self.name(), "Reshape", [a], shape=[-1, *event], cov=self.noise(event))

    def _slice(self):
        a = self.pick(lambda v: len(v.shape) == 1 and v.size > 1)
        if a:
            event = (self.net[a].size - 1,)
            self.net.add(
                self.name(), "Slice", [a], starts=[1], ends=[self.net[a].size], axes=[1], cov=self.noise(event)
            )

    def _product(self):
        a, name, size = self.pick(lambda v: len(v.shape) == 1), self.name(), int(self.rng.integers(1, 4))
        weight = self.net.add_parameter(f"{name}.weight", self.weight(self.net[a].size, size))
        self.net.add(name, "MatMul", [a, weight], cov=self.noise((size,)))

    def _scale(self):
        a, name = self.pick(), self.name()
        factor = self.net.add_constant(f"{name}.factor", self.rng.normal(size=self.net[a].shape))
        self.net.add(name, "Mul", [factor, a], cov=self.noise(self.net[a].shape))

    def _tanh(self):
        a = self.pick()
        self.net.add(self.name(), "Tanh", [a], cov=self.noise(self.net[a].shape))

    def _sigmoid(self):
        a = self.pick()
        self.net.add(self.name(), "Sigmoid", [a], cov=self.noise(self.net[a].shape))

    def _multiply(self):
        a = self.pick()
        b = self.pick(lambda v: v.shape == self.net[a].shape)
        self.net.add(self.name(), "Mul", [a, b], cov=self.noise(self.net[a].shape))


def random_net(seed, mode="linear", vertices=8, noisy=0.5, dtype=np.float64):
    """A DAG with vector and matrix vertices, skips, repeated parents, deterministic ops, shared noise, data inputs.

    mode: "linear", or "smooth" (with tanh, sigmoid and products of vertices).
    """
    builder = _Builder(np.random.default_rng(seed), mode, noisy, dtype)
    for _ in range(2):
        builder.root()
    while len([v for v in builder.net.vertices.values() if v.plated]) < vertices:
        builder.root() if builder.rng.random() < 0.1 else builder.grow()
    last = builder.pick(lambda v: v.kind == "op") or builder.pick()
    size = builder.net[last].size
    builder.net.add_linear("out", {last: builder.weight(2, size)}, cov=random_covariance(builder.rng, 2))
    return builder.net


def random_evidence(net, seed, samples=3, missing=0.4, observe=0.4, do=0.3):
    """Evidence on vertices with noise, its missing entries different by row; inputs without a prior; interventions."""
    rng = np.random.default_rng(seed)
    evidence, interventions = {}, {}
    for name, vertex in net.vertices.items():
        if not vertex.plated or vertex.kind == "likelihood":
            continue
        value = rng.normal(size=(samples, *vertex.shape)).astype(net.dtype)
        if vertex.needs_data:
            evidence[name] = value
        elif vertex.random and (name == "out" or rng.random() < observe):
            if rng.random() < 0.5:
                value[rng.random(value.shape) < missing] = np.nan
            evidence[name] = value
        elif vertex.kind == "op" and rng.random() < do / 3:
            interventions[name] = value
    return evidence, interventions


def row(arrays, n):
    return {name: np.asarray(value)[n] for name, value in arrays.items()}


def tanh_chain(sizes, hidden=0.5, output=0.3, seed=0, prior=None, policy="affine"):
    """x -> a1 -> h1 -> ... -> y, noise on the affine outputs ("affine") or on the activations ("layers")."""
    rng = np.random.default_rng(seed)
    net = GaussianBayesNet()
    net.add_input("x", (sizes[0],), mean=None if prior is None else 0.0, cov=prior)
    before = "x"
    for depth, (inner, outer) in enumerate(pairwise(sizes[:-1]), 1):
        weight = {before: rng.normal(size=(outer, inner)) / np.sqrt(inner)}
        net.add_linear(
            f"a{depth}", weight, bias=0.1 * rng.normal(size=outer), cov=hidden if policy == "affine" else None
        )
        before = net.add(f"h{depth}", "Tanh", [f"a{depth}"], cov=hidden if policy == "layers" else None)
    weight = rng.normal(size=(sizes[-1], sizes[-2])) / np.sqrt(sizes[-2])
    net.add_linear("y", {before: weight}, bias=0.1 * rng.normal(size=sizes[-1]), cov=output)
    return net
