#!/usr/bin/env python3
"""Loci's training step of ResNet-20 beside the same in eager PyTorch with channels-last, in alternating rounds.

  .venv/bin/python bench/resnet_peer.py build/release/cli/loci --rounds 5

Both: 128 images of 32 x 32, shortcuts without parameters, fused SGD with momentum and weight decay, as many threads. A
round runs `loci bench resnet --repeats 1` once and then --steps steps of eager PyTorch in float32 and under autocast.
Rows of --json: {precision, ms, peer_ms, ratio, side_share} of the medians over the rounds, and in "least" the same of
the least, for a machine that is busy with other programs. side_share is what a default memory at the side adds to
Loci's own step.
"""

import argparse
import json
import statistics
import subprocess
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH, EDGE, CLASSES = 128, 32, 10


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.stride != 1:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))
        return functional.relu(y.add_(x), inplace=True)


def resnet_20() -> nn.Module:
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    inputs = 16
    for stage in range(3):
        for block in range(3):
            outputs = 16 << stage
            layers.append(Block(inputs, outputs, 2 if stage > 0 and block == 0 else 1))
            inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def eager_step(bfloat16: bool):
    torch.manual_seed(0)
    model = resnet_20()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    images = torch.randn(BATCH, 3, EDGE, EDGE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (BATCH,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = functional.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def milliseconds(step) -> float:
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e3


def compare(program: str, rounds: int, steps: int) -> list[dict]:
    peers = {"float32": eager_step(False), "bfloat16": eager_step(True)}
    for step in peers.values():
        step()
    ours: dict[tuple[str, str], list[float]] = {}
    theirs: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        command = [program, "bench", "resnet", "--repeats", "1", "--json"]
        report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for row in report["results"]:
            ours.setdefault((row["name"], row["precision"]), []).append(row["ms"])
        for name, step in peers.items():
            theirs[name].extend(milliseconds(step) for _ in range(steps))

    def row(precision: str, choose) -> dict:
        plain, side = (choose(ours[name, precision]) for name in ("plain", "side"))
        peer = choose(theirs[precision])
        return {"ms": plain, "peer_ms": peer, "ratio": peer / plain, "side_share": side / plain - 1}

    return [
        {"precision": precision, **row(precision, statistics.median), "least": row(precision, min)}
        for precision in theirs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the built command line, build/release/cli/loci")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of eager PyTorch in a round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = compare(options.program, options.rounds, options.steps)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{'precision':<10}{'of':<8}{'Loci ms':>9}{'eager ms':>10}{'ratio':>8}{'memory adds':>13}")
    for result in results:
        for name, row in (("median", result), ("least", result["least"])):
            print(
                f"{result['precision']:<10}{name:<8}{row['ms']:>9.0f}{row['peer_ms']:>10.0f}{row['ratio']:>7.2f}x"
                f"{100 * row['side_share']:>11.0f} %"
            )


if __name__ == "__main__":
    main()
