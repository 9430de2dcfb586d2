"""Talk with two policies at once: each answers the same messages, and remembers its own answers."""

from typing import Any

from dil_tutorial.llm.generation import end_tokens, generate
from dil_tutorial.llm.sampling import text_of
from dil_tutorial.llm.tokens import encode_prompt


class Talk:
    """A conversation of one model; without a chat template each message is a text to continue with,
    and nothing is remembered.

    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> talk = Talk(tiny_model(), own_tokenizer(), max_new_tokens=4)
    >>> isinstance(talk.say("Name a fruit."), str), len(talk.messages)
    (True, 0)
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        max_new_tokens: int = 96,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
        }
        self.seed = seed
        self.messages: list[dict[str, str]] = []

    def say(self, text: str) -> str:
        """The model's answer to a user's message."""
        self.seed += 1  # the same words again are another draw
        if not self.tokenizer.chat_template:
            return self._reply(encode_prompt(self.tokenizer, text, chat=False))
        self.messages.append({"role": "user", "content": text})
        reply = self._reply(encode_prompt(self.tokenizer, self.messages, chat=True))
        self.messages.append({"role": "assistant", "content": reply})
        return reply

    def _reply(self, prompt: list[int]) -> str:
        ends = end_tokens(self.model, self.tokenizer)
        [one] = generate(self.model, [prompt], ends, seed=self.seed, **self.settings)
        return text_of(one, self.tokenizer)
