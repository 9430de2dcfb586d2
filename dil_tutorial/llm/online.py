"""On-policy training of a language model (THEORY §13, §14): a ``Trainer`` whose policy answers its
prompts itself.

The advantages and losses are those of ``dil_tutorial.policy_gradient``, which the ledger
enumerates, and ``losses.group_loss``.  At each new batch of prompts the policy draws a group of
responses to each (temperature
1, its own distribution), a reward is asked of every response, and ``updates`` optimizer steps are
made on them; at the first of these the policy is the one that drew.

==============  ================================  ==================================================
``algorithm``   advantage                         loss of a response
==============  ================================  ==================================================
``reinforce``   R - beta f                        -rho A, sums of log-probabilities, clipped beyond
                                                  the first step
``rloo``        less the mean of the others       the same
``grpo``        in s.d. of its group              token by token with its own rho, mean over the
                                                  response's tokens
``group``       none: weights of the group,       ``group_loss`` of f = log pi_theta - log pi_old,
                softmax((R - beta f_ref)/T)       pi_old the policy that drew
==============  ================================  ==================================================

``group`` imitates the winner of each group, relative to the policy that drew it.  At beta = 0 the
policy of each round is the reference of the next; at beta > 0 RLHF's optimum for beta is a fixed
point, since all penalized rewards are equal there (claim ``14.penalty``).  Its first step is a
policy gradient with advantage weight - 1/K (claim ``14.first-step``).  Where the reward is true or
false and beta is 0, the correct responses share the weight, and groups without one stay in the
reference term alone; a batch without any is left out.

TRL's trainers do more (vLLM, several rewards, tools); this one is to be read.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import TrainingArguments

from dil_tutorial import policy_gradient as pg
from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm.base import BaseTrainer, check_language_model, check_tokenizer_kind
from dil_tutorial.llm.config import check_numbers
from dil_tutorial.llm.data import check_text, is_chat
from dil_tutorial.llm.data import text_of as text_of_messages
from dil_tutorial.llm.fast.batches import batch_of
from dil_tutorial.llm.fast.logprobs import response_token_logps
from dil_tutorial.llm.fast.probes import (
    check_room,
    chunking_problem,
    core_of,
    quiet_noise,
    usable_layout,
)
from dil_tutorial.llm.fast.reference import model_digest
from dil_tutorial.llm.groups import weights_of
from dil_tutorial.llm.rows import Response, TokenizedGroup, save_tensors
from dil_tutorial.llm.sampling import draw
from dil_tutorial.llm.tokens import encode_prompt
from dil_tutorial.losses import GROUP_LOSSES, LossSpec

HEAD_CHUNK = 2048  # positions whose logits are held at a time
ADVANTAGES = {"reinforce": lambda R: R, "rloo": pg.leave_one_out, "grpo": pg.group_normalised}
ALGORITHMS = (*ADVANTAGES, "group")
# of N prompts and responses, and N of each other field of the rows, by name: N numbers (nats), or
# whether they are correct
Reward = Callable[..., Sequence[float] | Sequence[bool]]
NO_EVALUATION = (
    "OnlineTrainer: eval_dataset, eval_strategy: it has no loss on given responses: leave them "
    "out, and draw from the saved model to evaluate it"
)
Prompt = str | Mapping[str, Any]  # a text, or a row with the field ``prompt``


@dataclass
class OnlineConfig(TrainingArguments):
    """TrainingArguments plus the algorithm; ``per_device_train_batch_size`` counts prompts.

    ==================  =========  =================================================================
    Field               Default    Description
    ==================  =========  =================================================================
    ``algorithm``       "rloo"     "reinforce", "rloo", "grpo" or "group"
    ``samples``         8          responses to each prompt of a batch
    ``max_new_tokens``  64         the longest response
    ``beta``            0.1        of the KL to the reference, taken off the reward
    ``clip``            0.2        PPO's; counts from the second of ``updates`` on
    ``updates``         1          optimizer steps on the same responses
    ``generator``       "bce"      of "group": the h of its loss
    ``temperature``     1.0        of "group": T, in nats; 0: the best response alone
    ==================  =========  =================================================================
    """

    algorithm: str = "rloo"
    samples: int = 8
    max_new_tokens: int = 64
    beta: float = 0.1
    clip: float = 0.2
    updates: int = 1
    generator: str = "bce"
    temperature: float = 1.0
    remove_unused_columns: bool | None = field(default=False)  # the reward reads them

    def __post_init__(self) -> None:
        check_numbers(self)
        super().__post_init__()
        if self.algorithm not in ALGORITHMS:
            raise unknown_name("algorithm", self.algorithm, ALGORITHMS)
        self.group_loss()
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature}: give 0 or more")
        least = {
            "samples": 1 if self.algorithm == "reinforce" else 2,
            "max_new_tokens": 1,
            "updates": 1,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(
                    f"{name} is {getattr(self, name)}: {self.algorithm} needs at least {low}"
                )
        if not 0 <= self.beta < math.inf or not self.clip > 0:
            raise InputError(
                f"beta {self.beta:g}, clip {self.clip:g}: give beta of 0 or more and a clip above 0"
            )
        if self.gradient_accumulation_steps != 1:
            raise InputError(
                "gradient_accumulation_steps: a group is one batch here: give more prompts a "
                "batch in its place"
            )

    def group_loss(self) -> LossSpec:
        """The loss of a group, with its generator."""
        return GROUP_LOSSES["group"].bind(generator=self.generator)


@dataclass(frozen=True)
class Rollout:
    """Responses to B prompts, G each in a row, and what is known of them without the policy in
    training.  N = B G.
    """

    responses: list[Response]
    old: list[Tensor]  # (T_n,) log-probabilities of their tokens under the policy that drew them
    advantages: Tensor  # (N,), or of "group" the weights

    def save(self, path: Path) -> None:
        """Write it beside a checkpoint that is made between two of its updates."""
        parts = [part for r in self.responses for part in (r.prompt, r.tokens)]
        save_tensors(
            path,
            {
                "tokens": torch.tensor([token for part in parts for token in part]),
                "lengths": torch.tensor([len(part) for part in parts]),
                "old": torch.cat(self.old).cpu(),
                "advantages": self.advantages.cpu(),
            },
        )

    @classmethod
    def load(cls, path: Path, device: Any) -> "Rollout":
        """What ``save`` wrote."""
        saved = load_file(path)
        parts = [part.tolist() for part in saved["tokens"].split(saved["lengths"].tolist())]
        responses = [Response(*both) for both in zip(parts[::2], parts[1::2], strict=True)]
        old = saved["old"].to(device).split([len(response.tokens) for response in responses])
        return cls(responses, list(old), saved["advantages"].to(device))


class OnlineTrainer(BaseTrainer):
    """RLHF on prompts: the policy draws, ``reward`` judges, and the policy learns from that.

    ``prompts`` are texts, or rows with the field ``prompt``, whose other fields ``reward`` is given
    by name.  The reference is the model without its adapter (a ``PeftModel``), or ``ref_model``.

    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> from transformers import ProgressCallback
    >>> import tempfile
    >>> args = OnlineConfig(
    ...     tempfile.mkdtemp(), samples=4, max_new_tokens=3, max_steps=2, use_cpu=True, report_to=[]
    ... )
    >>> def reward(prompts, responses):
    ...     return [float(len(text)) for text in responses]
    >>> trainer = OnlineTrainer(
    ...     tiny_model(),
    ...     args,
    ...     ["Hi", "Name a fruit."],
    ...     own_tokenizer(),
    ...     reward,
    ...     ref_model=tiny_model(),
    ... )
    >>> [trainer.remove_callback(ProgressCallback), trainer.train().global_step][1]
    2
    """

    def __init__(
        self,
        model: Any,
        args: OnlineConfig,
        prompts: Iterable[Prompt] | None,  # a stream is read to its end
        processing_class: Any,
        reward: Reward,
        ref_model: Any = None,
        chats: Collection[
            str
        ] = (),  # prompts that are a user's messages, not texts to continue with
        **settings: Any,  # Trainer's
    ) -> None:
        for network in (model, *([] if ref_model is None else [ref_model])):
            check_language_model(network, "OnlineTrainer")
        check_tokenizer_kind(processing_class, "OnlineTrainer")
        if not callable(reward):
            raise InputError(f"reward is a {type(reward).__name__}: give a function")
        rows, messages = read_rows(prompts)
        chats = {*chats, *messages}
        if settings.get("eval_dataset") is not None or args.do_eval:
            raise InputError(NO_EVALUATION)
        if ref_model is None and not hasattr(model, "disable_adapter"):
            raise InputError(
                "the reference is missing: give an adapter to train (peft), or ref_model"
            )
        self.reward, self.reference, self.chats = reward, ref_model, frozenset(chats)
        self.rollout: Rollout | None = None
        super().__init__(
            model=model,
            args=args,
            train_dataset=repeated(rows, args),
            processing_class=processing_class,
            data_collator=list,
            **settings,
        )
        self.prompts = rows
        encoded = [
            encode_prompt(processing_class, str(row["prompt"]), row["prompt"] in chats)
            for row in rows
        ]
        longest = max(map(len, encoded)) + args.max_new_tokens
        self.begun = model_digest(self.model)
        for network in (self.model, ref_model):
            if network is not None:
                # an adapter's dropout too: the first update is on the policy that drew
                quiet_noise(network, dropout=True, adapters=True)
        self.savings: dict[
            int, tuple[str, int]
        ] = {}  # of a network by its id: its layout, and positions of its head at a time
        for network in (self.model, ref_model):
            if network is not None:
                core = core_of(network)
                check_room(core, max(map(max, encoded)), longest)
                self.savings[id(network)] = (
                    usable_layout(core, "shared", longest)[0],
                    0 if chunking_problem(core) else HEAD_CHUNK,
                )
        if ref_model is not None:
            self.reference = ref_model.to(self.args.device).eval()

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Not here: InputError."""
        raise InputError(NO_EVALUATION)

    def done(self) -> dict[str, str]:
        """The algorithm and the prompts, for the model card."""
        args = self.args
        return {
            "Algorithm": f"{args.algorithm}, {args.samples} responses of at most "
            f"{args.max_new_tokens} tokens to each prompt, beta {args.beta:g}, {args.updates} "
            "update(s) on each batch",
            "Data": f"{len(self.prompts):,} prompts; responses of the policy itself",
        }

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # ``repeated`` has put them in order

    def _rollout_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"rollout_{self.args.process_index}.safetensors"

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        step = self.state.global_step
        if self.rollout is not None and step % self.args.updates:
            self.rollout.save(self._rollout_file(Path(self.args.output_dir, f"checkpoint-{step}")))
        super()._save_checkpoint(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        saved = self._rollout_file(Path(resume_from_checkpoint))
        self.rollout = Rollout.load(saved, self.args.device) if saved.exists() else None

    def compute_loss(
        self, model: Any, inputs: list[Prompt], return_outputs: bool = False, **unused: Any
    ) -> Any:
        """The loss of one step: a new rollout where its turn has come, then the loss of its
        responses.
        """
        args, step = self.args, self.state.global_step
        if self.rollout is None or step % args.updates == 0:
            self.rollout = self.new_rollout(model, inputs)
        rollout = self.rollout
        ours = self.token_logps(model, rollout.responses)
        if args.algorithm == "group":
            loss = self.loss_of_groups(rollout, ours)
        else:
            loss = torch.stack(
                [
                    self.loss_of(A, logps, old)
                    for A, logps, old in zip(rollout.advantages, ours, rollout.old, strict=True)
                ]
            ).mean()
        self.checked(loss)
        return (loss, None) if return_outputs else loss

    def loss_of_groups(self, rollout: Rollout, ours: list[Tensor]) -> Tensor:
        """``group_loss`` of all groups; the chosen term is a mean over those that have a winner."""
        drawn_by = torch.stack([part.sum() for part in rollout.old])
        f = torch.stack([part.sum() for part in ours]) - drawn_by
        weights = rollout.advantages.view(-1, self.args.samples)
        # in all processes, whose losses are averaged
        solved = self.accelerator.reduce((weights.sum(1) > 0).float().mean(), "mean")
        groups = f.view_as(weights)
        if solved == 0:  # a batch without any winner: nothing was chosen, and it is left out
            return 0 * groups.sum()
        return self.args.group_loss()(groups, weights, solved=solved).mean()

    def loss_of(self, A: Tensor, logps: Tensor, old: Tensor) -> Tensor:
        """Of one response: GRPO's mean over tokens, or the sequence's ratio as a whole."""
        if self.args.algorithm == "grpo":
            losses = pg.clipped_loss(A, logps, old, self.args.clip)
            return pg.mean_over_tokens(losses[None], torch.ones_like(losses)[None])[0]
        return pg.clipped_loss(A, logps.sum(), old.sum(), self.args.clip)

    @torch.no_grad()
    def new_rollout(self, model: Any, prompts: list[Prompt]) -> Rollout:
        """Draw, judge and score a group of responses to each prompt."""
        args = self.args
        step = self.state.global_step * args.world_size + args.process_index
        seed = args.seed * 1_000_003 + step
        core = self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        drawn = draw(
            core.eval(),
            self.processing_class,
            [text_of(prompt) for prompt in prompts],
            args.samples,
            args.max_new_tokens,
            seed,
            chat=self.chats,
            quiet=True,
        )
        responses = [
            Response(row["prompt_ids"], one["ids"]) for row in drawn for one in row["responses"]
        ]
        texts = [one["text"] for row in drawn for one in row["responses"]]
        given = self.reward(*asked(prompts, texts), **columns(prompts, args.samples))
        R, verified = read_rewards(given, len(responses))
        old = self.token_logps(model, responses)
        f = (
            torch.stack([part.sum() for part in old]).cpu()
            - self.reference_logps(model, responses).cpu()
        )
        groups = (len(drawn), args.samples)
        penalized = pg.penalized(R.view(groups), f.view(groups), args.beta)
        if args.algorithm == "group":
            A = self.weights(penalized, verified and args.beta == 0)
        else:
            A = ADVANTAGES[args.algorithm](penalized)
        lengths = [float(len(response.tokens)) for response in responses]
        for name, values in {"reward": R.tolist(), "kl": f.tolist(), "tokens": lengths}.items():
            self._metrics["train"][name].extend(values)
        model.train()
        return Rollout(responses, old, A.flatten().to(old[0].device))

    def weights(self, scores: Tensor, verified: bool) -> Tensor:
        """How much each response is the winner, (B, G): of scores, or of what is ``verified``, 1
        where it is correct.
        """
        name = "correct" if verified else "scores"
        groups = [weights_of({name: row}, self.args.temperature) for row in scores.tolist()]
        weights = torch.tensor(groups, dtype=torch.float32)
        self._metrics["train"]["groups/solved"].extend(weights.sum(1).round().tolist())
        return weights

    def token_logps(self, model: Any, responses: list[Response]) -> list[Tensor]:
        """Log-probabilities (T_n,) of each response's tokens, with gradient where that is on.

        The responses to a prompt stand together, so that it is read once.
        """
        core = self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        layout, chunk = self.savings[id(core)]
        samples = self.args.samples
        groups = [
            TokenizedGroup(responses[start : start + samples], [])
            for start in range(0, len(responses), samples)
        ]
        batch = batch_of(groups, 0, layout).to(self.args.device)
        parts, _ = response_token_logps(model, batch, core.get_output_embeddings(), chunk)
        return [part.float() for part in parts]

    def reference_logps(self, model: Any, responses: list[Response]) -> Tensor:
        """Log-probabilities of whole responses under the reference, (N,)."""
        core = self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        with nullcontext() if self.reference is not None else core.disable_adapter():
            token_logps = self.token_logps(
                self.reference if self.reference is not None else model, responses
            )
        return torch.stack([part.sum() for part in token_logps])


def read_rewards(given: Any, count: int) -> tuple[Tensor, bool]:
    """The rewards of ``count`` responses (N,), and whether they are all true or false; a list, an
    array or a tensor.

    >>> read_rewards([True, False], 2)
    (tensor([1., 0.]), True)
    >>> read_rewards([0.5], 2)
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: reward: gave 1 for 2 responses: give one finite number, or true
        or false, for each
    """
    try:
        values = given.tolist() if hasattr(given, "tolist") else list(given)
        values = [one.item() if hasattr(one, "item") else one for one in values]
        R = torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        values, R = [], torch.empty(0)
    if R.shape != (count,) or not R.isfinite().all():
        raise InputError(
            f"reward: gave {len(values) or repr(given)[:60]} for {count} responses: give one "
            "finite number, or true or false, for each"
        )
    return R, all(isinstance(one, bool) for one in values)


def read_rows(prompts: Iterable[Prompt] | None) -> tuple[list[dict[str, Any]], set[str]]:
    """Rows of prompts, checked, and which of them were a user's message; InputError names those
    that cannot be used.

    >>> read_rows(["Hi", {"prompt": [{"role": "user", "content": "Why?"}], "answer": 4}])
    ([{'prompt': 'Hi'}, {'prompt': 'Why?', 'answer': 4}], {'Why?'})
    """
    if isinstance(prompts, (str, bytes)) or not isinstance(prompts, Iterable):
        prompts = [] if prompts is None else [prompts]
    rows: list[dict[str, Any]] = []
    messages = set()
    for number, given in enumerate(prompts):
        row: Any = {"prompt": given} if isinstance(given, str) else given
        where = f"prompts row {number}"
        prompt: Any = row.get("prompt") if isinstance(row, Mapping) else None
        if is_chat(prompt) and len(prompt) == 1 and prompt[0]["role"] == "user":
            prompt = text_of_messages(prompt)
            messages.add(prompt)
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"{where}: give a text as prompt, or a list of one user's message")
        check_text(prompt, f"{where}: field 'prompt'")
        if taken := {"prompts", "responses"} & row.keys():
            raise InputError(f"{where}: the reward has a {taken.pop()} already: rename that field")
        rows.append({**{str(name): value for name, value in row.items()}, "prompt": prompt})
    if not rows:
        raise InputError("no prompts: give at least one")
    return rows, messages


def text_of(prompt: Prompt) -> str:
    """The text of a prompt.

    >>> text_of("Hi"), text_of({"prompt": "2 + 2 =", "answer": 4})
    ('Hi', '2 + 2 =')
    """
    return prompt if isinstance(prompt, str) else str(prompt["prompt"])


def asked(prompts: Sequence[Prompt], responses: list[str]) -> tuple[list[str], list[str]]:
    """The text of a prompt for each response, and the responses."""
    times = len(responses) // len(prompts)
    return [text_of(prompt) for prompt in prompts for _ in range(times)], responses


def columns(prompts: Sequence[Prompt], times: int) -> dict[str, list[Any]]:
    """The other fields of the rows, by name, with each value as often as its prompt has responses.

    >>> columns([{"prompt": "2 + 2 =", "answer": 4}], times=2)
    {'answer': [4, 4]}
    """
    rows = [prompt for prompt in prompts if not isinstance(prompt, str)]
    names = dict.fromkeys(name for row in rows for name in row if name != "prompt")
    return {name: [row.get(name) for row in rows for _ in range(times)] for name in names}


def repeated(prompts: Sequence[Prompt], args: OnlineConfig) -> list[Prompt]:
    """Prompts in a seeded order, cut into the batches of a step, each as often in a row as it has
    ``updates``.  Where the last batch is too short, the first prompts are drawn to again.

    >>> import tempfile
    >>> args = OnlineConfig(
    ...     tempfile.mkdtemp(), per_device_train_batch_size=2, updates=2, use_cpu=True
    ... )
    >>> order = repeated(["a", "b", "c"], args)
    >>> order[:2] == order[2:4], sorted({*order})
    (True, ['a', 'b', 'c'])
    """
    rng = torch.Generator().manual_seed(args.seed)
    order = torch.randperm(len(prompts), generator=rng).tolist()
    size = args.train_batch_size * args.world_size  # each process takes its part of a step's batch
    if args.world_size == 1:
        size = min(size, len(prompts))
    order += itertools.islice(itertools.cycle(order), -len(order) % size)
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return [prompts[i] for batch in batches for _ in range(args.updates) for i in batch]
