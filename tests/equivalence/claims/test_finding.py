"""What an experiment found, and the table of claims."""

import numpy as np
import pytest

import gbn
from gbn.equivalence import claims
from gbn.equivalence.claims import Finding


def finding(**changes):
    fields = {"claim": "a < b", "answer": "It is 0.5.", "holds": True, "figures": {"share": 0.5}}
    return Finding(**fields | changes)


def test_text_names_claim_verdict_and_figures():
    text = str(finding(holds=False))
    assert "a < b" in text
    assert "does not hold" in text
    assert "0.5" in text


def test_html_is_escaped_and_holds_the_table():
    html = finding(table=[{"rate": 0.25, "error": 1e-3}])._repr_html_()
    assert "a &lt; b" in html
    assert "<th>rate</th>" in html
    assert "0.001" in html


def test_frame_is_the_table_or_the_figures():
    pytest.importorskip("pandas")
    assert list(finding().to_frame().columns) == ["share"]
    assert len(finding(table=[{"k": 1}, {"k": 2}]).to_frame()) == 2


def test_plot_draws_on_the_axes_given():
    plt = pytest.importorskip("matplotlib.pyplot")
    ax = plt.figure().subplots()
    found = finding(series={"y": np.arange(3)}, draw=lambda f, ax: ax.plot(f.series["y"]))
    assert found.plot(ax) is ax
    assert len(ax.lines) == 1
    plt.close("all")
    with pytest.raises(ValueError, match="no picture"):
        finding().plot()


def test_unknown_claims_are_named():
    with pytest.raises(gbn.UnknownNameError, match="hundredfolds"):
        claims.run("hundredfolds")
