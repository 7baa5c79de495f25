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
# # One net, many objectives: does it matter which one you minimise?
#
# "Do variational inference" leaves a choice open. Between the exact posterior and a single best guess lies a whole
# shelf of objectives, and they all find the same means. So is the rest a detail?
#
# Three stories say no. First, objectives differ in how *sure* they are, and being too sure makes a learner forget or
# hallucinate. Second, there is a gradient that needs dreams, and one that does not. Third, some changes of mind are not
# conditioning at all, and no objective will find them.

# %%
import matplotlib.pyplot as plt
import numpy as np

from gbn.equivalence import claims
from gbn.equivalence.claims import dreaming, jeffrey, objectives

# %% [markdown]
# ## Five answers to one question
#
# Here is a net with a loop: `x` causes `a` and `b`, and both are needed to explain `y`. We see `y`.

# %%
net, evidence = objectives.looped(np.random.default_rng(0))
net

# %% [markdown]
# Ask five engines for `a` and draw what they believe: the ellipse of two standard deviations.


# %%
def ellipse(mean, cov):
    angle = np.linspace(0, 2 * np.pi, 100)
    return mean[:, None] + 2 * np.linalg.cholesky(cov) @ np.array([np.cos(angle), np.sin(angle)])


one = {"y": evidence["y"][:1]}
fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
area = {}
for name, (engine, options) in objectives.OBJECTIVES.items():
    post = net.query(["a"], one, engine=engine, **options)
    if name == "point estimate":
        ax.plot(*post.mean["a"][0], "k+", markersize=12, label=name)
        continue
    cov = post.cov("a")[0]
    area[name] = np.sqrt(np.linalg.det(cov))
    ax.plot(*ellipse(post.mean["a"][0], cov), label=name, linewidth=3 if name == "exact" else 1.5)
ax.set(xlabel="a[0]", ylabel="a[1]", aspect="equal", title="one mean, five opinions on how sure to be")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

assert area["diagonal mean-field"] < area["block mean-field"] < area["loopy belief propagation"] < area["exact"]

# %% [markdown]
# Everybody agrees on the centre. Belief propagation around a loop hears its own opinion come back and takes it for
# news: here it is a little too sure. Mean field, which takes its neighbours' means for certain, is surer. Entry by entry
# it loses the tilt as well. The point estimate knows no doubt at all.
#
# ## What certainty does to a learner
#
# A learner lives on expected squares, $E[x^2] = \text{mean}^2 + \text{variance}$: lose the variance and you learn
# something else. The smallest example has two numbers. A hidden state drifts, $x_t = a\,x_{t-1} + N(0, q)$, and we see it
# through unit noise. The truth is $a = 0.9$, $q = 0.19$. The same EM, with the posterior of three objectives:

# %%
found = claims.run("objectives")
found.plot()
found

# %%
learned = {row["objective"]: (row["learned a"], row["learned q"]) for row in found.table}
assert np.allclose(learned["exact"], (0.9, 0.19), atol=0.03)
assert np.allclose(learned["block mean-field"], (0.58, 0.79), atol=0.04)
assert learned["point estimate"][0] > 0.97
assert learned["point estimate"][1] < 1e-6

# %% [markdown]
# - **Exact** EM walks to the truth.
# - **Mean field** cannot represent that neighbours in time move together, so it learns a world where they hardly do: the
#   memory fades (0.58 for 0.9) and noise must explain the rest (0.8 for 0.19).
# - The **point estimate** runs the other way. Every state is known for certain, so there is no noise, so the states are
#   even more certain. It ends in a world with perfect memory and no noise at all.
#
# The means were right in every step of all three.
#
# ## Learning by dreaming
#
# Boltzmann machines learn by contrast: let the net see, then let it dream, and strengthen what occurs more often awake
# than asleep. That difference *is* the gradient of the log-evidence,
#
# $$\frac{\partial \log p(y)}{\partial K} = -\tfrac12\big(\langle v v^\top\rangle_\text{clamped} - \langle v v^\top\rangle_\text{free}\big).$$
#
# Awake is a query with evidence, asleep one without. Here are both tables of second moments, and their difference.

# %%
rng = np.random.default_rng(0)
dreamer, data = dreaming.layered(rng), {"y": dreaming.layered(rng).sample(200, rng)["y"]}
awake = dreaming.moments(dreamer.query(dreaming.NAMES, data).joint())
asleep = dreaming.moments(dreamer.query(dreaming.NAMES).joint())

fig, axes = plt.subplots(1, 3, figsize=(8.5, 3), layout="constrained")
for ax, (title, table) in zip(
    axes, {"awake": awake, "asleep": asleep, "what to change": awake - asleep}.items(), strict=True
):
    ax.imshow(table, cmap="RdBu", vmin=-9, vmax=9)
    ax.set(title=title, xticks=[0.5, 3, 6.5], yticks=[0.5, 3, 6.5])
    ax.set_xticklabels(["z", "h", "y"])
    ax.set_yticklabels(["z", "h", "y"])

# %% [markdown]
# Does a Bayes net need the dream? Its weights are conditional: whatever it dreams obeys $x = Wu + e$ already, so the dream
# adds zero on average. What is left is Fisher's identity: the gradient from posterior statistics alone.

# %%
found = claims.run("dreaming")
found.plot()
found

# %%
assert found.figures["contrast against Fisher, weights"] < 1e-12
assert found.figures["contrast against differences, weights"] < 1e-8
assert abs(found.figures["error against dreams: slope"] + 0.5) < 0.1
thousand = next(row for row in found.table if row["dreams"] == 1000)
assert 0.04 < thousand["error, weights"] < 0.06

# %% [markdown]
# Dreams cost: a thousand of them still leave a gradient that is 5 % noise. The directed net gets the exact one for free
# (the line at the bottom), because its normalisation is known. That is a good reason to be a Bayes net.

# %%
climbs = found.series["climbs"]
fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name, path in climbs.items():
    ax.plot(path, label=name)
ax.set(xlabel="steps of gradient ascent", ylabel="log-evidence a row (nats)", title="both learn; one of them jitters")
ax.legend()
assert climbs["awake"][-1] > climbs["awake"][0] + 1
assert abs(climbs["awake"][-1] - climbs["dreaming"][-1]) < 0.1

# %% [markdown]
# ## Not everything is conditioning
#
# Two witnesses report on one cause. The first says: "it is 2, give or take ½". What do you do with that?
#
# - Take it as **evidence**, and weigh it against what you thought: `net.query(soft=...)`.
# - Take it as the **verdict** on `first`, whatever you thought, and let everything else follow: Jeffrey's rule,
#   `post.joint(...).revise(...)`.

# %%
found = claims.run("jeffrey")
found.plot()
found

# %% [markdown]
# The two are different acts, and it shows in how they compose. Evidence adds up: told twice, you are surer, and the order
# does not matter. Verdicts replace: told twice, nothing changes, and the last one wins.

# %%
witness = jeffrey.two_witnesses()
before = witness.query(jeffrey.NAMES).joint()
histories = {
    "2 on first": [("first", 2.0)],
    "then 2 on first again": [("first", 2.0), ("first", 2.0)],
    "2 on first, then −1 on second": [("first", 2.0), ("second", -1.0)],
    "−1 on second, then 2 on first": [("second", -1.0), ("first", 2.0)],
}
fig, ax = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
for row, reports in enumerate(histories.values()):
    verdict, heard = before, witness.copy()
    for number, (name, value) in enumerate(reports):
        verdict = verdict.revise({name: (value, 0.25)})
        heard.add_linear(f"report{number}", {name: [[1.0]]}, cov=0.25)
    evidence = {f"report{k}": [value] for k, (_, value) in enumerate(reports)}
    conditioned = heard.query(jeffrey.NAMES, evidence).joint()
    for shift, color, joint in ((-0.12, "C1", conditioned), (0.12, "C2", verdict)):
        cause = joint.marginal("cause")
        label = {"C1": "evidence", "C2": "Jeffrey"}[color] if row == 0 else None
        ax.errorbar(cause.mean[0, 0], row + shift, xerr=np.sqrt(cause.cov[0, 0, 0]), fmt="o", color=color, label=label)
ax.set(yticks=range(4), xlabel="what is believed of the cause")
ax.set_yticklabels(histories)
ax.invert_yaxis()
ax.legend(loc="lower right")

assert found.figures["likelihood: order matters by"] < 1e-12
assert found.figures["Jeffrey's rule: order matters by"] > 0.3
assert found.figures["Jeffrey's rule: first std, told twice"] == found.figures["Jeffrey's rule: first std"]
assert found.figures["likelihood: first std, told twice"] < found.figures["likelihood: first std"]

# %% [markdown]
# ## The answer
#
# It matters. All objectives of a linear-Gaussian net agree on the means, and a learner that reads only the means will
# believe in a world without noise. The exact posterior teaches the truth; mean field teaches forgetting. Dreaming is a way
# to an exact gradient too, and a Bayes net can do without. And before minimising anything, ask whether you were given
# evidence or a verdict.
