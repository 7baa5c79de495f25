"""Evidence in one form."""

import numpy as np
import pandas as pd
import pytest

from gbn.errors import EvidenceError, ShapeError, UnknownNameError
from gbn.evidence import Evidence, columns
from gbn.net import GaussianBayesNet

NAN = np.nan


@pytest.fixture(params=[np.float64, np.float32])
def net(request):
    net = GaussianBayesNet(request.param)
    net.add_input("x", 2)
    net.add_input("s", 1, mean=0.0, cov=1.0)
    net.add_linear("h", {"x": np.ones((6, 2)), "s": np.ones((6, 1))}, cov=0.5, shape=(2, 3))
    net.add("d", "Neg", ["h"])
    net.add("z", "Flatten", ["d"])
    net.add_likelihood("c", "categorical", "z")
    net.add_likelihood("b", "bernoulli", "z")
    return net


def test_forms_of_one_vertex(net):
    for given in (np.ones((3, 2)), [[1, 1]] * 3, np.ones((3, 2), int)):
        read = Evidence.read(net, {"x": given})
        assert read.samples == 3
        assert read.do["x"].dtype == net.dtype
        np.testing.assert_array_equal(read.do["x"], 1)
    assert Evidence.read(net, {"h": np.ones((2, 3))}).values["h"].shape == (1, 2, 3)
    assert Evidence.read(net, {"s": [1.0, 2.0, 3.0]}).values["s"].shape == (3, 1)
    assert Evidence.read(net, {"s": 2.0}).values["s"].shape == (1, 1)
    assert Evidence.read(net).samples == 1
    assert Evidence.read(net, samples=4).samples == 4


def test_one_row_stands_for_all(net):
    read = Evidence.read(net, {"x": [1.0, 2.0], "s": [1.0, 2.0, 3.0]}, {"h": np.zeros((2, 3))})
    assert read.samples == 3
    np.testing.assert_array_equal(read.do["x"], [[1, 2]] * 3)
    assert read.do["h"].shape == (3, 2, 3)


def test_missing_entries(net):
    h = np.arange(12.0).reshape(2, 2, 3)
    h[0, 1, 2] = h[1, 0, 0] = NAN
    read = Evidence.read(net, {"h": h, "s": [[1.0], [NAN]]})
    np.testing.assert_array_equal(read.masks["h"], ~np.isnan(h))
    np.testing.assert_array_equal(read.values["h"], np.nan_to_num(h))
    assert read.values["h"].dtype == net.dtype
    np.testing.assert_array_equal(read.masks["s"], [[True], [False]])
    assert set(read.conditionals) == {"h", "s"}
    assert np.isnan(h).any(), "what was given is left as it is"


def test_wholly_missing_is_not_evidence(net):
    read = Evidence.read(net, {"h": np.full((4, 2, 3), NAN), "c": [NAN] * 4})
    assert read.samples == 4
    assert not read.values
    assert not read.masks


def test_complete_evidence_has_no_mask(net):
    read = Evidence.read(net, {"h": np.full((2, 2, 3), 1e38)})
    assert not read.masks
    assert set(read.values) == {"h"}


def test_labels(net):
    read = Evidence.read(net, {"c": [0, NAN, 5], "b": [[0, 1, NAN, 1, 0, 0.5]] * 3})
    expected = np.eye(6)[[0, 0, 5]]
    expected[1] = NAN
    np.testing.assert_array_equal(read.values["c"], expected)
    assert read.values["c"].dtype == read.values["b"].dtype == net.dtype
    assert Evidence.read(net, {"c": 3}).values["c"].shape == (1, 6)
    np.testing.assert_array_equal(Evidence.read(net, {"c": np.eye(6)}).values["c"], np.eye(6))
    assert not read.masks


def test_rows_and_patterns(net):
    h = np.zeros((5, 2, 3))
    h[[0, 3], 0, 0] = NAN
    h[1, 1, 1] = NAN
    read = Evidence.read(net, {"x": np.arange(10.0).reshape(5, 2), "h": h}, {"h.x.weight": np.ones((6, 2))})
    first, which = read.patterns()
    assert len(first) == 3
    missing = np.isnan(h).reshape(5, -1)
    np.testing.assert_array_equal(missing[first][which], missing)
    some = read.rows(np.array([3, 1]))
    assert some.samples == 2
    np.testing.assert_array_equal(some.do["x"], read.do["x"][[3, 1]])
    np.testing.assert_array_equal(some.masks["h"], read.masks["h"][[3, 1]])
    np.testing.assert_array_equal(some.do["h.x.weight"], np.ones((6, 2)))
    np.testing.assert_array_equal(Evidence.read(net, {"x": np.ones((4, 2))}).patterns()[1], [0, 0, 0, 0])


def test_interventions(net):
    read = Evidence.read(net, {}, {"d": np.ones((3, 2, 3))})
    assert set(read.do) == {"d"}
    assert not read.values


H = [f"h[{i}, {j}]" for i in range(2) for j in range(3)]


def same(net, table, arrays, **do):
    """A table says what arrays say."""
    got, expected = Evidence.read(net, table, **do), Evidence.read(net, arrays)
    assert got.samples == expected.samples
    for part in ("values", "masks", "do"):
        a, b = getattr(got, part), getattr(expected, part)
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
            assert a[name].dtype == b[name].dtype


def test_a_table_has_a_column_for_each_entry(net):
    rng = np.random.default_rng(0)
    h, s = rng.normal(size=(4, 2, 3)), rng.normal(size=(4, 1))
    h[1, 0, 2] = s[3] = NAN
    table = pd.DataFrame(h.reshape(4, 6), columns=H, index=[7, 7, 1, 0])
    table["s"] = s[:, 0]
    same(net, table, {"h": h, "s": s})
    same(net, table[[*H[::-1], "s"]], {"h": h, "s": s})
    same(net, table.rename(columns={"h[1, 2]": "h[1,2]", "s": "s[0]"}), {"h": h, "s": s})
    h[:, 1] = NAN
    same(net, table[[*H[:3], "s"]], {"h": h, "s": s})
    same(net, table.astype("Float64"), {"h": np.where(np.isnan(table[H]), NAN, table[H]).reshape(4, 2, 3), "s": s})


def test_a_series_is_one_row(net):
    table = pd.DataFrame([[1.0, 2.0, 3, 0], [NAN, 0.0, 4, 1]], columns=["h[0, 0]", "s", "c", "h[1, 1]"])
    h = np.full((1, 2, 3), NAN)
    h[0, 1, 1] = 1
    same(net, table.iloc[1], {"h": h, "s": 0.0, "c": 4})
    same(net, pd.Series({"s": 2, "c": None}, dtype=object), {"s": 2.0, "c": NAN})


def test_labels_as_columns(net):
    table = pd.DataFrame({"c": [0, 5], "b[1]": [True, False], "b[4]": [0.5, NAN]})
    b = np.full((2, 6), NAN)
    b[:, 1], b[0, 4] = [1, 0], 0.5
    same(net, table, {"c": [0, 5], "b": b})
    share = np.array([[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1.0]])
    same(net, pd.DataFrame(share, columns=[f"c[{k}]" for k in range(6)]), {"c": share})
    net.add("planes", "Reshape", ["z"], shape=[-1, 3, 2])
    net.add_likelihood("p", "categorical", "planes")
    same(net, pd.DataFrame({"p[0]": [2, 1], "p[1]": [NAN, 0]}), {"p": [[2, NAN], [1, 0]]})


def test_interventions_and_inputs_as_tables(net):
    table = pd.DataFrame({"x[0]": [1.0, 2.0], "x[1]": [3.0, 4.0]})
    same(net, table, {"x": [[1.0, 3.0], [2.0, 4.0]]})
    read = Evidence.read(net, table, pd.DataFrame({"s": [1.0, 2.0]}))
    np.testing.assert_array_equal(read.do["s"], [[1], [2]])
    np.testing.assert_array_equal(net.forward(table)["x"], [[1, 3], [2, 4]])


def test_a_name_may_look_like_an_entry(net):
    net.add_input("s[0]", 1, mean=0.0, cov=1.0)
    assert set(Evidence.read(net, pd.DataFrame({"s[0]": [1.0]})).values) == {"s[0]"}
    assert columns(net["h"]) == H
    assert columns(net["s"]) == ["s"]


@pytest.mark.parametrize(
    "table, error, message",
    [
        ({"hh[0, 1]": [1.0]}, UnknownNameError, r"unknown column 'hh\[0, 1\]': did you mean 'h\[0, 1\]'"),
        ({"S": [1.0]}, UnknownNameError, "unknown column 'S': did you mean 's'"),
        ({0: [1.0]}, UnknownNameError, "unknown column 0: known are"),
        ({"h": [1.0]}, ShapeError, r"column 'h': 'h' has the shape \(2, 3\); expected columns 'h\[0, 0\]' to"),
        ({"h[1]": [1.0]}, ShapeError, r"column 'h\[1\]': 'h' has the shape \(2, 3\)"),
        ({"h[2, 0]": [1.0]}, ShapeError, r"column 'h\[2, 0\]': 'h' has the shape \(2, 3\)"),
        ({"s[1]": [1.0]}, ShapeError, r"column 's\[1\]': 's' has the shape \(1,\); expected the column 's'"),
        ({"c[6]": [1.0]}, ShapeError, r"column 'c\[6\]': 'c' has the shape \(6,\)"),
        ({"c": [1], "c[0]": [1.0]}, EvidenceError, r"'c\[0\]': give either the label 'c' or its classes, not both"),
        ({"c[0]": [1.0]}, EvidenceError, "'c': some classes of a row are NaN"),
        ({"s": [1.0], "s[0]": [1.0]}, EvidenceError, r"column 's\[0\]' gives the same entry as column 's'"),
        ({"s": ["tall"]}, EvidenceError, "column 's': expected numbers, got "),
        ({"s": [np.inf]}, EvidenceError, "'s': got an infinite value"),
        ({"h.x.weight[0, 0]": [1.0]}, EvidenceError, r"'h.x.weight' is a parameter, shared by all samples; a table"),
        ({"x[0]": [1.0]}, EvidenceError, "'x': 1 entries are NaN, but an input without a prior must be observed whole"),
        ({"s": []}, EvidenceError, "no rows"),
    ],
)
def test_bad_columns(net, table, error, message):
    with pytest.raises(error, match=message):
        Evidence.read(net, pd.DataFrame(table))


def test_tables_of_other_lengths_and_other_things(net):
    with pytest.raises(EvidenceError, match=r"different numbers of samples \('s': 2, 'h': 3\)"):
        Evidence.read(net, pd.DataFrame({"s": [1.0, 2.0]}), {"h": np.zeros((3, 2, 3))})
    with pytest.raises(
        EvidenceError, match="evidence: got ndarray, expected a mapping from names to arrays, or a pand"
    ):
        Evidence.read(net, np.zeros(3))
    with pytest.raises(EvidenceError, match="do: got list, expected a mapping"):
        Evidence.read(net, None, [1])
    repeated = pd.DataFrame([[1.0, 2.0]], columns=["s", "s"])
    with pytest.raises(EvidenceError, match="column 's' gives the same entry as column 's'"):
        Evidence.read(net, repeated)


def test_labels_are_not_intervened_on_and_are_numbers():
    net = GaussianBayesNet()
    net.add_input("x", 3)
    net.add_likelihood("label", "categorical", "x")
    x = np.zeros((2, 3))
    with pytest.raises(EvidenceError, match=r"'label' is a label.*as evidence, not in do="):
        Evidence.read(net, do={"x": x, "label": [0, 1]})
    with pytest.raises(EvidenceError, match=r"'label': expected class numbers 0, 1, ..., got list"):
        Evidence.read(net, {"x": x, "label": ["cat", "dog"]})


def test_tensors_that_require_gradients_are_read():
    torch = pytest.importorskip("torch")
    net = GaussianBayesNet()
    net.add_input("x", 3)
    net.add_parameter("W", torch.ones(3, 2, requires_grad=True))
    net.add("y", "Gemm", ["x", "W"])
    x = torch.ones(2, 3, requires_grad=True)
    np.testing.assert_array_equal(net.forward({"x": x})["y"], np.full((2, 2), 3.0))
