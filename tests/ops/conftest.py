"""For every op a strategy of cases: float64 inputs away from kinks, and attributes; one file a family of ops."""

import pytest

from tests.ops.cases import (
    arithmetic,
    contraction,
    convolution,
    einsum,
    elementwise,
    indexing,
    logic,
    normalization,
    reduction,
    resize,
    structure,
)

FAMILIES = (
    arithmetic,
    contraction,
    convolution,
    einsum,
    elementwise,
    indexing,
    logic,
    normalization,
    reduction,
    resize,
    structure,
)
CASES = {name: cases for family in FAMILIES for name, cases in family.CASES.items()}


@pytest.fixture(scope="session")
def names():
    return set(CASES)


@pytest.fixture(scope="session")
def draw_case():
    """A function of hypothesis's data and an op's name to (inputs, attributes); an op without a strategy has none."""
    return lambda data, name: data.draw(CASES[name])


@pytest.fixture(scope="session")
def strategy_of():
    return CASES.__getitem__
