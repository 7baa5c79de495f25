"""What `import gbn` may load. How long it takes is measured by benchmarks/import_time.py."""

import json
import subprocess
import sys

import pytest

FOUNDATION = "import numpy, scipy.linalg, scipy.sparse, networkx"
NEVER = (
    *("pgmpy", "torch", "pandas", "pyarrow", "dask", "distributed", "matplotlib", "sklearn", "onnx", "h5py", "yaml"),
    *("IPython", "converters"),
)
TOO_SLOW = ("scipy.stats", "scipy.signal")  # half a second each


def loaded_by(statement: str) -> set[str]:
    """Names of the modules that a fresh interpreter holds after running the statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def modules() -> set[str]:
    return loaded_by("import gbn")


@pytest.mark.parametrize("name", NEVER + TOO_SLOW)
def test_import_does_not_load(name: str, modules: set[str]) -> None:
    assert name not in modules


def test_import_adds_no_third_party_package_to_the_foundation(modules: set[str]) -> None:
    def top_level(names: set[str]) -> set[str]:
        return {name.partition(".")[0] for name in names}

    added = top_level(modules) - top_level(loaded_by(FOUNDATION)) - sys.stdlib_module_names
    assert added == {"gbn"}


def test_import_prints_nothing() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import gbn"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
