"""Pages in a real browser, wide and narrow, light and dark: they ask for nothing, report nothing and fit."""

from pathlib import Path

import numpy as np
import pytest

import gbn
from gbn import cli
from gbn.display.html import page, posterior_html, report_html, section
from gbn.display.html.style import STYLE
from gbn.equivalence.report import Comparison, Report
from tests import browser
from tests.display.documents import HOSTILE

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
NAN = float("nan")
WIDTHS = (1280, 400)


@pytest.fixture(scope="module")
def chromium():
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium is installed; apt-get install chromium, or name one in GBN_CHROMIUM")
    with browser.Browser(program) as opened:
        yield opened


def layered_net(name="h", width=6, depth=3):
    """A chain with a skip, and a label at its end."""
    rng = np.random.default_rng(0)
    net = gbn.GaussianBayesNet()
    net.add_input("x", (1, 4, 4), mean=0.0, cov=1.0)
    net.add("flat", "Flatten", ["x"])
    last, size = "flat", 16
    for k in range(depth):
        net.add_linear(f"{name}{k}", {last: rng.normal(size=(width, size)) / 4}, bias=np.zeros(width), cov=0.1)
        net.add(f"{name}{k}.tanh", "Tanh", [f"{name}{k}"])
        last, size = f"{name}{k}.tanh", width
    net.add_linear("y", {last: np.eye(3, width), "flat": rng.normal(size=(3, 16))}, cov=0.1)
    net.add_likelihood("label", "categorical", "y")
    return net


def posterior(net):
    x = np.random.default_rng(1).normal(size=(3, 1, 4, 4))
    x[:, :, 2:] = NAN
    return net.query(None, {"x": x, "label": [0, 1, 2]})


def long_net():
    net = gbn.GaussianBayesNet()
    net.add_input("v0", 1, mean=0.0, cov=1.0)
    for k in range(1, 200):
        net.add_linear(f"v{k}", {f"v{k - 1}": [[0.9]]}, cov=1.0)
    return net


def report(name="weight"):
    figures = {"cosine": 1.0, "relative_error": 1e-16, "max_abs_error": 0.0, "sign_agreement": 1.0, "norm_ratio": 1.0}
    rows = tuple(Comparison(f"{name}{k}", (2, 3), figures, k != 2) for k in range(12))
    return Report("Model", "mse", "mean", "pc", "an oracle", "float64", 5, 1e-10, rows, figures, 1.0, 1.0)


PAGES = {
    "net": lambda: gbn.side_by_side(layered_net()).to_html(),
    "long net": lambda: gbn.side_by_side(long_net()).to_html(),
    "posterior": lambda: posterior(layered_net()).drawing(1).to_html(),
    "long posterior": lambda: long_net().query(None, {"v150": [[3.0]]}).drawing().to_html(),
    "side by side": lambda: gbn.side_by_side(
        layered_net(), posterior(layered_net()), report(), titles=["a net", "its posterior", "a report"]
    ).to_html(),
    "hostile names": lambda: page(
        HOSTILE,
        section(HOSTILE, posterior_html(posterior(layered_net(HOSTILE)))),
        section("x" * 300, report_html(report("y" * 300))),
    ),
}


def test_the_page_of_the_command(chromium, tmp_path, capsys):
    layered_net().save(tmp_path / "net.gbn")
    np.savez(tmp_path / "evidence.npz", label=[0, 2])
    arguments = [tmp_path / "net.gbn", "--evidence", tmp_path / "evidence.npz", "-o", tmp_path / "report.html"]
    assert cli.main(["report", *map(str, arguments)]) == 0, capsys.readouterr().err
    for width in WIDTHS:
        faultless(chromium, tmp_path / "report.html", width, dark=True)
    assert chromium.evaluate("document.querySelectorAll('.gbn-drawing > svg').length") == 2


@pytest.fixture(scope="module", params=PAGES)
def made(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "page.html"
    path.write_text(PAGES[request.param](), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_pages(made, width, dark, chromium):
    faultless(chromium, made, width, dark)
    # What is folded must fit, too.
    chromium.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert overflow(chromium) == 0
    colour, paper = colours(chromium)
    assert (brightness(colour) > brightness(paper)) is dark


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def exported(request, tmp_path_factory):
    nbconvert = pytest.importorskip("nbconvert")
    # The exporter's own scripts for formulas and widgets come from elsewhere.
    settings = dict.fromkeys(("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url"), "")
    with pytest.MonkeyPatch.context() as patch:
        # Its templates are where it was installed, which need not be this environment.
        patch.setenv("JUPYTER_PATH", str(Path(nbconvert.__file__).parents[4] / "share" / "jupyter"))
        body, _ = nbconvert.HTMLExporter(**settings).from_filename(str(request.param))
    path = tmp_path_factory.mktemp("notebooks") / "notebook.html"
    path.write_text(body, encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_notebooks(exported, width, dark, chromium):
    faultless(chromium, exported, width, dark)


def faultless(chromium, path, width, dark):
    visit = chromium.open(path, width, dark)
    assert visit.requests == []
    assert visit.faults == []
    assert overflow(chromium) == 0


def overflow(chromium):
    """By how many pixels the document is wider than the window."""
    return chromium.evaluate("document.documentElement.scrollWidth - innerWidth")


def brightness(colour):
    """0 to 1, of rgb(r, g, b)."""
    return sum(int(part) for part in colour.strip("rgba() ").split(",")[:3]) / 765


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(
    "attribute, is_dark",
    [
        ('data-jp-theme-light="true"', False),
        ('data-jp-theme-light="false"', True),
        ('class="vscode-dark"', True),
        ('data-theme="light"', False),
        ('theme="dark"', True),
    ],
)
def test_the_theme_of_the_page_around_decides(attribute, is_dark, dark, chromium, tmp_path):
    drawing = gbn.side_by_side(layered_net(depth=1))._repr_html_()
    text = f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>x</title><body {attribute}>{drawing}</body>'
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    chromium.open(tmp_path / "page.html", 1280, dark)
    colour, paper = colours(chromium)
    assert (brightness(colour) > brightness(paper)) is is_dark


def colours(chromium):
    """Of a drawing: its text, and what it stands on."""
    return chromium.evaluate(
        "['color', 'background-color'].map(p => getComputedStyle(document.querySelector('.gbn')).getPropertyValue(p))"
    )


def test_words_fit_into_their_boxes(chromium, tmp_path):
    photo = gbn.GaussianBayesNet()
    photo.add_input("photo", (6, 6), mean=0.5, cov=1.0)
    seen = photo.query(None, {"photo": np.where(np.eye(6) > 0, np.eye(6), NAN)[None]}, engine="pc")
    wide = posterior(layered_net("層層層層層層" * 3))
    gbn.side_by_side(posterior(layered_net()), wide, seen, layered_net("W" * 60)).save_html(tmp_path / "page.html")
    chromium.open(tmp_path / "page.html", 1280, dark=False)
    excess = chromium.evaluate(
        "[...document.querySelectorAll('.gbn-drawing .gbn-box > text')].map(text => {"
        "const frame = text.parentNode.querySelector('.gbn-frame').getBBox(), own = text.getBBox();"
        "return Math.max(frame.x - own.x, own.x + own.width - frame.x - frame.width); })"
    )
    assert len(excess) > 60
    assert max(excess) <= 0
    captions = chromium.evaluate(
        "[...document.querySelectorAll('.gbn-drawing .gbn-box svg > text')].map(text => {"
        "const own = text.getBBox(), width = text.parentNode.width.baseVal.value;"
        "return Math.max(-own.x, own.x + own.width - width); })"
    )
    assert len(captions) == 2
    assert max(captions) <= 0


def test_a_fold_shows_and_hides(chromium, tmp_path):
    gbn.side_by_side(layered_net()).save_html(tmp_path / "page.html")
    chromium.open(tmp_path / "page.html", 1280, dark=False, height=3000)
    fold = "document.querySelector('details:last-of-type')"
    shown = [chromium.evaluate(f"{fold}.open")]
    for _ in range(2):
        place = chromium.evaluate(f"(b => ({{x: b.x + 20, y: b.y + 8}}))({fold}.firstChild.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            chromium.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
        shown.append(chromium.evaluate(f"{fold}.open"))
    assert shown == [False, True, False]


@pytest.mark.parametrize(
    "body, kind",
    [
        ('<img src="http://example.com/x.png" alt="">', "requests"),
        ("<style>@import 'http://example.com/x.css';</style>", "requests"),
        ("<script>setTimeout(() => fetch('http://example.com/x'), 10)</script>", "requests"),
        ("<script>console.error('no')</script>", "faults"),
        ("<script>undefined.x</script>", "faults"),
    ],
)
def test_the_browser_notices(body, kind, chromium, tmp_path):
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html><title>x</title><body>{body}</body>", encoding="utf-8")
    assert getattr(chromium.open(tmp_path / "page.html", 400, dark=False), kind)


def test_the_browser_measures_overflow_and_darkness(chromium, tmp_path):
    text = "<!DOCTYPE html><title>x</title><body style='margin:0'><div style='width:500px;height:9px'>x</div></body>"
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    chromium.open(tmp_path / "page.html", 400, dark=True)
    assert overflow(chromium) == 100
    assert chromium.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is True


def palettes():
    """The two sets of colours, variable -> red, green, blue."""
    found = []
    for block in (STYLE[: STYLE.index("@media")], STYLE[STYLE.index("@media") :].split("}")[0]):
        pairs = (part.split(":") for part in block[block.index("--paper") :].split(";") if part.startswith("--"))
        found.append({name[2:]: rgb(value) for name, value in pairs})
    return found


def rgb(value):
    digits = value.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    return np.array([int(digits[k : k + 2], 16) for k in (0, 2, 4)]) / 255


def contrast(one, other):
    """Of WCAG 2: from 1 to 21."""

    def luminance(colour):
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_colours_can_be_told_from_their_ground(palette):
    for text in ("fg", "dim", "good", "bad"):
        for ground in {"paper", "box", "seen", "head"} if text == "fg" else {"paper", "head"}:
            assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
    for ground in ("box", "seen"):
        strongest = 0.45 * palette[ground] + 0.55 * palette["tint"]
        assert contrast(palette["fg"], strongest) >= 4.5, ("fg", ground)
    for mark in ("edge", "after", "before", "bar"):
        for ground in {"paper", "box"} if mark in ("edge", "bar") else {"paper", "box", "seen"}:
            assert contrast(palette[mark], palette[ground]) >= 3, (mark, ground)


@pytest.mark.parametrize("name", ["opening-light.png", "opening-dark.png"])
def test_the_readmes_pictures_are_small(name):
    data = (NOTEBOOKS[0].parent / "pictures" / name).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(data) < 150_000
