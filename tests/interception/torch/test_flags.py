"""torch's settings go to the destination where they change, once, and none of them opens a session."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from avec.destination.executors.torch.flags import FLAGS
from avec.interception.patching import Patches
from avec.interception.torch import flags
from avec.protocol.torch import Template

Sent = list[tuple[object, object]]


class Stream:
    """What flags need of a Recording: templates are their own numbers."""

    def __init__(self, opened: bool) -> None:
        self.opened = opened
        self.stream: list[int] = []
        self.sent: Sent = []
        self.on_open: list[Callable[[], None]] = []
        self._templates: list[Template] = []

    def template(self, template: Template) -> int:
        self._templates.append(template)
        return len(self._templates) - 1

    def record(self, template: int, numbers: Sequence[int], floats: Sequence[float] = ()) -> None:
        self._send(template)

    def begin_with(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._send(number)

    def forget_calls(self) -> None:
        pass

    def open(self) -> Sent:
        """Open the session; what its stream begins with."""
        self.opened = True
        for function in self.on_open:
            function()
        return self.sent

    def _send(self, number: int) -> None:
        template = self._templates[number]
        assert template.operator == "avec::flag"
        name, value = template.args
        assert name == "default_dtype" or name in FLAGS  # the destination knows it
        self.sent.append((name, value))


# What a process begins with; a destination's accelerator, which other tests make in this one, has its own.
PRECISIONS = {torch.backends.cuda.matmul: "none", torch.backends.cudnn.conv: "tf32", torch.backends.cudnn.rnn: "tf32"}


@pytest.fixture(autouse=True)
def own_precisions() -> Iterator[None]:
    """Let each test begin with torch's own precisions of float32."""
    before = {operators: operators.fp32_precision for operators in PRECISIONS}
    torch._C._set_cudnn_allow_tf32(True)  # torch compares this older setting with the newer ones
    for operators, precision in PRECISIONS.items():
        operators.fp32_precision = precision
    yield
    for operators, precision in before.items():
        operators.fp32_precision = precision


@pytest.fixture
def stream() -> Iterator[Callable[[bool], Stream]]:
    """Put flags under torch, with a session or without; all of torch's settings are put back afterwards."""
    all_patches = []

    def start(opened: bool) -> Stream:
        stream, patches = Stream(opened), Patches()
        flags.patch(patches, stream)  # type: ignore[arg-type]
        all_patches.append(patches)
        return stream

    yield start
    for patches in reversed(all_patches):
        patches.restore()


def _set_all() -> None:
    backends = torch.backends
    backends.cudnn.benchmark = True
    backends.cudnn.deterministic = True
    backends.cudnn.benchmark_limit = 3
    backends.cudnn.conv.fp32_precision = "ieee"
    backends.cuda.matmul.fp32_precision = "tf32"
    backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    backends.cuda.enable_flash_sdp(False)
    torch.set_float32_matmul_precision("high")
    torch.use_deterministic_algorithms(True, warn_only=True)


def _reset_all() -> None:
    backends = torch.backends
    backends.cudnn.benchmark = False
    backends.cudnn.deterministic = False
    backends.cudnn.benchmark_limit = 10
    backends.cudnn.conv.fp32_precision = "tf32"
    torch.set_float32_matmul_precision("highest")
    backends.cuda.matmul.fp32_precision = "none"
    backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
    backends.cuda.enable_flash_sdp(True)
    torch.use_deterministic_algorithms(False)


STATED: Sent = [  # torch's own defaults
    ("cuda.matmul.fp32_precision", "none"),
    ("cudnn.conv.fp32_precision", "tf32"),
    ("cudnn.rnn.fp32_precision", "tf32"),
]
ALL: Sent = [
    ("cudnn.benchmark", True),
    ("cudnn.deterministic", True),
    ("cudnn.benchmark_limit", 3),
    ("cudnn.conv.fp32_precision", "ieee"),
    ("cuda.matmul.fp32_precision", "tf32"),
    ("cuda.matmul.allow_fp16_reduced_precision_reduction", False),
    ("cuda.flash_sdp", False),
    ("float32_matmul_precision", "high"),
    ("deterministic_algorithms", "warn"),
]


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        _reset_all()


def test_a_setting_is_sent_where_it_changes(stream: Callable[[bool], Stream]) -> None:
    recording = stream(True)
    _set_all()
    assert recording.sent == ALL


def test_a_setting_that_stays_the_same_is_not_sent(stream: Callable[[bool], Stream]) -> None:
    recording = stream(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_math_sdp(True)
    torch.use_deterministic_algorithms(False)
    torch.set_default_dtype(torch.float32)
    assert recording.sent == []


def test_what_is_set_before_there_is_a_session_begins_its_stream(stream: Callable[[bool], Stream]) -> None:
    recording = stream(False)
    _set_all()
    assert recording.sent == []
    assert recording.open() == [*STATED, *ALL]


def test_of_many_changes_before_there_is_a_session_the_last_counts(stream: Callable[[bool], Stream]) -> None:
    recording = stream(False)
    torch.backends.cudnn.deterministic = True
    for _ in range(1000):
        with sdpa_kernel(SDPBackend.MATH):
            pass
    assert set(recording.open()) >= {("cudnn.deterministic", True), ("cuda.flash_sdp", True)}
    assert len(recording.sent) < 10


def test_what_was_set_and_taken_back_is_not_sent(stream: Callable[[bool], Stream]) -> None:
    recording = stream(False)
    with torch.backends.cudnn.flags(enabled=False, deterministic=True), sdpa_kernel(SDPBackend.MATH):
        pass
    assert recording.open() == STATED


def test_what_was_set_before_avec_came_is_sent(stream: Callable[[bool], Stream]) -> None:
    _set_all()
    recording = stream(False)
    sent = dict(recording.open())
    assert sent.items() >= {name: value for name, value in ALL if name != "cudnn.benchmark_limit"}.items()


def test_contexts_send_what_they_set_and_what_they_put_back(stream: Callable[[bool], Stream]) -> None:
    recording = stream(True)
    with torch.backends.cudnn.flags(enabled=False, benchmark=False, deterministic=False):
        assert recording.sent == [("cudnn.enabled", False)]
    assert recording.sent == [("cudnn.enabled", False), ("cudnn.enabled", True)]


def test_the_condition_for_deterministic_products_goes_first(
    stream: Callable[[bool], Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "CUBLAS_WORKSPACE_CONFIG", ":16:8")
    recording = stream(True)
    torch.use_deterministic_algorithms(True)
    assert recording.sent == [("cublas_workspace_config", ":16:8"), ("deterministic_algorithms", "error")]


def test_a_default_dtype_is_sent_by_name(stream: Callable[[bool], Stream]) -> None:
    recording = stream(True)
    try:
        torch.set_default_dtype(torch.float64)
        assert recording.sent == [("default_dtype", "float64")]
    finally:
        torch.set_default_dtype(torch.float32)
