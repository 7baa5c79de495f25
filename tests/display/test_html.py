"""Documents that parse, hold no code, load nothing, and show names as text."""

import base64
import re
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from gbn import inference
from gbn.display.html import Markup, escape, facts, image, net_html, page, posterior_html, report_html, table
from gbn.equivalence.report import Comparison, Report
from gbn.errors import ShapeError
from gbn.net import GaussianBayesNet
from tests.display.documents import HOSTILE, check

Array = np.ndarray[Any, Any]


def net(middle: str = "h") -> GaussianBayesNet:
    rng = np.random.default_rng(0)
    out = GaussianBayesNet()
    out.add_input("x", 3, mean=0.0, cov=1.0)
    out.add_parameter("W", rng.normal(size=(4, 3)))
    out.add("a", "Gemm", ["x", "W"], transB=1, cov=rng.uniform(0.1, 1, 4))
    out.add(middle, "Tanh", ["a"])
    out.add_linear("y", {middle: rng.normal(size=(2, 4))}, bias=np.zeros(2), cov=0.25)
    out.add_likelihood("label", "categorical", "y")
    return out


def report(name: str = "weight", agrees: bool = True) -> Report:
    figures = {"cosine": 1.0, "relative_error": 1e-16 if agrees else float("inf")}
    row = Comparison(name, (2, 3), figures, agrees)
    return Report("Model", "mse", "mean", "pc", "an oracle", "float64", 5, 1e-10, (row,), figures, 1.0, 1.0)


def test_net() -> None:
    seen = check(net_html(net()))
    for expected in ("x", "a", "h", "y", "Gemm", "N × 4", "4 × 3", "0.25", "label (categorical)", "parameter"):
        assert expected in seen.text
    assert any("variances" in text for text in seen.text)
    assert check(net()._repr_html_())


def test_an_empty_net() -> None:
    assert check(net_html(GaussianBayesNet()))


@pytest.mark.parametrize("engine", ["exact", "pc"])
def test_posterior(engine: str) -> None:
    y = np.array([[1.0, np.nan], [0.5, 0.25]])
    post = inference.query(net(), None, {"y": y}, engine=engine)
    seen = check(posterior_html(post))
    text = " ".join(seen.text)
    assert "converged" in text
    assert "75%" in text
    assert engine in seen.text
    assert check(post._repr_html_())


def test_a_posterior_figure_that_the_engine_does_not_give_is_a_dash() -> None:
    post = inference.query(net(), ["h"], {"y": np.zeros((2, 2))}, engine="pc")
    assert "—" in check(posterior_html(post)).text


def test_a_large_posterior_does_not_compute_every_variance() -> None:
    large = GaussianBayesNet()
    large.add_input("x", 600, mean=0.0, cov=1.0)
    large.add("y", "Tanh", ["x"], cov=1.0)
    post = inference.query(large, ["x"], {"y": np.zeros((1, 600))})
    assert any("post.std" in text for text in check(posterior_html(post)).text)


@pytest.mark.parametrize("agrees", [True, False])
def test_report(agrees: bool) -> None:
    seen = check(report_html(report(agrees=agrees)))
    text = " ".join(seen.text)
    assert ("✓" in text) is agrees
    assert "weight" in seen.text
    assert "2×3" in seen.text


def test_names_are_text() -> None:
    hostile = net(HOSTILE)
    post = inference.query(hostile, [HOSTILE], {"x": np.zeros((1, 3))})
    drawings = [
        net_html(hostile),
        posterior_html(post),
        report_html(report(HOSTILE)),
        page(HOSTILE, facts([(HOSTILE, HOSTILE)])),
    ]
    for drawing in drawings:
        seen = check(drawing)
        assert any(HOSTILE in text for text in seen.text)
        assert {tag for tag, _ in seen.tags}.isdisjoint({"img", "script"})


def test_escape() -> None:
    assert escape('<a b="c">&\'') == "&lt;a b=&quot;c&quot;&gt;&amp;&#x27;"
    assert escape(3) == "3"
    assert escape(Markup("<b>x</b>")) == "<b>x</b>"


def test_table_counts_what_it_leaves_out() -> None:
    seen = check(table(["n", "half"], [(k, k / 2) for k in range(250)]))
    assert sum(tag == "tr" for tag, _ in seen.tags) == 201
    assert "50 more rows are not shown." in seen.text
    assert "99.5" in seen.text


def test_a_net_of_many_vertices_is_cut() -> None:
    long = GaussianBayesNet()
    long.add_input("v0", 2)
    for k in range(1, 260):
        long.add(f"v{k}", "Tanh", [f"v{k - 1}"])
    seen = check(net_html(long))
    assert "60 more rows are not shown." in seen.text


def test_page() -> None:
    text = page("A title", "plain & simple", table(["a"], [("b",)]))
    seen = check(text)
    assert text.startswith("<!DOCTYPE html>")
    assert "plain & simple" in seen.text
    assert seen.text.count("A title") == 2
    assert "prefers-color-scheme:dark" in text


def test_styles_are_scoped() -> None:
    style = re.search(r"<style>(.*?)</style>", net_html(net()), re.DOTALL)
    assert style is not None
    rules = re.sub(r"@media[^{]*\{(.*\})\s*\}", r"\1", style[1])
    for selectors in re.findall(r"([^{}]+)\{[^{}]*\}", rules):
        assert all(".gbn" in selector for selector in selectors.split(","))


def decoded(markup: str) -> Array:
    """Pixels of the first picture, shape (rows, columns, 4), after checking every checksum."""
    match = re.search(r'src="data:image/png;base64,([^"]+)"', markup)
    assert match is not None
    data = base64.b64decode(match[1], validate=True)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length]) == (zlib.crc32(kind + body),)
        chunks[kind] = body
        at += 12 + length
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour, rest) == (8, 6, [0, 0, 0])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 4 * width)
    assert (rows[:, 0] == 0).all()
    return rows[:, 1:].reshape(height, width, 4)


def test_grayscale_image() -> None:
    pixels = decoded(image(np.array([[0.0, 1.0, 2.0], [2.0, np.nan, 0.0]])))
    assert pixels.shape == (2, 3, 4)
    assert pixels[0, 0].tolist() == [0, 0, 0, 255]
    assert pixels[0, 2].tolist() == [255, 255, 255, 255]
    assert pixels[0, 1, 0] in (127, 128)
    assert pixels[1, 1, 3] == 0


def test_diverging_image() -> None:
    pixels = decoded(image(np.array([-2.0, 0.0, 1.0, 2.0])))
    assert pixels.shape == (1, 4, 4)
    assert pixels[0, 1].tolist() == [255, 255, 255, 255]
    assert pixels[0, 0, 2] > pixels[0, 0, 0]
    assert pixels[0, 3, 0] > pixels[0, 3, 2]
    assert 255 > pixels[0, 2, 1] > pixels[0, 3, 1]


def test_image_limits_captions_and_degenerate_arrays() -> None:
    seen = check(image(np.ones((2, 2)), caption=HOSTILE, scale=8))
    assert (seen.tags[1][1]["width"], seen.tags[1][1]["height"]) == ("16", "16")
    assert seen.tags[1][1]["alt"] == HOSTILE
    assert decoded(image(np.array([[5.0]]), limits=(0, 10)))[0, 0, 0] in (127, 128)
    assert (decoded(image(np.full((2, 2), np.nan)))[..., 3] == 0).all()
    assert (decoded(image(np.zeros((2, 2)), diverging=True)) == 255).all()
    for shape in ((2, 2, 3), (0, 4)):
        with pytest.raises(ShapeError, match="expected"):
            image(np.zeros(shape))
