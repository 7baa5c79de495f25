"""gbn.testing finds what is wrong, and says what and where."""

import subprocess
import sys

import numpy as np
import pytest

from gbn.maps import Diagonal, Reshape
from gbn.ops.base import Op, always
from gbn.testing import check_map, check_op

X = np.random.default_rng(0).standard_normal((3, 4))


def op_of(function):
    return Op("Mine", function, always, 1, 1, frozenset())


def square(x, factor):
    y = x * x
    return y, (lambda: Diagonal(factor(x), x.shape, y.shape),)


class Wrong(Diagonal):
    """A diagonal with some methods replaced."""

    def __init__(self, **methods):
        super().__init__(2.0 * X, X.shape, X.shape)
        vars(self).update(methods)


def test_a_right_op_passes():
    check_op(op_of(lambda x: square(x, lambda x: 2 * x)), [X])
    check_op("Tanh", [X.astype(np.float32)])


def in_place(x):
    x += 1
    return x, (lambda: Diagonal(1.0, x.shape, x.shape),)


def widening(x):
    y = x * np.float64(2)
    return y, (lambda: Diagonal(2.0, x.shape, y.shape),)


def widening_map(x):
    return 2 * x, (lambda: Diagonal(np.full(x.shape, 2.0), x.shape, x.shape),)


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda x: square(x, lambda x: 3 * x), r"Mine, input 0: push against central differences: at \(\d, \d\) got"),
        (lambda x: (2 * x, (lambda: Reshape(x.shape, (4, 3)),)), r"from \(3, 4\) to \(4, 3\), expected \(3, 4\) to"),
        (lambda x: (2 * x, ()), "returned 0 maps for 1 inputs"),
        (in_place, "input 0: was changed in place"),
        (widening, "value of float32 inputs is float64"),
        (widening_map, "input 0: push of float32 is float64"),
    ],
)
def test_a_wrong_op_is_named(function, message):
    with pytest.raises(AssertionError, match=message) as caught:
        check_op(op_of(function), [X])
    assert str(caught.value).startswith("Mine")


def flat_only(v):
    return v * 2.0 * X if v.ndim == 2 else np.zeros_like(v)


@pytest.mark.parametrize(
    "methods, message",
    [
        ({"pull": lambda g: 3.0 * X * g}, r"<push v, g> = .* and <v, pull g> = "),
        ({"push": lambda v: v + 1.0, "pull": lambda g: g}, "push is not linear"),
        ({"push": flat_only}, r"push with leading axes \(2,\)"),
        ({"push": lambda v: v.sum()}, r"push: of \(3, 4\) has shape \(\)"),
        ({"squared": lambda: Diagonal(2.0 * X, X.shape, X.shape)}, r"squared\(\) against the squares of dense\(\)"),
        ({"blocks": lambda dtype: np.zeros((1, 4, 4))}, r"blocks\(\) against dense\(\)"),
        ({"blocks": lambda dtype: np.zeros((2, 4, 4))}, r"blocks\(\) has shape \(2, 4, 4\), expected \(1, 4, 4\) or"),
    ],
)
def test_a_wrong_map_is_named(methods, message):
    with pytest.raises(AssertionError, match=message) as caught:
        check_map(Wrong(**methods), name="weight of h")
    assert str(caught.value).startswith("weight of h")


def test_importing_needs_no_test_framework():
    script = "import sys, gbn.testing; sys.exit(bool({'pytest', 'hypothesis', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
