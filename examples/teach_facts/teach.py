#!/usr/bin/env python3
"""Teaches a pretrained language model facts that it does not know, in four ways, and measures what it forgets.

    teach.py choose OUT --model FOLDER [--gguf FILE] --facts pararel/data       which facts are new to the model
    teach.py run OUT --model ... --wikitext FILE --novels FOLDER                 all rates, arms and seeds; resumes
    teach.py table OUT                                                           the table, and recall-forgetting.png

See docs/teach-facts.md. Needs loci with its extra hf, peft, and gguf for a GGUF file.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import arms
import facts
import measure
import torch
from torch import Tensor

NEW, TUNING, KNOWN = 500, 100, 300
SEEDS = (0, 1, 2)
TUNING_SEED = 100
STEPS, TUNING_STEPS = 300, 100
BATCH = 16  # sentences
MEASURED_AT = (0, 25, 50, 100, 200, 300)
TEXT = 16 * 1024  # tokens of each ordinary text


def load(arguments):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    more = {"gguf_file": arguments.gguf} if arguments.gguf else {}
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, **more)
    return model, AutoTokenizer.from_pretrained(arguments.model, **more)


def batches(tokenizer, taught: list[facts.Fact], seed: int) -> Iterator[dict[str, Tensor]]:
    """Sentences in random order, again and again, with the loss over all their tokens."""
    sentences = [sentence for fact in taught for sentence in fact.sentences]
    rng = random.Random(seed)
    while True:
        rng.shuffle(sentences)
        for start in range(0, len(sentences) - BATCH + 1, BATCH):
            rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in sentences[start : start + BATCH]]
            tokens, mask = measure.padded(rows)
            yield {"input_ids": tokens, "attention_mask": mask, "labels": tokens.masked_fill(mask == 0, -100)}


class Texts:
    """What is asked and what must not be forgotten."""

    def __init__(self, tokenizer, arguments, kinds: dict[str, list[facts.Fact]], taught: str):
        self.tokenizer, self.taught, self.known = tokenizer, kinds[taught], kinds["known"]
        self.wikitext = measure.blocks_of(tokenizer, arguments.wikitext, TEXT)
        novels = measure.blocks_of(tokenizer, arguments.novels, 2 * TEXT)
        self.novels, self.ordinary = novels.tensor_split(2)  # measured, and the background of the memories

    def measures(self, model) -> dict[str, float]:
        was_training = model.training
        model.eval()
        asked = [fact.asked() for fact in self.taught]
        found = {
            "recall": measure.recall(model, self.tokenizer, [first for first, _ in asked]),
            "recall_reworded": measure.recall(model, self.tokenizer, [second for _, second in asked]),
            "known": measure.recall(model, self.tokenizer, [fact.asked()[0] for fact in self.known]),
            "wikitext": measure.loss_on(model, self.wikitext),
            "novels": measure.loss_on(model, self.novels),
        }
        model.train(was_training)
        return found


def run_arm(arguments, kinds, arm_name: str, rate: float, seed: int, steps: int, taught: str) -> dict:
    base, tokenizer = load(arguments)
    texts = Texts(tokenizer, arguments, kinds, taught)
    torch.manual_seed(seed)
    base.train()
    arm = arms.ARMS[arm_name](base, texts.ordinary, rate, seed)
    schedule = torch.optim.lr_scheduler.LinearLR(arm.optimizer, 1.0, 0.1, steps)
    curve, seconds, losses = [], 0.0, []
    for step, batch in enumerate(batches(tokenizer, texts.taught, seed)):
        if step in MEASURED_AT or step == steps:
            curve.append({"step": step, "seconds": seconds, **texts.measures(arm.model)})
            print(f"{arm_name} {rate:g} seed {seed}:", curve[-1], flush=True)
        if step == steps:
            break
        start = time.monotonic()
        losses.append(arm.step(batch))
        schedule.step()
        seconds += time.monotonic() - start
    sizes = {"changed": arm.changed(), "shipped": arm.shipped()}
    return {"arm": arm_name, "rate": rate, "seed": seed, "curve": curve, "seconds": seconds, "losses": losses, **sizes}


def stored(path: Path, make) -> dict:
    """What was run before is not run again."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        result = make()
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(result), encoding="utf-8")
        unfinished.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def best_rate(arguments, kinds, arm_name: str) -> float:
    tried = {}
    for rate in arms.RATES[arm_name]:
        path = arguments.out / "tuning" / f"{arm_name}-{rate:g}.json"
        result = stored(
            path, lambda rate=rate: run_arm(arguments, kinds, arm_name, rate, TUNING_SEED, TUNING_STEPS, "tuning")
        )
        tried[rate] = result["curve"][-1]["recall_reworded"]
    return max(tried, key=tried.__getitem__)


def run(arguments) -> None:
    kinds = facts.read(arguments.out / "facts.json")
    for seed in SEEDS:
        for name in arguments.arm or arms.ARMS:
            rate = best_rate(arguments, kinds, name)
            path = arguments.out / name / f"seed-{seed}.json"
            stored(
                path, lambda name=name, rate=rate, seed=seed: run_arm(arguments, kinds, name, rate, seed, STEPS, "new")
            )


def choose(arguments) -> None:
    model, tokenizer = load(arguments)
    kinds = facts.choose(model.eval(), tokenizer, facts.facts_in(arguments.facts), NEW, TUNING, KNOWN)
    arguments.out.mkdir(parents=True, exist_ok=True)
    facts.write(arguments.out / "facts.json", kinds)


def table(arguments) -> None:
    import show

    results = show.read_results(arguments.out, list(arms.ARMS))
    print(show.table(results))
    show.plot(results, arguments.out / "recall-forgetting.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, act in (("choose", choose), ("run", run), ("table", table)):
        command = verbs.add_parser(verb)
        command.set_defaults(act=act)
        command.add_argument("out", type=Path, help="folder of results")
        if verb != "table":
            command.add_argument("--model", required=True, help="folder of a Hugging Face causal language model")
            command.add_argument("--gguf", help="the file in that folder, for a GGUF model")
        if verb == "choose":
            command.add_argument("--facts", type=Path, required=True, help="ParaRel's folder data")
        if verb == "run":
            command.add_argument("--wikitext", type=Path, required=True, help="text file")
            command.add_argument("--novels", type=Path, required=True, help="folder of text files")
            command.add_argument("--arm", action="append", choices=list(arms.ARMS), help="these alone; may be repeated")
    arguments = parser.parse_args()
    try:
        arguments.act(arguments)
    except (OSError, ValueError) as error:
        sys.exit(f"teach: {error}")


if __name__ == "__main__":
    main()
