"""The command line: its names, its exit statuses, and that a failure is one line."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

import pytest
import rich_click as click

import avec
from avec import cli
from launching import AVEC, SELF, environ, execute, serving

FLAGS = {
    "build": "",
    "login": "--fingerprint --token",
    "user": "",
    "run": "--cache-dir --codec --connect-timeout --graph --local --memory --no-check --numerics --on --recovery"
    " --report --resume-timeout --trace --verbose -v",
    "serve": "--allow-triton --audit-log --cache-dir --cache-limit --certificate --client-ca --cudnn-workspace"
    " --drain-timeout --idle-host-timeout --insecure --lifeline --listen --log-level --max-sessions --metrics"
    " --onnx-engine --require-token --resume-timeout --session-memory",
    "status": "--connect-timeout --json",
    "bench": "--compare --connect-timeout --link --local --note --on --output --quick --repeats --work",
    "doctor": "--connect-timeout --on --security --trace",
}


def test_the_public_names_are_these() -> None:
    assert sorted(avec.__all__) == ["AvecError", "__version__", "intercept", "pipeline", "release"]
    assert all(getattr(avec, name) is not None for name in avec.__all__)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        avec.no_such_name  # noqa: B018


def test_importing_avec_imports_nothing_of_it() -> None:
    code = "import sys, avec; print([name for name in sys.modules if name.startswith('avec')])"
    assert execute(AVEC[0], "-c", code) == (0, "['avec']\n", "")


def test_the_commands_and_their_flags_are_these() -> None:
    flags = {
        name: " ".join(sorted(flag for each in command.params if isinstance(each, click.Option) for flag in each.opts))
        for name, command in cli.avec.commands.items()
    }
    assert flags == FLAGS


def test_the_version_is_said() -> None:
    assert execute(*AVEC, "--version") == (0, f"avec {avec.__version__}\n", "")


@pytest.mark.parametrize("command", ["run", "serve", "doctor", "bench"])
def test_help_names_every_flag(command: str) -> None:
    status, stdout, stderr = execute(*AVEC, command, "--help")
    assert (status, stderr) == (0, "")
    assert all(flag in stdout for flag in FLAGS[command].split() if flag != "--lifeline")


def test_the_help_of_run_lists_the_exit_statuses() -> None:
    stdout = execute(*AVEC, "run", "--help")[1]
    assert all(f" {status} " in stdout for status in (2, 69, 78, 126, 127, 130))


FAILURES = {
    "no program": (["run"], 2, "Missing argument 'PROGRAM [ARGS]...'. (see avec run --help)"),
    "an unknown flag": (["run", "--fast", "app.py"], 2, "No such option '--fast'"),
    "an unknown command": (["walk"], 2, "No such command 'walk'"),
    "two destinations": (["run", "--local", "--on", "box", "x"], 2, "--local and --on exclude each other"),
    "a wrong URL": (["run", "--on", "udp://x", SELF], 2, "--on is 'udp://x'; allowed is tcp://HOST:PORT"),
    "a wrong size": (["serve", "--cache-limit", "much"], 2, "--cache-limit is 'much'; allowed is a size"),
    "no destination": (["run", SELF], 2, "no destination to compute at; say --on URL"),
    "an unreachable one": (
        ["run", "--on", "tcp://127.0.0.1:1", SELF],
        69,
        "no destination answers at tcp://127.0.0.1:1",
    ),
    "a folder": (["run", "--on", "box", "--no-check", "/"], 126, "cannot run /: it is a folder without a __main__.py"),
    "no such file": (["run", "--on", "box", "none.py"], 127, "cannot run none.py: there is no such file"),
    "no such command": (["run", "--on", "box", "no-such-command"], 127, "cannot run no-such-command: it is no file"),
    "a deaf Python": (["run", "--on", "box", "python3", "-I", SELF], 2, "cannot intercept python3 -I "),
    "no Python program": (["doctor", "/"], 2, "cannot read the imports of /__main__.py"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_one_line_and_a_status(case: str) -> None:
    args, expected, text = FAILURES[case]
    status, stdout, stderr = execute(*AVEC, *args)
    assert (status, stdout) == (expected, "")
    assert stderr.startswith(f"avec: {text}")
    assert stderr.count("\n") == 1


def test_a_wrong_variable_is_named() -> None:
    status, stdout, stderr = execute(*AVEC, "run", SELF, variables=environ(AVEC_NUMERICS="loose"))
    assert (status, stdout, stderr) == (2, "", "avec: AVEC_NUMERICS is 'loose'; allowed is strict or fast\n")


def test_a_disabled_run_needs_no_destination() -> None:
    assert execute(*AVEC, "run", SELF, "say", "this", variables=environ(AVEC_DISABLE="1")) == (0, "this False\n", "")


@pytest.mark.parametrize("separator", [[], ["--"]])
@pytest.mark.parametrize("program", [[SELF], ["-c", "import sys; print(sys.argv[1:])"]])
def test_all_that_follows_the_program_is_its_own(separator: list[str], program: list[str]) -> None:
    options = ["run", "--no-check", "--on=box", *separator]
    args = ["say", "-v", "--local"] if program == [SELF] else ["-m", "-v", "--on"]
    expected = "-v True\n" if program == [SELF] else f"{args}\n"
    assert execute(*AVEC, *options, *program, *args) == (0, expected, "")


def test_doctor_shows_what_it_found(tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    program.write_text("import caffe, jax\n")
    status, stdout, stderr = execute(*AVEC, "doctor", str(program), variables=environ(COLUMNS="200"))
    assert (status, stderr) == (1, "")
    assert [word in stdout for word in ("served by avec", "not intercepted", "none is set", "not reached")] == [
        True
    ] * 4


def test_a_destination_serves_until_it_is_terminated_and_says_so_in_one_line() -> None:
    with serving() as url:
        status, stdout, stderr = execute(*AVEC, "run", "--on", url, SELF, "exit")
    assert (status, stdout, stderr) == (3, "", "")


def test_an_address_in_use_is_one_line() -> None:
    with serving() as url:
        status, stdout, stderr = execute(*AVEC, "serve", "--listen", url)
    assert (status, stdout) == (2, "")
    assert stderr.startswith(f"avec: cannot listen at {url}: ")
    assert stderr.count("\n") == 1


def test_an_interrupt_before_the_program_begins_is_no_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        command = [*AVEC, "run", "--connect-timeout", "60", "--on", url, SELF]
        process = subprocess.Popen(command, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with process, silent.accept()[0] as waiting:
            waiting.recv(1)  # its hello: from here on it waits for ours
            process.send_signal(signal.SIGINT)
            status = process.wait(60)
            assert process.stdout is not None and process.stderr is not None
            said = process.stdout.read(), process.stderr.read()
    assert (status, *said) == (130, "", "\n")  # a line's end, because the terminal shows ^C
