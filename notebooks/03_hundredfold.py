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
# # Does predictive coding cost a hundred times backprop?
#
# Predictive coding trains a network by local messages: every vertex compares itself with what its parents predict, and
# only neighbours talk to one another. Millidge, Tschantz & Buckley (arXiv 2006.04182) showed that it arrives at the
# gradients of backprop on any computation graph, after some hundred rounds of small updates. So people say: *the same,
# but a hundred times dearer*.
#
# Is it the same? And where does the hundred come from? Five claims, each rerun here by one call of
# `gbn.equivalence.claims`.

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

import gbn
from gbn.equivalence import claims, rounds_needed

plt.rcParams["figure.dpi"] = 80


def told(finding):
    print(fill(f"“{finding.claim}”", 100))
    print(fill(f"{finding.verdict}: {finding.answer}", 100))


# %% [markdown]
# ## It is the same
#
# Five networks, random data, float64. In each round all hidden vertices move together by half of what their messages
# ask for. The line is the worst relative error of any parameter against PyTorch's own autograd.

# %%
same = claims.run("backprop")
same.plot()
told(same)
assert same.holds
assert same.figures["largest error of one sweep"] < 1e-12

# %% [markdown]
# The errors fall to rounding on all five, also where the graph branches and merges (LSTM, transformer). So much for *the
# same*.
#
# The paper's own small example is $\tan\sqrt{\theta y_0} + \sin y_0^2$ at $y_0=5$, $\theta=2$, with target 1 and step
# 0.02. Its equations also carry two slips of a sign: equation 2 prints its right side turned round, and Algorithm 1
# moves *up* the gradient. Either one alone climbs the free energy; the two together cancel, which may be why nobody
# minded.

# %%
from gbn.equivalence.claims.backprop import ascents, scalar_rounds

gradient, errors = scalar_rounds()
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
left.semilogy(np.arange(1, len(errors) + 1), errors)
for level in (1e-2, 1e-3, 1e-6):
    number = int(np.argmax(errors <= level)) + 1
    left.plot(number, level, "o", color="black", markersize=4)
    left.annotate(f"round {number}", (number, level), xytext=(6, 4), textcoords="offset points")
left.set(xlabel="round", ylabel="relative error", title=f"scalar graph: gradient {gradient:.4f}")
styles = {"correct": "-", "eq. 2 as printed": "-", "Algorithm 1 as printed": "--", "both together": "--"}
for label, energy in ascents().items():
    right.plot(energy, styles[label], label=label, linewidth=2)
right.set(xlabel="round", ylabel="free energy (nats)", title="which sign descends?")
right.legend()

passes = [int(np.argmax(errors <= level)) + 1 for level in (1e-2, 1e-3, 1e-6)]
assert abs(gradient + 11.3705) < 5e-5
assert passes == [236, 353, 704]
assert same.figures["free energy change, eq. 2 as printed"] > 0 > same.figures["free energy change, correct"]

# %% [markdown]
# ## Where the hundred comes from
#
# A message that has to pass $k$ hidden vertices moves on at each of them with a share $\eta$ per round, the step size.
# That is coin tossing: after $t$ rounds a share $\Pr[\mathrm{Binomial}(t, \eta) \ge k]$ of it has arrived. Nothing else
# about the network matters, not its weights, its width, its data, or its noise.
#
# Lines are that law; dots are what the engine measured.

# %%
price = claims.run("hundredfold")
price.plot()
told(price)
assert price.figures["largest difference, measured from law"] < 1e-12
assert all(row["rounds, computed"] == row["rounds, measured"] for row in price.table)

# %% [markdown]
# (Wall-clock ratios are of one run on one machine, and wobble; the rounds do not.)
#
# So the price can be read off the graph before anything runs. `rounds_needed` counts hidden vertices on the longest path
# and asks the binomial.

# %%
from torch import nn

convolutions = [nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.Flatten()]
dense = [nn.Linear(1600, 200), nn.ReLU(), nn.Linear(200, 150), nn.ReLU(), nn.Linear(150, 10)]
cnn = gbn.convert(nn.Sequential(*convolutions, *dense), np.zeros((2, 3, 32, 32), np.float32))

print("the paper's CNN, rounds until the gradient is right to 0.1 %")
for step in (0.05, 0.1, 0.2, 0.5, 1.0):
    print(f"  step {step:<4g}  {rounds_needed(cnn, step, 1e-3):4d}  {'#' * (rounds_needed(cnn, step, 1e-3) // 4)}")
assert 100 < rounds_needed(cnn, 0.1, 1e-3) < 150
assert rounds_needed(cnn, 1.0, 1e-3) == 4

# %% [markdown]
# At the usual step of 0.1 the hundred is there. It is the tail of a binomial, and the step size chose it.
#
# ## One pass is enough
#
# With step 1 nothing is left to repeat: a vertex that hears its children takes over what they say. What remains is the
# *order*. A message waits wherever a vertex is visited before its child has spoken.

# %%
order = claims.run("single_pass")
order.plot()
told(order)
assert order.holds
assert abs(order.figures["vertices a pass in random order"] - (np.e - 1)) < 0.25

# %% [markdown]
# Visiting vertices from the output to the input, one pass does it. That pass *is* backprop's backward pass, message by
# message. Even a random order gets $e - 1 = 1.72$ vertices further in every pass, the expected length of a lucky run.
#
# ## Then why not all at once?
#
# The attraction of synchronous rounds is that every vertex works at the same time, as neurons do. But a message still has
# to travel the depth of the net. Counting vertex updates on the longest chain of updates that wait for one another:

# %%
parallel = claims.run("parallel")
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
parallel.plot(left)
for label, time in parallel.series["times"].items():
    right.plot(parallel.series["processors"], time, "o--" if label == "sweep" else "o-", label=label)
right.set(
    xlabel="processors", ylabel="updates until settled", xscale="log", yscale="log", title="eight towers of six layers"
)
right.legend(fontsize="small")
told(parallel)
depth16 = {what: parallel.figures[f"critical path, {what}, 16 layers"] for what in ("forward pass", "sweep")}
assert depth16["sweep"] <= depth16["forward pass"]
assert parallel.figures["critical path, parallel, step 1, 16 layers"] == depth16["sweep"]
assert parallel.figures["critical path, parallel, step 0.1, 16 layers"] > 9 * depth16["sweep"]

# %% [markdown]
# With step 1 the messages settle as fast as the forward pass, by a sweep or all at once; the sweep just sends each
# message once. With step 0.1 they take ten times as long however many processors there are.
#
# ## Which nets are done in one pass?
#
# The sweep above gives gradients. The full posterior, means and variances, also takes one pass up and one down wherever
# few hidden vertices meet at a time: on trees, and on anything that can be eliminated in a narrow order. The *width* is
# the most other vertices that one has to keep in mind when its turn comes.

# %%
once = claims.run("one_pass")
once.plot()
told(once)
widths = {name: int(once.figures[f"width, {name}"]) for name in ("mlp", "cnn", "rnn", "lstm", "transformer")}
print("\nwidths of the five networks:", ", ".join(f"{name} {width}" for name, width in widths.items()))
assert once.figures["largest error of one pass"] < 1e-10
assert widths["mlp"] == widths["cnn"] == 1
assert widths["rnn"] == 2 < widths["lstm"]

# %% [markdown]
# A layered network is a chain of its layers. The memory cell of an LSTM carries no noise, so it ties every step to every
# later one, and the net is as wide as it is long.
#
# ## The answer
#
# | claim | found |
# |---|---|
# | predictive coding converges to backprop's gradients on arbitrary graphs | true, to rounding, on all five networks |
# | it costs 100 times backprop | the hundred is the step size: Binomial(t, 0.1) |
# | with step 1 it converges in a single backward pass | true, in reverse topological order |
# | it parallelises, and settles as fast as the forward pass | true at step 1, tenfold slower at step 0.1 |
# | sum-product networks infer in one pass | so do trees and narrow nets here; width is the price |
#
# Local messages cost what backprop costs. Small synchronous steps cost a hundred times that, for the same numbers.
