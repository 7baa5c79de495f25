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
# # What can you ask a network that you have trained?
#
# Usually one thing: *here is an input, what is the output?* Read as a Gaussian Bayes net, the same network answers any
# question of the form *given this part, what of that part?* Inputs from outputs, hidden layers from both, half a picture
# from the other half, and what would have been.
#
# A small classifier of handwritten digits, trained as usual, then asked.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import gbn
from gbn.display import plots

plt.rcParams["figure.dpi"] = 80
torch.manual_seed(0)
rng = np.random.default_rng(0)

images, labels = load_digits(return_X_y=True)
images = images / 16
order = rng.permutation(len(images))
train, test = order[:1400], order[1400:]

model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 10)).double()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
x, y = torch.from_numpy(images[train]), torch.from_numpy(labels[train])
for _ in range(20):
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()


def pictures(rows, limits=(0, 1), cmap="gray"):
    """A grid of images: title -> images of one row."""
    count = len(next(iter(rows.values())))
    figure, axes = plt.subplots(len(rows), count, figsize=(0.85 * count + 1.2, 0.95 * len(rows)), squeeze=False)
    for line, (title, row) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, row, strict=True):
            axis.imshow(picture.reshape(8, 8), cmap=cmap, vmin=limits[0], vmax=limits[1])
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(title, rotation=0, ha="right", va="center")
    figure.tight_layout(pad=0.3)


def accuracy(logits, shown):
    return (logits.argmax(axis=1) == labels[shown]).mean()


# %% [markdown]
# ## From a module to a net
#
# `convert` names every layer as the module does: `0`, `2` and `4` are its linear layers, `4.label` is the label below
# the logits. Hidden layers get a little noise. One thing a classifier lacks is an opinion on what pictures look like, so
# the pixels are given one: the mean and covariance of the training images.

# %%
net = gbn.convert(model, images[:2], noise=0.05, likelihood="categorical")
net.set_prior("input", images[train].mean(0), np.cov(images[train].T) + 1e-3 * np.eye(64))
shown = test[:200]
plain = accuracy(net.forward({"input": images[shown]})["4"], shown)
print(f"{plain:.1%} of {len(shown)} test images are classified right")
assert plain > 0.93
net

# %% [markdown]
# ## What does a hidden layer think?
#
# Ask for the sixteen units of the second layer: first with the image alone, then with the label known as well. How far
# does the label move each unit, in standard deviations? Two images: one that the network gets wrong, and one that it gets
# right.

# %%
guesses = net.forward({"input": images[test]})["4"].argmax(1)
asked = np.concatenate([test[guesses != labels[test]], test[guesses == labels[test]][:20]])
before = net.query(["2"], {"input": images[asked]})
after = net.query(["2"], {"input": images[asked], "4.label": labels[asked]}, operating_point="equilibrium")
moved = (after.mean["2"] - before.mean["2"]) / before.std["2"]
count = int((guesses != labels[test]).sum())
wrong, right = int(np.abs(moved[:count]).max(axis=1).argmax()), count

figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.8), width_ratios=(1, 1, 3.2), layout="constrained")
for axis, case in zip(axes, (wrong, right), strict=False):
    axis.imshow(images[asked[case]].reshape(8, 8), cmap="gray")
    guess = net.forward({"input": images[asked[[case]]]})["4"].argmax()
    axis.set(xticks=[], yticks=[], title=f"a {labels[asked[case]]}, read as {guess}")
for shift, (name, case) in zip((-0.2, 0.2), {"read wrongly": wrong, "read rightly": right}.items(), strict=True):
    axes[2].bar(np.arange(16) + shift, moved[case], 0.4, label=name)
axes[2].set(xlabel="unit of the second layer", ylabel="moved by the label (std)", xticks=range(16))
axes[2].legend()
largest = np.abs(moved).max(axis=1)
print(f"largest move of a unit: {largest[:count].mean():.2f} std on average over {count} images read wrongly, ", end="")
print(f"{largest[count:].mean():.2f} over 20 read rightly")
assert largest[:count].mean() > 3 * largest[count:].mean()

# %% [markdown]
# Where the network is right and sure, the label is no news, and nothing moves. Where it is wrong, the label tells the layer
# which of its units misled the output, and by how much. That is credit assignment, told as inference.
#
# ## What if half of the picture is missing?
#
# `NaN` means *not seen*. Nothing has to be filled in by hand: the posterior of the missing pixels is there for the
# asking, and the label's probabilities follow from it.

# %%
shares, scores = (
    (0.25, 0.5, 0.75),
    {"missing pixels as NaN": [], "filled with the mean image": [], "filled with black": []},
)
for share in shares:
    partial = images[shown].copy()
    partial[rng.random(partial.shape) < share] = np.nan
    post = net.query(["input", "4"], {"input": partial})
    scores["missing pixels as NaN"].append(accuracy(post.mean["4"], shown))
    for name, filling in (("filled with the mean image", images[train].mean(0)), ("filled with black", 0.0)):
        filled = np.where(np.isnan(partial), filling, partial)
        scores[name].append(accuracy(net.forward({"input": filled})["4"], shown))
    if share == 0.5:
        axis = plots.posterior_images(post, "input", (8, 8), samples=10, limits=(0, 1))
        axis.set(facecolor="lightsteelblue", title="half of the pixels missing (blue)")

print(f"{'pixels missing':<28}" + "".join(f"{share:>8.0%}" for share in shares))
for name, row in scores.items():
    print(f"{name:<28}" + "".join(f"{score:>8.1%}" for score in row))
for nan, mean, black in zip(*scores.values(), strict=True):
    assert nan > mean > black
assert scores["missing pixels as NaN"][1] - scores["filled with the mean image"][1] > 0.05

# %% [markdown]
# ## What if the picture is only roughly known?
#
# *Soft* evidence says: about this value, give or take so much. Here a camera adds noise of standard deviation 0.3 to
# every pixel, and the net is told so.

# %%
noisy = images[shown] + 0.3 * rng.normal(size=(len(shown), 64))
post = net.query(["input", "4"], soft={"input": (noisy, 0.3**2)})
pictures({"image": images[shown[:10]], "camera": noisy[:10], "posterior mean": post.mean["input"][:10]})


def rmse(guess):
    return np.sqrt(((guess - images[shown]) ** 2).mean())


told, untold = accuracy(post.mean["4"], shown), accuracy(net.forward({"input": noisy})["4"], shown)
print(f"error of a pixel: {rmse(noisy):.2f} in the camera, {rmse(post.mean['input']):.2f} in the posterior")
print(f"classified right: {untold:.1%} of what the camera shows, {told:.1%} with the noise told")
assert rmse(post.mean["input"]) < 0.6 * rmse(noisy)
assert told > untold

# %% [markdown]
# ## What does a three look like?
#
# Run it backwards: observe the label, ask for the image. The answer is a distribution over images. Its mean, for the labels
# 0 to 9, is shown here against the mean of all images: red where the network wants a pixel brighter, blue where darker.

# %%
dreams = net.query(["input"], {"4.label": np.arange(10)}, operating_point="equilibrium")
pictures({"labels 0 to 9": dreams.mean["input"] - images[train].mean(0)}, limits=(-0.25, 0.25), cmap="RdBu_r")
spread = dreams.std["input"].mean() / np.sqrt(np.diag(np.cov(images[train].T)).mean())
print(f"a label says little: the pixels stay {spread:.0%} as uncertain as they were without it")
assert 0.5 < spread < 1
assert (net.forward({"input": dreams.mean["input"]})["4"].argmax(1) == np.arange(10)).all()

# %% [markdown]
# ## What would have been, had this pixel been dark?
#
# A counterfactual keeps what is known of *this* sample, its noises included, changes one thing, and looks again. Sixty-four
# of them, one for each pixel that might have been dark, make a map of what the network held on to. Red: without this
# pixel the logit of the true label would have been lower.

# %%
chosen = [int(test[labels[test] == digit][0]) for digit in (0, 3, 4, 7, 8)]
maps = []
for index in chosen:
    fact = {"input": np.tile(images[index], (64, 1)), "4.label": np.full(64, labels[index])}
    darkened = np.where(np.eye(64, dtype=bool), 0.0, images[index])
    would = net.counterfactual(fact, {"input": darkened}, ["4"]).mean["4"][:, labels[index]]
    was = net.query(["4"], {name: value[:1] for name, value in fact.items()}).mean["4"][0, labels[index]]
    maps.append(was - would)

figure, axes = plt.subplots(2, len(chosen), figsize=(1.3 * len(chosen), 2.7), layout="constrained")
bound = np.abs(maps).max()
for column, (index, drop) in enumerate(zip(chosen, maps, strict=True)):
    axes[0, column].imshow(images[index].reshape(8, 8), cmap="gray")
    axes[1, column].imshow(drop.reshape(8, 8), cmap="RdBu_r", vmin=-bound, vmax=bound)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
dark = np.concatenate([drop[images[index] == 0] for index, drop in zip(chosen, maps, strict=True)])
print(f"largest change by a pixel that was lit: {bound:.2f}; by one that was dark anyway: {np.abs(dark).max():.1e}")
assert np.abs(dark).max() < 1e-9 < bound

# %% [markdown]
# ## Who answers?
#
# Four engines take the same question. `exact` is the yardstick, here taken at the most probable point; the table says
# how far the others are from it, in standard deviations and nats, and what they took. Time is relative to `exact`.

# %%
table = gbn.compare_engines(
    net,
    ["0", "2"],
    {"input": images[shown[:8]], "4.label": labels[shown[:8]]},
    options={"exact": {"operating_point": "equilibrium"}},
    repeats=1,
)
answers = {(answer.engine, answer.target): answer for answer in table.answers}
assert answers["bp", "2"].mean_error < 0.1
assert answers["vmp", "2"].variance_ratio < 1
table

# %% [markdown]
# Belief propagation is exact on a chain of layers, up to where the curve is straightened. Mean field (`vmp`) finds the
# same means and is too sure of them. One sweep of predictive coding gives a rough mean and no spread, and is by far the
# cheapest.
#
# ## The answer
#
# You can ask a trained network what its hidden layers think, what a missing pixel was, what the output says when the
# input is uncertain, what an input for a given output looks like, and what would have been. It is one call,
# `net.query(targets, evidence)`; evidence may be any part, whole, partial or soft.
