"""What `import caffe` gives under AVEC: pycaffe's names, whose nets compute at a destination.

Only numpy is needed on the host.
Source: caffe/python/caffe/__init__.py.
"""

from __future__ import annotations

from . import _caffe as _caffe
from . import io
from .classifier import Classifier
from .construction import TEST, TRAIN
from .detector import Detector
from .glog import init_log, log
from .mode import layer_type_list, set_device, set_mode_cpu, set_mode_gpu
from .net_spec import NetSpec, layers, params, to_proto
from .parallel import (
    NCCL,
    has_nccl,
    set_multiprocess,
    set_solver_count,
    set_solver_rank,
    solver_count,
    solver_rank,
)
from .pycaffe import Net
from .python_layer import Layer
from .randomness import set_random_seed
from .solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    get_solver,
)
from .timer import Timer

__version__ = "1.0.0"  # of the Caffe whose behaviour this package has

__all__ = [
    "NCCL", "TEST", "TRAIN", "AdaDeltaSolver", "AdaGradSolver", "AdamSolver", "Classifier", "Detector", "Layer", "Net",
    "NesterovSolver", "NetSpec", "RMSPropSolver", "SGDSolver", "Timer", "get_solver", "has_nccl", "init_log", "io",
    "layer_type_list", "layers", "log", "params", "set_device", "set_mode_cpu", "set_mode_gpu", "set_multiprocess",
    "set_random_seed", "set_solver_count", "set_solver_rank", "solver_count", "solver_rank", "to_proto",
]  # fmt: skip
