"""Talk with two policies at once: each answers the same messages, and remembers its own answers."""

from typing import Any

from dil_tutorial.llm.sampling import answer_to


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
            ids = list(self.tokenizer(text)["input_ids"])
            return answer_to(self.model, self.tokenizer, [ids], seed=self.seed, **self.settings)[0]
        self.messages.append({"role": "user", "content": text})
        encoded = self.tokenizer.apply_chat_template(
            self.messages, add_generation_prompt=True, return_dict=True
        )
        reply = answer_to(
            self.model,
            self.tokenizer,
            [list(encoded["input_ids"])],
            seed=self.seed,
            **self.settings,
        )[0]
        self.messages.append({"role": "assistant", "content": reply})
        return reply
