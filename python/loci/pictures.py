"""What a run makes of images: `loci predict RUN --images DIR --pictures --json`, kept as RUN/pictures.json.

The images as the network got them, reconstructions, a map of the rows that each position read, and where non-local
blocks look. `loci eval RUN --pictures N --json` prints the same of test samples that a task makes."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loci.attention import Line, Query, queries_of
from loci.figures import STYLE, png
from loci.runs import PrintedError, Record, Run, number, read_printed

FILE = "pictures.json"
SHOWN = 12  # images
HEADS = 4  # with a panel of their own

Pixels = npt.NDArray[np.uint8]
Map = npt.NDArray[np.int64]  # [height, width] rows


class Picture:
    """An image, perhaps its reconstruction, and the rows that carry most weight at each position: of all heads, and of
    each."""

    def __init__(self, record: Any):
        if not isinstance(record, dict) or not isinstance(record.get("picture"), dict):
            raise PrintedError("each image must have a picture")
        picture = record["picture"]
        self.name = str(record.get("file", ""))
        self.said = said_of(record)
        self.frames = frames_of(picture)
        self.attention = queries_of(picture["attention"]) if "attention" in picture else []
        self.reconstruction = pixels_of(picture["reconstruction"]) if "reconstruction" in picture else None
        self.maps = maps_of(picture["rows"]) if "rows" in picture else []


def frames_of(picture: Record) -> list[Pixels]:
    """Those of a clip, or one image."""
    frames = picture.get("frames", [picture.get("image")])
    if not isinstance(frames, list) or not frames:
        raise PrintedError("frames must be a list of images")
    return [pixels_of(frame) for frame in frames]


def said_of(record: Record) -> str:
    """What the network says of an image, in short."""
    if isinstance(record.get("class"), str):
        truth = f" ({record['truth']})" if isinstance(record.get("truth"), str) else ""
        return f"{record['class']}{truth}, {100 * number(record.get('probability')):.0f} %"
    if "psnr" in record:
        return f"{number(record['psnr']):.1f} dB"
    return ""


def pixels_of(record: Any) -> Pixels:
    """Pixels [height, width, 3]."""
    if not isinstance(record, dict) or not isinstance(record.get("pixels"), str):
        raise PrintedError("pixels must be hexadecimal digits")
    shape = [whole(record, key) for key in ("height", "width", "channels")]
    try:
        data = bytes.fromhex(record["pixels"])
    except ValueError:
        raise PrintedError("pixels must be hexadecimal digits") from None
    if shape[2] not in (1, 3) or len(data) != math.prod(shape):
        raise PrintedError("pixels must be height x width x channels bytes")
    return np.broadcast_to(np.frombuffer(data, np.uint8).reshape(shape), (*shape[:2], 3))


def whole(record: Record, key: str) -> int:
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise PrintedError(f"{key} must be a number of at least 1")
    return value


def maps_of(record: Any) -> list[Map]:
    if not isinstance(record, dict):
        raise PrintedError("rows must be a map")
    shape = tuple(whole(record, key) for key in ("height", "width", "heads", "top_k"))
    lists = [record.get(key) for key in ("index", "weight")]
    if not all(isinstance(values, list) and len(values) == math.prod(shape) for values in lists):
        raise PrintedError("index and weight must be height x width x heads x top_k numbers")
    try:
        index = np.array(lists[0], np.int64).reshape(shape)
        weight = np.array(lists[1], np.float64).reshape(shape)
    except (ValueError, TypeError, OverflowError):
        raise PrintedError("index and weight must be numbers") from None
    heads = [np.take_along_axis(index[:, :, h], weight[:, :, h].argmax(-1)[..., None], -1)[..., 0]
             for h in range(shape[2])]  # fmt: skip
    return [heaviest(index, weight), *heads] if shape[2] > 1 else heads


def heaviest(index: Map, weight: npt.NDArray[np.float64]) -> Map:
    """At each position the row with most weight, those of all heads together; of equals the lowest."""
    height, width = index.shape[:2]
    result = np.zeros((height, width), np.int64)
    for y in range(height):
        for x in range(width):
            rows, place = np.unique(index[y, x], return_inverse=True)
            result[y, x] = rows[np.bincount(place.ravel(), weight[y, x].ravel()).argmax()]
    return result


def read_pictures(run: Run) -> list[Picture]:
    """Those in the run's folder that are whole. Notes of the run say what is wrong with the others."""
    records = read_printed(run, FILE, records_in)
    pictures, wrong = [], []
    for record in records or []:
        try:
            pictures.append(Picture(record))
        except PrintedError as error:
            wrong.append(str(error))
    if records and wrong:
        run.notes.append(f"{len(wrong)} of {len(records)} images of {FILE} could not be read: {wrong[0]}")
    return pictures


def records_in(read: Any) -> list[Any]:
    account = read.get("account") if isinstance(read, dict) else None  # of loci eval
    records = (account if isinstance(account, dict) else read).get("images") if isinstance(read, dict) else None
    if not isinstance(records, list):
        raise PrintedError("it must be the output of loci predict --pictures --json")
    return records


def colour_of_row(row: int) -> tuple[float, float, float]:
    """The same in every picture: hues in steps of the golden ratio, so that neighbours differ, in nine shades."""
    shade = row % 9
    return colorsys.hsv_to_rgb(
        (row * 0.6180339887498949) % 1, (0.9, 0.65, 0.4)[shade % 3], (0.95, 0.75, 0.55)[shade // 3]
    )


def pictures_figure(pictures: list[Picture]) -> bytes:
    """A line for each image: the image, its reconstruction, and maps whose colours are rows."""
    shown = pictures[:SHOWN]
    panels = [panels_of(picture) for picture in shown]
    columns = max(len(of_one) for of_one in panels)
    with matplotlib.rc_context(STYLE | {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(1.7 * columns, 1.95 * len(shown)), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.08)  # a title of two lines would lose its top
        grid = figure.subplots(len(shown), columns, squeeze=False)
        for line, of_one in zip(grid, panels, strict=True):
            for axes, (title, cells) in zip(line, of_one, strict=False):
                draw(axes, title, cells)
            for axes in line[len(of_one) :]:
                axes.set_visible(False)
        return png(figure)


def attention_lines(found: list[Picture]) -> list[Line]:
    """For attention_figure(). An image has a line for each block, with its queries beside each other; a clip one for
    each query, those to which the blocks add most first."""
    images, clips = [], []
    for picture in found:
        said = f"{short(picture.name)}: {picture.said}" if picture.said else short(picture.name)
        blocks: dict[str, list[Query]] = {}
        for query in picture.attention:
            blocks.setdefault(query.block, []).append(query)
        for block, queries in blocks.items():
            if len(picture.frames) == 1:
                adds = ", ".join(f"{query.adds:.2f}" for query in queries)
                title = f"{said}\n{block} adds {adds} of its input at the rings"
                images.append(Line(title, [(picture.frames[0], 0, 1, query) for query in queries]))
                continue
            for place, query in enumerate(queries):
                title = f"{said}\n{block} adds {query.adds:.2f} of its input at the ring"
                count = len(picture.frames)
                clips.append((place, Line(title, [(frame, i, count, query) for i, frame in enumerate(picture.frames)])))
    return images + [line for _, line in sorted(clips, key=lambda clip: clip[0])]


def panels_of(picture: Picture) -> list[tuple[str, npt.NDArray[Any]]]:
    panels: list[tuple[str, npt.NDArray[Any]]] = [(short(picture.name), picture.frames[0])]
    panels += [("", frame) for frame in picture.frames[1:]]
    if picture.reconstruction is not None:
        panels.append((picture.said, picture.reconstruction))
    elif picture.said:
        panels[0] = (f"{short(picture.name)}\n{picture.said}", picture.frames[0])
    for place, rows in enumerate(picture.maps[: HEADS + 1]):
        heads = "" if len(picture.maps) == 1 else "all heads: " if place == 0 else f"head {place}: "
        colours = np.array([colour_of_row(int(row)) for row in rows.ravel()]).reshape(*rows.shape, 3)
        panels.append((f"{heads}{np.unique(rows).size} rows", colours))
    return panels


def draw(axes: Axes, title: str, cells: npt.NDArray[Any]) -> None:
    axes.imshow(cells, interpolation="nearest")
    axes.set_title(title, loc="left", fontsize=7, color="#555555", parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])


def short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else "..." + name[3 - most :]
