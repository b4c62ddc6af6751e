"""A solver's snapshots: its net's parameters and where it stands, in files on the host, in Caffe's formats and names.

Source: Solver::Snapshot and Solver::Restore in caffe/src/caffe/solver.cpp; sgd_solver.cpp.
"""

from __future__ import annotations

from pathlib import Path

from avec.formats.caffe import solver_state

from . import training_log, weights
from .construction import copy_weights, existing
from .remote_solver import RemoteSolver
from .solver_settings import SolverSettings


def write(settings: SolverSettings, solver: RemoteSolver) -> None:
    """Write both files; waits.

    Raises:
        OSError, InvalidData: one cannot be written.
    """
    message = settings.message
    hdf5 = message.snapshot_format == message.HDF5
    kind, ending = ("HDF5", ".h5") if hdf5 else ("binary proto", "")
    progress, history = solver.read_state()
    model = settings.snapshot_name(progress.iteration, f".caffemodel{ending}")
    state_name = settings.snapshot_name(progress.iteration, f".solverstate{ending}")
    state = solver_state.SolverState(progress.iteration, progress.current_step, tuple(history), model)
    training_log.write(f"Snapshotting to {kind} file {model}")
    (weights.save_hdf5 if hdf5 else weights.save)(solver.nets[0], model, message.snapshot_diff)
    training_log.write(f"Snapshotting solver state to {kind} file {state_name}")
    if hdf5:
        solver_state.write_hdf5(state_name, state)
        return
    with open(state_name, "wb") as file:
        file.writelines(solver_state.encode(state))


def restore(solver: RemoteSolver, name: str) -> None:
    """Go on from a snapshot; waits.

    Raises:
        RuntimeError: the weights that it names cannot be opened.
        InvalidData, InvalidModel: a file is damaged, or of another net or type of solver.
    """
    state = solver_state.read_hdf5(name, name) if name.endswith(".h5") else _decode(name)
    _, history = solver.read_state()
    solver_state.check_history(state, [values.shape for values in history], name)
    if state.learned_net is not None:
        copy_weights(solver.nets[0], existing(state.learned_net))
    training_log.write("SGDSolver: restoring history")
    adopted = [values.reshape(old.shape) for values, old in zip(state.history, history, strict=True)]
    solver.write_state(state.iteration, state.current_step, adopted)


def _decode(name: str) -> solver_state.SolverState:
    return solver_state.decode(Path(name).read_bytes(), name)
