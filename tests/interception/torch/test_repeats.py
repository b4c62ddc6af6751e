"""`avec doctor --trace` runs a program and says what kept its operators from repeating themselves."""

from __future__ import annotations

from pathlib import Path

from launching import AVEC, execute

PROGRAM = """
import sys, torch
x = torch.ones(8).cuda()
for step in range(20):
    y = x * 2.0
    z = y[: 2 + step].add(1.5)
    y.sum().item()
sys.exit(int(sys.argv[1]))
"""


def test_what_differs_is_told_with_operator_and_line(destination: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    status, stdout, stderr = execute(*AVEC, "doctor", "--on", destination, "--trace", str(program), "3")
    assert (status, stderr) == (3, "")
    said = " ".join(stdout.replace("│", " ").split())
    assert "stretches of operators were sent" in said
    assert "aten::add.Tensor" in said
    assert "argument 0 is of another kind" in said


def test_a_program_that_computes_nothing_there_is_told_so(destination: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("print('done')", "utf-8")
    outcome = execute(*AVEC, "doctor", "--on", destination, "--trace", str(program))
    assert outcome == (0, "done\n", "avec: the program issued no PyTorch operators on cuda\n")


def test_it_needs_a_program(destination: str) -> None:
    status, _, stderr = execute(*AVEC, "doctor", "--on", destination, "--trace")
    assert status == 2
    assert "--trace runs a program: name it" in stderr
