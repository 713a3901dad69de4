"""`quartet results`: what `make` prints at its end."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from quartet.base import files, paths
from quartet.base.errors import InputError
from quartet.commands import results
from quartet.data import catalogue, idx

PAGE = "# Results on MNIST\n\nData.\n\n| a |\n\n## One\n\nfirst\n\n## Two\n\nsecond\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository whose pipeline has run as committed, on MNIST."""
    monkeypatch.chdir(tmp_path)
    for name in idx.FILES:
        files.write_bytes(paths.RAW / name, b"")
    idx.record(catalogue.MNIST.source)
    files.write_bytes(paths.RESULTS, PAGE.encode())
    write_lock("as committed")
    git("init", "-q")
    commit()
    return tmp_path


def write_lock(content: str, data: str = "mnist") -> Path:
    """Have dvc.lock name metrics of this content; return their place in DVC's cache, where they are not."""
    digest = hashlib.md5(content.encode()).hexdigest()
    outs = {"fetch": ("data/raw/source.json", data), "evaluate": ("stages/evaluate/metrics.json", digest)}
    stages = {stage: {"outs": [{"path": path, "md5": md5}]} for stage, (path, md5) in outs.items()}
    Path("dvc.lock").write_text(json.dumps({"stages": stages}), encoding="utf-8")
    return Path(".dvc/cache/files/md5", digest[:2], digest[2:])


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments], check=True)


def commit():
    git("add", "dvc.lock")
    git("commit", "-qm", "Run")


def printed(capsys) -> list[str]:
    results.main([])
    out, error = capsys.readouterr()
    assert error == ""
    assert [line for line in out.splitlines() if len(line) > 80] == []
    return out.splitlines()


def test_the_headline_comes_last_and_then_what_to_do(project, capsys):
    lines = printed(capsys)
    assert [line for line in lines if line.startswith("#")] == ["## Two", "## One", "# Results on MNIST"]
    assert lines[lines.index("Next:") - 2] == "| a |"
    assert lines[lines.index("Next:") + 1 :: 2][:2] == ["  stages/page/index.html", "  make ui"]
    assert not any("git switch" in line or "QUARTET_MNIST" in line for line in lines)


def test_other_results_are_to_be_committed_first(project, capsys):
    write_lock("another")
    lines = printed(capsys)
    command = lines[lines.index("Next:") + 1].strip()
    assert command == "git switch -c mine && git commit -am 'My baseline'"
    assert "`dvc exp show`" in " ".join(" ".join(lines).split())
    git("config", "user.name", "test")
    git("config", "user.email", "test@localhost")
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    assert not any("git switch" in line for line in printed(capsys))


def test_results_that_the_cache_has_need_no_commit(project, capsys):
    """As after an experiment: they can be compared with."""
    committed = write_lock("as committed")
    write_lock("another")
    assert any("git switch" in line for line in printed(capsys))
    files.write_bytes(committed, b"{}")
    assert not any("git switch" in line for line in printed(capsys))


def test_results_on_other_data_are_to_be_committed_first(project, capsys):
    files.write_bytes(write_lock("as committed"), b"{}")
    write_lock("another", "sample")
    lines = " ".join(" ".join(printed(capsys)).split())
    assert "git switch -c mine && git commit -am 'My baseline' first: the last commit has results on other data" in lines


def test_the_branch_to_make_is_not_there_yet(project, capsys):
    for name in ("mine", "mine-2", "other"):
        git("branch", name)
    write_lock("another")
    assert "  git switch -c mine-3 && git commit -am 'My baseline'" in printed(capsys)


def test_the_details_are_not_printed(project, capsys):
    files.write_bytes(paths.RESULTS, (PAGE + "\n## Beside the report\n\nbeside\n\n## Layers and parameters\n\nl\n").encode())
    lines = printed(capsys)
    assert "## Beside the report" in lines
    assert "## Layers and parameters" not in lines


def test_after_the_sample_the_way_to_mnist_is_named(project, capsys):
    idx.record(catalogue.SAMPLE.source)
    assert printed(capsys)[-2:] == [
        "  QUARTET_MNIST=<directory or URL of its four files> make",
        "      train on MNIST: this run used sample data",
    ]


def test_without_results_the_command_says_what_makes_them(project):
    paths.RESULTS.unlink()
    with pytest.raises(InputError, match=r"stages/plot/results\.md: missing; `make` makes it"):
        results.main([])
