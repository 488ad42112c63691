"""tools/sprite_clips.py: which cells become frames, how the parts differ, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.insert(0, str(TOOLS))
import sprite_clips  # noqa: E402

FIRST, LENGTH = {"hurt": 20, "walk": 8, "thrust": 4}, {"hurt": 6, "walk": 9, "thrust": 8}


def run(*arguments):
    return subprocess.run(
        [sys.executable, TOOLS / "sprite_clips.py", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def put_sheet(pack, name, number):
    """Transparent but for one pixel of each cell, at (`number`, 0): its colour says which cell it is."""
    sheet = Image.new("RGBA", sprite_clips.SHEET)
    for row in range(21):
        for column in range(13):
            sheet.putpixel((64 * column + number, 64 * row), (row, column, 200 + number, 255))
    path = pack / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sprites")
    for part in ("train", "test"):
        for sex in ("female", "male"):
            for body in sprite_clips.BODIES[part]:
                put_sheet(folder, f"body/{sex}/{body}", 0 if part == "train" else 10)
            for legs in sprite_clips.LEGS[part]:
                put_sheet(folder, f"legs/{legs}".replace("SEX", sex), 1 if part == "train" else 11)
            for torso in sprite_clips.TORSOS[part][sex]:
                put_sheet(folder, f"torso/{torso}", 2 if part == "train" else 12)
            put_sheet(folder, f"hair/{sex}/plain/black", 3)
    return folder


def cells_of(clip, x):
    """(row, column) of the sheet whose pixel is at (x, 0), in each frame; a frame without it is None."""
    found = []
    for path in sorted(clip.iterdir()):
        with Image.open(path) as frame:
            assert frame.size == (64, 64) and frame.mode == "RGB"
            row, column, mark = frame.getpixel((x, 0))
            assert frame.getpixel((40, 40)) == (128, 128, 128)
            found.append((row, column) if mark == 200 + x else None)
    return found


def test_an_action_is_eight_frames_of_its_row(pack, tmp_path):
    result = run("--set", "action", "--clips", 6, "--test-clips", 2, pack, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out/train").iterdir()) == sorted(sprite_clips.ACTIONS)
    directions = set()
    for action, first in FIRST.items():
        clips = sorted((tmp_path / "out/train" / action).iterdir())
        assert len(clips) == 6 and len(list((tmp_path / "out/test" / action).iterdir())) == 2
        for clip in clips:
            cells = cells_of(clip, 0)
            rows = {row for row, _ in cells}
            assert len(rows) == 1
            directions.add(rows.pop() - first)
            assert [column for _, column in cells] == [i * LENGTH[action] // 8 for i in range(8)]
            # Legs, torso and hair show the same cell.
            assert cells_of(clip, 1) == cells_of(clip, 2) == cells_of(clip, 3) == cells
    assert directions == {0, 1, 2, 3}


def test_bodies_and_garments_are_of_one_part(pack, tmp_path):
    assert run("--set", "action", "--clips", 4, "--test-clips", 4, pack, tmp_path / "out").returncode == 0
    for part, own, others in (("train", (0, 1, 2), (10, 11, 12)), ("test", (10, 11, 12), (0, 1, 2))):
        for clip in (tmp_path / "out" / part).glob("*/*"):
            for x in own:
                assert None not in cells_of(clip, x)
            for x in others:
                assert set(cells_of(clip, x)) == {None}
    for names in (sprite_clips.BODIES, sprite_clips.LEGS, *({p: t[p][s] for p in t} for t in [sprite_clips.TORSOS]
                                                            for s in ("female", "male"))):  # fmt: skip
        assert not set(names["train"]) & set(names["test"])


def test_an_order_is_the_same_frames_both_ways(pack, tmp_path):
    assert run("--set", "order", "--clips", 8, "--test-clips", 4, pack, tmp_path / "out").returncode == 0
    for part, count in (("train", 8), ("test", 4)):
        forward = sorted((tmp_path / "out" / part / "forward").iterdir())
        assert len(forward) == count
        for clip in forward:
            frames = [path.read_bytes() for path in sorted(clip.iterdir())]
            turned = tmp_path / "out" / part / "reversed" / clip.name
            assert [path.read_bytes() for path in sorted(turned.iterdir())] == frames[::-1] != frames
    rows = {cells_of(clip, 0)[0][0] for clip in (tmp_path / "out/train/forward").iterdir()}
    assert 20 in rows and {row // 4 for row in rows} == {2, 3, 4, 5}  # each of the four actions


def test_a_seed_keeps_its_clips(pack, tmp_path):
    def bytes_of(name, *more):
        assert run("--set", "order", "--clips", 5, "--test-clips", 1, *more, pack, tmp_path / name).returncode == 0
        return [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.png"))]

    assert bytes_of("a") == bytes_of("b") != bytes_of("c", "--seed", 1)


def test_what_is_no_pack_is_named(pack, tmp_path):
    result = run("--set", "order", tmp_path, tmp_path / "out")
    assert result.returncode == 3 and "hair/female: the folder must hold STYLE/COLOUR.png, got none" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "out").exists()
    small = tmp_path / "pack"
    for sex in ("female", "male"):
        for body in sprite_clips.BODIES["train"]:
            (small / "body" / sex).mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (64, 64)).save(small / "body" / sex / f"{body}.png")
        put_sheet(small, f"hair/{sex}/plain/black", 3)
    result = run("--set", "order", small, tmp_path / "out")
    assert result.returncode == 3 and "a sheet must be 832 x 1344, got 64 x 64" in result.stderr
    for path in small.glob("body/*/*.png"):
        path.write_bytes(path.read_bytes()[:60])
    result = run("--set", "order", small, tmp_path / "out")
    assert result.returncode == 3 and "the file must be a whole PNG image" in result.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    result = run("--set", "order", pack, tmp_path / "full")
    assert result.returncode == 2 and "OUT must be a new or an empty folder" in result.stderr
    assert run("--set", "order", "--clips", 0, pack, tmp_path / "out").returncode == 2
