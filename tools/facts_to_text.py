#!/usr/bin/env python3
"""Text and questions from facts and their paraphrases, such as those of ParaRel (T-REx facts, Elazar et al. 2021).

Each relation has patterns, such as "[X] was born in [Y].", and facts (X, Y). A quarter of a relation's patterns are
held out. Each fact is written in three of the other patterns, so that a model can know it, and asked twice:

  OUT/text/facts.txt         the sentences, a line each, in random order
  OUT/questions-seen.tsv     PROMPT <tab> ANSWER, in a pattern in which the fact stands in the text
  OUT/questions-held-out.tsv the same facts in a pattern that was held out: the words are new, the fact is not

Questions need a pattern that ends with [Y]. Left out are relations without such a pattern on both sides, and pairs
(relation, X) with several Y, which have no single right answer.

  facts_to_text.py pararel/data facts      reads pattern_data/graphs_json/P*.jsonl and trex_lms_vocab/P*.jsonl
"""

import argparse
import json
import random
import sys
from pathlib import Path

SEED = 0
SENTENCES = 3  # of a fact
HELD_OUT_SHARE = 4  # one in four patterns


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def is_question(pattern):
    """Whether it asks for Y at its end, with X before it."""
    return pattern.endswith("[Y]") and "[X]" in pattern


def split_patterns(patterns, rng):
    """Patterns for the text and patterns that are held out, each with a question; or None."""
    questions = [pattern for pattern in patterns if is_question(pattern)]
    if len(questions) < 2:
        return None
    held_out = [rng.choice(questions)]
    others = [pattern for pattern in patterns if pattern != held_out[0]]
    rng.shuffle(others)
    kept = next(pattern for pattern in others if is_question(pattern))
    others.remove(kept)
    while len(held_out) < len(patterns) // HELD_OUT_SHARE:
        held_out.append(others.pop())
    return [kept, *others], held_out


def facts_of(path):
    """(X, Y), without X that have several Y."""
    objects = {}
    for fact in lines_of(path):
        objects.setdefault(fact["sub_label"].strip(), set()).add(fact["obj_label"].strip())
    return [(x, next(iter(ys))) for x, ys in objects.items() if len(ys) == 1]


def question_of(pattern, x, y):
    prompt = pattern.removesuffix("[Y]").rstrip().replace("[X]", x)
    return f"{prompt}\t {y}\n"


def sentence_of(pattern, x, y):
    text = pattern.replace("[Y]", y).replace("[X]", x)
    return f"{text}.\n"


def convert(data, out):
    sentences, seen, held_out = [], [], []
    relations = left_out = 0
    for patterns_file in sorted((data / "pattern_data" / "graphs_json").glob("P*.jsonl")):
        facts_file = data / "trex_lms_vocab" / patterns_file.name
        if not facts_file.exists():
            left_out += 1
            continue
        rng = random.Random(f"{SEED} {patterns_file.name}")
        patterns = sorted({line["pattern"].strip().rstrip(".").rstrip() for line in lines_of(patterns_file)})
        split = split_patterns(patterns, rng)
        if split is None:
            left_out += 1
            continue
        relations += 1
        training, hidden = split
        hidden = [pattern for pattern in hidden if is_question(pattern)]
        asked = [pattern for pattern in training if is_question(pattern)]
        for x, y in facts_of(facts_file):
            first = rng.choice(asked)
            rest = [pattern for pattern in training if pattern != first]
            written = [first, *rng.sample(rest, min(SENTENCES - 1, len(rest)))]
            sentences += [sentence_of(pattern, x, y) for pattern in written]
            seen.append(question_of(first, x, y))
            held_out.append(question_of(rng.choice(hidden), x, y))
    if not seen:
        sys.exit(
            f"facts_to_text: {data} must hold pattern_data/graphs_json/P*.jsonl and trex_lms_vocab/P*.jsonl, got none"
        )
    random.Random(SEED).shuffle(sentences)
    (out / "text").mkdir(parents=True, exist_ok=True)
    for name, lines in (
        ("text/facts.txt", sentences),
        ("questions-seen.tsv", seen),
        ("questions-held-out.tsv", held_out),
    ):
        (out / name).write_text("".join(lines), encoding="utf-8")
    print(f"{relations} relations ({left_out} left out), {len(seen)} facts, {len(sentences)} sentences")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with pattern_data and trex_lms_vocab")
    parser.add_argument("out", type=Path, help="folder for the text and the questions")
    arguments = parser.parse_args()
    try:
        convert(arguments.data, arguments.out)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError) as error:
        sys.exit(f"facts_to_text: {error}")


if __name__ == "__main__":
    main()
