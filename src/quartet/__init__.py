"""mnist-quartet: four tiny CNNs on MNIST, pipelined by DVC and tracked by MLflow."""

from quartet.base import numerics

numerics.apply()  # before any module imports NumPy or PyTorch, which read the environment once
