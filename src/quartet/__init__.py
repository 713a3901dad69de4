"""mnist-quartet: four tiny CNNs on MNIST, pipelined by DVC and tracked by MLflow."""
