"""pgmpy models in: against joints that the test writes out, and a round trip bit for bit."""

import subprocess
import sys
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pgmpy.base import DAG
from pgmpy.factors.continuous import LinearGaussianCPD
from pgmpy.models import LinearGaussianBayesianNetwork

import converters.pgmpy
import gbn
from converters import from_pgmpy
from gbn.errors import ConversionError
from tests.dense import pgmpy_joint

EXAMPLES = ("ecoli70", "magic-niab", "magic-irri", "arth150")


def model_of(cpds: dict) -> LinearGaussianBayesianNetwork:
    """From variable -> (beta, std, evidence)."""
    model = LinearGaussianBayesianNetwork([(p, name) for name, (_, _, parents) in cpds.items() for p in parents])
    model.add_nodes_from(cpds)
    model.add_cpds(*(LinearGaussianCPD(name, *cpd) for name, cpd in cpds.items()))
    return model


def random_model(seed: int, size: int = 8) -> LinearGaussianBayesianNetwork:
    """Nodes in a random order, evidence in another; some coefficients and some standard deviations are zero."""
    rng = np.random.default_rng(seed)
    names, cpds = [f"X {k}" for k in range(size)], {}
    for k, name in enumerate(names):
        parents = [str(p) for p in rng.permutation(names[:k])[: rng.integers(0, 4)]]
        beta = rng.normal(size=1 + len(parents)) * 10.0 ** rng.integers(-8, 8) * (rng.random(1 + len(parents)) < 0.9)
        cpds[name] = (beta, float(rng.choice([0.0, rng.uniform(1e-6, 10), 1e-150])), parents)
    return model_of({name: cpds[name] for name in rng.permutation(names).tolist()})


def test_names_and_numbers_are_those_of_the_model() -> None:
    cpds = {"c": ([0.5, -2.0, 3.0], 0.3, ["b", "a"]), "a": ([1.0], 2.0, []), "b": ([0.1], 0.0, [])}
    net = gbn.convert(model_of(cpds))
    assert {name: net[name].shape for name in ("a", "b", "c")} == {"a": (1,), "b": (1,), "c": (1,)}
    assert net["c"].parents == ("b", "c.b.weight", "a", "c.a.weight", "c.bias")
    assert [net[p].value.item() for p in ("c.b.weight", "c.a.weight", "c.bias")] == [-2.0, 3.0, 0.5]
    assert float(net.noise("c").value) == 0.3 * 0.3
    assert (net.latents, net.outputs, net["b"].plated) == (("a", "c"), ("c",), True)
    assert net.forward()["c"].tolist() == [[0.5 - 0.2 + 3.0]]


@given(seed=st.integers(0, 10**6))
def test_there_and_back_is_exact(seed: int) -> None:
    model = random_model(seed)
    back = gbn.convert(model).to_pgmpy()
    assert set(back.nodes) == set(model.nodes)
    assert set(back.edges) == set(model.edges)
    for cpd in model.cpds:
        other = back.get_cpds(cpd.variable)
        assert other.evidence == cpd.evidence
        np.testing.assert_array_equal(other.beta, cpd.beta)
        assert other.std == cpd.std


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_the_joint_is_that_of_the_model(seed: int) -> None:
    model = random_model(seed)
    for cpd in model.cpds:
        cpd.beta = np.tanh(cpd.beta)
    names = list(model.nodes)
    mean, cov = pgmpy_joint(model, names)
    post = gbn.convert(model).query()
    np.testing.assert_allclose([post.mean[name].item() for name in names], mean, rtol=1e-12, atol=1e-12)
    for k, a in enumerate(names):
        for j, b in enumerate(names):
            assert abs(post.cov(a, b).item() - cov[k, j]) <= 1e-12 * max(1.0, np.abs(cov).max())


def test_the_chain_with_small_noise() -> None:
    net = from_pgmpy(model_of({"a": ([0.0], 1e-4, []), "b": ([0, 0.5], 1e-4, ["a"]), "c": ([0, 0.5], 1e-4, ["b"])}))
    post = net.query(["b"], evidence={"a": [[1e-4]], "c": [[2e-4]]})
    np.testing.assert_allclose(post.mean["b"], [[1.2e-4]], rtol=1e-12)
    np.testing.assert_allclose(post.var["b"], [[8e-9]], rtol=1e-12)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_models_against_dense_conditioning(example: str) -> None:
    model = LinearGaussianBayesianNetwork.load(str(files("pgmpy") / f"utils/example_models/{example}.json"))
    net, rng = gbn.convert(model), np.random.default_rng(0)
    names = list(model.nodes)
    assert set(net.latents) == set(names)
    order = rng.permutation(len(names))
    o, h = order[: len(names) // 2], order[len(names) // 2 :]
    rows = net.sample(1000, rng=1)
    post = net.query(evidence={names[k]: rows[names[k]] for k in o})

    mean, cov = pgmpy_joint(model, names)
    given = np.concatenate([rows[names[k]] for k in o], axis=1)
    gain = np.linalg.solve(cov[np.ix_(o, o)], cov[np.ix_(o, h)]).T
    expected = mean[h] + (given - mean[o]) @ gain.T
    variance = np.diagonal(cov[np.ix_(h, h)] - gain @ cov[np.ix_(o, h)])
    scale = np.abs(expected).max(axis=0)
    for column, k in enumerate(h):
        got = post.mean[names[k]][:, 0]
        np.testing.assert_allclose(got, expected[:, column], rtol=0, atol=1e-9 * scale[column])
        np.testing.assert_allclose(post.var[names[k]][:, 0], variance[column], rtol=1e-9)
    for k in o:
        np.testing.assert_array_equal(post.mean[names[k]], rows[names[k]])


def test_work_grows_with_the_variables_and_no_faster() -> None:
    def calls(count: int) -> int:
        """Python function calls of one conversion."""
        rng = np.random.default_rng(0)
        names = [f"v{k}" for k in range(count)]
        parents = {name: rng.choice(names[:k], size=min(k, 3), replace=False).tolist() for k, name in enumerate(names)}
        model = model_of({name: (rng.normal(size=1 + len(p)), 1.0, p) for name, p in parents.items()})
        found = Counter[str]()
        sys.setprofile(lambda frame, event, argument: found.update([event]))
        try:
            net = gbn.convert(model)
        finally:
            sys.setprofile(None)
        assert len(net.latents) == count
        return found["call"] + found["c_call"]

    calls(10)  # what is only done once
    assert calls(800) < 4.5 * calls(200)


def test_a_model_that_pgmpy_fitted() -> None:
    pandas = pytest.importorskip("pandas")
    model = LinearGaussianBayesianNetwork([("a", "b")])
    model.fit(pandas.DataFrame(np.random.default_rng(0).normal(size=(50, 2)), columns=["a", "b"]))
    assert float(gbn.convert(model).noise("b").value) == model.get_cpds("b").std ** 2


def test_every_variable_at_fault_is_listed() -> None:
    model = LinearGaussianBayesianNetwork([("a", "b"), ("b", "c"), ("a", "d"), ("a", "e")])
    model.add_cpds(
        LinearGaussianCPD("b", [1.0], 1.0, ["a"]),
        LinearGaussianCPD("c", [1.0, 2.0], 1.0, ["a"]),
        LinearGaussianCPD("d", [1.0, 2.0], 1.0, ["a"]),
        LinearGaussianCPD("e", [1.0, 2.0, 3.0], 1.0, ["a", "a"]),
    )
    with pytest.raises(ConversionError) as caught:
        gbn.convert(model)
    assert {layer.path for layer in caught.value.layers} == {"a", "b", "c", "e"}
    text = str(caught.value)
    assert "a: no CPD (give it one with add_cpds)" in text
    assert "b: CPD (beta: got shape (1,), expected (2,)" in text
    assert "c: CPD (evidence: got ['a'], expected its parents in the graph, ['b'])" in text


@pytest.mark.parametrize(
    ("beta", "std", "message"),
    [
        ([np.nan], 1.0, r"v: CPD \(beta: got nan, expected a finite number"),
        (["high"], 1.0, r"v: CPD \(beta: got .*'high'.*, expected a number"),
        ([0.0], -1.0, r"v: CPD \(std: got -1.0, expected 0 or a positive number"),
        ([0.0], 1e-160, r"v: CPD \(std: got 1e-160"),
        ([0.0], 1e200, r"v: CPD \(std: got 1e\+200"),
        ([0.0], None, r"v: CPD \(std: got None, expected a number"),
        ([0.0], np.inf, r"v: CPD \(std: got inf, expected a finite number"),
    ],
)
def test_numbers_that_are_none(beta: list, std: object, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        gbn.convert(model_of({"v": (beta, std, [])}))


def test_what_is_refused() -> None:
    with pytest.raises(ConversionError, match="pgmpy's DAG is not linear-Gaussian"):
        gbn.convert(DAG([("a", "b")]))
    with pytest.raises(ConversionError, match="node 1: got a name of type int, expected a string"):
        gbn.convert(model_of({1: ([0.0], 1.0, [])}))
    with pytest.raises(ConversionError, match=r"options of the pgmpy converter: got \['depth'\]"):
        gbn.convert(model_of({"a": ([0.0], 1.0, [])}), depth=3)


@pytest.mark.parametrize(
    "policy", [{"noise": 0.1}, {"latents": ["a"]}, {"output_noise": np.ones(1)}, {"likelihood": "categorical"}]
)
def test_a_policy_is_refused_where_it_would_not_be_applied(policy: dict) -> None:
    (argument,) = policy
    with pytest.raises(ConversionError, match=f"^{argument}: got .*brings the noise of its CPDs"):
        gbn.convert(model_of({"a": ([0.0], 1.0, [])}), **policy)


def test_subclasses_are_taken() -> None:
    class Mine(LinearGaussianBayesianNetwork):
        pass

    model = Mine()
    model.add_node("a")
    model.add_cpds(LinearGaussianCPD("a", [2.0], 1.0))
    assert converters.pgmpy.accepts(model)
    assert gbn.convert(model).forward()["a"].tolist() == [[2.0]]


def test_the_converter_does_not_import_pgmpy() -> None:
    code = "import sys, converters.pgmpy, converters.networkx, gbn.export.pgmpy; sys.exit('pgmpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
