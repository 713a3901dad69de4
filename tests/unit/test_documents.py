"""What the documents tell readers to do, against what is there."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from project import ROOT

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
README = (ROOT / "README.md").read_text(encoding="utf-8")
VERSION = re.search(r'(?m)^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]


def commands(page: str) -> list[str]:
    """The lines of a page's shell blocks, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]


def test_the_readme_is_short():
    assert len(README.split()) <= 900


@pytest.mark.parametrize("command", dict.fromkeys(commands(README)))
def test_ci_runs_what_the_readme_prints(command):
    """A folder of the reader's own apart: CI names it by QUARTET_MNIST in the environment."""
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert re.search(rf"(?m)^\s*(COLUMNS=120 )?{re.escape(command.removeprefix('QUARTET_MNIST=~/mnist '))}( |$)", script)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_to_a_file_leads_to_it(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_files_to_extend_exist():
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests)/[\w./]+|Makefile|params\.yaml)`", page)
    assert len(named) >= 9
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readmes_map_names_what_is_there():
    tree = re.search(r"```\n(dvc\.yaml.*?)```", README, flags=re.DOTALL)[1]
    folder, missing = "", []
    for line in tree.splitlines():
        indent, names = re.match(r"( *)([^ ,]+(?:, [^ ,]+)*)", line).groups()
        folder = {"": "", "  ": "src/", "    ": "src/quartet/"}[indent]
        missing += [name for name in names.split(", ") if not (ROOT / folder / name).exists()]
    made = {"stages/", "data/", "mlruns/", "mlflow.db"}  # the pipeline's
    assert set(missing) <= made


def test_the_versions_agree():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"(?m)^## (\S+)", changes)[1] == VERSION
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == VERSION
    tags = subprocess.run(["git", "tag", "--points-at", "HEAD", "v*"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert tags.stdout.split() in ([], [f"v{VERSION}"])


def test_the_workflow_calls_ci_run_on_the_whole_history():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"].values()
    assert [step.get("run") for step in job["steps"]] == [None, ".ci/run"]
    assert job["steps"][0]["with"] == {"fetch-depth": 0}


def test_pre_commit_calls_programs_of_the_environment():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    programs = {hook["entry"].split()[0] for hook in repository["hooks"]}
    assert programs == {".venv/bin/ruff", ".venv/bin/mypy"}
    for program in programs:
        subprocess.run([sys.executable, "-m", program.rpartition("/")[2], "--version"], check=True, capture_output=True)
