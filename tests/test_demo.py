"""The main job, run as a user runs it, and what it claims about missing pixels."""

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from gbn import demo
from gbn.conversion import convert


@pytest.fixture(scope="module")
def trained():
    data, module = demo.digits(), demo.cnn()
    assert demo.train(module, data) > 0.9
    net = convert(module, data.train_x[:2], noise=0.05, likelihood="categorical")
    return demo.with_pixel_prior(net, data.train_x), data


def test_the_demo_runs_and_its_report_is_complete_in_itself(tmp_path, capsys):
    report = tmp_path / "report.html"
    assert demo.main(["--report", str(report), "--rows", "8"]) == 0
    out = capsys.readouterr().out
    for line in (
        "MLP  sweep, step 1",
        "CNN  sweep, step 1",
        "upper half and label, CNN",
        "Local messages equal backprop",
    ):
        assert line in out
    document = report.read_text(encoding="utf-8")
    assert document.rstrip().endswith("</html>")
    assert not any(remote in document for remote in ("http://", "https://", "<script", "<link"))
    assert document.count("data:image/png") >= 5 * 8


def test_missing_pixels_are_better_inferred_with_the_label_than_by_regression_or_the_mean(trained):
    """Held-out log-density of the true lower half, against the mean image and linear regression on the upper half."""
    net, data = trained
    truth, labels = data.test_x[:150], data.test_y[:150]
    found = demo.impute(net, "", truth, {"input": demo.lower_half_missing(truth), "8.label": labels})

    flat = data.train_x.reshape(-1, 64)
    upper, lower = np.c_[np.ones(len(flat)), flat[:, :32]], flat[:, 32:]
    weights = np.linalg.solve(upper.T @ upper + 1e-3 * len(flat) * np.eye(33), upper.T @ lower)

    def log_density(mean, residual):
        noise = stats.multivariate_normal(np.zeros(32), np.cov(residual.T) + 1e-3 * np.eye(32))
        return noise.logpdf(truth.reshape(-1, 64)[:, 32:] - mean).mean()

    test_upper = np.c_[np.ones(len(truth)), truth.reshape(-1, 64)[:, :32]]
    regression = log_density(test_upper @ weights, lower - upper @ weights)
    mean_image = log_density(lower.mean(0), lower - lower.mean(0))
    assert found.log_prob > regression + 0.05
    assert found.log_prob > mean_image + 2
    assert 0.85 < found.coverage < 0.98
