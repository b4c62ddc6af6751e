"""The layer structure of OpenPose's public networks, generated from what is regular about them.

OpenPose's own prototxt files and weights come under a non-commercial licence and are not part of this
example. The structure itself is a few loops: a VGG-19 front, then refinement stages that each read the
front's features and the stage before. `prototxt` writes it in Caffe's text format, under the layer names
of the original, so that the original weights load into it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

FLOAT32_BYTES = 4
STRIDE = 8  # image pixels per output pixel: three pooling layers of 2


@dataclass(frozen=True, slots=True)
class Layer:
    """One Caffe layer with the channels it reads and writes; kernel is 0 where the type has none."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    top: str
    inputs: int
    outputs: int
    kernel: int = 0
    scale: int = 1  # image pixels per output pixel
    stride: int = 1
    dilation: int = 1

    @property
    def padding(self) -> int:
        """The zeros around a convolution's input that keep the size (at a stride of 1)."""
        return self.dilation * (self.kernel // 2)

    @property
    def parameter_shapes(self) -> tuple[tuple[int, ...], ...]:
        match self.type:
            case "Convolution":
                return (self.outputs, self.inputs, self.kernel, self.kernel), (self.outputs,)
            case "PReLU":
                return ((self.outputs,),)
            case _:
                return ()


@dataclass(slots=True)
class _Network:
    """The layers so far, and the channels and scale of every blob."""

    rename_activation: Callable[[str], str] = field(default=lambda name: name.replace("conv", "relu", 1))
    rename_pool: Callable[[int], str] = field(default=lambda index: f"pool{index}_stage1")
    layers: list[Layer] = field(default_factory=list)
    _channels: dict[str, int] = field(default_factory=lambda: {"image": 3})
    _scale: int = 1

    def _append(self, name: str, type: str, bottoms: tuple[str, ...], top: str, outputs: int, kernel: int) -> None:
        inputs = sum(self._channels[bottom] for bottom in bottoms)
        self._channels[top] = outputs or inputs
        self.layers.append(Layer(name, type, bottoms, top, inputs, outputs or inputs, kernel, self._scale))

    def convolution(
        self, name: str, bottom: str, outputs: int, kernel: int, activation: str = "", top: str = ""
    ) -> str:
        """Append a convolution that keeps the size, and the activation in place on its output."""
        top = top or name
        self._append(name, "Convolution", (bottom,), top, outputs, kernel)
        if activation:
            title = self.rename_activation(name)
            title = title.replace("relu", "prelu", 1) if activation == "PReLU" else title
            self._append(title, activation, (top,), top, 0, 0)
        return top

    def pool(self, index: int, bottom: str) -> str:
        name = self.rename_pool(index)
        self._scale *= 2
        self._append(name, "Pooling", (bottom,), name, 0, 2)
        return name

    def concat(self, name: str, bottoms: tuple[str, ...], top: str = "") -> str:
        self._append(name, "Concat", bottoms, top or name, 0, 0)
        return top or name

    def vgg_front(self) -> str:
        """Append the first ten convolutions of VGG-19 but for the last, which the nets treat differently."""
        blob = "image"
        for block, (count, channels) in enumerate(((2, 64), (2, 128), (4, 256)), start=1):
            for index in range(1, count + 1):
                blob = self.convolution(f"conv{block}_{index}", blob, channels, 3, "ReLU")
            blob = self.pool(block, blob)
        return self.convolution("conv4_1", blob, 512, 3, "ReLU")


def _two_branches(part_maps: int, limb_maps: int, stages: int) -> list[Layer]:
    """COCO and MPI: branch L1 predicts the part affinity fields, L2 the heatmaps, in every stage."""
    net = _Network()
    branches = {"L1": limb_maps, "L2": part_maps}
    blob = net.convolution("conv4_2", net.vgg_front(), 512, 3, "ReLU")
    blob = net.convolution("conv4_3_CPM", blob, 256, 3, "ReLU")
    features = net.convolution("conv4_4_CPM", blob, 128, 3, "ReLU")
    ends = dict.fromkeys(branches, features)
    for index, (channels, kernel) in enumerate([(128, 3)] * 3 + [(512, 1), (0, 1)], start=1):
        for branch, maps in branches.items():
            name = f"conv5_{index}_CPM_{branch}"
            activation = "ReLU" if channels else ""
            ends[branch] = net.convolution(name, ends[branch], channels or maps, kernel, activation)
    for stage in range(2, stages + 1):
        blob = net.concat(f"concat_stage{stage}", (ends["L1"], ends["L2"], features))
        ends = dict.fromkeys(branches, blob)
        for index, (channels, kernel) in enumerate([(128, 7)] * 5 + [(128, 1), (0, 1)], start=1):
            for branch, maps in branches.items():
                name = f"Mconv{index}_stage{stage}_{branch}"
                activation = "ReLU" if channels else ""
                ends[branch] = net.convolution(name, ends[branch], channels or maps, kernel, activation)
    # The original calls it concat_stage7 whatever the number of stages.
    net.concat("concat_stage7", (ends["L2"], ends["L1"]), top="net_output")
    return net.layers


def _dense_stage(net: _Network, tag: str, bottom: str, channels: int, wide: int, maps: int) -> str:
    """Append a BODY_25 stage: five blocks of three 3x3 convolutions, all three concatenated, then two 1x1."""
    blob = bottom
    for block in range(1, 6):
        triple = []
        for index in range(3):
            blob = net.convolution(f"Mconv{block}_{tag}_{index}", blob, channels, 3, "PReLU")
            triple.append(blob)
        blob = net.concat(f"Mconv{block}_{tag}_concat", tuple(triple))
    blob = net.convolution(f"Mconv6_{tag}", blob, wide, 1, "PReLU")
    return net.convolution(f"Mconv7_{tag}", blob, maps, 1)


def _body_25() -> list[Layer]:
    """BODY_25: four stages for the part affinity fields (L2), then two for the heatmaps (L1)."""
    net = _Network()
    blob = net.convolution("conv4_2", net.vgg_front(), 512, 3, "PReLU")
    blob = net.convolution("conv4_3_CPM", blob, 256, 3, "PReLU")
    features = net.convolution("conv4_4_CPM", blob, 128, 3, "PReLU")
    limbs = _dense_stage(net, "stage0_L2", features, 96, 256, 52)
    for stage in range(1, 4):
        blob = net.concat(f"concat_stage{stage}_L2", (features, limbs))
        limbs = _dense_stage(net, f"stage{stage}_L2", blob, 128, 512, 52)
    blob = net.concat("concat_stage0_L1", (features, limbs))
    parts = _dense_stage(net, "stage0_L1", blob, 96, 256, 26)
    blob = net.concat("concat_stage1_L1", (features, parts, limbs))
    parts = _dense_stage(net, "stage1_L1", blob, 128, 512, 26)
    net.concat("net_output", (parts, limbs))
    return net.layers


def _hand_activation(name: str) -> str:
    """Name hand's activations as the original does; Mrelu1_3_stage2_2 follows Mconv2_stage2."""
    match name:
        case "conv5_3_CPM":
            return "relu5_4_stage1_3"
        case "conv6_1_CPM":
            return "relu6_4_stage1_1"
    if not name.startswith("M"):
        return name.replace("conv", "relu", 1)
    index, stage = name.removeprefix("Mconv").split("_", 1)
    return f"Mrelu1_{int(index) + 1}_{stage}_{index}"


def _one_branch(net: _Network, maps: int, concat_name: str) -> list[Layer]:
    """Hand and face: heatmaps only, on the whole convolutional part of VGG-19, in six stages."""
    blob = net.vgg_front()
    for name in ("conv4_2", "conv4_3", "conv4_4", "conv5_1", "conv5_2"):
        blob = net.convolution(name, blob, 512, 3, "ReLU")
    features = net.convolution("conv5_3_CPM", blob, 128, 3, "ReLU")
    blob = net.convolution("conv6_1_CPM", features, 512, 1, "ReLU")
    blob = net.convolution("conv6_2_CPM", blob, maps, 1)
    for stage in range(2, 7):
        blob = net.concat(f"{concat_name}{stage}", (blob, features))
        for index in range(1, 7):
            kernel = 7 if index < 6 else 1
            blob = net.convolution(f"Mconv{index}_stage{stage}", blob, 128, kernel, "ReLU")
        top = "net_output" if stage == 6 else ""
        blob = net.convolution(f"Mconv7_stage{stage}", blob, maps, 1, top=top)
    return net.layers


def _hand() -> list[Layer]:
    return _one_branch(_Network(_hand_activation), maps=22, concat_name="concat_stage")


def _face() -> list[Layer]:
    net = _Network(lambda name: f"{name}_re", lambda index: f"pool{index}")
    return _one_branch(net, maps=71, concat_name="features_in_stage_")


_TOPOLOGIES: dict[str, Callable[[], list[Layer]]] = {
    "coco": lambda: _two_branches(part_maps=19, limb_maps=38, stages=6),
    "body_25": _body_25,
    "mpi": lambda: _two_branches(part_maps=16, limb_maps=28, stages=6),
    "mpi_4_stages": lambda: _two_branches(part_maps=16, limb_maps=28, stages=4),
    "hand": _hand,
    "face": _face,
}
NAMES = tuple(_TOPOLOGIES)


def layers(name: str) -> list[Layer]:
    """List the layers of a topology in the order of execution.

    Raises:
        ValueError: the name is none of NAMES.
    """
    if name not in _TOPOLOGIES:
        raise ValueError(f"no topology is called {name!r}: choose one of {', '.join(NAMES)}")
    return _TOPOLOGIES[name]()


def prototxt(name: str, height: int, width: int) -> str:
    """Write the deploy prototxt of a topology for one 3 x height x width image called "image".

    The output blob is "net_output", at an eighth of the size: the heatmaps (the background last), then the
    part affinity fields; hand and face have heatmaps only.

    Raises:
        ValueError: the name is none of NAMES.
    """
    return prototxt_of(f"OpenPose {name}", layers(name), height, width)


def prototxt_of(title: str, layers: list[Layer], height: int, width: int) -> str:
    """Write the deploy prototxt of any list of layers, for one 3 x height x width image called "image"."""
    head = [f'name: "{title}"', 'input: "image"']
    head += [f"input_dim: {size}" for size in (1, 3, height, width)]
    return "\n".join(head + [line for layer in layers for line in _layer_text(layer)]) + "\n"


def _layer_text(layer: Layer) -> Iterator[str]:
    yield "layer {"
    yield f'  name: "{layer.name}"'
    yield f'  type: "{layer.type}"'
    for bottom in layer.bottoms:
        yield f'  bottom: "{bottom}"'
    yield f'  top: "{layer.top}"'
    match layer.type:
        case "Convolution":
            sizes = f"num_output: {layer.outputs} pad: {layer.padding} kernel_size: {layer.kernel}"
            sizes += f" stride: {layer.stride}" if layer.stride > 1 else ""
            sizes += f" dilation: {layer.dilation}" if layer.dilation > 1 else ""
            yield f"  convolution_param {{ {sizes} }}"
        case "Pooling":
            yield "  pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
        case "Concat":
            yield "  concat_param { axis: 1 }"
        case "Eltwise":
            yield "  eltwise_param { operation: SUM }"
    yield "}"


def weight_nbytes(name: str) -> int:
    """Count the bytes of a topology's float32 parameters."""
    total = 0
    for layer in layers(name):
        for shape in layer.parameter_shapes:
            size = 1
            for extent in shape:
                size *= extent
            total += size * FLOAT32_BYTES
    return total


def flop(name: str, height: int, width: int) -> int:
    """Count the floating-point operations of the convolutions on one image, a multiply-add as two."""
    return sum(
        2 * layer.outputs * layer.inputs * layer.kernel**2 * (height // layer.scale) * (width // layer.scale)
        for layer in layers(name)
        if layer.type == "Convolution"
    )
