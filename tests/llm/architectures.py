"""Tiny models of every causal architecture that transformers knows, made by rule, and one training
step of each.

``tiny(kind)`` shrinks the default configuration: a field called like one of SMALL gets that size;
EXTRA holds what else an architecture wants.  ``python tests/llm/architectures.py FILE`` writes the
table that the book shows.
"""

import contextlib
import inspect
import json
import logging
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PrinterCallback
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dil_tutorial.errors import InputError
from dil_tutorial.llm.fast.attention import ATTENTION, register
from dil_tutorial.llm.fast.batches import batch_of
from dil_tutorial.llm.fast.logprobs import response_logps
from dil_tutorial.llm.fast.probes import quiet_noise
from dil_tutorial.llm.tiny import own_tokenizer
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.llm.trainer import DILConfig, DILTrainer
from dil_tutorial.losses import make_loss

KINDS = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
LAYOUTS = ("shared", "packed", "padded", "single")
LAYERS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "encoder_layers",
)
SIZES: dict[int, str] = {
    32: """hidden_size d_model n_embd dim embed_dim word_embed_proj_dim embedding_size emb_dim lru_width attention_hidden_size
    dim_model""",
    48: "intermediate_size n_inner ffn_dim ffn_hidden_size encoder_ffn_dim decoder_ffn_dim d_ff "
    "dim_ff",
    16: """moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size expert_ffn_hidden_size
    q_lora_rank kv_lora_rank""",
    8: """head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim state_size mamba_d_state mamba_d_head mamba_n_heads
    mamba_num_heads mamba_head_dim chunk_size mamba_chunk_size sliding_window attention_window dim_head""",
    4: """num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads num_local_experts
    num_experts n_routed_experts moe_num_experts conv_kernel num_buckets""",
    2: "num_key_value_heads num_experts_per_tok moe_topk moe_k mamba_expand expand "
    + " ".join(LAYERS),
    1: "n_shared_experts n_group topk_group pad_token_id eos_token_id",
    0: "bos_token_id",
    128: "vocab_size max_position_embeddings n_positions",
}
SMALL = {name: size for size, names in SIZES.items() for name in names.split()}
LATENT = """axk1 axk2 bailing_hybrid deepseek_v2 deepseek_v3 deepseek_v32 dots3_note_text glm4_moe_lite glm_moe_dsa
longcat_flash minicpm3 youtu"""
EXTRA: dict[str, dict[str, Any]] = {
    # multi-head latent attention has as many of these
    **{kind: {"num_key_value_heads": 4} for kind in LATENT.split()},
    "codegen": {"rotary_dim": 8},
    "gptj": {"rotary_dim": 8},
    "bamba": {"attn_layer_indices": [1]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "mamba2": {"num_heads": 8},
    "zaya": {"num_experts_per_tok": 1},
}
DECODERS = """bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta
roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl"""
EXTRA |= {f"{kind} (decoder)": {"is_decoder": True} for kind in DECODERS.split()}
WINDOW = 8
LONG = ((30, 41, 25), (70, 20, 53), (5, 90, 61))  # many windows
LOSS = {"generator": "bce", "denominator": "mixture"}


def pairs(
    sizes: tuple[tuple[int, int, int], ...] = ((5, 7, 3), (11, 4, 9), (8, 12, 6)),
) -> list[dict[str, Any]]:
    """Pairs of random tokens, with so many of prompt, chosen and rejected."""
    rng = torch.Generator().manual_seed(1)
    fields, rows = ("prompt", "chosen", "rejected"), []
    for size in sizes:
        tokens = {
            f"{f}_ids": torch.randint(2, 128, (n,), generator=rng).tolist()
            for f, n in zip(fields, size, strict=True)
        }
        rows.append({**dict.fromkeys(fields, ""), **tokens})
    return rows


class NotTiny(Exception):
    """A model that cannot be made small by the rule."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise NotTiny(f"takes more than {seconds} s to make")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tiny(kind: str, **more: Any) -> Any:
    """A small model of an architecture with seeded weights, large enough that a wrong mask shows,
    in float64.

    Some want more than two layers, because the first ones mix tokens in another way: then four are
    made, or six.
    """
    cls = CONFIG_MAPPING[kind.removesuffix(" (decoder)")]
    if others := sorted(
        set(getattr(cls, "sub_configs", {})) - {"text_config", "attn_config", "ffn_config"}
    ):
        raise NotTiny(f"has a {', '.join(others)} besides its language model")
    fields = set(inspect.signature(cls.__init__).parameters) | set(
        getattr(cls, "__annotations__", {})
    )
    with contextlib.suppress(Exception):  # defaults that do not fit each other
        fields |= set(vars(cls()))
    sizes = {
        name: size
        for name, size in SMALL.items()
        if name in fields | set(getattr(cls, "attribute_map", {}))
    }
    sizes |= EXTRA.get(kind, {}) | more
    layers = [name for name in LAYERS if name in sizes]
    for count in (2, 4, 6):
        try:
            with at_most(10):
                model = made(cls(**(sizes | dict.fromkeys(layers, count))))
                model(input_ids=torch.tensor([[5, 6, 7]]))
            return model
        except NotTiny:
            raise
        except Exception as error:  # whatever does not fit
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    raise NotTiny(reason)


def made(config: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager").double()
    if sum(weight.numel() for weight in model.parameters()) > 20_000_000:
        raise NotTiny("has more than 20 million parameters")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(3)
    return model


def plain(model: Any, rows: list[dict[str, Any]]) -> tuple[float, list[Tensor]]:
    """The loss at f = 0 and its gradient, each response by itself without padding."""
    logps = []
    for side in ("chosen_ids", "rejected_ids"):
        for row in rows:
            ids, start = torch.tensor([row["prompt_ids"] + row[side]]), len(row["prompt_ids"])
            law = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
            logps.append(law.gather(1, torch.tensor(row[side])[:, None]).sum())
    logps = torch.stack(logps)
    f = logps - logps.detach()
    loss = make_loss("dil", **LOSS)(f[: len(rows)], f[len(rows) :]).mean()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    slopes = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return loss.item(), list(slopes)


def step(
    model: Any, layout: str, rows: list[dict[str, Any]], folder: str, **settings: Any
) -> dict[str, Any]:
    """One step of DILTrainer on all rows against ``plain``: the layout used, f before it, and the
    errors of loss and gradient.

    The gradient is read from what plain gradient descent does to the weights; its error is relative
    to its largest entry.
    """
    quiet_noise(model, dropout=True)
    model.train()
    loss, slopes = plain(model, rows)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    before = [weight.detach().clone() for weight in weights]
    config = DILConfig(
        output_dir=folder,
        use_cpu=True,
        disable_tqdm=True,
        max_steps=1,
        per_device_train_batch_size=len(rows),
        **LOSS,
        loss="dil",
        learning_rate=1.0,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        report_to=[],
        save_strategy="no",
        layout=layout,
        head_chunk=8,
        **settings,
    )
    trainer = DILTrainer(model, config, rows, processing_class=own_tokenizer())
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    (logged,) = (row for row in trainer.state.log_history if "loss" in row)
    largest = max(slope.abs().max().item() for slope in slopes)
    errors = [
        (old - new.detach() - slope).abs().max()
        for old, new, slope in zip(before, weights, slopes, strict=True)
    ]
    return {
        "used": trainer.layout,
        "f": max(abs(logged["logratios/chosen"]), abs(logged["logratios/rejected"])),
        "loss": abs(logged["loss"] - loss),
        "gradient": torch.stack(errors).max().item() / largest,
    }


def tried(kind: str) -> dict[str, Any]:
    """What became of an architecture: a row for each layout, or why it was refused, or why there is
    no tiny one.
    """
    rows: dict[str, Any] = {}
    for layout in LAYOUTS:
        try:
            model = tiny(kind)
        except NotTiny as error:
            return {"not tiny": str(error)}
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows[layout] = step(model, layout, pairs(), folder)
            except InputError as error:
                return {"refused": str(error)}
            except Exception as error:
                return {
                    "error": " ".join(f"{layout}: {type(error).__name__}: {error}".split())[:200]
                }
    return {"layouts": rows}


def windowed(kind: str, window: int | None = WINDOW) -> Any:
    """``tiny`` of an architecture with room for long rows and, where its configuration knows of
    windows, a window in as many layers as it allows; a wide one if ``window`` is None.
    """
    cls = CONFIG_MAPPING[kind]
    with contextlib.suppress(Exception):
        fields = {*vars(cls()), *inspect.signature(cls.__init__).parameters}
    sizes: dict[str, Any] = {
        "max_position_embeddings": 512,
        "n_positions": 512,
        "sliding_window": window or 10_000,
        "use_sliding_window": True,
        "max_window_layers": 0,
    }
    own = {name: size for name, size in sizes.items() if name in fields}
    types = ["sliding_attention", "full_attention"]
    if "layer_types" in fields:
        try:
            return tiny(kind, **own, layer_types=types)
        except NotTiny:
            pass
    return tiny(kind, **own)


def at_length(kind: str, layout: str) -> dict[str, Any]:
    """Rows of many windows, packed, against each response by itself: the errors of log-probability
    and gradient, and how much the window matters.
    """
    rows = tokenize_pairs(pairs(LONG), own_tokenizer(), 1000)[0]
    model = windowed(kind)
    quiet_noise(model, dropout=True)
    model.eval()
    alone, slopes = scored(model, batch_of(rows, 0, "single"))
    wide = windowed(kind, None)
    quiet_noise(wide, dropout=True)
    without, _ = scored(wide.eval(), batch_of(rows, 0, "single"))
    register()
    model.set_attn_implementation(ATTENTION)
    packed, own = scored(model, batch_of(rows, 0, layout))
    largest = max(slope.abs().max().item() for slope in slopes)
    return {
        "logps": (alone - packed).abs().max().item(),
        "gradient": max((a - b).abs().max().item() for a, b in zip(slopes, own, strict=True))
        / largest,
        "window": (alone - without).abs().max().item(),
    }


def scored(model: Any, batch: Any) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities of responses, and the gradient of a weighted sum of them."""
    logps, _ = response_logps(model, batch)
    weights = torch.linspace(-1, 1, len(logps), dtype=logps.dtype)
    given = [weight for weight in model.parameters() if weight.requires_grad]
    slopes = torch.autograd.grad(
        (weights * logps).sum(), given, allow_unused=True, materialize_grads=True
    )
    return logps.detach(), list(slopes)


def exact(found: dict[str, Any]) -> bool:
    """Whether every layout gave the plain loss and gradient, and f was zero before the step."""
    rows = found["layouts"].values()
    return all(row["f"] == 0 and row["loss"] < 1e-7 and row["gradient"] < 1e-6 for row in rows)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    table = {}
    for number, kind in enumerate([*KINDS, *(f"{kind} (decoder)" for kind in DECODERS.split())], 1):
        table[kind] = tried(kind)
        print(number, kind, str(table[kind])[:150], file=sys.stderr, flush=True)
    content = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "architectures": table,
    }
    Path(sys.argv[1]).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
