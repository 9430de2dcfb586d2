"""What does a model answer, and how probable is an answer?  For reading two models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.llm.data import as_chat, pad_responses, tokenize_pair
from dil_tutorial.llm.logprobs import response_logps


@torch.no_grad()
def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """One response a prompt: greedy at temperature 0, else sampled from the model's own law (no top-k, no top-p).

    Prompts are wrapped as a user's message where the tokenizer has a chat template.
    """
    texts = list(prompts)
    if tokenizer.chat_template:
        texts = [
            tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
            for text in texts
        ]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    torch.manual_seed(seed)
    law = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {"do_sample": False}
    model.eval()
    out = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        **law,
    )
    responses = out[:, batch["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(responses, skip_special_tokens=True)]


@torch.no_grad()
def score(model: Any, tokenizer: Any, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
    """Summed log-probability of each response, end token included, (N,); prompts wrapped as in ``answer``."""
    tokens = []
    for prompt, response in zip(prompts, responses, strict=True):
        pair = {"prompt": prompt, "chosen": response, "rejected": response}
        row = tokenize_pair(as_chat(pair) if tokenizer.chat_template else pair, tokenizer)
        tokens.append((row["chosen_prompt"], row["chosen"]))
    batch = {key: value.to(model.device) for key, value in pad_responses(tokens, tokenizer.pad_token_id).items()}
    model.eval()
    return response_logps(model, batch)[0].cpu()
