"""What `avec doctor` finds out about a program without running it."""

from __future__ import annotations

from pathlib import Path

import pytest

from avec import config
from avec.errors import ConfigurationError
from avec.interception.doctor import Diagnosis, examine
from avec.interception.torch import building


def examined(program: Path | None, **flags: str) -> Diagnosis:
    return examine(program, config.load(flags, {"AVEC_CONFIG": "/dev/null"}))


def found(diagnosis: Diagnosis, subject: str) -> tuple[bool, str]:
    return next((each.fine, each.finding) for each in diagnosis.checks if each.subject == subject)


def test_imports_are_found_wherever_they_stand_and_in_the_modules_beside(tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    program.write_text("import package.part\nfrom . import nothing\nraise RuntimeError('this is not run')\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("def late():\n    from caffe.io import Transformer\n")
    (tmp_path / "package" / "part.py").write_text(
        "try:\n    import torch.nn as nn, jax.numpy\nexcept ImportError: import app\n"
    )
    libraries = examined(program).libraries
    assert [(each.module, each.interception, each.fine) for each in libraries] == [
        ("caffe", "served by avec", True),
        ("torch", "patched", True),
        ("jax", "not intercepted", False),
    ]


def test_a_program_that_imports_no_library_has_none(tmp_path: Path) -> None:
    (tmp_path / "__main__.py").write_text("import json\n")
    assert examined(tmp_path).libraries == ()


def test_the_destination_is_asked(destination: str) -> None:
    fine, finding = found(examined(None, destination=destination), "destination")
    assert fine
    assert finding.startswith(f"{destination}: ")
    assert "formats caffe" in finding


def test_a_destination_that_does_not_answer_is_a_fault() -> None:
    diagnosis = examined(None, destination="tcp://127.0.0.1:1")
    fine, finding = found(diagnosis, "destination")
    assert not fine
    assert "no destination answers at tcp://127.0.0.1:1" in finding
    assert not diagnosis.fine


def test_it_says_how_tensors_are_sent() -> None:
    fine, finding = found(examined(None, codec="auto,results=fp16"), "codecs")
    assert fine
    assert finding.startswith("auto,results=fp16; this host reads palette, palette-zstd, mask, shuffle-zstd")


def test_it_says_that_a_codec_which_is_named_needs_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avec.communication.compression.available", lambda: ("palette",))
    assert found(examined(None, codec="frames=jpeg"), "codecs") == (
        False,
        "the setting `codec` names jpeg, which needs Pillow; install it",
    )


def test_it_says_whether_the_torch_kernels_in_cpp_are_there(tmp_path: Path) -> None:
    cache = str(tmp_path)
    fine, finding = found(examined(None, cache_dir=cache), "torch kernels")
    assert fine
    assert "`avec build` compiles some in C++" in finding
    assert not found(examined(None, cache_dir=cache, torch_native="required"), "torch kernels")[0]
    installed = building.installed_torch()
    assert installed is not None
    path = building.library_path(tmp_path, installed[1])
    path.parent.mkdir()
    path.touch()
    assert found(examined(None, cache_dir=cache), "torch kernels") == (True, f"those in C++, {path}")
    assert "switched off" in found(examined(None, cache_dir=cache, torch_native="off"), "torch kernels")[1]


def test_interception_is_really_tried() -> None:
    assert found(examined(None), "interception")[0]
    assert found(examined(None, disable="1"), "interception") == (False, "switched off by the setting `disable`")


def test_a_first_line_that_shuts_the_bootstrap_out_is_a_fault(tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    program.write_text("#!/usr/bin/python3 -E\nimport caffe\n")
    fine, finding = found(examined(program), "program")
    assert not fine
    assert "has -E" in finding


@pytest.mark.parametrize("content", [None, b"not python (", b"\0"])
def test_what_is_no_python_program_is_refused(content: bytes | None, tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    if content is not None:
        program.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"cannot read the imports of .*app\.py"):
        examined(program)
