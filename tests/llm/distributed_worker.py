"""Run by torchrun in test_distributed.py: train the tiny model in this process's share and save the
weights.
"""

import json
import sys

import torch

from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.trainer import DILConfig, DILTrainer


def main():
    folder, out, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    given = {"loss": "nca", **settings}
    config = DILConfig(
        output_dir=out,
        use_cpu=True,
        disable_tqdm=True,
        learning_rate=1e-2,
        optim="sgd",
        save_strategy="no",
        **given,
    )
    rows = read_pairs(tiny_preferences())[:16]
    if given["loss"] == "group":  # of two and of three responses, every fourth without a winner
        rows = [
            {
                "prompt": pair["prompt"],
                "responses": [pair["chosen"], pair["rejected"], " Neither."][: 2 + i % 2],
                "correct": [i % 4 != 3, False, i % 8 == 1][: 2 + i % 2],
            }
            for i, pair in enumerate(rows)
        ]
    trainer = DILTrainer(load_model(folder), config, rows, processing_class=load_tokenizer(folder))
    trainer.train()
    if trainer.is_world_process_zero():
        weights = {name: weight.detach() for name, weight in trainer.model.state_dict().items()}
        history = [row for row in trainer.state.log_history if "loss" in row]
        torch.save({"weights": weights, "history": history}, f"{out}/result.pt")


if __name__ == "__main__":
    main()
