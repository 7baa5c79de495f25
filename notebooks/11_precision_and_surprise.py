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
# # Expecting an eight, shown a three: who wins?
#
# "A large error at the top is surprise, at the bottom override." When the senses contradict an expectation, something has
# to give: either we are surprised and change our mind, or we do not believe our eyes. What decides? And can the amount of
# surprise tell a strange picture from a normal one?

# %%
import matplotlib.pyplot as plt
import numpy as np

from gbn.equivalence import claims
from gbn.equivalence.claims import precision

# %% [markdown]
# ## A tug of war in four vertices
#
# An expectation (+1) hangs above two hidden levels, and the senses (−1) below. Each of the three steps between them has a
# variance. The contradiction of two units must fit into the three steps, and the most probable explanation gives each
# step the share of its variance: the least precise one gives way.

# %%
fig, axes = plt.subplots(1, 3, figsize=(9, 2.6), sharey=True, layout="constrained")
for ax, weak in zip(axes, precision.LEVELS, strict=True):
    told = precision.contradiction([4.0 if level == weak else 0.5 for level in precision.LEVELS])
    ax.bar(precision.LEVELS, [told[level] for level in precision.LEVELS], color=["C3", "C7", "C0"])
    ax.set(title=f"{weak} imprecise: percept {told['percept']:+.1f}")
    assert np.isclose(told[weak], 0.8)
_ = axes[0].set_ylabel("share of the error")

# %% [markdown]
# With an imprecise top the percept stays with the senses: *surprise*. With an imprecise bottom it goes over to the
# expectation: *override*. Same contradiction, same net.
#
# ## Now with pictures
#
# A generative model of handwritten digits: a class, 16 causes, 64 pixels, learned by exact EM in a second. Above the
# pixels we hang an eye: what is seen is the clean image plus the noise of the senses.

# %%
rng = np.random.default_rng(0)
images, labels, held, answers = precision.digits(1000, 500, rng)
model = precision.generator(images, labels, rng)


def with_eye(variance):
    net = model.copy()
    net.add("seen", "Identity", ["x"], cov=variance)
    return net


three = held[answers == 3][1:2]
eight = np.eye(10)[8][None]
with_eye(0.1)

# %% [markdown]
# Insist that it is an eight (`class` is evidence), show a three, and ask what the clean image was, for better and worse
# eyes.

# %%
variances = [1e-3, 0.03, 0.1, 0.3, 1.0, 10.0]
fig, axes = plt.subplots(1, len(variances) + 1, figsize=(9, 1.7), layout="constrained")
axes[0].imshow(three.reshape(8, 8), cmap="gray", vmin=0, vmax=1)
axes[0].set_title("shown")
shares = []
for ax, variance in zip(axes[1:], variances, strict=True):
    net = with_eye(variance)
    post = net.query(["x", "h"], {"seen": three, "class": eight})
    ax.imshow(post.mean["x"].reshape(8, 8), cmap="gray", vmin=0, vmax=1)
    ax.set_title(f"eye {variance:g}")
    errors = {
        "eye": (post.mean["x"] - three) ** 2 / variance,
        "pixels": post.messages["x"] ** 2 * net.noise("x").matrix().diagonal(),
        "causes": post.messages["h"] ** 2 * net.noise("h").matrix().diagonal(),
    }
    total = sum(error.sum() for error in errors.values())
    shares.append([error.sum() / total for error in errors.values()])
for ax in axes:
    ax.set(xticks=[], yticks=[])

# %%
shares = np.array(shares)
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.stackplot(variances, shares.T, labels=["eye (override)", "pixels", "causes (surprise)"], colors=["C0", "C7", "C3"])
ax.set(
    xscale="log", xlabel="variance of the eye", ylabel="share of the error", ylim=(0, 1), title="where the error sits"
)
ax.legend(loc="lower left")

assert shares[0, 0] < 0.1
assert shares[-1, 0] > 0.7
assert (np.diff(shares[:, 0]) > 0).all()

# %% [markdown]
# A sharp eye sees the three and the error is higher up: whoever expected an eight is surprised. A poor eye sees the eight
# it was told to see, and the error stays with the eye, explained away as noise.
#
# ## Surprise as an alarm
#
# A model of digits can also say how strange a picture is: $-\log p(\text{image})$ in nats, and its share at each level.
# Here are normal digits, digits moved by one pixel, turned by a quarter, made *adversarial* for a classifier (each pixel
# takes a step of 0.15 in the direction that hurts most: minus the message at the input), and plain noise.

# %%
found = claims.run("precision")
sets = found.series["sets"]
fig, axes = plt.subplots(len(sets), 8, figsize=(6, 4), layout="constrained")
for row, (name, pictures) in zip(axes, sets.items(), strict=True):
    for ax, picture in zip(row, pictures, strict=False):
        ax.imshow(picture.reshape(8, 8), cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")

# %%
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
usual = found.series["usual"]["all"]
bins = np.linspace(-60, 400, 90)
for name, surprise in found.series["surprise"].items():
    ax.hist(surprise["all"] - usual, bins=bins, alpha=0.6, label=name)
ax.set(xlabel="nats more surprising than a typical digit", ylabel="images", yscale="log")
_ = ax.legend()

# %% [markdown]
# How well does that separate the strange from the normal, beside the usual score, the classifier's own doubt
# (one less the largest softmax)? AUROC ½ is guessing, 1 is perfect.

# %%
found.plot()
found

# %%
rows = {row["input"]: row for row in found.table}
assert rows["turned"]["AUROC, surprise"] > 0.98
assert rows["turned"]["AUROC, max-softmax"] < 0.5
assert rows["noise"]["AUROC, surprise"] > 0.98 > rows["noise"]["AUROC, max-softmax"]
assert rows["moved"]["AUROC, surprise"] > rows["moved"]["AUROC, max-softmax"]
assert 0.6 < rows["adversarial"]["AUROC, surprise"] < rows["adversarial"]["AUROC, max-softmax"]

# %% [markdown]
# - **Noise and turned digits**: surprise knows at once. The classifier is *more* sure of a turned digit than of a normal
#   one: its doubt is worse than guessing.
# - **Moved digits**: surprise is ahead.
# - **Adversarial digits** are the honest exception: a small step in every pixel is small in nats, too. At this strength the
#   classifier's doubt notices more than the surprise does.
#
# The table says *where* each is strange. Noise is strange in its pixels only, it has no causes to speak of; a turned
# digit is strange all the way up.
#
# ## The answer
#
# The level does not decide, the precision does. An error goes where the model is least sure of itself: at the top it reads
# as surprise, at the bottom as override. Summed up, surprise is a better alarm than a classifier's doubt for pictures that
# are far from anything known, and not for those made to be close.
