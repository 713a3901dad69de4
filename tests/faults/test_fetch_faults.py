import base64
import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

import fetch
from project import ROOT
from quartet.base import paths, process
from quartet.base.errors import InputError, WorkError
from quartet.data import catalogue, download, idx

pytest_plugins = ["misbehaving_server"]

FIRST, SECOND, THIRD, FOURTH = catalogue.MNIST.files
MEBIBYTE = 1 << 20

HASH = "its SHA-256 is another"
LONG = "more bytes than the file has"
# What a server does wrong, and the reason that the warning gives.
REASONS = {
    "403": "HTTP status 403",
    "404": "HTTP status 404",
    "500": "HTTP status 500",
    "redirect-loop": "Exceeded 30 redirects.",
    "stall-headers": "no answer in time",
    "stall-body": "no answer in time",
    "drip-headers": "not done after 1 s",
    "drip-body": "not done after 1 s",
    "cut": "IncompleteRead({half} bytes read, {rest} more expected)",
    "cut-unsaid": HASH,
    "hang-up": "Remote end closed connection without response",
    "not-http": "SSH-2.0-OpenSSH_9.6",
    "web-page": HASH,
    "bit-flip": HASH,
    "truncated": HASH,
    "garbage": LONG,
    "bomb": HASH,
    "endless": LONG,
    "encoding-bomb": HASH,
}


def one_warning(capsys):
    """The one line on standard error, which must be one."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


def run_stage():
    """Run the stage as its script does; the handlers of signals stay those of the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with contextlib.suppress(SystemExit):
            process.run(fetch.main)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("fault", ["none", "403", "redirect-loop", "hang-up", "not-http", "garbage", "nowhere", "odd"])
def test_the_secrets_of_an_address_are_used_and_not_shown(fault, fetching, monkeypatch, capfd):
    """Password and signature of a signed address, in a program that ends as a user sees it."""
    address = f"{fetching.server.url(fault if fault in REASONS else 'none', user='user:pa55%2Fword@')}?a=b&sig=Signatur%2Be"
    if fault == "nowhere":
        address = address.replace(str(fetching.server.server_port), "9")
    if fault == "odd":
        address = address.replace("http", "gopher")
    monkeypatch.setenv("QUARTET_MNIST", address)
    run_stage()
    printed = "".join(capfd.readouterr())
    assert "***" in printed
    for secret in ("pa55%2Fword", "pa55/word", "Signatur%2Be", "Signatur+e"):
        assert secret not in printed
    assert paths.SOURCE.exists() == (fault == "none")
    if fault == "none":
        word = base64.b64encode(b"user:pa55/word").decode()
        assert set(fetching.server.keys) == {(f"Basic {word}", "a=b&sig=Signatur%2Be")}


def test_an_answer_cannot_steer_the_terminal(fetching, monkeypatch, capfd):
    monkeypatch.setenv("QUARTET_MNIST", fetching.server.url("hostile"))
    run_stage()
    out, error = capfd.readouterr()
    assert "\\x1b[2J" in error
    assert all(line.isprintable() for line in (out + error).splitlines())
    assert all(line.startswith("quartet: ") and "quartet: all" not in line[:13] for line in error.splitlines())


@pytest.mark.parametrize("fault", REASONS)
def test_a_bad_mirror_is_told_and_the_next_one_serves(fault, fetching, monkeypatch, capsys):
    bad = fetching.server.url(fault, THIRD)
    fetching.mirrors(bad, fetching.server.url())
    if fault.startswith("stall"):
        monkeypatch.setattr(download, "READ_SECONDS", 0.3)
    if fault.startswith("drip"):
        monkeypatch.setattr(download, "FILE_SECONDS", 1)
    started = time.monotonic()
    tracemalloc.start()
    try:
        fetch.main()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A stall lasts a minute, a drip of the file an hour; the bombs and the endless bodies have 64 MiB and more.
    assert time.monotonic() - started < 20
    assert peak < 16 * MEBIBYTE
    assert fetching.server.sent < 64 * MEBIBYTE
    half, whole = len(fetching.packed[THIRD]) // 2, len(fetching.packed[THIRD])
    reason = REASONS[fault].format(half=half, rest=whole - half)
    assert one_warning(capsys) == f"quartet: warning: {bad}: {THIRD}: {reason}"
    assert fetching.raw() == fetching.contents
    assert json.loads(paths.SOURCE.read_text())["data"] == "mnist"
    # The two files that the bad mirror served are kept: none is asked for twice.
    asked = fetching.server.requests
    assert [asked.count(f"{name}.gz") for name in (FIRST, SECOND, FOURTH)] == [1, 1, 1]


def test_a_mirror_that_fails_once_is_asked_again(fetching, monkeypatch, capsys):
    fetching.mirrors(fetching.server.url("once-bad", SECOND))
    monkeypatch.setattr(download, "RETRIES", 1)
    fetch.main()
    assert fetching.server.requests == [f"{FIRST}.gz", *2 * [f"{SECOND}.gz"], f"{THIRD}.gz", f"{FOURTH}.gz"]
    assert fetching.raw() == fetching.contents
    assert capsys.readouterr().err == ""


def test_a_retry_is_within_the_time_of_the_file(fetching, monkeypatch, capsys):
    """A mirror that stalls each time must not take FILE_SECONDS for each try."""
    fetching.mirrors(fetching.server.url("drip-body", THIRD), fetching.server.url())
    monkeypatch.setattr(download, "RETRIES", 1000)
    monkeypatch.setattr(download, "FILE_SECONDS", 1)
    fetch.main()
    assert "not done after 1 s" in one_warning(capsys)
    assert fetching.server.requests.count(f"{THIRD}.gz") == 2  # one from each mirror


def test_an_endless_body_of_a_redirect_is_not_read(fetching, monkeypatch):
    fetching.mirrors(fetching.server.url("redirect-endless"))
    fetch.main()
    assert fetching.raw() == fetching.contents
    assert fetching.server.sent < 64 * MEBIBYTE  # what the sockets buffer, and not the 256 MiB that there are


def test_a_mirror_that_fails_the_third_file_has_served_two(fetching, monkeypatch):
    fetching.mirrors(fetching.server.url("404", THIRD))
    fetching.source("mnist")
    with pytest.raises(WorkError):
        fetch.main()
    kept = {name: fetching.contents[name] for name in (FIRST, SECOND)}
    assert fetching.raw() == kept
    assert not paths.SOURCE.exists()  # nothing may take half of MNIST for MNIST
    fetching.server.requests.clear()
    fetching.mirrors(fetching.server.url())
    fetch.main()
    assert fetching.server.requests == [f"{THIRD}.gz", f"{FOURTH}.gz"]
    assert fetching.raw() == fetching.contents


def test_a_refused_connection_is_told_and_the_next_mirror_serves(fetching, monkeypatch, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, so that nobody else gets the port, and not listening
        bad = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        fetching.mirrors(bad, fetching.server.url())
        fetch.main()
    assert one_warning(capsys) == f"quartet: warning: {bad}: {FIRST}: Connection refused"
    assert fetching.raw() == fetching.contents


def test_where_every_mirror_stalls_auto_comes_to_the_sample_soon(fetching, monkeypatch, capsys):
    fetching.mirrors(fetching.server.url("stall-headers"), fetching.server.url("drip-headers"))
    monkeypatch.setattr(download, "FILE_SECONDS", 1)  # less than READ_SECONDS: it bounds the waits' sum
    started = time.monotonic()
    fetch.main()
    assert time.monotonic() - started < 20
    assert capsys.readouterr().err.count(f"{FIRST}: not done after 1 s") == 2
    assert json.loads(paths.SOURCE.read_text())["data"] == "sample"


def test_if_nothing_serves_the_error_says_what_to_put_where(fetching, monkeypatch, capsys):
    urls = fetching.server.url("403"), fetching.server.url("500")
    fetching.mirrors(*urls)
    fetching.source("mnist")
    with pytest.raises(WorkError) as caught:
        fetch.main()
    assert caught.value.exit_status == 1
    message = str(caught.value)
    for part in (
        f"{urls[1]}: {FIRST}: HTTP status 500",
        *fetching.contents,
        "QUARTET_MNIST",
        "data/raw/",
        "run the same again",
    ):
        assert part in message
    assert "\n" not in message
    assert one_warning(capsys) == f"quartet: warning: {urls[0]}: {FIRST}: HTTP status 403"
    assert not paths.RAW.exists()


def test_where_nothing_serves_auto_takes_the_sample_loudly(fetching, monkeypatch, capsys):
    # The first file is had: of MNIST and the sample there must be no mixture.
    fetching.mirrors(fetching.server.url("404", SECOND))
    fetch.main()
    assert json.loads(paths.SOURCE.read_text())["data"] == "sample"
    assert {name: len(content) for name, content in fetching.raw().items()} == {
        FIRST: 8 + 297,
        SECOND: 8 + 1_500,
        THIRD: 16 + 297 * 784,
        FOURTH: 16 + 1_500 * 784,
    }
    output = capsys.readouterr()
    assert output.err.count("HTTP status 404") == 1
    banner = "\n".join(output.out.splitlines()[-5:])
    assert "SAMPLE DATA" in banner
    assert "NOT MNIST" in banner
    assert "QUARTET_MNIST=<directory or URL of its four files> make" in banner


@pytest.mark.parametrize("source", ["auto", "mnist"])
@pytest.mark.parametrize("place", ["missing", "empty", "server", "scheme", "nobody"])
def test_what_the_user_names_is_never_replaced(place, source, fetching, tmp_path, monkeypatch):
    """Neither by the mirrors nor by the sample."""
    (tmp_path / "empty").mkdir()
    named, reason = {
        "missing": (str(tmp_path / "missing"), "no such directory. "),
        "empty": (str(tmp_path / "empty"), "no files in that directory. Put"),
        "server": (fetching.server.url("404"), "HTTP status 404"),
        "scheme": ("ftp://127.0.0.1/mnist", "expected a directory, a file: URL or an http(s): URL"),
        "nobody": ("~nobody-of-this-name/mnist", "Could not determine home directory. Put"),
    }[place]
    fetching.source(source)
    monkeypatch.setenv("QUARTET_MNIST", named)
    with pytest.raises(WorkError, match=re.escape(f"had: {named}: {FIRST}: {reason}")):
        fetch.main()
    assert not paths.RAW.exists()


def test_sample_and_a_named_place_contradict_each_other(fetching, tmp_path, monkeypatch):
    fetch.main()
    before = {path.name: path.read_bytes() for path in paths.RAW.iterdir()}
    fetching.source("sample")
    monkeypatch.setenv("QUARTET_MNIST", str(tmp_path))
    with pytest.raises(InputError, match=r"data\.source is sample, yet QUARTET_MNIST names MNIST .*: change one of them"):
        fetch.main()
    assert {path.name: path.read_bytes() for path in paths.RAW.iterdir()} == before


@pytest.mark.parametrize("damage", ["truncated", "emptied", "altered", "longer", "removed"])
@pytest.mark.parametrize("name", catalogue.MNIST.files)
def test_a_damaged_file_at_hand_is_found_and_fetched_again(name, damage, fetching):
    fetch.main()
    path, content = paths.RAW / name, fetching.contents[name]
    if damage == "removed":
        path.unlink()
    else:
        middle = len(content) // 2
        altered = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"truncated": content[:-1], "emptied": b"", "altered": altered, "longer": content + b"\0"}[damage])
    fetching.server.requests.clear()
    fetch.main()
    assert fetching.raw() == fetching.contents
    assert fetching.server.requests == [f"{name}.gz"]


def test_a_damaged_link_into_a_cache_is_replaced(fetching, tmp_path):
    """It is not written through: the cache keeps its file."""
    fetch.main()
    cached = tmp_path / "cached"
    cached.write_bytes(b"an object of DVC's cache")
    cached.chmod(0o444)
    for link in (Path.symlink_to, Path.hardlink_to):
        (paths.RAW / FIRST).unlink()
        link(paths.RAW / FIRST, cached)
        fetch.main()
        assert cached.read_bytes() == b"an object of DVC's cache"
        assert fetching.raw() == fetching.contents


LOCAL_FAULTS = {
    "truncated": (lambda packed: packed[:-10], "not a whole gzip file (Compressed file ended"),
    "garbage": (lambda packed: packed + b"garbage", "not a whole gzip file (Not a gzipped file (b'ga'))"),
    "empty": (lambda packed: b"", "another file: expected 78,416 bytes of SHA-256 "),
    "altered": (lambda packed: packed[:-8] + bytes(8), "not a whole gzip file (CRC check failed"),
    "not gzip": (lambda packed: b"<html>", "not a whole gzip file (Not a gzipped file (b'<h'))"),
    "bad method": (lambda packed: packed[:2] + b"\7" + packed[3:], "not a whole gzip file (Unknown compression method)"),
    "bad block": (lambda packed: packed[:10] + b"\xff" * 50, "not a whole gzip file (Error -3 while decompressing"),
    "another": (lambda packed: gzip.compress(bytes(78_416)), "another file: expected 78,416 bytes of SHA-256 "),
    "bomb": (lambda packed: gzip.compress(bytes(64 * MEBIBYTE)), "another file: expected 78,416 bytes of SHA-256 "),
}


def refuses_the_third(fetching, folder, reason: str):
    """The stage ends with that reason in bounded memory and keeps the two files before."""
    tracemalloc.start()
    try:
        with pytest.raises(WorkError, match=re.escape(f"had: {folder}: {THIRD}: {reason}")):
            fetch.main()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * MEBIBYTE
    assert fetching.raw() == {name: fetching.contents[name] for name in (FIRST, SECOND)}


@pytest.mark.parametrize("fault", LOCAL_FAULTS)
def test_a_bad_packed_file_in_a_directory_is_an_error(fault, fetching, tmp_path, monkeypatch):
    spoil, reason = LOCAL_FAULTS[fault]
    folder = fetching.put(tmp_path / "local")
    (folder / f"{THIRD}.gz").write_bytes(spoil(fetching.packed[THIRD]))
    monkeypatch.setenv("QUARTET_MNIST", str(folder))
    refuses_the_third(fetching, folder, reason)


@pytest.mark.parametrize("fault", ["truncated", "longer", "altered", "huge"])
def test_a_bad_unpacked_file_in_a_directory_is_an_error(fault, fetching, tmp_path, monkeypatch):
    folder = fetching.put(tmp_path / "local", plain={THIRD})
    path, content = folder / THIRD, fetching.contents[THIRD]
    if fault == "huge":
        os.truncate(path, 256 * MEBIBYTE)  # sparse: takes no room
    else:
        path.write_bytes({"truncated": content[:-1], "longer": content + b"\0", "altered": bytes(len(content))}[fault])
    monkeypatch.setenv("QUARTET_MNIST", str(folder))
    refuses_the_third(fetching, folder, "another file: expected 78,416 bytes of")


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What people put into data/raw/: the names that tools give them, and what else lies there.
PLACES = {
    "packed": "{name}.gz",
    "unpacked by 7-Zip": "{dotted}",
    "packed under another name": "{dotted}.gz",
    "packed without a suffix": "packed {name}",
    "a folder of each name": "of {name}/{dotted}",
    "torchvision's folder": "raw/{name}",
    "torchvision's folder, and those above": "MNIST/raw/{name}",
    "packed in a folder": "MNIST/{name}.gz",
}


@pytest.mark.parametrize("source", ["auto", "mnist"])
@pytest.mark.parametrize("place", PLACES)
def test_what_the_user_put_into_the_folder_is_used(place, source, fetching, monkeypatch):
    users = {"notes.txt": b"mine", ".DS_Store": b"", "__MACOSX/._a.gz": b"\x1f\x8b", "short.gz": b"\x1f", "deep/er/a": b"a"}
    for name, content in fetching.contents.items():
        put = PLACES[place].format(name=name, dotted=name.replace("-idx", ".idx"))
        users[put] = fetching.packed[name] if "packed" in place and "unpacked" not in place else content
    for name, content in users.items():
        path = paths.RAW / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    fetching.source(source)
    fetching.mirrors(fetching.server.url("404"))
    for _ in range(2):
        fetch.main()
        found = everything(paths.RAW)
        assert json.loads(found.pop("source.json"))["data"] == "mnist"
        assert found == {**users, **fetching.contents}
    assert fetching.server.requests == []


def test_a_named_directory_is_searched_in_the_same_places(fetching, tmp_path, monkeypatch):
    for place, name in zip(list(PLACES)[-4:], fetching.contents, strict=True):
        path = tmp_path / "local" / PLACES[place].format(name=name, dotted=name.replace("-idx", ".idx"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(fetching.packed[name] if "packed" in place else fetching.contents[name])
    before = everything(tmp_path / "local")
    monkeypatch.setenv("QUARTET_MNIST", str(tmp_path / "local"))
    fetch.main()
    assert fetching.raw() == fetching.contents
    assert everything(tmp_path / "local") == before


def test_a_file_that_a_browser_unpacked_and_named_gz_is_used(fetching, tmp_path, monkeypatch):
    folder = fetching.put(tmp_path / "local")
    (folder / f"{THIRD}.gz").write_bytes(fetching.contents[THIRD])
    monkeypatch.setenv("QUARTET_MNIST", str(folder))
    fetch.main()
    assert fetching.raw() == fetching.contents


@pytest.mark.parametrize("source", ["auto", "mnist", "sample"])
@pytest.mark.parametrize("link", ["data", "data/raw"])
def test_a_linked_folder_is_refused_and_left_alone(link, source, fetching, tmp_path):
    behind = tmp_path / "behind"
    raw = behind if link == "data/raw" else behind / "raw"
    fetching.put(raw)
    for name, content in (("notes.txt", b"mine"), (f".{FIRST}.abc_1234.part", b"half"), ("source.json", b"{}")):
        (raw / name).write_bytes(content)
    before = everything(behind)
    Path(link).parent.mkdir(exist_ok=True)
    Path(link).symlink_to(behind)
    fetching.source(source)
    with pytest.raises(InputError, match=re.escape(f"{link}: a link to {behind}")) as caught:
        fetch.main()
    assert f"QUARTET_MNIST={raw}" in str(caught.value)
    assert everything(behind) == before


@pytest.mark.parametrize("source", ["auto", "sample"])
@pytest.mark.parametrize("name", [FIRST, FOURTH, "source.json"])
def test_a_folder_in_the_way_of_an_output_is_named(name, source, fetching):
    (paths.RAW / name).mkdir(parents=True)
    (paths.RAW / name / name).write_bytes(b"mine")
    fetching.source(source)
    with pytest.raises(InputError, match=re.escape(f"data/raw/{name}: a folder is in the place of a file")):
        fetch.main()
    assert everything(paths.RAW) == {f"{name}/{name}": b"mine"}


def test_a_failing_run_removes_what_a_killed_one_left(fetching, monkeypatch):
    paths.RAW.mkdir(parents=True)
    (paths.RAW / f".{FIRST}.abc_1234.part").write_bytes(b"half")
    (paths.RAW / "notes.txt").write_bytes(b"a user's")
    monkeypatch.setenv("QUARTET_MNIST", fetching.server.url("404"))
    with pytest.raises(WorkError):
        fetch.main()
    assert fetching.raw() == {"notes.txt": b"a user's"}


@pytest.mark.parametrize("place", ["server", "folder", "nowhere"])
def test_a_refused_place_leaves_the_earlier_data_and_its_record(place, fetching, tmp_path, monkeypatch):
    fetching.source("sample")
    fetch.main()
    before = everything(paths.RAW)
    fetching.source("auto")
    (fetching.put(tmp_path / "folder") / f"{FOURTH}.gz").unlink()
    named = {
        "server": fetching.server.url("404", FOURTH),
        "folder": str(tmp_path / "folder"),
        "nowhere": str(tmp_path / "nowhere"),
    }[place]
    monkeypatch.setenv("QUARTET_MNIST", named)
    with pytest.raises(WorkError):
        fetch.main()
    assert everything(paths.RAW) == before
    assert idx.check() == catalogue.SAMPLE.source
    monkeypatch.setenv("QUARTET_MNIST", fetching.server.url())
    fetch.main()
    assert idx.check() == catalogue.MNIST.source
    assert fetching.raw() == fetching.contents


def test_a_failing_run_leaves_no_record_that_counts(fetching, monkeypatch):
    """Damaged files are not taken for whole ones later."""
    fetch.main()
    (paths.RAW / THIRD).write_bytes(b"damaged")
    monkeypatch.setenv("QUARTET_MNIST", fetching.server.url("404"))
    with pytest.raises(WorkError):
        fetch.main()
    with pytest.raises(InputError, match=f"{THIRD}: not the file that fetch recorded"):
        idx.check()


def test_of_a_directory_without_mnist_each_file_is_told(fetching, tmp_path, monkeypatch):
    folder = tmp_path / "named"
    (folder / "below").mkdir(parents=True)
    fashion = b"as if from Fashion-MNIST"
    known = catalogue.Known(9, "0" * 64, len(fashion), hashlib.sha256(fashion).hexdigest())
    monkeypatch.setitem(
        catalogue.DATA_SETS, "fashion-mnist", dataclasses.replace(catalogue.FASHION, files={"t10k-labels-idx1-ubyte": known})
    )
    images = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(2 * 784)
    for name, content in {
        "a.gz": fashion,
        "b.gz": b"<!DOCTYPE html><p>Log in",
        "below/c": images,
        "d.gz": gzip.compress(images),
        "e.gz": gzip.compress(bytes(9000))[:20],
        "f.zip": b"PK\x03\x04",
        "g": b"",
        "h": b"whatever",
        "i": fetching.contents[SECOND],
        "j": b"more",
    }.items():
        (folder / name).write_bytes(content)
    monkeypatch.setenv("QUARTET_MNIST", str(folder))
    with pytest.raises(WorkError) as refused:
        fetch.main()
    assert (
        "it has a.gz (Fashion-MNIST's t10k-labels-idx1-ubyte), b.gz (an HTML page), below/c (an IDX file of 2 × 28 × 28),"
        " d.gz (a gzip of an IDX file of 2 × 28 × 28), e.gz (a damaged gzip file), f.zip (a zip archive: unpack it),"
        f" g (an empty file), h (no IDX file), i (MNIST's {SECOND}), and 1 more."
    ) in str(refused.value)


# The stage as a process of its own. ###################################################################################

# The stage with the tiny MNIST in the real one's place, which `python src/fetch.py` has no way to name.
TINY = """
import dataclasses, json, signal, sys
import fetch
from quartet.base import process
from quartet.data import catalogue
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores Ctrl-C
known = {name: catalogue.Known(*known) for name, known in json.load(sys.stdin).items()}
catalogue.DATA_SETS["mnist"] = dataclasses.replace(catalogue.MNIST, files=known)
process.run(fetch.main)
"""


@pytest.fixture
def environment(tmp_path):
    (tmp_path / "of-the-process").mkdir()
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path / "of-the-process")}


def start_tiny(environment):
    process = subprocess.Popen(
        [sys.executable, "-c", TINY],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdin.write(json.dumps(catalogue.DATA_SETS["mnist"].files))
    process.stdin.close()
    return process


def end(process, sent):
    with process:
        if sent:
            process.send_signal(sent)
        stderr = process.stderr.read()
        return process.wait(timeout=60), stderr


@pytest.mark.parametrize("place", ["missing directory", "server without files"])
def test_the_stage_ends_in_one_line_and_status_1(place, fetching, tmp_path, environment):
    named = str(tmp_path / "missing") if place == "missing directory" else fetching.server.url("404")
    result = subprocess.run(
        [sys.executable, ROOT / "src/fetch.py"],
        env={**environment, "QUARTET_MNIST": named},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    (error,) = result.stderr.splitlines()
    assert error.startswith(f"quartet: error: MNIST cannot be had: {named}: {FIRST}: ")
    assert not paths.RAW.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_killed_in_a_download_is_made_up_for_by_the_next(number, fetching, environment, tmp_path):
    process = start_tiny({**environment, "QUARTET_MNIST": fetching.server.url("stall-body", THIRD)})
    try:
        assert fetching.server.stalled.wait(60)
    finally:
        status, stderr = end(process, number)
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL
    else:
        assert status == 128 + number
        (line,) = stderr.splitlines()
        assert line == f"quartet: stopped by {'SIGTERM' if number == signal.SIGTERM else 'Ctrl-C'}"
        assert list((tmp_path / "of-the-process").iterdir()) == []
    assert fetching.raw() == {name: fetching.contents[name] for name in (FIRST, SECOND)}
    # What a kill in the middle of a write would leave: see files.replacing.
    (paths.RAW / f".{THIRD}.abc_1234.part").write_bytes(fetching.contents[THIRD][:1000])

    fetching.server.requests.clear()
    status, stderr = end(start_tiny({**environment, "QUARTET_MNIST": fetching.server.url()}), None)
    assert (status, stderr) == (0, "")
    assert fetching.server.requests == [f"{THIRD}.gz", f"{FOURTH}.gz"]
    assert fetching.raw() == fetching.contents
    assert len(list(paths.RAW.iterdir())) == 5
