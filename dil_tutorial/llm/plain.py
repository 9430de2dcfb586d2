"""DIL on a real language model, from top to bottom: load, tokenize, score, loss, step, sample.

    python -m dil_tutorial.llm.plain --help

``DILTrainer`` gives the same losses, gradients and weights (tests/llm/test_plain.py).  It departs:
it reads a prompt that two responses share once, without padding, computes logits chunk by chunk and
scores the reference once, before training (``llm.fast``); it takes chat, soft labels, unpaired
responses, a maximum length; loop, schedule, checkpoints, LoRA and several GPUs are transformers'.
"""

import argparse
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import Pair, read_pairs, tiny_preferences
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.losses import LossSpec, make_loss

Example = tuple[list[int], list[int]]  # tokens of a prompt and of a response to it


def tokenize(prompt: str, response: str, tokenizer: Any) -> Example:
    """Tokens of prompt and response; the response ends with the EOS token, which is one of them."""
    before = tokenizer(prompt)["input_ids"]
    end = tokenizer.eos_token
    whole = tokenizer(prompt + response.removesuffix(end) + end)["input_ids"]
    if whole[: len(before)] != before:
        raise InputError(f"prompt {prompt[-20:]!r} merges with its response: end it otherwise")
    return before, whole[len(before) :]


def padded(examples: list[Example]) -> tuple[Tensor, Tensor]:
    """N examples as input_ids (N, W) and a mask of responses (N, W); no token sees the padding."""
    W = max(len(prompt) + len(response) for prompt, response in examples)
    input_ids = torch.zeros(len(examples), W, dtype=torch.long)
    is_response = torch.zeros_like(input_ids, dtype=torch.bool)
    for n, (prompt, response) in enumerate(examples):
        end = len(prompt) + len(response)
        input_ids[n, :end] = torch.tensor(prompt + response)
        is_response[n, len(prompt) : end] = True
    return input_ids, is_response


def response_logps(model: Any, examples: list[Example]) -> tuple[Tensor, Tensor]:
    """log pi(y|x) = sum_k log pi(y_k | x, y_<k) of N responses, and their lengths; (N,), (N,)."""
    input_ids, is_response = padded(examples)
    logits = model(input_ids=input_ids).logits[:, :-1]  # (N, W-1, V); position k predicts k+1
    logps = logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None]).squeeze(-1)  # (N, W-1)
    return torch.where(is_response[:, 1:], logps, 0.0).sum(1), is_response.sum(1)


def log_ratios(
    policy: Any, reference: Any, examples: list[Example], loss: LossSpec, mean: bool
) -> tuple[Tensor, Tensor]:
    """f = log pi_theta - log pi_ref of N responses, and log pi_ref; ``mean`` divides by length."""
    logps, lengths = response_logps(policy, examples)
    ref_logps = torch.zeros_like(logps)  # a loss without a reference takes log pi_theta itself
    if not loss.reference_free:
        with torch.no_grad():
            ref_logps = response_logps(reference, examples)[0]
    per = lengths if mean else 1
    return (logps - ref_logps) / per, ref_logps / per


def batch_loss(
    policy: Any, reference: Any, tokenizer: Any, pairs: list[Pair], loss: LossSpec, mean: bool
) -> Tensor:
    """The mean loss of B pairs (paper §4.4), by the function that the toy world differentiates."""
    refused = [key for pair in pairs for key in ("p_chosen", "rejected_prompt") if key in pair]
    if refused or not isinstance(pairs[0]["prompt"], str) or (loss.needs_kl and len(pairs) < 2):
        raise InputError("chat, soft labels, unpaired responses, KTO on one pair: use DILTrainer")

    def scored(responses: list[str]) -> tuple[Tensor, Tensor]:  # one for each prompt
        texts = zip(pairs, responses, strict=True)
        examples = [tokenize(pair["prompt"], response, tokenizer) for pair, response in texts]
        return log_ratios(policy, reference, examples, loss, mean)

    chosen = [pair["chosen"] for pair in pairs]
    f_chosen, ref_chosen = scored(chosen)  # (B,), (B,)
    f_rejected, ref_rejected = scored([pair["rejected"] for pair in pairs])
    more: dict[str, Tensor] = {}
    if loss.needs_reference_samples:  # the data bring a response of the reference to each prompt
        more["f_reference"] = scored([pair["reference"] for pair in pairs])[0]
    if loss.needs_reference_logps:
        more |= {"ref_chosen": ref_chosen, "ref_rejected": ref_rejected}
    if loss.needs_kl:  # KTO: each prompt with the next pair's chosen response
        with torch.no_grad():
            more["kl"] = scored(chosen[1:] + chosen[:1])[0].mean().clamp(min=0)
    return loss(f_chosen, f_rejected, **more).mean()


def train(
    policy: Any, tokenizer: Any, pairs: list[Pair], loss: LossSpec, learning_rate: float = 1e-5,
    batch_size: int = 4, mean: bool = False, seed: int = 0,
) -> Iterator[float]:  # fmt: skip
    """One pass over the pairs, in random order; iterate: each step yields its loss."""
    reference = copy.deepcopy(policy).eval()  # before the first step
    policy.eval()  # no dropout, which would be noise in f
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, len(pairs), batch_size):
        batch = [pairs[i] for i in order[start : start + batch_size]]
        value = batch_loss(policy, reference, tokenizer, batch, loss, mean)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        yield value.item()


@torch.no_grad()
def sample(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int = 40, seed: int = 0) -> str:
    """A response drawn token by token, at temperature 1, until the EOS token."""
    tokens, rng = tokenizer(prompt)["input_ids"], torch.Generator().manual_seed(seed)
    start = len(tokens)
    while len(tokens) < start + max_new_tokens and tokens[-1] != tokenizer.eos_token_id:
        logits = model(input_ids=torch.tensor([tokens])).logits[0, -1]
        tokens.append(int(torch.multinomial(logits.softmax(-1), 1, generator=rng)))
    return str(tokenizer.decode(tokens[start:], skip_special_tokens=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="DIL on a language model, the plain way.")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="fetched, or a folder")
    parser.add_argument("--data", default=str(tiny_preferences()), help="pairs as .jsonl")
    parser.add_argument("--loss", default="dil", help="a name from dil_tutorial.losses.LOSSES")
    parser.add_argument("--generator", default="bce", help="h of DIL, f-DPO or BPO")
    parser.add_argument("--denominator", default="mixture", help="DIL's; rejected: as published")
    parser.add_argument("--rate", type=float, default=1e-5)
    given = parser.parse_args()
    try:
        loss = make_loss(given.loss)
        h = {"generator": given.generator, "denominator": given.denominator}
        loss = loss.bind(**{name: h[name] for name in h if name in loss.defaults})
        pairs, policy = read_pairs(given.data), load_model(given.model)
        tokenizer = load_tokenizer(given.model)
        for value in train(policy, tokenizer, pairs, loss, given.rate, mean=loss.means_only):
            print(f"loss {value:.4f}")
        print(sample(policy, tokenizer, pairs[0]["prompt"]))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
