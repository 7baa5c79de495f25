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
# # Hebbian learning is PCA. How can a chain of PCAs be gradient descent?
#
# "Cells that fire together wire together" is the oldest learning rule there is, and for one layer it is known what it
# does: principal component analysis. Stack such layers and you would expect PCA of PCA. Yet the same products of local
# quantities, in a deep net, are supposed to be backprop. Both cannot be true. Or can they?
#
# In a Gaussian Bayes net the rule reads
#
# $$\Delta W \;\propto\; \lambda_x\, u^\top,$$
#
# what the child gets wrong, times what the parent does. Nothing else is ever used below.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import gbn
from gbn.equivalence import claims
from gbn.equivalence.claims import hebb

images, labels = load_digits(return_X_y=True)
images = (images[:1000] - images[:1000].mean(axis=0)) / 16
labels = labels[:1000]

# %% [markdown]
# ## One layer, nothing clamped but the image
#
# Eight causes, 64 pixels. The causes are hidden: the net has to settle on them for every image, and then each weight moves
# by the product at its two ends, forgetting a little.

# %%
rng = np.random.default_rng(0)
net = gbn.GaussianBayesNet()
net.add_input("z", 8, mean=0.0, cov=1.0)
net.add_linear("y", {"z": 0.1 * rng.normal(size=(64, 8))}, cov=0.05)
learned = net.fit(
    {"y": images},
    "local",
    prediction="live",
    optimizer="sgd",
    learning_rate=0.2,
    weight_decay=0.1,
    batch_size=None,
    epochs=120,
).net
learned

# %% [markdown]
# Is it the product of two local numbers? Settle one image and look at the message at the weight: it is the outer product
# of the pixels' errors and the causes.

# %%
post = learned.query(["z"], {"y": images[:1]}, engine="pc", prediction="live")
assert np.allclose(post.messages["y.z.weight"], np.outer(post.messages["y"], post.mean["z"]), atol=1e-12)

# %% [markdown]
# And what has it found? Compare with the singular value decomposition, which saw all images at once.

# %%
directions, _ = hebb.principal(images, 8)
basis = np.linalg.qr(learned["y.z.weight"].value)[0]
overlap = np.linalg.svd(basis.T @ directions)[1]
print("cosines of the angles between the two subspaces:", overlap.round(4))
assert overlap.min() > 0.99

fig, axes = plt.subplots(3, 9, figsize=(9, 3.2), layout="constrained")
projections = {"image": np.eye(64), "Hebb": basis @ basis.T, "SVD": directions @ directions.T}
for row, (name, projection) in zip(axes, projections.items(), strict=True):
    for ax, image in zip(row, images[:9], strict=True):
        ax.imshow((image @ projection).reshape(8, 8), cmap="gray", vmin=-0.6, vmax=0.6)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)

# %% [markdown]
# Rebuilt from eight numbers, the digits look the same whether those come from an SVD or from a thousand synapses minding
# their own business.
#
# ## A chain, clamped at both ends
#
# Now a chain: image → two units → something to be said. The very same rule; only what is clamped at the far end differs.
# Once the chain is taught its own input, once it is taught which digit it sees.

# %%
targets = {"its own input": images, "the digit": np.eye(10)[labels] - 0.1}
middle = {}
for name, y in targets.items():
    chain = hebb.chain(64, 2, y.shape[1], np.random.default_rng(1))
    fitted = chain.fit({"x": images, "y": y}, "local", batch_size=None, learning_rate=0.02, epochs=400).net
    middle[name] = np.asarray(fitted["h.x.weight"].value).T

spaces = {
    "its own input": hebb.principal(images, 2)[0],
    "the digit": hebb.reduced_rank(images + 1e-3 * rng.normal(size=images.shape), targets["the digit"], 2),
}


def apart(a, b):
    a, b = np.linalg.qr(images @ a)[0], np.linalg.qr(images @ b)[0]
    return np.degrees(np.arccos(np.clip(np.linalg.svd(a.T @ b)[1].min(), -1, 1)))


fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, (name, weights) in zip(axes, middle.items(), strict=True):
    h = images @ weights
    points = ax.scatter(*(h / h.std(axis=0)).T, c=labels, cmap="tab10", s=8)
    angles = {other: apart(weights, space) for other, space in spaces.items()}
    print(f"taught {name}: {angles['its own input']:.0f}° from PCA, {angles['the digit']:.0f}° from regression")
    assert angles[name] < 8 < 60 < max(angles.values())
    ax.set(title=f"the middle layer, taught {name}", xticks=[], yticks=[])
_ = fig.colorbar(points, ax=axes, label="digit")

# %% [markdown]
# Taught its own input, the chain keeps the two directions in which images vary most: PCA again. Taught the digit, it keeps
# the two directions that say most about digits (statisticians call this reduced-rank regression).
#
# ## Measured
#
# The experiment below checks every step on a smaller example, where all can be compared with closed forms: the angle to
# the SVD under Hebbian steps and under exact EM, the product rule against the slope of the energy, and against the slope
# of the loss once both ends are clamped.

# %%
found = claims.run("hebb")
found.plot()
found

# %%
figures = found.figures
assert figures["angle to SVD, Hebb"] < 1e-2
assert figures["angle to SVD, EM"] < 1e-8
assert np.isclose(figures["noise variance, EM"], figures["noise variance, discarded eigenvalues"])
assert figures["chain taught a target: products against the slope of the loss"] < 1e-6
assert figures["chain taught a target: angle to reduced-rank regression"] < 1e-3
assert figures["chain taught a target: angle to SVD"] > 1

# %% [markdown]
# Two remarks on the way. Exact EM learns the scale and the noise as well, to the last digit of the closed form. Hebbian
# steps on settled causes know no doubt about them, so that without forgetting the weights grow and grow: that is what the
# decay is for, in Oja's rule of 1982 as here.
#
# ## The answer
#
# Hebb's rule has no opinion about PCA. It reduces the energy of whatever is clamped. With one end free, the energy is the
# image's, and the rule finds principal components. With both ends clamped, what the child "gets wrong" arrives from the
# target, the product is the gradient of the loss, and the chain does gradient descent. Same synapse, different question.
