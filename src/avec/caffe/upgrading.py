"""The command `upgrade`: old files in today's form. Source: caffe/tools/upgrade_{net,solver}_proto_*.cpp."""

from __future__ import annotations

from pathlib import Path

from avec.errors import InvalidModel
from avec.formats.caffe.message import Message, message_class
from avec.formats.caffe.upgrade import upgrade_net, upgrade_solver


def upgrade_file(what: str, old: Path, new: Path) -> None:
    """Write `new`, which is `old` in today's form.

    Args:
        what: "net_proto_text", "net_proto_binary" or "solver_proto_text".

    Raises:
        OSError: a file cannot be read or written.
        InvalidModel, UnsupportedOperation: the old file is no such thing, or too old.
    """
    data, source = old.read_bytes(), str(old)
    if what == "net_proto_binary":
        net = message_class("NetParameter").from_wire(data, source)
        upgrade_net(net, source)
        new.write_bytes(net.SerializeToString())
    elif what == "net_proto_text":
        net = _parse("NetParameter", data, source)
        upgrade_net(net, source)
        new.write_text(str(net), "utf-8")
    else:
        settings = _parse("SolverParameter", data, source)
        upgrade_solver(settings, source)
        new.write_text(str(settings), "utf-8")


def _parse(message: str, data: bytes, source: str) -> Message:
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise InvalidModel(f"{source}: byte {exc.start} is not UTF-8: this is not prototxt") from exc
    return message_class(message).from_text(text, source)
