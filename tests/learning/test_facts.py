"""Sums over rows and digests: over blocks as over all rows at once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gbn
from gbn.learning.data import Data, joined
from gbn.learning.facts import Digest, Facts, digests_of, variances

ROWS = 23


def net():
    made = gbn.GaussianBayesNet()
    made.add_input("x", (2, 2))
    made.add_input("w", 3, mean=0.0, cov=1.0)
    made.add("h", "Flatten", parents=["x"])
    made.add_linear("y", {"h": np.ones((2, 4)), "w": np.ones((2, 3))}, cov=1.0)
    made.add_linear("t", {"y": np.ones((3, 2))})
    made.add_likelihood("label", "categorical", "t")
    return made


def rows(seed=0):
    rng = np.random.default_rng(seed)
    y = 1e3 + rng.normal(size=(ROWS, 2))
    y[rng.random(y.shape) < 0.3] = np.nan
    w = np.full((ROWS, 3), np.nan)
    w[5:9] = rng.normal(size=(4, 3))
    label = rng.integers(0, 3, ROWS).astype(float)
    label[::4] = np.nan
    return {"x": rng.normal(size=(ROWS, 2, 2)), "w": w, "y": y, "label": label}, rng.uniform(0, 2, ROWS)


def pieces(data, weights, cuts):
    for start, stop in zip([0, *cuts], [*cuts, ROWS], strict=True):
        part = {name: array[start:stop] for name, array in data.items()}
        yield Data.read(net(), part, weights[start:stop], part=True)


CUTS = st.sets(st.integers(1, ROWS - 1), max_size=5).map(sorted)


@given(CUTS, st.integers(0, 100))
def test_blocks_say_what_all_rows_say(cuts, seed):
    data, weights = rows(seed)
    whole, parts = Data.read(net(), data, weights), list(pieces(data, weights, cuts))
    facts = Facts.merged(part.facts for part in parts)
    assert (facts.samples, facts.given) == (ROWS, {"x", "w", "y", "label"})
    assert facts.total == pytest.approx(weights.sum(), rel=1e-14)
    known = ~np.isnan(data["y"]) * weights[:, None]
    expected = [known.sum(axis=0), np.nansum(known * data["y"], axis=0), np.nansum(known * data["y"] ** 2, axis=0)]
    np.testing.assert_allclose(facts.sums["y"], expected, rtol=1e-13)
    assert facts.observed == pytest.approx(whole.facts.observed, rel=1e-13)
    found = {name: digests_of(parts[0], data)[name] for name in whole.digests}
    for part in parts[1:]:
        found = {name: digest.then(digests_of(part, data)[name]) for name, digest in found.items()}
    assert found == whole.digests


@given(CUTS)
def test_pieces_can_be_put_together(cuts):
    data, weights = rows()
    whole, again = Data.read(net(), data, weights), joined(list(pieces(data, weights, cuts)))
    for kind in ("values", "masks", "do"):
        one, other = getattr(whole.evidence, kind), getattr(again.evidence, kind)
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_array_equal(whole.counts, again.counts)


def test_a_digest_tells_rows_from_others():
    data, weights = rows()
    first = Data.read(net(), data, weights).digests
    for name, index in (("x", (3, 1, 0)), ("y", (7, 0)), ("w", (6, 2))):
        changed = {**data, name: data[name].copy()}
        changed[name][index] = np.nextafter(data[name][index], 1e9) if not np.isnan(data[name][index]) else 0.0
        second = Data.read(net(), changed, weights).digests
        assert second[name] != first[name]
        assert {n for n in first if second[n] != first[n]} == {name}
    swapped = {name: array[[1, 0, *range(2, ROWS)]] for name, array in data.items()}
    assert Data.read(net(), swapped, weights).digests["x"] != first["x"]
    turned = {**data, "x": data["x"].swapaxes(1, 2)}
    assert Data.read(net(), turned, weights).digests["x"] != first["x"]
    assert Data.read(net(), data, weights + 1e-9).digests[""] != first[""]


def test_digests_spread_over_all_bits():
    """Rows that differ in one small number: half of the bits differ, and no two digests are alike."""
    found = []
    for k in range(200):
        made = gbn.GaussianBayesNet()
        made.add_input("x", 2)
        found.append(Data.read(made, {"x": np.array([[0.0, float(k)]] * 3)}).digests["x"].value)
    assert len(set(found)) == 200
    bits = [bin(a ^ b).count("1") for a, b in pairwise(found)]
    assert 28 < np.mean(bits) < 36


def test_digests_are_cut_like_strings():
    one = Digest("float64(2,)", 2, 5)
    other = Digest("float64(2,)", 3, 7)
    last = Digest("float64(2,)", 1, 11)
    assert one.then(other).then(last) == one.then(other.then(last))
    assert one.then(other) != other.then(one)


def test_variances_of_constant_columns_are_zero():
    y = np.column_stack([np.full(50, 0.1), np.random.default_rng(0).normal(3.0, 2.0, 50)])
    sums = np.stack([np.full(2, 50.0), y.sum(axis=0), (y * y).sum(axis=0)])
    np.testing.assert_allclose(variances(sums), [0.0, y[:, 1].var()], rtol=1e-12)
