"""The wheel carries both packages, whole, and nothing else."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gbn", "converters")


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def source_files() -> list[str]:
    """Paths that git tracks or would track, as they stand in the working tree."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout to know which files are source")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    return sorted({name for name in listed if name and (ROOT / name).is_file()})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a clean copy of the source files."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in source_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), cwd=copy)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


@pytest.fixture(scope="module")
def distribution(unpacked: Path) -> PathDistribution:
    (info,) = unpacked.glob("*.dist-info")
    return PathDistribution(info)


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_wheel_holds_every_source_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {name for name in source_files() if name.startswith(tuple(f"{package}/" for package in PACKAGES))}
    missing, extra = sorted(expected - shipped), sorted(shipped - expected)
    assert (missing, extra) == ([], []), "a folder without __init__.py, or a data file that package-data does not name?"


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_declares_its_types(package: str, unpacked: Path) -> None:
    assert (unpacked / package / "py.typed").is_file()


def test_metadata_agrees_with_the_project(distribution: PathDistribution, project: dict, unpacked: Path) -> None:
    text = distribution.read_text("METADATA")
    assert text is not None
    metadata: Message = Parser().parsestr(text)
    code = "import gbn; print(gbn.__version__)"
    version = run(sys.executable, "-c", code, cwd=unpacked, env=with_path(unpacked)).strip()
    assert (metadata["Name"], metadata["Version"]) == (project["name"], version)
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == project["requires-python"]


def test_entry_points_are_those_of_the_project(distribution: PathDistribution, project: dict) -> None:
    found = {(entry.group, entry.name, entry.value) for entry in distribution.entry_points}
    declared = {("console_scripts", name, value) for name, value in project["scripts"].items()}
    for group, entries in project["entry-points"].items():
        declared |= {(group, name, value) for name, value in entries.items()}
    assert found == declared


def test_every_entry_point_names_a_shipped_module(distribution: PathDistribution, unpacked: Path) -> None:
    stems = {entry.module: unpacked.joinpath(*entry.module.split(".")) for entry in distribution.entry_points}
    assert [m for m, s in stems.items() if not (s.with_suffix(".py").is_file() or (s / "__init__.py").is_file())] == []


def test_unpacked_wheel_imports(unpacked: Path, tmp_path: Path) -> None:
    code = "import gbn, converters; print(gbn.__file__); print(converters.__file__)"
    files = run(sys.executable, "-c", code, cwd=tmp_path, env=with_path(unpacked)).splitlines()
    assert [Path(file).resolve() for file in files] == [
        (unpacked / package / "__init__.py").resolve() for package in PACKAGES
    ]


def with_path(site: Path) -> dict[str, str]:
    """This process's environment with one folder ahead of everything installed."""
    return {**os.environ, "PYTHONPATH": str(site)}
