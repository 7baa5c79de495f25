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
# # No neural network at hand? Build your own net
#
# Long before deep learning, statisticians drew little graphs of who depends on whom, put a regression on every node, and
# asked them questions. Those are Gaussian Bayes nets too. This notebook builds one by hand, takes others from pgmpy and
# from the bnlearn repository, asks, learns, and gives them back.

# %%
import warnings
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np

import gbn

# %% [markdown]
# ## A textbook field
#
# The crop example of Scutari and Denis (*Bayesian Networks: With Examples in R*): the environment `E` and the genes `G` of
# a plant decide its vegetative mass `V`; that decides the number of seeds `N` and their weight `W`; those make the crop
# `C`. Every arrow is a number, every node has a standard deviation.

# %%
field = gbn.GaussianBayesNet()
field.add_input("E", 1, mean=50, cov=10**2)
field.add_input("G", 1, mean=50, cov=10**2)
field.add_linear("V", {"G": 0.5, "E": 0.70711}, bias=-10.35534, cov=5**2)
field.add_linear("N", {"V": 0.1}, bias=45, cov=9.949874**2)
field.add_linear("W", {"V": 0.7}, bias=15, cov=7.141428**2)
field.add_linear("C", {"N": 0.3, "W": 0.7}, bias=0, cov=6.25**2)
field

# %% [markdown]
# The book chose the numbers so that every node is about 50 ± 10. Then comes a rich harvest, `C` = 80. What was the year
# like? The arrows point down, the question goes up: `query` does not mind.

# %%
NODES = ["E", "G", "V", "N", "W", "C"]
prior, rich = field.query(NODES), field.query(NODES, {"C": 80})


def curves(posts, nodes, axes, span):
    x = np.linspace(*span, 300)
    for ax, node in zip(axes.flat, nodes, strict=True):
        for label, post in posts.items():
            mean, std = post.mean[node].item(), post.std[node].item()
            if std > 0:
                ax.fill_between(x, np.exp(-0.5 * ((x - mean) / std) ** 2) / std, alpha=0.5, label=label)
            else:
                ax.axvline(mean, color="k", label="set")
        ax.set(title=node, yticks=[])


fig, axes = plt.subplots(2, 3, figsize=(8, 3.6), sharex=True, layout="constrained")
curves({"before": prior, "after C = 80": rich}, NODES, axes, (10, 100))
axes.flat[0].legend(fontsize=8)

for node in NODES:
    assert abs(prior.mean[node].item() - 50) < 0.1
    assert abs(prior.std[node].item() - 10) < 0.1

# %% [markdown]
# By hand this is one line of covariances, $50 + \frac{\text{Cov}(E, C)}{\text{Var}(C)}\,30$. Does it agree?

# %%
table = prior.joint().cov[0]
by_hand = 50 + table[0, 5] / table[5, 5] * (80 - prior.mean["C"].item())
print(f"E given C = 80: {rich.mean['E'].item():.2f}, by hand {by_hand:.2f}")
assert np.isclose(rich.mean["E"].item(), by_hand)

# %% [markdown]
# ### Seeing is not doing
#
# If we *see* 80 seeds, the plant was probably big, and so are its seeds. If we *sow* plants bred for 80 seeds, nothing
# upstream changes.

# %%
seen, done = field.query(NODES, {"N": 80}), field.query(NODES, do={"N": [80]})
fig, axes = plt.subplots(1, 3, figsize=(8, 2.2), sharex=True, layout="constrained")
curves({"seen": seen, "done": done}, ["V", "W", "C"], axes, (10, 100))
axes.flat[0].legend(fontsize=8)

print(f"crop if 80 seeds are seen: {seen.mean['C'].item():.1f}, if they are brought about: {done.mean['C'].item():.1f}")
assert seen.mean["V"].item() > 52
assert np.isclose(done.mean["V"].item(), prior.mean["V"].item())
assert seen.mean["C"].item() > done.mean["C"].item() > prior.mean["C"].item()

# %% [markdown]
# Which questions can be skipped, the graph says by itself: once the plant is known, its genes tell nothing about the crop.
# And how much a node says of another can be counted, in nats.

# %%
assert field.d_separated("G", "C", given=["V"])
assert not field.d_separated("G", "E", given=["C"])
information = {node: field.mutual_information(node, "C").item() for node in NODES[:-1]}
fig, ax = plt.subplots(figsize=(5, 2.2), layout="constrained")
ax.barh(list(information), list(information.values()))
ax.set(xlabel="information about the crop (nats)")
ax.invert_yaxis()
assert max(information, key=information.get) == "W"

# %% [markdown]
# ## Learn the numbers from a leaky notebook
#
# Two hundred fields were measured, and a fifth of the entries are missing. Start from a net that knows the arrows and
# nothing else.

# %%
rng = np.random.default_rng(1)
sampled = field.sample(200, rng)
rows = {node: np.where(rng.random((200, 1)) < 0.2, np.nan, sampled[node]) for node in NODES}

blank = gbn.GaussianBayesNet()
for node, parents in {"E": "", "G": "", "V": "GE", "N": "V", "W": "V", "C": "NW"}.items():
    blank.add_linear(node, dict.fromkeys(parents, 0.0), bias=0.0, cov=1000.0)
fitted = blank.fit(rows, standard_errors=True)
print(f"{fitted.reason}; the log-evidence rose from {fitted.history[0]['log_evidence']:.0f} to ", end="")
print(f"{fitted.history[-1]['log_evidence']:.0f} nats")

# %%
truth, learned, error = [], [], []
for name in (n for n in fitted.net.parameters if n.endswith("weight")):
    truth.append(field[name].value.item())
    learned.append(fitted.net[name].value.item())
    error.append(fitted.standard_errors[name].item())
truth, learned, error = np.array(truth), np.array(learned), np.array(error)

fig, ax = plt.subplots(figsize=(4.2, 3.6), layout="constrained")
ax.errorbar(truth, learned, yerr=2 * error, fmt="o")
ax.plot([0, 1], [0, 1], "k:", linewidth=1)
ax.set(xlabel="arrows of the book", ylabel="learned, ± 2 standard errors", title="200 fields, a fifth missing")

assert (np.diff(fitted.history.column("log_evidence")) > -1e-6).all()
assert (np.abs(learned - truth) < 3 * error).all()

# %% [markdown]
# ## From pgmpy, and back
#
# pgmpy is a library of Bayes nets; its linear-Gaussian models go in and come out with the same numbers.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pgmpy.factors.continuous import LinearGaussianCPD
    from pgmpy.models import LinearGaussianBayesianNetwork

theirs = LinearGaussianBayesianNetwork([("study", "grade"), ("talent", "grade"), ("grade", "letter")])
theirs.add_cpds(
    LinearGaussianCPD("study", [5.0], 2.0),
    LinearGaussianCPD("talent", [0.0], 1.0),
    LinearGaussianCPD("grade", [1.0, 0.5, 1.0], 0.5, ["study", "talent"]),
    LinearGaussianCPD("letter", [0.0, 1.0], 0.3, ["grade"]),
)
ours = gbn.convert(theirs)
lazy = ours.query(["talent"], {"letter": 5.0, "study": 2.0})
print(
    f"a good letter in spite of little study: talent {lazy.mean['talent'].item():+.2f} ± {lazy.std['talent'].item():.2f}"
)
assert lazy.mean["talent"].item() > 1

back = ours.to_pgmpy()
for cpd in theirs.cpds:
    again = back.get_cpds(cpd.variable)
    assert list(again.beta) == list(cpd.beta)
    assert np.isclose(again.std, cpd.std)

# %% [markdown]
# ## Forty-six genes
#
# The bnlearn repository keeps nets learned from real data; pgmpy's wheel brings some along. `ecoli70` has 46 genes of
# *Escherichia coli* and 70 arrows.

# %%
path = files("pgmpy") / "utils" / "example_models" / "ecoli70.json"
ecoli = gbn.convert(LinearGaussianBayesianNetwork.load(str(path)))
genes = ecoli.latents
edges = sum(ecoli[p].plated for gene in genes for p in ecoli[gene].parents)
print(f"{len(genes)} genes, {edges} arrows")
assert (len(genes), edges) == (46, 70)

# %% [markdown]
# Silence one gene (an intervention) and see how far the others follow: the expected change of each, in standard
# deviations.

# %%
before = ecoli.query(genes)
children = {gene: sum(gene in ecoli[other].parents for other in genes) for gene in genes}
hub = max(children, key=children.get)
silenced = ecoli.query(genes, do={hub: before.mean[hub] - 3 * before.std[hub]})
change = {g: ((silenced.mean[g] - before.mean[g]) / before.std[g]).item() for g in genes if g != hub}
moved = {g: change[g] for g in sorted(change, key=lambda g: -abs(change[g])) if abs(change[g]) > 0.05}

fig, ax = plt.subplots(figsize=(6, 0.6 + 0.2 * len(moved)), layout="constrained")
ax.barh(list(moved), list(moved.values()))
ax.axvline(0, color="k", linewidth=1)
ax.set(xlabel=f"change when {hub} falls by 3 standard deviations (in their own)")
ax.invert_yaxis()

downstream = {hub}
for gene in genes:
    if downstream & set(ecoli[gene].parents):
        downstream.add(gene)
assert set(moved) <= downstream

# %% [markdown]
# Only genes downstream move, as it should be for an intervention. Finally the same test as for the field: sample a
# thousand cells, hide a tenth of the readings, forget all numbers, learn them again, and hand the result to pgmpy.

# %%
cells = {gene: value for gene, value in ecoli.sample(1000, rng).items() if gene in genes}
for value in cells.values():
    value[rng.random(value.shape) < 0.1] = np.nan
forgotten = ecoli.copy()
for name in ecoli.parameters:
    forgotten.set_value(name, np.zeros(ecoli[name].shape))
forgotten.set_noise(dict.fromkeys(genes, 1.0))
relearned = forgotten.fit(cells, tol=1e-4).net

weights = [name for name in ecoli.parameters if name.endswith("weight")]
old = np.array([ecoli[name].value.item() for name in weights])
new = np.array([relearned[name].value.item() for name in weights])
fig, ax = plt.subplots(figsize=(4.2, 3.6), layout="constrained")
ax.plot(old, new, "o", markersize=4)
ax.plot([old.min(), old.max()], [old.min(), old.max()], "k:", linewidth=1)
ax.set(xlabel="arrows of ecoli70", ylabel="learned anew", title="70 arrows, a tenth of the readings hidden")
assert np.corrcoef(old, new)[0, 1] > 0.98

once, again = relearned.query(genes), gbn.convert(relearned.to_pgmpy()).query(genes)
assert all(np.isclose(once.mean[g], again.mean[g]).all() and np.isclose(once.std[g], again.std[g]).all() for g in genes)

# %% [markdown]
# ## The answer
#
# A net is built in a line for each node, asked in any direction, told what is seen and what is done, learned from leaky
# data, and handed on. It is the same object that a converted neural network is; everything in the other notebooks works
# on it, too.
