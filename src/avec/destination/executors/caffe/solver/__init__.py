"""Caffe's solvers: they train a net on the accelerator, whole iterations at a time."""

from avec.destination.executors.caffe.solver.loading import load_solver
from avec.destination.executors.caffe.solver.model import CaffeSolver

__all__ = ["CaffeSolver", "load_solver"]
