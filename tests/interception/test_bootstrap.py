"""The bootstrap: it intercepts or ends the process, and costs and changes nothing else."""

from __future__ import annotations

import ast
import os
import shutil
import sys
import venv
from pathlib import Path

import pytest

from avec.interception import FRONT_ENDS
from avec.interception.environment import BOOTSTRAP
from launching import SELF, UNDER_AVEC, environ, execute

SOURCE = BOOTSTRAP / "sitecustomize.py"


def bootstrapped(**changes: str) -> dict[str, str]:
    """The environment of a process under `avec run`."""
    variables = environ(**changes)
    variables["PYTHONPATH"] = f"{BOOTSTRAP}{os.pathsep}{variables['PYTHONPATH']}"
    return variables


def test_its_table_is_that_of_the_front_ends() -> None:
    assignments = {
        node.targets[0].id: node.value
        for node in ast.parse(SOURCE.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert ast.literal_eval(assignments["INTERCEPTED"]) == tuple(each.module for each in FRONT_ENDS)


def test_it_imports_sys_and_os_only_until_a_library_is_imported() -> None:
    imports = [
        alias.name
        for node in ast.parse(SOURCE.read_text()).body
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    assert imports == ["os", "sys", "sitecustomize"]


def test_it_is_alone_in_its_folder() -> None:
    assert [each.name for each in BOOTSTRAP.iterdir() if each.name != "__pycache__"] == ["sitecustomize.py"]


def test_it_keeps_to_what_old_pythons_read() -> None:
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.AsyncFunctionDef, ast.MatMult)
    for node in ast.walk(ast.parse(SOURCE.read_text(), feature_version=(3, 6))):
        assert not isinstance(node, newer)
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None
            assert not node.args.kwonlyargs
            assert all(each.annotation is None for each in node.args.args)
    assert SOURCE.read_bytes().isascii()  # Python 2 wants a declaration otherwise


@pytest.mark.parametrize("value", ["1", "true", "YES", " on "])
def test_the_variable_switches_it_off(value: str) -> None:
    variables = bootstrapped(AVEC_DISABLE=value)
    assert execute(sys.executable, SELF, "say", "this", variables=variables) == (0, "this False\n", "")


@pytest.mark.parametrize("value", ["", "0", "false", "perhaps"])
def test_no_other_value_switches_it_off(value: str) -> None:
    variables = bootstrapped(AVEC_DISABLE=value)
    assert execute(sys.executable, SELF, "say", "this", variables=variables) == (0, "this True\n", "")


def test_an_interpreter_without_avec_ends_when_it_imports_an_intercepted_library(tmp_path: Path) -> None:
    venv.create(tmp_path / "foreign", symlinks=True, with_pip=False)
    python = str(tmp_path / "foreign" / "bin" / "python")
    variables = environ(PYTHONPATH=str(BOOTSTRAP))
    code = "print('before')\ntry:\n    import caffe\nexcept ImportError:\n    print('fell back')"
    status, stdout, stderr = execute(python, "-c", code, variables=variables)
    assert (status, stdout) == (78, "before\n")
    assert stderr.startswith(f"avec: cannot intercept 'caffe' in {python}: No module named 'avec'")
    assert stderr.count("\n") == 1


def test_an_interpreter_without_avec_runs_what_needs_no_interception(tmp_path: Path) -> None:
    venv.create(tmp_path / "foreign", symlinks=True, with_pip=False)
    python = str(tmp_path / "foreign" / "bin" / "python")
    assert execute(python, "-c", "print(1)", variables=environ(PYTHONPATH=str(BOOTSTRAP))) == (0, "1\n", "")


def test_an_error_in_it_ends_the_process_with_one_line(tmp_path: Path) -> None:
    text = SOURCE.read_text()
    broken = text.replace("sys.meta_path.insert(0, Finder)", "sys.meta_path.no_such_method()")
    assert broken != text
    (tmp_path / "sitecustomize.py").write_text(broken)
    status, stdout, stderr = execute(sys.executable, "-c", "print(1)", variables=environ(PYTHONPATH=str(tmp_path)))
    assert (status, stdout) == (78, "")
    assert stderr.startswith(f"avec: cannot set up interception in {sys.executable}: AttributeError(")
    assert stderr.count("\n") == 1


def test_the_application_gets_avecs_module_even_if_it_has_another(tmp_path: Path) -> None:
    (tmp_path / "caffe.py").write_text("print('the installed one')\n")
    code = "import importlib.util; print(importlib.util.find_spec('caffe').origin)"
    status, stdout, stderr = execute(*UNDER_AVEC, "-c", code, cwd=tmp_path)
    assert (status, stderr) == (0, "")
    assert Path(stdout.strip()).parts[-3:] == ("interception", "caffe", "__init__.py")


def test_avec_is_not_imported_before_a_library_is() -> None:
    code = "import sys, json, logging; print(any(name.split('.')[0] == 'avec' for name in sys.modules))"
    assert execute(*UNDER_AVEC, "-c", code) == (0, "False\n", "")


def test_a_copy_of_the_bootstrap_elsewhere_is_not_left_on_the_path(tmp_path: Path) -> None:
    shutil.copy(SOURCE, tmp_path)
    variables = environ(PYTHONPATH=str(tmp_path))
    status, stdout, _ = execute(sys.executable, "-c", "import sys; print(sys.path)", variables=variables)
    assert status == 0
    assert str(tmp_path) not in stdout
