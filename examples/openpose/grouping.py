"""From a network's maps to people: peaks, part affinity scores, bipartite matching, assembly.

Everything here is plain arithmetic on arrays; it knows neither the network nor the picture. Coordinates are
pixels of the network's input, where 0 is the centre of the first pixel.

Source: Cao, Hidalgo, Simon, Wei, Sheikh, "OpenPose: Realtime Multi-Person 2D Pose Estimation using Part
Affinity Fields", IEEE TPAMI 2019, sections 3.4 and 3.5.
"""

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from skeletons import Skeleton

Array: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.intp]

STRIDE = 8  # input pixels per map cell


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What counts as a peak, a limb and a person."""

    peak: float = 0.1
    field: float = 0.05  # of the affinity along the limb, at each sample
    samples_above: float = 0.8  # share of a limb's samples that must reach it
    parts: int = 5
    person: float = 0.6  # mean of a person's peak and limb scores


DEFAULT_THRESHOLDS = Thresholds()
UPSAMPLING = 2  # of the heatmaps, before peaks are looked for
MAX_PEAKS_PER_PART = 96  # bounds the work on maps that are nothing but noise
FIELD_SAMPLES = 10


@dataclass(frozen=True, slots=True)
class Peaks:
    """Candidates for body parts: part[i] lies at xy[i] with score[i]; grouped by part in order."""

    part: Indices
    xy: Array
    score: Array


@dataclass(frozen=True, slots=True)
class Connections:
    """Limbs between two peaks, the surest first; the score is that of the affinity field alone."""

    start: Indices
    end: Indices
    score: Array


def find_people(
    maps_CHW: Array,
    skeleton: Skeleton,
    upsampling: int = UPSAMPLING,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> Array:
    """Find the people in a body network's maps.

    Parameters:
        maps_CHW: heatmaps, background, affinity fields; float32 at an eighth of the input's size.
        upsampling: how much the heatmaps are enlarged first; peaks are refined below a pixel in any case.

    Returns:
        Float32 of people x parts x (x, y, score), the best person first; a missing part is all zeros.
    """
    part_count = len(skeleton.parts)
    peaks = find_peaks(maps_CHW[:part_count], upsampling, thresholds.peak)
    candidates = score_limbs(peaks, maps_CHW[part_count + 1 :], skeleton, thresholds)
    return assemble(peaks, candidates, part_count, thresholds)


def find_peaks(heatmaps_CHW: Array, upsampling: int, threshold: float) -> Peaks:
    """Find each heatmap's local maxima above a threshold, refined below a pixel."""
    reach = max(upsampling // 2, 1)  # half a cell: nearer maxima are one peak
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    found: list[tuple[int, Array, Array]] = []
    for part, heatmap in enumerate(heatmaps_CHW):
        if heatmap.max() <= threshold / 2:  # cubic interpolation overshoots, but not twofold
            continue
        enlarged = _enlarge(heatmap, upsampling)
        highest = cv2.dilate(enlarged, window)
        rows, columns = np.nonzero((enlarged == highest) & (enlarged > threshold))
        best = np.argsort(-enlarged[rows, columns], kind="stable")[:MAX_PEAKS_PER_PART]
        rows, columns = rows[best], columns[best]
        cells = _refine(enlarged, rows, columns)
        found.append((part, (cells + 0.5) * (STRIDE / upsampling) - 0.5, enlarged[rows, columns]))
    if not found:
        return Peaks(np.zeros(0, np.intp), np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    return Peaks(
        np.concatenate([np.full(len(score), part, np.intp) for part, _, score in found]),
        np.concatenate([xy for _, xy, _ in found]),
        np.concatenate([score for _, _, score in found]),
    )


def _enlarge(heatmap: Array, factor: int) -> Array:
    if factor == 1:
        return np.ascontiguousarray(heatmap)
    height, width = heatmap.shape
    return cv2.resize(heatmap, (width * factor, height * factor), interpolation=cv2.INTER_CUBIC)


def _refine(heatmap: Array, rows: Indices, columns: Indices) -> Array:
    """Place each maximum at the top of the Gaussian through it and its neighbours, as (x, y)."""
    logs = np.log(np.maximum(np.pad(heatmap, 1, mode="edge"), 1e-6))
    rows, columns = rows + 1, columns + 1
    centre = logs[rows, columns]
    offsets = []
    for row_step, column_step in ((0, 1), (1, 0)):
        before = logs[rows - row_step, columns - column_step]
        after = logs[rows + row_step, columns + column_step]
        curvature = np.maximum(2 * centre - before - after, 1e-6)
        offsets.append(np.clip((after - before) / (2 * curvature), -0.5, 0.5))
    return np.stack([columns - 1 + offsets[0], rows - 1 + offsets[1]], axis=1).astype(np.float32)


def score_limbs(
    peaks: Peaks, fields_CHW: Array, skeleton: Skeleton, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> Connections:
    """Score every possible limb by the affinity field along it; keep a one-to-one matching."""
    limb, start, end = _limb_candidates(peaks, skeleton)
    first_map = np.asarray(skeleton.fields, np.intp)[limb]
    span = peaks.xy[end] - peaks.xy[start]
    length = np.maximum(np.hypot(span[:, 0], span[:, 1]), 1e-3)
    direction = span / length[:, None]
    steps = np.linspace(0, 1, FIELD_SAMPLES, dtype=np.float32)
    points = peaks.xy[start][:, None] + steps[None, :, None] * span[:, None]
    cells = (points + 0.5) / STRIDE - 0.5
    along = direction[:, :1] * _bilinear(fields_CHW, first_map, cells)
    along += direction[:, 1:] * _bilinear(fields_CHW, first_map + 1, cells)
    # A limb longer than half the picture is less likely the longer it is.
    score = along.mean(axis=1) + np.minimum(0.5 * fields_CHW.shape[1] * STRIDE / length - 1, 0)
    enough = (along > thresholds.field).mean(axis=1) >= thresholds.samples_above
    # Between two limbs that exclude each other, the one between surer joints is the likelier.
    certainty = score * np.sqrt(peaks.score[start] * peaks.score[end])
    likely = np.nonzero(enough & (score > 0))[0]
    order = likely[np.argsort(-certainty[likely], kind="stable")]
    kept = order[_one_to_one(limb[order], start[order], end[order])]
    return Connections(start[kept], end[kept], score[kept])


def _limb_candidates(peaks: Peaks, skeleton: Skeleton) -> tuple[Indices, Indices, Indices]:
    """Pair each peak with each peak of the other end, for every limb: its number, start and end."""
    bounds = np.searchsorted(peaks.part, np.arange(len(skeleton.parts) + 1))
    limbs, starts, ends = [], [], []
    for limb, (first, second) in enumerate(skeleton.limbs):
        start = np.arange(bounds[first], bounds[first + 1])
        end = np.arange(bounds[second], bounds[second + 1])
        starts.append(np.repeat(start, len(end)))
        ends.append(np.tile(end, len(start)))
        limbs.append(np.full(len(start) * len(end), limb))
    return np.concatenate(limbs), np.concatenate(starts), np.concatenate(ends)


def _bilinear(maps_CHW: Array, channel: Indices, cells_xy: Array) -> Array:
    """Read map channel[i] at the fractional cells cells_xy[i, :], clamped to the map."""
    _, height, width = maps_CHW.shape
    x = np.clip(cells_xy[..., 0], 0, width - 1)
    y = np.clip(cells_xy[..., 1], 0, height - 1)
    left, above = x.astype(np.intp), y.astype(np.intp)
    right, below = np.minimum(left + 1, width - 1), np.minimum(above + 1, height - 1)
    x_part, y_part = x - left, y - above
    channel = channel[:, None]
    upper = maps_CHW[channel, above, left] * (1 - x_part) + maps_CHW[channel, above, right] * x_part
    lower = maps_CHW[channel, below, left] * (1 - x_part) + maps_CHW[channel, below, right] * x_part
    return upper * (1 - y_part) + lower * y_part


def _one_to_one(limb: Indices, start: Indices, end: Indices) -> list[int]:
    """Pick greedily, surest first, so that a peak is used at most once as either end of a limb."""
    used: set[tuple[int, int, bool]] = set()
    picked = []
    for index, (number, first, second) in enumerate(zip(limb.tolist(), start.tolist(), end.tolist(), strict=True)):
        ends = {(number, first, False), (number, second, True)}
        if used.isdisjoint(ends):
            used |= ends
            picked.append(index)
    return picked


@dataclass(slots=True)
class _Person:
    """Peaks that belong together, by part, and the sum of the limb scores that say so."""

    peak_by_part: dict[int, int]
    limb_score: float = 0.0


def assemble(
    peaks: Peaks, connections: Connections, part_count: int, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> Array:
    """Join the connections, surest first, into people that have each part at most once."""
    part = peaks.part.tolist()
    person_of = {peak: _Person({part[peak]: peak}) for peak in range(len(part))}
    for start, end, score in zip(
        connections.start.tolist(), connections.end.tolist(), connections.score.tolist(), strict=True
    ):
        person, other = person_of[start], person_of[end]
        if person is not other:
            if not person.peak_by_part.keys().isdisjoint(other.peak_by_part):
                continue
            person.peak_by_part |= other.peak_by_part
            person.limb_score += other.limb_score
            person_of.update(dict.fromkeys(other.peak_by_part.values(), person))
        person.limb_score += score
    people = {id(person): person for person in person_of.values()}.values()
    scored = [(_mean_score(person, peaks), person) for person in people]
    likely = [
        (score, person)
        for score, person in scored
        if len(person.peak_by_part) >= thresholds.parts and score >= thresholds.person
    ]
    likely.sort(key=lambda pair: pair[0] * len(pair[1].peak_by_part), reverse=True)
    keypoints = np.zeros((len(likely), part_count, 3), np.float32)
    for row, (_, person) in zip(keypoints, likely, strict=True):
        for number, peak in person.peak_by_part.items():
            row[number] = (*peaks.xy[peak], peaks.score[peak])
    return keypoints


def _mean_score(person: _Person, peaks: Peaks) -> float:
    members = list(person.peak_by_part.values())
    return (float(peaks.score[members].sum()) + person.limb_score) / len(members)


def find_points(heatmaps_CHW: Array, upsampling: int = UPSAMPLING, threshold: float = 0.1) -> Array:
    """Find one point per heatmap, at its maximum, for one hand or face.

    Returns:
        Float32 of 1 x points x (x, y, score), a point not above the threshold being all zeros;
        0 x points x 3 where no point is above it.
    """
    points = np.zeros((1, len(heatmaps_CHW), 3), np.float32)
    for point, heatmap in zip(points[0], heatmaps_CHW, strict=True):
        enlarged = _enlarge(heatmap, upsampling)
        row, column = np.unravel_index(enlarged.argmax(), enlarged.shape)
        if enlarged[row, column] > threshold:
            cell = _refine(enlarged, np.array([row]), np.array([column]))[0]
            point[:2] = (cell + 0.5) * (STRIDE / upsampling) - 0.5
            point[2] = enlarged[row, column]
    return points[points[..., 2].any(axis=1)]
