#!/usr/bin/env python3
"""Loci's memory layer beside the package product-key-memory 0.3.0, or beside Loci's own layer in Python, in alternating
rounds on the same machine.

  pip install product-key-memory==0.3.0        into the environment that runs this script
  bench/peers.py build/release/cli/loci --rows 65536 262144 --tokens 4096
  PYTHONPATH=python bench/peers.py build/release/cli/loci --peer python --rows 262144 --tokens 4096

Both layers: the same width, 4 heads, top-k 32, key width of half the model's width, layer norm of queries, float32, as
many threads. A round runs `loci bench memory` once and then the package's forward and training step (backward, Adam);
`adam` is torch's fused Adam with a dense gradient of the table, `sparse` is SparseAdam on a sparse one. Of Loci in
Python: `eager` and `compiled` (torch.compile), each with torch's fused Adam and RowAdam.
Rows of --json: {name, rows, tokens, width, us_per_token, peer_us_per_token, ratio}; medians over the rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

HEADS, TOP_K = 4, 32


def microseconds(step, tokens, calls):
    step()
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) / calls / tokens * 1e6


def trained(layer, optimizers, x, grad):
    def step():
        layer(x).backward(grad)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return step


def package_steps(rows, tokens, width):
    """The package's steps by name, made once: {"forward": f, "train adam": f, "train sparse": f}."""
    try:
        import torch
        from product_key_memory import PKM
    except ImportError as error:
        sys.exit(
            "peers: torch and the package must be importable, got " + str(error) + "\n"
            "  python3 -m venv peers && peers/bin/pip install torch==2.13.0 product-key-memory==0.3.0 && "
            "peers/bin/python bench/peers.py ..."
        )

    keys = round(rows**0.5)
    if keys * keys != rows:
        sys.exit(f"peers: rows must be a square for the package, got {rows}")
    x, grad = torch.randn(1, tokens, width), torch.randn(1, tokens, width) * 1e-3

    def memory():
        return PKM(dim=width, heads=HEADS, num_keys=keys, topk=TOP_K, dim_head=width // 4)

    dense = memory()
    inference = memory().eval()

    def forward():
        with torch.inference_mode():
            inference(x)

    steps = {"forward" if tokens > 1 else "decode": forward}
    if tokens > 1:
        steps["train adam"] = trained(dense, [torch.optim.Adam(dense.parameters(), fused=True)], x, grad)
        sparse = memory()
        sparse.values.sparse = True
        others = [p for p in sparse.parameters() if p is not sparse.values.weight]
        optimizers = [torch.optim.Adam(others, fused=True), torch.optim.SparseAdam([sparse.values.weight])]
        steps["train sparse"] = trained(sparse, optimizers, x, grad)
    return steps


def python_steps(rows, tokens, width):
    """Those of Loci's layer in Python: {"forward": f, "train eager": f, "train compiled": f}."""
    import torch

    import loci

    x, grad = torch.randn(tokens, width), torch.randn(tokens, width) * 1e-3

    def memory():
        return loci.ProductKeyMemory(width, rows, heads=HEADS, top_k=TOP_K, key_width=width // 2)

    inference = memory().eval()

    def forward():
        with torch.inference_mode():
            inference(x)

    steps = {"forward" if tokens > 1 else "decode": forward}
    if tokens > 1:
        for name, run in (("eager", lambda layer: layer), ("compiled", torch.compile)):
            layer = memory()
            optimizers = [torch.optim.Adam(layer.parameters(), fused=True), loci.optim.RowAdam(layer.tables())]
            steps[f"train {name}"] = trained(run(layer), optimizers, x, grad)
    return steps


PEERS = {"package": package_steps, "python": python_steps}


def ours(program, rows, tokens, width):
    command = [
        program,
        "bench",
        "memory",
        "--rows",
        rows,
        "--tokens",
        tokens,
        "--width",
        width,
        "--no-bfloat16",
        "--no-stock",
        "--repeats",
        1,
        "--json",
    ]
    report = json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)
    return {row["name"]: row["us_per_token"] for row in report["results"]}


def compare(program, peer, rows, tokens, width, rounds):
    steps = PEERS[peer](rows, tokens, width)
    our_times, peer_times = {}, {name: [] for name in steps}
    for _ in range(rounds):
        for name, value in ours(program, rows, tokens, width).items():
            our_times.setdefault(name, []).append(value)
        for name, step in steps.items():
            peer_times[name].append(microseconds(step, tokens, calls=1 if tokens > 1 else 200))
    for name, times in peer_times.items():
        mine, theirs = statistics.median(our_times[name.split()[0]]), statistics.median(times)
        yield {
            "name": name,
            "rows": rows,
            "tokens": tokens,
            "width": width,
            "us_per_token": mine,
            "peer_us_per_token": theirs,
            "peer_least": min(times),
            "peer_most": max(times),
            "ratio": theirs / mine,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the built command line, build/release/cli/loci")
    parser.add_argument("--peer", choices=PEERS, default="package", help="what stands beside it [package]")
    parser.add_argument("--rows", type=int, nargs="+", default=[65536, 262144])
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 1])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    if not options.json:
        heads = f"{'Loci us/token':>15}{options.peer:>10}{'least .. most':>20}{'ratio':>8}"
        print(f"{'work':<14}{'rows':>9}{'tokens':>8}{heads}")
    for rows in options.rows:
        for tokens in options.tokens:
            for row in compare(options.program, options.peer, rows, tokens, options.width, options.rounds):
                results.append(row)
                if not options.json:
                    spread = f"{row['peer_least']:.1f} .. {row['peer_most']:.1f}"
                    print(
                        f"{row['name']:<14}{rows:>9}{tokens:>8}{row['us_per_token']:>15.2f}"
                        f"{row['peer_us_per_token']:>10.2f}{spread:>20}{row['ratio']:>7.1f}x",
                        flush=True,
                    )
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
