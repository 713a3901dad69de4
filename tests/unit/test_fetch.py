import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

import fetch
from project import ROOT
from quartet.base import files, paths
from quartet.data import catalogue, idx, sample, sources

pytest_plugins = ["misbehaving_server"]

REAL = ROOT / (os.environ.get("QUARTET_MNIST") or "../shared/mnist")

# The published shapes: http://yann.lecun.com/exdb/mnist/
SHAPES = {
    "t10k-labels-idx1-ubyte": (10_000,),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "train-images-idx3-ubyte": (60_000, 28, 28),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_shipped_table_is_that_of_the_real_files(name, tmp_path):
    if not REAL.is_dir():
        pytest.skip("real MNIST is not at hand: set QUARTET_MNIST to a directory of its four files")
    known = catalogue.MNIST.files[name]
    content = sources.obtain(catalogue.MNIST, [name], str(REAL))[name]  # verified against the table's unpacked hash
    assert len(content) == known.size
    (tmp_path / name).write_bytes(content)
    assert idx.read(tmp_path / name, len(SHAPES[name])).shape == SHAPES[name]
    packed = REAL / f"{name}.gz"
    if packed.is_file():
        assert packed.stat().st_size == known.gz_size
        assert hashlib.sha256(packed.read_bytes()).hexdigest() == known.gz_sha256


def test_a_mirror_gives_the_four_files_and_the_record(fetching, capsys):
    fetch.main()
    assert fetching.raw() == fetching.contents
    assert sorted(fetching.server.requests) == sorted(f"{name}.gz" for name in fetching.contents)
    output = capsys.readouterr()
    assert output.out.splitlines()[-1] == "fetch: MNIST in data/raw/, verified"
    assert output.err == ""
    images, labels = idx.read_pair(paths.RAW / "train-images-idx3-ubyte", paths.RAW / "train-labels-idx1-ubyte")
    assert (images.shape, labels.shape) == ((120, 28, 28), (120,))


def test_the_record_says_what_the_data_is_alone(fetching):
    """Nothing of where it came from, or when."""
    fetch.main()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in fetching.contents.items()}
    assert files.read_record(paths.SOURCE, "fetch") == {**catalogue.MNIST.source.record, "sha256": digests}


def test_files_at_hand_need_no_network(fetching, monkeypatch, capsys):
    paths.RAW.mkdir(parents=True)
    for name, content in fetching.contents.items():
        (paths.RAW / name).write_bytes(content)
    fetch.main()
    assert fetching.server.requests == []
    # 192.0.2.0/24 is reserved for documentation: no route leads there, and trying would take CONNECT_SECONDS.
    fetching.mirrors("http://192.0.2.1/")
    fetch.main()
    assert "MNIST's files are in data/raw/ already: http://192.0.2.1/ not asked" in capsys.readouterr().out
    assert fetching.raw() == fetching.contents


@pytest.mark.parametrize("source", ["mnist", "sample"])
def test_two_runs_leave_equal_bytes(source, fetching):
    fetching.source(source)
    fetch.main()
    first = {path.name: path.read_bytes() for path in paths.RAW.iterdir()}
    asked = len(fetching.server.requests)
    fetch.main()
    assert {path.name: path.read_bytes() for path in paths.RAW.iterdir()} == first
    assert len(fetching.server.requests) == asked == (4 if source == "mnist" else 0)


def test_the_sample_is_written_as_idx_and_reads_back(fetching, capsys):
    fetching.source("sample")
    fetch.main()
    assert set(fetching.raw()) == set(SHAPES)
    counts = {"train": 1_500, "t10k": 297}
    for part, count in counts.items():
        images = idx.read(paths.RAW / f"{part}-images-idx3-ubyte", 3)
        labels = idx.read(paths.RAW / f"{part}-labels-idx1-ubyte", 1)
        assert images.shape == (count, 28, 28)
        assert labels.shape == (count,)
        assert set(labels.tolist()) == set(range(10))
        assert (images == sample.digits()[f"{part}-images-idx3-ubyte"]).all()
    record = json.loads(paths.SOURCE.read_text())
    assert record["data"] == "sample"
    assert record["sha256"] == {name: hashlib.sha256(content).hexdigest() for name, content in fetching.raw().items()}
    assert "SAMPLE DATA" in capsys.readouterr().out
    assert fetching.server.requests == []


def test_switching_between_sample_and_mnist_replaces_every_file(fetching):
    for source in ("sample", "mnist", "sample"):
        fetching.source(source)
        fetch.main()
        assert json.loads(paths.SOURCE.read_text())["data"] == source
        assert (fetching.raw() == fetching.contents) is (source == "mnist")
        assert len((paths.RAW / "t10k-labels-idx1-ubyte").read_bytes()) == (108 if source == "mnist" else 305)


@pytest.mark.parametrize(
    "plain",
    [set(), {"t10k-images-idx3-ubyte", "train-labels-idx1-ubyte"}, set(SHAPES)],
    ids=["packed", "mixed", "unpacked"],
)
@pytest.mark.parametrize("source", ["auto", "mnist"])
def test_a_directory_gives_the_files(source, plain, fetching, tmp_path, monkeypatch):
    fetching.source(source)
    monkeypatch.setenv("QUARTET_MNIST", str(fetching.put(tmp_path / "local", plain)))
    fetch.main()
    assert fetching.raw() == fetching.contents
    assert fetching.server.requests == []


def test_a_file_url_gives_the_files_with_spaces_and_escapes(fetching, tmp_path, monkeypatch):
    folder = fetching.put(tmp_path / "my files, 100% só")
    for url in (
        folder.as_uri(),
        folder.as_uri() + "/",
        f"file:{folder}".replace("%", "%25"),
        folder.as_uri().replace("file:", "FILE:"),
    ):
        (paths.RAW / "t10k-labels-idx1-ubyte").unlink(missing_ok=True)
        monkeypatch.setenv("QUARTET_MNIST", url)
        fetch.main()
        assert fetching.raw() == fetching.contents


def test_a_directory_is_taken_as_it_is_spelt(fetching, tmp_path, monkeypatch):
    monkeypatch.setenv("QUARTET_MNIST", str(fetching.put(tmp_path / "a%20b c#d?e")))
    fetch.main()
    assert fetching.raw() == fetching.contents


@pytest.mark.parametrize("end", ["/", ""])
def test_an_http_url_gives_the_files(end, fetching, monkeypatch):
    """With a last slash and without one."""
    fetching.mirrors()
    monkeypatch.setenv("QUARTET_MNIST", fetching.server.url().rstrip("/") + end)
    fetch.main()
    assert fetching.raw() == fetching.contents


def test_a_relative_directory_is_below_the_working_directory(fetching, monkeypatch):
    fetching.put(fetching.workspace / "local")
    monkeypatch.setenv("QUARTET_MNIST", "local")
    fetch.main()
    assert fetching.raw() == fetching.contents


def test_a_relative_directory_is_below_dvcs_root(fetching, tmp_path, monkeypatch):
    fetching.put(tmp_path / "project" / "local")
    copy = tmp_path / "project/.dvc/tmp/exps/copy"
    (copy / "local").mkdir(parents=True)  # empty: a queued experiment's own copy does not have it
    shutil.copy("params.yaml", copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("QUARTET_MNIST", "local")
    fetch.main()
    assert fetching.raw() == fetching.contents
    assert not (tmp_path / "project" / "data").exists()


def test_the_home_directory_may_be_a_tilde(fetching, tmp_path, monkeypatch):
    fetching.put(tmp_path / "home" / "local")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QUARTET_MNIST", "~/local")
    fetch.main()
    assert fetching.raw() == fetching.contents


@pytest.mark.parametrize("fault", ["encoding", "encoding-lie"])
def test_a_packing_called_an_encoding_is_understood(fault, fetching, monkeypatch):
    """Some servers send a .gz file as an encoding of what is in it."""
    fetching.mirrors(fetching.server.url(fault))
    fetch.main()
    assert fetching.raw() == fetching.contents


def test_the_alarm_is_off_afterwards(fetching):
    """A deadline that outlived its download would end whatever runs later in the same process."""
    before = signal.getsignal(signal.SIGALRM)
    fetch.main()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.parametrize("source", ["mnist", "sample"])
def test_a_users_files_stay_and_our_half_written_ones_go(source, fetching):
    fetching.source(source)
    users = [
        "notes.txt",
        "train-images-idx3-ubyte.gz",
        ".notes.txt.abc_1234.part",
        f".{idx.FILES[0]}.mine.part",
        "scans/notes.txt",
    ]
    ours = [f".{name}.abc_1234.part" for name in (*idx.FILES, "source.json")]
    (paths.RAW / "scans").mkdir(parents=True)
    for name in (*users, *ours):
        (paths.RAW / name).write_text(f"what lies in {name}", encoding="utf-8")
    for _ in range(2):
        fetch.main()
        found = {path.relative_to(paths.RAW).as_posix() for path in paths.RAW.rglob("*") if path.is_file()}
        assert found == {*users, *idx.FILES, "source.json"}
        for name in users:
            assert (paths.RAW / name).read_text(encoding="utf-8") == f"what lies in {name}"


def test_the_stage_runs_as_dvc_runs_it(fetching):
    fetching.source("sample")
    command = [sys.executable, ROOT / "src/fetch.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "SAMPLE DATA" in result.stdout
    assert {path.name for path in paths.RAW.iterdir()} == {*SHAPES, "source.json"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("QUARTET_KMNIST", "QUARTET_KMNIST is not read, since data.source is auto; set data.source: kmnist in params.yaml"),
        ("QUARTET_MNSIT", "QUARTET_MNSIT: nothing reads a variable of this name; is QUARTET_MNIST meant?"),
        ("QUARTET_MNIST", ""),
        ("QUARTET_QMNIST", ""),
        ("QUARTET_PROGRESS", ""),
    ],
)
def test_a_variable_that_names_other_data_is_told(monkeypatch, capsys, name, expected):
    for known in [name for name in os.environ if name.startswith("QUARTET_")]:
        monkeypatch.delenv(known)
    monkeypatch.setenv(name, "somewhere")
    sources.warn_of_unread("auto", "QUARTET_MNIST")
    assert capsys.readouterr().err == (f"quartet: warning: {expected}\n" if expected else "")
