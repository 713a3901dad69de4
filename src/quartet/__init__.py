"""mnist-quartet: four tiny CNNs on MNIST, pipelined by DVC and tracked by MLflow."""

import time

STARTED = time.time_ns()  # before Python reads any other file of the project: see base/stage.py

from quartet.base import numerics  # noqa: E402 -- after STARTED

numerics.apply()  # before any module imports NumPy or PyTorch, which read the environment once
