"""The CPDs of a net as regressions, those that are the same function of the same parameters taken together.

A *family* is a group of noisy vertices with one noise and one mean function, each with regressors of its own: the
transitions of a time series are one family, and so is a single layer.  Learning needs no more of the data than the
family's summed second moments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gbn.errors import LearningError
from gbn.learning.design import Coefficients, Design, Mean

if TYPE_CHECKING:
    from gbn.learning.numbers import Frozen
    from gbn.net import GaussianBayesNet

__all__ = ["Family", "Member", "read_families"]

Array = np.ndarray[Any, Any]
Member = tuple[str, tuple[str, ...]]
Values = Mapping[str, Array]


@dataclass(eq=False)
class Family:
    """Noisy vertices with one noise and one mean function.

    noise: its name.
    size: entries of each vertex.
    members: vertex and its regressors, for each of them.
    mean: the mean function, as the first member has it; None for an input, whose mean is its prior's.
    learned: parameters of the mean that are learned, or the input itself where its prior mean is.
    """

    noise: str
    size: int
    members: list[Member]
    mean: Mean | None
    learned: tuple[str, ...]
    _known: dict[tuple[str, ...], Coefficients] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The first member, which stands for the family in messages."""
        return self.members[0][0]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Entries of each regressor."""
        return () if self.mean is None else self.mean.sizes

    @property
    def columns(self) -> int:
        """Entries of all regressors together, and the constant."""
        return sum(self.sizes) + 1

    def coefficients(self, values: Values) -> Array:
        """A, with E x = A [u; 1].  Shape: (size, columns)."""
        if self.mean is None:
            return np.asarray(values[self.name], np.float64).reshape(-1, 1)
        if self.learned in self._known:
            theta = [np.asarray(values[p], np.float64).reshape(-1) for p in self.learned]
            return self._known[self.learned].at(np.concatenate(theta))
        return self.mean.coefficients(values)

    def blocks(self) -> list[tuple[str, ...]]:
        """Learned parameters in groups in which the mean is jointly linear."""
        return ([self.learned] if self.learned else []) if self.mean is None else self.mean.blocks()

    def as_function_of(self, block: tuple[str, ...], values: Values) -> Coefficients:
        """A as an affine function of some learned parameters, given the others.

        The part is kept where nothing else that is learned enters: it is then the same every time.
        """
        if block in self._known:
            return self._known[block]
        if self.mean is None:
            from scipy import sparse

            found = Coefficients(np.zeros((self.size, 1)), sparse.csc_array(sparse.eye_array(self.size)))
        else:
            found = Design(self.mean, block).coefficients(values)
        if block == self.learned:
            self._known[block] = found
        return found


def read_families(net: GaussianBayesNet, frozen: Frozen) -> list[Family]:
    """All families of a net in which something is to be learned.

    Raises:
        LearningError: means that are no regressions on what is learned, parameters with a prior; all of them at once.
    """
    uncertain = [n for n in net.parameters if net.vertices[n].random]
    if uncertain:
        raise LearningError(
            f"parameter {uncertain[0]!r} has a prior of its own, and method 'em' learns plain ones: take it away with "
            f"net.set_noise({{{uncertain[0]!r}: None}}) and give ridge=..., or use method 'vb', which takes priors"
        )
    learned = {n for n in net.parameters if n not in frozen.values}
    order = {name: k for k, name in enumerate(net.vertices)}
    families: dict[Any, Family] = {}
    for name, vertex in net.vertices.items():
        if vertex.noise is None or not vertex.plated:
            continue
        if vertex.kind == "input":
            own = () if name in frozen.values else (name,)
            families[name] = Family(vertex.noise, vertex.size, [(name, ())], None, own)
            continue
        mean = Mean.of(net, name, learned, order)
        key = (vertex.noise, mean.key())
        if key in families:
            families[key].members.append((name, mean.regressors))
        else:
            families[key] = Family(vertex.noise, vertex.size, [(name, mean.regressors)], mean, mean.learned)
    # Roots are kept even so: their moments serve parameter expansion.
    chosen = [f for f in families.values() if f.mean is None or f.learned or f.noise not in frozen.noises]
    faults = [fault for f in chosen if f.mean is not None for fault in f.mean.faults()]
    if faults:
        raise LearningError("\n  - ".join(["methods 'em' and 'vb' learn regressions, and these are none:", *faults]))
    return chosen


def names_of(families: Sequence[Family]) -> dict[str, None]:
    """All vertices whose moments are needed, in order."""
    return dict.fromkeys(n for f in families for vertex, regressors in f.members for n in (vertex, *regressors))
