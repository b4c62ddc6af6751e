"""A program under `avec run` is the program under `python`: whatever can be seen of it is equal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from launching import APPS, PLAIN, SELF, UNDER_AVEC, both_ways, environ, execute

FORMS = {
    "script": [SELF, "describe", "-v", "--help", "--", "two words", "-m", ""],
    "relative script": ["selfdescribing.py", "describe"],
    "module": ["-m", "selfdescribing", "describe", "-v"],
    "joined module": ["-mselfdescribing"],
    "code": ["-c", "import selfdescribing, json; print(json.dumps(selfdescribing.description()))", "-c", "x"],
    "script that looks like an option's value": ["selfdescribing.py", "describe", "--on", "tcp://x", "--local"],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_program_sees_the_same_of_itself(form: str) -> None:
    plainly, under_avec = both_ways(*FORMS[form], cwd=APPS)
    assert plainly[0] == 0
    assert json.loads(under_avec[1]) == json.loads(plainly[1])
    assert under_avec == plainly


def test_the_program_is_intercepted() -> None:
    assert both_ways(SELF, "say", "this") == ((0, "this False\n", ""), (0, "this True\n", ""))


def test_a_folder_and_a_zip_application_are_programs(tmp_path: Path) -> None:
    folder = tmp_path / "application"
    folder.mkdir()
    (folder / "sibling.py").write_text("VALUE = 5\n")
    (folder / "__main__.py").write_text("import sys, sibling\nprint(sys.argv, sys.path, __file__, sibling.VALUE)\n")
    zipapp.create_archive(folder, tmp_path / "application.pyz")
    for program in ("application", "application.pyz"):
        plainly, under_avec = both_ways(program, "-x", cwd=tmp_path)
        assert plainly[0] == 0
        assert under_avec == plainly


def test_a_console_script_is_a_program(tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text(f"#!{sys.executable}\n" + Path(SELF).read_text())
    script.chmod(0o755)
    path = environ(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name in (str(script), "tool"):
        plainly = execute(name, "describe", variables=path)
        assert plainly[0] == 0
        assert execute(*UNDER_AVEC, name, "describe", variables=path) == plainly
        assert execute(*UNDER_AVEC, name, "say", "this", variables=path)[1] == "this True\n"


def test_a_command_that_is_no_python_is_a_program() -> None:
    code = 'printf \'%s\\n\' "$0" "$@"; yes | head -n 1; exit 5'
    plainly = execute("sh", "-c", code, "name", "--flag", "two words")
    assert plainly[:2] == (5, "name\n--flag\ntwo words\ny\n")
    assert execute(*UNDER_AVEC, "sh", "-c", code, "name", "--flag", "two words") == plainly


def test_signals_that_python_ignores_are_not_ignored_in_the_program() -> None:
    code = "grep SigIgn /proc/self/status"
    assert execute(*UNDER_AVEC, "sh", "-c", code) == execute("sh", "-c", code)


ENDS = {
    "exit": 3,
    "exit-with-text": 1,
    "exit-at-once": 7,
    "raise": 1,
    "terminate": -signal.SIGTERM,
    "crash": -signal.SIGSEGV,
    "abort": -signal.SIGABRT,
}


@pytest.mark.parametrize("action", ENDS)
def test_the_program_ends_in_the_same_way(action: str) -> None:
    plainly, under_avec = both_ways(SELF, action)
    assert plainly[0] == ENDS[action]
    assert under_avec == plainly


def test_a_program_that_does_not_exist_within_python_fails_as_in_python() -> None:
    plainly, under_avec = both_ways("-m", "no_such_module_anywhere")
    assert under_avec == plainly
    assert plainly[0] == 1


def await_sleep(pid: int) -> None:
    """Wait until a process that is ready has come to its pause, so that its traceback shows that line."""
    while Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "S":
        os.sched_yield()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_to_the_launcher_is_a_signal_to_the_program(number: signal.Signals) -> None:
    def end(*command: str) -> tuple[int, str]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ())
        with process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == "ready\n"
            await_sleep(process.pid)
            process.send_signal(number)
            return process.wait(60), process.stderr.read()

    plainly = end(*PLAIN, SELF, "pause")
    assert plainly[0] == -number
    assert end(*UNDER_AVEC, SELF, "pause") == plainly


def test_standard_input_reaches_the_program() -> None:
    plainly, under_avec = both_ways(SELF, "echo", stdin="line\n")
    assert plainly == (0, "line\n\n", "")
    assert under_avec == plainly


def test_a_program_on_a_terminal_stays_on_it() -> None:
    def on_terminal(*command: str) -> str:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ())
        os.close(theirs)
        with process, open(ours, "rb", buffering=0) as terminal:
            received = bytearray()
            while True:
                try:
                    piece = terminal.read(4096)
                except OSError:  # Linux's way to say that the other end is closed
                    break
                if not piece:
                    break
                received += piece
        return received.decode()

    plainly = on_terminal(*PLAIN, SELF, "describe")
    assert json.loads(plainly)["terminals"] == [True, True, True]
    assert on_terminal(*UNDER_AVEC, SELF, "describe") == plainly


def test_every_kind_of_child_is_intercepted() -> None:
    plainly, under_avec = both_ways(SELF, "children")
    assert plainly[0] == 0
    assert plainly[1].count(" False\n") == 8
    assert under_avec == (0, plainly[1].replace("False", "True"), plainly[2])


def test_running_under_avec_twice_is_running_once() -> None:
    once = execute(*UNDER_AVEC, SELF, "describe")
    assert once[0] == 0
    assert execute(*UNDER_AVEC, *UNDER_AVEC, SELF, "describe") == once


@pytest.mark.parametrize(
    "content", ["print('from sitecustomize')", "1 / 0", "import no_such_module", "raise ImportError('x')"]
)
def test_the_users_own_sitecustomize_is_run(content: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(content + "\n")
    variables = environ()
    variables["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    plainly, under_avec = both_ways(SELF, "exit", variables=variables)
    assert plainly[1] or plainly[2]
    # The launcher is a Python too and runs the user's sitecustomize for itself.
    assert under_avec == (plainly[0], plainly[1] * 2, plainly[2] * 2)


def test_an_empty_pythonpath_stays_no_path(tmp_path: Path) -> None:
    variables = environ(PYTHONPATH="")
    plainly = execute(*PLAIN, SELF, "describe", variables=variables, cwd=tmp_path)
    installed = execute(*UNDER_AVEC, SELF, "describe", variables=variables, cwd=tmp_path)
    if "No module named avec" in installed[2]:
        pytest.skip("avec is not installed, only on PYTHONPATH")
    assert installed == plainly
