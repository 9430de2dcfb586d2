"""What ``dil plan`` says of a training run, against what the run takes on this
machine's CPU.

Each case trains SmolLM2-135M for a few steps on pairs of one length, in a process of its own, so
that its peak memory is its own.  What the process held before (Python and its packages, warmed up
on a tiny model) is taken off, and its allocator gives back at once what tensors free: what is left
is what the tensors take.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from torch.utils.flop_counter import FlopCounterMode

from dil_tutorial.errors import InputError
from dil_tutorial.llm import plan
from dil_tutorial.llm.count import Step, counted
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.support.files import provenance, write_json

CASES = {
    "all weights, float32": Step(prompt=150, responses=(200, 180), rows=4),
    "all weights, bf16 autocast": Step(prompt=60, responses=(120, 120), rows=8, bf16=True),
    "LoRA, bf16 autocast": Step(prompt=150, responses=(200, 180), rows=8, bf16=True, lora=16),
    "all weights, checkpointing": Step(
        prompt=150, responses=(300, 300), rows=4, bf16=True, checkpointing=True
    ),
}
STEPS = 3


def measure(name: str, model: str) -> dict[str, Any]:
    """Train a case for a few steps: the peak of memory beyond what was there before, and the FLOPs
    of the last step.
    """
    from transformers import PrinterCallback, TrainerCallback

    from dil_tutorial.llm.models import lora_config
    from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    from dil_tutorial.llm.trainer import DILConfig, DILTrainer

    case, tokenizer = CASES[name], load_tokenizer(model)
    texts = {"prompt": "p", "chosen": "c", "rejected": "r"}
    chosen, rejected = case.responses
    ids = {"prompt_ids": case.prompt, "chosen_ids": chosen, "rejected_ids": rejected}
    pairs = [
        {**texts, **{key: [5 + i] * n for key, n in ids.items()}} for i in range(STEPS * case.rows)
    ]
    counter = FlopCounterMode(display=False)

    class CountLast(TrainerCallback):
        """Reads the peak before the last step, in which FLOPs are counted: torch's counter keeps
        tensors alive.
        """

        peak = 0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == STEPS - 1:
                self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                counter.__enter__()

    last = CountLast()

    with tempfile.TemporaryDirectory() as folder:
        config = DILConfig(
            folder,
            loss="dpo",
            per_device_train_batch_size=case.rows,
            max_steps=STEPS,
            bf16=case.bf16,
            use_cpu=True,
            gradient_checkpointing=case.checkpointing,
            head_chunk=case.head_chunk,
            layout="shared",
            optim=case.optimizer,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            max_length=4096,
        )

        def adapter() -> Any:  # a new one for each model: peft notes in it which layers it found
            return lora_config({"lora_r": case.lora}) if case.lora else None

        DILTrainer(
            tiny_model(), config, pairs, processing_class=own_tokenizer(), peft_config=adapter()
        ).train()
        before = memory_now()
        trainer = DILTrainer(
            load_model(model),
            config,
            pairs,
            processing_class=tokenizer,
            peft_config=adapter(),
            callbacks=[last],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        counter.__exit__(None, None, None)
    return {"bytes": last.peak - before, "flops": counter.get_total_flops()}


def memory_now() -> int:
    """Bytes that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def compared(
    model: str, done: Callable[[str], None], names: tuple[str, ...] = tuple(CASES)
) -> list[dict[str, Any]]:
    """Each case planned (bytes by part, FLOPs) and measured (bytes, FLOPs); a row each."""
    if not Path("/proc/self/statm").is_file():
        raise InputError("this reads /proc, which this system does not have: run it on Linux")
    config, rows = plan.model_config(model), []
    for name in names:
        case = CASES[name]
        counts = counted(config, case)
        command = [sys.executable, __file__, "--case", name, "--model", model]
        environment = {
            **os.environ,
            "MALLOC_MMAP_THRESHOLD_": str(2**20),
            "MALLOC_TRIM_THRESHOLD_": str(2**20),
        }
        output = subprocess.run(command, capture_output=True, text=True, env=environment)
        if output.returncode:
            raise InputError(f"{name}: {(output.stderr.strip().splitlines() or ['no output'])[-1]}")
        measured = json.loads(output.stdout.splitlines()[-1])
        rows.append(
            {
                "case": name,
                "step": asdict(case),
                "planned": plan.memory(config, case, counts),
                "planned flops": counts.forward + counts.backward,
                "measured": measured["bytes"],
                "measured flops": measured["flops"],
            }
        )
        done(name)
    return rows


def save(rows: list[dict[str, Any]], model: str, path: Path) -> None:
    """The rows as JSON, with versions and machine."""
    write_json(path, {**provenance(), "model": model, "cases": rows})


def main(
    out: Path = Path("outputs/bench/plan.json"),
    model: str = "smollm2-135m-instruct",
    case: str | None = None,  # measure this case alone, and print it
) -> None:
    """What `dil plan` says of memory and FLOPs, against what training takes on this CPU."""
    if case is not None:
        print(json.dumps(measure(case, model)))
        return
    rows = compared(model, print)
    for row in rows:
        print(row["case"], sum(row["planned"].values()) / row["measured"])
    save(rows, model, out)
    print(out)


if __name__ == "__main__":
    typer.run(main)
