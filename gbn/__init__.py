"""gbn reads a neural network as a Gaussian Bayes net: convert, query, compare with backprop."""

from gbn.conversion import convert
from gbn.display.document import side_by_side
from gbn.equivalence import Report, compare
from gbn.errors import (
    ConvergenceWarning,
    ConversionError,
    CovarianceError,
    EvidenceError,
    FileFormatError,
    GbnError,
    GraphError,
    InferenceError,
    LearningError,
    MissingDependencyError,
    ShapeError,
    SingularEvidenceError,
    UnknownNameError,
)
from gbn.export.write_back import load_into
from gbn.gaussian import Covariance, Gaussian
from gbn.growth import widen
from gbn.inference import gradient, query
from gbn.inference.side_by_side import compare_engines
from gbn.io import load, save
from gbn.learning import FitResult, fit
from gbn.net import GaussianBayesNet, Vertex
from gbn.posterior import Posterior

__version__ = "0.1.0"

__all__ = [
    "ConvergenceWarning",
    "ConversionError",
    "Covariance",
    "CovarianceError",
    "EvidenceError",
    "FileFormatError",
    "FitResult",
    "Gaussian",
    "GaussianBayesNet",
    "GbnError",
    "GraphError",
    "InferenceError",
    "LearningError",
    "MissingDependencyError",
    "Posterior",
    "Report",
    "ShapeError",
    "SingularEvidenceError",
    "UnknownNameError",
    "Vertex",
    "compare",
    "compare_engines",
    "convert",
    "fit",
    "gradient",
    "load",
    "load_into",
    "query",
    "save",
    "side_by_side",
    "widen",
]
