"""Learning from rows in blocks is learning from the rows: the same numbers, and the same checkpoints."""

import os
import subprocess
import sys
import textwrap
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gbn
from gbn.blocks import running
from gbn.errors import EvidenceError, LearningError, ShapeError, UnknownNameError
from gbn.learning import row_blocks as module
from gbn.learning.numbers import Frozen, numbers
from gbn.learning.row_blocks import Blocks, read
from tests.nets import random_evidence, random_net

ROWS, SENSORS = 120, 8


def factor_net(mean=0.0):
    net = gbn.GaussianBayesNet()
    net.add_input("z", 2, mean=0.0, cov=1.0)
    loadings = np.random.default_rng(1).normal(size=(SENSORS, 2))
    net.add_linear("y", {"z": loadings}, bias=np.full(SENSORS, mean), cov=np.ones(SENSORS))
    return net


def readings(missing=0.15, mean=3.0, rows=ROWS):
    rng = np.random.default_rng(0)
    y = mean + rng.normal(size=(rows, 2)) @ rng.normal(size=(2, SENSORS)) + 0.5 * rng.normal(size=(rows, SENSORS))
    y[rng.random(y.shape) < missing] = np.nan
    return y


def cut(data, places):
    rows = len(next(iter(data.values())))
    edges = [0, *places, rows]
    return [{n: a[i:j] for n, a in data.items()} for i, j in pairwise(edges)]


def agree(one, other, rtol=1e-10):
    np.testing.assert_allclose(
        one.history.column("log_evidence"), other.history.column("log_evidence"), rtol=rtol, atol=1e-10
    )
    first, second = numbers(one.net), numbers(other.net)
    for kind in first:
        for name, expected in first[kind].items():
            np.testing.assert_allclose(second[kind][name], expected, rtol=rtol, atol=rtol, err_msg=name)


def fit(net, data, rounds=6, **options):
    return net.fit(data, max_iter=rounds, tol=None, callback=lambda number, _: number == rounds, **options)


UNEVEN = [[1, 2, 50], [119], [40, 41, 80, 100]]


@pytest.mark.parametrize("missing", [0.0, 0.15])
@pytest.mark.parametrize("places", UNEVEN)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"px": False, "ridge": 0.3, "freeze": ["z"]},
        {"noise_prior": (3.0, 0.5), "mask": {"y.z.weight": np.arange(2 * SENSORS).reshape(SENSORS, 2) % 3 > 0}},
        {"freeze": ["y.bias"], "fixed_noise": True, "variance_floor": 1e-3},
    ],
)
def test_every_option_of_em(missing, places, options):
    data = {"y": readings(missing)}
    agree(fit(factor_net(), data, **options), fit(factor_net(), cut(data, places), **options))


SEEDS = st.integers(0, 10**6)


@settings(max_examples=25)
@given(SEEDS, st.sets(st.integers(1, 8), min_size=1, max_size=4).map(sorted))
def test_random_nets_and_cuts(seed, places):
    """All kinds of linear ops, shared noises, priors and missing cells; one round, which each net can make."""
    net = random_net(seed, "linear", vertices=8)
    data, _ = random_evidence(net, seed + 1, samples=9, do=0.0)
    if not any(net[name].plated for name in data):
        return
    data = {name: np.asarray(array) for name, array in data.items()}
    if any(len(array) != 9 for array in data.values()):
        return
    agree(fit(net, data, 1), fit(net, cut(data, places), 1), rtol=1e-7)


def test_tied_vertices_and_nonlinear_inputs():
    """A net that is linear only given its inputs, whose rows cannot be replaced by fewer ones."""
    rng = np.random.default_rng(3)
    net = gbn.GaussianBayesNet()
    net.add_input("x", 3)
    net.add("u", "Tanh", parents=["x"])
    net.add_noise("q", 1.0, (2,))
    weight = net.add_parameter("W", 0.1 * rng.normal(size=(2, 3)))
    net.add_linear("a", {"u": weight}, bias=np.zeros(2), cov="q")
    net.add_linear("b", {"a": rng.normal(size=(2, 2))}, bias=np.zeros(2), cov="q")
    x = rng.normal(size=(60, 3))
    b = np.tanh(x) @ rng.normal(size=(3, 2)) + 0.1 * rng.normal(size=(60, 2))
    b[::5, 0] = np.nan
    data = {"x": x, "b": b}
    agree(fit(net, data), fit(net, cut(data, [7, 8, 30])))


def test_regression_in_blocks_is_least_squares_far_from_the_origin():
    """Against numpy's own least squares, with columns a million times as far away as they are wide."""
    rng = np.random.default_rng(0)
    x = 1e6 + rng.normal(size=(500, 3)) * [1.0, 2.0, 0.5]
    y = (x - 1e6) @ [[1.0], [-2.0], [0.3]] + 4e5 + 0.1 * rng.normal(size=(500, 1))
    net = gbn.GaussianBayesNet()
    net.add_input("x", 3)
    net.add_linear("y", {"x": np.zeros((1, 3))}, bias=np.zeros(1), cov=1.0)
    result = net.fit(cut({"x": x, "y": y}, [3, 4, 77, 300]))
    design = np.column_stack([x - x.mean(axis=0), np.ones(500)])
    coefficients, residual = np.linalg.lstsq(design, y, rcond=None)[:2]
    np.testing.assert_allclose(result.net["y.x.weight"].value[0], coefficients[:3, 0], rtol=1e-9)
    np.testing.assert_allclose(result.net.noise("y").value, residual[0] / 500, rtol=1e-7)


def test_weights_in_every_form():
    pandas = pytest.importorskip("pandas")
    y, weights = readings(), np.random.default_rng(2).uniform(0, 2, ROWS)
    weights[40:80] = 0  # a whole block that does not count
    whole = fit(factor_net(), {"y": y}, weights=weights)
    blocks, parts = cut({"y": y}, [40, 80]), np.split(weights, [40, 80])
    agree(whole, fit(factor_net(), blocks, weights=parts))
    agree(whole, fit(factor_net(), [b | {"n": w} for b, w in zip(blocks, parts, strict=True)], weights="n"))
    agree(whole, fit(factor_net(), {"y": y}, weights=weights, block_rows=50))
    table = pandas.DataFrame(y, columns=[f"y[{k}]" for k in range(SENSORS)]).assign(n=weights)
    agree(whole, fit(factor_net(), table, weights="n"))
    agree(whole, fit(factor_net(), [table[:33], table[33:]], weights="n"))
    with pytest.raises(EvidenceError, match="weights: expected one above 0 in at least one block"):
        fit(factor_net(), blocks, weights=[np.zeros(len(w)) for w in parts])
    with pytest.raises(UnknownNameError, match="block 0: unknown member or column for the weights 'm'"):
        fit(factor_net(), blocks, weights="m")


@pytest.mark.parametrize("engine", ["vmp", "pc"])
def test_other_engines(engine):
    options = {"engine": engine, "engine_options": {"tol": 1e-13}, "fixed_noise": True}
    data = {"y": readings(0.0)[:40]}
    whole, parts = (
        factor_net().fit(d, max_iter=3, tol=0.0, callback=lambda n, _: n == 3, **options)
        for d in (data, cut(data, [9, 30]))
    )
    for name in ("y.z.weight", "y.bias"):
        np.testing.assert_allclose(parts.net[name].value, whole.net[name].value, rtol=1e-6, atol=1e-6)


def test_held_out_blocks_and_standard_errors():
    data, held = {"y": readings()}, {"y": readings(0.3)[::2]}
    options = {"freeze": ["z"], "standard_errors": True}
    whole = fit(factor_net(), data, validation=held, **options)
    parts = fit(factor_net(), cut(data, [50]), validation=cut(held, [7]), **options)
    np.testing.assert_allclose(parts.history.column("validation"), whole.history.column("validation"), rtol=1e-10)
    assert whole.standard_errors.keys() == parts.standard_errors.keys()
    for name, expected in whole.standard_errors.items():
        np.testing.assert_allclose(parts.standard_errors[name], expected, rtol=1e-5)


class TestPasses:
    """How often rows are read."""

    def source(self, missing):
        reads = []
        data = cut({"y": readings(missing, rows=800)}, [200, 400, 600])

        def reader(k):
            def load():
                reads.append(k)
                return data[k]

            return load

        return [reader(k) for k in range(4)], reads

    def test_once_where_sums_suffice(self):
        source, reads = self.source(0.0)
        fit(factor_net(), source)
        assert reads == [0, 1, 2, 3]

    def test_once_where_the_blocks_fit_in_memory(self):
        source, reads = self.source(0.4)
        fit(factor_net(), source, rounds=2)
        assert reads == [0, 1, 2, 3]

    def test_every_round_where_they_do_not(self, monkeypatch):
        monkeypatch.setattr(running, "_KEPT", 0)
        source, reads = self.source(0.4)
        fit(factor_net(), source, rounds=2)
        assert reads == [0, 1, 2, 3] * 4  # the sums before the first round, round 0, and two more

    def test_few_rows_are_brought_together_only_where_they_are_few(self, monkeypatch):
        net = factor_net()
        frozen = Frozen.read(net, ())
        few = read(net, cut({"y": readings(0.0, rows=800)}, [300]), frozen, sums_suffice=True)
        assert isinstance(few, Blocks)
        assert few.few.samples == SENSORS + 1
        assert read(net, cut({"y": readings(0.4, rows=800)}, [300]), frozen, sums_suffice=True).few is None
        monkeypatch.setattr(module, "_MOST_BYTES", 10)
        assert read(net, cut({"y": readings(0.0, rows=800)}, [300]), frozen, sums_suffice=True).few is None


class TestCheckpoints:
    def test_blocks_and_rows_in_one_piece_go_on_from_each_other(self, tmp_path):
        path, y = tmp_path / "fit.ckpt", readings()
        y[:40, 3] = np.nan  # of this sensor the first block knows nothing
        whole, parts = {"y": y}, cut({"y": y}, [40, 41])
        expected = fit(factor_net(), whole, 8)
        for first, second in ((whole, parts), (parts, whole), (parts, cut(whole, [9]))):
            factor_net().fit(first, checkpoint=path, max_iter=3, tol=None, callback=lambda n, _: n == 3)
            rounds = []
            result = factor_net().fit(
                second,
                checkpoint=path,
                max_iter=8,
                tol=None,
                callback=lambda n, _, seen=rounds: seen.append(n) or n == 8,
            )
            assert rounds == [4, 5, 6, 7, 8]
            agree(expected, result)
            path.unlink()

    def test_other_rows_are_another_fit(self, tmp_path):
        path, blocks = tmp_path / "fit.ckpt", cut({"y": readings()}, [40])
        fit(factor_net(), blocks, checkpoint=path)
        for other in (blocks[::-1], [blocks[0]], [blocks[0], {"y": blocks[1]["y"] + 1e-12}]):
            with pytest.raises(gbn.FileFormatError, match="a checkpoint of another fit"):
                fit(factor_net(), other, checkpoint=path)

    def test_a_block_that_is_lost_between_rounds_keeps_the_checkpoint(self, tmp_path, monkeypatch):
        monkeypatch.setattr(running, "_KEPT", 0)
        path, data = tmp_path / "fit.ckpt", {"y": readings()}
        parts = cut(data, [40])
        np.savez(tmp_path / "part.npz", **parts[1])

        def loses(number, _):
            if number == 2:
                (tmp_path / "part.npz").unlink()
            return number == 5

        with pytest.raises(EvidenceError, match=r"block 1 \(part.npz\): it cannot be had: FileNotFoundError"):
            factor_net().fit([parts[0], tmp_path / "part.npz"], checkpoint=path, max_iter=5, tol=None, callback=loses)
        result = factor_net().fit(data, checkpoint=path, max_iter=5, tol=None, callback=lambda n, _: n == 5)
        agree(fit(factor_net(), data, 5), result)


class TestBadBlocks:
    @pytest.mark.parametrize(
        "bad, kind, message",
        [
            ({"y": np.ones((0, SENSORS))}, EvidenceError, "block 1: it has no rows; leave empty blocks out"),
            (
                {"y": np.ones((4, 3))},
                ShapeError,
                r"block 1: evidence for 'y': got shape \(4, 3\), expected \(samples, 8\)",
            ),
            ({"y": np.full((4, SENSORS), "a")}, EvidenceError, "block 1: evidence for 'y': expected numbers"),
            ({"y": np.full((4, SENSORS), np.inf)}, EvidenceError, "block 1: evidence for 'y': got an infinite value"),
            ({"v": np.ones((4, SENSORS))}, UnknownNameError, "block 1: unknown vertex 'v'"),
            (
                {"y": np.ones((4, SENSORS)), "z": np.ones((4, 2))},
                EvidenceError,
                "compared with block 0, block 1 has 'z'",
            ),
            (3, EvidenceError, "block 1: data: got int, expected a mapping"),
        ],
    )
    def test_the_block_is_named(self, bad, kind, message):
        with pytest.raises(kind, match=message):
            factor_net().fit([{"y": readings()}, bad, {"y": readings()}])

    def test_tables_of_other_columns(self):
        pandas = pytest.importorskip("pandas")
        table = pandas.DataFrame(readings(), columns=[f"y[{k}]" for k in range(SENSORS)])
        with pytest.raises(EvidenceError, match=r"compared with block 0, block 1 lacks 'y\[2\]'$"):
            factor_net().fit([table, table.drop(columns="y[2]")])
        with pytest.raises(UnknownNameError, match=r"block 1: unknown column 'w\[2\]'"):
            factor_net().fit([table, table.rename(columns={"y[2]": "w[2]"})])
        with pytest.raises(EvidenceError, match="block 1: it has no rows"):
            factor_net().fit([table, table[:0]])

    def test_a_net_that_a_block_makes_nonlinear(self):
        net = gbn.GaussianBayesNet()
        net.add_input("x", 1, mean=0.0, cov=1.0)
        net.add("h", "Tanh", parents=["x"])
        net.add_linear("y", {"h": np.ones((1, 1))}, bias=np.zeros(1), cov=1.0)
        x = np.random.default_rng(0).normal(size=(20, 1))
        hidden = x.copy()
        hidden[13] = np.nan
        fit(net, cut({"x": x, "y": x}, [10]), 1)
        with pytest.raises(LearningError, match=r"block 1: 'h' .* is nonlinear in what is hidden"):
            fit(net, cut({"x": hidden, "y": x}, [10]), 1)


def test_a_method_that_takes_no_blocks(monkeypatch):
    monkeypatch.delattr("gbn.learning.local.TAKES_BLOCKS")
    with pytest.raises(LearningError, match="method 'local' takes rows in one piece, and these are in blocks"):
        factor_net().fit(cut({"y": readings()}, [3]), "local")


class TestBatches:
    """Stepwise EM and gradients take one batch after another out of the blocks."""

    def data(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(300, 3))
        return {"x": x, "y": x @ rng.normal(size=(3, 2)) + 1 + 0.1 * rng.normal(size=(300, 2))}

    def net(self):
        net = gbn.GaussianBayesNet()
        net.add_input("x", 3)
        net.add_linear("y", {"x": np.zeros((2, 3))}, bias=np.zeros(2), cov=1.0)
        return net

    @pytest.mark.parametrize(
        "options", [{"batch_size": 32, "epochs": 8}, {"method": "local", "epochs": 30, "learning_rate": 0.05}]
    )
    def test_they_arrive_where_all_rows_lead(self, options, tmp_path):
        data = self.data()
        design = np.column_stack([data["x"], np.ones(300)])
        expected = np.linalg.lstsq(design, data["y"], rcond=None)[0]
        path, parts = tmp_path / "fit.ckpt", cut(data, [100, 130])
        result = self.net().fit(parts, **options)
        np.testing.assert_allclose(result.net["y.x.weight"].value.T, expected[:3], atol=0.03)
        stopped = self.net().fit(parts, checkpoint=path, callback=lambda n, _: n == 3, **options)
        assert len(stopped.history) == 4
        again = self.net().fit(parts, checkpoint=path, **options)
        assert again.net["y.x.weight"].value.tobytes() == result.net["y.x.weight"].value.tobytes()

    def test_in_their_own_order_they_are_the_batches_of_all_rows(self):
        data = self.data()
        options = {"method": "local", "epochs": 2, "batch_size": 50, "shuffle": False, "optimizer": "sgd"}
        whole, parts = self.net().fit(data, **options), self.net().fit(cut(data, [100, 250]), **options)
        np.testing.assert_allclose(parts.net["y.x.weight"].value, whole.net["y.x.weight"].value, rtol=1e-12)

    def test_all_rows_at_once_are_refused(self):
        with pytest.raises(LearningError, match="batch_size: got None, all rows together, and they are in blocks"):
            self.net().fit(cut(self.data(), [100]), "local", batch_size=None)


def test_more_rows_than_memory_holds(tmp_path):
    """Rows that cannot be replaced by fewer ones, so that every round visits each: memory stays below their size."""
    pytest.importorskip("resource")
    if not os.path.exists("/proc/self/status"):
        pytest.skip("needs the peak of resident memory that Linux tells")
    script = """
        import sys, numpy as np, gbn
        from functools import partial
        from gbn.blocks import running
        running._KEPT = 1 << 20
        def peak():
            status = open("/proc/self/status").read()
            return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10
        def rows(k):
            rng = np.random.default_rng(k)
            x = rng.normal(size=(5_000, 20))
            return {"x": x, "y": np.tanh(x[:, :1]) + rng.normal(size=(5_000, 1))}
        net = gbn.GaussianBayesNet()
        net.add_input("x", 20)
        net.add("h", "Tanh", parents=["x"])
        net.add_linear("y", {"h": np.zeros((1, 20))}, bias=np.zeros(1), cov=1.0)
        stop = lambda n, _: n == 1
        net.fit([partial(rows, 0)] * 2, callback=stop)
        before = peak()
        result = net.fit([partial(rows, k) for k in range(30)], callback=stop)
        print((peak() - before) / (30 * 5_000 * 21 * 8), result.net["y.h.weight"].value[0, 0])
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    share, weight = map(float, run.stdout.split())
    assert share < 0.35
    assert weight == pytest.approx(1.0, abs=0.03)
