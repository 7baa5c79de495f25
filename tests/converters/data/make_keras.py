"""Writes the .keras files beside it, and what the models in them give: KERAS_BACKEND=torch python make_keras.py."""

from pathlib import Path

import keras
import numpy as np

L = keras.layers


def classifier():
    return keras.Sequential([L.Input((4,), name="x"), L.Dense(5, activation="relu"), L.Dense(3, activation="softmax")])


def images():
    cell = L.Input((4, 4, 2))
    block = keras.Model(cell, L.BatchNormalization()(L.Conv2D(2, 3, padding="same")(cell)), name="block")
    x = L.Input((8, 8, 1), name="x")
    h = L.MaxPooling2D(2)(L.Conv2D(2, 3, padding="same", activation="gelu")(x))
    h = L.Add()([h, block(block(h))])
    return keras.Model(x, L.Dense(2)(L.Flatten()(L.SeparableConv2D(3, 2)(h))))


def sequence():
    x = L.Input((4, 3), name="x")
    h = L.Bidirectional(L.LSTM(2, return_sequences=True))(x)
    h = L.LayerNormalization()(h + L.MultiHeadAttention(2, 2)(h, h))
    return keras.Model(x, L.Dense(2)(L.GRU(3)(L.TimeDistributed(L.Dense(3, activation="tanh"))(h))))


if __name__ == "__main__":
    folder, rng, expected = Path(__file__).parent, np.random.default_rng(0), {}
    for make in (classifier, images, sequence):
        model, name = make(), make.__name__
        for variable in model.variables:
            variable.assign(rng.uniform(0.2, 1.0, variable.shape))
        model.save(folder / f"{name}.keras")
        x = rng.standard_normal((3, *model.inputs[0].shape[1:])).astype(np.float32)
        expected |= {f"{name}.x": x, f"{name}.y": keras.ops.convert_to_numpy(model(x))}
    np.savez(folder / "keras.npz", **expected)
