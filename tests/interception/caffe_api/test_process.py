"""What belongs to no net: log lines, the timer, seeds, solver counts, NCCL."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from avec.errors import UnsupportedOperation
from avec.interception.active import session
from avec.profiling import STAGES
from launching import AVEC, NOWHERE, execute

LINE = r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ _caffe\.cpp:68\] hello\n"
UNINITIALISED = "WARNING: Logging before InitGoogleLogging() is written to STDERR\n"


@pytest.fixture
def logged(tmp_path: Path) -> Callable[[str], str]:
    """What a program that imports caffe writes to stderr."""

    def run(program: str) -> str:
        (tmp_path / "app.py").write_text(f"import os, caffe\n{program}\n")
        status, out, err = execute(*AVEC, "run", *NOWHERE, str(tmp_path / "app.py"))
        assert (status, out) == (0, "")
        return err

    return run


class TestLog:
    """As real Caffe's glog was seen to behave."""

    def test_before_init_log_lines_come_with_a_warning(self, logged: Callable[[str], str]) -> None:
        assert re.fullmatch(re.escape(UNINITIALISED) + LINE * 2, logged("caffe.log('hello'); caffe.log('hello')"))

    @pytest.mark.parametrize("arguments", ["", "0", "0, False", "2, True"])
    def test_lines_that_are_not_asked_for(self, logged: Callable[[str], str], arguments: str) -> None:
        assert logged(f"caffe.init_log({arguments}); caffe.log('hello')") == ""

    def test_lines_that_are_asked_for(self, logged: Callable[[str], str]) -> None:
        assert re.fullmatch(LINE, logged("caffe.init_log(0, True); caffe.log('hello')"))

    def test_the_environment(self, logged: Callable[[str], str]) -> None:
        assert logged("os.environ['GLOG_minloglevel'] = '1'; caffe.log('hello')") == ""
        program = "os.environ['GLOG_logtostderr'] = '1'; caffe.init_log(); caffe.log('hello')"
        assert re.fullmatch(LINE, logged(program))

    def test_initialising_twice(self, logged: Callable[[str], str]) -> None:
        assert logged("caffe.init_log()\ntry:\n  caffe.init_log()\nexcept RuntimeError: pass") == ""

    def test_wrong_types(self, caffe: ModuleType) -> None:
        with pytest.raises(TypeError):
            caffe.log(3)
        with pytest.raises(TypeError):
            caffe.init_log("a")


class TestTimer:
    def test_it_waits_for_what_the_destination_was_asked(self, caffe: ModuleType, tmp_path: Path) -> None:
        (tmp_path / "net.prototxt").write_text(
            'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 64 dim: 1024 } } }\n'
            'layer { name: "y" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2048 } }\n'
        )
        net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
        timer = caffe.Timer()
        timer.start()
        ended = len(session().recorder.cycles)
        for _ in range(5):
            net.forward()
        timer.stop()
        assert len(session().recorder.cycles) == ended + 5
        computed_ns = sum(cycle.stages_ns[STAGES.index("compute")] for cycle in session().recorder.cycles[ended:])
        assert timer.ms > computed_ns / 1e6 > 0

    def test_reading_ends_the_measurement(self, caffe: ModuleType) -> None:
        timer = caffe.Timer()
        timer.start()
        assert timer.ms == timer.ms > 0

    def test_one_that_never_ran_warns_and_reads_zero(
        self, caffe: ModuleType, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert caffe.Timer().ms == 0.0
        assert "Timer has never been run before reading time." in capsys.readouterr().err

    def test_the_milliseconds_are_not_set(self, caffe: ModuleType) -> None:
        with pytest.raises(AttributeError):
            caffe.Timer().ms = 3


class TestRandomSeed:
    @pytest.fixture
    def draw(self, caffe: ModuleType) -> Callable[[], int]:
        import caffe.randomness

        draw: Callable[[], int] = caffe.randomness.draw_seed
        return draw

    def test_what_follows_a_seed_repeats_and_is_no_constant(self, caffe: ModuleType, draw: Callable[[], int]) -> None:
        caffe.set_random_seed(3)
        first = [draw(), draw()]
        caffe.set_random_seed(np.int64(3))
        assert [draw(), draw()] == first
        assert first[0] != first[1]
        caffe.set_random_seed(4)
        assert draw() not in first

    def test_other_threads_have_none(self, caffe: ModuleType, draw: Callable[[], int]) -> None:
        caffe.set_random_seed(3)
        drawn: list[int] = []
        thread = threading.Thread(target=lambda: drawn.append(draw()))
        thread.start()
        thread.join()
        assert drawn == [-1]

    def test_nets_are_filled_anew_from_the_seed(self, caffe: ModuleType, tmp_path: Path) -> None:
        (tmp_path / "net.prototxt").write_text(
            'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }\n'
            'layer { name: "y" type: "InnerProduct" bottom: "x" top: "y" '
            'inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }\n'
        )

        def filled() -> list[float]:
            weights: list[float] = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST).params["y"][0].data.tolist()
            return weights

        caffe.set_random_seed(3)
        first = [filled(), filled()]
        caffe.set_random_seed(3)
        assert [filled(), filled()] == first
        assert first[0] != first[1]

    @pytest.mark.parametrize(
        ("seed", "error"), [("x", TypeError), (1.5, TypeError), (-1, OverflowError), (2**32, OverflowError)]
    )
    def test_what_is_no_seed(self, caffe: ModuleType, seed: object, error: type[Exception]) -> None:
        with pytest.raises(error):
            caffe.set_random_seed(seed)


class TestParallel:
    def test_counts_and_ranks(self, caffe: ModuleType) -> None:
        assert (caffe.solver_count(), caffe.solver_rank()) == (1, 0)
        caffe.set_solver_count(4)
        caffe.set_solver_rank(3)
        caffe.set_multiprocess(True)
        try:
            assert (caffe.solver_count(), caffe.solver_rank()) == (4, 3)
        finally:
            caffe.set_solver_count(1)
            caffe.set_solver_rank(0)
            caffe.set_multiprocess(False)

    @pytest.mark.parametrize("name", ["set_solver_count", "set_solver_rank", "set_multiprocess"])
    def test_wrong_types(self, caffe: ModuleType, name: str) -> None:
        with pytest.raises(TypeError, match=f"caffe.{name} takes"):
            getattr(caffe, name)("x")

    def test_nccl_is_not_there_and_refused(self, caffe: ModuleType) -> None:
        assert caffe.has_nccl() is False
        for use in (caffe.NCCL, caffe.NCCL.new_uid):
            with pytest.raises(UnsupportedOperation, match="a session has one accelerator"):
                use()


def test_standard_layer_types_are_listed(caffe: ModuleType) -> None:
    assert {"Data", "Convolution", "InnerProduct", "Python", "SoftmaxWithLoss"} <= set(caffe.layer_type_list())
