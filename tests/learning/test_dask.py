"""A Dask cluster computes what this process computes, whatever happens to its workers."""

import os
import signal
import sys

import numpy as np
import pytest

import gbn
from gbn import cli
from gbn.blocks import cluster as module
from gbn.errors import EvidenceError, LearningError, MissingDependencyError, ShapeError, UnknownNameError
from gbn.learning.numbers import numbers

pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

ROWS, SENSORS = 90, 12


def local_cluster(workers):
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    )


@pytest.fixture(scope="module")
def client():
    with local_cluster(2) as cluster, distributed.Client(cluster) as one:
        one.wait_for_workers(2)
        yield one


def factor_net():
    net = gbn.GaussianBayesNet()
    net.add_input("z", 2, mean=0.0, cov=1.0)
    loadings = np.random.default_rng(1).normal(size=(SENSORS, 2))
    net.add_linear("y", {"z": loadings}, bias=np.full(SENSORS, 5.0), cov=np.ones(SENSORS))
    return net


def readings(missing=0.2, rows=ROWS):
    """Rows that nearly all miss other cells, so that sums do not suffice and every round visits all of them."""
    rng = np.random.default_rng(0)
    y = 5 + rng.normal(size=(rows, 2)) @ rng.normal(size=(2, SENSORS)) + 0.5 * rng.normal(size=(rows, SENSORS))
    y[rng.random(y.shape) < missing] = np.nan
    return y


def uneven(y):
    return [{"y": part} for part in np.split(y, [1, 30, 31, 70])]


def fit(data, rounds=4, callback=lambda number, _: None, **options):
    return factor_net().fit(
        data, max_iter=rounds, tol=None, callback=lambda n, figures: callback(n, figures) or n == rounds, **options
    )


def agree(one, other, rtol=1e-10):
    for figure in ("log_evidence", "change"):
        np.testing.assert_allclose(one.history.column(figure), other.history.column(figure), rtol=rtol, atol=rtol)
    first, second = numbers(one.net), numbers(other.net)
    for kind in first:
        for name, expected in first[kind].items():
            np.testing.assert_allclose(second[kind][name], expected, rtol=rtol, atol=rtol)


def same(one, other):
    first, second = numbers(one.net), numbers(other.net)
    return all(first[k][n].tobytes() == second[k][n].tobytes() for k in first for n in first[k])


def test_uneven_blocks_give_the_single_process_result(client):
    y = readings()
    here, there = fit({"y": y}), fit(uneven(y), client=client)
    agree(here, there)
    # Sums are taken along the same tree, whoever takes them.
    assert same(there, fit(uneven(y)))


def test_a_worker_killed_mid_fit_costs_time_alone(client):
    y, killed = readings(), []

    def kill(number, _):
        if number == 2:
            pids = client.run(os.getpid)
            killed.extend(pids.values())
            os.kill(killed[0], signal.SIGKILL)

    result = fit(uneven(y), client=client, callback=kill)
    assert len(killed) == 2
    agree(fit({"y": y}), result)
    client.wait_for_workers(2)
    assert killed[0] not in client.run(os.getpid).values()


def test_arrays_and_tables_of_dask(client):
    import dask.array as da
    import dask.dataframe as dd
    import pandas

    y, weights = readings(), np.random.default_rng(2).uniform(0, 2, ROWS)
    expected = fit({"y": y}, weights=weights)
    array = da.from_array(y, chunks=((40, 50), (5, 7)))
    agree(expected, fit({"y": array}, weights=da.from_array(weights, chunks=30), client=client))
    agree(expected, fit({"y": array}, weights=weights))
    table = pandas.DataFrame(y, columns=[f"y[{k}]" for k in range(SENSORS)]).assign(count=weights)
    agree(expected, fit(dd.from_pandas(table, npartitions=3), weights="count", client=client))
    agree(expected, fit({"y": y}, weights=weights, client=client, block_rows=40))


def test_rows_that_sums_can_stand_for_and_held_out_ones(client):
    y = readings(0.0, rows=1000)
    options = {"validation": {"y": readings(0.4)[:20]}, "freeze": ["z"], "standard_errors": True}
    here, there = fit({"y": y}, **options), fit(uneven(y), client=client, **options)
    agree(here, there)
    np.testing.assert_allclose(here.history.column("validation"), there.history.column("validation"), rtol=1e-10)
    for name, expected in here.standard_errors.items():
        np.testing.assert_allclose(there.standard_errors[name], expected, rtol=1e-5)


def test_workers_read_for_themselves(client, tmp_path):
    y = readings()
    for k, block in enumerate(uneven(y)):
        np.savez(tmp_path / f"part-{k}.npz", **block)
    agree(fit({"y": y}), fit(tmp_path / "part-*.npz", client=client))


def test_the_command_line_takes_a_scheduler(client, tmp_path, capsys):
    y = readings()
    np.savez(tmp_path / "data.npz", y=y)
    factor_net().save(tmp_path / "net.gbn")
    command = ["learn", tmp_path / "net.gbn", "--data", tmp_path / "data.npz", "-o", tmp_path / "fitted.gbn"]
    command += ["--scheduler", client.scheduler.address, "--option", "max_iter=3", "tol=null"]
    assert cli.main(list(map(str, command))) == 0, capsys.readouterr().err
    expected = numbers(fit({"y": y}, rounds=3).net)["values"]
    for name, value in numbers(gbn.load(tmp_path / "fitted.gbn"))["values"].items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-10, atol=1e-10)


def test_queries_are_mapped(client):
    y, net = readings(), factor_net()
    whole, parts = net.query(["z", "y"], {"y": y}), net.query(["z", "y"], uneven(y), client=client)
    for name in ("z", "y"):
        for figure in ("mean", "var", "std", "surprise"):
            expected = getattr(whole, figure)[name]
            np.testing.assert_allclose(getattr(parts, figure)[name], expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(parts.cov("z", "y"), whole.cov("z", "y"), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(parts.log_evidence, whole.log_evidence, rtol=1e-12)
    np.testing.assert_allclose(parts.messages["y.bias"], whole.messages["y.bias"], rtol=1e-10)
    means = parts.each(lambda post: post.mean["z"].sum())
    np.testing.assert_allclose(sum(means), whole.mean["z"].sum(), rtol=1e-10)
    first, second = (net.query(["z"], uneven(y), client=c).sample(2, rng=3)["z"] for c in (client, None))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "bad, kind, message",
    [
        ({"y": np.ones((0, SENSORS))}, EvidenceError, "block 1: it has no rows"),
        ({"y": np.ones((4, 3))}, ShapeError, r"block 1: evidence for 'y': got shape \(4, 3\)"),
        ({"v": np.ones((4, SENSORS))}, UnknownNameError, "block 1: unknown vertex 'v'"),
        ({"y": np.ones((4, SENSORS)), "z": np.ones((4, 2))}, EvidenceError, "compared with block 0, block 1 has 'z'"),
    ],
)
def test_bad_blocks_are_named(client, bad, kind, message):
    with pytest.raises(kind, match=message):
        fit([{"y": readings()}, bad], client=client)
    with pytest.raises(kind, match=message):
        factor_net().query(None, [{"y": readings()}, bad], client=client)


def test_what_fails_before_a_block_is_there_names_the_block(client):
    import dask

    def broken():
        raise OSError("disk")

    for block in (broken, dask.delayed(broken)()):
        with pytest.raises(EvidenceError, match="block 1: it cannot be had: OSError: disk"):
            fit([{"y": readings()}, block], client=client)


def test_a_lost_cluster_keeps_the_checkpoint(tmp_path):
    path, y = tmp_path / "fit.ckpt", readings()
    cluster = local_cluster(1)
    client = distributed.Client(cluster)
    try:
        with pytest.raises(LearningError, match=r"Dask .*goes on from the last round that was written"):
            fit(uneven(y), client=client, checkpoint=path, callback=lambda n, _: n == 2 and cluster.close())
    finally:
        client.close()
        cluster.close()
    rounds = []
    result = fit({"y": y}, checkpoint=path, callback=lambda n, _: rounds.append(n))
    assert rounds == [3, 4]
    agree(fit({"y": y}), result)


def test_a_cluster_without_workers_counts_as_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOOK", 0.05)
    monkeypatch.setattr(module, "_PATIENCE", 0.3)
    path, y = tmp_path / "fit.ckpt", readings()
    with local_cluster(1) as cluster, distributed.Client(cluster) as client:
        with pytest.raises(LearningError, match="the Dask cluster has no worker left"):
            fit(uneven(y), client=client, checkpoint=path, callback=lambda n, _: n == 2 and cluster.scale(0))
        cluster.scale(1)
        agree(fit({"y": y}), fit(uneven(y), client=client, checkpoint=path))


def test_what_is_no_client_and_methods_that_take_no_cluster(client, monkeypatch):
    data = {"y": readings()}
    with pytest.raises(LearningError, match="client: got str, expected a"):
        fit(data, client="tcp://127.0.0.1:1")
    for options in ({"method": "local"}, {"batch_size": 10}):
        with pytest.raises(LearningError, match=r"client: this method takes one step after another.*leave client out"):
            factor_net().fit(data, client=client, **options)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'gaussian-bayes-net\[dask\]'"):
        fit(data, client=client)
