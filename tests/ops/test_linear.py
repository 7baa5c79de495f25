"""The flag ``op.linear(varying)`` against what value and maps do when the varying inputs change."""

from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import NoSuchExample

from gbn import ops

VARIADIC = {"Concat": 3, "Linear": 5}
PATTERNS = [
    (name, varying)
    for name, op in sorted(ops.OPS.items())
    for count in range(op.fewest, (op.most or VARIADIC.get(name, 3)) + 1)
    for varying in product([False, True], repeat=count)
    if any(varying)
]
# Other points of the same domain, off the kinks as well; negatives leave the domain of some ops and become nan.
CHANGES = (lambda x: 1.7 * x, np.flip, np.negative)


def is_curved(name, varying, case):
    """Whether a step of the varying inputs shows that the op is not affine in them: by its maps, or by its value."""
    inputs, attributes = case
    rng = np.random.default_rng(0)
    entry = ops.get(name)
    for change in CHANGES:
        others = [change(x) if v else x for x, v in zip(inputs, varying, strict=True)]
        with np.errstate(all="ignore"):
            try:
                (f, before), (g, after) = (entry(*each, **attributes) for each in (inputs, others))
            except (IndexError, ValueError):  # changed indices may lie outside
                continue
            step = np.zeros(np.shape(f))
            for old, new, x, y, v in zip(before, after, inputs, others, varying, strict=True):
                if not v or old is None:
                    continue
                direction = rng.standard_normal(x.shape)
                if differ(old().push(direction), new().push(direction)):
                    return True
                step = step + old().push(y - x)
            if differ(f + step, g):
                return True
    return False


def differ(x, y):
    return np.isfinite(y).all() and not np.allclose(x, y, rtol=1e-9, atol=1e-12)


def found(strategy, predicate, max_examples):
    """Whether some example fulfils the predicate, and how many were tried."""
    tried = []
    options = settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        find(strategy, lambda case: tried.append(None) or predicate(case), settings=options)
    except NoSuchExample:
        return False, len(tried)
    return True, len(tried)


@pytest.mark.parametrize(
    "name, varying", PATTERNS, ids=lambda p: p if isinstance(p, str) else "".join("-v"[v] for v in p)
)
def test_it_is_affine_where_claimed_and_only_there(name, varying, strategy_of):
    linear = ops.get(name).linear(varying)
    cases = strategy_of(name).filter(lambda case: len(case.inputs) == len(varying))
    curved, tried = found(cases, lambda case: is_curved(name, varying, case), 15 if linear else 100)
    assert tried > 0
    assert curved is not linear
