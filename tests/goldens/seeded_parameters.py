"""Parameters and inputs that the golden generator and the tests both draw from a seed, so that no weights are stored.

Needs numpy alone and Python 3.9, because the generator runs beside real Caffe. `RandomState` streams are frozen
across numpy versions; `Generator` streams are not, so they are not used here.
"""

from __future__ import annotations

import numpy as np


def parameter_values(seed: int, layers: list[tuple[str, list[tuple[int, ...]]]]) -> list[list[np.ndarray]]:
    """Draw every parameter of a net, in layer order and then in parameter order, from one stream.

    Args:
        seed: of the stream.
        layers: type and parameter shapes of each layer, layers without parameters included or not.

    Returns:
        For each layer, float32 arrays of the shapes given.
    """
    stream = np.random.RandomState(seed)
    return [[_draw(stream, kind, place, shape) for place, shape in enumerate(shapes)] for kind, shapes in layers]


def _draw(stream: np.random.RandomState, kind: str, place: int, shape: tuple[int, ...]) -> np.ndarray:
    noise = stream.standard_normal(shape)
    if kind == "BatchNorm":  # mean sum, variance sum, the factor that both are divided by
        value = (0.5 * noise, 0.5 + np.abs(noise), 2.0 + np.abs(noise))[place]
    elif kind == "PReLU":
        value = 0.25 + 0.1 * noise
    elif kind == "Scale" and place == 0:
        value = 1.0 + 0.5 * noise
    elif len(shape) >= 2:  # He: outputs keep the magnitude of inputs through a ReLU
        value = noise * np.sqrt(2.0 / np.prod(shape[1:]))
    else:
        value = 0.1 * noise
    return np.asarray(value, dtype=np.float32).reshape(shape)


def input_values(seed: int, shapes: list[tuple[int, ...]], scale: float = 1.0) -> list[np.ndarray]:
    """Draw the net's inputs, in the net's order, as scaled standard normal float32 arrays."""
    stream = np.random.RandomState(seed)
    return [np.asarray(scale * stream.standard_normal(shape), dtype=np.float32) for shape in shapes]
