"""Trains the bundled pose network on people that are rendered as it goes.

    python training/train.py --minutes 5.6 --output trained --evaluate

Leaves in the output folder, at every checkpoint and at the end: the Caffe net (.prototxt, .caffemodel), its parameters
with the batch normalisations (.npz, to continue from) and training.json, what the run was and came to. sample.jpg shows
some scenes. The weights that are written and measured are the moving average of those that are trained.
"""

import argparse
import copy
import json
import math
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from training import evaluation, export, labels, scenes
from training.figures import CROWD, Dice, Range
from training.network import WIDTH, PoseNetwork, as_input, structure

AMONG = Range(people=(0, 5), height=(70.0, 340.0), hips=(0.15, 0.85))
WARM_UP = 0.03  # of the run
LEAST_LEARNING_RATE = 0.002  # of the highest, at the end
FIRST_STAGE_WEIGHT = 0.5
HEATMAP_WEIGHT = 3.0  # against the fields, which cover more cells
LONGEST_STEP = 500.0  # norm of the gradient
AVERAGE_DECAY = 0.998
REPORT_STEPS = 100
CHECKPOINT_S = 120.0
CHECKPOINT_FRAMES = 48


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run does; the height and width are a training picture's."""

    minutes: float
    batch: int
    height: int
    width: int
    learning_rate: float
    weight_decay: float
    channels: int
    seed: int
    steps: int | None
    bfloat16: bool
    compile: bool


@dataclass(slots=True)
class Progress:
    """What a run has come to."""

    steps: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, float, float]] = field(default_factory=list)  # step, seconds, mean loss since the last
    measured: list[dict[str, float]] = field(default_factory=list)
    reachable: dict[str, float] | None = None  # by the maps of a perfect network


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the pose network on rendered people.")
    add = parser.add_argument
    add("--minutes", type=float, default=8.0, help="how long to train (default: %(default)s)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--evaluate", action="store_true", help="measure on unseen scenes, at checkpoints and at the end")
    add("--frames", type=int, default=256, help="unseen scenes to measure on at the end (default: %(default)s)")
    add("--continue-from", type=Path, metavar="NPZ", help="begin with a run's parameters instead of random ones")
    add("--batch", type=int, default=96, help="scenes in a step (default: %(default)s)")
    add("--size", type=_size, default=(368, 400), metavar="HxW", help="of a training picture (default: 368x400)")
    add("--learning-rate", type=float, default=2e-3, help="the highest (default: %(default)s)")
    add("--weight-decay", type=float, default=0.01, help="AdamW's (default: %(default)s)")
    add("--channels", type=int, default=WIDTH, help="of the network at an eighth of the size (default: %(default)s)")
    add("--seed", type=int, default=1, help="of weights and scenes (default: %(default)s)")
    add("--steps", type=int, help="stop after so many steps, where that is before the minutes are over")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    add("--float32", action="store_true", help="compute in float32 instead of bfloat16")
    add("--no-compile", action="store_true", help="run without torch.compile")
    return parser.parse_args(arguments)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) % 8 == int(width) % 8 == 0 < int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH in multiples of 8, such as 368x400")
    return int(height), int(width)


class Trainer:
    """Owns the network, its moving average and the optimiser."""

    def __init__(self, settings: Settings, device: torch.device, begin_with: Path | None = None) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.device = device
        network = PoseNetwork(structure(settings.channels))
        if begin_with is not None:
            export.load(network, begin_with)
        self.network = network.to(device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self._trained, self._averaged = _floats(self.network), _floats(self.average)
        self.progress = Progress()
        decayed = [parameter for parameter in self.network.parameters() if parameter.dim() > 1]
        others = [parameter for parameter in self.network.parameters() if parameter.dim() <= 1]
        self._optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            fused=device.type == "cuda",
        )
        self._dice = Dice(torch.Generator(device).manual_seed(settings.seed))
        self._forward: Callable[[Tensor], tuple[Tensor, Tensor]] = self.network
        self.blend: scenes.Blend = scenes.blend
        if settings.compile:
            self._compile()

    def _compile(self) -> None:
        """Compile the network and the painting, and find out now whether that works here."""
        began = time.perf_counter()
        self._forward = torch.compile(self.network, dynamic=False)
        self.blend = torch.compile(scenes.blend, dynamic=False)
        try:
            self._loss(*self._batch()).backward()
            print(f"compiled in {time.perf_counter() - began:.0f} s", flush=True)
        except Exception:  # whatever the compiler raises; the run is slower, not lost
            traceback.print_exc()
            print("torch.compile fails here: going on without it", flush=True)
            self._forward, self.blend = self.network, scenes.blend
        self._optimiser.zero_grad()

    def run(self, began: float) -> Iterator[Progress]:
        """Train until the minutes since `began` are over; give the progress at every report."""
        settings, progress = self.settings, self.progress
        first_s = time.perf_counter() - began
        limit_s = settings.minutes * 60 - first_s
        total = torch.zeros((), device=self.device)
        reported = 0
        while True:
            progress.seconds = time.perf_counter() - began
            done = (progress.seconds - first_s) / limit_s if limit_s > 0 else 1.0
            if settings.steps is not None:
                done = max(done, progress.steps / settings.steps)
            if done >= 1 or progress.steps - reported == REPORT_STEPS:
                mean = float(total) / max(progress.steps - reported, 1)  # waits for the device
                progress.losses.append((progress.steps, round(progress.seconds, 1), round(mean, 3)))
                if not math.isfinite(mean):
                    raise FloatingPointError(f"the loss is {mean} after {progress.steps} steps: lower --learning-rate")
                total.zero_()
                reported = progress.steps
                yield progress
            if done >= 1:
                return
            self._set_learning_rate(done)
            loss = self._loss(*self._batch())
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), LONGEST_STEP)
            self._optimiser.step()
            self._optimiser.zero_grad()
            self._update_average()
            total += loss.detach()
            progress.steps += 1

    def _set_learning_rate(self, done: float) -> None:
        cosine = LEAST_LEARNING_RATE + (1 - LEAST_LEARNING_RATE) * 0.5 * (1 + math.cos(math.pi * done))
        for group in self._optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * min(done / WARM_UP + 0.01, 1) * cosine

    @torch.no_grad()
    def _batch(self) -> tuple[Tensor, Tensor]:
        """Render the next scenes: the network's input, and what it is to answer."""
        settings = self.settings
        some = scenes.render(self._dice, settings.batch, (settings.height, settings.width), AMONG, self.blend)
        return as_input(some.images).contiguous(memory_format=torch.channels_last), labels.maps_of(some)

    def _loss(self, images: Tensor, maps: Tensor) -> Tensor:
        """Sum the squared errors over an image's maps, both stages; the mean over the batch."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            first, last = self._forward(images)
        return FIRST_STAGE_WEIGHT * _squared_error(first, maps) + _squared_error(last, maps)

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(AVERAGE_DECAY, (1 + self.progress.steps) / (10 + self.progress.steps))
        torch._foreach_lerp_(self._averaged, self._trained, 1 - keep)


def _floats(network: PoseNetwork) -> list[Tensor]:
    """List a network's parameters and the statistics of its batch normalisations."""
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]


def _squared_error(answer: Tensor, maps: Tensor) -> Tensor:
    squared = (answer.float() - maps).square()
    heatmaps, fields = squared[:, : labels.HEATMAPS].sum(), squared[:, labels.HEATMAPS :].sum()
    return (HEATMAP_WEIGHT * heatmaps + fields) / len(maps)


def measure(trainer: Trainer, frames: int) -> dict[str, float]:
    """Measure the moving average on unseen scenes."""
    began = time.perf_counter()
    torch.backends.cudnn.benchmark = False  # it would try kernels of float32 that take tens of gigabytes
    unseen = evaluation.unseen(frames, trainer.device)
    measured = evaluation.measure(list(evaluation.answers(trainer.average, unseen)))
    torch.backends.cudnn.benchmark = True
    measured |= {"step": trainer.progress.steps, "evaluation_s": round(time.perf_counter() - began, 1)}
    return measured


def main(arguments: list[str] | None = None) -> int:
    began = time.perf_counter()
    options = parse_arguments(arguments)
    device = torch.device(options.device)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False  # evaluation is in float32, training in bfloat16
    settings = Settings(
        options.minutes, options.batch, *options.size, options.learning_rate, options.weight_decay, options.channels,
        options.seed, options.steps, not options.float32, device.type == "cuda" and not options.no_compile,
    )  # fmt: skip
    options.output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(settings, device, options.continue_from)
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    print(f"{_hardware(device)}, torch {torch.__version__}, {parameters / 1e6:.2f} M parameters", flush=True)
    _save_sample(trainer, options.output)
    checkpointed = began
    for progress in trainer.run(began):
        step, seconds, loss = progress.losses[-1]
        rate = step * settings.batch / max(seconds, 1e-9)
        print(f"{seconds:6.1f} s  step {step:6d}  {rate:7.0f} images/s  loss {loss:8.3f}", flush=True)
        if time.perf_counter() - checkpointed > CHECKPOINT_S:
            _save(trainer, options)
            if options.evaluate:
                _report(trainer, CHECKPOINT_FRAMES)
            checkpointed = time.perf_counter()
    _save(trainer, options)
    if options.evaluate:
        _report(trainer, options.frames)
        _save(trainer, options)
        trainer.progress.reachable = evaluation.measure_perfect(options.frames, device)
        print(f"a perfect network: {json.dumps(trainer.progress.reachable)}", flush=True)
        _save(trainer, options)
    return 0


def _report(trainer: Trainer, frames: int) -> None:
    """Measure and print; a failure is printed, and does not lose the training."""
    try:
        measured = measure(trainer, frames)
    except Exception:
        traceback.print_exc()
        print("this evaluation failed; the weights are saved", flush=True)
        return
    trainer.progress.measured.append(measured)
    print(f"measured: {json.dumps(measured)}", flush=True)


def _save(trainer: Trainer, options: argparse.Namespace) -> None:
    export.save(trainer.average, options.output)
    record = {
        "command": _command(options),
        "settings": asdict(trainer.settings),
        "continued_from": None if options.continue_from is None else options.continue_from.name,
        "scenes": asdict(AMONG),
        "evaluated_scenes": asdict(CROWD) | {"seed": evaluation.SEED, "size": evaluation.SIZE},
        "hardware": _hardware(trainer.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "steps": trainer.progress.steps,
        "images": trainer.progress.steps * trainer.settings.batch,
        "seconds": round(trainer.progress.seconds, 1),
        "losses": trainer.progress.losses,
        "measured": trainer.progress.measured,
        "reachable": trainer.progress.reachable,
    }
    partial = options.output / "training.json.partial"
    partial.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(partial, options.output / "training.json")


def _command(options: argparse.Namespace) -> str:
    """Say how the run was started, but for where it wrote and what it continued from."""
    left_out = ("output", "continue_from")
    given = {
        name: value for name, value in vars(options).items() if name not in left_out and value not in (None, False)
    }
    flags = (
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {_text(value)}") for name, value in given.items()
    )
    return " ".join(["python", "training/train.py", *flags])


def _text(value: object) -> str:
    return f"{value[0]}x{value[1]}" if isinstance(value, tuple) else f"{value}"


def _save_sample(trainer: Trainer, folder: Path) -> None:
    """Write a picture of some training scenes, to see what the network is shown."""
    size = (trainer.settings.height, trainer.settings.width)
    some = scenes.render(Dice(torch.Generator(trainer.device).manual_seed(0)), 8, size, AMONG).images
    rows = torch.cat(list(torch.cat(list(some.unflatten(0, (2, 4)).transpose(0, 1)), dim=-1)), dim=-2)
    cv2.imwrite(str(folder / "sample.jpg"), rows.permute(1, 2, 0).cpu().numpy())


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    sys.exit(main())
