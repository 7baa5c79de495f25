"""The guide, the stories and the API reference as static pages: ``make docs``."""

import importlib
import pkgutil
import re
from pathlib import Path

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

import gbn

project = html_title = "gbn"
author = "The gbn authors"
version = release = gbn.__version__
root_doc = "index"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # two classes of one name: annotations say only the name
nb_execution_mode = "off"  # outputs are committed
autodoc_member_order = "bysource"
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_copy_source = html_show_sourcelink = False
html_math_renderer = "mathml"


def _mathml(display):
    def visit(self, node):
        self.body.append(convert(node.astext(), display=display))
        raise SkipNode

    return visit


def _page(title, *lines):
    return "\n".join([title, "=" * len(title), "", *lines, ""])


def _toctree(names, depth=1):
    return [".. toctree::", f"   :maxdepth: {depth}", "", *(f"   {name}" for name in names), ""]


def _describe(name, folder):
    """Write the page of a module, and those of the modules in it."""
    module = importlib.import_module(name)
    # A name is documented where it is defined, not where it is handed on.
    lines = [f".. automodule:: {name}", "   :members:", "   :show-inheritance:", "   :ignore-module-all:", ""]
    within = [f"{name}.{m.name}" for m in pkgutil.iter_modules(getattr(module, "__path__", [])) if m.name[0] != "_"]
    (folder / f"{name}.rst").write_text(_page(name, *lines, *(_toctree(within) if within else [])), encoding="utf-8")
    for inner in within:
        _describe(inner, folder)


def _reference(app):
    folder = Path(app.srcdir, "api")
    folder.mkdir(exist_ok=True)
    face = []
    for name in gbn.__all__:
        thing = getattr(gbn, name)
        summary = (thing.__doc__ or "").strip().partition("\n")[0]
        face.append(f"- :py:obj:`gbn.{name} <{thing.__module__}.{name}>`: {summary}")
    body = ["What ``import gbn`` offers:", "", *face, "", "All modules:", "", *_toctree(["gbn", "converters"])]
    (folder / "index.rst").write_text(_page("API reference", *body), encoding="utf-8")
    for name in ("gbn", "converters"):
        _describe(name, folder)


_FIELD = re.compile(r"([a-z_]\w*(?:, \w+)*): (?=.)")


def _our_conventions(app, what, name, obj, options, lines):
    """Docstrings as reStructuredText: a star is no emphasis, (samples, *event), nor |Q| a substitution.

    Paragraphs of "name: what it is" become lists of fields.
    """
    text = re.sub(r"(?<![\w*`\\])\*(?=[\w.])|(?<!`)\|(?!`)", r"\\\g<0>", "\n".join(lines).rstrip())
    paragraphs = text.split("\n\n")
    for k, paragraph in enumerate(paragraphs):
        if all(line.startswith("    ") or _FIELD.match(line) for line in paragraph.split("\n")):
            paragraphs[k] = re.sub(rf"^{_FIELD.pattern}", r":\1: ", paragraph, flags=re.MULTILINE)
    lines[:] = [*"\n\n".join(paragraphs).split("\n"), ""]


def setup(app):
    app.connect("autodoc-process-docstring", _our_conventions, priority=400)
    app.connect("builder-inited", _reference)
    # Browsers draw MathML themselves: pages need neither a script nor the network for a formula.
    app.add_html_math_renderer("mathml", (_mathml("inline"), None), (_mathml("block"), None))
