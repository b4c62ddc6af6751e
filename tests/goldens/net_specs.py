"""Nets written with NetSpec, and questions to coord_map: asked of real Caffe for the goldens, and of AVEC's in tests.

Each function takes the module `caffe`. Runs on Python 3.9 beside real Caffe too, so it imports nothing.
"""


def named(caffe):
    """Names from assignment; several tops; parameters that belong to the layer; in place; no top."""
    L, P = caffe.layers, caffe.params
    n = caffe.NetSpec()
    n.data, n.label = L.DummyData(
        shape=[dict(dim=[4, 3, 9, 9]), dict(dim=[4])],
        data_filler=[dict(type="gaussian", std=0.01), dict(value=1)],
        ntop=2,
    )
    n.conv = L.Convolution(
        n.data,
        num_output=6,
        kernel_size=[3, 5],
        pad=1,
        stride=2,
        bias_term=False,
        param=[dict(lr_mult=1, decay_mult=0.5), dict(lr_mult=2, decay_mult=0)],
        weight_filler=dict(type="msra", variance_norm=P.Filler.AVERAGE),
        engine=P.Convolution.CAFFE,
    )
    n.relu = L.ReLU(n.conv, in_place=True, negative_slope=0.1)
    n["pool"] = L.Pooling(n.relu, pool=P.Pooling.AVE, global_pooling=True)
    n.fc = L.InnerProduct(n.pool, num_output=5, name="another_name", include=dict(phase=caffe.TRAIN, stage=["a", "b"]))
    n.loss = L.SoftmaxWithLoss(
        n.fc, n.label, loss_weight=0.25, loss_param=dict(ignore_label=3), propagate_down=[True, False]
    )
    n.quiet = L.Silence(n.label, ntop=0)
    return n.to_proto()


def anonymous(caffe):
    """Names from types, by number; tops that are shared; a top asked for twice."""
    L = caffe.layers
    data = L.Input(shape=dict(dim=[1, 2, 8, 8]))
    left = L.ReLU(L.Convolution(data, num_output=2, kernel_size=1), in_place=True)
    right = L.Convolution(data, num_output=2, kernel_size=1)
    both = L.Eltwise(left, right, coeff=[0.5, 1.5])
    first, second = L.Slice(L.Concat(both, right, axis=1), ntop=2, slice_point=1)
    return caffe.to_proto(first, both, L.Softmax(second), both)


def of_one_top(caffe):
    """Only what the top needs."""
    L = caffe.layers
    data = L.Input(shape=dict(dim=[1, 4]))
    L.ReLU(data)
    return L.TanH(L.Power(data, power=2, scale=-1.5, shift=1e-3)).to_proto()


def half_named(caffe):
    """A NetSpec whose layers read tops without a name; a name that is given twice; one top under two names."""
    L = caffe.layers
    n = caffe.NetSpec()
    hidden = L.InnerProduct(L.Input(shape=dict(dim=[1, 4])), num_output=3)
    n.x = L.Sigmoid(hidden)
    n.x = L.TanH(hidden)
    n.y = n.x
    n.z = L.Scale(n.y, bias_term=True, scale_param=dict(axis=-1))
    return n.to_proto()


def generic_parameters(caffe):
    """Parameters as whole messages, and those that have another name than their layer's type."""
    L, P = caffe.layers, caffe.params
    n = caffe.NetSpec()
    n.data, n.label = L.Data(
        source="a/b",
        backend=P.Data.LMDB,
        batch_size=8,
        ntop=2,
        transform_param=dict(mirror=True, crop_size=5, mean_value=[104.0, 117, 123], scale=1.0 / 255),
    )
    n.up = L.Deconvolution(n.data, convolution_param=dict(num_output=2, kernel_size=[4], stride=[2], group=2))
    n.norm = L.LRN(n.up, local_size=3, alpha=1e-4, beta=0.75, norm_region=P.LRN.WITHIN_CHANNEL)
    n.own = L.Python(n.norm, python_param=dict(module="m", layer="Own", param_str="{'a': 1}"), ntop=1)
    n.accuracy = L.Accuracy(n.own, n.label, top_k=5, accuracy_param=dict(axis=1))
    return n.to_proto()


SPECS = {each.__name__: each for each in (named, anonymous, of_one_top, half_named, generic_parameters)}


def _tower(caffe, kernel=3, stride=1, pad=0, pool=2, up=2, up_pad=0, **conv):
    L, P = caffe.layers, caffe.params
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 1, 100, 100]))
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=kernel, stride=stride, pad=pad, **conv)
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=pool, stride=pool, pad=0)
    n.relu = L.ReLU(n.pool, in_place=True)
    n.up = L.Deconvolution(n.relu, num_output=10, kernel_size=2 * up, stride=up, pad=up_pad)
    return n


TOWERS = [
    {},
    {"pool": 4, "up": 4},
    {"pad": 7},
    {"up_pad": 3},
    {"kernel": 5, "stride": 2, "pad": 10},
    {"kernel": [3, 5], "stride": [1, 2], "pad": [0, 10]},
    {"kernel": 3, "dilation": 4},
    {"kernel": 11, "stride": 4, "pool": 3, "up": 12},
]


def coordinate_maps(caffe):
    """[axis, scale, shift] from the last layer to the first and back, of each tower; scale and shift for each axis."""
    from caffe.coord_map import coord_map_from_to

    found = []
    for tower in TOWERS:
        n = _tower(caffe, **tower)
        for one, other in ((n.up, n.data), (n.data, n.up), (n.conv, n.up), (n.pool, n.conv)):
            axis, scale, shift = coord_map_from_to(one, other)
            found.append([axis, [float(each) for each in scale], [float(each) for each in shift]])
    return found


def crops(caffe):
    """The Crop layers that align the last layer of each tower with its first; what crop refuses, as its words."""
    from caffe.coord_map import crop

    found = []
    for tower in TOWERS:
        n = _tower(caffe, **tower)
        try:
            n.crop = crop(n.up, n.data)
            found.append(
                {
                    name: list(map(int, value)) if name == "offset" else int(value)
                    for name, value in n.crop.fn.params["crop_param"].items()
                }
            )
        except AssertionError as exc:
            found.append(str(exc).split(" (")[0])
    return found
