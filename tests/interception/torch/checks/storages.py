"""What programs do with storages and files on an accelerator; holds on a machine with a GPU, too."""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

x = torch.arange(6.0).sin().cuda()
folder = Path(tempfile.mkdtemp())


def saved(value: object, **options: object) -> io.BytesIO:
    """A file in memory with what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    buffer.seek(0)
    return buffer


def check_untyped() -> None:
    storage = torch.UntypedStorage(8, device="cuda").fill_(3)
    storage[1] = 9
    storage[2:4] = 7
    assert storage.tolist() == [3, 9, 7, 7, 3, 3, 3, 3]
    assert (storage[1], len(storage), storage.nbytes()) == (9, 8, 8)
    assert list(storage)[:2] == [3, 9]
    assert storage.cpu().device.type == "cpu"
    assert storage.is_cuda
    assert storage.clone().tolist() == storage.tolist()
    assert torch.UntypedStorage([1, 2, 3], device="cuda").tolist() == [1, 2, 3]
    assert repr(storage).endswith("[torch.storage.UntypedStorage(device=cuda:0) of size 8]")
    assert torch.UntypedStorage(device="cuda").nbytes() == 0


def check_typed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = torch.TypedStorage([1.0, 2.0, 3.0], dtype=torch.float32, device="cuda")
        storage[1] = 5
        assert storage.tolist() == [1, 5, 3]
        assert x.storage().cpu().tolist() == x.tolist()
        assert x.storage()[1] == x[1].item()
        assert torch.FloatStorage([1.0, 2.0]).cuda().is_cuda
        assert torch.cuda.FloatStorage(4).nbytes() == 16


def check_resizing() -> None:
    y = torch.arange(6.0, device="cuda")
    view, storage = y[2:4], y.untyped_storage()
    assert storage.resizable()
    storage.resize_(48)
    assert (y.tolist(), view.tolist(), storage.nbytes()) == ([0, 1, 2, 3, 4, 5], [2, 3], 48)
    view.fill_(9)
    assert y[2] == 9
    storage.resize_(0)  # as FSDP frees what it can gather again
    assert (storage.nbytes(), storage.data_ptr()) == (0, 0)
    storage.resize_(24)
    y.copy_(torch.ones(6))
    assert view.tolist() == [1, 1]


def check_sharing_is_seen() -> None:
    assert x.view(-1).untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    assert x.untyped_storage().cpu().nbytes() == 24
    y = torch.empty(0, device="cuda").set_(x.untyped_storage(), 2, (2,), (1,))
    assert y.tolist() == x[2:4].tolist()
    assert y.data_ptr() == x.data_ptr() + 8


def check_pickle() -> None:
    y = pickle.loads(pickle.dumps({"x": x, "parameter": nn.Parameter(x)}))
    assert torch.equal(y["x"], x)
    assert y["parameter"].is_cuda
    net = pickle.loads(pickle.dumps(nn.Linear(2, 2).cuda()))
    assert net.weight.is_cuda


def check_save_and_load() -> None:
    value = {"x": x, "view": x[1:]}
    places = {
        "none": None,
        "cpu": "cpu",
        "cuda": "cuda",
        "cuda:0": "cuda:0",
        "device": torch.device("cuda"),
        "dict": {"cuda:0": "cpu"},
        "to the host": lambda storage, place: storage,
        "to the accelerator": lambda storage, place: storage.cuda(),
    }
    on_host = {"cpu", "dict", "to the host"}
    for zipped in (True, False):
        buffer = saved(value, _use_new_zipfile_serialization=zipped)
        for name, place in places.items():
            for weights_only in (True, False):
                buffer.seek(0)
                y = torch.load(buffer, map_location=place, weights_only=weights_only)
                assert y["x"].is_cuda is (name not in on_host), name
                assert torch.equal(y["x"].cpu(), x.cpu())
                assert y["view"].untyped_storage().data_ptr() == y["x"].untyped_storage().data_ptr()
    assert torch.load(saved(x.cpu()), map_location="cuda").is_cuda
    assert torch.load(saved(x), map_location="meta").is_meta


def check_mapped_files() -> None:
    path = folder / "x.pt"
    torch.save({"x": x}, path)
    assert torch.equal(torch.load(path, mmap=True, map_location="cuda")["x"], x)
    assert torch.equal(torch.load(path, mmap=True, map_location="cpu")["x"], x.cpu())


def check_saved_training() -> None:
    net = nn.Linear(3, 3).cuda()
    optimizer = torch.optim.AdamW(net.parameters())
    net(x.view(2, 3)).sum().backward()
    optimizer.step()
    loaded = torch.load(
        saved({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "whole": net}), weights_only=False
    )
    other = nn.Linear(3, 3).cuda()
    other_optimizer = torch.optim.AdamW(other.parameters())
    other.load_state_dict(loaded["net"])
    other_optimizer.load_state_dict(loaded["optimizer"])
    assert torch.equal(other.weight, net.weight)
    assert torch.equal(other_optimizer.state[other.weight]["exp_avg"], optimizer.state[net.weight]["exp_avg"])
    assert loaded["whole"].weight.is_cuda


def check_safetensors() -> None:
    from safetensors import safe_open
    from safetensors.torch import load, load_file, load_model, save, save_file, save_model

    path = folder / "x.safetensors"
    save_file({"x": x, "b": torch.ones(3, dtype=torch.bfloat16, device="cuda")}, path)
    for device in ("cuda", "cuda:0", 0, "cpu"):
        y = load_file(path, device=device)
        assert y["x"].is_cuda is (device != "cpu")
        assert torch.equal(y["x"].cpu(), x.cpu())
        assert y["b"].dtype is torch.bfloat16
    with safe_open(path, framework="pt", device="cuda") as file:
        assert file.get_slice("x")[1:3].tolist() == x[1:3].tolist()
    assert load(save({"x": x}))["x"].tolist() == x.tolist()
    net, other = nn.Linear(2, 2).cuda(), nn.Linear(2, 2).cuda()
    save_model(net, str(path))
    load_model(other, str(path), device="cuda")
    assert torch.equal(net.weight, other.weight)


def check_deepcopy_keeps_sharing() -> None:
    first, second = copy.deepcopy((x, x[2:]))
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert first.data_ptr() != x.data_ptr()
    eighths = copy.deepcopy(x.to(torch.float8_e4m3fn))
    assert torch.equal(eighths.float(), x.to(torch.float8_e4m3fn).float())
