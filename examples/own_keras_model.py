"""Train your own Keras model as the Q-network, and get it back with the learned weights."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported: by default it looks for TensorFlow

import keras
import numpy as np

import qdojo


def build():
    """Build a model that maps an observation of CartPole to one Q-value for each of its two actions."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(2),
        ]
    )


if __name__ == "__main__":
    run = qdojo.train("CartPole-v1", network=build, steps=5_000, eval_every_steps=1_000)
    print(run)
    run.film(path="own_keras_model.mp4")

    model = run.keras_model()
    model.save("own_keras_model.keras")
    print(f"Q-values at rest: {model(np.zeros((1, 4), np.float32))}")
