"""Writes a trained network's card from what its training recorded.

python training/card.py trained/training.json > models/pose_people.md
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CARD = """\
# pose_people

Finds the 18 joints of COCO of any number of people, in pictures of **rendered figures**. A Caffe net for the program
in this folder: 57 maps at an eighth of the size, as OpenPose's COCO net gives them.

| | |
|---|---|
| Trained on | {images:,} rendered scenes ({steps:,} steps of {batch}), each seen once; not one photograph |
| Scenes | {height}x{width} pixels, {people} people of {tall} pixels; wild poses, random clothes, noise and bars |
| Seed | {seed}{continued} |
| Hardware and time | {hardware}, {minutes:.1f} minutes |
| Versions | Python {python}, torch {torch}, numpy {numpy} |
| Date | {date} |
| Command | `{command}` |

## How well it does

On {frames} unseen scenes of {eval_height}x{eval_width} pixels with {counted} people that count (four visible joints or
more; {eval_people} in a scene, {eval_tall} pixels tall; seed {eval_seed}), with this example's own post-processing.
The last column is what the same post-processing makes of perfect maps.

| | this net | perfect maps |
|---|---|---|
{figures}
{through_avec}
AP is COCO's average precision by object keypoint similarity, for which a person's area is taken as 0.1855 of the
squared height. Joints hidden by someone else or by a thing do not count.

## Limits

- It has seen nothing but the figures of `training/`, and the numbers above are of rendered people: what it does on
  photographs was not measured, and is not claimed.
- Someone whose neck is hidden or outside of the picture is hardly ever found whole: most limbs meet there.
- It is meant for measuring and showing the program at work; do not decide anything about people by it.
"""

THROUGH_AVEC = """
On {pictures} pictures of `render_sets.py` ({sizes}, JPEG, seed {seed}), computed on {accelerator}
through AVEC: {found} of {people} people found, {false_people} false; AP at 0.50 {ap50:.3f}, at 0.75 {ap75:.3f}; joints
within 5 % of the height {pck:.1%}.
"""

ROWS = (
    ("AP at 0.50", "ap50", "{:.3f}"),
    ("AP at 0.75", "ap75", "{:.3f}"),
    ("AP, mean of 0.50 to 0.95", "ap", "{:.3f}"),
    ("joints within 5 % of the height", "pck", "{:.1%}"),
    ("people found, of 180 pixels or more", "recall_near", "{:.1%}"),
    ("people found, below 180 pixels", "recall_far", "{:.1%}"),
    ("people found that are none", "false_people", "{}"),
    ("median error of a joint, pixels", "median_error_px", "{:.2f}"),
    ("mean error to the right, pixels", "bias_x_px", "{:.2f}"),
    ("mean error downwards, pixels", "bias_y_px", "{:.2f}"),
)


def write(record: Mapping[str, Any]) -> str:
    """Write the card from training.json, or from a record of it that also has what was measured through AVEC.

    Raises:
        ValueError: the run was not evaluated.
    """
    record = record.get("results", record)
    if not record["measured"] or record["reachable"] is None:
        raise ValueError("the run was not measured: train with --evaluate")
    settings, measured, reachable = record["settings"], record["measured"][-1], record["reachable"]
    scenes, evaluated = record["scenes"], record["evaluated_scenes"]
    figures = "\n".join(
        f"| {title} | {form.format(measured[name])} | {form.format(reachable[name])} |" for title, name, form in ROWS
    )
    return CARD.format(
        **{name: record[name] for name in ("images", "steps", "hardware", "date", "command")},
        **record["versions"],
        **{name: settings[name] for name in ("batch", "height", "width", "seed")},
        people=_span(scenes["people"]),
        tall=_span(scenes["height"]),
        continued=f", continued from {record['continued_from']}" if record["continued_from"] else "",
        minutes=record["seconds"] / 60,
        frames=measured["frames"],
        counted=measured["people"],
        eval_height=evaluated["size"][0],
        eval_width=evaluated["size"][1],
        eval_people=_span(evaluated["people"]),
        eval_tall=_span(evaluated["height"]),
        eval_seed=evaluated["seed"],
        figures=figures,
        through_avec=THROUGH_AVEC.format(**record["through_avec"]) if "through_avec" in record else "",
    )


def _span(bounds: list[float]) -> str:
    low, high = bounds
    return f"{low:g} to {high:g}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write a trained network's card.")
    parser.add_argument("record", type=Path, help="training.json, or the record that was made of it")
    print(write(json.loads(parser.parse_args(arguments).record.read_text())), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
