from __future__ import annotations

import fcntl
import os
import struct
import sys
import termios
from contextlib import suppress

import pytest

from quartet.training.progress import Progress
from quartet.training.record import Epoch


def report(progress, first, last):
    """Two steps an epoch."""
    for epoch in range(first, last + 1):
        for step in (1, 2):
            progress.step(epoch, step)
        progress.epoch(Epoch(epoch, 0.5 / epoch, 0.25, 0.9 + epoch / 100))
    progress.close()


def test_without_a_terminal_each_epoch_is_a_line(capsys):
    report(Progress("ten-bn", epochs=10, steps=2), 1, 2)
    assert capsys.readouterr() == (
        "ten-bn   epoch  1/10  train loss 0.5000  val loss 0.2500  val acc 91.00%\n"
        "ten-bn   epoch  2/10  train loss 0.2500  val loss 0.2500  val acc 92.00%\n",
        "",
    )


@pytest.fixture(autouse=True)
def _of_its_own(monkeypatch):
    monkeypatch.delenv("QUARTET_PROGRESS", raising=False)


@pytest.fixture
def terminal():
    """A terminal of 80 columns, to be made standard error, and a function that closes it and gives what was written."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    stream = os.fdopen(slave, "w", encoding="utf-8")

    def written():
        stream.close()
        content = b""
        # The end of a closed terminal is an error on Linux and an empty block elsewhere.
        with suppress(OSError):
            while block := os.read(master, 1 << 16):
                content += block
        return content.decode()

    yield stream, written
    stream.close()
    os.close(master)


def test_a_terminal_of_its_own_shows_a_bar_that_ends_full(terminal, monkeypatch, capsys):
    stream, written = terminal
    monkeypatch.setattr(sys, "stderr", stream)
    report(Progress("four-bn", epochs=10, steps=2), 1, 10)
    last = written().replace("\r\n", "\r").rstrip("\r").rpartition("\r")[2]
    assert last.startswith("four-bn epoch 10/10 100%|")
    assert last.rstrip().endswith("train loss 0.0500  val acc 100.00%")
    assert len(last) <= 80
    assert capsys.readouterr().out == ""


def test_after_a_resume_the_bar_stands_where_the_training_does(terminal, monkeypatch):
    stream, written = terminal
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress("ten", epochs=4, steps=2)
    progress.step(4, 1)
    assert progress.bar.n == 7
    progress.step(4, 2)
    progress.close()
    assert "ten epoch 4/4 100%|" in written()


def test_on_a_shared_terminal_there_are_lines(terminal, monkeypatch, capsys):
    stream, written = terminal
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("QUARTET_PROGRESS", "lines")
    report(Progress("four", epochs=1, steps=2), 1, 1)
    assert written() == ""
    assert capsys.readouterr().out == "four     epoch 1/1  train loss 0.5000  val loss 0.2500  val acc 91.00%\n"
