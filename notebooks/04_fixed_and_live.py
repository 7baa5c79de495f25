# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Should a prediction wait, or live?
#
# In predictive coding every vertex compares itself with a *prediction* by its parents. To get backprop's gradients, the
# predictions are computed once, in the forward pass, and then held while the vertices move. But a brain has no pause
# button. Let the predictions follow the vertices, and it is no longer backprop that comes out.
#
# What is it then? How far from backprop does it lead, and what does it cost? And are local gradients a peculiarity of
# predictive coding at all?

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

from gbn.equivalence import claims
from gbn.equivalence.claims.fixed_prediction import draw_graphs
from gbn.equivalence.claims.networks import tanh_mlp

plt.rcParams["figure.dpi"] = 80


def told(finding):
    print(fill(f"“{finding.claim}”", 100))
    print(fill(f"{finding.verdict}: {finding.answer}", 100))


# %% [markdown]
# ## Two graphs
#
# Take a small net, $x \to a \to (b, c) \to d \to y$. Nudge one hidden vertex, and see which others make a different next
# move. An arrow says *this one listens to that one*.

# %%
fixed = claims.run("fixed_prediction")
draw_graphs(fixed, plt.figure(figsize=(6.5, 3.4)).subplots())
assert len(fixed.series["edges"]["fixed"]) == 4
assert ("b", "c") in fixed.series["edges"]["live"]

# %% [markdown]
# Held fixed, a vertex listens to its children only. Messages run one way, from the output up, and end. That is another
# topology than the net's: a one-way street, on which a message cannot come back.
#
# Live, everybody listens both ways, and $b$ and $c$ listen to each other, because both explain $d$. Messages go round
# until all agree.
#
# ## What they agree on
#
# Below, the gradient for the weights once live prediction has come to rest, against backprop's, as hidden vertices get
# noisier.

# %%
ax = fixed.plot()
ax.axhline(1, color="gray", linewidth=1, linestyle=":")
told(fixed)
assert fixed.holds
assert abs(fixed.figures["slope of the gap in the hidden noise"] - 1) < 0.02
assert fixed.figures["gap of fixed prediction, any noise"] < 1e-12
assert fixed.figures["gap to exact inference at the equilibrium"] < 1e-4

# %% [markdown]
# Only the *ratio* of hidden noise to output noise matters: three curves are one. Held fixed, noise plays no part at all.
#
# The reason is a question of blame. If hidden vertices are nearly certain, all of the surprise at the output is the
# output's own, and what travels up is backprop's error. If they are noisy, they take a part of the blame themselves:
# each moves a little towards what would explain the output, and less is left to explain. In a linear net the error that
# travels up is the output error divided by *all* the noise there is, $S^{-1}(T - f)$ instead of $Q^{-1}(T - f)$.
#
# Fifty samples whose outputs are a little off; who takes the blame?

# %%
net, rng = tanh_mlp((5, 8, 8, 3), np.random.default_rng(1)), np.random.default_rng(0)
x = rng.normal(size=(50, 5))
given = {"x": x, "y": net.forward({"x": x})["y"] + 0.3 * rng.normal(size=(50, 3))}
noises = 10.0 ** np.arange(-4, 3)
blame = {name: [] for name in ("a1", "a2", "y")}
for noise in noises:
    net.set_noise({"a1": noise, "a2": noise})
    post = net.query(["a1", "a2"], given, engine="pc", prediction="live")
    energy = {}
    for name in blame:
        size = net[name].size
        constant = 0.5 * size * np.log(2 * np.pi * (1.0 if name == "y" else noise))
        energy[name] = (post.surprise[name] - constant).mean()
    for name, nats in energy.items():
        blame[name].append(nats / sum(energy.values()))

figure, ax = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
ax.stackplot(noises, *blame.values(), labels=["first hidden layer", "second hidden layer", "output"], alpha=0.8)
ax.set(
    xscale="log", xlabel="hidden noise (output noise 1)", ylabel="share of the surprise", xlim=(1e-4, 1e2), ylim=(0, 1)
)
for place, regime in ((3e-4, "backprop-like"), (0.7, "relaxed"), (30, "equilibrium")):
    ax.text(place, 0.06, regime, ha="center", bbox={"fc": "white", "ec": "none", "alpha": 0.7})
ax.legend(loc="lower left", bbox_to_anchor=(0.02, 0.2))
assert blame["y"][0] > 0.99
assert blame["y"][-1] < 0.2

# %% [markdown]
# Left, the output keeps its surprise and the gradient is backprop's. Right, the hidden layers have absorbed it, and the
# weights learn from *where the vertices went* rather than from an error.
#
# ## What it costs: inference as a differential equation
#
# Live prediction is a flow downhill, $\dot v = -\partial F/\partial v$. So one may use what people know about solving
# differential equations. What they know first is *stiffness*: a very precise output pulls fast, noisy hidden layers
# drift slowly, and a plain method must follow the fast one all the way.

# %%
odes = claims.run("odes")
odes.plot()
told(odes)
assert odes.figures["growth with stiffness, gradient rounds"] > 0.8
assert odes.figures["growth with stiffness, RK45 (adaptive, explicit)"] > 0.8
assert odes.figures["growth with stiffness, BDF (adaptive, implicit)"] < 0.4

# %% [markdown]
# Choosing small steps more cleverly (adaptive RK45) does not help: its work grows with the stiffness as that of plain
# rounds does. Inertia helps some. The work of implicit steps, which solve for where the flow will be, hardly grows; they
# pay from a stiffness of a few hundred on. Methods that do not follow the flow at all, but go where it ends, are well ahead.
#
# The two meet in a limit: make the implicit step longer and longer, and a step of the differential equation becomes a
# step of Newton's method, which on a linear net is exact inference, at once.

# %%
steps = odes.series["steps"]
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.loglog(list(steps), list(steps.values()), "o-")
for size, count in steps.items():
    ax.annotate(str(count), (size, count), xytext=(4, 6), textcoords="offset points")
ax.set(xlabel="length of an implicit step", ylabel="steps to settle", title="linear net: from flow to exact inference")
assert steps[1e6] == 1
assert odes.figures["one implicit step of size 1e12, from the exact posterior"] < 1e-6

# %% [markdown]
# ## Local gradients are older than predictive coding
#
# R. A. Fisher knew: in a net with hidden variables, the gradient of the *evidence* by the parameters of one vertex is
# the posterior average of that vertex's own gradient. A vertex, its parents, and nothing else. Expectation maximisation
# takes the same averages and steps to where they would be at home.
#
# Both updates of one linear network, by the cosine of the angle to backprop:

# %%
fisher = claims.run("fisher")
fisher.plot()
told(fisher)
assert fisher.holds
assert fisher.figures["cosine of Fisher and backprop, noise 0.001"] > 0.999999
assert fisher.figures["cosine of Fisher and backprop, noise 10"] < 0.9

# %% [markdown]
# Fisher's gradient needs no output and no direction: the same lines gave it for a net of hidden causes with missing
# cells, where there is nothing to propagate back. Where hidden noise goes to zero it *is* backprop. The EM step is that
# gradient rescaled by each vertex's own noise and by the spread of its parents. So it goes elsewhere, and never down,
# where a gradient step of the same length may well go down:

# %%
print(f"{'net':<24}{'hidden noise':>13}{'nats gained by an EM step':>28}{'by as long a gradient step':>29}")
for row in fisher.table:
    gains = row["EM step, nats gained"], row["as long a step along the gradient, nats gained"]
    print(f"{row['net']:<24}{row['hidden noise']:>13g}{gains[0]:>28.1f}{gains[1]:>29.1f}")
    assert gains[0] > 0

# %% [markdown]
# ## The answer
#
# | claim | found |
# |---|---|
# | holding v̂ fixed implies another topology | true: one way, from child to parent; live, both ways and between co-parents |
# | what live prediction converges to | the exact equilibrium: backprop of an error whitened by all the noise; backprop itself up to a share in proportion to hidden noise |
# | we can use our differential-equation tricks | yes: implicit ones tame stiffness, and their limit is Newton's method, exact inference on a linear net |
# | local gradients are a general fact of Bayes nets | true, to rounding; backprop is the limit without hidden noise |
#
# Hold the predictions, and you compute backprop. Let them live, and you compute a posterior. Both are local; the noise
# you give the hidden vertices says how much the two differ.
