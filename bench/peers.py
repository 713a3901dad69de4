"""The same network in other libraries, as their own guides write it: prints one library's images a second and version.

`python bench/peers.py NAME POOL` in .venv-peers, NAME one of lightning, flax, keras-jax, keras-torch, and POOL an archive of
images and labels. Each trains ten classes without and with batch norm, Adam, batches of 20, with the threads it takes by
itself. What is compiled is compiled before the clock starts.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from importlib.metadata import version

import numpy as np

BATCH, WARM, STEPS = 20, 60, 400


def lightning(images: np.ndarray, labels: np.ndarray) -> list[float]:
    """https://lightning.ai/docs/pytorch/stable/starter/introduction.html."""
    import lightning as pl
    import torch
    from torch.nn import functional
    from torch.utils.data import DataLoader

    from usual import Images, network

    class Classifier(pl.LightningModule):
        def __init__(self, bn: bool) -> None:
            super().__init__()
            self.network = network(10, bn)

        def training_step(self, batch, _index):
            images, labels = batch
            loss = functional.cross_entropy(self.network(images), labels)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.001)

    class Clock(pl.Callback):
        def on_train_batch_start(self, _trainer, _module, _batch, index):
            if index == WARM:
                self.start = time.perf_counter()

        def on_train_end(self, _trainer, _module):
            self.seconds = time.perf_counter() - self.start

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seconds = []
    for bn in (False, True):
        clock = Clock()
        loader = DataLoader(Images(torch.from_numpy(images), torch.from_numpy(labels)), batch_size=BATCH, shuffle=True)
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, callbacks=[clock],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Classifier(bn), loader)
        seconds.append(clock.seconds)
    return seconds


def flax(images: np.ndarray, labels: np.ndarray) -> list[float]:
    """https://flax.readthedocs.io/en/latest/mnist_tutorial.html."""
    import jax.numpy as jnp
    import optax
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, bn: bool, *, rngs: nnx.Rngs) -> None:
            self.conv1 = nnx.Conv(1, 16, (7, 7), rngs=rngs)
            self.conv2 = nnx.Conv(16, 8, (5, 5), rngs=rngs)
            self.conv3 = nnx.Conv(8, 4, (3, 3), strides=2, padding=1, rngs=rngs)
            norms = [nnx.BatchNorm(filters, rngs=rngs) for filters in (16, 8, 4)] if bn else [lambda x: x] * 3
            self.norm1, self.norm2, self.norm3 = norms
            self.output = nnx.Linear(16, 10, rngs=rngs)

        def __call__(self, x):
            x = nnx.max_pool(nnx.relu(self.norm1(self.conv1(x))), (2, 2), (2, 2))
            x = nnx.max_pool(nnx.relu(self.norm2(self.conv2(x))), (2, 2), (2, 2))
            x = nnx.avg_pool(nnx.relu(self.norm3(self.conv3(x))), (2, 2), (2, 2))
            return self.output(x.reshape(x.shape[0], -1))

    def loss_of(model, images, labels):
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    @nnx.jit
    def train_step(model, optimizer, images, labels):
        loss, gradients = nnx.value_and_grad(loss_of)(model, images, labels)
        optimizer.update(model, gradients)
        return loss

    scaled = images[..., None].astype(np.float32) / 255
    seconds = []
    for bn in (False, True):
        model = Network(bn, rngs=nnx.Rngs(0))
        model.train()
        optimizer = nnx.Optimizer(model, optax.adam(0.001), wrt=nnx.Param)
        order = np.random.default_rng(0).permutation(len(images)).reshape(-1, BATCH)
        step = nnx.cached_partial(train_step, model, optimizer)
        for place, batch in enumerate(order):
            if place == WARM:
                start = time.perf_counter()
            loss = step(jnp.asarray(scaled[batch]), jnp.asarray(labels[batch]))
        loss.block_until_ready()
        seconds.append(time.perf_counter() - start)
    return seconds


def keras(images: np.ndarray, labels: np.ndarray) -> list[float]:
    """https://keras.io/examples/vision/mnist_convnet/, on the backend that KERAS_BACKEND names."""
    import keras
    from keras import layers

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == WARM:
                self.start = time.perf_counter()

        def on_train_end(self, logs=None):
            self.seconds = time.perf_counter() - self.start

    scaled = images[..., None].astype("float32") / 255
    seconds = []
    for bn in (False, True):
        stack = [keras.Input((28, 28, 1))]
        for filters, kernel, stride in ((16, 7, 1), (8, 5, 1), (4, 3, 2)):
            stack.append(layers.Conv2D(filters, kernel, strides=stride, padding="same"))
            stack += [layers.BatchNormalization()] if bn else []
            pool = layers.MaxPooling2D if stride == 1 else layers.AveragePooling2D
            stack += [layers.ReLU(), pool(2)]
        model = keras.Sequential([*stack, layers.Flatten(), layers.Dense(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=keras.optimizers.Adam(0.001), loss=loss)
        clock = Clock()
        model.fit(scaled, labels, batch_size=BATCH, epochs=1, verbose=0, callbacks=[clock])
        seconds.append(clock.seconds)
    return seconds


def main() -> None:
    """Print the images a second of the library that the command line names, and its version."""
    name, pool = sys.argv[1:]
    warnings.simplefilter("ignore")
    if name.startswith("keras-"):
        os.environ["KERAS_BACKEND"] = name.removeprefix("keras-")
    with np.load(pool) as archive:
        count = BATCH * (WARM + STEPS)
        images, labels = archive["images"][:count], archive["labels"][:count].astype(np.int64)
    libraries = {"lightning": lightning, "flax": flax, "keras-jax": keras, "keras-torch": keras}
    seconds = libraries[name](images, labels)
    print(2 * STEPS * BATCH / sum(seconds), version(name.partition("-")[0]))


if __name__ == "__main__":
    main()
