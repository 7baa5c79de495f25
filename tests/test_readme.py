"""README and guide are true: their Python blocks run one after the other, those of a page in one namespace."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = sorted((ROOT / "notebooks" / "guide").glob("*.md"))


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_blocks_of_the_readme_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / "README.md")
    assert found
    names: dict[str, object] = {}
    for number, block in enumerate(found, 1):
        exec(compile(block, f"README.md, block {number}", "exec"), names)


@pytest.mark.parametrize("page", [page for page in GUIDE if blocks(page)], ids=lambda page: page.stem)
def test_the_blocks_of_the_guide_run(page: Path, tmp_path: Path) -> None:
    # In a process of its own, for a page may enter ops and metrics into the tables.
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error:::gbn"}
    done = subprocess.run([sys.executable, script.name], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [ROOT / "README.md", *GUIDE], ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
