"""The manners of fitting: data in all forms, history, early stopping, interruption, checkpoints, bad input."""

import errno
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import gbn
from gbn.errors import ConvergenceWarning, FileFormatError, LearningError
from gbn.learning import em
from gbn.learning.checkpoint import load_state, save_state
from gbn.learning.data import Data
from gbn.learning.em import EM
from gbn.learning.numbers import numbers, with_values


def factor_net():
    net = gbn.GaussianBayesNet()
    net.add_input("z", 2, mean=0.0, cov=1.0)
    loadings = np.random.default_rng(1).normal(size=(5, 2))
    net.add_linear("y", {"z": loadings}, bias=np.zeros(5), cov=np.ones(5))
    return net


def readings(rows=80, missing=0.1):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(rows, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(rows, 5))
    y[rng.random(y.shape) < missing] = np.nan
    return y


def same_numbers(a, b):
    first, second = numbers(a), numbers(b)
    return all(first[kind][name].tobytes() == second[kind][name].tobytes() for kind in first for name in first[kind])


def test_the_net_that_was_given_is_unchanged():
    net, before = factor_net(), factor_net()
    result = net.fit({"y": readings()}, tol=1e-4)
    assert same_numbers(net, before)
    assert not same_numbers(net, result.net)
    assert repr(result).startswith("FitResult(em, ")


def test_the_history_is_a_table():
    result = factor_net().fit({"y": readings()}, tol=1e-4)
    frame = result.history.to_frame()
    assert list(frame.index) == list(range(len(result.history)))
    assert {"log_evidence", "objective", "change"} <= set(frame.columns)
    assert frame["log_evidence"].is_monotonic_increasing
    assert result.best_round == frame.index[-1]
    assert result.history.column("nothing").tolist() == [np.nan] * 0 or np.isnan(result.history.column("nothing")).all()


def test_tables_serve_as_data():
    pandas = pytest.importorskip("pandas")
    y = readings()
    table = pandas.DataFrame(y, columns=[f"y[{k}]" for k in range(5)])
    by_name = factor_net().fit({"y": y}, tol=1e-3)
    assert same_numbers(factor_net().fit(table, tol=1e-3).net, by_name.net)
    with pytest.raises(gbn.UnknownNameError, match=r"unknown column 'w\[0\]'"):
        factor_net().fit(table.rename(columns={"y[0]": "w[0]"}))


def test_weights_count_rows():
    y = readings(30)
    weights = np.random.default_rng(0).integers(0, 4, 30)
    weighted = factor_net().fit({"y": y}, weights=weights, tol=1e-3)
    repeated = factor_net().fit({"y": np.repeat(y, weights, axis=0)}, tol=1e-3)
    np.testing.assert_allclose(
        weighted.history.column("log_evidence"), repeated.history.column("log_evidence"), rtol=1e-9
    )


def test_batches_are_all_rows_once():
    data = Data.read(factor_net(), {"y": readings(10)}, np.arange(1.0, 11.0))
    batches = list(data.batches(4, np.random.default_rng(0)))
    assert [b.samples for b in batches] == [4, 4, 2]
    assert sorted(np.concatenate([b.counts for b in batches])) == list(range(1, 11))
    assert [b.samples for b in data.batches(None, np.random.default_rng(0))] == [10]


def test_held_out_data_choose_the_round():
    """Five rows of five sensors: what explains them ever better explains others ever worse."""
    rows = readings(205, missing=0)
    few, held = rows[:8], rows[8:]
    result = factor_net().fit({"y": few}, validation={"y": held}, patience=5, variance_floor=1e-4)
    trace = result.history.column("validation")
    assert result.best_round == trace.argmax()
    assert result.best_round == len(trace) - 6
    assert "has not risen for 5 iterations" in result.reason
    np.testing.assert_allclose(result.net.query([], {"y": held}).log_evidence.mean(), trace.max(), rtol=1e-10)


def test_a_callback_sees_every_round_and_may_stop():
    seen = []

    def callback(number, figures):
        seen.append((number, figures["log_evidence"]))
        return number == 3

    result = factor_net().fit({"y": readings()}, callback=callback)
    assert [number for number, _ in seen] == [1, 2, 3]
    assert not result.converged
    assert result.reason == "stopped by the callback after 3 iterations"
    assert [value for _, value in seen] == [f["log_evidence"] for f in result.history[1:]]


def test_an_interrupt_returns_the_best_so_far():
    def interrupt(number, _):
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)

    result = factor_net().fit({"y": readings()}, callback=interrupt)
    assert not result.converged
    assert result.reason.startswith("interrupted after")
    assert len(result.history) - 1 in (4, 5)
    expected = result.net.query([], {"y": readings()}).log_evidence.sum()
    np.testing.assert_allclose(result.history[result.best_round]["log_evidence"], expected, rtol=1e-12)


def test_an_interrupt_before_the_first_round_returns_the_net_as_it_was(monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(EM, "begin", interrupt)
    result = factor_net().fit({"y": readings()})
    assert (result.converged, result.reason) == (False, "interrupted before the first round")
    assert same_numbers(result.net, factor_net())


def test_an_interrupt_in_the_last_diagnostics_returns_what_was_learned(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gbn.learning.standard_errors.standard_errors", interrupt)
    result = factor_net().fit({"y": readings()}, tol=1e-3, standard_errors=True)
    assert result.converged
    assert "interrupted" in result.diagnostics
    assert same_numbers(result.net, factor_net().fit({"y": readings()}, tol=1e-3).net)


def test_an_error_after_some_rounds_returns_the_best_so_far(monkeypatch):
    right, last = EM.step, 3

    def step(self):
        if self.iteration == last:
            raise gbn.errors.InferenceError("no digits left")
        return right(self)

    monkeypatch.setattr(EM, "step", step)
    seen = []
    with pytest.warns(ConvergenceWarning, match="no further than 3 iterations: no digits left"):
        result = factor_net().fit({"y": readings()}, callback=lambda number, _: seen.append(number))
    assert (result.converged, result.best_round, len(result.history), seen) == (False, 3, 4, [1, 2, 3])
    last = 0
    with pytest.raises(gbn.errors.InferenceError, match="no digits left"):
        factor_net().fit({"y": readings()})


def test_a_round_that_cannot_be_scored_is_no_best_one(monkeypatch):
    """As where the first net overflows on held-out rows."""
    right = EM.score
    monkeypatch.setattr(EM, "score", lambda self, data: np.nan if self.iteration < 2 else right(self, data))
    result = factor_net().fit({"y": readings()}, validation={"y": readings(30)}, tol=1e-2)
    assert result.best_round == 2 + np.argmax(result.history.column("validation")[2:])


def test_a_fall_of_the_objective_is_reported_as_a_defect(monkeypatch):
    """A spoilt M-step: the loop stops, says so, and returns the best round."""
    right = em.maximise

    def wrong(net, *arguments):
        out = right(net, *arguments)
        return with_values(out, {"y.bias": out["y.bias"].value + 1.0}) if net["y.bias"].value.any() else out

    monkeypatch.setattr(em, "maximise", wrong)
    with pytest.warns(ConvergenceWarning, match="a defect of gbn"):
        result = factor_net().fit({"y": readings()}, px=False)
    assert not result.converged
    assert result.best_round < len(result.history) - 1
    expected = result.net.query([], {"y": readings()}).log_evidence.sum()
    np.testing.assert_allclose(result.history.column("log_evidence").max(), expected, rtol=1e-12)


def test_an_unfinished_fit_warns():
    with pytest.warns(ConvergenceWarning, match=r"fit \(em\): made 2 iterations.*raise max_iter"):
        assert not factor_net().fit({"y": readings()}, max_iter=2).converged


OPTIONS = {"max_iter": 12, "restarts": 1, "seed": 3, "tol": 1e-3}


class TestCheckpoints:
    def whole(self):
        return factor_net().fit({"y": readings()}, **OPTIONS)

    def resumed_equals(self, result, whole):
        assert same_numbers(result.net, whole.net)
        assert result.history == whole.history
        assert (result.converged, result.reason, result.best_round) == (whole.converged, whole.reason, whole.best_round)

    @pytest.mark.parametrize("stop", [1, 5, 13, 15])
    def test_an_interrupted_fit_goes_on_bit_for_bit(self, tmp_path, stop):
        whole, path = self.whole(), tmp_path / "fit.ckpt"

        def interrupt(number, _):
            if number == stop:
                raise KeyboardInterrupt

        first = factor_net().fit({"y": readings()}, checkpoint=path, callback=interrupt, **OPTIONS)
        assert len(first.history) <= len(whole.history)
        self.resumed_equals(factor_net().fit({"y": readings()}, checkpoint=path, **OPTIONS), whole)
        # A finished fit is returned as it was.
        self.resumed_equals(factor_net().fit({"y": readings()}, checkpoint=path, **OPTIONS), whole)

    def test_a_killed_fit_goes_on_bit_for_bit(self, tmp_path):
        """SIGKILL after the third round, and in the middle of writing the checkpoint of the sixth."""
        path, here = tmp_path / "fit.ckpt", os.path.dirname(__file__)
        script = """
            import os, signal, sys
            sys.path.insert(0, sys.argv[2])
            import test_fit
            import gbn.io.archive as archive
            count = 0
            replace = os.replace
            def killing(*args):
                global count
                count += 1
                if count == int(sys.argv[3]):
                    os.kill(os.getpid(), signal.SIGKILL)
                replace(*args)
            archive.os.replace = killing
            options = test_fit.OPTIONS
            test_fit.factor_net().fit({"y": test_fit.readings()}, checkpoint=sys.argv[1], **options)
        """
        for kill_at in ("4", "3"):
            run = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(script), str(path), here, kill_at],
                capture_output=True,
                text=True,
            )
            assert run.returncode == -signal.SIGKILL, run.stderr
        state = load_state(path, load_mark(path))
        assert len(state["history"]) == 1 + 2 + 2
        self.resumed_equals(factor_net().fit({"y": readings()}, checkpoint=path, **OPTIONS), self.whole())

    def test_a_checkpoint_can_be_taken_further(self, tmp_path):
        path = tmp_path / "fit.ckpt"
        with pytest.warns(ConvergenceWarning):
            factor_net().fit({"y": readings()}, checkpoint=path, max_iter=3, checkpoint_every=2)
        result = factor_net().fit({"y": readings()}, checkpoint=path, tol=1e-5)
        self.resumed_equals(result, factor_net().fit({"y": readings()}, tol=1e-5))

    @pytest.mark.parametrize("generator", [np.random.MT19937, np.random.Philox, np.random.SFC64])
    def test_every_generator_goes_on_where_it_was(self, tmp_path, generator):
        def fit(**more):
            rng = np.random.Generator(generator(5))
            return factor_net().fit({"y": readings()}, tol=1e-2, restarts=2, seed=rng, **more)

        path = tmp_path / "fit.ckpt"
        fit(checkpoint=path, callback=lambda number, _: number == 5)
        self.resumed_equals(fit(checkpoint=path), fit())

    @pytest.mark.parametrize("other", [{"ridge": 0.1}, {"seed": 1}, {"freeze": ["z"]}, {"weights": np.ones(80) * 2}])
    def test_a_checkpoint_of_another_fit_is_refused(self, tmp_path, other):
        path = tmp_path / "fit.ckpt"
        factor_net().fit({"y": readings()}, checkpoint=path, tol=1e-2)
        with pytest.raises(FileFormatError, match="a checkpoint of another fit"):
            factor_net().fit({"y": readings()}, checkpoint=path, tol=1e-2, **other)
        changed = readings()
        changed[0] += 1e-9
        with pytest.raises(FileFormatError, match="a checkpoint of another fit"):
            factor_net().fit({"y": changed}, checkpoint=path, tol=1e-2)

    def test_damage_is_named(self, tmp_path):
        path = tmp_path / "fit.ckpt"
        save_state(path, {"fingerprint": "x", "a": np.arange(3.0), "b": [1, None, {"c": 0.1}], "inf": float("inf")})
        state = load_state(path, "x")
        assert state["a"].tolist() == [0, 1, 2]
        assert state["b"] == [1, None, {"c": 0.1}]
        assert state["inf"] == float("inf")
        whole = path.read_bytes()
        for cut in (0, 10, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:cut])
            with pytest.raises(FileFormatError, match="checkpoint"):
                load_state(path, "x")
        path.write_bytes(b"\x80\x04pickle")
        with pytest.raises(FileFormatError, match="remove it to begin the fit anew"):
            load_state(path, "x")
        assert load_state(tmp_path / "none", "x") is None

    def test_chance_that_nobody_chose_is_that_of_the_checkpoint(self, tmp_path):
        path, options = tmp_path / "fit.ckpt", {"restarts": 2, "tol": 1e-2, "seed": None}
        factor_net().fit({"y": readings()}, checkpoint=path, callback=lambda number, _: number == 5, **options)
        first = load_state(path, load_mark(path))
        result = factor_net().fit({"y": readings()}, checkpoint=path, **options)
        assert list(result.history[:6]) == first["history"]
        assert result.history[-1]["start"] == 2

    def test_a_fit_that_the_callback_stopped_is_kept_up_to_the_round_of_the_stop(self, tmp_path):
        path = tmp_path / "fit.ckpt"
        options = {"checkpoint": path, "checkpoint_every": 10, "callback": lambda number, _: number == 5}
        factor_net().fit({"y": readings()}, **options)
        assert len(load_state(path, load_mark(path))["history"]) == 6

    def test_options_that_end_a_start_or_a_message_are_part_of_the_fit(self, tmp_path):
        path = tmp_path / "fit.ckpt"
        with pytest.warns(ConvergenceWarning):
            factor_net().fit({"y": readings()}, checkpoint=path, max_iter=3, restarts=1)
        with pytest.raises(FileFormatError, match="another fit"):
            factor_net().fit({"y": readings()}, checkpoint=path, max_iter=9, restarts=1)
        path = tmp_path / "local.ckpt"
        options = {"epochs": 1, "prediction": "live", "checkpoint": path}
        factor_net().fit({"y": readings()}, "local", tol=1e-1, **options)
        with pytest.raises(FileFormatError, match="another fit"):
            factor_net().fit({"y": readings()}, "local", tol=1e-6, **options)
        assert len(factor_net().fit({"y": readings()}, "local", tol=1e-1, **options | {"epochs": 2}).history) == 3

    def test_a_full_disk_leaves_what_was_written(self, tmp_path, monkeypatch):
        path, sync = tmp_path / "fit.ckpt", os.fsync
        calls = []

        def full(descriptor):
            calls.append(descriptor)
            if len(calls) == 6:
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            factor_net().fit({"y": readings()}, checkpoint=path, **OPTIONS)
        assert [p.name for p in tmp_path.iterdir()] == ["fit.ckpt"]
        assert len(load_state(path, load_mark(path))["history"]) == 5
        self.resumed_equals(factor_net().fit({"y": readings()}, checkpoint=path, **OPTIONS), self.whole())

    def test_an_interrupt_while_a_checkpoint_is_written(self, tmp_path, monkeypatch):
        """In a round, and at the end, where nothing but the writing is left to do."""
        path, sync = tmp_path / "fit.ckpt", os.fsync
        for stop, options in ((4, OPTIONS), (2, OPTIONS | {"checkpoint_every": 100})):
            calls = []

            def interrupted(descriptor, calls=calls, stop=stop):
                calls.append(descriptor)
                if len(calls) == stop:
                    raise KeyboardInterrupt
                sync(descriptor)

            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", interrupted)
                result = factor_net().fit({"y": readings()}, checkpoint=path, **options)
            assert [p.name for p in tmp_path.iterdir()] == ["fit.ckpt"]
            assert result.best_round < len(result.history)
            if stop == 2:
                assert result.converged
                assert len(load_state(path, load_mark(path))["history"]) == 1
            path_again = factor_net().fit({"y": readings()}, checkpoint=path, **options)
            self.resumed_equals(path_again, self.whole())
            path.unlink()

    def test_places_that_cannot_be_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for place, error in ((tmp_path / "none" / "fit.ckpt", FileNotFoundError), ("", IsADirectoryError)):
            with pytest.raises(error, match=r"make it first|expected the name of a file"):
                factor_net().fit({"y": readings()}, checkpoint=place, max_iter=1)
        assert not list(tmp_path.iterdir())


def load_mark(path):
    from gbn.learning.checkpoint import _read

    with open(path, "rb") as file:
        return _read(file)["fingerprint"]


class TestBadInput:
    def net(self, form=None):
        net = gbn.GaussianBayesNet()
        net.add_input("x", 3)
        net.add_linear("y", {"x": np.ones((2, 3))}, bias=np.zeros(2), cov=np.eye(2) if form is None else form)
        return net

    def test_missing_numbers_in_an_input_without_a_prior(self):
        x = np.ones((4, 3))
        x[1, 2] = np.nan
        with pytest.raises(gbn.EvidenceError, match=r"'x': 1 entries are NaN.*set_prior"):
            self.net().fit({"x": x, "y": np.ones((4, 2))})

    def test_an_input_without_a_prior_that_is_left_out(self):
        with pytest.raises(gbn.EvidenceError, match="input 'x' has no prior"):
            self.net().fit({"y": np.ones((4, 2))})

    def test_no_rows_infinities_and_lengths(self):
        with pytest.raises(gbn.EvidenceError, match="no rows"):
            self.net().fit({"x": np.ones((0, 3)), "y": np.ones((0, 2))})
        with pytest.raises(gbn.EvidenceError, match="infinite"):
            self.net().fit({"x": np.ones((2, 3)), "y": np.full((2, 2), np.inf)})
        with pytest.raises(gbn.EvidenceError, match="different numbers of samples"):
            self.net().fit({"x": np.ones((2, 3)), "y": np.ones((3, 2))})

    def test_too_few_rows_leave_undetermined_weights_as_they_were_and_noise_at_its_floor(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(2, 3)), rng.normal(size=(2, 2))
        result = self.net().fit({"x": x, "y": y}, variance_floor=1e-6)
        notes = result.diagnostics["not_determined"]
        assert any("some weights are not determined" in note for note in notes)
        assert any("held at variance_floor" in note for note in notes)
        floor = result.diagnostics["variance_floor"]["y"]
        np.testing.assert_allclose(floor, 1e-6 * y.var(axis=0).mean())
        np.testing.assert_allclose(np.linalg.eigvalsh(result.net.noise("y").matrix()), floor)
        np.testing.assert_allclose(result.net.forward({"x": x})["y"], y, atol=1e-9)
        # Of all weights that fit, the ones nearest to where they began, in units of the regressors' spread.
        start = self.net()["y.x.weight"].value
        moved = result.net["y.x.weight"].value - start
        assert np.linalg.matrix_rank(moved, tol=1e-9) <= 2

    def test_constant_and_repeated_columns(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(50, 3))
        x[:, 1] = 2.0
        y = np.column_stack([x[:, 0] + 0.1 * rng.normal(size=50), np.full(50, 7.0)])
        for form in (None, 1.0, np.ones(2)):
            result = self.net(form).fit({"x": x, "y": y})
            assert np.isfinite(result.history.column("log_evidence")).all()
            assert result.diagnostics["not_determined"]
            np.testing.assert_allclose(result.net.forward({"x": x})["y"][:, 1], 7.0, rtol=1e-9)
            design = np.column_stack([x[:, [0, 2]], np.ones(50)])
            expected = design @ np.linalg.lstsq(design, y[:, 0], rcond=None)[0]
            np.testing.assert_allclose(result.net.forward({"x": x})["y"][:, 0], expected, rtol=1e-7)

    @pytest.mark.parametrize("held", [{}, {"y": np.full((3, 2), np.nan)}, {"x": np.ones((3, 3))}])
    def test_held_out_data_without_anything_to_explain(self, held):
        """They would judge every round alike, and the net as it was would be the result."""
        if "x" not in held and held:
            held = {"x": np.ones((3, 3)), **held}
        with pytest.raises(LearningError, match="validation: nothing is observed"):
            self.net().fit({"x": np.ones((3, 3)), "y": np.ones((3, 2))}, validation=held)

    def test_numbers_out_of_range(self):
        data = {"y": readings()}
        for option, value, message in [
            ("seed", -1, "seed: got -1"),
            ("variance_floor", np.inf, "variance_floor: got inf"),
            ("tol", np.inf, "tol: got inf"),
        ]:
            with pytest.raises(LearningError, match=message):
                factor_net().fit(data, **{option: value})
        for rounds in (0, -1):
            with pytest.raises(LearningError, match=f"max_rounds: got {rounds}"):
                factor_net().fit(data, "local", incremental=True, max_rounds=rounds)
        with pytest.raises(gbn.errors.InferenceError, match="solver: got 'qr', expected one of"):
            factor_net().fit(data, engine_options={"solver": "qr"})
        with pytest.raises(gbn.UnknownNameError, match=r"'q': known are 'z', 'y.z.weight', 'y.bias', 'y'$"):
            factor_net().fit(data, freeze="q")

    @pytest.mark.parametrize("method, options", [("local", {"batch_size": 4}), ("em", {"batch_size": 4})])
    def test_rows_that_do_not_count_are_as_if_they_were_not_there(self, method, options):
        y = readings(40, missing=0)
        weights = np.where(np.arange(40) % 8 < 4, 0.0, 0.5)
        options = options | {"epochs": 2}
        some = factor_net().fit({"y": y}, method, weights=weights, **options)
        without = factor_net().fit({"y": y[weights > 0]}, method, weights=weights[weights > 0], **options)
        assert same_numbers(some.net, without.net)
        np.testing.assert_equal(list(some.history), list(without.history))

    @pytest.mark.parametrize("cov", [1.0, np.ones(5), np.eye(5)])
    def test_no_noise_left_and_no_floor(self, cov):
        net = factor_net()
        net.set_noise({"y": cov})
        with pytest.raises(LearningError, match=r"covariance of 'y'.*fitted exactly.*variance_floor"):
            net.fit({"y": np.ones((20, 5))}, variance_floor=0)

    @pytest.mark.parametrize("cov", [1.0, np.ones(5), np.eye(5)])
    def test_repeated_and_constant_columns_in_float32(self, cov):
        """The floor is one that single precision can tell from nothing."""
        y = readings()
        y[:, 1], y[:, 2] = y[:, 0], 3.0
        net = gbn.GaussianBayesNet(np.float32)
        net.add_input("z", 2, mean=0.0, cov=1.0)
        net.add_linear("y", {"z": np.random.default_rng(1).normal(size=(5, 2))}, bias=np.zeros(5), cov=cov)
        result = net.fit({"y": y}, tol=None, max_iter=60, callback=lambda number, _: number == 60)
        assert result.reason == "stopped by the callback after 60 iterations"
        assert np.isfinite(result.history.column("log_evidence")).all()

    def test_one_row(self):
        result = factor_net().fit({"y": readings(1, missing=0)}, max_iter=500, tol=1e-3)
        assert np.isfinite(result.history.column("log_evidence")).all()

    def test_nothing_observed(self):
        result = factor_net().fit({"y": np.full((3, 5), np.nan)})
        assert result.converged
        assert result.history[-1]["log_evidence"] == 0
