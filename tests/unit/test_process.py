from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys

import pytest

from project import ROOT
from quartet.base.process import Terminated, held

PREAMBLE = "import sys, time\nfrom quartet.base import errors, process\n"
WAIT = """
def main():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)
process.run(main)
"""
HELD = """
def main():
    with process.held("the rest"):
        print("ready", flush=True)
        time.sleep(0.5)
        print("done", flush=True)
    time.sleep(60)
process.run(main)
"""
ABOVE = "above = process.dvc_above(); print(above and above.pid)"
# What DVC does, or a program that uses its Python API.
DVC = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1], shell=True, executable=sys.argv[2]))"


def begin(*command, **options):
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), **options.pop("variables", {})}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", **options)


def start(code, **variables):
    return begin(sys.executable, "-c", PREAMBLE + code, variables=variables)


def stage(code):
    """The command line of a stage that is this code; PREAMBLE comes first."""
    return shlex.join([sys.executable, "-c", PREAMBLE + code])


def start_dvc(line, shell="sh", **variables):
    """Start a DVC, in a session of its own, that runs a stage by this line of a shell; the test is not above it."""
    return begin(
        *(sys.executable, "-c", DVC, line, shell),
        variables={"DVC_STAGE": "train@ten", "SHELL": "", **variables},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ("raise errors.InputError('a key: expected this,\\n  found that')", 2, "error: a key: expected this, found that"),
        ("raise errors.WorkError('it failed')", 1, "error: it failed"),
        ("open('/no/such/file')", 1, "error: /no/such/file: No such file or directory"),
        ("raise OSError(28, 'No space left on device')", 1, "error: No space left on device"),
        ("raise OSError('odd')", 1, "error: odd"),
        ("raise KeyboardInterrupt", 130, "stopped by Ctrl-C"),
        ("errors.warn('take\\ncare')", 0, "warning: take care"),
    ],
)
def test_a_command_ends_with_its_status_and_one_line(body, status, line):
    process = start(f"process.run(lambda: exec({body!r}))")
    assert process.communicate(timeout=60) == ("", f"quartet: {line}\n")
    assert process.returncode == status


def test_a_command_that_succeeds_says_nothing_and_goes_on():
    process = start("process.run(lambda: None); print('after')")
    assert process.communicate(timeout=60) == ("after\n", "")
    assert process.returncode == 0


def test_a_mistake_in_the_program_keeps_its_traceback():
    process = start("process.run(lambda: 1 / 0)")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.startswith("Traceback")
    assert error.endswith("ZeroDivisionError: division by zero\n")


def test_a_traceback_has_no_secret_and_steers_no_terminal():
    process = start(
        "process.run(lambda: exec('raise ValueError(\"http://user:pa55word@host \\\\x1b[2J\")'))",
        QUARTET_MNIST="http://user:pa55word@host",
    )
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.splitlines()[-1] == r"ValueError: http://***@host \x1b[2J"
    assert "pa55word" not in error
    assert all(line.isprintable() for line in error.splitlines())


OPENS = """
def main():
    file = open("kept", "w")
    print("on standard output")
    errors.say("on standard error")
    subprocess.run(["sh", "-c", "echo of a program; echo of a program >&2"], check=True)
    file.write("what was written")
import subprocess
process.run(main)
"""


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_stream_stops_nothing_and_gets_into_no_file(tmp_path, closed):
    command = shlex.join([sys.executable, "-c", PREAMBLE + OPENS])
    process = begin("sh", "-c", f"{command} {closed}", cwd=tmp_path)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "kept").read_text(encoding="utf-8") == "what was written"
    assert (output == "") == ("1>&-" in closed)
    assert (error == "") == ("2>&-" in closed)


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGINT, 130, "stopped by Ctrl-C"),
        (signal.SIGHUP, 129, "stopped by SIGHUP"),
    ],
)
@pytest.mark.parametrize(
    ("code", "said", "waits"), [(WAIT, "cleaned up\n", False), (HELD, "done\n", True)], ids=["cleaning up", "held"]
)
def test_a_stopped_command_first_does_what_it_must(code, said, waits, number, status, line):
    process = start(code)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    waiting = f"quartet: {line.removeprefix('stopped by ')}: waiting for the rest\n" if waits else ""
    assert process.communicate(timeout=60) == (said, f"{waiting}quartet: {line}\n")
    assert process.returncode == status


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize(
    "line",
    ["{}", "exec {}", "{}; exit $?", "sh -c {quoted}; exit $?"],
    ids=["as the shell has it", "in place of the shell", "below the shell", "below two shells"],
)
def test_a_stage_finds_the_dvc_that_runs_it_through_a_shell(shell, line):
    command = stage(ABOVE)
    dvc = start_dvc(line.format(command, quoted=shlex.quote(f"{command}; exit $?")), shell)
    assert dvc.communicate(timeout=60) == (f"{dvc.pid}\n", "")
    assert dvc.returncode == 0


def test_a_stage_finds_its_dvc_above_the_users_own_shell(tmp_path):
    shell = tmp_path / "its own"
    shell.symlink_to("/bin/sh")
    dvc = start_dvc(f"{stage(ABOVE)}; exit $?", str(shell), SHELL=str(shell))
    assert dvc.communicate(timeout=60) == (f"{dvc.pid}\n", "")


@pytest.mark.parametrize(("before", "said"), [("", ""), (f"{ABOVE}; ", "None\n")], ids=["at once", "after a look"])
def test_a_stage_whose_dvc_is_gone_already_stops_in_one_line(before, said):
    for _ in range(5):  # whichever comes first, the signal or the work
        dvc = start_dvc(f"echo ready; read line; {stage(f'{before}process.run(lambda: time.sleep(60))')}; echo $?")
        assert dvc.stdout.readline() == "ready\n"
        dvc.kill()
        dvc.wait()
        assert dvc.communicate("begin\n", timeout=30) == (f"{said}143\n", "quartet: stopped by SIGTERM\n")


def test_a_stage_whose_dvc_is_killed_stops_and_cleans_up():
    dvc = start_dvc(f"{stage(WAIT)}; echo $?")
    assert dvc.stdout.readline() == "ready\n"
    dvc.kill()
    assert dvc.communicate(timeout=30) == ("cleaned up\n143\n", "quartet: stopped by SIGTERM\n")


def test_a_stage_whose_dvc_is_there_goes_on():
    dvc = start_dvc(f"{stage('process.run(lambda: time.sleep(1)); print(1)')}; exit $?")
    assert dvc.communicate(timeout=60) == ("1\n", "")
    assert dvc.returncode == 0


def test_a_command_that_is_no_stage_goes_on_without_a_parent():
    line = f"echo ready; read line; {stage('process.run(lambda: time.sleep(1)); print(1)')}; echo $?"
    parent = start_dvc(line, DVC_STAGE="")
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    parent.wait()
    assert parent.communicate("begin\n", timeout=60) == ("1\n0\n", "")


def test_no_broad_clause_catches_being_terminated():
    assert not issubclass(Terminated, Exception)


@pytest.mark.parametrize(
    ("first", "named"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]
)
def test_a_first_signal_is_answered_and_a_second_let_through(first, named):
    process = start(HELD.replace("0.5", "60"))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(first)
    assert process.stderr.readline() == f"quartet: {named}: waiting for the rest\n"  # while it still waits
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=30)
    assert out == ""
    assert error.startswith("quartet: stopped by ")
    assert error.count("\n") == 1
    assert process.returncode in (129, 130, 143)


def test_what_holds_signals_back_tells_which_came():
    with pytest.raises(KeyboardInterrupt), held("this test") as came:  # noqa: PT012 -- it is raised where the block ends
        assert list(came) == []
        signal.raise_signal(signal.SIGINT)
        assert list(came) == [signal.SIGINT]


def test_holding_signals_back_leaves_the_handlers_as_they_were(capsys):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with held("this test"):
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert capsys.readouterr().err == ""
