"""Run by torchrun in test_distributed.py: our step on a model sharded by torch's FSDP2, against the
whole model.
"""

import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.fast.attention import ATTENTION, register
from dil_tutorial.llm.fast.batches import batch_of
from dil_tutorial.llm.fast.logprobs import response_logps
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.losses import make_loss


def main():
    folder = sys.argv[1]
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    rows = tokenize_pairs(read_pairs(tiny_preferences())[:8], load_tokenizer(folder), 200)[0]
    loss_function = make_loss("nca")

    def step(model, part):
        logps, _ = response_logps(
            model, batch_of(part, 1, "shared"), model.get_output_embeddings(), chunk=16
        )
        loss = loss_function(*(logps / 100).view(-1, 2).T).mean()
        loss.backward()
        return loss.item()

    whole, sharded = load_model(folder), load_model(folder)
    for model in (whole, sharded):
        register()
        model.set_attn_implementation(ATTENTION)
    mesh = init_device_mesh("cpu", (2,))
    for layer in sharded.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    step(whole, rows)
    step(sharded, rows[rank::2])  # each process its half; FSDP averages the gradients
    for (name, a), b in zip(whole.named_parameters(), sharded.parameters(), strict=True):
        gradient = b.grad.full_tensor()
        assert torch.allclose(a.grad, gradient, atol=1e-5, rtol=1e-4), (
            name,
            (a.grad - gradient).abs().max(),
        )
    if rank == 0:
        print("equal")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
