#!/usr/bin/env python3
"""Loci's memory layer in C++, in Python and the package product-key-memory 0.3.0, in alternating rounds in one run.

  pip install product-key-memory==0.3.0        into the environment that runs this script
  PYTHONPATH=python bench/peers.py build/release/cli/loci --rows 65536 262144 --tokens 4096
  PYTHONPATH=python bench/peers.py build/release/cli/loci --peer python --rows 262144 --tokens 4096

All: the same width, 4 heads, top-k 32, key width of half the model's width, layer norm of queries, float32, as many
threads. A round runs `loci bench memory` once and then the forward and training step (backward, Adam) of each peer. Of
the package: `adam` is torch's fused Adam with a dense gradient of the table, `sparse` is SparseAdam on a sparse one. Of
Loci in Python: `eager` and `compiled` (torch.compile), each with torch's fused Adam and RowAdam.

All layers are held at once: about 18 tables, with optimisers' states. The peak of a training step is that of a process
of its own, which makes the layer, takes two steps, and is looked at during the second: resident memory beyond what it
had after its imports, so rows, states and gradients are in it.

--json: {"results": [{work, peer, name, rows, tokens, width, us_per_token, least, most, over_cpp, peak_bytes}],
"against": [{work, rows, tokens, width, package, python, package_us_per_token, python_us_per_token, ratio,
peak_ratio}]}; medians over the rounds; `against` takes the package's faster optimiser and Loci's eager step.
"""

import argparse
import gc
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

HEADS, TOP_K = 4, 32
COMPILED = "train compiled"


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
    """Makers of the package's steps by name: of forward (or decode) and of training with each optimiser."""
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

    def adam():
        layer = memory()
        return trained(layer, [torch.optim.Adam(layer.parameters(), fused=True)], x, grad)

    def sparse():
        layer = memory()
        layer.values.sparse = True
        others = [p for p in layer.parameters() if p is not layer.values.weight]
        optimizers = [torch.optim.Adam(others, fused=True), torch.optim.SparseAdam([layer.values.weight])]
        return trained(layer, optimizers, x, grad)

    return works(tokens, lambda: forward_of(memory(), x), {"train adam": adam, "train sparse": sparse})


def python_steps(rows, tokens, width):
    """Those of Loci's layer in Python."""
    import torch

    import loci

    x, grad = torch.randn(tokens, width), torch.randn(tokens, width) * 1e-3

    def memory():
        return loci.ProductKeyMemory(width, rows, heads=HEADS, top_k=TOP_K, key_width=width // 2)

    def train(run):
        layer = memory()
        optimizers = [torch.optim.Adam(layer.parameters(), fused=True), loci.optim.RowAdam(layer.tables())]
        return trained(run(layer), optimizers, x, grad)

    training = {"train eager": lambda: train(lambda layer: layer), COMPILED: lambda: train(torch.compile)}
    return works(tokens, lambda: forward_of(memory(), x), training)


def forward_of(layer, x):
    import torch

    layer.eval()

    def forward():
        with torch.inference_mode():
            layer(x)

    return forward


def works(tokens, forward, training):
    """One token is decoded, and nobody trains on it."""
    return {"decode": forward} if tokens == 1 else {"forward": forward} | training


PEERS = {"package": package_steps, "python": python_steps}


def ours(program, rows, tokens, width):
    sizes = ["--rows", rows, "--tokens", tokens, "--width", width]
    command = [program, "bench", "memory", *sizes, "--no-bfloat16", "--no-stock", "--repeats", 1, "--json"]
    report = json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)
    return {row["name"]: row["us_per_token"] for row in report["results"]}


def resident(which):
    """VmRSS (now) or VmHWM (the most since it was reset) of this process in bytes."""
    return int(re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024


def print_peak(peer, name, rows, tokens, width):
    """What the process of its own does."""
    import torch  # noqa: F401  before memory is looked at

    if peer == "python":
        import loci  # noqa: F401
    else:
        import product_key_memory  # noqa: F401
    before = resident("VmRSS")
    make = PEERS[peer](rows, tokens, width)[name]
    step = make()
    step()
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        step()
        peak = resident("VmHWM")
    except OSError:  # that of both steps then, which is hardly more
        step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(peak - before)


def peak_of(peer, name, rows, tokens, width):
    command = [
        sys.executable,
        __file__,
        "-",
        "--peak",
        peer,
        name,
        "--rows",
        rows,
        "--tokens",
        tokens,
        "--width",
        width,
    ]
    result = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True)
    return int(result.stdout)


def measured(options, rows, tokens):
    """Microseconds a token of each round by (peer, name), C++ among the peers."""
    width, times = options.width, {}
    steps = {
        (peer, name): make()
        for peer in options.peer
        for name, make in PEERS[peer](rows, tokens, width).items()
        if options.compiled or name != COMPILED
    }
    for _ in range(options.rounds):
        for name, value in ours(options.program, rows, tokens, width).items():
            times.setdefault(("c++", name), []).append(value)
        for key, step in steps.items():
            times.setdefault(key, []).append(microseconds(step, tokens, calls=1 if tokens > 1 else 200))
    works = {name.split()[0] for peer, name in times if peer != "c++"}
    return {key: values for key, values in times.items() if key[1].split()[0] in works}


def compare(options, rows, tokens):
    """The rows of `results` of one size."""
    times = measured(options, rows, tokens)
    median = {key: statistics.median(values) for key, values in times.items()}
    for (peer, name), values in times.items():
        work = name.split()[0]
        peaks = options.memory and peer != "c++" and work == "train" and name != COMPILED
        yield {
            "work": work,
            "peer": peer,
            "name": name,
            "rows": rows,
            "tokens": tokens,
            "width": options.width,
            "us_per_token": median[peer, name],
            "least": min(values),
            "most": max(values),
            "over_cpp": median[peer, name] / median["c++", work],
            "peak_bytes": peak_of(peer, name, rows, tokens, options.width) if peaks else None,
        }


def against(results):
    """The package beside Loci in Python, both eager: its faster optimiser, work by work."""
    for work in dict.fromkeys(row["work"] for row in results):
        of_work = [row for row in results if row["work"] == work and row["name"] != COMPILED]
        theirs = min((r for r in of_work if r["peer"] == "package"), key=lambda r: r["us_per_token"], default=None)
        mine = next((row for row in of_work if row["peer"] == "python"), None)
        if theirs is None or mine is None:
            continue
        has_peaks = theirs["peak_bytes"] and mine["peak_bytes"]
        yield {
            "work": work,
            **{key: mine[key] for key in ("rows", "tokens", "width")},
            "package": theirs["name"],
            "python": mine["name"],
            "package_us_per_token": theirs["us_per_token"],
            "python_us_per_token": mine["us_per_token"],
            "ratio": theirs["us_per_token"] / mine["us_per_token"],
            "peak_ratio": theirs["peak_bytes"] / mine["peak_bytes"] if has_peaks else None,
        }


def show(row):
    spread = f"{row['least']:.1f} .. {row['most']:.1f}"
    peak = f"{row['peak_bytes'] / 2**20:.0f} MiB" if row["peak_bytes"] else ""
    print(
        f"{row['peer']:<9}{row['name']:<15}{row['rows']:>9}{row['tokens']:>7}{row['us_per_token']:>10.2f}"
        f"{spread:>20}{row['over_cpp']:>7.2f}x{peak:>12}",
        flush=True,
    )


def show_against(row):
    peak = f", its peak {row['peak_ratio']:.2f}x" if row["peak_ratio"] else ""
    print(
        f"package {row['package']} / python {row['python']} ({row['rows']} rows): {row['ratio']:.2f}x the time{peak}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the built command line, build/release/cli/loci")
    parser.add_argument("--peer", choices=PEERS, nargs="+", default=list(PEERS), help="what stands beside it [all]")
    parser.add_argument("--rows", type=int, nargs="+", default=[65536, 262144])
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 1])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compiled", dest="compiled", action="store_false", help="without torch.compile")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="without peaks")
    parser.add_argument("--peak", nargs=2, metavar=("PEER", "NAME"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.peak:
        return print_peak(*options.peak, options.rows[0], options.tokens[0], options.width)
    results, ratios = [], []
    if not options.json:
        heads = f"{'us/token':>10}{'least .. most':>20}{'/ C++':>8}{'peak':>12}"
        print(f"{'peer':<9}{'work':<15}{'rows':>9}{'tokens':>7}{heads}")
    for rows in options.rows:
        for tokens in options.tokens:
            of_size = []
            for row in compare(options, rows, tokens):
                of_size.append(row)
                if not options.json:
                    show(row)
            results += of_size
            for row in against(of_size):
                ratios.append(row)
                if not options.json:
                    show_against(row)
    if options.json:
        print(json.dumps({"results": results, "against": ratios}, indent=2))
    return None


if __name__ == "__main__":
    main()
