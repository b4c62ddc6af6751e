"""A plain pycaffe program, as one would write it for BVLC's Caffe: surgery on a net, a loop, a mean file, an error.

It computes everything a second time in numpy and prints what differs, so that its output says whether it ran well.
"""

import tempfile
from pathlib import Path

import caffe
import numpy as np
from caffe.proto import caffe_pb2

NET = """name: "program"
input: "data"
input_shape { dim: 2 dim: 3 dim: 6 dim: 6 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 6 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "prob" type: "Softmax" bottom: "conv" top: "prob" }
"""


def expected(net: caffe.Net, data: np.ndarray) -> np.ndarray:
    weights, bias = (blob.data for blob in net.params["conv"])
    scores = np.maximum(np.tensordot(data, weights, ((1, 2, 3), (1, 2, 3))) + bias, 0)
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True))[:, :, None, None]


def mean_image(folder: Path) -> np.ndarray:
    path = folder / "mean.binaryproto"
    path.write_bytes(caffe.io.array_to_blobproto(np.full((1, 3, 6, 6), 0.5)).SerializeToString())
    blob = caffe_pb2.BlobProto()
    blob.ParseFromString(path.read_bytes())
    return caffe.io.blobproto_to_array(blob)[0]


def worst_difference(net: caffe.Net, mean: np.ndarray, stream: np.random.RandomState) -> float:
    transformer = caffe.io.Transformer({"data": net.blobs["data"].data.shape})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_mean("data", mean)
    worst = 0.0
    for frame in range(5):
        net.params["conv"][1].data[...] = frame
        images = stream.uniform(size=(2, 6, 6, 3)).astype(np.float32)
        net.blobs["data"].data[...] = [transformer.preprocess("data", image.copy()) for image in images]
        output = net.forward()
        wanted = expected(net, (images - 0.5).transpose(0, 3, 1, 2))
        worst = max(worst, float(np.abs(output["prob"] - wanted).max()))
    return worst


def main(folder: Path) -> None:
    caffe.set_mode_gpu()
    caffe.set_device(0)
    prototxt = folder / "net.prototxt"
    prototxt.write_text(NET)
    net = caffe.Net(str(prototxt), caffe.TEST)
    print(net.inputs, net.outputs, [(name, tuple(blob.shape)) for name, blob in net.blobs.items()])

    stream = np.random.RandomState(0)
    worst = worst_difference(net, mean_image(folder), stream)
    print("worst difference below 1e-6:", worst < 1e-6)

    many = stream.uniform(size=(5, 3, 6, 6))
    print("forward_all:", np.allclose(net.forward_all(data=many)["prob"], expected(net, many), atol=1e-6))
    try:
        net.forward(image=many)
    except Exception as exc:
        print(f"{type(exc).__name__}: {exc}")


with tempfile.TemporaryDirectory() as name:
    main(Path(name))
