#!/usr/bin/env python3
"""Clips of drawn characters in action, as folders of frames, from sheets of the Liberated Pixel Cup (LPC).

PACK holds body/, legs/, torso/ and hair/ with sheets of 13 x 21 cells of 64 x 64: rows of spellcast, thrust, walk,
slash and shoot in four directions, and one of hurt. A character is a body with garments and hair of one sex, laid over
each other on grey; a clip is one action in one direction, 8 frames evenly spread over the row's. OUT gets
train/CLASS/CLIP/000001.png and test/CLASS/CLIP/000001.png. Bodies and garments of the test are none of those of
training, so that what is learned is the movement. Hair may be the same.

  --set action   six classes, the actions
  --set order    two classes, forward and reversed: the same clips of walk, slash, shoot and hurt, their frames in order
                 or in the opposite order. No single frame and no set of frames tells the classes apart

  sprite_clips.py --set action lpc-sprites clips/action
"""

import argparse
import random
import sys
from pathlib import Path

from PIL import Image

CELL, SHEET, FRAMES = 64, (832, 1344), 8
GREY = (128, 128, 128, 255)
# First row and number of frames.
ACTIONS = {"hurt": (20, 6), "shoot": (16, 13), "slash": (12, 6), "spellcast": (0, 7), "thrust": (4, 8), "walk": (8, 9)}
ORDERED = ("hurt", "shoot", "slash", "walk")
DIRECTIONS = 4  # of all actions but hurt

BODIES = {"train": "light dark dark2 darkelf darkelf2".split(), "test": "orc red_orc tanned tanned2".split()}
# Sheets that have all rows, by part and sex; "SEX" stands for it.
LEGS = {
    "train": ["pants/SEX/magenta_pants_SEX", "pants/SEX/red_pants_SEX", "pants/SEX/white_pants_SEX",
              "armor/SEX/golden_greaves_SEX"],
    "test": ["pants/SEX/teal_pants_SEX", "armor/SEX/metal_pants_SEX"],
}  # fmt: skip
TORSOS = {
    "train": {
        "female": ["shirts/sleeveless/female/brown_sleeveless", "shirts/sleeveless/female/maroon_sleeveless",
                   "shirts/sleeveless/female/white_sleeveless", "tunics/female/brown_tunic",
                   "tunics/female/maroon_tunic", "tunics/female/white_tunic", "chain/mail_female",
                   "gold/chest_female"],
        "male": ["shirts/longsleeve/male/brown_longsleeve", "shirts/longsleeve/male/maroon_longsleeve",
                 "shirts/longsleeve/male/white_longsleeve", "chain/mail_male", "gold/chest_male"],
    },
    "test": {
        "female": ["shirts/sleeveless/female/teal_sleeveless", "tunics/female/teal_tunic", "leather/chest_female",
                   "plate/chest_female"],
        "male": ["shirts/longsleeve/male/teal_longsleeve", "leather/chest_male", "plate/chest_male"],
    },
}  # fmt: skip


class BadInput(Exception):
    """What is wrong with a file or folder, in one line."""


class Sheets:
    """The pack's sheets, each read once."""

    def __init__(self, pack):
        self.pack, self.sheets = pack, {}
        self.hair = {sex: self.hair_of(sex) for sex in ("female", "male")}

    def hair_of(self, sex):
        folder = self.pack / "hair" / sex
        found = sorted(path.relative_to(self.pack).with_suffix("").as_posix() for path in folder.glob("*/*.png"))
        if not found:
            raise BadInput(f"{folder}: the folder must hold STYLE/COLOUR.png, got none")
        return found

    def cell(self, name, row, column):
        if name not in self.sheets:
            path = self.pack / f"{name}.png"
            try:
                with Image.open(path) as image:
                    self.sheets[name] = image.convert("RGBA")
            except (OSError, ValueError, SyntaxError) as error:
                raise BadInput(f"{path}: the file must be a whole PNG image, got {error}") from None
            if self.sheets[name].size != SHEET:
                size = "{} x {}".format(*self.sheets[name].size)
                raise BadInput(f"{path}: a sheet must be {SHEET[0]} x {SHEET[1]}, got {size}")
        left, top = CELL * column, CELL * row
        return self.sheets[name].crop((left, top, left + CELL, top + CELL))


def draw_character(draw, part, hair):
    """Names of the sheets, the lowest first."""
    sex = draw.choice(("female", "male"))
    return (
        f"body/{sex}/{draw.choice(BODIES[part])}",
        f"legs/{draw.choice(LEGS[part])}".replace("SEX", sex),
        f"torso/{draw.choice(TORSOS[part][sex])}",
        draw.choice(hair[sex]),
    )


def draw_clips(draw, part, actions, count, hair):
    """`count` different pairs (character, action, direction), the actions in turn."""
    clips = {}
    while len(clips) < count:
        action = actions[len(clips) % len(actions)]
        direction = 0 if action == "hurt" else draw.randrange(DIRECTIONS)
        clips[draw_character(draw, part, hair), action, direction] = None
    return list(clips)


def frames_of(sheets, character, action, direction):
    first, length = ACTIONS[action]
    frames = []
    for i in range(FRAMES):
        frame = Image.new("RGBA", (CELL, CELL), GREY)
        for name in character:
            frame.alpha_composite(sheets.cell(name, first + direction, i * length // FRAMES))
        frames.append(frame.convert("RGB"))
    return frames


def write_clip(folder, frames):
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames, start=1):
        frame.save(folder / f"{i:06}.png")


def write_set(sheets, out, kind, counts, seed):
    for part, count in counts.items():
        for of_class in ACTIONS if kind == "action" else ("order",):
            draw = random.Random(f"{seed} {kind} {part} {of_class}")
            actions = ORDERED if kind == "order" else (of_class,)
            for i, clip in enumerate(draw_clips(draw, part, actions, count, sheets.hair)):
                frames = frames_of(sheets, *clip)
                if kind == "action":
                    write_clip(out / part / of_class / f"{i:05}", frames)
                else:
                    write_clip(out / part / "forward" / f"{i:05}", frames)
                    write_clip(out / part / "reversed" / f"{i:05}", frames[::-1])


def at_least_one(text):
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("action", "order"), required=True)
    parser.add_argument("--clips", type=at_least_one, default=120, help="of each class, to train on (120)")
    parser.add_argument("--test-clips", type=at_least_one, default=60, help="of each class, to test with (60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        parser.error(f"{arguments.out}: OUT must be a new or an empty folder")
    try:
        counts = {"train": arguments.clips, "test": arguments.test_clips}
        write_set(Sheets(arguments.pack), arguments.out, arguments.set, counts, arguments.seed)
    except BadInput as error:
        print(f"sprite_clips: {error}", file=sys.stderr)
        sys.exit(3)
    except OSError as error:
        print(f"sprite_clips: {error}", file=sys.stderr)
        sys.exit(4)


if __name__ == "__main__":
    main()
