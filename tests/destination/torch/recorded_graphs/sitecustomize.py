"""Gives a destination without GPU graphs of operators, so that what is decided about CUDA graphs can be tested there.

As a CUDA graph does, one keeps its operators and their memory: replayed, they read and write the very tensors of the
recording. For destinations that are started with this folder on PYTHONPATH.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys

MODEL = "avec.destination.executors.torch.model"


class _Finder(importlib.abc.MetaPathFinder):
    """Changes the model's module when it has been imported: torch shall not be, in processes that need none."""

    def find_spec(self, name, path=None, target=None):
        if name != MODEL:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            from recorded import RecordedGraphs

            graphs = RecordedGraphs(os.environ["RECORDED_GRAPHS"], int(os.environ["RECORDED_GRAPHS_NBYTES"]))
            module.recorder_of = lambda devices: graphs

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Finder())
