"""A trained network's files: the Caffe net that the program runs, and parameters to continue training from."""

import os
from pathlib import Path

import numpy as np
import topologies
import torch
import weights
from training.network import NAME, PoseNetwork, parameters_of

HEIGHT, WIDTH = 368, 656  # that the prototxt names; a program may reshape the net


def save(network: PoseNetwork, folder: Path) -> None:
    """Write NAME.prototxt, NAME.caffemodel and NAME.npz into a folder.

    Raises:
        OSError: a file cannot be written.
    """
    text = topologies.prototxt_of("OpenPose people", network.layers, HEIGHT, WIDTH)
    (folder / f"{NAME}.prototxt").write_text(text)
    folded = {name: [tensor.numpy() for tensor in tensors] for name, tensors in parameters_of(network).items()}
    weights.write_caffemodel(folder / f"{NAME}.caffemodel", NAME, network.layers, folded)
    partial = folder / f".{NAME}.partial.npz"
    state = {name: tensor.contiguous().cpu().numpy() for name, tensor in network.state_dict().items()}
    np.savez(partial, **state)
    os.replace(partial, folder / f"{NAME}.npz")


def load(network: PoseNetwork, path: Path) -> None:
    """Give a network the parameters in a .npz that `save` wrote.

    Raises:
        OSError: the file cannot be read.
        RuntimeError: it holds the parameters of another structure.
    """
    with np.load(path, allow_pickle=False) as state:
        network.load_state_dict({name: torch.from_numpy(state[name]) for name in state.files})
