"""Facts of ParaRel (T-REx; Elazar et al. 2021): sentences to learn from, and questions in other words."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import Question, beams, right

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from facts_to_text import SENTENCES, facts_of, is_question, lines_of, question_of, sentence_of, split_patterns

SEED = 0
BEAMS = 5
BATCH = 32  # facts that are asked at once


@dataclass(frozen=True)
class Fact:
    relation: str
    answer: str  # with the space before it
    sentences: list[str]  # to learn from
    question: str  # the beginning of the first sentence
    reworded: str  # the same question in a pattern that is in no sentence

    def asked(self) -> tuple[Question, Question]:
        return Question(self.question, self.answer), Question(self.reworded, self.answer)


def facts_in(folder: Path) -> list[Fact]:
    """All facts of `pararel/data` in random order, the same for every run."""
    found = []
    for patterns_file in sorted((folder / "pattern_data" / "graphs_json").glob("P*.jsonl")):
        facts_file = folder / "trex_lms_vocab" / patterns_file.name
        rng = random.Random(f"{SEED} {patterns_file.name}")
        patterns = sorted({line["pattern"].strip().rstrip(".").rstrip() for line in lines_of(patterns_file)})
        split = split_patterns(patterns, rng)
        if split is None or not facts_file.exists():
            continue
        training, hidden = split
        asked, reworded = ([pattern for pattern in some if is_question(pattern)] for some in (training, hidden))
        for subject, answer in facts_of(facts_file):
            first = rng.choice(asked)
            others = rng.sample(
                [pattern for pattern in training if pattern != first], min(SENTENCES, len(training)) - 1
            )
            prompts = [
                question_of(pattern, subject, answer).split("\t")[0] for pattern in (first, rng.choice(reworded))
            ]
            sentences = [sentence_of(pattern, subject, answer).strip() for pattern in (first, *others)]
            found.append(Fact(patterns_file.stem, f" {answer}", sentences, *prompts))
    if not found:
        raise ValueError(f"facts: {folder} must hold pattern_data/graphs_json and trex_lms_vocab of ParaRel, got none")
    random.Random(SEED).shuffle(found)
    return found


def in_batches(facts: list[Fact]) -> Iterator[list[Fact]]:
    yield from (facts[start : start + BATCH] for start in range(0, len(facts), BATCH))


def answered(
    model, tokenizer, facts: list[Fact], known_wanted: int, wrong_wanted: int
) -> tuple[list[Fact], list[Fact]]:
    """Facts that the model knows and those that it answers wrong both ways, until there are enough of both."""
    known, wrong = [], []
    for batch in in_batches(facts):
        first, second = (right(model, tokenizer, [fact.asked()[way] for fact in batch]) for way in (0, 1))
        for fact, asked, reworded in zip(batch, first, second, strict=True):
            if asked:
                known.append(fact)
            elif not reworded:
                wrong.append(fact)
        if len(known) >= known_wanted and len(wrong) >= wrong_wanted:
            break
    return known[:known_wanted], wrong


def unknown(model, tokenizer, wrong: list[Fact], most: int) -> list[Fact]:
    """Those whose answer is among the five best of neither question, until there are `most`."""
    new: list[Fact] = []
    for batch in in_batches(wrong):
        first, second = (beams(model, tokenizer, [fact.asked()[way] for fact in batch], BEAMS) for way in (0, 1))
        new += [fact for fact, *among in zip(batch, first, second, strict=True) if not any(among)]
        print(f"{len(new)} new facts", flush=True)
        if len(new) >= most:
            break
    return new[:most]


def choose(model, tokenizer, facts: list[Fact], new: int, tuning: int, known: int) -> dict[str, list[Fact]]:
    """The first facts of each kind: "new" to teach, "tuning" (new ones, for the choice of rates), "known".
    ValueError where the model knows fewer, or too many."""
    kept, wrong = answered(model, tokenizer, facts, known, 2 * (new + tuning))  # beams find some of these
    print(f"{len(kept)} known facts", flush=True)
    taught = unknown(model, tokenizer, wrong, new + tuning)
    if len(kept) < known or len(taught) < new + tuning:
        raise ValueError(
            f"choose: the model must know {known} facts and not know {new + tuning}, got {len(kept)} and {len(taught)}"
        )
    return {"new": taught[:new], "tuning": taught[new:], "known": kept}


def write(path: Path, kinds: dict[str, list[Fact]]) -> None:
    text = json.dumps({kind: [asdict(fact) for fact in facts] for kind, facts in kinds.items()}, indent=1)
    path.write_text(text, encoding="utf-8")


def read(path: Path) -> dict[str, list[Fact]]:
    return {kind: [Fact(**fact) for fact in facts] for kind, facts in json.loads(path.read_text("utf-8")).items()}
