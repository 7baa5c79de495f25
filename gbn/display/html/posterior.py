"""A posterior, drawn in its net for one sample, and as a table for all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gbn.display.html.drawing import Box, Panel
from gbn.display.html.glyphs import Belief, belief_panel, probability_panel
from gbn.display.html.markup import MAX_ROWS, Markup, escape, facts, fold, fragment, heading, note, table
from gbn.display.html.net import chosen, drawn, plain_box, range_text, shape_text
from gbn.errors import ConvergenceWarning, GbnError, InferenceError
from gbn.gaussian import LOG_2PI

if TYPE_CHECKING:
    from gbn.posterior import Posterior

__all__ = ["posterior_html"]

Array = np.ndarray[Any, Any]
T = TypeVar("T")
# Entries whose variance a drawing may ask for: on a large net they cost a sweep each.
_STD_BUDGET = 512
_COLUMNS = ["vertex", "kind", "shape", "observed", "mean", "std", "surprise (nats a sample)"]


def posterior_html(post: Posterior, sample: int = 0) -> str:
    """A posterior: what the engine says about itself, its net with beliefs in it, and a line for every target.

    Args:
        sample: the one that is drawn; the table speaks of all of them.

    Raises:
        InferenceError: there is no such sample.
    """
    samples = post.evidence.samples
    if not -samples <= sample < samples:
        raise InferenceError(f"sample: got {sample}, expected a number from 0 to {samples - 1}")
    sample %= samples
    said = [(name.replace("_", " "), _short(value)) for name, value in post.diagnostics.items()]
    state = Markup('<span class="gbn-good">converged</span>')
    if not post.converged:
        state = Markup('<span class="gbn-bad">not converged</span>')
    summary = facts([("engine", post.engine), ("state", state), ("samples", samples)])
    spread = _affordable(post)
    picture = _Picture(post, sample, spread).drawn()
    rows = [_target_row(post, name, name in spread) for name in post.targets[:MAX_ROWS]]
    rows += [(name,) for name in post.targets[MAX_ROWS:]]
    left_out = [name for name in post.targets if name not in spread and name not in post.net.labels]
    remark = note("Standard deviations that are left out here are computed by post.std[name].") if left_out else ""
    targets = fold("Targets", table(_COLUMNS, rows), remark, shown=False)
    details = fold("Diagnostics", facts(said), shown=False) if said else ""
    return fragment(heading("Posterior"), summary, picture, targets, details)


def _affordable(post: Posterior) -> set[str]:
    """Targets whose variances are computed without being asked for, the smallest first."""
    names, budget = set(), _STD_BUDGET
    for name in sorted(post.targets, key=lambda name: post.net[name].size):
        budget -= post.net[name].size
        if budget >= 0 and post.net[name].kind != "likelihood":
            names.add(name)
    return names


class _Picture:
    """What one sample looks like in the net."""

    def __init__(self, post: Posterior, sample: int, spread: set[str]) -> None:
        self.post, self.net, self.sample, self.spread = post, post.net, sample, spread
        self.choice = chosen(post.net)
        self.prior = _tried(lambda: _prior(post, sample))
        self.surprise = {name: self._surprise(name) for name in self.choice[0] if name in post.surprise}
        self.scale = max([1.0, *(beyond for _, beyond in self.surprise.values() if np.isfinite(beyond))])

    def drawn(self) -> Markup:
        """The drawing with its legend."""
        samples = self.post.evidence.samples
        remarks: list[Any] = [_key("before", "prior"), _key("after", "posterior")]
        remarks.append(_key("tint", f"surprise beyond the least, full at {self.scale:.3g} nats"))
        if samples > 1:
            remarks.append(f"drawn: sample {self.sample} of {samples}; post.drawing(k) draws sample k")
        with warnings.catch_warnings():
            # The answer itself has said it; that without evidence need not arrive.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return drawn(self.net, self.choice, self._box, *remarks)

    def _surprise(self, name: str) -> tuple[float, float]:
        """Nats of a vertex, and how many of them are beyond the least that its noise allows."""
        nats = _tried(lambda: float(np.broadcast_to(self.post.surprise[name], self.post.evidence.samples)[self.sample]))
        noise = self.net.noise(name)
        if nats is None:
            return float("nan"), float("nan")
        least = 0.0 if noise is None else 0.5 * (float(noise.logdet) + self.net[name].size * LOG_2PI)
        free = name in self.post.evidence.do or (noise is None and not self._given(name))
        return nats, 0.0 if free else max(nats - least, 0.0)

    def _box(self, name: str) -> Box:
        mark, given = self._mark(name)
        more = [given] if given else []
        panel, words = self._belief(name)
        more += words
        nats, beyond = self.surprise.get(name, (float("nan"), float("nan")))
        if np.isfinite(nats):
            more.append(f"surprise: {nats:.4g} nats, {beyond:.3g} beyond the least")
        plain = plain_box(self.net, name, mark, "\n".join(more))
        lines = [given] if given.endswith(" observed") else []
        lines += [self._scalar(name)] if self.net[name].size == 1 else []
        lines += [f"surprise {beyond:.2f} nats"] if beyond >= 0.005 else []
        tint = min(beyond / self.scale, 1.0) if np.isfinite(beyond) else 0.0
        return Box(plain.kind, (*plain.lines, *filter(None, lines)), plain.tip, mark, tint, panel)

    def _mark(self, name: str) -> tuple[str, str]:
        """How a vertex is known: its mark in the drawing, and in words."""
        evidence = self.post.evidence
        if name in evidence.do:
            return ("observed", "given") if self.net[name].kind == "input" else ("set", "set")
        if not self._given(name):
            return "", ""
        share = float(self._observed(name).mean())
        return "observed", "observed" if share == 1 else f"{share:.0%} observed"

    def _given(self, name: str) -> bool:
        return bool(self._observed(name).any())

    def _observed(self, name: str) -> Array:
        """Where the vertex is observed in this sample.  Shape: the event's, or () where it is all or nothing."""
        evidence = self.post.evidence
        if name in evidence.masks:
            return evidence.masks[name][self.sample]
        if name in evidence.values:
            return ~np.isnan(evidence.values[name][self.sample])
        return np.asarray(name in evidence.do)

    def _row(self, post: Posterior, name: str, figures: Mapping[str, Array], sample: int) -> Array | None:
        value = _tried(lambda: figures[name])
        if value is None:
            return None
        return np.asarray(value[min(sample, len(value) - 1)] if post.net[name].plated else value, np.float64)

    def _figures(self, post: Posterior | None, name: str, sample: int) -> Belief | None:
        """Mean and standard deviation of a target in a sample."""
        mean = None if post is None or name not in post.mean else self._row(post, name, post.mean, sample)
        if post is None or mean is None or not mean.size:
            return None
        std = self._row(post, name, post.std, sample) if name in self.spread else None
        return Belief(mean, None if std is None else np.broadcast_to(std, mean.shape), self._observed(name))

    def _belief(self, name: str) -> tuple[Panel | None, list[str]]:
        """The picture of a target before and after, and what it says in words."""
        after, before = self._figures(self.post, name, self.sample), self._figures(self.prior, name, 0)
        if after is None:
            return None, []
        label = self.net[name].kind == "likelihood"
        say = _class_words if label else _words
        words = [f"prior: {say(before)}"] if before is not None else []
        words.append(f"posterior: {say(after)}")
        if label:
            return probability_panel(None if before is None else before.mean, after.mean), words
        return belief_panel(before, after), words

    def _scalar(self, name: str) -> str:
        after = self._figures(self.post, name, self.sample)
        return "" if after is None or self.net[name].kind == "likelihood" else _words(after)


def _prior(post: Posterior, sample: int) -> Posterior:
    """The same question about one sample, without its evidence, asked of "exact", which knows what others approximate.

    Inputs without a prior, and what is set, keep their values.
    """
    kept = post.evidence.rows(np.array([sample])).do
    return post.net.query(list(post.targets), do=kept, linearization=post.diagnostics.get("linearization", "taylor"))


def _words(belief: Belief) -> str:
    """A belief in a line."""
    if belief.mean.size == 1:
        spread = "" if belief.std is None or not belief.std.any() else f" ± {belief.std.item():.2g}"
        return f"{belief.mean.item():.4g}{spread}"
    spread = "" if belief.std is None else f", std {range_text(belief.std)}"
    return f"mean {range_text(belief.mean)}{spread}"


def _class_words(belief: Belief) -> str:
    """The most probable class in a line."""
    if belief.mean.ndim != 1 or belief.mean.size < 2 or np.isnan(belief.mean).any():
        return f"probabilities {range_text(belief.mean)}"
    best = int(belief.mean.argmax())
    return f"class {best}, probability {belief.mean[best]:.3g}"


def _key(css: str, text: str) -> Markup:
    """An entry of the legend."""
    sign = {
        "before": '<path d="M1 8H24" class="gbn-before" stroke="currentColor" stroke-width="1.6"/>',
        "after": '<path d="M1 8H24" class="gbn-after" stroke="currentColor" stroke-width="1.6"/>',
        "tint": '<rect x="1" y="2" width="23" height="12" class="gbn-tint" fill-opacity="0.55"/>',
    }[css]
    return Markup(f'<svg width="26" height="16" aria-hidden="true">{sign}</svg>{escape(text)}')


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else text[:199] + "…"


def _target_row(post: Posterior, name: str, with_std: bool) -> tuple[Any, ...]:
    vertex = post.net[name]
    std = _tried(lambda: range_text(post.std[name])) if with_std else None
    nats = _tried(lambda: f"{float(np.mean(post.surprise[name])):.4g}") if name in post.surprise else None
    mean = _tried(lambda: range_text(post.mean[name]))
    figures = (_observed_share(post, name), mean, std, nats)
    return name, vertex.title, shape_text(vertex), *("—" if figure is None else figure for figure in figures)


def _tried(figure: Callable[[], T]) -> T | None:
    """A figure, or None where the engine does not give it."""
    try:
        return figure()
    except GbnError:
        return None


def _observed_share(post: Posterior, name: str) -> str:
    evidence = post.evidence
    if name in evidence.do:
        return "set"
    if name in evidence.masks:
        return f"{evidence.masks[name].mean():.0%}"
    if name not in evidence.values:
        return "0%"
    return f"{1 - np.isnan(evidence.values[name]).mean():.0%}"
