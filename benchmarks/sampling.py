"""Tokens a second of drawing responses, ours against transformers' own way
and against a kept engine.

All draw from the model's own distribution (temperature 1, no top-k, no top-p) in float32, as many
responses to the same prompts.  Ours also keeps the log-probability of every response; the others
would have to score them afterwards.  CTranslate2 is measured if it is installed (pip install
ctranslate2)."""

import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import typer

from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.models import load_model, load_tokenizer, resolve
from dil_tutorial.llm.sampling import draw, encode_prompt
from dil_tutorial.support.files import provenance, write_json

SAMPLES, TOKENS = 16, 32  # responses to a prompt, tokens of the longest
Drawn = Callable[[], int]  # draws, and returns the number of tokens


def ours(model: Any, tokenizer: Any, prompts: list[str]) -> int:
    """``llm.sampling.draw``."""
    rows = draw(
        model, tokenizer, prompts, SAMPLES, TOKENS, 0, rows=SAMPLES * len(prompts), quiet=True
    )
    return sum(len(response["ids"]) for row in rows for response in row["responses"])


@torch.no_grad()
def transformers_own(model: Any, tokenizer: Any, prompts: list[str]) -> int:
    """``generate`` with num_return_sequences: prompts read once a response, torch.multinomial at
    every token.
    """
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    out = model.generate(
        **batch,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=TOKENS,
        num_return_sequences=SAMPLES,
        pad_token_id=tokenizer.pad_token_id,
    )
    return live_tokens(out[:, batch["input_ids"].shape[1] :], tokenizer.eos_token_id)


def live_tokens(ids: torch.Tensor, end: int) -> int:
    """Tokens up to the first EOS token of each row, that token included.

    >>> live_tokens(torch.tensor([[5, 1, 1], [5, 6, 7]]), end=1)
    5
    """
    ended = (ids == end).cumsum(1)
    return int(((ended == 0) | ((ids == end) & (ended == 1))).sum())


def engine(folder: str, tokenizer: Any, prompts: list[str], threads: int) -> Drawn:
    """CTranslate2 on the same weights."""
    import ctranslate2

    target = tempfile.mkdtemp()
    ctranslate2.converters.TransformersConverter(folder).convert(
        target, quantization="float32", force=True
    )
    generator = ctranslate2.Generator(
        target, device="cpu", compute_type="float32", intra_threads=threads
    )
    starts = [
        tokenizer.convert_ids_to_tokens(encode_prompt(tokenizer, prompt)) for prompt in prompts
    ]

    def run() -> int:
        generations = generator.generate_batch(
            starts,
            max_length=TOKENS,
            sampling_topk=0,
            sampling_temperature=1.0,
            num_hypotheses=SAMPLES,
            beam_size=1,
            include_prompt_in_result=False,
            max_batch_size=256,
        )
        return sum(len(ids) for result in generations for ids in result.sequences_ids)

    return run


def measure(name: str, count: int, done: Callable[[str], None]) -> list[dict[str, Any]]:
    """Tokens a second of each way, the faster of two runs."""
    model, tokenizer = load_model(name), load_tokenizer(name)
    prompts = list(dict.fromkeys(str(pair["prompt"]) for pair in read_pairs(tiny_preferences())))[
        :count
    ]
    methods: dict[str, Drawn] = {
        "dil_tutorial": lambda: ours(model, tokenizer, prompts),
        "transformers": lambda: transformers_own(model, tokenizer, prompts),
    }
    if find_spec("ctranslate2"):
        methods["CTranslate2"] = engine(resolve(name), tokenizer, prompts, torch.get_num_threads())
    rows = []
    for method, run in methods.items():
        best = 0.0
        for _ in range(2):
            start = time.perf_counter()
            tokens = run()
            best = max(best, tokens / (time.perf_counter() - start))
        rows.append(
            {
                "way": method,
                "prompts": len(prompts),
                "samples": SAMPLES,
                "tokens": tokens,
                "tokens_per_s": best,
            }
        )
        done(method)
    return rows


def save(rows: list[dict[str, Any]], model: str, path: Path) -> None:
    """The rows as JSON, with versions and machine."""
    write_json(
        path, {**provenance(), "model": model, "threads": torch.get_num_threads(), "ways": rows}
    )


def main(
    out: Path = Path("outputs/bench/sampling.json"),
    model: str = "smollm2-135m-instruct",
    prompts: int = 16,
) -> None:
    """Tokens per second of drawing responses, ours, transformers' and, if installed,
    CTranslate2's.
    """
    rows = measure(model, prompts, print)
    for row in rows:
        print(row)
    save(rows, model, out)
    print(out)


if __name__ == "__main__":
    typer.run(main)
