"""`quartet results`: what `make` prints at its end."""

from __future__ import annotations

import subprocess

import pytest

from quartet.base import files, paths
from quartet.base.errors import InputError
from quartet.commands import results
from quartet.data import idx

PAGE = "# Results on MNIST\n\nData.\n\n| a |\n\n## One\n\nfirst\n\n## Two\n\nsecond\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository whose pipeline has run as committed, on MNIST."""
    monkeypatch.chdir(tmp_path)
    for name in idx.FILES:
        files.write_bytes(paths.RAW / name, b"")
    idx.record("mnist")
    files.write_bytes(paths.RESULTS, PAGE.encode())
    (tmp_path / "dvc.lock").write_text("as committed", encoding="utf-8")
    git("init", "-q")
    commit()
    return tmp_path


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
    assert lines[lines.index("Next:") + 1 :: 2][:2] == ["  make ui", "  . .venv/bin/activate"]
    assert not any("git switch" in line or "QUARTET_MNIST" in line for line in lines)


def test_other_results_are_to_be_committed_first(project, capsys):
    (project / "dvc.lock").write_text("another", encoding="utf-8")
    lines = printed(capsys)
    command = lines[lines.index("Next:") + 1].strip()
    assert command == "git switch -c mine && git commit -am 'My baseline'"
    assert "`dvc exp show`" in " ".join(lines)
    git("config", "user.name", "test")
    git("config", "user.email", "test@localhost")
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    assert not any("git switch" in line for line in printed(capsys))


def test_after_the_sample_the_way_to_mnist_is_named(project, capsys):
    idx.record("sample")
    assert printed(capsys)[-2:] == [
        "  QUARTET_MNIST=<directory or URL of its four files> make",
        "      this was sample data, now MNIST",
    ]


def test_without_results_the_command_says_what_makes_them(project):
    paths.RESULTS.unlink()
    with pytest.raises(InputError, match=r"stages/plot/results\.md: missing; `make` makes it"):
        results.main([])
