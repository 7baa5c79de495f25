"""The report, against figures worked out by hand, torch's own losses, and nets that are wrong on purpose."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from gbn.equivalence import METRICS, Report, compare, torch_gradients
from gbn.equivalence import losses as losses_module
from gbn.equivalence.compare import measure
from gbn.equivalence.report import Comparison
from gbn.errors import (
    ConvergenceWarning,
    EvidenceError,
    GraphError,
    InferenceError,
    MissingDependencyError,
    ShapeError,
    UnknownNameError,
)

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from gbn.conversion import convert  # noqa: E402

Array = np.ndarray[Any, Any]


def mlp(dtype: torch.dtype = torch.float64, outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs)).to(dtype).eval()


def batch(samples: int = 5, outputs: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, 4, generator=generator), torch.randn(samples, outputs, generator=generator)


def test_importing_loads_no_framework() -> None:
    frameworks = {"torch", "sklearn", "pandas", "matplotlib", "converters"}
    code = f"import sys, gbn.equivalence; print({frameworks} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_metrics_by_hand() -> None:
    got, expected = np.array([[3.0, 0.0], [0.0, 1.0]]), np.array([[3.0, 4.0], [0.0, 0.0]])
    assert measure(got, expected) == pytest.approx(
        {
            "cosine": 9 / (5 * np.sqrt(10)),
            "relative_error": np.sqrt(17) / 5,
            "max_abs_error": 4.0,
            "sign_agreement": 0.5,
            "norm_ratio": np.sqrt(10) / 5,
        }
    )


def test_metrics_of_zero_gradients() -> None:
    zero, some = np.zeros(3), np.array([0.0, 2.0, 0.0])
    assert measure(zero, zero) == {
        "cosine": 1,
        "relative_error": 0,
        "max_abs_error": 0,
        "sign_agreement": 1,
        "norm_ratio": 1,
    }
    assert measure(zero, some) == {
        "cosine": 0,
        "relative_error": 1,
        "max_abs_error": 2,
        "sign_agreement": pytest.approx(2 / 3),
        "norm_ratio": 0,
    }
    invented = measure(some, zero)
    assert invented["relative_error"] == invented["norm_ratio"] == np.inf
    assert invented["cosine"] == 0


def test_metrics_of_tiny_and_of_single_precision_gradients() -> None:
    tiny = np.array([1e-200, -3e-200])
    assert measure(tiny, tiny)["cosine"] == pytest.approx(1)
    single = np.array([1.0, 1 + 2**-20], np.float32)
    assert measure(single, np.ones(2))["max_abs_error"] == 2**-20


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ["mse", "cross_entropy", "bce"])
def test_multiplier_times_energy_is_torchs_loss(name: str, reduction: str) -> None:
    loss = losses_module.get(name)
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(5, 3, 2, dtype=torch.float64, generator=generator)
    target = {
        "mse": torch.randn(5, 3, 2, dtype=torch.float64, generator=generator),
        "cross_entropy": torch.randint(0, 3, (5, 2), generator=generator),
        "bce": torch.rand(5, 3, 2, dtype=torch.float64, generator=generator),
    }[name]
    expected = float(getattr(F, loss.function)(output, target, reduction=reduction))
    energy = loss.energy(output.numpy(), target.numpy())
    assert energy * loss.multiplier(reduction, (5, 3, 2)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", ["mse", "mse_loss", "cross_entropy", "bce", "binary_cross_entropy_with_logits"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sweep_agrees(dtype: torch.dtype, loss: str, reduction: str) -> None:
    x, y = batch()
    y = y.argmax(1) if loss == "cross_entropy" else y if loss.startswith("mse") else y.sigmoid()
    report = compare(mlp(dtype), x, y, loss=loss, reduction=reduction, repeats=0)
    assert report.agrees, report.verdict
    assert report.overall["relative_error"] < (1e-13 if dtype == torch.float64 else 1e-5)
    assert report.loss_local == pytest.approx(report.loss_oracle, rel=1e-5)
    assert report.dtype == str(dtype).removeprefix("torch.")
    assert report.loss == losses_module.get(loss).name


def test_contents() -> None:
    x, y = batch()
    report = compare(mlp(), x, y)
    assert [row.name for row in report.parameters] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [row.shape for row in report.parameters] == [(6, 4), (6,), (3, 6), (3,)]
    assert set(report.overall) == set(METRICS) == set(report.parameters[0].figures)
    assert (report.rounds, report.passes, report.converged, report.samples) == (1, 2, True, 5)
    assert report.tol == 1e-10
    assert report.time_ratio is not None
    assert report.time_ratio > 0
    assert report.oracle == "torch autograd on the original Sequential"
    assert report.verdict.startswith("Local messages equal backprop")
    text = str(report)
    for expected in ("2.weight", "relative error", "passes", "mse (mean)", report.verdict):
        assert expected in text


@pytest.mark.parametrize("soft", [False, True])
def test_images_of_labels(soft: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 1)).double().eval()
    x = torch.randn(3, 2, 5, 6)
    y = torch.softmax(torch.randn(3, 4, 3, 4), 1) if soft else torch.randint(0, 4, (3, 3, 4))
    report = compare(module, x, y, loss="cross_entropy", repeats=0)
    assert report.agrees, report.verdict
    assert report.loss_oracle == pytest.approx(F.cross_entropy(module(x.double()), y.double() if soft else y).item())


def test_numpy_arrays_and_lone_outputs() -> None:
    x, y = batch(outputs=1)
    module = mlp(outputs=1)
    column = compare(module, x.numpy(), y.numpy(), repeats=0)
    flat = compare(module, x.numpy(), y.numpy()[:, 0], repeats=0)
    assert column.agrees
    assert flat.to_dict() == column.to_dict()


def test_several_inputs_tied_frozen_and_unused_parameters() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
            self.frozen = nn.Linear(4, 3)
            self.b.weight = self.a.weight
            self.frozen.requires_grad_(False)

        def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return self.frozen(torch.tanh(self.a(x)) + torch.sigmoid(self.b(z)))

    torch.manual_seed(0)
    module = Model().double().eval()
    x, y = batch()
    report = compare(module, (x, 2 * x), y, repeats=0)
    assert report.agrees, report.verdict
    names = [row.name for row in report.parameters]
    assert names == ["a.weight", "a.bias", "b.bias", "unused.weight", "unused.bias"]
    assert report.parameters[3].figures["relative_error"] == 0
    with pytest.raises(ShapeError, match="got 1 inputs, expected 2"):
        compare(module, x, y, net=convert(module, (x, x)))


@pytest.mark.parametrize("engine, options", [("exact", {}), ("pc", {"prediction": "live"})])
def test_other_engines_approach_backprop_as_hidden_noise_falls(engine: str, options: dict[str, Any]) -> None:
    x, y = batch()
    gaps = []
    for noise in (1e-3, 1e-4):
        report = compare(mlp(), x, y, engine=engine, noise=noise, repeats=0, **options)
        assert not report.agrees
        assert report.verdict.startswith("Local messages differ from backprop at 4 of 4 parameters")
        gaps.append(report.overall["relative_error"])
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.05)
    assert compare(mlp(), x, y, engine=engine, noise=1e-4, tol=0.01, repeats=0, **options).agrees


def test_too_few_rounds_differ() -> None:
    x, y = batch()
    early = compare(mlp(), x, y, schedule="parallel", max_rounds=3)
    assert not early.agrees
    assert (early.rounds, early.options) == (3, {"schedule": "parallel", "max_rounds": 3})
    apart = {row.name: row.agrees for row in early.parameters}
    assert apart == {"0.weight": False, "0.bias": False, "2.weight": True, "2.bias": True}
    assert early.worst.name.startswith("0.")
    late = compare(mlp(), x, y, schedule="parallel", max_rounds=400, repeats=0)
    assert late.agrees, late.verdict


def test_an_engine_that_did_not_arrive_warns_once_and_is_recorded() -> None:
    x, y = batch()
    with pytest.warns(ConvergenceWarning) as caught:
        report = compare(mlp(), x, y, prediction="live", max_rounds=1)
    assert len(caught) == 1
    assert not report.converged
    assert "had not converged" in report.verdict


def test_a_callback_is_called_by_the_run_that_is_reported_alone() -> None:
    x, y = batch()
    seen: list[int] = []
    report = compare(
        mlp(), x, y, schedule="parallel", max_rounds=3, callback=lambda number, figures: seen.append(number)
    )
    assert seen == [1, 2, 3]
    assert report.time_ratio is None


def test_a_net_with_another_weight_is_found_out() -> None:
    x, y = batch()
    module = mlp()
    net = convert(module, x[:2])
    assert compare(module, x, y, net=net, repeats=0).agrees
    value = np.array(net["2.bias"].value)
    value[0] += 1e-6
    net.set_value("2.bias", value)
    report = compare(module, x, y, net=net, repeats=0)
    assert not report.agrees
    assert not report.loss_agrees
    assert "do not compute the same" in report.verdict


def test_one_wrong_parameter_is_enough_for_the_verdict() -> None:
    good = Comparison("a", (2,), {"relative_error": 0.0}, True)
    bad = Comparison("b", (2,), {"relative_error": float("nan")}, False)
    report = Report("M", "mse", "mean", "pc", "o", "float64", 1, 1e-10, (good, bad), {"relative_error": 0.0}, 1.0, 1.0)
    assert not report.agrees
    assert report.worst is bad


def test_rounding_where_the_gradient_vanishes_is_no_disagreement() -> None:
    class Shifted(nn.Module):
        """A softmax takes out the shift, so its gradient is zero but for rounding."""

        def __init__(self) -> None:
            super().__init__()
            self.linear, self.shift = nn.Linear(4, 3), nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.linear(x) + self.shift, dim=1)

    torch.manual_seed(0)
    x, y = batch()
    assert compare(Shifted().double().eval(), x, y, repeats=0).agrees


def test_all_gradients_zero() -> None:
    module = nn.Sequential(nn.Linear(4, 3, bias=False)).double().eval()
    report = compare(module, np.zeros((5, 4)), batch()[1], repeats=0)
    assert report.agrees
    assert report.overall["relative_error"] == 0
    assert json.loads(report.to_json())["overall"]["cosine"] == 1


def test_json() -> None:
    x, y = batch()
    report = compare(mlp(), x, y, schedule="parallel", max_rounds=3)
    read = json.loads(report.to_json())
    assert read == report.to_dict()
    assert read["agrees"] is False
    assert read["parameters"][0] | report.parameters[0].figures == read["parameters"][0]
    infinite = Comparison("b", (2,), {"relative_error": float("inf")}, False)
    report = Report(
        "M", "mse", "mean", "pc", "o", "float64", 1, 1e-10, (infinite,), {"relative_error": 0.0}, 1.0, float("nan")
    )
    read = json.loads(report.to_json())
    assert read["parameters"][0]["relative_error"] is None
    assert read["loss_oracle"] is None


def test_frame() -> None:
    pytest.importorskip("pandas")
    x, y = batch()
    report = compare(mlp(), x, y, repeats=0)
    frame = report.to_frame()
    assert list(frame.index) == [row.name for row in report.parameters]
    assert frame.loc["0.bias", "relative_error"] == report.parameters[1].figures["relative_error"]
    assert frame["agrees"].all()


def test_html_file(tmp_path: Any) -> None:
    x, y = batch()
    report = compare(mlp(), x, y, repeats=0)
    path = tmp_path / "report.html"
    report.save_html(path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "2.weight" in text
    assert "2.weight" in report._repr_html_()


def test_plot() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    x, y = batch()
    ax = compare(mlp(), x, y, repeats=0).plot()
    assert ax.get_xscale() == "log"
    assert len(ax.patches) == 4
    plt.close("all")


def test_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = batch()
    report = compare(mlp(), x, y, repeats=0)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        report.plot()


def test_unknown_names() -> None:
    x, y = batch()
    with pytest.raises(UnknownNameError, match=r"unknown loss 'mse_los': did you mean 'mse_loss'"):
        compare(mlp(), x, y, loss="mse_los")
    with pytest.raises(InferenceError, match="got 'none', expected 'mean' or 'sum'"):
        compare(mlp(), x, y, reduction="none")
    with pytest.raises(UnknownNameError, match="unknown engine 'pcc': did you mean 'pc'"):
        compare(mlp(), x, y, engine="pcc")
    with pytest.raises(InferenceError, match="reduction"):
        torch_gradients(mlp(), x, y, reduction="batchmean")


def test_wrong_targets() -> None:
    x, y = batch()
    with pytest.raises(ShapeError, match=r"y: got shape \(5, 2\), expected \(5, 3\)"):
        compare(mlp(), x, y[:, :2])
    # Torch would broadcast this one against the output.
    with pytest.raises(ShapeError, match=r"y: got shape \(5,\), expected \(5, 3\)"):
        compare(mlp(), x, y[:, 0])
    with pytest.raises(ShapeError, match="class numbers are for loss 'cross_entropy'"):
        compare(mlp(), x, torch.tensor([0, 1, 2, 3, 0]), loss="mse")
    with pytest.raises(EvidenceError, match="y: got entries of type <U1, expected numbers"):
        compare(mlp(), x, np.array(["a", "b", "c", "a", "b"]), loss="cross_entropy")
    with pytest.raises(ShapeError, match=r"expected class numbers \(5,\) or probabilities \(5, 3\)"):
        compare(mlp(), x, torch.zeros(5, 1), loss="cross_entropy")
    with pytest.raises(EvidenceError, match="expected 0 to 2"):
        compare(mlp(), x, torch.tensor([0, 1, 2, 3, 0]), loss="cross_entropy")
    with pytest.raises(EvidenceError, match=r"such as 0\.5, expected integers"):
        compare(mlp(), x, torch.full((5,), 0.5), loss="cross_entropy")
    with pytest.raises(EvidenceError, match="needs complete ones"):
        compare(mlp(), x, torch.full((5, 3), float("nan")))
    with pytest.raises(EvidenceError, match="expected 0 to 1"):
        compare(mlp(), x, y - 10, loss="bce")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_x_that_is_not_finite_is_not_blamed_on_the_conversion(value: float) -> None:
    x, y = batch()
    x[3, 1] = value
    with pytest.raises(EvidenceError, match=rf"x: got {value} at \(3, 1\); backprop needs finite inputs"):
        compare(mlp(), x, y)
    with pytest.raises(EvidenceError, match=rf"x\[1\]: got {value} at \(3, 1\)"):
        compare(mlp(), (batch()[0], x), y)


def test_models_that_cannot_be_compared() -> None:
    x, y = batch()
    with pytest.raises(InferenceError, match="no parameter that requires a gradient"):
        compare(mlp().requires_grad_(False), x, y)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.a(x), torch.tanh(self.a(x))

    with pytest.raises(InferenceError, match="2 outputs"):
        compare(Two().eval(), x, y)
    with pytest.raises(InferenceError, match="returns 2 tensors"):
        torch_gradients(Two(), x, y)
    with pytest.raises(InferenceError, match=r"got dict, whose own gradients"):
        compare({}, x, y, net=convert(mlp(), x[:2]))


def test_nets_that_do_not_fit() -> None:
    x, y = batch()
    module = mlp()
    loud = convert(module, x[:2], output_noise=0.1)
    with pytest.raises(InferenceError, match=r"another noise than 1.*net.set_noise"):
        compare(module, x, y, net=loud)
    with pytest.raises(InferenceError, match="has no categorical label"):
        compare(module, x, y.argmax(1), loss="cross_entropy", net=loud)
    stranger = convert(nn.Sequential(nn.Tanh(), nn.Linear(4, 3)).eval(), x[:2])
    with pytest.raises(InferenceError, match=r"no parameter for '0.weight'"):
        compare(module, x, y, net=stranger)
    wider = convert(nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3)).double().eval(), x[:2])
    with pytest.raises(ShapeError, match=r"'0.weight' has shape \(7, 4\), that of the model \(6, 4\)"):
        compare(module, x, y, net=wider)


def test_an_exact_fit_agrees():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3).double()
    x = torch.randn(5, 4).double()
    assert compare(model, x, model(x).detach(), repeats=0).agrees


def ending_in(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), layer).double().eval()


@pytest.mark.parametrize("layer", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()])
def test_probabilities_under_a_squared_error(layer: nn.Module) -> None:
    x, y = batch()
    assert compare(ending_in(layer), x, y, repeats=0).agrees


def test_a_loss_that_would_normalise_twice_is_refused() -> None:
    x, y = batch()
    for layer, loss in ((nn.Softmax(1), "cross_entropy"), (nn.Sigmoid(), "bce")):
        model, name = ending_in(layer), type(layer).__name__
        with pytest.raises(InferenceError, match=f"it ends in a {name}, and loss '{loss}' takes logits"):
            compare(model, x, y.abs() / y.abs().sum(1, keepdim=True), loss=loss)
        with pytest.raises(InferenceError, match=f"it ends in a {name}"):
            compare(model, x, y.abs(), loss=loss, net=convert(model, x[:2]))
    with pytest.raises(GraphError, match="needs logits"):
        compare(ending_in(nn.Sigmoid()), x, y.argmax(1), loss="cross_entropy")


def test_logarithms_of_probabilities_are_logits() -> None:
    """Torch takes the softmax of a log-softmax, which changes nothing; of anything else, what torch computes counts."""
    x, y = batch()
    model = ending_in(nn.LogSoftmax(1))
    for net in (None, convert(model, x[:2])):
        assert compare(model, x, y.argmax(1), loss="cross_entropy", net=net, repeats=0).agrees
    assert compare(model, x, y.sigmoid(), loss="bce", repeats=0).agrees
