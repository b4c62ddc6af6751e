"""The ONNX example finds the right class, and says the same under AVEC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from launching import AVEC, PLAIN, environ, execute, serving

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx, which makes the model, is not installed")

FOLDER = Path(__file__).parent.parent.parent / "examples" / "onnx_classify"
PROGRAM = str(FOLDER / "classify.py")
SMALL = ("--draw", "24", "--size", "96", "--seed", "3")


def test_every_drawn_picture_is_classified_rightly() -> None:
    status, stdout, _ = execute(*PLAIN, PROGRAM, *SMALL)
    assert (status, stdout) == (0, "CPU: CPUExecutionProvider\n24 of 24 pictures classified rightly\n")


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_under_avec_it_has_a_gpu_and_finds_the_same(tmp_path: Path, engine: str) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    picture = tmp_path / "stripes.png"
    wave = 127 + 100 * np.sin(np.arange(96) * 2 * np.pi / 9)
    cv2.imwrite(str(picture), np.repeat(np.tile(wave, (96, 1))[..., None], 3, 2))
    with serving(AVEC_CACHE_DIR=str(tmp_path / "destination"), AVEC_ONNX_ENGINE=engine) as url:
        variables = environ(AVEC_CACHE_DIR=str(tmp_path / "host"))
        command = (*AVEC, "run", "--on", url, PROGRAM)
        status, stdout, stderr = execute(*command, *SMALL, variables=variables)
        _, under_avec, _ = execute(*command, str(picture), variables=variables)
    assert (status, stdout) == (
        0, "GPU: CUDAExecutionProvider, CPUExecutionProvider\n24 of 24 pictures classified rightly\n"
    ), stderr  # fmt: skip
    _, plainly, _ = execute(*PLAIN, PROGRAM, str(picture))
    assert plainly.splitlines()[1].startswith(f"{picture}: vertical ")
    assert under_avec.splitlines()[1] == plainly.splitlines()[1]


def test_a_picture_that_cannot_be_read_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    status, _, stderr = execute(*PLAIN, PROGRAM, str(tmp_path / "none.png"))
    assert status == 1
    assert f"{tmp_path / 'none.png'}: cannot be read" in stderr
