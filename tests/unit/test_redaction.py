from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest

from quartet.base.redaction import redacted, shown

PASSWORD, KEY = "pä55 w/ord+=\"'", "sIgnatur3%2Bx=="
# What may be in the environment, and the secrets in it.
SETTINGS = [
    ("QUARTET_MNIST", f"http://user:{quote(PASSWORD, safe='')}@host/mnist/?sig={KEY}", [PASSWORD, KEY]),
    ("QUARTET_MNIST", f"http://user:{PASSWORD}@host/mnist/", [PASSWORD]),
    ("QUARTET_MNIST", "HTTPS://host/mnist/?a=1&X-Amz-Signature=0123abcdef", ["0123abcdef"]),
    ("QUARTET_MNIST", "http://host/mnist/#access_token=0123abcdef", ["0123abcdef"]),
    ("MLFLOW_TRACKING_URI", "https://t0ken@host", ["t0ken"]),
    ("MLFLOW_TRACKING_URI", "http://:secret@host:5000", ["secret"]),
    ("MLFLOW_TRACKING_URI", "http://user:pass@word@host", ["pass@word"]),
    ("MLFLOW_TRACKING_URI", "http://user:pa/ss@host", ["pa/ss"]),
    ("MLFLOW_TRACKING_URI", "http://user:pa?ss@host", ["pa?ss"]),
    ("MLFLOW_TRACKING_URI", "http:/user:secret@host", ["secret"]),
    ("MLFLOW_TRACKING_URI", "user:secret@host/db", ["secret"]),
    ("MLFLOW_TRACKING_URI", " http://user:secret@host ", ["secret"]),
    ("MLFLOW_TRACKING_URI", "postgresql+psycopg2://user:secret@host:5432/db", ["secret"]),
    ("MLFLOW_TRACKING_URI", "postgresql://host/db?user=me&password=secr3t", ["secr3t"]),
    ("MLFLOW_TRACKING_URI", "mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BUID%3Dsa%3BPWD%3Dsecr3t%21", ["secr3t!"]),
    ("MLFLOW_TRACKING_URI", "s3://AKIAKEY0:secret@bucket/path", ["secret", "AKIAKEY0"]),
    ("MLFLOW_TRACKING_URI", "nosuch://user:secret@host", ["secret"]),
    ("MLFLOW_TRACKING_PASSWORD", "secr3t", ["secr3t"]),
    ("MLFLOW_TRACKING_TOKEN", "t0ken", ["t0ken"]),
    ("AWS_SECRET_ACCESS_KEY", "abc/def+ghi", ["abc/def+ghi"]),
    ("HTTPS_PROXY", "http://user:secret@proxy:3128", ["secret"]),
]


def encoded(secret: str) -> list[str]:
    """A secret as libraries write it."""
    return [
        *(secret, quote(secret), quote(secret, safe=""), quote(secret, safe="").lower(), quote_plus(secret)),
        *(json.dumps(secret), repr(secret), html.escape(secret), " ".join(secret.split())),
    ]


@pytest.fixture
def alone(monkeypatch):
    """Nothing of this machine's settings."""
    for name, *_ in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(("name", "value", "secrets"), SETTINGS)
def test_no_secret_of_the_environment_is_left_in_any_form(alone, name, value, secrets):
    alone.setenv(name, value)
    for secret in secrets:
        for form in encoded(secret):
            for text in (
                form,
                f"it failed: ({form!r}, 'x')",
                f"a{form}b",
                f"GET /x.gz?sig={form} HTTP/1.1",
                f"at //{form}/",
            ):
                assert form not in redacted(text)
        assert secret not in redacted(f"cannot connect to {value}: {value!r}")


def test_the_words_of_a_header_are_hidden(alone):
    alone.setenv("MLFLOW_TRACKING_URI", "http://user:secret@host")
    header = base64.b64encode(b"user:secret").decode()
    assert header.rstrip("=") not in redacted(f"Authorization: Basic {header}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at http://u:p@h/x?y=z: no", "at http://***@h/x?***: no"),
        ("with url: /mnist/a.gz?sig=1&b=2 (Caused by X)", "with url: /mnist/a.gz?*** (Caused by X)"),
        ("(postgresql://h/db?a=b) failed", "(postgresql://h/db?***) failed"),
        ("http://a:b@c and https://d@e/f", "http://***@c and https://***@e/f"),
        ('"postgresql://u:p/w@h/db"', '"postgresql://***@h/db"'),
        ("s3://bucket/key?versionId=1", "s3://bucket/key?***"),
    ],
)
def test_user_and_query_of_every_url_are_hidden(alone, text, expected):
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "MLflow (sqlite:////home/me/mlflow.db) failed",
        "http://127.0.0.1:5000/#/experiments/1/runs",
        "mail me@example.org about data/raw/: is it right?",
        "https://ossci-datasets.s3.amazonaws.com/mnist/: HTTP status 403",
        "params.yaml: lr: expected more than 0, found -1",
        "what? a=b",
    ],
)
def test_what_is_no_secret_stays(alone, text):
    alone.setenv("MLFLOW_TRACKING_URI", "postgresql://me:pw@host/db?sslmode=require&flag=true")
    assert shown(text) == text


@pytest.mark.parametrize("name", ["QUARTET_MNIST", "PWD", "MLFLOW_TRACKING_URI"])
@pytest.mark.parametrize("place", ["/home/me@work/#1 data?/set", "./me@work/set#1", "sqlite:////home/me@work/#1/mlflow.db"])
def test_a_path_is_no_secret(alone, name, place):
    alone.setenv(name, place)
    for text in (place, place.partition("/")[2].removesuffix("t"), "me", "1 data"):
        assert redacted(f"at {text}: no") == f"at {text}: no"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2J\x07\x00", r"\x1b[2J\x07\x00"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("a\rb\nc\td", r"a\rb\nc\td"),
        ("\u202e\u2066\u200f\u2028\ufeff", r"\u202e\u2066\u200f\u2028\ufeff"),
        ("\udc9b\U000e0001", r"\udc9b\U000e0001"),
        ("ä 日本 🙂 \\x1b", "ä 日本 🙂 \\x1b"),
    ],
)
def test_characters_that_steer_a_terminal_are_escaped(text, expected):
    assert shown(text) == expected
