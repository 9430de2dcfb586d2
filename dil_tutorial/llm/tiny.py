"""A tokenizer and a language model made on the spot, for examples and tests that need no
network.
"""

from typing import Any

import torch

from dil_tutorial.llm.data import read_pairs, tiny_preferences


def own_tokenizer() -> Any:
    """A tokenizer of 500 byte-level tokens made from the tutorial's own texts, where no model
    brings one.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=letters,
        show_progress=False,
    )
    texts = [text for pair in read_pairs(tiny_preferences()) for text in pair.values()]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def tiny_model() -> Any:
    """A Llama of two layers with seeded random weights and ``own_tokenizer``'s vocabulary, for
    examples that run anywhere.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=500, bos_token_id=0, eos_token_id=1, pad_token_id=1, **size)
    )
