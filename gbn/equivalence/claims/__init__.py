"""Claims about predictive coding and backprop, each as an experiment that anyone can rerun.

One module a claim: its ``experiment`` returns a :class:`Finding`, what was said, what came out, the figures, a plot.

    from gbn.equivalence import claims
    finding = claims.run("hundredfold")
    print(finding); finding.plot()
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gbn.equivalence.claims.finding import Finding
from gbn.errors import UnknownNameError

__all__ = ["CLAIMS", "Claim", "Finding", "run"]


@dataclass(frozen=True)
class Claim:
    """A statement that an experiment tests.

    name: the module under gbn.equivalence.claims.
    statement: what is said.
    notebook: the story that tells it, under notebooks/.
    """

    name: str
    statement: str
    notebook: str


# One line a claim, in the order in which the guide lists them.
_ALL: tuple[Claim, ...] = ()
CLAIMS: dict[str, Claim] = {claim.name: claim for claim in _ALL}


def run(name: str, **options: Any) -> Finding:
    """Run the experiment of a claim.

    Args:
        options: of its ``experiment``.

    Raises:
        UnknownNameError: there is no such claim.
        MissingDependencyError: the experiment needs an optional package.
    """
    if name not in CLAIMS:
        raise UnknownNameError("claim", name, CLAIMS)
    finding: Finding = import_module(f"{__name__}.{name}").experiment(**options)
    return finding
