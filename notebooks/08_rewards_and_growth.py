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
# # Two things a graphical model is said not to do: add up rewards, and grow
#
# "Adding up rewards isn't natural in graphical models," it is said, and: "a brain grows new units while it works; a model
# is fixed when it is built." Both are easy to try.

# %%
import matplotlib.pyplot as plt
import numpy as np

import gbn
from gbn.equivalence import claims
from gbn.equivalence.claims import growth

# %% [markdown]
# ## Adding up rewards
#
# The return is a sum, $G = r_0 + \gamma r_1 + \gamma^2 r_2 + \dots$, and a sum is the most linear thing there is. Here are
# twelve rewards of which we know only a prior, and their discounted sum as a thirteenth vertex.

# %%
gamma, steps = 0.8, 12
net = gbn.GaussianBayesNet()
net.add_input("rewards", steps, mean=1.0, cov=1.0)
net.add_linear("return", {"rewards": gamma ** np.arange(steps)[None]}, cov=0.01)

forward = net.query(["return"])
print(f"expected return {forward.mean['return'].item():.2f} ± {forward.std['return'].item():.2f}")
assert np.isclose(forward.mean["return"].item(), (1 - gamma**steps) / (1 - gamma))

# %% [markdown]
# And because it is a Bayes net, it runs backwards as well. The return came out at 9, nearly four more than expected. Which
# reward was it? Credit assignment is a query:

# %%
blame = net.query(["rewards"], {"return": [9.0]})
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.errorbar(range(steps), blame.mean["rewards"][0], yerr=blame.std["rewards"][0], fmt="o")
ax.axhline(1, color="k", linestyle=":", linewidth=1)
ax.set(xlabel="step", ylabel="reward, given the return", title="who earned it?")

credit = blame.mean["rewards"][0] - 1
assert np.allclose(credit[1:] / credit[:-1], gamma)

# %% [markdown]
# Credit fades by exactly $\gamma$ a step: the eligibility trace of reinforcement learning, and nobody put it there.
#
# ## What is a state worth?
#
# Now a world: a walk round a ring of eight places that mostly goes ahead. Place 1 pays 2, place 4 costs 3, place 6 pays 1.
# We walk 250 steps and want the value of every place, with error bars. The standard tool is least-squares temporal
# differences (LSTD), which gives a number and no error bar. As nets, one has a choice of what to call noise:
#
# - **planning**: mean rewards are unknown, transitions are as counted, values are sums over the future;
# - **returns**: each return is the value of its state, plus noise;
# - **residuals**: each reward is a difference of two values, plus noise.

# %%
found = claims.run("rewards")
found.plot()
found

# %%
figures = found.figures
assert not found.holds
assert figures["planning against LSTD, largest difference"] < 1e-5
assert abs(figures["90 % intervals that hold the value, dynamics as counted"] - 0.9) < 0.03
assert figures["error, residuals"] > 1.5 * figures["error, planning"]
widths = {name: std.mean() for name, (_, std) in found.series["shown"].items()}
assert widths["returns"] > 1.3 * widths["planning"]
assert figures["90 % intervals that hold the value, true dynamics"] < 0.8

# %% [markdown]
# - The posterior mean of **planning** *is* LSTD, to seven digits, and now it has error bars. They are honest about what the
#   net knows: nine in ten hold the value, if the counted transitions are right. They are too narrow for the true world,
#   because this net never doubts its counts.
# - **Returns** agree, with wider bars: every detour of the walk counts as noise.
# - **Residuals** look the simplest and are wrong. When the next place is a matter of chance, its value is no noise of the
#   reward. (The field knows this trap as the double-sampling problem.)
#
# What really is unnatural here is the *choice* of actions: a maximum is not linear. Adding up is not the hard part.
#
# ## Growing in the midst of life
#
# Four tanh units learn a wavy curve and get stuck half-way. `gbn.widen` adds twelve more: their incoming weights are
# random, their outgoing weights zero. So nothing changes, except what can be learned next.

# %%
rng = np.random.default_rng(0)
small = growth.regressor(4, rng)
large = gbn.widen(small, "a", 12, rng=rng)
print(small["a"].shape, "->", large["a"].shape)
large

# %%
found = claims.run("growth")
found.plot()
found

# %%
assert found.figures["function changed at growth by"] < 1e-13
before, grown, stayed = (
    found.figures[f"test error {when}"] for when in ("before growth", "at the end, grown", "at the end, stayed small")
)
assert grown < 0.6 * stayed < before

# %%
series = found.series
fig, axes = plt.subplots(1, 3, figsize=(9, 2.8), sharey=True, layout="constrained")
titles = {"before": "4 units, trained", "grown": "16 units, just grown", "grown, trained": "16 units, trained on"}
for ax, (name, title) in zip(axes, titles.items(), strict=True):
    ax.plot(series["train"]["x"], series["train"]["y"], ".", color="0.7", markersize=3)
    ax.plot(series["grid"], series["curves"][name], "C0")
    ax.set(title=title, xlabel="x")
assert np.allclose(series["curves"]["before"], series["curves"]["grown"], atol=1e-13)

# %% [markdown]
# It also works deeper down: convolutions take channels, and the posterior of everything else stays what it was.

# %%
picture = gbn.GaussianBayesNet()
picture.add_input("x", 2, mean=0.0, cov=1.0)
picture.add_linear("h", {"x": rng.normal(size=(3, 2))}, cov=0.5)
picture.add_linear("y", {"h": rng.normal(size=(2, 3))}, cov=0.1)
evidence = {"y": [[1.0, -1.0]]}
was, now = picture.query(["x"], evidence), gbn.widen(picture, "h", 5).query(["x"], evidence)
assert np.allclose(was.mean["x"], now.mean["x"])
assert np.allclose(was.log_evidence, now.log_evidence)
was

# %% [markdown]
# ## The answer
#
# Both are natural. A discounted return is one linear vertex: its expectation is a query, its error bar comes with it, and
# asked backwards it assigns credit. A net grows by units that nobody listens to yet; nothing it knew is lost, and learning
# picks them up.
