"""The log of a run of TRL's ``DPOTrainer``, which lesson 00 reads: ``benchmarks/dpo_log.json``.

    python benchmarks/dpo_log.py [FILE]

SmolLM2-135M-Instruct with a LoRA adapter on the tutorial's own pairs, whose responses are not the
model's.
"""

import sys
import tempfile
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.models import SMOLLM2, load_model, load_tokenizer
from dil_tutorial.support.files import provenance, write_json
from dil_tutorial.support.paths import BENCHMARKS

SETTINGS = {"beta": 0.1, "learning_rate": 2e-4, "num_train_epochs": 8, "seed": 0}


def main() -> None:
    args = DPOConfig(
        tempfile.mkdtemp(),
        per_device_train_batch_size=4,
        logging_steps=1,
        lr_scheduler_type="constant",
        precompute_ref_log_probs=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        **SETTINGS,
    )
    pairs = [dict(pair) for pair in read_pairs(tiny_preferences())]
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = DPOTrainer(
        load_model(SMOLLM2),
        args=args,
        train_dataset=Dataset.from_list(pairs),
        processing_class=load_tokenizer(SMOLLM2),
        peft_config=adapter,
    )
    trainer.train()
    log = [
        {key: float(f"{value:.5g}") for key, value in row.items()}
        for row in trainer.state.log_history
        if "loss" in row
    ]
    content = {**provenance(), "model": SMOLLM2, "pairs": len(pairs), "settings": SETTINGS}
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else BENCHMARKS / "dpo_log.json"
    write_json(path, {**content, "log": log})


if __name__ == "__main__":
    main()
