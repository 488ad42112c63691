"""What a language model answers, and how well it predicts ordinary text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

BATCH = 32  # questions
BLOCK = 256  # tokens of ordinary text that are predicted from each other


@dataclass(frozen=True)
class Question:
    prompt: str
    answer: str  # what comes next, with its space


def encoded(tokenizer, question: Question) -> tuple[list[int], int]:
    """The tokens of prompt and answer, and how many are of the prompt."""
    prompt = tokenizer(question.prompt, add_special_tokens=False)["input_ids"]
    return tokenizer(question.prompt + question.answer, add_special_tokens=False)["input_ids"], len(prompt)


def padded(rows: list[list[int]], left: bool = False) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask, both [rows, longest]."""
    longest = max(len(row) for row in rows)
    tokens, mask = torch.zeros(2, len(rows), longest, dtype=torch.int64)
    for place, row in enumerate(rows):
        where = slice(longest - len(row), longest) if left else slice(0, len(row))
        tokens[place, where] = torch.tensor(row)
        mask[place, where] = 1
    return tokens, mask


@torch.no_grad()
def right(model, tokenizer, questions: list[Question]) -> list[bool]:
    """Whether greedy decoding goes on with exactly the answer."""
    answers = []
    for start in range(0, len(questions), BATCH):
        coded = [encoded(tokenizer, question) for question in questions[start : start + BATCH]]
        tokens, mask = padded([row for row, _ in coded])
        best = model(input_ids=tokens, attention_mask=mask).logits.argmax(-1)
        for place, (row, asked) in enumerate(coded):
            # Greedy decoding reaches the answer when each of its tokens is the best after those before it.
            answers.append(best[place, asked - 1 : len(row) - 1].tolist() == row[asked:])
    return answers


def recall(model, tokenizer, questions: list[Question]) -> float:
    return sum(right(model, tokenizer, questions)) / len(questions)


@torch.no_grad()
def beams(model, tokenizer, questions: list[Question], width: int) -> list[bool]:
    """Whether the answer is among the `width` best continuations of a beam search."""
    answers = []
    for start in range(0, len(questions), BATCH):
        coded = [encoded(tokenizer, question) for question in questions[start : start + BATCH]]
        tokens, mask = padded([row[:asked] for row, asked in coded], left=True)
        longest = max(len(row) - asked for row, asked in coded)
        found = model.generate(
            input_ids=tokens, attention_mask=mask, do_sample=False, num_beams=width, num_return_sequences=width,
            max_new_tokens=longest, min_new_tokens=longest, pad_token_id=0,
        )  # fmt: skip
        new = found[:, tokens.size(1) :].view(len(coded), width, -1)
        for place, (row, asked) in enumerate(coded):
            answer = torch.tensor(row[asked:])
            answers.append(bool((new[place, :, : answer.numel()] == answer).all(-1).any()))
    return answers


def blocks_of(tokenizer, path: Path, tokens: int) -> Tensor:
    """The first tokens of a text file, or of the files of a folder in the order of their names: [blocks, BLOCK]."""
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    row: list[int] = []
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")[: 8 * tokens]
        row += tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(row) >= tokens:
            break
    blocks = min(len(row), tokens) // BLOCK
    if blocks == 0:
        raise ValueError(f"text: {path} must hold {BLOCK} tokens, got {len(row)}")
    return torch.tensor(row[: blocks * BLOCK]).view(blocks, BLOCK)


@torch.no_grad()
def loss_on(model, blocks: Tensor, batch: int = 4) -> float:
    """Nats a token; each block is predicted from its own first token on."""
    total = 0.0
    for part in blocks.split(batch):
        logits = model(input_ids=part).logits[:, :-1]
        total += F.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
    return total / (blocks.size(0) * (BLOCK - 1))
