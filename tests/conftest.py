"""Settings of every test run: one BLAS thread, and reproducible property tests."""

import os
import sys

# A BLAS reads these when numpy is first imported, so they come before anything that imports it.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import pytest
from hypothesis import settings

settings.register_profile("gbn", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("gbn")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Hold torch to one thread from the first test that has it loaded; no test loads it for this."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
