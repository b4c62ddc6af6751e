"""The batches of data layers are those of real Caffe, to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from avec.formats.caffe.message import Message, message_class
from avec.interception.caffe.data import open_source
from goldens.data_goldens import FILES, data_cases

TEST = 1


def layer_of(prototxt: str) -> Message:
    return message_class("NetParameter").from_text(prototxt, "case").layer[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", data_cases())
def test_batches_equal_real_caffes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = data_cases()[name]
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    with open_source(layer_of(case.prototxt), TEST, seed=0) as source:
        assert tuple(source.shapes()) == case.shapes
        for expected in case.batches:
            found = source.next_batch()
            assert [top.shape for top in found] == [top.shape for top in expected]
            for top, wanted in zip(found, expected, strict=True):
                assert top.dtype == np.float32
                np.testing.assert_array_equal(top, wanted)
