"""`quartet serve` against its own description, by Schemathesis."""

from __future__ import annotations

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as some
from schemathesis.specs.openapi.checks import positive_data_acceptance

import served
from pictures import encoded, written

PICTURES = [encoded(written("3")), encoded(np.full((50, 50), 255, dtype=np.uint8))]


@pytest.fixture(scope="module")
def client():
    with served.running() as found:
        yield found


@pytest.fixture(scope="module")
def schema(client):
    for kind in ("image/png", "image/jpeg"):
        schemathesis.openapi.media_type(kind, some.sampled_from(PICTURES) | some.binary(max_size=200))
    return schemathesis.openapi.from_url(f"{client.address}/openapi.json")


API = schemathesis.pytest.from_fixture("schema")


@API.parametrize()
@settings(max_examples=50, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_asked_is_answered_as_described(case, client):
    """Each status, type and body is as OpenAPI has them, and never a 500. A picture may be refused."""
    case.call_and_validate(session=client.session, excluded_checks=[positive_data_acceptance])
