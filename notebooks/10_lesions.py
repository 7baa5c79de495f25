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
# # Cut it in half: does it go on?
#
# "A brain continues to function when you cut its substrate in half." Would a network of local messages? And is that a virtue
# of locality, or would backprop do as well? Everything here is damaged twice: once for local messages, once for backprop.

# %%
import matplotlib.pyplot as plt
import numpy as np

from gbn.equivalence import claims
from gbn.equivalence.claims.lesions import late, lost_messages
from gbn.equivalence.claims.lockstep import accuracy
from gbn.equivalence.claims.networks import tanh_classifier
from gbn.equivalence.claims.precision import digits
from gbn.learning.stream import Stream, shuffled
from gbn.surgery import between_halves, lesion, restore

rng = np.random.default_rng(0)
x, y, held, answers = digits(1200, 450, rng)
data = {"x": x, "label": y}

# %% [markdown]
# ## The knife
#
# A network for digits with two hidden layers, trained by local messages. `between_halves` names every weight that leads from
# the first half of one hidden layer to the second half of the next, or back; `lesion` puts a mask on them. Lost weights stay
# where they are, unheard, and `restore` takes the masks away.

# %%
net = tanh_classifier((64, 32, 32, 10), rng)
net = net.fit(data, "local", epochs=12, learning_rate=3e-3).net
cut = between_halves(net)
halves = lesion(net, cut)
fig, axes = plt.subplots(1, 2, figsize=(6, 2.8), layout="constrained")
for ax, weight, title in (
    (axes[0], net["a2.h1.weight"].value, "before"),
    (axes[1], halves.forward({"x": x[:1]})["a2.h1.weight.left"], "cut in half"),
):
    ax.imshow(weight, cmap="RdBu", vmin=-1, vmax=1)
    ax.set(title=title, xlabel="first hidden layer", ylabel="second")
for name, damaged in {"intact": net, "cut": halves, "restored": restore(halves, net)}.items():
    print(f"{name:9} {accuracy(damaged, held, answers):.1%}")
assert cut["a2.h1.weight"].sum() == 32 * 32 / 2
assert accuracy(restore(halves, net), held, answers) == accuracy(net, held, answers)

# %% [markdown]
# ## At once, and after learning anew

# %%
found = claims.run("lesions")
found.plot()
found

# %%
figures = found.figures
assert found.holds
assert figures["cut in half"] > 0.6
assert figures["cut in half, learned anew locally"] > figures["before"] - 0.03
assert figures["gradient error, local, largest"] < 1e-12

# %% [markdown]
# It goes on. But so does backprop, and for a good reason: on what is left of the net, local messages *are* backprop (the
# gradient error is rounding). A damaged network is a network. Losing units costs more than losing edges, and three quarters
# of them more than three epochs can mend.
#
# ## Where the two differ: on the way
#
# Now the parts are whole but the lines are bad: every message is lost with some probability. A backward pass sends each
# message once. Local rounds send it again and again, and each vertex works with what it heard last.

# %%
shown = {"x": x[:16], "label": y[:16]}
drops = [0.0, 0.05, 0.1, 0.2, 0.4, 0.6]
rows = [lost_messages(net, shown, drop, rounds, 10) for drop in drops for rounds in (5, 20)]
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot(drops, [row["one backward pass"] for row in rows[::2]], "x--", label="one backward pass")
for k, rounds in enumerate((5, 20)):
    ax.plot(drops, [row["local rounds"] for row in rows[k::2]], "o-", label=f"{rounds} local rounds")
ax.set(xlabel="probability that a message is lost", ylabel="relative error of the gradient")
ax.legend()
assert rows[7]["one backward pass"] > 0.3
assert rows[7]["local rounds"] < 0.02

# %% [markdown]
# Late messages do no lasting harm either. However they are delayed, as long as the delay has a bound, the rounds arrive at
# the same gradient (the theorem is Bertsekas' and Tsitsiklis'); it only takes longer.

# %%
slow = [late(net, shown, delay) for delay in (0, 2, 5, 10, 20)]
for row in slow:
    print(f"up to {row['late']:2d} rounds late: {row['rounds']:3.0f} rounds, error {row['error']:.0e}")
assert all(row["arrived"] and row["error"] < 1e-9 for row in slow)
assert slow[-1]["rounds"] > slow[0]["rounds"]

# %% [markdown]
# ## Cut while it lives
#
# At last all at once: a stream in which everything moves at every tick (notebook 09), over lines that lose one signal in
# twenty, activities and messages alike; after a while the net is cut in half, and goes on.

# %%
world = shuffled(data, 64)
options = {"period": 24, "optimizer": "adam", "learning_rate": 1e-3, "drop": 0.05}
whole = Stream(tanh_classifier((64, 32, 32, 10), rng), **options)
curve = [accuracy(whole.net, held, answers)]
for _ in range(5):
    whole.run(world, ticks=24 * 20)
    curve.append(accuracy(whole.net, held, answers))
severed = Stream(lesion(whole.net, between_halves(whole.net)), **options)
curve.append(accuracy(severed.net, held, answers))
for _ in range(3):
    severed.run(world, ticks=24 * 20)
    curve.append(accuracy(severed.net, held, answers))
fig, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
ax.plot([0, 20, 40, 60, 80, 100, 100, 120, 140, 160], curve, "o-")
ax.axvline(100, color="k", linestyle=":", linewidth=1)
ax.set(xlabel="samples seen (the line: cut in half)", ylabel="held-out accuracy", ylim=(0, 1))
print(f"before {curve[5]:.1%}, cut {curve[6]:.1%}, later {curve[-1]:.1%}")
assert curve[-1] > curve[5] - 0.05

# %% [markdown]
# ## The answer
#
# Cut in half, the net loses a few points and learns them back. That is no privilege of local messages: backprop on the
# damaged net has the same gradient and comes back as far. Local rounds are better at something else. They need no message to
# arrive the first time, or in order, or in time; a backward pass that loses a message has lost all that lies below.
