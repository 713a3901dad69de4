"""MLflow's registry of models: a version for each trained model's weights, and the alias of the one to use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quartet.tracking import runs, store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"  # the alias
BEFORE = "champions"  # tag of a registered model: the versions that were its champions, the latest last
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what MLflow says of a name, number or alias
WEIGHTS = runs.WEIGHTS  # tag of a version: the SHA-256 of the model's file
NOTE = "A tiny CNN of the report's kind, trained on {}. The alias `champion` names the version to use."

Scores = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class Version(NamedTuple):
    """A version of a registered model: its number, and its tags."""

    name: str
    number: str
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """Return the address by which MLflow loads it."""
        return f"models:/{self.name}/{self.number}"


def register(name: str, title: str, weights: str, tags: Mapping[str, str], card: str) -> Version | None:
    """Return the version that has these weights, made of the model of their run if it is missing.

    None if MLflow has no model of these weights. Tags and card come with the version at once, so that a
    kill leaves a whole version or none.
    """
    client = store.client()
    there = versions(client, name, weights)
    if not there:
        logged = _logged(client, weights)
        if logged is None:
            return None
        run, model_id = logged
        _make(client, name, title)
        commit = {"commit": run.data.tags.get("mlflow.source.git.commit", "")}
        client.create_model_version(
            name,
            f"models:/{model_id}",
            run.info.run_id,
            tags={**tags, **commit, WEIGHTS: weights},
            description=card,
            model_id=model_id,
        )
        there = versions(client, name, weights)
        for double in there[1:]:  # another machine registered the same at the same time
            client.delete_model_version(name, double.number)
    return there[0]


def versions(client: MlflowClient, name: str, weights: str = "") -> list[Version]:
    """Return the versions of a model, the oldest first, or those of these weights."""
    found: list[ModelVersion] = []
    token: str | None = ""
    while token is not None:
        page = client.search_model_versions(f"name = '{name}'", max_results=200, page_token=token or None)
        found += page
        token = page.token or None
    whole = [Version(name, str(it.version), dict(it.tags)) for it in found if it.status == "READY"]
    return sorted((it for it in whole if weights in ("", it.tags.get(WEIGHTS))), key=lambda it: int(it.number))


def champion(name: str) -> Version | None:
    """Return the champion of a model, if it has one."""
    from mlflow.exceptions import MlflowException

    try:
        found = store.client().get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in MISSING:
            return None
        raise
    return Version(name, str(found.version), dict(found.tags))


def crown(version: Version) -> None:
    """Make a version the champion, and note the one before it."""
    client, before = store.client(), champion(version.name)
    if before and before.number == version.number:
        return
    if before:
        earlier = [it for it in _earlier(client, version.name) if it != before.number]
        client.set_registered_model_tag(version.name, BEFORE, ",".join([*earlier, before.number]))
    client.set_registered_model_alias(version.name, CHAMPION, version.number)


def roll_back(name: str) -> Version | None:
    """Make the champion before this one the champion again; None if there was none that is still there."""
    client = store.client()
    there = {version.number: version for version in versions(client, name)}
    earlier = [number for number in _earlier(client, name) if number in there]
    if not earlier:
        return None
    *rest, number = earlier
    client.set_registered_model_alias(name, CHAMPION, number)
    client.set_registered_model_tag(name, BEFORE, ",".join(rest))
    return there[number]


def load(uri: str) -> tuple[Scores, Mapping[str, str]] | None:
    """Load the model that an address names, `models:/name/version` or `models:/name@alias`, and the tags of its version.

    Returns what computes scores float32 [n, classes] of images uint8 [n, 28, 28]; None if there is no such model.
    """
    import mlflow
    import torch
    from mlflow.exceptions import MlflowException

    from quartet.model import inference

    client = store.client()
    name, _, which = uri.removeprefix("models:/").replace("@", "/@").partition("/")
    alias = which.removeprefix("@")
    try:
        found = client.get_model_version_by_alias(name, alias) if which != alias else client.get_model_version(name, which)
    except MlflowException as error:
        if error.error_code in MISSING:
            return None
        raise
    network = mlflow.pytorch.load_model(f"models:/{name}/{found.version}")

    def scores(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return inference.predict(network, torch.from_numpy(images)).numpy()

    return scores, dict(found.tags)


def _logged(client: MlflowClient, weights: str) -> tuple[Run, str] | None:
    """Return the run of these weights, and its model, if there are any."""
    experiment = store.experiment_id(client)
    for run in client.search_runs([experiment], f"tags.{WEIGHTS} = '{weights}'"):
        for model in client.search_logged_models([experiment], f"source_run_id = '{run.info.run_id}'"):
            return run, model.model_id
    return None


def _make(client: MlflowClient, name: str, title: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=NOTE.format(title))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _earlier(client: MlflowClient, name: str) -> list[str]:
    tags = client.get_registered_model(name).tags
    return [number for number in tags.get(BEFORE, "").split(",") if number]
