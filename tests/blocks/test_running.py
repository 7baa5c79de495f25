"""Mapping and merging blocks in this process."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gbn
from gbn.blocks import Block, Here, Source, in_blocks
from gbn.blocks import running as module
from gbn.blocks.running import Faults, tree
from gbn.errors import EvidenceError


def here(contents, make=lambda content, weights, number: content):
    return Here(in_blocks(list(contents)), make)


@given(st.integers(1, 300))
def test_the_tree_keeps_the_order_and_depends_on_the_number_alone(count):
    shape = []

    def merge(parts):
        shape.append(len(parts))
        assert 2 <= len(parts) <= 15
        return [entry for part in parts for entry in part]

    assert tree(([k] for k in range(count)), merge) == list(range(count))
    first = list(shape)
    shape.clear()
    tree(([-k] for k in range(count)), merge)
    assert shape == first


def test_few_parts_are_held_at_once():
    held = []
    alive = 0

    class Part:
        def __init__(self):
            nonlocal alive
            alive += 1
            held.append(alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    tree((Part() for _ in range(1000)), lambda parts: Part())
    assert max(held) < 40


def test_figures_come_in_order_and_sums_of_all():
    run = here([{"x": np.full(3, k)} for k in range(20)])
    assert run.each(lambda block: int(block["x"][0])) == list(range(20))
    assert run.reduce(lambda block, factor: factor * block["x"].sum(), sum, 2) == 2 * 3 * 190
    assert list(run.labels)[:2] == ["block 0", "block 1"]


def test_all_faults_are_told_in_one_error_of_the_kind_of_the_first():
    def make(content, weights, number):
        if number % 2:
            raise gbn.ShapeError(f"got {number}")
        return content

    with pytest.raises(gbn.ShapeError, match="block 1: got 1\n  - block 3: got 3") as caught:
        here([{}] * 5, make).each(len)
    assert "block 0" not in str(caught.value)
    with pytest.raises(gbn.ShapeError, match="and 15 more blocks"):
        here([{}] * 40, make).reduce(len, sum)


def test_an_error_whose_constructor_takes_other_arguments_keeps_its_kind_and_text():
    original = gbn.UnknownNameError("vertex", "a", ["b"])
    with pytest.raises(gbn.UnknownNameError) as caught:
        Faults.of("block 7", original).raised()
    assert str(caught.value) == f"block 7: {original}"


def test_what_a_function_of_a_block_raises_names_the_block():
    def broken():
        raise KeyError("nothing here")

    with pytest.raises(EvidenceError, match="block 1: it cannot be had: KeyError: 'nothing here'"):
        here([dict, broken]).each(len)


def test_what_is_no_matter_of_blocks_is_raised_as_it_is():
    with pytest.raises(ZeroDivisionError):
        here([{}]).each(lambda block: 1 / len(block))


class Sized:
    nbytes = 100


def test_blocks_are_read_again_only_where_memory_does_not_keep_them(monkeypatch):
    monkeypatch.setattr(module, "_KEPT", 250)
    reads = []

    def make(content, weights, number):
        reads.append(number)
        return Sized()

    run = here([{}] * 4, make)
    for _ in range(3):
        run.each(id)
    assert reads == [0, 1, 2, 3, 2, 3, 2, 3]


def test_blocks_must_be_the_same_every_time(monkeypatch):
    monkeypatch.setattr(module, "_KEPT", 0)
    sizes = iter([3, 2])
    run = Here(in_blocks(lambda: iter([{}] * next(sizes))), lambda content, weights, number: Sized())
    run.each(id)
    with pytest.raises(EvidenceError, match="got 2 blocks, expected 3, as the first time"):
        run.each(id)
    with pytest.raises(EvidenceError, match="got 0 blocks, expected at least one"):
        here([]).each(id)


def test_dask_objects_are_computed_when_their_block_is_taken():
    dask = pytest.importorskip("dask")
    taken = []

    @dask.delayed
    def part(k):
        taken.append(k)
        return {"x": np.full(2, k)}

    run = here([part(0), part(1), {"x": dask.delayed(np.ones)(3)}])
    assert not taken
    assert run.each(lambda block: block["x"].tolist()) == [[0, 0], [1, 1], [1, 1, 1]]
    assert taken == [0, 1]

    @dask.delayed
    def broken():
        raise OSError("disk")

    with pytest.raises(EvidenceError, match="block 0: it cannot be had: OSError: disk"):
        here([broken()]).each(id)


def test_a_block_has_a_label():
    assert Block(3, {}).label == "block 3"
    assert Block(3, {}, what="a.csv").label == "block 3 (a.csv)"
    assert [b.number for b in Source(lambda: [Block(0, {})])] == [0]
    assert os.sep not in in_blocks("nowhere/a.csv").__iter__().__next__().label
