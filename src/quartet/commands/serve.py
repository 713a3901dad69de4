"""`quartet serve`: the page, and an address that reads digits, for this machine."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from quartet.base import params, paths, process
from quartet.base.errors import InputError, WorkError
from quartet.commands.ui import HOST, check_port
from quartet.data import idx, photo
from quartet.tracking import attempts, registry, store

if TYPE_CHECKING:
    from quartet.evaluation.recognition import Reader

REGISTERED = "models:/"  # how the address of a registered model begins
HERE = ("127.0.0.1", "localhost")  # the names of this machine in links
MOST_BYTES = 10_000_000  # of a body
PICTURES = ("image/png", "image/jpeg")
ARRAY = "application/json"


class Said(BaseModel):
    """What one model says: the name of the class, and its score."""

    name: str = Field(alias="class", description="the class: a digit, or the digits of a group")
    score: float = Field(ge=0, le=1)


class Second(BaseModel):
    """The digit with the second highest score."""

    digit: int = Field(ge=0, le=9)
    score: float = Field(ge=0, le=1)


class Answer(BaseModel):
    """The digit that a picture shows."""

    digit: int = Field(ge=0, le=9)
    score: float = Field(ge=0, le=1, description="the sigmoid of the class; the scores of all classes do not add up to 1")
    runner_up: Second
    variants: dict[str, Said] = Field(description="what each model says")


class Problem(BaseModel):
    """What is wrong with a request, and what to do."""

    detail: str


class Health(BaseModel):
    """What is served."""

    status: str
    model: str
    data: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "not a picture of one digit, or not JSON"},
    413: {"model": Problem, "description": f"more than {MOST_BYTES / 1e6:.0f} MB"},
    415: {"model": Problem, "description": "another type of content"},
    422: {"model": Problem, "description": "JSON, but not 28 rows of 28 grey levels"},
}
LEVEL = {"type": "integer", "minimum": 0, "maximum": 255}
ROW = {"type": "array", "minItems": idx.SIDE, "maxItems": idx.SIDE, "items": LEVEL}
ROWS = {"type": "array", "minItems": idx.SIDE, "maxItems": idx.SIDE, "items": ROW}
BODY = {
    "required": True,
    "content": {
        ARRAY: {"schema": {**ROWS, "description": "28 rows of 28 grey levels, 0 is background"}},
        **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in PICTURES},
    },
}


def application(
    readers: Mapping[str, Reader], chosen: str, data: str, page: bytes | None, hosts: Sequence[str] = HERE
) -> FastAPI:
    """Make the web application that answers by these readers; `chosen` names the digit.

    A request for another host than `hosts` is refused: the page of another site may have given its name to this machine.
    """
    app = FastAPI(title="mnist-quartet", description=f"Reads handwritten digits; trained on {data}.", version="1")

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])

    @app.get("/", response_class=HTMLResponse, summary="The page of results, if there is one, else this description")
    async def show() -> Response:
        return RedirectResponse("/docs") if page is None else HTMLResponse(page)

    @app.get("/health", summary="What is served")
    async def health() -> Health:
        return Health(status="ok", model=chosen, data=data)

    @app.post(
        "/predict",
        summary="Read the digit of a picture, or of an array of 28 by 28",
        responses=PROBLEMS,
        openapi_extra={"requestBody": BODY},
    )
    async def predict(request: Request) -> Answer:
        from quartet.evaluation import recognition

        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (ARRAY, *PICTURES):
            raise HTTPException(415, f"Content-Type: expected {', '.join((ARRAY, *PICTURES))}, found '{kind}'")
        content = await body(request)
        image = parsed(content) if kind == ARRAY else pictured(content)
        (answer,) = recognition.answers(readers, chosen, image[None])
        return Answer.model_validate(answer)

    return app


async def body(request: Request) -> bytes:
    """Read the body, MOST_BYTES at most."""
    parts: list[bytes] = []
    length = 0
    chunks: AsyncIterator[bytes] = request.stream()
    async for chunk in chunks:
        length += len(chunk)
        if length > MOST_BYTES:
            raise HTTPException(413, f"expected at most {MOST_BYTES / 1e6:.0f} MB; scale the picture down")
        parts.append(chunk)
    return b"".join(parts)


def parsed(content: bytes) -> NDArray[np.uint8]:
    """Read an image uint8 [28, 28] from JSON."""
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError):
        raise HTTPException(400, "expected JSON: 28 lists of 28 whole numbers") from None
    whole = isinstance(rows, list) and all(
        isinstance(row, list) and all(type(level) is int and 0 <= level <= 255 for level in row) for row in rows
    )
    if not whole or [len(row) for row in rows] != [idx.SIDE] * idx.SIDE:
        raise HTTPException(422, "expected 28 lists of 28 whole numbers from 0 (background) to 255")
    return np.array(rows, dtype=np.uint8)


def pictured(content: bytes) -> NDArray[np.uint8]:
    """Make a picture an image uint8 [28, 28]."""
    try:
        return photo.normalise(photo.decode(content, "picture"), "picture")
    except InputError as error:
        raise HTTPException(400, str(error)) from None


def main(arguments: Sequence[str]) -> None:
    """Serve the page of results at /, and read digits at /predict, until Ctrl-C."""
    parser = process.Parser(prog="quartet serve", description=main.__doc__)
    parser.add_argument("--port", type=int, default=8000, help="the port (default: 8000)")
    parser.add_argument("--host", default=HOST, help=f"the address to listen on (default: {HOST}, this machine alone)")
    parser.add_argument("--allow", metavar="NAME", action="append", default=[], help="another name of this machine in links")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="the training that names the digit (default: best on validation), or models:/mnist-ten@champion",
    )
    options = parser.parse_args(arguments)
    check_port(options.port)
    try:
        page = paths.PAGE.read_bytes()
    except FileNotFoundError:
        if not (options.model or "").startswith(REGISTERED):  # a registered model is served without the pipeline's results
            raise InputError(f"{paths.PAGE}: missing; `make` makes it") from None
        page = None
    import torch
    import uvicorn

    torch.set_num_threads(1)  # an image is too small to be divided
    app = application(*served(options.model), page, (*HERE, *options.allow))
    with listener(options.host, options.port) as listening:
        shown = f"[{options.host}]" if ":" in options.host else options.host
        print(f"serve: http://{shown}:{options.port}/ (Ctrl-C ends it)", flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", limit_concurrency=64, timeout_keep_alive=5))
        server.run([listening])


def served(asked: str | None) -> tuple[dict[str, Reader], str, str]:
    """Return what reads images, the one of them that names the digit, and the data that it was trained on.

    `asked` is a training, the address of a registered model, which then answers alone, or None for the best training.
    """
    from quartet.evaluation import recognition

    if asked and asked.startswith(REGISTERED):
        name = asked.removeprefix(REGISTERED)  # a whole address would be taken for one with a password
        found = attempts.attempt(partial(registry.load, asked))
        if found is attempts.FAILED:
            raise WorkError(f"--model: {name} cannot be loaded; see the warning above")
        if found is None:
            raise InputError(f"--model: MLflow ({store.uri()}) has no model {name}; `quartet register` makes them")
        scores, tags = found
        listed = tags.get("classes", "")
        classes = listed.split(", " if ", " in listed else None)  # earlier versions have spaces alone
        if len(classes) != 10:
            raise InputError(f"--model: {name}: expected a model of ten classes, found {len(classes)}")
        return {name: recognition.Reader(classes, scores)}, name, tags["data"]
    models = recognition.load(params.load().trainings)
    chosen = recognition.chosen(models, asked)
    return recognition.readers(models), chosen, models[chosen].training.source.title


def listener(host: str, port: int) -> socket.socket:
    """Listen at an address; InputError if it is taken, or not one of this machine."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        problem = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise InputError(f"{host}:{port}: {problem}; choose another --port or --host") from None
    # asyncio does it for sockets of its own alone. Without it, an answer waits 40 ms for the client's acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
