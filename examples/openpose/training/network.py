"""The network that is trained: its structure as Caffe layers, a torch module made from them, and the way back.

The structure is OpenPose's in outline (features at an eighth of the size, a first stage of part affinity fields L1 and
heatmaps L2, a second that reads them beside the features) with residual blocks and dilated convolutions in the place of
VGG's and of the 7 x 7 kernels. In training a batch normalisation follows each convolution but those that make maps;
`parameters_of` folds it into the convolution, so that the Caffe net is convolutions, ReLU, sums and concatenations.
"""

import torch
import torch.nn.functional as F
from topologies import Layer
from torch import Tensor, nn
from training.labels import FIELDS, HEATMAPS

NAME = "pose_people"
WIDTH = 128  # channels at an eighth of the size
MAP_MAKERS = ("L1", "L2")  # how the names of the convolutions that make maps end
BACKBONE_DILATIONS = (1, 1, 2, 4, 1)
REFINEMENT_DILATIONS = (1, 2, 4, 8, 1)
STEM = (("conv1_1", 3, 32, 2), ("conv1_2", 32, 32, 1), ("conv2_1", 32, 64, 2), ("conv2_2", 64, 64, 1))
FIRST_STAGE_WIDTH = 256  # of the 1 x 1 convolution before the maps


def structure(width: int = WIDTH) -> list[Layer]:
    """List the layers from "image" to "net_output" in the order of execution."""
    return _Structure(width).layers


class _Structure:
    """Writes the list from top to bottom."""

    def __init__(self, width: int) -> None:
        self.layers: list[Layer] = []
        self._scale = 1
        blob = "image"
        for name, inputs, outputs, stride in STEM:
            blob = self._activated(name, blob, inputs, outputs, 3, stride)
        blob = self._activated("conv3_1", blob, 64, width, 3, 2)
        for number, dilation in enumerate(BACKBONE_DILATIONS):
            blob = self._residual(f"conv4_{2 * number + 1}", f"conv4_{2 * number + 2}_CPM", blob, width, dilation)
        features = blob
        blob = self._activated("conv5_4_CPM", features, width, FIRST_STAGE_WIDTH, 1)
        limbs = self._convolution("conv5_5_CPM_L1", blob, FIRST_STAGE_WIDTH, FIELDS, 1)
        parts = self._convolution("conv5_5_CPM_L2", blob, FIRST_STAGE_WIDTH, HEATMAPS, 1)
        blob = self._concat("concat_stage2", (limbs, parts, features), "concat_stage2", FIELDS + HEATMAPS + width)
        blob = self._activated("Mconv1_stage2", blob, FIELDS + HEATMAPS + width, width, 3)
        for number, dilation in enumerate(REFINEMENT_DILATIONS, start=1):
            blob = self._residual(f"Mconv2_{number}_stage2", f"Mconv3_{number}_stage2", blob, width, dilation)
        blob = self._activated("Mconv6_stage2", blob, width, FIRST_STAGE_WIDTH, 1)
        limbs = self._convolution("Mconv7_stage2_L1", blob, FIRST_STAGE_WIDTH, FIELDS, 1)
        parts = self._convolution("Mconv7_stage2_L2", blob, FIRST_STAGE_WIDTH, HEATMAPS, 1)
        # The name that OpenPose's two-branch nets give it, whatever the number of stages.
        self._concat("concat_stage7", (parts, limbs), "net_output", HEATMAPS + FIELDS)

    def _convolution(
        self, name: str, bottom: str, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1
    ) -> str:
        self._scale *= stride
        self.layers.append(
            Layer(name, "Convolution", (bottom,), name, inputs, outputs, kernel, self._scale, stride, dilation)
        )
        return name

    def _activated(self, name: str, bottom: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
        blob = self._convolution(name, bottom, inputs, outputs, kernel, stride)
        self._relu(name.replace("conv", "relu", 1), blob, outputs)
        return blob

    def _relu(self, name: str, blob: str, channels: int) -> None:
        self.layers.append(Layer(name, "ReLU", (blob,), blob, channels, channels, scale=self._scale))

    def _residual(self, first: str, second: str, bottom: str, width: int, dilation: int) -> str:
        blob = self._convolution(first, bottom, width, width, 3, dilation=dilation)
        self._relu(first.replace("conv", "relu", 1), blob, width)
        blob = self._convolution(second, blob, width, width, 3)
        total = second.replace("conv", "sum", 1)
        self.layers.append(Layer(total, "Eltwise", (bottom, blob), total, width, width, scale=self._scale))
        self._relu(second.replace("conv", "relu", 1), total, width)
        return total

    def _concat(self, name: str, bottoms: tuple[str, ...], top: str, channels: int) -> str:
        self.layers.append(Layer(name, "Concat", bottoms, top, channels, channels, scale=self._scale))
        return top


class PoseNetwork(nn.Module):
    """A list of Caffe layers as a module: gives the maps of both stages, B x 57 x H / 8 x W / 8 each.

    Its input is what the Caffe net's is: blue-green-red, value / 256 - 0.5.
    """

    def __init__(self, layers: list[Layer]) -> None:
        super().__init__()
        self.layers = layers
        self.convolutions = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        block_ends = {layer.bottoms[1] for layer in layers if layer.type == "Eltwise"}
        for layer in layers:
            if layer.type != "Convolution":
                continue
            makes_maps = layer.name.endswith(MAP_MAKERS)
            convolution = nn.Conv2d(
                layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding, layer.dilation, bias=makes_maps
            )
            if makes_maps:
                nn.init.normal_(convolution.weight, std=0.01)
                nn.init.zeros_(convolution.bias)
                if layer.outputs == HEATMAPS:
                    nn.init.ones_(convolution.bias[-1:].detach())  # nearly everything is background
            else:
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                norm = nn.BatchNorm2d(layer.outputs)
                if layer.name in block_ends:
                    nn.init.zeros_(norm.weight)  # a residual block begins as the identity
                self.norms[layer.name] = norm
            self.convolutions[layer.name] = convolution

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        blobs = {"image": image}
        for layer in self.layers:
            bottoms = [blobs[name] for name in layer.bottoms]
            blobs[layer.top] = self._compute(layer, bottoms)
        first = torch.cat([blobs["conv5_5_CPM_L2"], blobs["conv5_5_CPM_L1"]], dim=1)
        return first, blobs["net_output"]

    def _compute(self, layer: Layer, bottoms: list[Tensor]) -> Tensor:
        match layer.type:
            case "Convolution":
                output = self.convolutions[layer.name](bottoms[0])
                return self.norms[layer.name](output) if layer.name in self.norms else output
            case "ReLU":
                return F.relu(bottoms[0])
            case "Eltwise":
                return bottoms[0] + bottoms[1]
            case "Concat":
                return torch.cat(bottoms, dim=1)
        raise ValueError(f"layer {layer.name}: no torch operation stands for Caffe's {layer.type}")


def as_input(images: Tensor) -> Tensor:
    """Turn pictures (B x 3 x H x W, uint8, blue-green-red) into the network's input, as estimation.py does."""
    return images.float() * (1 / 256) - 0.5


@torch.no_grad()
def parameters_of(network: PoseNetwork) -> dict[str, list[Tensor]]:
    """Fold the batch normalisations: for each convolution's name its weight and bias, float32 on the CPU."""
    folded = {}
    for name, convolution in network.convolutions.items():
        weight = convolution.weight.double()
        if name in network.norms:
            norm = network.norms[name]
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            weight = weight * scale[:, None, None, None]
            bias = norm.bias.double() - norm.running_mean.double() * scale
        else:
            bias = convolution.bias.double()
        folded[name] = [weight.float().cpu().contiguous(), bias.float().cpu()]
    return folded
