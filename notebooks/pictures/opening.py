"""The picture at the top of the README, photographed in a browser, once by day and once by night.

    python notebooks/pictures/opening.py

A net that has learned handwritten digits sees the upper half of one and hears its name; drawn is what it then believes
of the lower half, and of every layer in between.
"""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import gbn
from gbn.demo import digits, train
from gbn.display.document import Document

# What the picture does without.
BESIDES = "section .gbn .gbn-title, .gbn-facts, details:not([open]), section:first-child .gbn-legend, summary"
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests import browser


def drawing() -> Document:
    """The net beside its posterior."""
    data = digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    images = data.train_x.reshape(-1, 64)
    flat = type(data)(images, data.train_y, data.test_x.reshape(-1, 64), data.test_y)
    accuracy = train(model, flat)
    net = gbn.convert(model, images[:2], noise=0.05, likelihood="categorical")
    net.set_prior("input", images.mean(0), np.cov(images.T) + 1e-3 * np.eye(64))
    chosen = int(np.flatnonzero(data.test_y == 3)[0])
    half = flat.test_x[[chosen]].copy()
    half[:, 32:] = np.nan
    post = net.query(None, {"input": half, "2.label": [3]}, operating_point="equilibrium")
    titles = [f"A network that reads digits ({accuracy:.0%} right) …", "… has seen half of one, and heard “three”"]
    return gbn.side_by_side(net, post, titles=titles)


def main() -> int:
    """Write ``opening-light.png`` and ``opening-dark.png`` beside this file."""
    program = browser.find()
    if program is None:
        print("no Chromium is installed: apt-get install chromium", file=sys.stderr)
        return 1
    page = drawing()
    with tempfile.TemporaryDirectory() as folder, browser.Browser(program) as chromium:
        path = Path(folder) / "page.html"
        page.save_html(path)
        for name, dark in {"light": False, "dark": True}.items():
            chromium.open(path, 820, dark, height=2000)
            chromium.evaluate(f"document.querySelectorAll('{BESIDES}').forEach(part => part.style.display = 'none')")
            photograph = Image.open(io.BytesIO(chromium.screenshot(".gbn-columns", scale=1.5))).convert("RGB")
            target = HERE / f"opening-{name}.png"
            # Few colours, for a picture that everybody downloads.
            photograph.quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)
            print(f"{target}: {target.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
