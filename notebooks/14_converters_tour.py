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
# # One network, eight dialects: is it the same Bayes net?
#
# A little network with one hidden layer is written down in PyTorch, ONNX, Keras, scikit-learn, YAML, networkx and pgmpy, and once
# built by hand. If a network *is* a Gaussian Bayes net, the dialect must not matter: every version has to predict the same, give the
# hidden layer the same posterior, and the data the same evidence.

# %%
import logging
import os
import tempfile
import warnings
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"
warnings.filterwarnings("ignore", "IProgress not found")  # bars would need ipywidgets

import networkx
import numpy as np
import torch
from torch import nn

import gbn

rng = np.random.default_rng(0)
W1, b1, W2, b2 = rng.normal(size=(2, 3)), rng.normal(size=3), rng.normal(size=(3, 2)), rng.normal(size=2)
x, y = rng.normal(size=(4, 2)), rng.normal(size=(4, 2))
folder = Path(tempfile.mkdtemp())
noise = {"noise": 0.2, "output_noise": 0.5}  # variances; by default where a layer ends, before its nonlinearity
nets = {}

# %% [markdown]
# ## PyTorch
#
# A module needs an example batch, because it is traced. Vertices have the names of its modules.

# %%
model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
with torch.no_grad():
    for layer, weight, bias in ((model[0], W1, b1), (model[2], W2, b2)):
        layer.weight.copy_(torch.from_numpy(weight.T))
        layer.bias.copy_(torch.from_numpy(bias))
nets["PyTorch"] = gbn.convert(model, x, **noise)
nets["PyTorch"]

# %% [markdown]
# ## ONNX
#
# The file is enough, and what the exporter fixed (here: two samples) does not bind the net.

# %%
logging.getLogger("torch.onnx").setLevel(logging.ERROR)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the exporter's own affairs
    torch.onnx.export(model, (torch.from_numpy(x[:2]),), folder / "net.onnx", verbose=False, dynamo=True)
nets["ONNX"] = gbn.convert(folder / "net.onnx", **noise)
print(nets["ONNX"].inputs, nets["ONNX"].latents)

# %% [markdown]
# ## Keras
#
# A model of any backend, or a `.keras` file, which is read without Keras.

# %%
import keras

keras_model = keras.Sequential(
    [keras.layers.Input((2,)), keras.layers.Dense(3, activation="tanh", name="h"), keras.layers.Dense(2, name="y")]
)
keras_model.set_weights([W1, b1, W2, b2])
keras_model.save(folder / "net.keras")
nets["Keras"] = gbn.convert(folder / "net.keras", **noise)

# %% [markdown]
# ## scikit-learn

# %%
from sklearn.neural_network import MLPRegressor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # one iteration is not meant to converge
    estimator = MLPRegressor(hidden_layer_sizes=(3,), activation="tanh", max_iter=1).fit(x, y)
estimator.coefs_, estimator.intercepts_ = [W1, W2], [b1, b2]
nets["scikit-learn"] = gbn.convert(estimator, **noise)

# %% [markdown]
# ## YAML
#
# For people who only want to write down what there is. Weights may come from a file, too.

# %%
np.savez(folder / "weights.npz", **{"h.kernel": W1, "h.bias": b1, "y.kernel": W2, "y.bias": b2})
(folder / "net.yaml").write_text("""
inputs:
  - {name: x, shape: [2]}
layers:
  - {name: h, type: dense, units: 3, activation: tanh}
  - {name: y, type: dense, units: 2}
weights: weights.npz
""")
nets["YAML"] = gbn.convert(folder / "net.yaml", **noise)

# %% [markdown]
# ## By hand

# %%
net = gbn.GaussianBayesNet()
net.add_input("x", 2)
net.add_linear("a", {"x": W1.T}, bias=b1, cov=0.2)
net.add("h", "Tanh", ["a"])
net.add_linear("y", {"h": W2.T}, bias=b2, cov=0.5)
nets["by hand"] = net

# %% [markdown]
# ## They are the same net
#
# Names differ, and so does what is vectorised, but inputs, outputs and latents come in the same order.


# %%
def answers(net):
    (source,), (output,) = net.inputs, net.outputs
    hidden = next(name for name in net.latents if name != output)
    post = net.query([hidden], {source: x, output: y})
    return net.forward({source: x})[output], post.mean[hidden], post.cov(hidden), post.log_evidence


reference = answers(nets["by hand"])
print(f"{'dialect':<14}{'forward':>12}{'mean':>12}{'covariance':>12}{'evidence':>12}")
for dialect, net in nets.items():
    gaps = [np.abs(a - b).max() for a, b in zip(answers(net), reference, strict=True)]
    print(f"{dialect:<14}" + "".join(f"{gap:12.1e}" for gap in gaps))
    # Keras keeps weights in single precision unless told otherwise.
    assert max(gaps) < (1e-5 if dialect == "Keras" else 1e-12)

# %% [markdown]
# ## Two dialects of scalars
#
# A directed graph of neurons in networkx says of each node its bias, activation and variance, so that nothing is left to choose.

# %%
graph = networkx.DiGraph()
graph.add_nodes_from(["x0", "x1"])
for j in range(3):
    graph.add_node(f"h{j}", bias=b1[j], activation="tanh", variance=0.2)
    graph.add_edges_from((f"x{i}", f"h{j}", {"weight": W1[i, j]}) for i in range(2))
for k in range(2):
    graph.add_node(f"y{k}", bias=b2[k], variance=0.5)
    graph.add_edges_from((f"h{j}", f"y{k}", {"weight": W2[j, k]}) for j in range(3))
neurons = gbn.convert(graph)
evidence = {f"x{i}": x[:, [i]] for i in range(2)} | {f"y{k}": y[:, [k]] for k in range(2)}
post = neurons.query([f"h{j}.sum" for j in range(3)], evidence)
assert np.allclose(np.hstack([post.mean[f"h{j}.sum"] for j in range(3)]), reference[1], atol=1e-12)
assert np.allclose(post.log_evidence, reference[3], atol=1e-12)

# %% [markdown]
# pgmpy knows linear-Gaussian nets of scalars. At one operating point every net is one: `linearize` gives it, `to_pgmpy` hands it
# over, and `convert` takes it back. pgmpy wants a distribution of every variable, so the input gets a prior; the evidence sets it.

# %%
with_prior = nets["by hand"].copy()
with_prior.set_prior("x", np.zeros(2), 1.0)
scalars = with_prior.linearize({"x": x[0]}).to_pgmpy()
print(len(scalars.nodes()), "variables, such as", sorted(scalars.nodes())[:4])
back = gbn.convert(scalars)
seen = {f"{name}[{k}]": array[:1, [k]] for name, array in (("x", x), ("y", y)) for k in range(2)}
hidden = [f"a[{j}]" for j in range(3)]
post = back.query(hidden, seen)
print(np.hstack([post.mean[name] for name in hidden]), reference[1][:1])
assert np.allclose(np.hstack([post.mean[name] for name in hidden]), reference[1][:1], atol=1e-12)

# %% [markdown]
# ## And the way back
#
# What the net learns goes back into the model that it came from.

# %%
fitted = (
    nets["PyTorch"].fit({"input": x, "2": y}, "local", epochs=20, learning_rate=0.05, batch_size=4, progress=False).net
)
gbn.load_into(model, fitted)
print(nn.functional.mse_loss(model(torch.from_numpy(x)), torch.from_numpy(y)).item())
gbn.load_into(folder / "net.onnx", nets["ONNX"], folder / "again.onnx")

# %% [markdown]
# **The answer:** it is the same net. All dialects give the hidden layer the same posterior and the data the same evidence, to
# rounding. What differs is what they say about noise: networks say nothing, and `noise=` has to; networkx and pgmpy bring it.
