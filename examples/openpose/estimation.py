"""One frame's way through a Caffe network: prepare, infer, find.

The three steps are apart so that a program can run them for different frames at the same time. Only `begin`, and what
it returns, touch the network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import caffe
import cv2
import grouping
import numpy as np
from grouping import Array
from models import Resolution
from numpy.typing import NDArray
from skeletons import Skeleton

SCALE_GAP = 0.25  # between one scale and the next
SIZE_MULTIPLE = 16  # of the smaller scales' inputs


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture as network input, 1 x 3 x height x width, and how many input pixels one of its own became."""

    input_NCHW: Array
    zoom: tuple[float, float]  # x, y


@dataclass(frozen=True, slots=True)
class Maps:
    """The network's answer, and the zoom it was asked at."""

    maps_CHW: Array
    zoom: tuple[float, float]


class Estimator:
    """Owns a network on Caffe's device, and finds people, or one hand or face, in pictures."""

    def __init__(
        self,
        prototxt: Path,
        caffemodel: Path,
        skeleton: Skeleton,
        resolution: Resolution,
        scales: int = 1,
        use_gpu: bool = True,
        depth: int = 1,
    ) -> None:
        """Load the network; with a depth of 2 another frame can begin while one computes."""
        if use_gpu:
            caffe.set_mode_gpu()
        else:
            caffe.set_mode_cpu()
        self._skeleton = skeleton
        self._resolutions = [_scaled(resolution, 1 - SCALE_GAP * step) for step in range(scales)]
        first = caffe.Net(str(prototxt), str(caffemodel), caffe.TEST)
        nets = [first]
        while len(nets) < depth * scales:  # one set of weights, but blobs of their own
            nets.append(caffe.Net(str(prototxt), caffe.TEST))
            nets[-1].share_with(first)
        self._nets = [nets[turn * scales : (turn + 1) * scales] for turn in range(depth)]
        self._turn = 0

    @property
    def depth(self) -> int:
        """How many pictures may have begun whose maps have not been asked for."""
        return len(self._nets)

    def prepare(self, image: NDArray[np.uint8]) -> list[Prepared]:
        """Fit a blue-green-red picture into the network's input, once for each scale."""
        return [prepare(image, resolution) for resolution in self._resolutions]

    def begin(self, prepared: list[Prepared]) -> Callable[[], list[Maps]]:
        """Run the network on each scale; what is returned waits for the maps.

        Where Caffe computes on a GPU, `forward` returns before it is done: so the next picture can begin meanwhile.
        """
        nets = self._nets[self._turn]
        self._turn = (self._turn + 1) % self.depth
        answers = [_forward(net, scale.input_NCHW) for net, scale in zip(nets, prepared, strict=True)]

        def wait() -> list[Maps]:
            # Copies, because the next forward writes into the same memory.
            maps = (np.array(answer["net_output"][0], np.float32) for answer in answers)
            return [Maps(each, scale.zoom) for each, scale in zip(maps, prepared, strict=True)]

        return wait

    def find(self, maps: list[Maps]) -> Array:
        """Find what the maps show, in the picture's pixels: found x parts x (x, y, score)."""
        merged = average(maps)
        if self._skeleton.fields:
            keypoints = grouping.find_people(merged.maps_CHW, self._skeleton)
        else:
            keypoints = grouping.find_points(merged.maps_CHW[: len(self._skeleton.parts)])
        present = keypoints[..., 2:] > 0
        keypoints[..., :2] = (keypoints[..., :2] + 0.5) / np.array(merged.zoom, np.float32) - 0.5
        return np.where(present, keypoints, 0)


def _forward(net: caffe.Net, input_NCHW: Array) -> Mapping[str, Array]:
    blob = net.blobs["image"]
    if tuple(blob.shape) != input_NCHW.shape:
        blob.reshape(*input_NCHW.shape)
        net.reshape()
    blob.data[...] = input_NCHW
    answer: Mapping[str, Array] = net.forward()
    return answer


def _scaled(resolution: Resolution, scale: float) -> Resolution:
    if scale == 1:
        return resolution
    width, height = (
        max(round(size * scale / SIZE_MULTIPLE), 1) * SIZE_MULTIPLE for size in (resolution.width, resolution.height)
    )
    return Resolution(width, height)


def prepare(image: NDArray[np.uint8], resolution: Resolution) -> Prepared:
    """Shrink or enlarge a picture to fit, top left, with black beyond it; scale its values to -0.5..0.5."""
    height, width = image.shape[:2]
    zoom = min(resolution.width / width, resolution.height / height)
    fitted_width, fitted_height = max(round(width * zoom), 1), max(round(height * zoom), 1)
    if (fitted_width, fitted_height) != (width, height):
        filter = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, (fitted_width, fitted_height), interpolation=filter)
    canvas = np.zeros((resolution.height, resolution.width, 3), np.uint8)
    canvas[:fitted_height, :fitted_width] = image
    input_NCHW = np.empty((1, 3, resolution.height, resolution.width), np.float32)
    np.multiply(canvas.transpose(2, 0, 1), np.float32(1 / 256), out=input_NCHW[0])
    input_NCHW -= 0.5
    return Prepared(input_NCHW, (fitted_width / width, fitted_height / height))


def average(maps: list[Maps]) -> Maps:
    """Average the maps of all scales at the size of the first."""
    first, *others = maps
    if not others:
        return first
    channels, height, width = first.maps_CHW.shape
    total = first.maps_CHW.copy()
    for other in others:
        # Where cell u of the first scale lies among the other's cells: both count from half a cell inside.
        ratio_x, ratio_y = (mine / its for mine, its in zip(other.zoom, first.zoom, strict=True))
        transform = np.array([[ratio_x, 0, ratio_x / 2 - 0.5], [0, ratio_y, ratio_y / 2 - 0.5]])
        for channel in range(channels):
            total[channel] += cv2.warpAffine(
                other.maps_CHW[channel],
                transform,
                (width, height),
                flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
    return Maps(total / len(maps), first.zoom)
