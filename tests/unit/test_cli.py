"""The program `quartet`: what it says of its commands, and how it finds them."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from project import ROOT
from quartet import commands
from quartet.base.errors import InputError
from quartet.commands import cli

QUARTET = Path(sys.executable).with_name("quartet")


def run(folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(tmp_path, arguments):
    done = run(tmp_path, QUARTET, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for name, what in cli.COMMANDS.items():
        assert [line.split(maxsplit=1) for line in lines if line.strip().startswith(f"{name} ")] == [[name, what]]
    assert list(tmp_path.iterdir()) == []


def test_every_module_with_a_main_is_a_command():
    modules = {module.name for module in pkgutil.iter_modules(commands.__path__)} - {"cli"}
    with_main = {name for name in modules if hasattr(import_module(f"quartet.commands.{name}"), "main")}
    assert set(cli.COMMANDS) == with_main
    assert with_main < modules  # one holds what the others share


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_prints_its_help_and_does_no_more(tmp_path, name):
    done = run(tmp_path, QUARTET, name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: quartet {name} ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_refuses_an_option_that_it_does_not_know(tmp_path, monkeypatch, capfd, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["quartet", name, "--no-such-option"])
    with pytest.raises(InputError) as refused:
        cli.dispatch()
    advice = f"unrecognized arguments: --no-such-option; `quartet {name} --help` explains it"
    assert str(refused.value) == f"quartet {name}: {advice}"
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["nope", "cli", "outputs", "../train", "", "--version"])
def test_an_unknown_command_is_refused_in_one_line(tmp_path, name):
    done = run(tmp_path, QUARTET, name, "--help")
    assert done.returncode == 2
    assert done.stdout == ""
    known = ", ".join(cli.COMMANDS)
    problem = f"quartet: expected one of {known}, found '{name}'; `quartet --help` explains them"
    assert done.stderr == f"quartet: error: {problem}\n"


def test_finding_a_command_imports_no_large_package(tmp_path):
    code = (
        "import sys; from quartet.commands import cli; cli.usage()\n"
        "print(*sorted({'torch', 'mlflow', 'dvc', 'numpy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = run(tmp_path, sys.executable, "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_the_arguments_after_the_name_reach_the_command(monkeypatch, capsys):
    given = []
    monkeypatch.setattr(import_module("quartet.commands.prepare"), "main", given.append)
    monkeypatch.setattr(sys, "argv", ["quartet", "prepare", "one", "--two"])
    cli.dispatch()
    assert given == [["one", "--two"]]
    assert capsys.readouterr() == ("", "")
