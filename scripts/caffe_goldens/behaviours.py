"""What pycaffe itself does beside running layers: image helpers, Classifier, batching, partial runs, exceptions.

Runs inside the unpacked Debian 11, called by generate.py. Each observation is written with all that was given, so
that a test repeats it on another implementation.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import skimage.io
import skimage.transform
from nets import Group, caffe, caffe_pb2, fill, input_values, np

CLASSIFIER = """name: "small classifier"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 10 dim: 12 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 5 kernel_size: 3 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 7 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
SQUARE = CLASSIFIER.replace("dim: 12", "dim: 10")
BRANCHES = """layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "a" top: "fc1" inner_product_param { num_output: 4 } }
layer { name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "tanh" type: "TanH" bottom: "fc1" top: "tanh" }
layer { name: "sum" type: "Eltwise" bottom: "fc1" bottom: "tanh" top: "sum" }
layer { name: "fc2" type: "InnerProduct" bottom: "sum" top: "out" inner_product_param { num_output: 3 } }
"""
DEPLOY = """input: "data" input_shape { dim: 1 dim: 2 dim: 8 dim: 9 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 3 stride: 2 } }
"""


class Recorder(Group):
    """The observations of one .npz file, each a name, settings and named arrays."""

    def add(self, name: str, settings: dict | None = None, **arrays: np.ndarray | bytes) -> None:
        places = {key: self.place(value) for key, value in arrays.items()}
        self.descriptions.append({"name": name, "settings": settings or {}, "arrays": places})


def write(folder: Path) -> None:
    record = Recorder()
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # so that file names in exceptions are bare
        for observe in (_resizes, _transformers, _oversamples, _messages, _images, _classifiers, _detectors, _runs,
                        _shapes, _errors):  # fmt: skip
            observe(record)
        os.chdir(before)
    record.save(folder / "pycaffe.npz")


def _picture(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """A picture in [0, 1] with both smooth and sharp parts."""
    stream = np.random.RandomState(seed)
    rows, columns = np.indices(shape[:2])
    smooth = 0.5 + 0.4 * np.sin(rows[..., None] / 3.0 + columns[..., None] / 5.0 + np.arange(shape[2]))
    return np.clip(smooth + 0.1 * stream.standard_normal(shape), 0, 1).astype(np.float32)


def _resizes(record: Recorder) -> None:
    cases = {
        "down": ((20, 30, 3), (10, 12), 1),
        "down_a_little": ((20, 30, 3), (18, 25), 1),
        "up": ((6, 7, 3), (13, 20), 1),
        "up_and_down": ((6, 20, 3), (13, 9), 1),
        "same": ((6, 7, 3), (6, 7), 1),
        "grey": ((20, 30, 1), (9, 11), 1),
        "nearest": ((6, 7, 3), (13, 20), 0),
        "cubic_up": ((6, 7, 3), (13, 20), 3),
        "two_channels": ((9, 8, 2), (5, 12), 1),
        "four_channels_up": ((6, 7, 4), (12, 21), 1),
    }
    for place, (name, (shape, dims, order)) in enumerate(cases.items()):
        image = _picture(3000 + place, shape) * 200 - 50
        result = caffe.io.resize_image(image, dims, interp_order=order)
        record.add(f"resize_image/{name}", {"new_dims": dims, "interp_order": order}, image=image, result=result)
        if shape[2] in (1, 3):
            record.add(
                f"resize_image_without_anti_aliasing/{name}",
                {"new_dims": dims, "interp_order": order},
                image=image,
                result=_resized_as_of_old(image, dims, order),
            )
    flat = np.full((5, 6, 3), 0.25, dtype=np.float32)
    record.add("resize_image/constant", {"new_dims": (3, 9), "interp_order": 1}, image=flat,
               result=caffe.io.resize_image(flat, (3, 9)))  # fmt: skip


def _resized_as_of_old(image: np.ndarray, dims: tuple[int, int], order: int) -> np.ndarray:
    """caffe.io.resize_image on a scikit-image before 0.15, which smoothed nothing when making smaller."""
    low, high = image.min(), image.max()
    unit = (image - low) / (high - low)
    resized = skimage.transform.resize(unit, dims, order=order, mode="constant", anti_aliasing=False)
    return (resized * (high - low) + low).astype(np.float32)


def _transformer(shape: tuple[int, ...], settings: dict, mean: np.ndarray | None) -> caffe.io.Transformer:
    transformer = caffe.io.Transformer({"data": shape})
    for name in ("transpose", "channel_swap", "raw_scale", "input_scale"):
        if name in settings:
            getattr(transformer, f"set_{name}")("data", settings[name])
    if mean is not None:
        transformer.set_mean("data", mean)
    return transformer


def _transformers(record: Recorder) -> None:
    caffenet = {"transpose": (2, 0, 1), "channel_swap": (2, 1, 0), "raw_scale": 255.0}
    means = np.random.RandomState(3100)
    cases = {
        "nothing": ((1, 3, 5, 6), (5, 6, 3), {}, None),
        "transpose": ((1, 3, 5, 6), (5, 6, 3), {"transpose": (2, 0, 1)}, None),
        "caffenet": ((1, 3, 5, 6), (5, 6, 3), caffenet, np.array([104.0, 117.0, 123.0])),
        "input_scale": ((1, 3, 5, 6), (5, 6, 3), {**caffenet, "input_scale": 0.017}, np.array([1.0, 2.0, 3.0])),
        "mean_image": ((1, 3, 5, 6), (5, 6, 3), caffenet, means.uniform(90, 130, (3, 5, 6))),
        "mean_image_resized": ((1, 3, 6, 6), (6, 6, 3), caffenet, means.uniform(90, 130, (3, 9, 9))),
        "grey": ((1, 1, 5, 6), (5, 6, 1), {"transpose": (2, 0, 1), "raw_scale": 255.0}, np.array([100.0])),
        "resized": ((1, 3, 5, 6), (11, 13, 3), caffenet, np.array([104.0, 117.0, 123.0])),
        "enlarged": ((1, 3, 12, 13), (5, 6, 3), caffenet, np.array([104.0, 117.0, 123.0])),
    }
    for place, (name, (shape, image_shape, settings, mean)) in enumerate(cases.items()):
        image = _picture(3110 + place, image_shape)
        transformer = _transformer(shape, settings, mean)
        given = image.copy()
        result = transformer.preprocess("data", image)
        arrays = {"image": given, "result": result, "image_after": image}
        if "transpose" in settings and shape[1] > 1:  # real pycaffe raises on one channel with a mean
            arrays["deprocessed"] = transformer.deprocess("data", result[np.newaxis])
        if mean is not None:
            arrays["mean"] = mean
            arrays["mean_kept"] = transformer.mean["data"]
        record.add(f"Transformer/{name}", {"shape": shape, **settings}, **arrays)


def _oversamples(record: Recorder) -> None:
    for name, shape, crop in (("plain", (8, 9, 3), (5, 6)), ("odd", (7, 7, 1), (4, 4)), ("whole", (5, 5, 2), (5, 5))):
        images = [_picture(3200 + number, shape) for number in range(2)]
        record.add(f"oversample/{name}", {"crop_dims": crop}, images=np.array(images),
                   result=caffe.io.oversample(images, crop))  # fmt: skip


def _messages(record: Recorder) -> None:
    """Means and datums as files hold them."""
    array = np.random.RandomState(3300).standard_normal((1, 3, 4, 5)).astype(np.float32)
    new = caffe.io.array_to_blobproto(array, diff=2 * array)
    data, diff = caffe.io.blobproto_to_array(new), caffe.io.blobproto_to_array(new, return_diff=True)
    record.add("blobproto/new", {}, array=array, encoded=new.SerializeToString(), data=data, diff=diff)
    mean = caffe_pb2.BlobProto(num=1, channels=3, height=4, width=5)
    mean.data.extend(array.ravel().tolist())
    record.add("blobproto/mean_file", {}, encoded=mean.SerializeToString(), data=caffe.io.blobproto_to_array(mean))
    two = [array, array[0, 0]]
    vector = caffe.io.arraylist_to_blobprotovector_str(two)
    back = caffe.io.blobprotovector_str_to_arraylist(vector)
    record.add("blobprotovector", {}, first=two[0], second=two[1], encoded=vector, back_first=back[0],
               back_second=back[1])  # fmt: skip
    pixels = np.random.RandomState(3301).randint(0, 256, (3, 4, 5)).astype(np.uint8)
    for name, value, label in (("uint8", pixels, 7), ("float", array[0], None)):
        datum = caffe.io.array_to_datum(value, label)
        record.add(f"datum/{name}", {"label": label}, array=value, encoded=datum.SerializeToString(),
                   data=caffe.io.datum_to_array(datum))  # fmt: skip


def _imread_of_old(filename: str, as_grey: bool = False) -> np.ndarray:
    """scikit-image's imread under the keyword that pycaffe knows; 0.16 spelled it as_gray."""
    return _imread(filename, as_gray=as_grey)


_imread = skimage.io.imread
caffe.io.skimage.io.imread = _imread_of_old


def _images(record: Recorder) -> None:
    pixels = np.random.RandomState(3400).randint(0, 256, (6, 5, 4)).astype(np.uint8)
    for name, picture in (("colour", pixels[..., :3]), ("alpha", pixels), ("grey", pixels[..., 0])):
        skimage.io.imsave(f"{name}.png", picture, check_contrast=False)
        encoded = Path(f"{name}.png").read_bytes()
        for color in (True, False):
            if color or name != "alpha":  # what becomes of alpha there depends on scikit-image's version
                record.add(f"load_image/{name}{'' if color else '_as_grey'}", {"color": color}, encoded=encoded,
                           pixels=picture, result=caffe.io.load_image(f"{name}.png", color=color))  # fmt: skip


def _filled(prototxt: str, seed: int) -> tuple[caffe.Net, bytes]:
    Path("net.prototxt").write_text(prototxt)
    net = caffe.Net("net.prototxt", caffe.TEST)
    fill(net, seed)
    net.save("net.caffemodel")
    return net, Path("net.caffemodel").read_bytes()


def _classifiers(record: Recorder) -> None:
    _, weights = _filled(CLASSIFIER, 3500)
    images = [_picture(3510 + number, (20, 24, 3)) for number in range(3)]
    cases = {
        "oversampled": ({"image_dims": (14, 16), "raw_scale": 255.0, "channel_swap": (2, 1, 0)}, True),
        "centre": ({"image_dims": (14, 16), "raw_scale": 255.0, "channel_swap": (2, 1, 0)}, False),
        "whole_frame": ({}, False),
        "input_scale": ({"image_dims": (13, 15), "input_scale": 0.5}, True),
    }
    for name, (settings, oversample) in cases.items():
        for mean in (None, np.array([104.0, 117.0, 123.0])):
            classifier = caffe.Classifier("net.prototxt", "net.caffemodel", mean=mean, **settings)
            result = classifier.predict(images, oversample=oversample)
            arrays = {} if mean is None else {"mean": mean}
            record.add(
                f"Classifier/{name}{'' if mean is None else '_with_mean'}",
                {"prototxt": CLASSIFIER, "oversample": oversample, "constructor": settings},
                weights=weights, images=np.array(images), result=result, **arrays,
            )  # fmt: skip


def _detectors(record: Recorder) -> None:
    _, weights = _filled(SQUARE, 3600)
    picture = (_picture(3610, (24, 30, 3)) * 255).astype(np.uint8)
    skimage.io.imsave("scene.png", picture, check_contrast=False)
    windows = np.array([[0, 0, 10, 12], [5, 6, 20, 25], [3, 3, 13, 13]])
    settings = {"raw_scale": 255.0, "channel_swap": (2, 1, 0)}
    mean = np.array([104.0, 117.0, 123.0])
    detector = caffe.Detector("net.prototxt", "net.caffemodel", mean=mean, **settings)
    found = detector.detect_windows([("scene.png", windows)])
    record.add(
        "Detector/windows", {"prototxt": SQUARE, "constructor": settings}, weights=weights, mean=mean, windows=windows,
        encoded=Path("scene.png").read_bytes(), result=np.array([each["prediction"] for each in found]),
    )  # fmt: skip


def _runs(record: Recorder) -> None:
    """forward's answers and its partial forms, forward_all with a last batch that is not full."""
    net, weights = _filled(BRANCHES, 3700)
    given = input_values(3701, [(2, 3)])[0]
    outputs = net.forward(a=given)
    record.add("forward/outputs", {"prototxt": BRANCHES, "keys": sorted(outputs)}, weights=weights, a=given, **outputs)
    extra = net.forward(blobs=["fc1", "tanh"], a=given)
    record.add("forward/blobs", {"prototxt": BRANCHES, "keys": sorted(extra)}, weights=weights, a=given, **extra)
    until = net.forward(end="tanh", a=2 * given)
    record.add("forward/end", {"prototxt": BRANCHES, "end": "tanh", "keys": sorted(until)}, weights=weights,
               a=2 * given, **until, out_left_as_it_was=net.blobs["out"].data)  # fmt: skip
    changed = input_values(3702, [(2, 4)])[0]
    net.blobs["sum"].data[...] = changed
    start = net.forward(start="fc2")
    record.add("forward/start", {"prototxt": BRANCHES, "start": "fc2", "keys": sorted(start)}, weights=weights,
               sum=changed, **start)  # fmt: skip
    net.forward(a=given)
    net.blobs["fc1"].data[...] = np.arange(8).reshape(2, 4) - 3
    middle = net.forward(start="relu1", end="tanh")
    record.add("forward/start_and_end", {"prototxt": BRANCHES, "start": "relu1", "end": "tanh", "keys": sorted(middle)},
               weights=weights, a=given, fc1=np.arange(8, dtype=np.float32).reshape(2, 4) - 3, **middle)  # fmt: skip
    many = input_values(3703, [(5, 3)])[0]
    every = net.forward_all(a=many, blobs=["tanh"])
    record.add("forward_all", {"prototxt": BRANCHES, "blobs": ["tanh"], "keys": sorted(every)}, weights=weights, a=many,
               **every)  # fmt: skip
    net.params["fc1"][0].data[...] *= 2
    net.params["fc2"][1].data[0] = 9
    record.add("forward/changed_parameters", {"prototxt": BRANCHES}, weights=weights, a=given,
               **{f"after_{key}": value for key, value in net.forward(a=given).items()})  # fmt: skip


def _shapes(record: Recorder) -> None:
    """When a blob's new shape is seen, by the blob and by those below it."""
    net, weights = _filled(DEPLOY, 3800)
    seen = {"at_first": _all_shapes(net)}
    held = net.blobs["data"].data
    net.blobs["data"].reshape(2, 2, 6, 12)
    seen["after_blob_reshape"] = _all_shapes(net)
    seen["view_held_since_before"] = {"data": list(held.shape)}
    net.reshape()
    seen["after_net_reshape"] = _all_shapes(net)
    net.blobs["data"].reshape(1, 2, 5, 5)
    value = input_values(3801, [(1, 2, 5, 5)])[0]
    net.blobs["data"].data[...] = value
    result = net.forward()["pool"].copy()
    seen["after_forward"] = _all_shapes(net)
    blob = net.blobs["data"]
    seen["accessors"] = {"data": [blob.num, blob.channels, blob.height, blob.width, blob.count]}
    record.add("shapes", {"prototxt": DEPLOY, "seen": seen, "reshapes": [[2, 2, 6, 12], [1, 2, 5, 5]]}, weights=weights,
               data=value, pool=result)  # fmt: skip


def _all_shapes(net: caffe.Net) -> dict:
    return {name: list(blob.shape) for name, blob in net.blobs.items()}


def _errors(record: Recorder) -> None:
    net, weights = _filled(BRANCHES, 3900)
    frame = np.zeros((2, 3), dtype=np.float32)
    transformer = caffe.io.Transformer({"data": (1, 3, 5, 6)})

    def set_data() -> None:
        net.blobs["a"].data = frame

    attempts: dict[str, Callable[[], object]] = {
        "net_file_missing": lambda: caffe.Net("absent.prototxt", caffe.TEST),
        "weights_file_missing": lambda: caffe.Net("net.prototxt", "absent.caffemodel", caffe.TEST),
        "weights_keyword_missing": lambda: caffe.Net("net.prototxt", caffe.TEST, weights="absent.caffemodel"),
        "net_without_phase": lambda: caffe.Net("net.prototxt"),
        "net_without_arguments": lambda: caffe.Net(),
        "input_of_wrong_name": lambda: net.forward(data=frame),
        "input_beside_another": lambda: net.forward(a=frame, b=frame),
        "input_of_wrong_batch": lambda: net.forward(a=frame[:1]),
        "input_of_wrong_shape": lambda: net.forward(a=np.zeros((2, 5), dtype=np.float32)),
        "start_unknown": lambda: net.forward(start="absent"),
        "end_unknown": lambda: net.forward(end="absent"),
        "blob_unknown": lambda: net.blobs["absent"],
        "blob_wanted_unknown": lambda: net.forward(blobs=["absent"]),
        "parameter_unknown": lambda: net.params["absent"],
        "data_assigned": set_data,
        "data_of_wrong_shape": lambda: net.blobs["a"].data.__setitem__(Ellipsis, np.zeros((3, 3))),
        "reshape_by_words": lambda: net.blobs["a"].reshape("two", 3),
        "reshape_keyword": lambda: net.blobs["a"].reshape(2, dims=3),
        "layer_out_of_range": lambda: net.layers[99],
        "transformer_unknown_input": lambda: transformer.set_raw_scale("image", 255),
        "transformer_preprocess_unknown_input": lambda: transformer.preprocess("image", frame),
        "transformer_transpose": lambda: transformer.set_transpose("data", (1, 0)),
        "transformer_channel_swap": lambda: transformer.set_channel_swap("data", (1, 0)),
        "transformer_mean_channels": lambda: transformer.set_mean("data", np.zeros(4)),
        "transformer_mean_shape": lambda: transformer.set_mean("data", np.zeros((1, 3, 5, 6))),
        "datum_of_wrong_rank": lambda: caffe.io.array_to_datum(frame),
    }  # fmt: skip
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:  # every kind is what is being observed
            kinds = [kind.__name__ for kind in type(error).__mro__[:-2]]
            record.add(f"error/{name}", {"prototxt": BRANCHES, "type": kinds[0], "kinds": kinds, "text": str(error)},
                       weights=weights)  # fmt: skip
        else:
            raise SystemExit(f"behaviours.py: pycaffe accepts {name}")
