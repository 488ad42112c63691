"""Images with maps of the rows that their positions read, reconstructions, and trajectories of poses."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from loci.attention import draw_frame
from loci.places import plan_figure
from loci.poses import floor_axes
from loci.report import main
from matplotlib.figure import Figure
from matplotlib.image import imread

from loci import pictures, poses

EDGE, MAP, HEADS, TOP_K = 8, 4, 2, 3


def run_with(folder: Path, name: str, content: Any) -> Path:
    run = synthetic.write_run(folder / "run", synthetic.records("memory", 1, steps=20, evaluations=2))
    (run / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return run


def page_of(run: Path) -> str:
    assert main([str(run), "--out", str(run / "page.html")]) == 0
    return (run / "page.html").read_text()


def picture_in(page: str, alt: str) -> bytes:
    (data,) = re.findall(rf'alt="{alt}" src="data:image/[a-z+]+;base64,([^"]+)"', page)
    return base64.b64decode(data)


def pixels(value: int, channels: int = 3) -> dict[str, Any]:
    return {"height": EDGE, "width": EDGE, "channels": channels, "pixels": f"{value:02x}" * (EDGE * EDGE * channels)}


def rows() -> dict[str, Any]:
    """Head 0 reads row 5 with most weight in the upper half, row 6 in the lower; head 1 everywhere row 7."""
    index = np.zeros((MAP, MAP, HEADS, TOP_K), int)
    weight = np.zeros(index.shape)
    index[..., 0, :] = [1, 2, 5]
    index[2:, :, 0, 2] = 6
    weight[:2, :, 0] = [0.1, 0.2, 0.7]
    weight[2:, :, 0] = [0.3, 0.2, 0.5]
    index[..., 1, :] = [7, 1, 2]
    weight[..., 1, :] = [0.5, 0.45, 0.05]
    shape = {"height": MAP, "width": MAP, "heads": HEADS, "top_k": TOP_K}
    return shape | {"index": index.ravel().tolist(), "weight": weight.ravel().tolist()}


def images(count: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "file": f"cat/{i}.png",
            "class": "cat",
            "probability": 0.9,
            "picture": {"image": pixels(40 * i), "rows": rows()},
        }
        for i in range(count)
    ]


def test_a_map_shows_the_row_of_most_weight() -> None:
    together, first, second = pictures.Picture(images()[0]).maps
    assert (first[:2] == 5).all() and (first[2:] == 6).all() and (second == 7).all()
    # Row 1 is read by both heads: 0.1 + 0.45 is less than 0.7 of row 5, 0.3 + 0.45 more than 0.5 of row 6.
    assert (together[:2] == 5).all() and (together[2:] == 1).all()


def test_the_same_row_has_the_same_colour_and_neighbours_differ() -> None:
    colours = [pictures.colour_of_row(row) for row in range(200)]
    assert colours == [pictures.colour_of_row(row) for row in range(200)]
    for row in range(199):
        assert max(abs(a - b) for a, b in zip(colours[row], colours[row + 1], strict=True)) > 0.15, row


def test_images_and_maps_are_drawn(tmp_path: Path) -> None:
    page = page_of(run_with(tmp_path, pictures.FILE, {"images": images()}))
    assert "Images of run" in page and "its colour names the row" in page and "reconstructions" not in page
    drawn = imread(io.BytesIO(picture_in(page, "images")))
    for row in (1, 5, 6, 7):
        close = np.abs(drawn[..., :3] - pictures.colour_of_row(row)).max(-1) < 0.02
        assert close.sum() > 1000, row


def test_reconstructions_stand_beside_images(tmp_path: Path) -> None:
    one = {"file": "x.png", "psnr": 21.5, "picture": {"image": pixels(200, 1), "reconstruction": pixels(90, 1)}}
    page = page_of(run_with(tmp_path, pictures.FILE, {"images": [one] * (pictures.SHOWN + 1)}))
    assert "reconstructions" in page and "its colour names the row" not in page
    assert f"The first {pictures.SHOWN} of {pictures.SHOWN + 1} images" in page
    drawn = imread(io.BytesIO(picture_in(page, "images")))
    for grey in (200, 90):
        assert (np.abs(drawn[..., :3] - grey / 255).max(-1) < 0.01).sum() > 1000


def clip() -> dict[str, Any]:
    """Two frames; the block's first query looks at the lower right quarter of the second one alone."""
    weight = [0.0] * 8
    weight[7] = 1.0
    queries = [{"at": [0, 0, 0], "adds": 0.8, "weight": weight}, {"at": [1, 2, 3], "adds": 0.5, "weight": [0.125] * 8}]
    block = {"block": "layer3.1", "map": [2, 4, 4], "keys": [2, 2, 2], "queries": queries}
    picture = {"frames": [pixels(0, 1), pixels(0, 1)], "attention": [block]}
    return {"file": "sample 0", "class": "the same", "truth": "different", "probability": 0.75, "picture": picture}


def test_where_blocks_look_is_drawn_over_the_frames(tmp_path: Path) -> None:
    page = page_of(run_with(tmp_path, pictures.FILE, {"account": {"images": [clip()]}}))
    assert "Where the blocks of run look" in page
    found = pictures.Picture(clip())
    assert found.said == "the same (different), 75 %" and len(found.frames) == 2
    lines = pictures.attention_lines([found, found])
    assert [line.panels[0][3].adds for line in lines] == [0.8, 0.8, 0.5, 0.5]
    assert lines[0].title.endswith("layer3.1 adds 0.80 of its input at the ring")
    figure = Figure()
    for place, axes in enumerate(figure.subplots(1, 2)):
        draw_frame(axes, *lines[0].panels[place])
        weights = axes.images[1].get_array()
        assert weights.shape == (2, 2) and weights.sum() == place and weights[1, 1] == place
        assert len(axes.lines) == 1 - place
        if place == 0:
            assert axes.lines[0].get_xydata().tolist() == [[0.5, 0.5]]  # the centre of a cell of two pixels


def test_an_image_has_its_queries_beside_each_other() -> None:
    one = clip()
    one["picture"]["image"] = one["picture"].pop("frames")[0]
    (line,) = pictures.attention_lines([pictures.Picture(one)])
    assert line.title.endswith("adds 0.80, 0.50 of its input at the rings")
    assert [panel[3].adds for panel in line.panels] == [0.8, 0.5]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"map": [2, 4]}, "map must be frames, height and width"),
        ({"keys": [2, 2, 0]}, "keys must be frames, height and width of at least 1"),
        ({"keys": [2, 2, 3]}, "the weights of a query must be one for each key"),
        ({"queries": 3}, "each block must have queries"),
        ({"queries": [{"at": [2, 0, 0], "weight": [0.1] * 8}]}, "a query must be at a position of its map"),
        ({"queries": [{"at": [0, 0, 0], "weight": ["x"] * 8}]}, "the weights of a query must be numbers"),
    ],
)
def test_strange_attention_becomes_a_note(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    damaged = clip()
    damaged["picture"]["attention"][0] |= change
    page = page_of(run_with(tmp_path, pictures.FILE, {"images": [clip(), damaged]}))
    assert f"1 of 2 images of pictures.json could not be read: {words}" in page and 'alt="attention"' in page


def broken(change: str) -> Any:
    found = copy.deepcopy(images())
    picture = found[1]["picture"]
    match change:
        case "no list":
            return {"images": 3}
        case "no picture":
            del found[1]["picture"]
        case "digits":
            picture["image"]["pixels"] = "zz" + picture["image"]["pixels"][2:]
        case "short":
            picture["image"]["pixels"] = picture["image"]["pixels"][2:]
        case "height":
            picture["image"]["height"] = -EDGE
        case "index":
            picture["rows"]["index"] = picture["rows"]["index"][1:]
        case "words":
            picture["rows"]["index"] = ["x"] * len(picture["rows"]["index"])
        case "huge":
            picture["rows"]["index"][0] = 10**30
    return {"images": found}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("no list", "pictures.json could not be read: it must be the output of loci predict --pictures --json"),
        ("no picture", "1 of 2 images of pictures.json could not be read: each image must have a picture"),
        ("digits", "pixels must be hexadecimal digits"),
        ("short", "pixels must be height x width x channels bytes"),
        ("height", "height must be a number of at least 1"),
        ("index", "index and weight must be height x width x heads x top_k numbers"),
        ("words", "index and weight must be numbers"),
        ("huge", "index and weight must be numbers"),
    ],
)
def test_a_damaged_image_becomes_a_note_and_the_others_are_drawn(tmp_path: Path, change: str, words: str) -> None:
    page = page_of(run_with(tmp_path, pictures.FILE, broken(change)))
    assert words in page and page.count("could not be read") == 1
    assert ('alt="images"' in page) == (change != "no list") and 'alt="loss by units"' in page


@pytest.mark.parametrize("name", [pictures.FILE, poses.FILE])
@pytest.mark.parametrize(
    "content", ['{"images": [', "[" * 200_000, "\0\1", ""], ids=["half", "deep", "binary", "empty"]
)
def test_half_a_file_becomes_a_note(tmp_path: Path, name: str, content: str) -> None:
    page = page_of(run_with(tmp_path, name, content))
    assert f"{name} could not be read" in page and 'alt="loss by units"' in page


def test_every_picture_of_the_page_becomes_a_file(tmp_path: Path) -> None:
    run = run_with(tmp_path, pictures.FILE, {"images": images()})
    assert main([str(run), "--out", str(tmp_path / "page.html"), "--pictures", str(tmp_path / "made")]) == 0
    page = (tmp_path / "page.html").read_text()
    names = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert len(names) == page.count("<img ") and names[0] == "01-loss-by-units.svg"
    (drawn,) = [name for name in names if name.endswith("-images.png")]
    assert (tmp_path / "made" / drawn).read_bytes() == picture_in(page, "images")
    assert main([str(run), "--out", str(tmp_path / "page.html"), "--pictures", str(tmp_path / "page.html")]) == 2


def account(up: int = 2) -> dict[str, Any]:
    """Two paths on a floor whose height is axis `up`."""
    around = np.linspace(0, 6, 40)
    true = np.stack([3 * np.cos(around), 2 * np.sin(around), 1 + 0.1 * np.sin(around)], axis=1)
    true = np.insert(true[:, :2], up, true[:, 2], axis=1)
    paths = [8] * 20 + [9] * 20
    return {"poses": {"paths": paths, "true": true.tolist(), "predicted": (true + 0.3).tolist()}}


def test_trajectories_are_drawn(tmp_path: Path) -> None:
    page = page_of(run_with(tmp_path, poses.FILE, {"account": account()}))
    assert "Trajectories of run" in page and b"<svg" in picture_in(page, "trajectories")
    assert "images" not in re.findall(r'alt="([^"]+)"', page)


def test_the_floor_is_where_the_camera_moves() -> None:
    for up, floor in ((2, (0, 1)), (1, (0, 2)), (0, (1, 2))):
        assert floor_axes(np.array(account(up)["poses"]["true"])) == floor
    kitchen = {
        "positions": [[x, 0.01 * x, 5 - x] for x in range(4)],
        "shown": [{"row": 1, "mass_of_frames": [0, 1, 0, 1]}],
    }
    assert b"<svg" in plan_figure(kitchen)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"paths": []}, "it must be the output of loci eval --poses --json"),
        ({"true": [[0, 0, 0]]}, "true must have a position of each frame"),
        ({"predicted": [[0, 0]] * 40}, "positions must be lists of three numbers"),
        ({"predicted": [[0, 0, None]] * 40}, "positions must be lists of three numbers"),
    ],
)
def test_strange_poses_become_a_note(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    found = account()
    found["poses"] |= change
    page = page_of(run_with(tmp_path, poses.FILE, {"account": found}))
    assert f"poses.json could not be read: {words}" in page and "Trajectories" not in page
