#!/usr/bin/env python3
"""Runs a program as on several hosts: torchrun in network namespaces of this machine, joined by a bridge. Needs root.

Usage: tools/hosts_here.py [--hosts 2] [--ranks 1] [--gbit RATE] PROGRAM ARGUMENT...

Each host has a network card of that rate, ranks of its own, and no other network. The program is what follows
--no-python of torchrun. The exit status is the first that is not 0.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

NETWORK = "10.77.0"
PORT = 29500


def run(*command: str) -> None:
    subprocess.run(command, check=True)


@contextlib.contextmanager
def namespaces(names: list[str]) -> Iterator[None]:
    made: list[str] = []
    try:
        for name in names:
            run("ip", "netns", "add", name)
            made.append(name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in made:  # its cards go with it
            run("ip", "netns", "delete", name)


def connect(switch: str, hosts: list[str], gbit: float | None) -> None:
    run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
    run("ip", "-n", switch, "link", "set", "bridge", "up")
    for number, host in enumerate(hosts):
        port = f"port{number}"
        run("ip", "-n", host, "link", "add", "card", "type", "veth", "peer", "name", port, "netns", switch)
        run("ip", "-n", host, "address", "add", f"{NETWORK}.{number + 1}/24", "dev", "card")
        run("ip", "-n", host, "link", "set", "card", "up")
        run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
        if gbit is not None:  # in both directions
            for name, card in ((host, "card"), (switch, port)):
                limit = ["rate", f"{gbit}gbit", "burst", "1mb", "latency", "50ms"]
                run("tc", "-n", name, "qdisc", "add", "dev", card, "root", "tbf", *limit)


def started(number: int, hosts: list[str], ranks: int, program: list[str]) -> subprocess.Popen[bytes]:
    where = ["--nnodes", str(len(hosts)), "--node-rank", str(number), "--nproc-per-node", str(ranks)]
    master = ["--master-addr", f"{NETWORK}.1", "--master-port", str(PORT), "--no-python"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *where, *master, *program]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "card"}
    return subprocess.Popen(["ip", "netns", "exec", hosts[number], *torchrun], env=environment)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=1, help="of each host")
    parser.add_argument("--gbit", type=float, help="rate of a card in each direction, Gb/s (default: no limit)")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if not arguments.program:
        parser.error("expected a program")
    hosts = [f"loci-{os.getpid()}-{number}" for number in range(arguments.hosts)]
    switch = f"loci-{os.getpid()}-switch"
    with namespaces([switch, *hosts]):
        connect(switch, hosts, arguments.gbit)
        processes = [started(n, hosts, arguments.ranks, arguments.program) for n in range(len(hosts))]
        codes = [process.wait() for process in processes]
    return next((code for code in codes if code != 0), 0)


if __name__ == "__main__":
    sys.exit(main())
