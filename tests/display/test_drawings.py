"""Nets and posteriors as drawings: what stands in which box, and how it is told apart."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

import gbn
from gbn.display.html import net_html, posterior_html
from gbn.display.html.drawing import KINDS
from gbn.display.html.image import data_uri, limits_of
from gbn.errors import InferenceError, ShapeError
from tests.display.documents import HOSTILE, check

NAN = float("nan")


def mixed(dtype=np.float64):
    """Every kind of vertex."""
    rng = np.random.default_rng(0)
    net = gbn.GaussianBayesNet(dtype)
    net.add_input("data", 2)
    net.add_input("x", 3, mean=0.0, cov=1.0)
    net.add_parameter("W", rng.normal(size=(4, 3)))
    net.add("a", "Gemm", ["x", "W"], transB=1, cov=rng.uniform(0.1, 1, 4))
    net.add("h", "Tanh", ["a"])
    net.add_linear("y", {"h": rng.normal(size=(2, 4)), "data": np.eye(2)}, bias=np.zeros(2), cov=0.25)
    net.add_likelihood("label", "categorical", "y")
    return net


def boxes(text):
    """Tip -> the element of the box, of the first drawing of a document."""
    svg = ElementTree.fromstring(re.search(r'<div class="gbn-drawing">(<svg.*?</svg>)</div>', text, re.DOTALL)[1])
    return {box.find("title").text: box for box in svg.iter("g") if "gbn-box" in box.get("class", "")}


def box_of(text, name):
    (found,) = (box for tip, box in boxes(text).items() if tip.split("\n")[0] == name)
    return found


def words(box):
    return [text.text for text in box.iter("text")]


def arrows(text):
    return check(text).classes("gbn-head")


def test_a_net_has_a_box_for_each_vertex_and_an_arrow_for_each_edge():
    net = mixed()
    text = net_html(net)
    assert {tip.split("\n")[0] for tip in boxes(text)} == set(net)
    assert arrows(text) == sum(len(v.parents) for v in net.vertices.values())
    assert words(box_of(text, "a")) == ["a", "Gemm · N × 4"]
    tip = box_of(text, "a").find("title").text
    assert "noise: diagonal, variances" in tip
    assert "parents: x, W" in tip


def test_kinds_differ_in_shape_not_only_in_colour():
    text = net_html(mixed())
    shapes = {}
    for name, kind in {
        "data": "input",
        "a": "latent",
        "h": "deterministic",
        "W": "parameter",
        "label": "label",
    }.items():
        box = box_of(text, name)
        assert f"gbn-{kind}" in box.get("class").split()
        corner = round(float(box.find("rect").get("rx")))
        shapes[kind] = (corner, len(box.findall("rect")), len(box.findall("path")))
    dashed = re.search(r"\.gbn-parameter>\.gbn-frame[^{]*\{[^}]*stroke-dasharray", text)
    assert dashed is not None
    del shapes["parameter"]
    assert len(set(shapes.values())) == len(shapes)
    seen = " ".join(check(text).text)
    assert all(KINDS[kind] in seen for kind in ("input", "latent", "deterministic", "parameter", "label"))
    assert KINDS["gap"] not in seen


def test_a_drawing_says_in_words_what_it_is():
    seen = check(net_html(mixed()))
    (svg,) = (attributes for tag, attributes in seen.tags if tag == "svg" and "role" in attributes)
    assert svg["role"] == "img"
    assert "10 vertices" in svg["aria-label"]
    assert seen.text.count("data") == 2  # in its box and in the table
    folds = [attributes for tag, attributes in seen.tags if tag == "details"]
    assert ["open" in attributes for attributes in folds] == [True, False]


def test_what_happens_twice_between_two_vertices_is_one_arrow():
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    net.add("square", "Mul", ["x", "x"])
    assert arrows(net_html(net)) == 1


def deep(layers):
    net = gbn.GaussianBayesNet()
    net.add_input("v0", 2, mean=0.0, cov=1.0)
    for k in range(1, layers):
        net.add_linear(f"v{k}", {f"v{k - 1}": np.eye(2)}, cov=1.0)
    return net


def test_a_large_net_is_drawn_without_its_weights_and_says_so():
    text = net_html(deep(80))  # 80 vertices and 79 weights
    assert len(boxes(text)) == 80
    assert "79 parameters and constants are not drawn." in text
    assert arrows(text) == 79


def test_a_larger_net_is_drawn_by_its_ends_and_says_so():
    net = deep(300)
    text = net_html(net)
    found = {tip.split("\n")[0] for tip in boxes(text)}
    assert found == {f"v{k}" for k in (*range(60), *range(240, 300))} | {"vertices that are not drawn"}
    assert "180 vertices in the middle" in text
    # The chain is not broken: it goes through the box of what is left out.
    assert arrows(text) == 120
    assert KINDS["gap"] in text
    assert '<details class="gbn-fold"><summary>Drawing: 120 of 599 vertices' in text


def test_a_net_of_unconnected_parts_can_be_large_too():
    net = gbn.GaussianBayesNet()
    for k in range(200):
        net.add_input(f"v{k}", 1, mean=0.0, cov=1.0)
    text = net_html(net)
    assert len(boxes(text)) == 121
    assert arrows(text) == 0


def evidence(net, **more):
    return net.query(None, {"data": np.ones((2, 2)), "y": [[1.0, NAN], [0.5, 0.25]], **more})


def test_evidence_is_marked_and_said():
    post = evidence(mixed(), label=[1, 0])
    text = posterior_html(post)
    marked = {tip.split("\n")[0] for tip, box in boxes(text).items() if "gbn-observed" in box.get("class").split()}
    assert marked == {"data", "y", "label"}
    assert "50% observed" in words(box_of(text, "y"))
    assert "\nobserved" in box_of(posterior_html(post, 1), "y").find("title").text
    assert "\ngiven" in box_of(text, "data").find("title").text
    assert (
        "\nset"
        in box_of(posterior_html(mixed().query(None, {"data": [[1, 1]]}, do={"h": [[0, 0, 0, 0]]})), "h")
        .find("title")
        .text
    )


def test_a_missing_label_is_not_marked():
    post = evidence(mixed(), label=[NAN, 0])
    assert "gbn-observed" not in box_of(posterior_html(post, 0), "label").get("class")
    assert "gbn-observed" in box_of(posterior_html(post, 1), "label").get("class")


def scalar():
    net = gbn.GaussianBayesNet()
    net.add_input("cause", 1, mean=0.0, cov=1.0)
    net.add_linear("effect", {"cause": [[2.0]]}, cov=0.5)
    return net


def test_figures_of_a_scalar_are_those_of_bayes():
    post = scalar().query(None, {"effect": [[3.0]]})
    box = box_of(posterior_html(post), "cause")
    mean, std = 2 * 3 / (4 + 0.5), np.sqrt(1 - 4 / 4.5)
    nats = 0.5 * mean**2
    assert words(box)[-2:] == [f"{mean:.4g} ± {std:.2g}", f"surprise {nats:.2f} nats"]
    tip = box.find("title").text
    assert "prior: 0 ± 1\n" in tip
    assert f"surprise: {nats + 0.5 * np.log(2 * np.pi):.4g} nats, {nats:.3g} beyond the least" in tip


def curve(box, css):
    """Points of a density, shape (points, 2)."""
    (line,) = (e for e in box.iter("polyline") if e.get("class") == css)
    return np.array([point.split(",") for point in line.get("points").split()], float)


def test_the_curves_are_densities_on_one_axis():
    post = scalar().query(None, {"effect": [[3.0]]})
    box = box_of(posterior_html(post), "cause")
    before, after = curve(box, "gbn-before"), curve(box, "gbn-after")
    mean, std = post.mean["cause"][0, 0], post.std["cause"][0, 0]
    peak = {name: points[points[:, 1].argmin()] for name, points in {"before": before, "after": after}.items()}
    # Heights are square roots: that of a Gaussian falls with the root of its width.
    floor = 30.0
    heights = [floor - peak["before"][1], floor - peak["after"][1]]
    np.testing.assert_allclose(heights[0] / heights[1], np.sqrt(std / 1.0), atol=0.01)
    low, high = min(-3.0, mean - 3 * std), max(3.0, mean + 3 * std)
    room = 0.05 * (high - low)
    across = [104 * (value - low + room) / (high - low + 2 * room) for value in (0.0, mean)]
    np.testing.assert_allclose([peak["before"][0], peak["after"][0]], across, atol=0.06)


def test_an_observed_value_is_a_line():
    box = box_of(posterior_html(scalar().query(None, {"effect": [[3.0]]})), "effect")
    assert not [e for e in box.iter("polyline") if e.get("class") == "gbn-after"]
    assert [e for e in box.iter("path") if e.get("class") == "gbn-after"]


def tints(text):
    found = {}
    for tip, box in boxes(text).items():
        for rect in box.iter("rect"):
            if rect.get("class") == "gbn-tint":
                found[tip.split("\n")[0]] = float(rect.get("fill-opacity"))
    return found


def test_surprise_tints_in_proportion_to_its_nats():
    net = scalar()
    post = net.query(None, {"effect": [[9.0]]})
    found = tints(posterior_html(post))
    mean = post.mean["cause"].item()
    energies = {"cause": 0.5 * mean**2, "effect": 0.5 * (9 - 2 * mean) ** 2 / 0.5}
    most = max(energies.values())
    assert most > 1
    for name, nats in energies.items():
        np.testing.assert_allclose(found[name], 0.55 * nats / most, atol=1e-3)
    weak = tints(posterior_html(net.query(None, {"effect": [[0.5]]})))
    assert max(weak.values()) < 0.1  # less than a nat is never a strong colour


def test_a_label_shows_the_chances_of_its_classes():
    post = evidence(mixed())
    box = box_of(posterior_html(post, 1), "label")
    tall = [float(rect.get("height")) for rect in box.iter("rect") if rect.get("class") == "gbn-after"]
    np.testing.assert_allclose(np.array(tall) / 29, post.mean["label"][1], atol=0.01)
    best = int(post.mean["label"][1].argmax())
    assert f"posterior: class {best}, probability {post.mean['label'][1, best]:.3g}" in box.find("title").text


def test_vectors_are_intervals_of_two_standard_deviations():
    post = evidence(mixed())
    box = box_of(posterior_html(post), "a")
    dots = [e for e in box.iter("circle") if e.get("class") == "gbn-after"]
    lines = [e for e in box.iter("path") if e.get("class") == "gbn-after"]
    assert len(dots) == len(lines) == 4
    ends = np.array([re.findall(r"[ML]\S+ (\S+?)(?=L|$)", line.get("d")) for line in lines], float)
    heights = np.abs(ends[:, 0] - ends[:, 1])
    np.testing.assert_allclose(heights / heights[0], post.std["a"][0] / post.std["a"][0, 0], atol=0.05)
    middles = np.array([float(dot.get("cy")) for dot in dots])
    np.testing.assert_allclose(ends.mean(axis=1), middles, atol=0.11)


def image_net(shape):
    net = gbn.GaussianBayesNet()
    net.add_input("image", shape, mean=0.5, cov=1.0)
    net.add("shown", "Identity", ["image"], cov=1.0)
    return net


def pictures(text, name):
    return [image.get("href") for image in box_of(text, name).iter("image")]


def test_images_are_heat_maps_of_prior_mean_and_std():
    seen = np.random.default_rng(0).uniform(size=(3, 1, 5, 6))
    post = image_net((1, 5, 6)).query(None, {"shown": seen})
    found = pictures(posterior_html(post, 2), "image")
    mean, std = post.mean["image"][2, 0], post.std["image"][2, 0]
    both = np.concatenate([mean.reshape(-1), np.full(30, 0.5)])
    limits = limits_of(both, False)
    expected = [
        data_uri(np.full((5, 6), 0.5), limits, False),
        data_uri(mean, limits, False),
        data_uri(std, (0.0, std.max()), False),
    ]
    assert found == expected


@pytest.mark.parametrize("shape", [(3, 4, 5), (30,), (2, 200, 300), (1000, 1), (5, 6)])
def test_events_of_every_shape_are_drawn(shape):
    post = image_net(shape).query(["image"], {"shown": np.zeros((1, *shape))})
    text = posterior_html(post)
    check(text)
    large = np.prod(shape) > 512
    assert len(pictures(text, "image")) == (2 if large else 3)
    assert ("post.std" in text) == large
    assert len(text) < 60_000


def test_a_small_vertex_keeps_its_variance_beside_a_large_one():
    net = image_net((600,))
    net.add_linear("small", {"image": np.ones((1, 600)) / 600}, cov=1.0)
    text = posterior_html(net.query(None, {"shown": np.zeros((1, 600))}))
    assert "±" in words(box_of(text, "small"))[-1]


@pytest.mark.parametrize("engine", ["exact", "bp", "pc", "vmp"])
def test_every_engine_is_drawn(engine):
    net = mixed()
    del net.vertices["label"]
    post = net.query(None, {"data": np.ones((2, 2)), "y": [[1.0, NAN], [0.5, 0.25]]}, engine=engine)
    text = posterior_html(post)
    check(text)
    assert len(boxes(text)) == len(net)
    assert "prior: mean" in box_of(text, "a").find("title").text


def test_a_net_with_uncertain_weights_is_drawn():
    net = gbn.GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("w", np.zeros((1, 2)), cov=1.0)
    net.add("y", "Gemm", ["x", "w"], transB=1, cov=0.1)
    post = net.query(["w", "y"], {"x": np.eye(2), "y": [[1.0], [2.0]]}, engine="vmp")
    text = posterior_html(post)
    check(text)
    assert f"posterior: mean {post.mean['w'].min():.4g}" in box_of(text, "w").find("title").text


def test_soft_evidence_and_counterfactuals_are_drawn():
    net = scalar()
    check(posterior_html(net.query(["cause"], soft={"effect": ([[3.0]], 0.1)})))
    post = net.counterfactual({"effect": [[3.0]]}, do={"cause": [[0.0]]})
    check(posterior_html(post))


def test_a_float32_posterior_is_drawn():
    net = mixed(np.float32)
    check(posterior_html(net.query(None, {"data": np.ones((1, 2)), "y": np.zeros((1, 2))})))


def test_the_sample_is_chosen():
    post = evidence(mixed())
    assert "sample 1 of 2" in posterior_html(post, 1)
    assert posterior_html(post, -1) == posterior_html(post, 1)
    assert post.drawing(1)._repr_html_() == posterior_html(post, 1)
    with pytest.raises(InferenceError, match="from 0 to 1"):
        post.drawing(2)


def test_side_by_side(tmp_path):
    net = mixed()
    shown = gbn.side_by_side(net, evidence(net), {"a": "<b>"}, titles=["net", HOSTILE, "text"])
    seen = check(shown._repr_html_())
    assert sum(tag == "section" for tag, _ in seen.tags) == 3
    assert seen.classes("gbn-drawing") == 2
    assert HOSTILE in seen.text
    assert "{'a': '<b>'}" in seen.text
    assert "GaussianBayesNet(" in repr(shown)
    shown.save_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    check(text)
    assert "Side by side" in gbn.side_by_side(net).to_html()
    with pytest.raises(ShapeError, match="2 items"):
        gbn.side_by_side(net, net, titles=["one"])


@pytest.mark.parametrize("name", [HOSTILE, "x" * 500, "層" * 40, "a\u0301" * 30, "\x1b[31m", "‮right-to-left", "\ud800"])
def test_any_name_is_text(name, tmp_path):
    net = gbn.GaussianBayesNet()
    net.add_input(name, 2, mean=0.0, cov=1.0)
    net.add_linear("y", {name: np.eye(2)}, cov=1.0)
    net.add(name + "2", "Tanh", [name])
    shown = gbn.side_by_side(net, net.query(None, {"y": [[0.0, 1.0]]}), titles=[name, name])
    seen = check(shown._repr_html_())
    assert {tag for tag, _ in seen.tags}.isdisjoint({"img", "script"})
    assert sum(tag == "style" for tag, _ in seen.tags) == 3
    shown.save_html(tmp_path / "page.html")
    widths = [float(attributes["width"]) for tag, attributes in seen.tags if tag == "rect"]
    assert max(widths) < 200
