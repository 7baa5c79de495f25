"""Evidence in one form."""

import numpy as np
import pytest

from gbn.evidence import Evidence
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
