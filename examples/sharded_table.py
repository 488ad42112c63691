"""A memory whose rows are on several processes, beside DistributedDataParallel for the dense parameters.

    torchrun --nproc-per-node 2 examples/sharded_table.py [FOLDER]

A checkpoint goes to FOLDER; where there is one, training goes on from it, with any number of processes."""

import os
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.nn.parallel import DistributedDataParallel

import loci

STEPS, BATCH, WIDTH = 20, 252, 32


def main(folder: str | None) -> None:
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    table = loci.Table(2**12, WIDTH, seed=1, shard="rows")  # these processes have a part each
    memory = loci.ProductKeyMemory(WIDTH, table=table, heads=2, top_k=8, seed=2)
    torch.manual_seed(3)  # the same start and the same batches everywhere
    network = torch.nn.Sequential(torch.nn.Linear(16, WIDTH), memory, torch.nn.Linear(WIDTH, 4))
    model = DistributedDataParallel(network)
    dense = torch.optim.AdamW(network.parameters(), lr=3e-3)
    # Gradients of rows are sums over ranks, those of dense parameters means.
    optimizer = loci.optim.Both(dense, loci.optim.RowAdam(memory.tables(), lr=1e-2, scale=ranks))
    # For the state of `dense`: get_optimizer_state_dict of torch.distributed.checkpoint.state_dict.
    states = {"model": network, "rows": optimizer.rows}
    if folder is not None and os.path.isdir(folder):
        dcp.load(states, checkpoint_id=folder)
    teacher = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.Tanh(), torch.nn.Linear(64, 4))
    for step in range(STEPS):
        x = torch.randn(BATCH, 16)[rank::ranks]  # each process takes its share of the batch
        loss = (model(x) - teacher(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach() / ranks
        dist.all_reduce(mean)
        if rank == 0:
            print(f"step {step:2} loss {mean:.5f}", flush=True)
    if folder is not None:
        dcp.save(states, checkpoint_id=folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
