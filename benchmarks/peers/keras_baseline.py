"""The baseline CNN in Keras on TensorFlow, as the student report trained it. Run by benchmarks/training_speed.py.

Reads arrays.npz (train_x, train_y, test_x, test_y; uint8 images n x 30 x 30), prints a JSON line an epoch: seconds of
training so far (scoring not counted) and test accuracy.
"""

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np


def main(arrays: str, epochs: int, batch_size: int, seed: int) -> None:
    data = np.load(arrays)
    keras.utils.set_random_seed(seed)
    scale = lambda images: images[..., None].astype(np.float32) / 255  # noqa: E731
    train_x, test_x = scale(data["train_x"]), scale(data["test_x"])
    network = keras.Sequential(
        [
            keras.Input((30, 30, 1)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    assert network.count_params() == 46_596
    network.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.train_on_batch(train_x[:batch_size], data["train_y"][:batch_size])  # graph building is not counted
    spent = 0.0
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        network.fit(train_x, data["train_y"], batch_size=batch_size, epochs=1, verbose=0)
        spent += time.perf_counter() - start
        said = network.predict(test_x, batch_size=512, verbose=0).argmax(1)
        print(
            json.dumps({"epoch": epoch, "seconds": spent, "test": float((said == data["test_y"]).mean())}), flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:5]))
