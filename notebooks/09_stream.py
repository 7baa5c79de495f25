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
# # What if nothing ever stands still?
#
# Backprop stops the world: a forward pass, a backward pass, a step, and only then the next sample. A brain has no such
# luxury. "Replace input and label every tick", runs the challenge, "and let everything update at every tick, activations
# and weights alike, each from its neighbours alone. Does it still learn?"

# %%
from itertools import islice

import matplotlib.pyplot as plt
import numpy as np

import gbn
from gbn.equivalence import claims
from gbn.equivalence.claims.lockstep import accuracy
from gbn.equivalence.claims.networks import tanh_classifier
from gbn.equivalence.claims.precision import digits
from gbn.learning.online import Online
from gbn.learning.stream import Stream, shuffled

rng = np.random.default_rng(0)
x, y, held, answers = digits(1347, 450, rng)

# %% [markdown]
# ## A signal takes an edge a tick
#
# A network for digits: image, a hidden layer (affine, then tanh), logits, label. We show it one digit, hold it, keep the
# weights still, and watch who has something to say.

# %%
net = tanh_classifier((64, 32, 10), rng)
sample = {"x": x[:1], "label": y[:1]}
still = Stream(net, optimizer="sgd", learning_rate=0.0, align=1)
forward, sweep = net.forward({"x": x[:1]}), net.query([], sample, engine="pc").messages
chain = ["x", "a1", "h1", "y", "label"]
awake, heard, alignment = [], [], []
for _ in range(13):
    alignment.append(still.tick(sample if still.time == 0 else None).get("alignment", np.nan))
    awake.append([float(np.allclose(still.state.activity(n), forward[n])) for n in chain[:-1]])
    heard.append([float(np.allclose(still.state.message(n), sweep[n], rtol=1e-9)) for n in reversed(chain)])

fig, axes = plt.subplots(1, 2, figsize=(8.5, 2.6), layout="constrained")
for ax, rows, names, title in (
    (axes[0], awake, chain[:-1], "activity is that of the forward pass"),
    (axes[1], heard, chain[::-1], "message is that of one sweep"),
):
    ax.imshow(np.array(rows).T, aspect="auto", cmap="Blues", vmax=1.4)
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel="tick", title=title)

when = still.delays(sample)
print("ticks until the activity is right:", {n: when.activity[n] for n in chain[:-1]})
print("ticks until the message is right: ", {n: when.message[n] for n in chain[::-1]})
assert [row.index(1) for row in np.array(awake).T.tolist()] == [when.activity[n] for n in chain[:-1]]
assert [row.index(1) for row in np.array(heard).T.tolist()] == [when.message[n] for n in chain[::-1]]

# %% [markdown]
# Four edges up to the label, four down to the first weights: eight ticks. From then on, what the weights hear is backprop's
# gradient to the last digit, and not a tick earlier.

# %%
assert when.period == 8
print("cosine with the gradient:", np.round(alignment, 3))
assert np.isclose(alignment[8], 1.0, rtol=1e-12)
assert np.nanmax(alignment[:8]) < 0.999

# %% [markdown]
# ## Now let the world run
#
# A digit stands for some ticks and is replaced, label and all. Weights move at *every* tick, whatever they hear: also when
# the error of one digit meets the activity of the next. Labels come with their images, or (as consequences do) when the
# answer is there to be judged.

# %%
found = claims.run("lockstep", samples=260)
found.plot()
found

# %%
figures = found.figures
assert figures["period that the net needs"] == 8
assert figures["period 16, label with the answer"] > figures["in batches"] - 0.02
assert figures["period 1, label with the answer"] < 0.5
assert found.holds is False

# %% [markdown]
# Dotted: what the net *says in time*, while the digit is still there. In one or two ticks an answer cannot have come, so
# that is chance, whatever the weights know.
#
# One thing below eight ticks is curious. With labels at once and a new digit at every tick, what comes of the label meets,
# by a coincidence of delays, the hidden activity of the same digit: a Hebbian rule, label times activity, that does better
# than chance. It is no gradient of anything (its prediction is another digit's), and it comes nowhere near the others.
#
# If weights only wait until the signal has come back (`settle`), eight ticks are exactly as good as batches, for then each
# digit makes one exact gradient step:

# %%
patient = Stream(net, period=8, settle=8, optimizer="adam", learning_rate=1e-2)
patient.run(islice(shuffled({"x": x, "label": y}, 64), 300))
print(f"eight ticks, weights wait for the signal: {accuracy(patient.net, held, answers):.1%}")
assert accuracy(patient.net, held, answers) > figures["in batches"] - 0.02

# %% [markdown]
# ## Two nets in one world
#
# A second net reads the first one's logits and is told only whether the digit is even. To the first it is one more listener:
# its messages come back through the shared vertex, and add to those of the first net's own label.

# %%
options = {"period": 14, "optimizer": "adam", "learning_rate": 3e-3}
pair = Stream(net, **options).chain(
    Stream(tanh_classifier((10, 16, 2), rng), **options), {"y": "x"}, names=("digit", "even")
)
world = shuffled({"digit.x": x, "digit.label": y, "even.label": y % 2}, 64)
result = pair.run(world, ticks=5000, every=40)
said = result.net.forward({"digit.x": held})
digit, even = (said["digit.y"].argmax(1) == answers).mean(), (said["even.y"].argmax(1) == answers % 2).mean()
print(f"period needed {pair.delays(next(world)).period}; digits {digit:.1%}, even or odd {even:.1%}")
assert digit > 0.9
assert even > 0.9

# %% [markdown]
# ## A world that changes
#
# Streams drift. Online EM keeps running statistics and lets rows of long ago fade; with complete data that is exactly
# exponentially weighted least squares.

# %%
truth, weight = [], rng.normal(size=(1, 3))
line = gbn.GaussianBayesNet()
line.add_input("x", 3)
line.add_linear("y", {"x": np.zeros((1, 3))}, bias=np.zeros(1), cov=1.0)
learners = {"half-life 40 rows": Online(line, half_life=40), "forgets nothing": Online(line, forgetting=1.0)}
traces = {name: [] for name in learners}
for _ in range(150):
    weight = weight + 0.1 * rng.normal(size=weight.shape)
    inputs = rng.normal(size=(5, 3))
    for name, learner in learners.items():
        learner.update({"x": inputs, "y": inputs @ weight.T + 0.2 * rng.normal(size=(5, 1))})
        traces[name].append(learner.net["y.x.weight"].value[0, 0])
    truth.append(weight[0, 0])

fig, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
ax.plot(truth, "k", linewidth=1, label="truth")
for name, trace in traces.items():
    ax.plot(trace, label=name)
ax.set(xlabel="block of five rows", ylabel="a weight")
ax.legend()
error = {name: np.abs(np.subtract(trace, truth))[50:].mean() for name, trace in traces.items()}
print({name: round(value, 3) for name, value in error.items()})
assert error["half-life 40 rows"] < 0.4 * error["forgets nothing"]

# %% [markdown]
# ## The answer
#
# Everything can move at once, with no phases and no clock but the tick, and it learns; not in a world that is replaced at
# every tick, though. A net of $L$ edges needs $2L$ ticks for its errors to come home. Faster than that, errors meet the
# activities of other samples. Twice as slow, it learns as well as in batches, though half of what its weights hear is stale.
