from __future__ import annotations

import pytest
import servers


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    found = servers.Database(tmp_path_factory.mktemp("database"))
    yield found
    found.stop()


@pytest.fixture(scope="session")
def team(tmp_path_factory, database):
    found = servers.Team(tmp_path_factory.mktemp("mlflow"), database)
    yield found
    found.kill()


@pytest.fixture
def folder_remote(tmp_path):
    return servers.Remote(str(tmp_path / "store"), {}, {}, {}, ({}, {}))


@pytest.fixture(scope="session")
def ssh_remote(tmp_path_factory):
    with servers.openssh(tmp_path_factory.mktemp("ssh")) as found:
        yield found


@pytest.fixture(scope="session")
def s3_remote(tmp_path_factory):
    with servers.seaweed(tmp_path_factory.mktemp("s3")) as found:
        yield found
