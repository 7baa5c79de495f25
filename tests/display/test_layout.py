"""Layers, orders and positions, against counting and least squares by others."""

from itertools import combinations

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from gbn.display.html import layout
from gbn.display.html.layout import layered


@st.composite
def graphs(draw):
    """Sizes of boxes, and edges from lower to higher numbers; some of them light."""
    count = draw(st.integers(1, 14))
    pairs = list(combinations(range(count), 2))
    edges = draw(st.lists(st.sampled_from(pairs), max_size=24)) if pairs else []
    side = st.floats(10, 150)
    sizes = draw(st.lists(st.tuples(side, side), min_size=count, max_size=count))
    return sizes, edges, [edge for edge in edges if draw(st.booleans())]


@given(graphs())
def test_boxes_do_not_overlap_and_lines_lead_down(graph):
    sizes, edges, light = graph
    found = layered(sizes, edges, light)
    boxes = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for (x, y), (w, h) in zip(found.centres, sizes, strict=True)]
    for a, b in combinations(boxes, 2):
        apart = a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
        assert apart
    for left, top, right, bottom in boxes:
        assert left > -1e-6
        assert top > -1e-6
        assert right < found.width + 1e-6
        assert bottom < found.height + 1e-6
    assert found.bends.keys() == set(edges)
    for (a, b), bends in found.bends.items():
        downwards = [found.centres[a][1], *(y for _, y in bends), found.centres[b][1]]
        assert (np.diff(downwards) > 0).all()
        if (a, b) not in light:
            assert len(bends) == found.layer[b] - found.layer[a] - 1


@given(graphs())
def test_there_are_as_many_layers_as_the_longest_path_has_vertices(graph):
    sizes, edges, light = graph
    known = networkx.DiGraph(edges)
    known.add_nodes_from(range(len(sizes)))
    found = layered(sizes, edges, light)
    assert len(found.heights) == networkx.dag_longest_path_length(known) + 1
    assert set(found.layer) == set(range(len(found.heights)))


def test_a_weight_stands_beside_what_it_is_multiplied_with():
    # 0 -> 1 -> 2 -> 4, and the weight 3 -> 4
    found = layered([(10, 10)] * 5, [(0, 1), (1, 2), (2, 4), (3, 4)])
    assert found.layer == [0, 1, 2, 2, 3]


def test_a_chain_is_straight_whatever_hangs_on_it():
    edges = [(0, 1), (1, 2), (2, 3), (4, 1), (5, 1), (6, 2), (7, 3)]
    order = [0, 4, 5, 1, 6, 2, 7, 3]  # parents first
    place = {old: new for new, old in enumerate(order)}
    moved = [(place[a], place[b]) for a, b in edges]
    light = [edge for edge, (a, _) in zip(moved, edges, strict=True) if a >= 4]
    found = layered([(40, 20)] * 8, moved, light)
    across = [found.centres[place[v]][0] for v in range(4)]
    np.testing.assert_allclose(across, across[0], atol=1)


def crossings(graph):
    """Pairs of lines between neighbouring layers that cross, one by one."""
    rank = {v: k for row in graph.rows for k, v in enumerate(row)}
    lines = [(rank[a], rank[b], graph.layer[a]) for a in rank for b in graph.down[a]]
    return sum((p[0] - q[0]) * (p[1] - q[1]) < 0 for p, q in combinations(lines, 2) if p[2] == q[2])


@given(graphs())
def test_sorting_leaves_no_more_crossings(graph):
    sizes, edges, light = graph
    lines, minor = list(dict.fromkeys(edges)), set(light)
    inside = layout._Graph(sizes, layout._layers(len(sizes), lines, minor), lines, minor)
    before = crossings(inside)
    assert inside._crossings() == before
    inside.order()
    assert inside._crossings() == crossings(inside) <= before


def test_crossings_that_need_not_be_are_gone():
    found = layered([(10, 10)] * 6, [(0, 5), (1, 4), (2, 3)])
    above = np.argsort([found.centres[v][0] for v in (0, 1, 2)])
    below = np.argsort([found.centres[v][0] for v in (5, 4, 3)])
    np.testing.assert_array_equal(above, below)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0.01, 10)), min_size=1, max_size=30))
def test_isotonic_regression_is_scipys(points):
    wanted, weights = map(list, zip(*points, strict=True))
    expected = isotonic_regression(wanted, weights=weights).x
    np.testing.assert_allclose(layout._isotonic(wanted, weights), expected, atol=1e-8)


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_anything(count):
    found = layered([(30.0, 20.0)] * count, [])
    assert (found.width, found.height) == (30.0 * count, 20.0 * count)
