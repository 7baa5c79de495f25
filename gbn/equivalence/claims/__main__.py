"""``python -m gbn.equivalence.claims``: run experiments, print what they find, and write the page about them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gbn.equivalence.claims import CLAIMS, Finding, run
from gbn.errors import GbnError

_HEAD = """# Claims, tested

Statements about predictive coding, backprop and Bayes nets, each with an experiment that anyone can rerun:
`gbn.equivalence.claims.run("{first}")`, or `python -m gbn.equivalence.claims {first}`. This page is written by
`make claims`.

| | claim | verdict | story |
|---|---|---|---|
"""


def page(findings: Mapping[str, Finding], pictures: str) -> str:
    """The page about some findings, in Markdown.

    Args:
        pictures: where the page finds <name>.png.
    """
    rows, sections = [], []
    for number, (name, found) in enumerate(findings.items(), 1):
        claim = CLAIMS[name]
        story = f"[{Path(claim.notebook).stem}](../{claim.notebook})"
        rows.append(f"| {number} | [{claim.statement}](#{name.replace('_', '-')}) | {found.verdict} | {story} |")
        sections.append(
            f"({name.replace('_', '-')})=\n## {name.replace('_', ' ').capitalize()}\n\n> {claim.statement}\n\n"
            f"**Verdict: {found.verdict}.** {found.answer}\n\n![{name}]({pictures}/{name}.png)\n\nStory: {story}\n"
        )
    return _HEAD.format(first=next(iter(findings))) + "\n".join(rows) + "\n\n" + "\n".join(sections)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gbn.equivalence.claims", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CLAIM", help=f"which (default: all): {', '.join(CLAIMS)}")
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="write a page about them, pictures beside it")
    given = parser.parse_args(arguments)
    findings: dict[str, Finding] = {}
    try:
        for name in given.names or CLAIMS:
            findings[name] = run(name)
            print(f"{name}\n{findings[name]}\n", flush=True)
        if given.page:
            _write(given.page, findings)
    except GbnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _write(path: Path, findings: Mapping[str, Finding]) -> None:
    import matplotlib.pyplot as plt

    pictures = path.parent / "pictures" / "claims"
    pictures.mkdir(parents=True, exist_ok=True)
    style: dict[str, Any] = {"figure.dpi": 80, "svg.hashsalt": "gbn"}
    with plt.rc_context(style):
        for name, found in findings.items():
            found.plot().figure.savefig(pictures / f"{name}.png")  # type: ignore[union-attr]
            plt.close("all")
    path.write_text(page(findings, "pictures/claims"), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
