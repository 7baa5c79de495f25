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
# # Is every trained network a kernel machine? And does it matter how it was trained?
#
# In 2020 Pedro Domingos made a striking remark: whatever gradient descent learns can be written as a kernel machine. The
# prediction at $x$ is where it started, plus what each training example taught:
#
# $$f_\text{end}(x) = f_\text{start}(x) + \sum_i \text{(how much } x \text{ resembles } x_i) \times \text{(how wrong we were about } x_i).$$
#
# The resemblance is the *path kernel*. Predictive coding and EM train the same net by other rules. Do they have a kernel,
# and is it the same one?

# %%
import matplotlib.pyplot as plt
import numpy as np

from gbn.equivalence import claims
from gbn.equivalence.claims import kernels

# %% [markdown]
# ## Measure a kernel by nudging
#
# No formula is needed. Take a net, six examples and a rule. Raise the target of one example a little, let the rule make
# one short step, and see where the predictions moved. Here example 3 (the dotted line) is nudged, under four rules.

# %%
rng = np.random.default_rng(0)
net = kernels.network(units=10, noise=0.1, rng=rng)
x = np.linspace(-1.5, 1.5, 6)[:, None]
data = {"x": x, "y": np.sin(2 * x) + 0.5 * x}
grid = np.linspace(-2, 2, 81)[:, None]

fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
nudged = {}
for rule in kernels.RULES:
    nudged[rule] = kernels.kernel(rule, net, data, grid)[:, 3]
    style = {"linestyle": "--", "color": "k"} if rule == "fixed prediction" else {"linewidth": 2.5}
    ax.plot(grid, nudged[rule] / np.abs(nudged[rule]).max(), label=rule, **style)
ax.axvline(x[3, 0], color="k", linestyle=":", linewidth=1)
ax.set(xlabel="x", ylabel="how far the prediction moves", title="one nudge, four rules")
ax.legend()
assert np.allclose(nudged["backprop"], nudged["fixed prediction"], rtol=1e-6)

# %% [markdown]
# The dashes lie on backprop: predictive coding with fixed prediction is the same rule. Live prediction, where the hidden
# layer settles before it learns, bends the curve a little. EM spreads the lesson differently: an M-step is a regression,
# which knows what the other examples say and teaches where they do not.
#
# ## Add the kernels up along the path
#
# Now train, measure the kernel at every step, and add up: kernel × error, over all examples and steps. If the net is a
# kernel machine, this must be all that the predictions moved.

# %%
found = claims.run("kernels")
found

# %%
paths = found.series["paths"]
samples = found.series["samples"]
fig, axes = plt.subplots(1, 4, figsize=(10, 2.8), sharey=True, layout="constrained")
for ax, (rule, path) in zip(axes, paths.items(), strict=True):
    ax.plot(found.series["grid"], path["moved"][samples:], linewidth=3, color="0.75", label="moved")
    ax.plot(found.series["grid"], path["explained"][samples:], "C3--", label="explained")
    ax.set(title=rule, xlabel="x")
axes[0].set_ylabel("prediction: end less start")
axes[0].legend()

rows = {row["rule"]: row for row in found.table}
assert found.holds
assert rows["backprop"]["not explained"] < 0.01
assert rows["EM"]["not explained"] > 10 * rows["backprop"]["not explained"]

# %% [markdown]
# For backprop the two curves are one: it is a kernel machine, and its kernel says everything. For live prediction nearly
# so. For EM a part is missing: an M-step is not driven by errors alone. It moves even where every target is met, for the
# likelihood also asks that the net be no more sensitive to its own noise than it has to be.
#
# ## Four kernels
#
# Kernel machines have symmetric kernels: I resemble you as much as you resemble me.

# %%
fig, axes = plt.subplots(1, 4, figsize=(10, 2.9), layout="constrained")
for ax, (rule, path) in zip(axes, paths.items(), strict=True):
    table = path["path kernel"][:samples]
    ax.imshow(table / np.abs(table).max(), cmap="RdBu", vmin=-1, vmax=1)
    ax.set(title=f"{rule}\nasymmetry {rows[rule]['asymmetry']:.1%}", xticks=[], yticks=[], xlabel="example nudged")
axes[0].set_ylabel("example moved")

assert rows["backprop"]["asymmetry"] < 1e-4
assert rows["fixed prediction"]["asymmetry"] < 1e-4
assert rows["live prediction"]["asymmetry"] > 0.01
assert rows["EM"]["asymmetry"] > 0.01

# %% [markdown]
# Backprop's is symmetric. Live prediction divides every example's error by how uncertain the net is about that example
# (the whitening of the exact posterior), so that a doubtful example teaches less than it learns. One can see it as a
# kernel with a learning rate for each example. EM is further away.

# %%
_ = found.plot()

# %% [markdown]
# ## The answer
#
# What gradient descent learns is a kernel machine; the path kernel explains all of it but a per mille, which is the size
# of the steps. Fixed prediction is the same machine, to the last digits. Live prediction is nearly one, with examples
# weighted by their uncertainty. EM is something else: it learns from its doubts as well as from its errors.
