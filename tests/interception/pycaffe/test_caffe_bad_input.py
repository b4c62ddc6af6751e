"""Whatever is wrong with a file, a program gets one line that names the file, the place in it and the remedy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from avec.errors import InvalidArgument, InvalidData, UnsupportedOperation
from goldens.data_goldens import FILES
from interception.pycaffe.bad_input import (
    FC,
    INPUT,
    SOLVER,
    TRAINED,
    Bad,
    data,
    hdf5_weights,
    layer,
    listed,
    net,
    prepared,
    restored,
    saved,
    solver,
    weights,
    write,
)

N = "net.prototxt"
S = "solver.prototxt"
AGAIN = "copy it again and compare its size"

PROTOTXT = {
    "missing": Bad(
        lambda caffe: caffe.Net("none.prototxt", caffe.TEST), "Could not open file ", "none.prototxt", RuntimeError
    ),
    "folder": Bad(lambda caffe: caffe.Net("images", caffe.TEST), "Could not open file ", "images", RuntimeError),
    "empty": Bad(net(""), f"{N}: the net has no layers", "phase, level and stages"),
    "binary": Bad(net(b"\xff\xfe\x00"), f"{N}: byte 0 is not UTF-8", "this is not prototxt"),
    "open_brace": Bad(net(INPUT + "layer {"), f"{N}:2:8: at the end: ", "began in line 2; close it with '}'"),
    "open_string": Bad(net(INPUT + 'layer { name: "a\n}'), f"{N}:2:15: ", "close its quote"),
    "unknown_field": Bad(
        layer('typ: "ReLU"'), f"{N}:2:9: at 'typ': LayerParameter has no field 'typ'", "did you mean 'type'?"
    ),
    "word_for_a_number": Bad(net(INPUT + FC.replace("4", "four")), f"{N}:2:97: at 'four': ", "correct the line"),
    "negative": Bad(net(INPUT + FC.replace("4", "-4")), f"{N}:2:97: at '-4': ", "0 to 4294967295; correct the line"),
    "given_twice": Bad(
        layer('name: "a" name: "b"'), f"{N}:2:19: at 'name': LayerParameter.name is given twice", "keep one"
    ),
    "unknown_word": Bad(
        layer('name: "p" type: "Pooling" pooling_param { pool: MEDIAN }'),
        f"{N}:2:57: at 'MEDIAN': ",
        "MAX, AVE, STOCHASTIC",
    ),
    "old_and_new": Bad(net(INPUT + 'layers { name: "a" type: RELU }'), f"{N}: the net has both", "remove 'layers'"),
    "of_2013": Bad(net('layers { layer { name: "a" } }'), f"{N}: this is a V0 net", "convert it", UnsupportedOperation),
    "inputs_without_shapes": Bad(net('input: "x" input_dim: 1'), f"{N}: 1 inputs but shapes for 0", "give each input"),
    "unknown_type": Bad(
        layer('name: "a" type: "ReLu" bottom: "x" top: "y"'),
        f"{N}: unsupported layer types: ReLu (layer 'a')",
        "supported are AbsVal, ",
        UnsupportedOperation,
    ),
    "unknown_bottom": Bad(
        layer('name: "a" type: "ReLU" bottom: "z" top: "y"'),
        f"{N}: layer 'a' reads blob 'z' (bottom 0)",
        "correct the name",
    ),
    "top_twice": Bad(
        layer('name: "a" type: "ReLU" top: "x" bottom: "x" top: "x"'), f"{N}: layer 'a' (ReLU) has 2 tops", "1"
    ),
    "produced_twice": Bad(
        net(
            f'{INPUT}layer {{ name: "a" type: "ReLU" bottom: "x" top: "y" }}\n'
            'layer { name: "b" type: "TanH" bottom: "x" top: "y" }'
        ),
        f"{N}: blob 'y' is produced twice, again by layer 'b'",
        "give that top another name",
    ),
    "too_few_bottoms": Bad(
        layer('name: "e" type: "Eltwise" bottom: "x" top: "y"'), f"{N}: layer 'e' (Eltwise) has 1 bottoms", "2 or more"
    ),
    "no_kernel": Bad(
        layer('name: "c" type: "Convolution" bottom: "x" top: "y" convolution_param { num_output: 2 }'),
        f"{N}: layer 'c' (Convolution): kernel_size is given 0 times",
        "is allowed",
    ),
    "kernel_too_large": Bad(
        layer('name: "c" type: "Convolution" bottom: "x" top: "y" convolution_param { num_output: 2 kernel_size: 11 }'),
        f"{N}: layer 'c' (Convolution): kernel (11, 11) with pad (0, 0)",
        "a bottom of shape (2, 3, 8, 8)",
    ),
    "shapes_differ": Bad(
        net(f'{INPUT}{FC}layer {{ name: "e" type: "Eltwise" bottom: "x" bottom: "fc" top: "y" }}'),
        f"{N}: layer 'e' (Eltwise): bottoms differ in shape",
        "(2, 3, 8, 8) and (2, 4)",
    ),
    "reshape": Bad(
        layer('name: "r" type: "Reshape" bottom: "x" top: "y" reshape_param { shape { dim: 7 dim: -1 } }'),
        f"{N}: layer 'r' (Reshape): shape [7, -1]",
        "a bottom of shape (2, 3, 8, 8)",
    ),
    "slice": Bad(
        layer('name: "s" type: "Slice" bottom: "x" top: "a" top: "b" slice_param { slice_point: 9 }'),
        f"{N}: layer 's' (Slice): slice points [9]",
        "must rise within 0 to 3",
    ),
    "filler": Bad(
        net(INPUT + FC.replace("4", '4 weight_filler { type: "magic" }')),
        f"{N}: layer 'fc' (InnerProduct): filler 'magic'",
        "known are constant, ",
    ),
    "shared_parameter": Bad(
        net(
            INPUT
            + FC.replace('"fc" type', '"fc" param { name: "w" } type')
            + 'layer { name: "f2" type: "InnerProduct" bottom: "x" top: "f2" param { name: "w" } '
            "inner_product_param { num_output: 5 } }"
        ),
        f"{N}: layer 'f2' (InnerProduct): it shares parameter 'w' with layer 'fc'",
        "(5, 192) where that has (4, 192)",
    ),
    "loss_weights": Bad(
        layer('name: "a" type: "ReLU" bottom: "x" top: "y" loss_weight: 1 loss_weight: 2'),
        f"{N}: layer 'a' (ReLU): 2 loss weights for 1 tops",
        "give one for each",
    ),
    "huge": Bad(
        net('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2000000000 dim: 2000000000 } } }'),
        f"{N}: blob 0 of shape (2000000000, 2000000000)",
        "the limit is 2147483647",
    ),
    "python_without_module": Bad(
        layer('name: "p" type: "Python" bottom: "x" top: "y"'),
        "net.prototxt: layer 'p' (Python): python_param",
        "needs a module and a layer",
    ),
}

WEIGHTS = {
    "missing": Bad(
        prepared(lambda: write(N, INPUT + FC), lambda caffe: caffe.Net(N, "none.caffemodel", caffe.TEST)),
        "Could not open file ",
        "none.caffemodel",
        RuntimeError,
    ),
    "empty": Bad(weights(b""), "w.caffemodel: the caffemodel is empty", AGAIN),
    "text": Bad(
        weights(b"<html>Not found</html>"),
        "w.caffemodel: byte 0 of 22: ",
        f"no binary file of Caffe's; the file is truncated, damaged or of another format: {AGAIN}",
    ),
    "truncated": Bad(
        weights(lambda caffe: saved(caffe, INPUT + FC)[:-40]),
        "w.caffemodel: byte ",
        f"bytes, but 3102 are left; the file is truncated, damaged or of another format: {AGAIN}",
    ),
    "of_another_shape": Bad(
        weights(lambda caffe: saved(caffe, INPUT + FC.replace("4", "5"))),
        "w.caffemodel: parameter 0 of layer 'fc' (InnerProduct) has shape (5, 192) in this file, but (4, 192)",
        "give it another name",
    ),
    "fewer": Bad(
        weights(lambda caffe: saved(caffe, INPUT + FC.replace("4", "4 bias_term: false"))),
        "w.caffemodel: layer 'fc' (InnerProduct) has 1 parameters in this file, but 2 in the net",
        "a new name",
    ),
    "no_hdf5": Bad(weights(b"text", "w.h5"), "w.h5: the HDF5 file cannot be read: ", AGAIN, InvalidData),
    "hdf5_of_something_else": Bad(
        hdf5_weights(stuff=[1.0]), "w.h5: there is no group /data; / holds stuff", "", InvalidData
    ),
    "hdf5_of_another_shape": Bad(
        hdf5_weights(data__fc__0=np.zeros((4, 5), "f4"), data__fc__1=np.zeros(4, "f4")),
        "w.h5: parameter 0 of layer 'fc' (InnerProduct) has shape (4, 5) in this file, but (4, 192) in the net",
        "give it another name",
    ),
    "hdf5_fewer": Bad(
        hdf5_weights(data__fc__0=np.zeros((4, 192), "f4")),
        "w.h5: layer 'fc' (InnerProduct) has 1 parameters in this file, but 2 in the net",
        "a new name",
    ),
    "hdf5_of_text": Bad(
        hdf5_weights(data__fc__0="text"), "w.h5: dataset /data/fc/0 holds text", "Caffe reads floats", InvalidData
    ),
}

SOLVERS = {
    "missing": Bad(
        lambda caffe: caffe.get_solver("none.prototxt"), "Could not open file ", "none.prototxt", RuntimeError
    ),
    "binary": Bad(solver(b"\xff\xfe"), f"{S}: byte 0 is not UTF-8", "this is not prototxt"),
    "unknown_field": Bad(solver(SOLVER + "learning_rate: 3"), f"{S}:1:100: at 'learning_rate': ", "remove it"),
    "no_value": Bad(solver(SOLVER + "gamma: "), f"{S}:1:107: at the end: ", "correct the line"),
    "unknown_type": Bad(solver(SOLVER + 'type: "Sgd"'), f"{S}: unknown solver type 'Sgd'", "known are SGD, "),
    "unknown_policy": Bad(
        solver(SOLVER.replace("fixed", "cosine")), f"{S}: lr_policy 'cosine' is unknown", "known are fixed, "
    ),
    "no_stepsize": Bad(
        solver(SOLVER.replace("fixed", "step")), f"{S}: lr_policy 'step' needs ", "a positive stepsize, not 0"
    ),
    "no_net": Bad(solver(SOLVER.replace('net: "net.prototxt"', "")), f"{S}: one of net, ", "train_net_param is needed"),
    "two_nets": Bad(solver(SOLVER + 'train_net: "net.prototxt"'), f"{S}: one of net, ", "given are: net, train_net"),
    "net_missing": Bad(
        solver(SOLVER.replace("net.proto", "none.proto")),
        "Could not open file none.prototxt",
        "working directory",
        RuntimeError,
    ),
    "net_wrong": Bad(
        solver(SOLVER, TRAINED.replace("EuclideanLoss", "EuclidLoss")),
        f"{N}: unsupported layer types: EuclidLoss (layer 'loss')",
        "supported are ",
        UnsupportedOperation,
    ),
    "no_test_interval": Bad(
        solver(SOLVER + "test_iter: 2"), f"{S}: test nets need ", "a positive test_interval, not 0"
    ),
    "test_states": Bad(
        solver(SOLVER + 'test_interval: 2 test_iter: 2 test_iter: 2 test_state { stage: "a" }'),
        f"{S}: test_state is given 1 times for 2 test nets",
        "once for each, or never",
    ),
    "no_folder_for_snapshots": Bad(
        solver(SOLVER.replace('prefix: "s"', 'prefix: "none/s"') + "snapshot: 2"),
        f"{S}: snapshots cannot be written to snapshot_prefix 'none/s'",
        "make the folder",
        InvalidArgument,
    ),
    "momentum": Bad(solver(SOLVER + 'type: "AdaGrad"'), f"{S}: momentum 0.9 cannot be used with AdaGrad", "remove it"),
    "regularization": Bad(
        solver(SOLVER + 'regularization_type: "L3" weight_decay: 1'),
        f"{S}: regularization_type 'L3' is unknown",
        "L1, L2",
    ),
    "weights_missing": Bad(
        solver(SOLVER + 'weights: "none.caffemodel"'), "Could not open file ", "none.caffemodel", RuntimeError
    ),
}

STATES = {
    "missing": Bad(
        restored(lambda good: good, prepare=lambda: os.remove("bad.solverstate")),
        "Could not open file ",
        "bad.solverstate",
        RuntimeError,
    ),
    "text": Bad(restored(lambda _: b"<html>Not found</html>"), "bad.solverstate: byte 0 of 22: ", AGAIN),
    "truncated": Bad(restored(lambda good: good[:-5]), "bad.solverstate: byte ", AGAIN),
    "empty": Bad(
        restored(lambda _: b""),
        "bad.solverstate: the snapshot has 0 history blobs",
        "restore the snapshot",
        InvalidData,
    ),
    "of_another_solver": Bad(
        restored(lambda good: good, settings=SOLVER + 'type: "Adam"'),
        "bad.solverstate: the snapshot has 2 history blobs and the solver 4",
        "restore the snapshot",
        InvalidData,
    ),
    "no_hdf5": Bad(
        restored(lambda _: b"text", "bad.solverstate.h5"),
        "bad.solverstate.h5: the HDF5 file cannot be read: ",
        AGAIN,
        InvalidData,
    ),
    "without_its_caffemodel": Bad(
        restored(lambda good: good, prepare=lambda: os.remove("s_iter_1.caffemodel")),
        "Could not open file ",
        "s_iter_1.caffemodel",
        RuntimeError,
    ),
}

DATA = {
    "lmdb_missing": Bad(
        data('type: "Data" top: "x" data_param { source: "none.lmdb" backend: LMDB batch_size: 2 }'),
        "none.lmdb: there is no such folder (working directory ",
        "name the LMDB's folder",
        InvalidData,
    ),
    "lmdb_truncated": Bad(
        prepared(
            lambda: os.truncate("pixels.lmdb/data.mdb", 8192),
            data('type: "Data" top: "x" data_param { source: "pixels.lmdb" backend: LMDB batch_size: 2 }'),
        ),
        "pixels.lmdb: the LMDB cannot be read: ",
        "copy it again",
        InvalidData,
    ),
    "leveldb": Bad(
        data('type: "Data" top: "x" data_param { source: "some.leveldb" batch_size: 2 }'),
        "net.prototxt: layer 'in' (Data): some.leveldb: LevelDB is not supported",
        "set backend: LMDB",
        UnsupportedOperation,
    ),
    "no_batch_size": Bad(
        data('type: "Data" top: "x" data_param { source: "pixels.lmdb" backend: LMDB }'),
        "net.prototxt: layer 'in' (Data): batch_size is 0",
        "above zero",
        InvalidArgument,
    ),
    "crop": Bad(
        data(
            'type: "Data" top: "x" transform_param { crop_size: 99 } '
            'data_param { source: "pixels.lmdb" backend: LMDB batch_size: 2 }'
        ),
        "pixels.lmdb, record '00000000': 10 x 12 pixels are less than layer 'in' (Data)'s crop_size 99",
        "lower it",
        InvalidData,
    ),
    "mean_missing": Bad(
        data(
            'type: "Data" top: "x" transform_param { mean_file: "none.binaryproto" } '
            'data_param { source: "pixels.lmdb" backend: LMDB batch_size: 2 }'
        ),
        "none.binaryproto: the mean file cannot be opened",
        "check mean_file",
        InvalidData,
    ),
    "hdf5_list_missing": Bad(
        data('type: "HDF5Data" top: "x" hdf5_data_param { source: "none.txt" batch_size: 2 }'),
        "net.prototxt: layer 'in' (HDF5Data): its source 'none.txt' cannot be opened",
        "name a text file that lists HDF5 files",
        InvalidData,
    ),
    "hdf5_without_the_dataset": Bad(
        data('type: "HDF5Data" top: "nothing" hdf5_data_param { source: "row.txt" batch_size: 2 }'),
        "rows0.h5: there is no dataset /nothing; / holds ",
        "data",
        InvalidData,
    ),
    "image_missing": Bad(
        listed("images/none.png 1\n"),
        "list.txt, line 1: 'images/none.png' cannot be opened",
        "check the line and root_folder",
        InvalidData,
    ),
    "later_image_missing": Bad(
        listed("images/one.png 1\nimages/one.png 1\nimages/none.png 1\n", passes=3),
        "list.txt, line 3: 'images/none.png' cannot be opened",
        "check the line and root_folder",
        InvalidData,
    ),
    "image_damaged": Bad(
        listed("list.txt 1\n"),
        "list.txt, line 1: 'list.txt': the 11 bytes, which begin with 6c 69 73 74",
        "replace the file",
        InvalidData,
    ),
    "memory_without_size": Bad(
        data('type: "MemoryData" top: "x" top: "label" memory_data_param { batch_size: 2 }'),
        "net.prototxt: layer 'in' (MemoryData): channels is 0",
        "above zero",
        InvalidArgument,
    ),
}

TABLES = {"prototxt": PROTOTXT, "weights": WEIGHTS, "solver": SOLVERS, "state": STATES, "data": DATA}
CASES = {f"{table}-{name}": bad for table, cases in TABLES.items() for name, bad in cases.items()}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line(
    name: str, caffe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = CASES[name]
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(bad.error) as caught:
        bad.act(caffe)
    text = str(caught.value)
    assert type(caught.value) is bad.error
    assert text.startswith(bad.begins)
    assert bad.says in text
    assert "\n" not in text
