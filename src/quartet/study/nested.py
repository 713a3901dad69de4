"""The study in MLflow: a run for each study, and below it one for each of its trainings.

A study is found again by its trainings' fingerprints, a training by its place in the study. So doing it twice, or after a
failure, ends with the same runs.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from quartet.base import errors, files, paths
from quartet.data import catalogue
from quartet.tracking import attempts, store
from quartet.training.record import Epoch

STUDY = "study"  # tag: the SHA-256 of the table of trainings
FOUND = "findings"  # tag: the SHA-256 of what was found, once all of it is logged
PARENT = "mlflow.parentRunId"
PLACE = "place"  # tag: a training's question, arm and seed, or a trial's number
MEASURES = ("mean", "low", "high")


def bring_up_to_date() -> bool:
    """Make MLflow hold the study whose results are here, if there is one; False after one warning if MLflow fails."""
    if not paths.FINDINGS.exists():
        return True
    rows, histories = files.read_csv(paths.STUDY_TRAININGS), dict[str, list[dict[str, str]]]()
    for row in files.read_csv(paths.STUDY_EPOCHS):
        histories.setdefault(row["training"], []).append(row)
    found = attempts.attempt(partial(_parent, rows))
    if found is attempts.FAILED:
        return False
    parent, there = found
    missing = [row for row in rows if _place(row) not in there]
    if missing:
        errors.tell(f"study: logging {len(missing)} trainings in MLflow ({store.uri()})")
    for row in missing:
        log = partial(_log_training, parent, row, histories.get(row["training"], []))
        if attempts.attempt(log) is attempts.FAILED:
            return False
    return attempts.attempt(partial(_log_findings, parent)) is not attempts.FAILED


def _place(row: Mapping[str, str]) -> str:
    return f"{row['question']}: {row['arm']}, seed {row['seed']}"


def _parent(rows: Iterable[Mapping[str, str]]) -> tuple[str, set[str]]:
    """Return the run of this study, made if it is missing, and the places of the trainings that it has whole."""
    title = catalogue.title(next(iter(rows))["data"])
    note = f"A study on {title}; see claims.md among its artifacts."
    return family(STUDY, files.sha256(paths.STUDY_TRAININGS), title, note)


def family(kind: str, digest: str, title: str, note: str) -> tuple[str, set[str]]:
    """Return the run whose tag `kind` is this digest, made if it is missing, and the places of the whole runs below it."""
    client = store.client()
    experiment = store.experiment_id(client, store.STUDY)
    found = client.search_runs([experiment], f"tags.{kind} = '{digest}'", max_results=1)
    if not found:
        tags = {kind: digest, "data": title, "mlflow.note.content": note}
        return client.create_run(experiment, run_name=kind, tags=tags).info.run_id, set()
    parent, token, there = found[0].info.run_id, "", set[str]()
    while token is not None:
        page = client.search_runs([experiment], f"tags.`{PARENT}` = '{parent}'", max_results=500, page_token=token or None)
        for run in page:
            if run.info.status == "FINISHED":
                there.add(run.data.tags[PLACE])
            else:
                client.delete_run(run.info.run_id)  # a kill left it half-logged
        token = page.token
    return parent, there


def _log_training(parent: str, row: Mapping[str, str], history: Iterable[Mapping[str, str]]) -> None:
    """Log one training of the study."""
    from mlflow.entities import Metric, Param

    client, now = store.client(), int(time.time() * 1000)
    tags = {
        PARENT: parent,
        PLACE: _place(row),
        "fingerprint": row["fingerprint"],
        "data": catalogue.title(row["data"]),
        **({"diverged": row["diverged"]} if row["diverged"] else {}),
    }
    run = client.create_run(store.experiment_id(client, store.STUDY), run_name=_place(row), tags=tags).info.run_id
    metrics = [Metric(key, float(epoch[key]), now, int(epoch["epoch"])) for epoch in history for key in Epoch._fields[1:]]
    accuracy = Metric("test_accuracy", float(row["test_accuracy"]) / 100, now, 0)
    params = [Param(key, row[key]) for key in ("question", "arm", "seed", "classes")]
    client.log_batch(run, [*metrics, accuracy], params)
    client.set_terminated(run, "FINISHED")


def _log_findings(parent: str) -> None:
    """Log the measures of each arm, the figures, and the page of claims to the study's run, unless it has them."""
    shown = [paths.CLAIMS, *sorted(paths.STUDY_FIGURES.glob("*.png"))]
    log_found(parent, _measures(files.read_json(paths.FINDINGS)["arms"]), shown)


def log_found(parent: str, measures: Mapping[str, float], shown: Iterable[Path]) -> None:
    """Log what was found, numbers and files, to the run above the others, unless it has just that."""
    client, logged = store.client(), list(shown)
    digest = files.content_digest({**measures, **{path.name: files.sha256(path) for path in logged}})
    run = client.get_run(parent)
    if run.data.tags.get(FOUND) == digest and run.info.status == "FINISHED":
        return
    for name, value in measures.items():
        if run.data.metrics.get(name) != value:
            client.log_metric(parent, name, value)
    with tempfile.TemporaryDirectory() as folder:
        for path in logged:
            shutil.copy(path, folder)
        client.log_artifacts(parent, folder)
    client.set_tag(parent, FOUND, digest)
    client.set_terminated(parent, "FINISHED")


def _measures(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Name the mean and the interval of each measure of an arm, as `ten_test_accuracy_mean`."""
    return {f"{row['arm']}_{row['measure']}_{part}": row[part] for row in rows for part in MEASURES}
