"""What solvers log, as glog would write it: with the file and line of Caffe that it comes from."""

from __future__ import annotations

from . import glog

# By what a line begins with, else contains; the first that fits counts. Programs parse these lines by their texts.
_PLACES = (
    ("Solving ", "solver.cpp:295"),
    ("Learning Rate Policy", "solver.cpp:296"),
    ("Restoring previous", "solver.cpp:302"),
    ("Finetuning from", "solver.cpp:71"),
    ("Snapshotting solver state to binary", "sgd_solver.cpp:284"),
    ("Snapshotting solver state to HDF5", "sgd_solver.cpp:296"),
    ("Snapshotting to binary", "solver.cpp:464"),
    ("Snapshotting to HDF5", "solver.cpp:476"),
    ("Gradient clipping", "sgd_solver.cpp:88"),
    ("MultiStep Status", "sgd_solver.cpp:52"),
    ("    Train net output", "solver.cpp:258"),
    ("    Test net output", "solver.cpp:414"),
    ("Test loss", "solver.cpp:398"),
    ("Optimization", "solver.cpp:332"),
    ("SGDSolver: restoring", "sgd_solver.cpp:318"),
)


def write(line: str) -> None:
    """Log a line of a solver's."""
    glog.write(glog.INFO, _place(line), line)


def _place(line: str) -> str:
    for beginning, place in _PLACES:
        if line.startswith(beginning):
            return place
    if "Testing net" in line:
        return "solver.cpp:347"
    return "sgd_solver.cpp:112" if ", lr = " in line else "solver.cpp:239"
