"""Parameters of a textbook net, ecoli70 (Schäfer & Strimmer 2005; 46 genes, 70 edges), from complete and partial rows."""

import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import gbn


@pytest.fixture(scope="module")
def ecoli():
    """The net, with one scalar vertex a gene; its file ships with pgmpy."""
    from pgmpy.example_models import load_model

    model = load_model("bnlearn/ecoli70")
    return gbn.convert(model)
