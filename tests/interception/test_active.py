"""The process's one session, in programs that run under AVEC with a real destination."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from launching import AVEC, SELF, environ, execute

CACHE = "AVEC_CACHE_DIR"
OPEN = "from avec.interception import session; s = session(); "


def test_there_is_one_session_for_all_threads(destination: str) -> None:
    code = (
        "from avec.interception import session\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool: print(len({id(s) for s in pool.map(lambda _: session(), range(32))}))"
    )
    assert execute(*AVEC, "run", "--on", destination, "-c", code) == (0, "1\n", "")


def test_a_forked_child_has_a_session_of_its_own_and_the_parent_keeps_its(destination: str) -> None:
    code = OPEN + (
        "import os\n"
        "pid = os.fork()\n"
        "if not pid: print(session() is s, session().welcome.session != s.welcome.session); raise SystemExit(0)\n"
        "print(os.waitpid(pid, 0)[1], session() is s)"
    )
    assert execute(*AVEC, "run", "--on", destination, "-c", code) == (0, "False True\n0 True\n", "")


def test_the_main_process_reports_to_the_path_itself_and_its_children_beside_it(
    destination: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, os\n"
        "from avec.interception import session\n"
        "def use():\n"
        "    session(); print(os.getpid(), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    session()\n"
        "    for method in 'fork', 'spawn', 'forkserver':\n"
        "        child = multiprocessing.get_context(method).Process(target=use)\n"
        "        child.start(); child.join()\n"
    )
    options = ("--on", destination, "--report", "report.json", "--trace", "trace.json")
    status, stdout, stderr = execute(*AVEC, "run", *options, "program.py", cwd=tmp_path)
    assert (status, stderr) == (0, "")
    children = stdout.split()
    assert len(children) == 3
    for name in ("report", "trace"):
        expected = {f"{name}.json", *(f"{name}.{pid}.json" for pid in children)}
        assert {each.name for each in tmp_path.glob(f"{name}*")} == expected
    assert json.loads((tmp_path / "report.json").read_text())["origin"]["destination"] == destination


def test_a_report_that_cannot_be_written_is_one_line_and_leaves_the_status(destination: str, tmp_path: Path) -> None:
    options = ("--on", destination, "--report", str(tmp_path / "none" / "report.json"))
    status, stdout, stderr = execute(*AVEC, "run", *options, "-c", OPEN + "raise SystemExit(3)")
    assert (status, stdout) == (3, "")
    assert stderr.startswith("avec: cannot write ")
    assert stderr.count("\n") == 1


def test_the_summary_goes_to_stderr_when_asked_for(destination: str) -> None:
    status, stdout, stderr = execute(*AVEC, "run", "-v", "--on", destination, "-c", OPEN)
    assert (status, stdout) == (0, "")
    assert stderr.startswith(f"avec: computed at {destination} on ")
    assert all(line.startswith("avec: ") for line in stderr.splitlines())


def test_what_the_program_registers_for_its_end_may_still_use_the_session(destination: str) -> None:
    code = "import caffe, atexit; atexit.register(lambda: print(session().welcome.version > 0)); " + OPEN
    assert execute(*AVEC, "run", "--on", destination, "-c", code) == (0, "True\n", "")


def test_without_a_destination_the_first_call_says_what_to_do() -> None:
    status, stdout, stderr = execute(*AVEC, "run", "--no-check", "--on", "tcp://127.0.0.1:1", "-c", OPEN)
    assert (status, stdout) == (1, "")
    assert "avec.errors.DestinationUnreachable: no destination answers at tcp://127.0.0.1:1" in stderr
    status, stdout, stderr = execute(AVEC[0], "-c", OPEN)
    assert "ConfigurationError: no destination to compute at; start with `avec run" in stderr


def test_intercept_and_release_are_the_second_door(destination: str) -> None:
    code = (
        "import sys, avec\n"
        "before = list(sys.meta_path), set(sys.modules)\n"
        f"avec.intercept({destination!r}); avec.intercept({destination!r})\n"
        "import caffe\n"
        "from avec.interception import session\n"
        "print(caffe.__spec__.origin.endswith('interception/caffe/__init__.py'), session().url)\n"
        "avec.release(); avec.release()\n"
        "print(sys.meta_path == before[0], any(name.split('.')[0] == 'caffe' for name in sys.modules))\n"
        "try: import caffe\n"
        "except ImportError: print('gone')\n"
    )
    assert execute(AVEC[0], "-c", code) == (0, f"True {destination}\nTrue False\ngone\n", "")


def test_release_undoes_avec_run_for_a_process() -> None:
    code = (
        "import sys, avec; avec.release()\n"
        "try: import caffe\n"
        "except ImportError: print(any(getattr(each, 'avec_bootstrap', 0) for each in sys.meta_path))\n"
    )
    assert execute(*AVEC, "run", "--no-check", "--on", "box", "-c", code) == (0, "False\n", "")


def test_intercept_after_the_import_is_refused(tmp_path: Path) -> None:
    (tmp_path / "caffe.py").write_text("")
    status, stdout, stderr = execute(AVEC[0], "-c", "import caffe, avec; avec.intercept('box')", cwd=tmp_path)
    assert (status, stdout) == (1, "")
    assert "ConfigurationError: cannot intercept caffe: it is imported already" in stderr


def test_intercept_takes_a_destination_or_a_local_one() -> None:
    status, _, stderr = execute(AVEC[0], "-c", "import avec; avec.intercept('box', local=True)")
    assert status == 1
    assert "ConfigurationError: intercept: a destination and local=True exclude each other" in stderr


def _ends(pid: int, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
            return True
        os.sched_yield()
    return False


def _serving(cache: Path) -> list[int]:
    """The destinations that log into a cache folder, by their environment."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            command = (each / "cmdline").read_bytes()
            if b"\0serve\0" in command and str(cache).encode() in (each / "environ").read_bytes():
                found.append(int(each.name))
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
    return found


def test_a_local_destination_serves_is_no_child_and_ends_with_the_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"import runpy, sys\n{OPEN}\nprint(s.url)\nsys.argv[1:] = ['wait']\n"
                       f"runpy.run_path({SELF!r}, run_name='__main__')\nprint('listed'); input()\n")  # fmt: skip
    variables = environ(**{CACHE: str(tmp_path)})
    status, stdout, stderr = execute(*AVEC, "run", "--local", str(program), variables=variables, stdin="\n")
    assert (status, stderr) == (0, "")
    url, *rest = stdout.splitlines()
    assert url.startswith("tcp://127.0.0.1:")
    assert rest == ["no children", "listed"]
    assert all(_ends(pid, 20) for pid in _serving(tmp_path))


def test_a_local_destination_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "models").write_text("a file where a folder is needed")
    variables = environ(**{CACHE: str(cache)})
    status, stdout, stderr = execute(*AVEC, "run", "--local", SELF, "exit", variables=variables)
    assert (status, stdout) == (69, "")
    assert stderr.startswith(f"avec: cannot start a destination on this machine; {cache}/logs/local-")
    assert "  avec: " in stderr
    assert "Traceback" not in stderr


def test_a_notebook_can_have_a_local_destination(tmp_path: Path) -> None:
    code = f"import avec; avec.intercept(local=True); {OPEN}print(s.url.startswith('tcp://127.0.0.1:'))"
    variables = environ(**{CACHE: str(tmp_path)})
    assert execute(AVEC[0], "-c", code, variables=variables) == (0, "True\n", "")
    assert all(_ends(pid, 20) for pid in _serving(tmp_path))
