from __future__ import annotations

import json
import socket

import numpy as np
import pytest

import served
from pictures import encoded, written
from quartet.base.errors import InputError
from quartet.commands import serve
from quartet.data import photo
from quartet.evaluation import recognition

EMPTY = [[0] * 28] * 28
BLANK = encoded(np.full((50, 50), 255, dtype=np.uint8))
JSON, PNG, JPEG = "application/json", "image/png", "image/jpeg"


@pytest.fixture(scope="module")
def client():
    with served.running() as found:
        yield found


def ask(client, content, kind):
    return client.request("POST", "/predict", data=content, headers={"Content-Type": kind} if kind else {})


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (encoded(written("3")), PNG),
        (encoded(written("3"), "JPEG"), JPEG),
        (encoded(written("3")), "IMAGE/PNG; charset=x"),
        (json.dumps(EMPTY), JSON),
        (json.dumps(EMPTY), "application/json; charset=utf-8"),
    ],
)
def test_a_picture_and_an_array_are_read(client, content, kind):
    answer = ask(client, content, kind)
    assert answer.status_code == 200
    found = answer.json()
    assert list(found) == ["digit", "score", "runner_up", "variants"]
    assert (found["digit"], found["runner_up"]["digit"]) == (3, 1)
    assert found["variants"]["four"] == {"class": "2·3·5·8", "score": found["score"]}


def test_an_array_is_taken_as_it_is(client, monkeypatch):
    seen = []
    answers = recognition.answers
    monkeypatch.setattr(photo, "normalise", lambda *_: pytest.fail("an array is no picture"))
    monkeypatch.setattr(recognition, "answers", lambda *asked: seen.append(asked[-1]) or answers(*asked))
    image = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    ask(client, json.dumps(image.tolist()), JSON)
    assert (seen[0][0] == image).all()


BAD = [
    (b"", JSON, 400),
    (b"{", JSON, 400),
    (b"\xff\xfe", JSON, 400),
    (b"[" * 100_000, JSON, 400),
    (b"[NaN]", JSON, 422),
    (b"null", JSON, 422),
    (b"3", JSON, 422),
    (b'"3"', JSON, 422),
    (b"{}", JSON, 422),
    (b'{"image": []}', JSON, 422),
    (b"[]", JSON, 422),
    (b"[[]]", JSON, 422),
    (json.dumps([0] * 784).encode(), JSON, 422),
    (json.dumps([[0] * 28] * 27).encode(), JSON, 422),
    (json.dumps([[0] * 28] * 29).encode(), JSON, 422),
    (json.dumps([[0] * 27] * 28).encode(), JSON, 422),
    (json.dumps([[0] * 28] * 27 + [[0] * 29]).encode(), JSON, 422),
    (json.dumps([[0.5] * 28] * 28).encode(), JSON, 422),
    (json.dumps([[1.0] * 28] * 28).encode(), JSON, 422),
    (json.dumps([[-1] * 28] * 28).encode(), JSON, 422),
    (json.dumps([[256] * 28] * 28).encode(), JSON, 422),
    (json.dumps([[10**400] * 28] * 28).encode(), JSON, 422),
    (b"[[" + b"9" * 5000 + b"]]", JSON, 400),
    (json.dumps([[True] * 28] * 28).encode(), JSON, 422),
    (json.dumps([["0"] * 28] * 28).encode(), JSON, 422),
    (json.dumps([[None] * 28] * 28).encode(), JSON, 422),
    (json.dumps([[[0]] * 28] * 28).encode(), JSON, 422),
    (b"", PNG, 400),
    (b"\x89PNG\r\n\x1a\n", PNG, 400),
    (encoded(written("3"))[:300], PNG, 400),
    (b"<svg/>", PNG, 400),
    (encoded(written("3"), "GIF"), PNG, 400),
    (BLANK, PNG, 400),
    (encoded(written("38", at=(60, 60))), PNG, 400),
    (encoded(np.zeros((1, 1), dtype=np.uint8)), PNG, 400),
    (b"\xff\xd8\xff", JPEG, 400),
    (json.dumps(EMPTY).encode(), "", 415),
    (json.dumps(EMPTY).encode(), "text/plain", 415),
    (b"a=b", "application/x-www-form-urlencoded", 415),
    (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x", 415),
    (encoded(written("3")), "image/webp", 415),
    (b"\x80\x04.", "application/octet-stream", 415),
    (bytes(serve.MOST_BYTES + 1), PNG, 413),
]


@pytest.mark.parametrize(("content", "kind", "status"), BAD, ids=range(len(BAD)))
def test_a_bad_input_is_told_in_one_line(client, content, kind, status):
    answer = ask(client, content, kind)
    assert answer.status_code == status
    assert list(answer.json()) == ["detail"]
    assert len(answer.json()["detail"].splitlines()) == 1


def test_there_are_forty_bad_inputs():
    assert len(BAD) >= 40


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/predict", 405), ("POST", "/", 405), ("GET", "/none", 404)])
def test_another_method_or_place_is_told(client, method, path, status):
    assert client.request(method, path).status_code == status


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.", ""])
def test_another_host_is_refused(client, host):
    """A page elsewhere could reach this machine by a name of its own (DNS rebinding)."""
    assert client.get("/health", headers={"Host": host}).status_code == 400


def test_the_page_and_what_is_served(client):
    assert client.get("/").text == "<h1>a page</h1>"
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"
    assert client.get("/health").json() == {"status": "ok", "model": "ten", "data": "MNIST"}
    assert client.get("/docs").status_code == 200


def test_the_limits_are_in_the_description(client):
    described = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert set(described["requestBody"]["content"]) == {JSON, PNG, JPEG}
    assert {"200", "400", "413", "415", "422"} <= set(described["responses"])


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_a_bad_port_is_named(workspace, port):
    with pytest.raises(InputError, match="--port"):
        serve.main(["--port", port])


def test_without_a_page_no_training_is_served(workspace):
    with pytest.raises(InputError, match=r"stages/page/index\.html: missing; `make` makes it"):
        serve.main([])


def test_a_port_that_is_taken_is_named():
    with serve.listener("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port}: Address already in use; choose another --port"):
            serve.listener("127.0.0.1", port)


def test_an_answer_does_not_wait_for_an_acknowledgement():
    """What is accepted inherits the setting (tcp(7): TCP_NODELAY)."""
    with serve.listener("127.0.0.1", 0) as listening:
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
