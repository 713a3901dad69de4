"""Planted secrets, looked for in all that the pipeline prints, writes, tracks and caches."""

from __future__ import annotations

import base64
import json
import re
import urllib.request
import uuid
from pathlib import Path
from urllib.parse import quote

from project import clone
from tracked import SERVER, Companion

# New ones each time, so that they stand in no file of the project.
PASSWORD, SIGNATURE, KEY = (f"{uuid.uuid4().hex[:8]}/{uuid.uuid4().hex[:8]}" for _ in range(3))
FORMS = {
    *(PASSWORD, SIGNATURE, KEY),
    *(secret.replace("/", code) for secret in (PASSWORD, SIGNATURE, KEY) for code in ("%2F", "%2f")),
    *(base64.b64encode(f"{user}:{PASSWORD}".encode()).decode().rstrip("=") for user in ("reader", "user")),
}


def holding(*folders: Path) -> dict[str, list[str]]:
    """The files below these folders that hold a secret, by name or content, and what they hold."""
    found = {}
    for path in (path for folder in folders for path in folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if held := [form for form in FORMS if form.encode() in content or form in path.name]:
            found[str(path)] = held
    return found


def runs(port: int) -> list[dict]:
    asked = json.dumps({"experiment_ids": ["1"]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search", asked)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["runs"]


def test_no_secret_is_printed_written_tracked_or_cached(tmp_path):
    """A store with a password, an experiment in a copy, an address of MNIST with a signature, and a store that is down."""
    found = tmp_path / "found"
    found.write_text(f"x{PASSWORD}x", encoding="utf-8")
    assert list(holding(tmp_path)) == [str(found)]
    found.unlink()
    project = clone(tmp_path, epochs=1)
    params = project.root / "params.yaml"
    text = params.read_text(encoding="utf-8")
    params.write_text(re.sub(r"\n  (ten-bn|four|four-bn): .*", "", text), encoding="utf-8")
    project.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qam", "Make it small")
    project.run("make", "setup")
    kept = tmp_path / "server"
    kept.mkdir()
    server = Companion(
        SERVER,
        _MLFLOW_SERVER_FILE_STORE=f"sqlite:///{kept}/mlflow.db",
        _MLFLOW_SERVER_ARTIFACT_ROOT=str(kept / "artifacts"),
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    )
    try:
        port = int(server.tell("start 0 none -"))
        word, signature = quote(PASSWORD, safe=""), quote(SIGNATURE, safe="")
        down = {"MLFLOW_TRACKING_URI": f"http://reader:{word}@127.0.0.1:9", "AWS_SECRET_ACCESS_KEY": KEY}
        tracking = down | {"MLFLOW_TRACKING_URI": f"http://reader:{word}@127.0.0.1:{port}"}
        signed = {"QUARTET_MNIST": f"http://user:{word}@127.0.0.1:9/mnist/?sv=1&sig={signature}"}
        done = [
            project.run("dvc", "repro", "evaluate", **tracking),
            project.run("dvc", "exp", "run", "--temp", "evaluate", "-S", "bn=true", **tracking),
            project.run("quartet", "sync", **tracking),
            project.run("dvc", "repro", "--force", "--single-item", "trial", **down),
        ]
        params.write_text(params.read_text(encoding="utf-8").replace("source: sample", "source: mnist"), encoding="utf-8")
        refused = [
            project.run("dvc", "repro", "fetch", check=False, **tracking, **signed),
            project.run("quartet", "sync", check=False, **down),
        ]
        assert len(runs(port)) == 3
    finally:
        server.end()
    assert [command.returncode != 0 for command in refused] == [True, True]
    printed = "".join(command.stdout for command in [*done, *refused])
    assert printed.count("***@127.0.0.1") > 3
    assert {form for form in FORMS if form in printed} == set()
    assert holding(tmp_path) == {}
    history = project.run("git", "log", "-p", "--all", "--reflog").stdout
    assert {form for form in FORMS if form in history} == set()
