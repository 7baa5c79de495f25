"""The forms in which rows come in blocks."""

import numpy as np
import pytest

import gbn
from gbn.blocks import in_blocks
from gbn.errors import EvidenceError, FileFormatError, ShapeError


def contents(source):
    return [block.content() if callable(block.content) else block.content for block in source]


@pytest.mark.parametrize("data", [None, {"x": np.ones(3)}, np.ones((3, 2)), 7])
def test_rows_in_one_piece_are_left_alone(data):
    assert in_blocks(data) is None


def test_a_mapping_is_cut_by_rows_and_shared_rows_go_with_every_block():
    x, shared = np.arange(10.0).reshape(5, 2), np.ones((1, 3))
    source = in_blocks({"x": x, "c": shared}, weights=np.arange(5), block_rows=2)
    blocks = list(source)
    assert [b.content["x"].tolist() for b in blocks] == [x[:2].tolist(), x[2:4].tolist(), x[4:].tolist()]
    assert all(b.content["c"] is not None and b.content["c"].shape == (1, 3) for b in blocks)
    assert [b.weights.tolist() for b in blocks] == [[0, 1], [2, 3], [4]]
    assert blocks[1].label == "block 1 (rows 2 to 3)"
    assert [b.label for b in source] == [b.label for b in blocks]


def test_a_memory_map_is_not_read_before_its_block_is_taken(tmp_path):
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float64, (6, 2))[:] = 1.0
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    first = next(iter(in_blocks({"x": mapped}, block_rows=2)))
    assert np.shares_memory(first.content["x"], mapped)


def test_tables_are_cut_too():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"x": np.arange(5.0)})
    assert [len(c) for c in contents(in_blocks(table, block_rows=2))] == [2, 2, 1]
    assert in_blocks(table) is None
    assert [len(c) for c in contents(in_blocks(pandas.Series({"x": 1.0, "y": 2.0}), cut=True))] == [1]


def test_iterables_and_functions_can_be_had_anew():
    for data in ([{"x": 1}, {"x": 2}], ({"x": 1}, {"x": 2}), lambda: ({"x": k} for k in (1, 2))):
        source = in_blocks(data)
        assert contents(source) == contents(source) == [{"x": 1}, {"x": 2}]
    with pytest.raises(EvidenceError, match=r"got an iterator \(generator\), which can be read once only"):
        in_blocks({"x": k} for k in (1, 2))


def test_dask_arrays_go_by_the_chunks_of_the_first():
    da = pytest.importorskip("dask.array")
    x, y = np.arange(24.0).reshape(6, 2, 2), np.arange(6.0)
    data = {"x": da.from_array(x, chunks=((4, 2), 1, 2)), "y": da.from_array(y, chunks=3), "z": y, "c": np.ones((1, 2))}
    blocks = list(in_blocks(data, weights=y))
    found = [{n: p.compute() if hasattr(p, "compute") else p for n, p in b.content.items()} for b in blocks]
    assert [f["x"].tolist() for f in found] == [x[:4].tolist(), x[4:].tolist()]
    for name in ("y", "z"):
        assert [f[name].tolist() for f in found] == [[0, 1, 2, 3], [4, 5]]
    assert all(f["c"].shape == (1, 2) for f in found)
    assert [b.weights.compute().tolist() for b in blocks] == [[0, 1, 2, 3], [4, 5]]
    with pytest.raises(ShapeError, match="'y': got a Dask array of 5 rows, expected 6"):
        in_blocks({"x": data["x"], "y": data["y"][:5]})


def test_dask_arrays_of_unknown_sizes_must_have_as_many_chunks():
    da = pytest.importorskip("dask.array")
    x = da.from_array(np.arange(6.0), chunks=2)
    some = x[x > 1]
    assert [b.content["x"].compute().tolist() for b in in_blocks({"x": some})] == [[], [2, 3], [4, 5]]
    with pytest.raises(ShapeError, match="'y': got 1 chunks of rows, expected 3"):
        in_blocks({"x": some, "y": da.ones(6, chunks=6)})


def test_a_dask_dataframe_goes_by_its_partitions():
    dd, pandas = pytest.importorskip("dask.dataframe"), pytest.importorskip("pandas")
    table = dd.from_pandas(pandas.DataFrame({"x": np.arange(5.0)}), npartitions=2)
    assert [len(b.content.compute()) for b in in_blocks(table)] == [3, 2]
    with pytest.raises(EvidenceError, match="weights: of a Dask dataframe they are one of its columns; give its name"):
        in_blocks(table, weights=np.ones(5))


@pytest.mark.parametrize(
    "weights, message",
    [
        (np.ones(4), "weights: got ndarray, expected a list with an array for each block"),
        ([np.ones(2)], "weights: got 1 arrays, expected one for each block"),
        ([np.ones(2)] * 3, "weights: got 3 arrays, expected one for each block"),
    ],
)
def test_weights_of_blocks_that_do_not_fit(weights, message):
    with pytest.raises(EvidenceError, match=message):
        list(in_blocks([{"x": np.ones(2)}] * 2, weights=weights))


def test_weights_and_sizes_of_what_is_cut():
    with pytest.raises(ShapeError, match=r"weights: got shape \(4,\), expected \(5,\)"):
        in_blocks({"x": np.ones(5)}, weights=np.ones(4), block_rows=2)
    with pytest.raises(EvidenceError, match="block_rows: got 0, expected a number of at least 1"):
        in_blocks({"x": np.ones(5)}, block_rows=0)


class TestFiles:
    def test_every_kind_by_pattern_and_by_name(self, tmp_path):
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
        table = pandas.DataFrame({"x": np.arange(5.0)})
        table.to_parquet(tmp_path / "a.parquet", row_group_size=2)
        table[:3].to_csv(tmp_path / "b.csv", index=False)
        np.savez(tmp_path / "c.npz", x=np.ones(4))
        blocks = list(in_blocks(str(tmp_path / "*")))
        assert [b.label for b in blocks] == [
            *[f"block {k} (a.parquet, row group {k})" for k in range(3)],
            "block 3 (b.csv)",
            "block 4 (c.npz)",
        ]
        assert [len(content["x"]) for content in contents(blocks)] == [2, 2, 1, 3, 4]
        listed = in_blocks([tmp_path / "c.npz", {"x": np.ones(2)}, lambda: table])
        assert [len(content["x"]) for content in contents(listed)] == [4, 2, 5]

    def test_what_is_wrong_with_a_file_is_said_when_it_is_read(self, tmp_path):
        np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
        (tmp_path / "a.txt").write_text("1")
        with pytest.raises(EvidenceError, match="no file has such a name"):
            in_blocks(str(tmp_path / "*.csv"))
        net = gbn.GaussianBayesNet()
        net.add_input("x", 1, mean=0.0, cov=1.0)
        with pytest.raises(FileFormatError, match=r"block 0 \(objects.npz\).*pickled objects"):
            net.query(None, str(tmp_path / "objects.npz"))
        with pytest.raises(FileFormatError, match=r"block 0 \(a.txt\).*expected .npz, .csv or .parquet"):
            net.query(None, [tmp_path / "a.txt"])
        with pytest.raises(EvidenceError, match=r"block 0 \(none.npz\): it cannot be had: FileNotFoundError"):
            net.query(None, [tmp_path / "none.npz"])
