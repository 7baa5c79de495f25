"""The shared loop: when it stops, what it records, and what it says."""

import pytest

from gbn.errors import ConvergenceWarning
from gbn.inference.loop import iterate


def halving(measure="gap"):
    state = {"value": 1.0}

    def step(number):
        state["value"] /= 2
        return {measure: state["value"], "round": number}

    return step


def run(step=None, **options):
    arguments = {"label": "test", "max_rounds": 100, "tol": 1e-3, "remedy": "Try harder."} | options
    return iterate(step or halving(), **arguments)


def test_it_stops_at_the_tolerance():
    outcome = run()
    assert outcome.converged
    assert outcome.rounds == 10
    assert outcome.history[-1] == {"gap": 2.0**-10, "round": 10}
    assert [figures["round"] for figures in outcome.history] == list(range(1, 11))
    assert outcome.reason == "gap reached 0.001 after 10 rounds"


def test_it_warns_when_the_rounds_run_out_at_the_line_that_called():
    with pytest.warns(ConvergenceWarning, match=r"test: made 3 rounds; gap is 0.125, aimed at 0.001. Try harder\."):
        outcome = run(max_rounds=3)
    assert not outcome.converged
    assert outcome.reason == "made 3 rounds"


def test_warnings_may_be_left_out():
    assert not run(max_rounds=3, warn=False).converged


def test_without_a_tolerance_all_rounds_are_made():
    outcome = run(tol=None, max_rounds=4)
    assert outcome.converged
    assert outcome.rounds == 4


def test_another_measure():
    assert run(halving("change"), measure="change").rounds == 10


def test_a_stall_ends_it_well():
    rounds = []
    outcome = run(
        lambda n: rounds.append(n) or {"gap": 1.0}, stalled=lambda: "no further" if len(rounds) == 5 else None
    )
    assert outcome.converged
    assert outcome.reason == "no further"
    assert outcome.rounds == 5


@pytest.mark.parametrize("answer, rounds", [(True, 1), (None, 10), (1, 10), ("stop", 10)])
def test_only_true_stops(answer, rounds):
    options = {"callback": lambda n, figures: answer, "warn": False}
    assert run(**options).rounds == rounds


def test_the_callback_sees_the_figures():
    seen = []
    outcome = run(callback=lambda n, figures: seen.append((n, dict(figures))))
    assert seen == list(enumerate(outcome.history, 1))


def test_an_interrupt_within_a_step_keeps_the_rounds_before():
    inner = halving()

    def step(number):
        if number == 4:
            raise KeyboardInterrupt
        return inner(number)

    with pytest.warns(ConvergenceWarning, match="interrupted after 3 rounds; gap is 0.125"):
        outcome = run(step)
    assert outcome.rounds == 3
    assert not outcome.converged


def test_an_interrupt_before_the_first_round():
    def step(number):
        raise KeyboardInterrupt

    with pytest.warns(ConvergenceWarning, match="gap is nan"):
        assert run(step).history == []


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError):
        run(lambda n: {"gap": 1 / 0})


def test_the_bar_is_drawn_when_asked_for(capsys):
    run(progress=True)
    assert "test" in capsys.readouterr().err
    run(progress=False)
    run()
    assert capsys.readouterr().err == ""


def test_figures_are_copied():
    figures = {"gap": 1.0}

    def step(number):
        figures["gap"] /= 2
        return figures

    outcome = run(step)
    assert outcome.history[0] == {"gap": 0.5}


def test_divergence_ends_it_with_its_reason():
    with pytest.warns(ConvergenceWarning, match="runs away; gap is"):
        outcome = run(diverged=lambda: "runs away")
    assert outcome.rounds == 1
    assert not outcome.converged
