#!/usr/bin/env python3
"""Draws docs/product-key-memory.svg: how one token finds and reads its rows. The pairs and rows in it are computed.

Usage: tools/draw_memory.py > docs/product-key-memory.svg
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

SCORES = ((0.2, 0.9, 0.1, 1.4, -0.3, 0.6, -0.8, 0.4), (0.5, -0.6, 1.1, 0.0, 0.8, -0.2, 0.3, -0.9))  # sub-keys of a half
TOP_K = 4
INK, FAINT, FIRST, SECOND, BEST = "#22313f", "#d7dde3", "#1f6f8b", "#8a5a9e", "#c8553d"
WIDTH, HEIGHT, CELL = 980, 330, 20


@dataclass
class Picture:
    parts: list[str] = field(default_factory=list)

    def box(self, x: float, y: float, width: float, height: float, fill: str, stroke: str = "none") -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="2" fill="{fill}" stroke="{stroke}"/>'
        )

    def text(self, x: float, y: float, words: str, size: int = 13, colour: str = INK, anchor: str = "middle") -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def arrow(self, x1: float, y1: float, x2: float, y2: float, colour: str = INK, width: float = 1.5) -> None:
        self.parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" stroke-width="{width:g}" '
            f'marker-end="url(#tip)"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> None:
        self.parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" stroke-width="{width:g}"/>'
        )

    def svg(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
            'role="img" '
            'aria-label="A query is cut in two; each half is compared with a list of sub-keys; the best pairs name the '
            'rows of a table; their weighted sum is the output">'
        )
        tip = (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker></defs>'
        )
        return "\n".join([head, tip, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *self.parts, "</svg>"])


def ranked(scores: tuple[float, ...]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:TOP_K]


def best_pairs() -> list[tuple[int, int]]:
    pairs = [(i, j) for i in range(len(SCORES[0])) for j in range(len(SCORES[1]))]
    return sorted(pairs, key=lambda pair: -(SCORES[0][pair[0]] + SCORES[1][pair[1]]))[:TOP_K]


def draw_query(picture: Picture) -> None:
    picture.text(50, 150, "token")
    picture.box(28, 158, 44, 22, FAINT)
    picture.arrow(74, 169, 112, 169)
    picture.text(140, 60, "query")
    picture.box(126, 70, 28, 98, FIRST)
    picture.box(126, 170, 28, 98, SECOND)
    picture.text(140, 123, "q1", colour="white")
    picture.text(140, 223, "q2", colour="white")


def draw_sub_keys(picture: Picture, half: int, top: float) -> None:
    colour = (FIRST, SECOND)[half]
    chosen = ranked(SCORES[half])
    picture.arrow(158, (119, 219)[half], 208, top + 52)
    for i, score in enumerate(SCORES[half]):
        y = top + 13 * i
        picture.box(214, y, 46, 10, colour if i in chosen else FAINT)
        picture.box(264, y, max(2, 26 * (score + 1)), 10, colour if i in chosen else FAINT)
    picture.text(262, top - 8, f"sub-keys {half + 1}: scores", size=12)


def draw_pairs(picture: Picture, left: float, top: float) -> None:
    rows, columns = (ranked(scores) for scores in SCORES)
    best = best_pairs()
    for i in range(len(SCORES[0])):
        for j in range(len(SCORES[1])):
            fill = BEST if (i, j) in best else "#f0d9d3" if i in rows and j in columns else "white"
            picture.box(left + CELL * j, top + CELL * i, CELL - 2, CELL - 2, fill, FAINT)
    picture.text(left + CELL * 4, top - 22, "pairs: score = s1 + s2", size=12)
    picture.text(left + CELL * 4, top - 7, f"the {TOP_K} best of all, found exactly", size=12, colour=BEST)


def draw_table(picture: Picture, left: float, top: float) -> None:
    """The read rows in the order of the table, a gap where many rows are left out."""
    columns = len(SCORES[1])
    pairs = sorted(best_pairs(), key=lambda pair: pair[0] * columns + pair[1])
    picture.text(left + 60, top - 7, "table: millions of rows", size=12)
    for n, (i, j) in enumerate(pairs):
        y = top + 46 * n
        for k in (0, 2):
            picture.box(left, y + 12 * k, 120, 9, FAINT)
        picture.box(left, y + 12, 120, 9, BEST)
        picture.line(560, 62 + CELL * i + 9, left - 4, y + 16, BEST, 0.8)
        picture.text(left + 60, y + 20, f"row {i * columns + j}", size=9, colour="white")
        picture.arrow(left + 124, y + 16, 838, 160, BEST, 1.2)


def main() -> None:
    picture = Picture()
    draw_query(picture)
    draw_sub_keys(picture, 0, 56)
    draw_sub_keys(picture, 1, 188)
    picture.arrow(350, 110, 386, 130)
    picture.arrow(350, 240, 386, 200)
    draw_pairs(picture, 396, 62)
    draw_table(picture, 640, 62)
    picture.parts.append(f'<circle cx="860" cy="164" r="18" fill="white" stroke="{INK}" stroke-width="1.5"/>')
    picture.text(860, 170, "Σ", size=18)
    picture.text(892, 204, "weights: softmax of scores", size=12)
    picture.arrow(880, 164, 914, 164)
    picture.box(918, 153, 44, 22, FAINT)
    picture.text(940, 148, "output")
    picture.text(
        WIDTH / 2,
        HEIGHT - 22,
        "2 x 1,024 sub-keys reach 1,048,576 rows: the search costs the square root of the table, "
        "and training touches only the rows that were read.",
        size=13,
    )
    print(picture.svg())


if __name__ == "__main__":
    main()
