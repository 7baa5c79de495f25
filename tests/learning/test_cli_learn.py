"""``gbn learn``: data from all kinds of files, the fitted net, the history, and errors."""

import json
import sys

import numpy as np
import pytest

import gbn
from gbn import cli
from gbn.learning.weights_posterior import WeightPosterior

PARTS = {"y": 3}


@pytest.fixture
def net(tmp_path):
    made = gbn.GaussianBayesNet()
    made.add_input("z", 1, mean=0.0, cov=1.0)
    made.add_linear("y", {"z": [[1.0], [0.5], [-1.0]]}, bias=np.zeros(3), cov=np.ones(3))
    made.save(tmp_path / "net.gbn")
    return made


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(60, 1)) @ [[1.0, 2.0, -1.5]] + 0.4 * rng.normal(size=(60, 3))
    y[::7, 1] = np.nan
    return y


@pytest.fixture
def learn(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        code = cli.main(["learn", "net.gbn", "-o", "fitted.gbn", *map(str, argv)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_arrays_and_tables_give_what_python_gives(net, rows, learn, tmp_path):
    weights = np.linspace(0.5, 1.5, 60)
    np.savez(tmp_path / "data.npz", y=rows, w=weights)
    header = "y[0],y[1],y[2],w"
    text = ["" if np.isnan(v) else repr(float(v)) for v in np.column_stack([rows, weights]).reshape(-1)]
    lines = [",".join(text[k : k + 4]) for k in range(0, len(text), 4)]
    (tmp_path / "data.csv").write_text("\n".join([header, *lines]))
    expected = net.fit({"y": rows}, weights=weights, tol=1e-5)
    for name in ("data.npz", "data.csv"):
        code, out, err = learn(
            "--data", name, "--weights", "w", "--option", "tol=1e-5", "--history", "history.csv", "--json"
        )
        assert code == 0, err
        report = json.loads(out)
        assert report["converged"]
        assert report["rounds"] == len(expected.history) - 1
        fitted = gbn.load(tmp_path / "fitted.gbn")
        for parameter in net.parameters:
            np.testing.assert_allclose(fitted[parameter].value, expected.net[parameter].value, rtol=1e-12)
        assert len((tmp_path / "history.csv").read_text().splitlines()) == len(expected.history) + 1


def test_held_out_rows_may_have_the_column_of_weights(net, rows, learn, tmp_path):
    np.savez(tmp_path / "data.npz", y=rows[:40], w=np.ones(40))
    np.savez(tmp_path / "held.npz", y=rows[40:], w=np.ones(20))
    code, out, err = learn("--data", "data.npz", "--weights", "w", "--validation", "held.npz", "--option", "tol=1e-3")
    assert code == 0, err
    assert "validation" in out


def test_a_parquet_file(net, rows, learn, tmp_path):
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(rows, columns=["y[0]", "y[1]", "y[2]"]).to_parquet(tmp_path / "data.parquet")
    code, out, err = learn("--data", "data.parquet", "--option", "tol=1e-3")
    assert code == 0, err
    assert "nats per observed number" in out


def test_a_parquet_file_without_its_reader(net, learn, tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    code, _, err = learn("--data", "data.parquet")
    assert code == 2
    assert "pip install 'gaussian-bayes-net[parquet]'" in err


def test_options_freezing_and_a_checkpoint(net, rows, learn, tmp_path):
    np.savez(tmp_path / "data.npz", y=rows)
    options = ("--freeze", "y.bias", "--seed", 3, "--option", "tol=1e-3", "ridge=0.5", "--checkpoint", "fit.ckpt")
    code, out, err = learn("--data", "data.npz", *options)
    assert code == 0, err
    assert "stopped" in out
    fitted = gbn.load(tmp_path / "fitted.gbn")
    assert not fitted["y.bias"].value.any()
    again = learn("--data", "data.npz", *options)
    assert again[:2] == (code, out)


@pytest.mark.parametrize(
    "argv, message",
    [
        (("--data", "data.txt"), "expected .npz, .csv or .parquet"),
        (("--data", "none.csv"), "none.csv"),
        (("--data", "data.npz", "--method", "magic"), "unknown method 'magic'"),
        (("--data", "data.npz", "--option", "speed=3"), "unknown option of method 'em' 'speed'"),
        (("--data", "data.npz", "--option", "max_iter=often"), "max_iter: got 'often' (str), expected int"),
        (("--data", "data.npz", "--weights", "v"), "for the weights 'v'"),
        (("--data", "data.npz", "--freeze", "q"), "name in freeze 'q'"),
        (("--data", "bad.csv"), "unknown column 'x[0]'"),
        (("--data", "words.csv"), "column 'y[0]': expected numbers"),
    ],
)
def test_errors_are_one_sentence(net, rows, learn, tmp_path, argv, message):
    np.savez(tmp_path / "data.npz", y=rows)
    (tmp_path / "bad.csv").write_text("x[0]\n1\n")
    (tmp_path / "words.csv").write_text("y[0]\nhello\n")
    code, out, err = learn(*argv)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "fitted.gbn").exists()


def test_a_posterior_of_weights_is_written_and_gone_on_from(net, rows, learn, tmp_path):
    np.savez(tmp_path / "all.npz", y=rows)
    np.savez(tmp_path / "more.npz", y=rows[30:])
    options = ("--method", "vb", "--option", "ard=true", "max_iter=40", "tol=1e-4")
    code, out, err = learn("--data", "all.npz", *options, "--posterior", "weights.post")
    assert code == 0, err
    assert "elbo" in out
    fitted = gbn.load(tmp_path / "fitted.gbn")
    post = WeightPosterior.load(tmp_path / "weights.post", fitted)
    np.testing.assert_array_equal(post.mean["y.z.weight"], fitted["y.z.weight"].value)
    code, out, err = learn(
        "--data", "more.npz", "--method", "vb", "--prior", "weights.post", "--json", "--option", "tol=1e-4"
    )
    assert code == 0, err
    assert json.loads(out)["method"] == "vb"
    code, _, err = learn("--data", "all.npz", "--posterior", "weights.post")
    assert code == 2
    assert "--posterior: method 'em' learns no posterior of weights; give --method vb" in err
    code, _, err = learn("--data", "all.npz", "--method", "vb", "--prior", "all.npz")
    assert code == 2
    assert "expected a posterior" in err or "not a whole posterior" in err
