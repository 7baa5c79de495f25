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
    return demo.with_pixel_prior(net, data.train_x), data, module


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


def test_every_hidden_layer_has_a_posterior_given_image_and_label(trained):
    """Of 64 images at once; for one, beside the Jacobian that torch has of the noises of both hidden layers."""
    import torch

    net, data, module = trained
    x, labels = data.test_x[:64], data.test_y[:64]
    hidden = [name for name in net.latents if name != "input"]
    post = net.query(hidden, {"input": x, "8.label": labels})
    for name in hidden:
        assert post.var[name].shape == (64, *net[name].shape)
        assert (post.var[name] > 0).all()
    first = post.var[hidden[0]]
    assert (first <= 0.05 + 1e-12).all(), "given the image it has its own noise, and less by the label"
    assert (first.reshape(64, -1).min(axis=1) < 0.05).all()

    image = torch.from_numpy(x[:1])

    def values_of(stop, *noises):
        """The result of convolution ``stop``, noise included; all the way where there is no such one."""
        values, seen = image, 0
        for layer in module:
            values = layer(values)
            if isinstance(layer, torch.nn.Conv2d):
                values = values + noises[seen]
                if seen == stop:
                    break
                seen += 1
        return values[0]

    def logits(*noises):
        return values_of(None, *noises)

    noises = [torch.zeros(1, *net[name].shape, dtype=torch.float64) for name in hidden]
    jacobians = torch.func.jacrev(logits, argnums=(0, 1))(*noises)
    j = [block.detach().reshape(10, -1).numpy() for block in jacobians]
    p = torch.softmax(logits(*noises), dim=0).detach().numpy()
    fisher, prior = np.diag(p) - np.outer(p, p), 0.05 * sum(block @ block.T for block in j)
    inner = np.linalg.solve(np.eye(10) + fisher @ prior, np.c_[fisher, np.eye(10)[labels[0]] - p])
    # A hidden layer moves with its own noise, and with that of the layer before.
    own = torch.func.jacrev(lambda noise: values_of(1, noise, noises[1]))(noises[0]).detach()
    inside = own.reshape(256, 512).numpy()
    for name, blocks in ((hidden[0], (np.eye(512), np.zeros((512, 256)))), (hidden[1], (inside, np.eye(256)))):
        prior = sum(0.05 * (a * a).sum(axis=1) for a in blocks)
        cross = sum(0.05 * a @ b.T for a, b in zip(blocks, j, strict=True))
        variance = prior - np.einsum("ik,kl,il->i", cross, inner[:, :10], cross)
        np.testing.assert_allclose(post.var[name][0].reshape(-1), variance, rtol=1e-9)
        at = post.net.forward({"input": x[:1]})[name].reshape(-1)
        np.testing.assert_allclose(post.mean[name][0].reshape(-1), at + cross @ inner[:, 10], atol=1e-9)


def test_missing_pixels_are_better_inferred_with_the_label_than_by_regression_or_the_mean(trained):
    """Held-out log-density of the true lower half, against the mean image and linear regression on the upper half."""
    net, data, _ = trained
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
