"""The model of a run in MLflow."""

from __future__ import annotations

import copy
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from torch import nn

SIDE = 28  # pixels


def has_model(client: MlflowClient, run: Run) -> bool:
    """Tell whether a whole model was logged to the run; delete what a kill, a failure or a loss of its files left of one."""
    from mlflow.entities import LoggedModelStatus

    logged = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    whole = [
        model
        for model in logged
        if model.status == LoggedModelStatus.READY and client.list_logged_model_artifacts(model.model_id)
    ]
    for model in logged:
        if model not in whole:
            client.delete_logged_model(model.model_id)
    return bool(whole)


def log_model(run: Run, network: nn.Sequential) -> None:
    """Log the network, sigmoid included, as pt2, named after its training.

    No pickle is needed to load it, but PyTorch reads one if the archive has it: MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
    has MLflow refuse that.
    """
    import mlflow
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    classes = list(network.parameters())[-1].numel()
    float32 = np.dtype(np.float32)
    with mlflow.start_run(run_id=run.info.run_id):
        mlflow.pytorch.log_model(
            # The exporter would mistake a channels-last weight for a slice of another tensor.
            copy.deepcopy(network).to(memory_format=torch.contiguous_format),  # type: ignore[call-overload] # MLflow and PyTorch disagree on the type
            name=run.data.tags["variant"],
            serialization_format="pt2",
            # With a batch of one, the export would fix the batch size to one.
            input_example=np.zeros((2, 1, SIDE, SIDE), np.float32),
            signature=ModelSignature(
                # Pixels from 0 to 1, and the score of each class. With a name, MLflow's pyfunc would ask for a dictionary.
                Schema([TensorSpec(float32, (-1, 1, SIDE, SIDE))]),
                Schema([TensorSpec(float32, (-1, classes))]),
            ),
            # Without `+cpu`: only PyTorch's own index has that build.
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in ("mlflow", "torch", "numpy")],
        )
    if run.info.end_time:
        mlflow.MlflowClient().set_terminated(run.info.run_id, run.info.status, run.info.end_time)
