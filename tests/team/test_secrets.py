"""Planted secrets, looked for in all that the pipeline prints, writes, tracks and caches."""

from __future__ import annotations

import base64
import re
import uuid
from pathlib import Path
from urllib.parse import quote

import pytest

from project import clone

pytestmark = [pytest.mark.team, pytest.mark.xdist_group("mlflow")]

# New ones in each run of the tests: no file of the project has them.
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


def test_no_secret_is_printed_written_tracked_or_cached(team, tmp_path):
    """A team's server, told the password by its address and by a variable, an experiment in a copy, an address of MNIST with
    a signature, and a server that is down. The server's files, log and database are searched too."""
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
    assert team.members("add", "reader", PASSWORD).returncode == 0
    word, signature = quote(PASSWORD, safe=""), quote(SIGNATURE, safe="")
    down = {"MLFLOW_TRACKING_URI": f"http://reader:{word}@127.0.0.1:9", "AWS_SECRET_ACCESS_KEY": KEY}
    by_address = down | {"MLFLOW_TRACKING_URI": f"http://reader:{word}@127.0.0.1:{team.port}"}
    by_variable = down | team.variables("reader", PASSWORD)
    wrong = down | {"MLFLOW_TRACKING_URI": f"http://nobody:{word}@127.0.0.1:{team.port}"}
    signed = {"QUARTET_MNIST": f"http://user:{word}@127.0.0.1:9/mnist/?sv=1&sig={signature}"}
    done = [
        project.run("dvc", "repro", "evaluate", **by_address),
        project.run("dvc", "exp", "run", "--temp", "evaluate", "-S", "bn=true", **by_variable),
        project.run("quartet", "sync", **by_variable),
        project.run("quartet", "register", **by_variable),
        project.run("dvc", "repro", "--force", "--single-item", "trial", **down),
    ]
    params.write_text(params.read_text(encoding="utf-8").replace("source: sample", "source: mnist"), encoding="utf-8")
    refused = [
        project.run("dvc", "repro", "fetch", check=False, **by_address, **signed),
        project.run("quartet", "sync", check=False, **down),
        project.run("quartet", "sync", check=False, **wrong),
    ]
    assert [command.returncode != 0 for command in refused] == [True] * 3
    assert "agrees with stages/" in done[2].stdout
    printed = "".join(command.stdout for command in [*done, *refused])
    assert printed.count("***@127.0.0.1") > 3
    assert {form for form in FORMS if form in printed} == set()
    assert holding(tmp_path, team.folder) == {}
    stored = team.database.dump()
    assert "'trial'" in stored or "\ttrial\t" in stored
    assert {form for form in FORMS if form in stored} == set()
    history = project.run("git", "log", "-p", "--all", "--reflog").stdout
    assert {form for form in FORMS if form in history} == set()
