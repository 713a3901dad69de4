from __future__ import annotations

import pytest

from quartet.base import paths


@pytest.fixture
def project(tmp_path):
    (tmp_path / "project/.dvc/tmp/exps/tmpcopy/src").mkdir(parents=True)
    (tmp_path / "other/.dvc/tmp/exps").mkdir(parents=True)
    return tmp_path / "project"


def test_the_root_is_the_working_directory(project, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(project)
    assert paths.project_root() == project


def test_a_copy_belongs_to_the_project_that_dvc_names(project, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(project))
    for folder in ("", ".dvc/tmp/exps/tmpcopy"):
        monkeypatch.chdir(project / folder)
        assert paths.project_root() == project


def test_a_link_to_the_project_is_the_project(project, monkeypatch):
    link = project.with_name("link")
    link.symlink_to(project)
    monkeypatch.setenv("DVC_ROOT", str(link))
    monkeypatch.chdir(link / ".dvc/tmp/exps/tmpcopy")
    assert paths.project_root() == project


def test_the_dvc_root_of_another_project_is_not_trusted(project, monkeypatch):
    """As in a stage of another project that calls this one."""
    monkeypatch.setenv("DVC_ROOT", str(project.with_name("other")))
    for folder in ("", ".dvc/tmp/exps/tmpcopy"):
        monkeypatch.chdir(project / folder)
        assert paths.project_root() == project / folder


def test_a_dvc_root_that_is_not_there_is_not_trusted(project, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", "/no/such/place")
    monkeypatch.chdir(project)
    assert paths.project_root() == project
