"""The networks that the program can run: their files, what their maps mean, the size they are used at."""

from dataclasses import dataclass
from pathlib import Path

import skeletons
import weights
from skeletons import Skeleton

FOLDER = Path(__file__).parent / "models"


@dataclass(frozen=True, slots=True)
class Resolution:
    """The size of a network's input in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Model:
    """A network: the topology to generate, or none where its files lie in the models folder."""

    name: str
    skeleton: Skeleton
    topology: str | None
    resolution: Resolution = Resolution(656, 368)
    keypoint_field: str = "pose_keypoints_2d"  # where OpenPose's JSON puts what it finds

    def prototxt(self, resolution: Resolution) -> Path:
        """Return the path of the network's structure; generate it where it is generated."""
        if self.topology is None:
            return FOLDER / f"{self.name}.prototxt"
        return weights.generated_prototxt(self.topology, resolution.height, resolution.width)

    def caffemodel(self) -> Path:
        """Return the path of the network's weights: trained ones, or random ones for a topology."""
        if self.topology is None:
            return FOLDER / f"{self.name}.caffemodel"
        return weights.random_caffemodel(self.topology)


_SQUARE = Resolution(368, 368)
MODELS = {
    model.name: model
    for model in (
        Model("pose_people", skeletons.COCO, topology=None),
        Model("coco", skeletons.COCO, "coco"),
        Model("body_25", skeletons.BODY_25, "body_25"),
        Model("mpi", skeletons.MPI, "mpi"),
        Model("mpi_4_stages", skeletons.MPI, "mpi_4_stages"),
        # A hand as the network knows it is a right one.
        Model("hand", skeletons.HAND, "hand", _SQUARE, "hand_right_keypoints_2d"),
        Model("face", skeletons.FACE, "face", _SQUARE, "face_keypoints_2d"),
    )
}
