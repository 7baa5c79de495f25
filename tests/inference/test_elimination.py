"""Block elimination against numpy.linalg on the assembled matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbn.errors import IllConditionedError
from gbn.inference.elimination import Factorization, make_plan, minimum_degree


def random_system(rng, variables, batch):
    """Sizes, elements over random sets of variables (a variable's own among them), and the matrix they sum to."""
    sizes = tuple(int(s) for s in rng.integers(1, 4, variables))
    sets = [tuple(sorted({v, *rng.integers(0, variables, rng.integers(0, 3)).tolist()})) for v in range(variables)]
    starts = np.cumsum([0, *sizes])
    where = [np.arange(starts[v], starts[v + 1]) for v in range(variables)]
    plan = make_plan(sizes, tuple(sets))
    whole, elements = np.zeros((batch, starts[-1], starts[-1])), []
    for variables_ in plan.elements:
        index = np.concatenate([where[v] for v in variables_])
        root = rng.normal(size=(int(rng.choice([1, batch])), len(index), len(index)))
        element = root @ root.swapaxes(1, 2) + 0.5 * np.eye(len(index))
        whole[:, index[:, None], index] += element
        elements.append(element)
    order = np.concatenate([where[v] for v in plan.order])
    return plan, elements, whole, where, order


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([1, 3]))
def test_solutions_determinants_and_covariances_equal_the_dense_inverse(seed, variables, batch):
    rng = np.random.default_rng(seed)
    plan, elements, whole, where, order = random_system(rng, variables, batch)
    found = Factorization(plan, elements, [str(v) for v in range(variables)])
    inverse = np.linalg.inv(whole)
    np.testing.assert_allclose(np.broadcast_to(found.logdet, batch), np.linalg.slogdet(whole)[1], rtol=1e-10)
    right = rng.normal(size=(batch, 2, whole.shape[1]))
    np.testing.assert_allclose(found.solve(right[..., order]), (right @ inverse)[..., order], rtol=1e-9, atol=1e-10)
    which = rng.integers(0, batch, 5)
    many = rng.normal(size=(5, 1, whole.shape[1]))
    solved = found.solve(many[..., order], which)
    np.testing.assert_allclose(solved, (many @ inverse[which])[..., order], rtol=1e-9, atol=1e-10)
    for a in range(variables):
        for b in range(variables):
            if found.together(a, b):
                block = inverse[:, where[a][:, None], where[b]]
                np.testing.assert_allclose(
                    np.broadcast_to(found.covariance(a, b), block.shape), block, rtol=1e-9, atol=1e-10
                )
    for variables_ in plan.elements:
        assert all(found.together(a, b) for a in variables_ for b in variables_)


def test_a_chain_has_no_fill_and_a_star_keeps_its_hub_for_last():
    chain = [(0,), *((k - 1, k) for k in range(1, 500))]
    _, neighbours = minimum_degree([3] * 500, chain)
    assert max(map(len, neighbours)) == 1
    order, neighbours = minimum_degree([1] * 50, [(0, k) for k in range(1, 50)])
    assert order.index(0) >= 48
    assert max(map(len, neighbours)) == 1


def test_a_grid_fills_less_than_row_by_row():
    side = 20
    edges = [(side * i + j, side * i + j + 1) for i in range(side) for j in range(side - 1)]
    edges += [(side * i + j, side * (i + 1) + j) for i in range(side - 1) for j in range(side)]
    plan = make_plan((1,) * side**2, tuple(edges))
    assert plan.entries < side**2 * (side + 1) ** 2 / 2


def test_plans_are_kept():
    sizes, elements = (1, 2, 3), ((0, 1), (1, 2))
    assert make_plan(sizes, elements) is make_plan(sizes, elements)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("corner", [1.0 - 1e-12, 1.0, 2.0, np.nan])
def test_lost_pivots_are_named(batch, corner):
    matrix = np.tile(np.array([[1.0, corner], [corner, 1.0]]), (batch, 1, 1))
    with pytest.raises(IllConditionedError, match=r"'a'.*solver='observations'"):
        Factorization(make_plan((2,), ((0,),)), [matrix], ["a"])


def layered(length, size, skips=0, seed=0):
    """A chain of variables, with a few elements between distant ones."""
    rng = np.random.default_rng(seed)
    far = [tuple(sorted(rng.choice(length, 2, replace=False).tolist())) for _ in range(skips)]
    return (size,) * length, ((0,), *((k - 1, k) for k in range(1, length)), *far)


def test_a_long_chain_of_small_variables_is_eliminated_in_rounds():
    plan = make_plan(*layered(4096, 4))
    assert len(plan.groups) < 60
    assert max(len(front) for front in plan.fronts[:64]) <= 16
    # Odd-even reduction fills no more than a front of three variables; the last few are one.
    assert plan.entries <= 4096 * 2 * 4 * 12 + 2 * 64**2


def test_large_variables_and_many_columns_keep_the_order_of_least_fill():
    wide = make_plan(*layered(40, 100))
    assert max(map(len, wide.fronts)) == 2
    sizes, elements = layered(300, 10)
    assert len(make_plan(sizes, elements, 1, 1024).groups) > 4 * len(make_plan(sizes, elements).groups)


def test_the_last_few_variables_are_one_front():
    plan = make_plan(*layered(3, 10))
    assert [(group.count, group.size, group.width) for group in plan.groups] == [(1, 30, 0)]
    assert set(plan.fronts) == {plan.order}


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(45, 2), (120, 2), (30, 9), (6, 40)]),
    st.integers(0, 5),
    st.sampled_from([1, 3]),
)
def test_stacked_and_single_fronts_give_the_dense_inverse(seed, shape, skips, batch):
    rng = np.random.default_rng(seed)
    length, size = shape
    sizes, sets = layered(length, size, skips, seed)
    plan = make_plan(sizes, sets)
    assert len(plan.groups) > 1
    assert size == 40 or any(group.count > 1 for group in plan.groups)
    where = [np.arange(size * v, size * (v + 1)) for v in range(length)]
    whole, elements = np.zeros((batch, size * length, size * length)), []
    for variables in plan.elements:
        index = np.concatenate([where[v] for v in variables])
        root = rng.normal(size=(int(rng.choice([1, batch])), len(index), len(index)))
        elements.append(root @ root.swapaxes(1, 2) + 0.5 * np.eye(len(index)))
        whole[:, index[:, None], index] += elements[-1]
    found, inverse = Factorization(plan, elements, [str(v) for v in range(length)]), np.linalg.inv(whole)
    np.testing.assert_allclose(np.broadcast_to(found.logdet, batch), np.linalg.slogdet(whole)[1], rtol=1e-10)
    order = np.concatenate([where[v] for v in plan.order])
    right = rng.normal(size=(batch, 3, size * length))
    np.testing.assert_allclose(found.solve(right[..., order]), (right @ inverse)[..., order], rtol=1e-8, atol=1e-9)
    for variables in plan.elements:
        for a in variables:
            for b in variables:
                block = inverse[:, where[a][:, None], where[b]]
                covariance = np.broadcast_to(found.covariance(a, b), block.shape)
                np.testing.assert_allclose(covariance, block, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("spoilt", [0, 7, 150, 299])
def test_a_lost_pivot_is_named_wherever_it_stands(batch, spoilt):
    sizes, sets = layered(300, 2)
    plan = make_plan(sizes, sets)
    elements = [np.tile(np.eye(2 * len(variables)), (batch, 1, 1)) for variables in plan.elements]
    for number, variables in enumerate(plan.elements):
        if spoilt in variables:
            k = 2 * variables.index(spoilt)
            elements[number][-1, k : k + 2, k : k + 2] = 1.0
    with pytest.raises(IllConditionedError, match=f"'v{spoilt}'"):
        Factorization(plan, elements, [f"v{v}" for v in range(300)])
