"""Run by torchrun in test_distributed.py: the trainers on a tiny model, in this process's share, or
in one process on all; what each case ends with is saved by each process.

``python processes_worker.py MODEL FOLDER CASES.json``
"""

import json
import os
import sys
from pathlib import Path

import torch
from peft import LoraConfig
from transformers import PrinterCallback, ProgressCallback, TrainingArguments

from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.online import OnlineConfig, OnlineTrainer
from dil_tutorial.llm.reward_model import RewardTrainer, load_reward_model
from dil_tutorial.llm.trainer import DILConfig, DILTrainer

COMMON = {
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": [],
    "logging_steps": 1,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "learning_rate": 1e-2,
}
PROMPTS = [f"Name fruit number {n}." for n in range(6)]


def dil(folder, out, settings):
    pairs = read_pairs(tiny_preferences())
    train, evals = settings.pop("train", 16), settings.pop("eval", 0)
    rows, held_out = pairs[:train], pairs[10 : 10 + evals]
    if settings.get("loss") == "group":  # of two and of three responses, some without a winner
        rows, held_out = map(groups, (rows, held_out))
    adapter = settings.pop("adapter", False)
    more = {"compute_metrics": first_column} if evals else {}
    return DILTrainer(
        load_model(folder),
        DILConfig(output_dir=out, **COMMON | settings),
        rows,
        eval_dataset=held_out or None,
        processing_class=load_tokenizer(folder),
        # a set of names, whose order is another in each process
        peft_config=LoraConfig(target_modules={"q_proj", "v_proj", "o_proj"}) if adapter else None,
        **more,
    )


def groups(pairs):
    return [
        {
            "prompt": pair["prompt"],
            "responses": [pair["chosen"], pair["rejected"], " Neither."][: 2 + i % 2],
            "correct": [i % 4 != 3, False, i % 8 == 1][: 2 + i % 2],
        }
        for i, pair in enumerate(pairs)
    ]


def first_column(prediction):
    return {"first": float(prediction.predictions[:, 0].mean()), "rows": len(prediction.label_ids)}


def reward(folder, out, settings):
    pairs = read_pairs(tiny_preferences())
    train, evals = settings.pop("train", 16), settings.pop("eval", 0)
    return RewardTrainer(
        load_reward_model(folder),
        TrainingArguments(out, **COMMON | settings),
        pairs[:train],
        load_tokenizer(folder),
        eval_dataset=pairs[10 : 10 + evals] or None,
    )


drawn_to: list[str] = []
drawn: list[str] = []


def vowels(prompts, responses):
    drawn_to.extend(prompts)
    drawn.extend(responses)
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in responses]


def online(folder, out, settings):
    args = OnlineConfig(out, samples=4, max_new_tokens=5, **COMMON | settings)
    return OnlineTrainer(
        load_model(folder),
        args,
        PROMPTS,
        load_tokenizer(folder),
        vowels,
        ref_model=load_model(folder),
    )


def case(folder, out, kind, settings):
    """What a trainer ends with, or the line with which it was refused."""
    settings = {"save_strategy": "no"} | settings
    resume = settings.pop("resume", None)
    drawn_to.clear()
    drawn.clear()
    try:
        trainer = {"dil": dil, "reward": reward, "online": online}[kind](folder, out, settings)
        for callback in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        trainer.train(resume_from_checkpoint=resume)
        held_out = trainer.eval_dataset
        metrics = trainer.evaluate() if held_out is not None else {}
        asked = kind == "dil" and held_out is not None
        predicted = torch.tensor(trainer.predict(held_out).predictions) if asked else None
    except InputError as error:
        return {"refused": str(error)}
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {
        "weights": {name: w.detach().clone() for name, w in model.state_dict().items()},
        "history": trainer.state.log_history,
        "metrics": metrics,
        "predicted": predicted,
        "prompts": [*drawn_to],
        "responses": [*drawn],
    }


def main():
    folder, out, cases = sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())
    rank = int(os.environ["RANK"])
    for name, (kind, settings) in cases.items():
        result = case(folder, str(out / settings.pop("folder", name)), kind, settings)
        torch.save(result, out / f"{name}_{rank}.pt")


if __name__ == "__main__":
    main()
