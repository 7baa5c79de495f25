"""Arguments against signatures: names, and every form of annotation that engines and methods use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import gbn
from gbn import inference, learning
from gbn.errors import ArgumentTypeError, UnknownNameError
from gbn.options import check_arguments, check_options, options_of

if TYPE_CHECKING:
    from elsewhere import Unseen


def function(
    net: gbn.GaussianBayesNet,
    *,
    whole: int = 3,
    real: float | None = None,
    flag: bool = False,
    name: str | os.PathLike[str] | None = None,
    names: bool | Sequence[str] = (),
    some: str | Iterable[str] = (),
    pair: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    call: Callable[[int, Mapping[str, float]], Any] | None = None,
    seed: int | np.random.Generator | None = 0,
    anything: Any = None,
    unseen: Unseen | None = None,
) -> None: ...


GOOD = [
    ("whole", [0, -1, np.int64(3)]),
    ("real", [0, 0.5, np.float32(1), float("nan"), None]),
    ("flag", [True, np.True_]),
    ("name", ["a", Path("a"), None]),
    ("names", [True, "a", ["a"], {"a"}, ("a", "b"), np.array(["a"]), []]),
    ("some", ["a", (n for n in "ab"), {"a": 1}, {"a": 1}.keys()]),
    ("pair", [(1, 0.5), [1.0, 2.0], {"a": (1, 2)}, {}, None]),
    ("call", [print, lambda: None, None]),
    ("seed", [3, np.random.default_rng(0), None]),
    ("anything", [3, "a", object()]),
    # What only a type checker sees cannot be looked up.
    ("unseen", [3, None]),
]
BAD = [
    ("whole", ["a", 1.5, 1.0, None, True, np.array([1])]),
    ("real", ["a", True, [1.0], 1j]),
    ("flag", [1, "no", None]),
    ("name", [3, b"a"]),
    ("names", [3, [3], {"a", 3}, None]),
    ("some", [3, None, b"a"]),
    ("pair", [3, (1,), (1, 2, 3), ("a", 1), {"a": 3}, {3: (1, 2)}]),
    ("call", [3, "print"]),
    ("seed", ["a", 1.5, [1, 2], np.random.RandomState(0)]),
]


@pytest.mark.parametrize("name, value", [(name, value) for name, values in GOOD for value in values])
def test_what_fits(name, value):
    check_options(function, {name: value}, "the function")


@pytest.mark.parametrize("name, value", [(name, value) for name, values in BAD for value in values])
def test_what_does_not_fit(name, value):
    with pytest.raises(ArgumentTypeError, match=rf"^{name}: got .*\({type(value).__name__}\), expected "):
        check_options(function, {name: value}, "the function")
    with pytest.raises(TypeError):
        check_arguments(function, {name: value})


def test_iterators_are_not_used_up():
    names = (n for n in "ab")
    check_arguments(function, {"some": names})
    assert list(names) == ["a", "b"]


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ArgumentTypeError, match=r"whole: got 'a' \(str\), expected int; flag: got 3"):
        check_arguments(function, {"whole": "a", "real": 1, "flag": 3})


def test_names():
    with pytest.raises(UnknownNameError, match=r"unknown option of the function 'whale': did you mean 'whole'"):
        check_options(function, {"whale": 3}, "the function")
    with pytest.raises(UnknownNameError, match="'net'"):
        check_options(function, {"net": 3}, "the function")
    with pytest.raises(UnknownNameError, match="'seed'"):
        check_options(function, {"seed": 3}, "the function", without=("seed",))
    assert options_of(function)["whole"] == 3


FUNCTIONS = [inference.solver(name) for name in inference.ENGINES] + [learning.learner(n) for n in learning.METHODS]


@pytest.mark.parametrize("made", [*FUNCTIONS, learning.fit, inference.query], ids=lambda f: f.__module__)
def test_every_engine_and_method_takes_its_own_defaults_and_refuses_an_object(made):
    """So every annotation that is in use is one that can be judged, or says that anything goes."""
    check_arguments(made, options_of(made))
    refused = [name for name in options_of(made) if not _takes(made, {name: object()})]
    assert set(options_of(made)) - set(refused) <= {"client", "weights", "validation"}


def _takes(made, arguments):
    try:
        check_arguments(made, arguments)
    except ArgumentTypeError:
        return False
    return True


def test_the_package_asks():
    net = gbn.GaussianBayesNet()
    net.add_input("x", 1, mean=0.0, cov=1.0)
    net.add_linear("y", {"x": [[1.0]]}, cov=1.0)
    data = {"y": np.ones((3, 1))}
    for call, message in [
        (lambda: net.fit(data, max_iter="a"), "max_iter: got 'a'"),
        (lambda: net.fit(data, freeze=3), "freeze: got 3"),
        (lambda: net.fit(data, patience="a", callback=3), "patience: .*; callback: "),
        (lambda: net.fit(data, engine_options={"dense_limit": "a"}), "dense_limit: got 'a'"),
        (lambda: net.fit(data, "local", optimizer=3), r"optimizer: got 3 \(int\), expected str | Optimizer"),
        (lambda: net.fit(data, batch_size="a"), "batch_size: got 'a'"),
        (lambda: net.query(3), "targets: got 3"),
        (lambda: net.query("y", engine="vmp", tol="a"), "tol: got 'a'"),
        (lambda: net.counterfactual(data, {"x": [1.0]}, engine="exact", solver=3), "solver: got 3"),
        (lambda: net.set_noise(3), "covariances: got 3"),
    ]:
        with pytest.raises(ArgumentTypeError, match=message):
            call()
