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
_ALL: tuple[Claim, ...] = (
    Claim(
        "backprop",
        "Predictive coding converges to exact backprop gradients on arbitrary graphs.",
        "03_hundredfold.ipynb",
    ),
    Claim("hundredfold", "It costs 100 times backprop.", "03_hundredfold.ipynb"),
    Claim(
        "single_pass",
        "With step 1 it converges in a single backward pass; pass order matters.",
        "03_hundredfold.ipynb",
    ),
    Claim("fixed_prediction", "They hold v̂ fixed, which implies another topology.", "04_fixed_and_live.ipynb"),
    Claim("fisher", "Local gradients are a general fact of Bayes nets.", "04_fixed_and_live.ipynb"),
    Claim("objectives", "There are many variational objectives.", "06_many_objectives.ipynb"),
    Claim("hebb", "Hebbian learning is PCA; how can a chain of PCAs be gradient descent?", "07_hebb_and_pca.ipynb"),
    Claim("lockstep", "Replace input and label every tick.", "09_stream.ipynb"),
    Claim("lesions", "It continues to function when you cut its substrate in half.", "10_lesions.ipynb"),
    Claim(
        "precision",
        "A large error at the top is surprise, at the bottom override.",
        "11_precision_and_surprise.ipynb",
    ),
    Claim("kernels", "Every model learned by gradient descent is a kernel machine.", "12_kernels.ipynb"),
    Claim("odes", "We can use our differential-equation tricks.", "04_fixed_and_live.ipynb"),
    Claim("data_efficiency", "Brains are more data-efficient.", "05_em_and_data_efficiency.ipynb"),
    Claim("parallel", "It parallelises, and settles as fast as the forward pass.", "03_hundredfold.ipynb"),
    Claim("one_pass", "Sum-product networks infer in one pass.", "03_hundredfold.ipynb"),
    Claim("rewards", "Adding up rewards isn't natural in graphical models.", "08_rewards_and_growth.ipynb"),
    Claim("dreaming", "Dreaming is contrastive.", "06_many_objectives.ipynb"),
    Claim("jeffrey", "Not everything is conditioning.", "06_many_objectives.ipynb"),
    Claim("growth", "Able to grow.", "08_rewards_and_growth.ipynb"),
)
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
