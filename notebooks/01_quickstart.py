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
# # A trained network is a Gaussian Bayes net
#
# Take any feed-forward network and call every vertex of its computation graph a random variable,
#
# $$v_i \mid \text{parents} \sim N\big(f_i(\text{parents}),\, Q_i\big).$$
#
# The operations are the means, the loss is the likelihood of the clamped outputs. What does that buy?
# Three things, tried here on handwritten digits: hidden layers get **posteriors**, **missing inputs** can be inferred,
# and **local messages** between neighbours give the very gradients that backprop gives.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import gbn

torch.manual_seed(0)
rng = np.random.default_rng(0)

images, labels = load_digits(return_X_y=True)
images = images / 16
order = rng.permutation(len(images))
train, test = order[:1400], order[1400:]

# %% [markdown]
# ## A network, trained as usual

# %%
model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 10)).double()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
x, y = torch.from_numpy(images[train]), torch.from_numpy(labels[train])
for _ in range(20):
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()

accuracy = (model(torch.from_numpy(images[test])).argmax(1).numpy() == labels[test]).mean()
print(f"test accuracy {accuracy:.1%}")
assert accuracy > 0.9

# %% [markdown]
# ## The same network, as a Bayes net
#
# One line. Affine outputs become the latent variables (`noise` is their variance), activations stay deterministic, and
# `likelihood="categorical"` hangs a label under the logits. Names are those of `state_dict`.

# %%
net = gbn.convert(model, images[:2], noise=0.05, likelihood="categorical")
net

# %%
forward = net.forward({"input": images[test]})
assert np.allclose(forward["4"], model(torch.from_numpy(images[test])).detach().numpy(), rtol=1e-10)

# %% [markdown]
# ## What does a hidden layer think, once it knows the label?
#
# Given the image alone, a hidden layer is where the forward pass puts it, give or take its noise. The label is evidence
# too: it moves the layers that contributed to a mistake.

# %%
wrong = test[forward["4"].argmax(1) != labels[test]]
right = test[forward["4"].argmax(1) == labels[test]][: len(wrong)]
shift = {}
for name, rows in {"classified right": right, "classified wrong": wrong}.items():
    before = net.query(["2"], {"input": images[rows]})
    after = net.query(["2"], {"input": images[rows], "4.label": labels[rows]})
    shift[name] = (np.abs(after.mean["2"] - before.mean["2"]) / before.std["2"]).max(axis=1)
    assert (after.std["2"] <= before.std["2"] + 1e-12).all()

for name, values in shift.items():
    print(f"{name}: the second layer moves by {values.mean():.2f} standard deviations at most, on average")
assert shift["classified wrong"].mean() > 3 * shift["classified right"].mean()

# %% [markdown]
# ## Filling in the missing half of an image
#
# Give the pixels a Gaussian prior fitted to the training images, hide the lower half, and ask for it. The upper half
# informs it through the prior, the label through the network run backwards. `operating_point="equilibrium"` linearises at
# the most probable explanation (the Laplace approximation).

# %%
net.set_prior("input", images[train].mean(0), np.cov(images[train].T) + 1e-3 * np.eye(64))
shown = test[:64]
partial = images[shown].copy()
partial[:, 32:] = np.nan

alone = net.query(["input"], {"input": partial})
with_label = net.query(["input"], {"input": partial, "4.label": labels[shown]}, operating_point="equilibrium")


def rmse(guess):
    return np.sqrt(((guess - images[shown])[:, 32:] ** 2).mean())


mean_image = rmse(np.broadcast_to(images[train].mean(0), (64, 64)))
print(f"mean image {mean_image:.3f}, upper half {rmse(alone.mean['input']):.3f}, ", end="")
print(f"upper half and label {rmse(with_label.mean['input']):.3f}")
assert rmse(with_label.mean["input"]) < rmse(alone.mean["input"]) < mean_image

inside = np.abs(with_label.mean["input"] - images[shown])[:, 32:] < 1.645 * with_label.std["input"][:, 32:]
print(f"{inside.mean():.0%} of the hidden pixels lie in their 90 % interval")
assert 0.85 < inside.mean() < 0.99

# %%
rows = {
    "image": images[shown],
    "observed": partial,
    "posterior mean": with_label.mean["input"],
    "posterior std": with_label.std["input"],
}
figure, axes = plt.subplots(4, 8, figsize=(8, 4.4))
for line, (title, pictures) in zip(axes, rows.items(), strict=True):
    for axis, picture in zip(line, pictures, strict=False):
        axis.imshow(picture.reshape(8, 8), cmap="gray", vmin=0, vmax=0.4 if title == "posterior std" else 1)
        axis.set_xticks([])
        axis.set_yticks([])
    line[0].set_ylabel(title, rotation=0, ha="right", va="center")
figure.tight_layout()

# %% [markdown]
# ## Local messages are backprop's gradients
#
# Each vertex hears only from its children, $\lambda_i = \sum_c J_{c \leftarrow i}^\top \lambda_c$, and a weight's message is
# $-\partial L/\partial\theta$. One sweep from the output down is enough; the many small synchronous steps of predictive
# coding arrive at the same place, slowly.

# %%
batch = train[:64]
report = gbn.compare(model, images[batch], labels[batch], loss="cross_entropy")
assert report.agrees
report

# %%
errors = {}
for rounds in (10, 30, 100):
    slow = gbn.compare(
        model, images[batch], labels[batch], loss="cross_entropy", schedule="parallel", step_size=0.1, max_rounds=rounds
    )
    errors[rounds] = slow.overall["relative_error"]
    print(f"{rounds:4d} synchronous rounds at step 0.1: relative error {errors[rounds]:.1e}")
assert errors[10] > errors[30] > errors[100] > 1e-6

# %% [markdown]
# So the network *is* a Gaussian Bayes net: its hidden layers have posteriors that respond to evidence, its inputs can be
# inferred from its outputs, and the gradient of its loss is a matter between neighbours, in one sweep, at the cost of a
# backward pass.
