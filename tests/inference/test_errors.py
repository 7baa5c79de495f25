"""Every bad query is refused with a message that names what was got, what was expected, and the remedy."""

import numpy as np
import pytest

from gbn.errors import EvidenceError, GbnError, InferenceError, ShapeError, SingularEvidenceError, UnknownNameError
from gbn.inference import gradient
from gbn.net import GaussianBayesNet

INF, NAN = np.inf, np.nan
X = np.ones((2, 2))


@pytest.fixture(scope="module")
def net():
    net = GaussianBayesNet()
    net.add_input("features", 2)
    net.add_input("height", 1, mean=1.0, cov=0.5)
    net.add_linear("hidden", {"features": np.eye(3, 2), "height": np.ones((3, 1))}, cov=0.1)
    net.add("activation", "Tanh", ["hidden"])
    net.add_linear("output", {"activation": np.ones((2, 3))}, bias=[0.0, 1.0], cov=0.2)
    net.add_linear("logits", {"activation": np.eye(3)})
    net.add_likelihood("label", "categorical", "logits")
    net.add_likelihood("flags", "bernoulli", "logits")
    return net


@pytest.fixture
def bayesian():
    net = GaussianBayesNet()
    net.add_input("x", 2)
    net.add_parameter("w", np.ones((2, 2)), cov=1.0)
    net.add("y", "MatMul", ["x", "w"], cov=1.0)
    return net


EVIDENCE = [
    # evidence, do, error, message
    ({"hiden": X}, {}, UnknownNameError, "unknown vertex 'hiden': did you mean 'hidden'"),
    ({}, {"hiden": X}, UnknownNameError, "unknown vertex 'hiden': did you mean 'hidden'"),
    ({"zzzzz": X}, {}, UnknownNameError, "unknown vertex 'zzzzz': known are 'features', 'height'"),
    (
        {"hidden": np.ones((2, 4))},
        {},
        ShapeError,
        r"'hidden': got shape \(2, 4\), expected \(samples, 3\), or \(3,\) for one",
    ),
    ({"hidden": np.ones((2, 3, 1))}, {}, ShapeError, r"'hidden': got shape \(2, 3, 1\), expected \(samples, 3\)"),
    ({"output": [[1.0, INF]]}, {}, EvidenceError, "'output': got an infinite value, expected finite numbers or NaN"),
    ({"output": [[NAN, -INF]]}, {}, EvidenceError, "'output': got an infinite value"),
    ({"output": [[INF, -INF]]}, {}, EvidenceError, "'output': got an infinite value"),
    ({}, {"output": [[INF, 0.0]]}, EvidenceError, "'output': got an infinite value"),
    ({"hidden": np.ones((3, 3))}, {}, EvidenceError, r"different numbers of samples \('features': 2, 'hidden': 3\)"),
    (
        {"features": [[1.0, NAN]] * 2},
        {},
        EvidenceError,
        r"'features': 2 entries are NaN.*observed whole.*set_prior\('features'",
    ),
    ({"output": "high"}, {}, EvidenceError, "'output': expected numbers, got str"),
    (
        {"output.bias": [1.0, 2.0]},
        {},
        EvidenceError,
        r"'output.bias' is a parameter.*net.set_value\('output.bias', value\)",
    ),
    ({}, {"output.bias": [1.0]}, ShapeError, r"value of 'output.bias': got shape \(1,\), expected \(2,\)"),
    (
        {},
        {"hidden": [[1.0, NAN, 0.0]]},
        EvidenceError,
        "'hidden': 2 entries are NaN, but an intervention sets every entry",
    ),
    (
        {"hidden": np.ones((2, 3))},
        {"hidden": np.ones((2, 3))},
        EvidenceError,
        "'hidden' is given both as evidence and in do=",
    ),
    ({"label": [0, 3]}, {}, EvidenceError, "'label': got label 3, expected 0 to 2"),
    ({"label": [0, -1]}, {}, EvidenceError, "'label': got label -1, expected 0 to 2"),
    ({"label": [0, 0.5]}, {}, EvidenceError, "'label': got label 0.5, expected 0 to 2"),
    ({"label": np.zeros((2, 4))}, {}, EvidenceError, r"'label': got shape \(2, 4\), expected integer labels"),
    ({"label": [[0.0, 1.5, 0.0]] * 2}, {}, EvidenceError, "'label': got values between 0 and 1.5, expected 0 to 1"),
    ({"flags": [[0.0, -1.0, NAN]] * 2}, {}, EvidenceError, "'flags': got values between -1 and 0, expected 0 to 1"),
    ({"flags": [[0.0, 1.0]] * 2}, {}, EvidenceError, r"'flags': got shape \(2, 2\), expected 0/1 labels \(N, 3\)"),
]


@pytest.mark.parametrize("engine", ["exact", "pc"])
@pytest.mark.parametrize("evidence, do, error, message", EVIDENCE, ids=[case[3][:24] for case in EVIDENCE])
def test_bad_evidence(net, evidence, do, error, message, engine):
    with pytest.raises(error, match=message) as caught:
        net.query(None, {"features": X} | evidence, do, engine=engine)
    assert isinstance(caught.value, GbnError)
    assert isinstance(caught.value, KeyError if error is UnknownNameError else ValueError)


def test_only_what_may_be_given_or_asked_for_is_offered():
    """Weights are no evidence; as targets and interventions they are offered where they are what was nearly said."""
    net = GaussianBayesNet()
    net.add_input("x", 2, mean=0.0, cov=1.0)
    for layer in range(3):
        net.add_linear(f"h{layer}", {"x": np.eye(2)}, bias=[0.0, 1.0], cov=1.0)
    with pytest.raises(UnknownNameError) as caught:
        net.query(None, {"h0.bia": X})
    assert str(caught.value) == "unknown vertex 'h0.bia': known are 'x', 'h0', 'h1', 'h2'"
    with pytest.raises(UnknownNameError) as caught:
        net.query(["zzzzz"])
    assert str(caught.value) == "unknown target 'zzzzz': known are 'x', 'h0', 'h1', 'h2'"
    with pytest.raises(UnknownNameError, match=r"unknown target 'h0.bia': did you mean 'h0.bias'"):
        net.query(["h0.bia"])
    with pytest.raises(UnknownNameError, match=r"unknown vertex 'h0.bia': did you mean 'h0.bias'"):
        net.query(None, do={"h0.bia": [0.0, 0.0]})
    with pytest.raises(UnknownNameError) as caught:
        net.query(None, soft={"h0.bia": (0.0, 1.0)})
    assert str(caught.value) == "unknown vertex in soft 'h0.bia': known are 'x', 'h0', 'h1', 'h2'"
    with pytest.raises(UnknownNameError) as caught:
        net.counterfactual({}, {"x": [0.0, 0.0]}, ["h9"])
    assert "weight" not in str(caught.value)


def test_an_input_without_prior_is_asked_for(net):
    for options in ({}, {"engine": "pc"}, {"engine": "pc", "prediction": "live"}):
        with pytest.raises(
            EvidenceError, match=r"'features' has no prior.*shape \(samples, 2\).*set_prior\('features'"
        ):
            net.query(None, {"output": X}, **options)


def test_evidence_without_rows(net):
    with pytest.raises(EvidenceError, match="no rows; expected at least one sample"):
        net.query(None, {"features": np.zeros((0, 2))})


def test_unknown_targets_and_engines(net):
    with pytest.raises(UnknownNameError, match="unknown target 'hiden': did you mean 'hidden'"):
        net.query(["hiden"], {"features": X})
    with pytest.raises(UnknownNameError, match="unknown target 'hiden': did you mean 'hidden'"):
        net.query("hiden", {"features": X})
    with pytest.raises(UnknownNameError, match="unknown engine 'exakt': did you mean 'exact'"):
        net.query(None, {"features": X}, engine="exakt")


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"operating_point": "middle"},
            "operating_point: got 'middle', expected one of 'forward', 'equilibrium', 'posterior'",
        ),
        ({"engine": "pc", "prediction": "both"}, "prediction: got 'both', expected 'fixed' or 'live'"),
        (
            {"engine": "pc", "schedule": "zigzag"},
            "schedule: got 'zigzag', expected one of 'sweep', 'parallel', 'random'",
        ),
        ({"engine": "pc", "step_size": 0.0}, "step_size: got 0.0, expected a number above 0 and at most 1"),
        ({"engine": "pc", "step_size": 1.5}, "step_size: got 1.5"),
        ({"engine": "pc", "step_size": NAN}, "step_size: got nan"),
        ({"engine": "pc", "prediction": "live", "step_size": 0.1}, "belong to prediction='fixed'"),
        ({"engine": "pc", "prediction": "live", "schedule": "parallel"}, "belong to prediction='fixed'"),
    ],
)
def test_unknown_values_of_options(net, options, message):
    with pytest.raises(InferenceError, match=message):
        net.query(None, {"features": X}, **options)


@pytest.mark.parametrize("engine", ["exact", "pc"])
def test_unknown_options(net, engine):
    with pytest.raises(UnknownNameError, match=rf"option of engine '{engine}' 'tool': did you mean 'tol'"):
        net.query(None, {"features": X}, engine=engine, tool=3)


@pytest.mark.parametrize("options", [{}, {"schedule": "parallel"}, {"prediction": "live"}])
@pytest.mark.parametrize("value", [np.zeros((2, 3)), [[NAN, 0.0, 0.1]] * 2])
def test_deterministic_vertices_under_predictive_coding(net, options, value):
    with pytest.raises(InferenceError, match=r"'activation', a deterministic vertex.*set_noise.*engine='exact'"):
        net.query(None, {"features": X, "activation": value}, engine="pc", **options)


def test_what_point_estimates_cannot_say(net):
    post = net.query(None, {"features": X, "output": X}, engine="pc")
    asked = {
        "variances": lambda: post.var["hidden"],
        "covariances": lambda: post.cov("hidden"),
        "samples": lambda: post.sample(3),
        "log-evidence": lambda: post.log_evidence,
    }
    for what, ask in asked.items():
        with pytest.raises(InferenceError, match=f"point estimates, no {what}; use engine='exact'"):
            ask()
    with pytest.raises(InferenceError, match="no variances"):
        _ = post.std["hidden"]


def test_random_parameters_under_exact(bayesian):
    with pytest.raises(InferenceError, match=r"parameter 'w' has a prior.*engine='pc'"):
        bayesian.query(None, {"x": X})
    with pytest.raises(InferenceError, match="'w' is random and couples the samples"):
        bayesian.query(None, {"x": X}, engine="pc", prediction="live")


def test_the_log_evidence_above_the_dense_limit(net):
    post = net.query(None, {"features": X, "output": X}, dense_limit=1, solver="observations")
    assert np.isfinite(post.mean["hidden"]).all()
    for ask in (lambda: post.log_evidence, lambda: post.free_energy):
        with pytest.raises(
            InferenceError, match=r"2-dimensional covariance, .*solver='observations' with dense_limit=2"
        ):
            ask()


def test_singular_evidence_is_a_named_inference_error(net):
    post = net.query(None, {"features": X, "hidden": np.ones((2, 3)), "activation": np.ones((2, 3))})
    with pytest.raises(
        SingularEvidenceError, match=r"deterministic vertex 'activation'.*net.set_noise\(\{'activation': cov\}\)"
    ):
        _ = post.mean["height"]
    assert issubclass(SingularEvidenceError, InferenceError)


def test_covariances_of_labels_and_of_strangers(net):
    post = net.query(["label", "hidden"], {"features": X})
    with pytest.raises(InferenceError, match="'label' is a label: ask for the covariance of its logits 'logits'"):
        _ = post.var["label"]
    with pytest.raises(InferenceError, match="'label' is a label"):
        post.cov("hidden", "label")
    with pytest.raises(UnknownNameError, match=r"unknown target 'output'.*name it in the query's targets"):
        post.cov("hidden", "output")
    with pytest.raises(UnknownNameError, match="unknown target 'output'"):
        _ = post.mean["output"]
    with pytest.raises(UnknownNameError, match="unknown target 'activation'"):
        _ = post.surprise["activation"]


def test_gradients_of_strangers(net):
    with pytest.raises(UnknownNameError, match="unknown vertex 'outputs'"):
        gradient(net, {"features": X, "outputs": X})
    with pytest.raises(UnknownNameError, match=r"did you mean 'output\.bias'"):
        gradient(net, {"features": X}, ["output.biass"])


def test_a_random_parameter_may_be_set_from_outside(bayesian):
    """do= takes its randomness away, so nothing couples the samples any more."""
    w = np.array([[1.0, 2.0], [0.5, -1.0]])
    post = bayesian.query(["y"], {"x": X}, {"w": w}, engine="pc", prediction="live")
    np.testing.assert_allclose(post.mean["y"], X @ w)
    exact = bayesian.query(["y"], {"x": X}, {"w": w})
    np.testing.assert_allclose(exact.mean["y"], X @ w)
    np.testing.assert_allclose(exact.var["y"], 1)


def test_near_matches_do_not_mind_the_case():
    net = GaussianBayesNet()
    net.add_input("y", 1, mean=0.0, cov=1.0)
    net.add_linear("Hidden", {"y": [[1.0]]}, cov=1.0)
    with pytest.raises(UnknownNameError, match=r"unknown vertex 'Y': did you mean 'y'\?"):
        net.query(["y"], {"Y": [1.0]})
    with pytest.raises(UnknownNameError, match=r"unknown target 'hidden': did you mean 'Hidden'\?"):
        net.query(["hidden"])
