"""What a command line of `avec run` means."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from avec import config
from avec.errors import ConfigurationError
from avec.interception import environment
from avec.interception.launch import CannotStart, application, deaf_flag


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        ("python -I app.py", "-I"),
        ("python3.12 -E app.py", "-E"),
        ("/usr/bin/python -sS -m app", "-S"),
        ("python -Im pytest", "-I"),
        ("python -X dev -W error -I app.py", "-I"),
        ("env python -I app.py", "-I"),
        ("/usr/bin/env -S python3 -E ./tool", "-E"),
        ("python app.py -I", None),
        ("python -m app -I", None),
        ("python -c pass -I", None),
        ("python -mapp -I", None),
        ("python -X importtime app.py", None),
        ("python -WE app.py", None),
        ("python -sB app.py -E", None),
        ("python - -I", None),
        ("python", None),
        ("/venv/bin/python ./tool -E", None),
        ("grep -E pattern python", None),
        ("ls -S", None),
    ],
)
def test_a_python_that_shuts_the_bootstrap_out_is_recognised(words: str, flag: str | None) -> None:
    assert deaf_flag(words.split()) == flag


@pytest.mark.parametrize("command", [["-m", "app", "-x"], ["-mapp"], ["-c", "pass"]])
def test_what_python_takes_is_for_this_interpreter(command: list[str]) -> None:
    app = application(command)
    assert (app.executable, app.argv) == (sys.executable, (sys.executable, *command))


def test_a_command_is_found_on_the_path_and_keeps_its_name() -> None:
    app = application(["sh", "-c", "true"])
    assert os.path.isabs(app.executable)
    assert app.argv == ("sh", "-c", "true")


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("no-such-command-anywhere", 127),
        ("./nothing", 127),
        ("nothing.py", 127),
        ("./folder", 126),
        ("./plain", 126),
    ],
)
def test_what_cannot_be_started_has_the_shells_status(
    name: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_text("no program")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotStart, match=name) as caught:
        application([name])
    assert caught.value.status == status


def test_a_script_whose_first_line_shuts_the_bootstrap_out_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text("#!/usr/bin/python3 -I\n")
    script.chmod(0o755)
    with pytest.raises(ConfigurationError, match="with -I Python ignores PYTHONPATH"):
        application([str(script)])


def test_the_environment_differs_in_avecs_variables_and_the_path_alone() -> None:
    before = {"PATH": "/bin", "PYTHONPATH": "/mine:", "AVEC_NUMERICS": "fast"}
    settings = config.load({"numerics": "strict", "destination": "box"}, before)
    after = environment.intercepted(settings, before)
    assert after["PYTHONPATH"] == f"{environment.BOOTSTRAP}:/mine:"
    assert {name for name in after if not name.startswith("AVEC_")} == {"PATH", "PYTHONPATH"}
    assert config.load(environ=after) == settings


def test_standing_aside_gives_the_environment_back() -> None:
    settings = config.load(environ={})
    for before in ({}, {"PYTHONPATH": "/mine"}):
        after = environment.plain(settings, environment.intercepted(settings, before))
        assert after.get("PYTHONPATH") == before.get("PYTHONPATH")
