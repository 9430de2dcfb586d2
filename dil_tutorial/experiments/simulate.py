"""Preference pairs whose truth is known: responses of a real model, a known reward, a known rule
for labels (THEORY §10).

K responses a prompt are drawn from pi_ref by its own distribution.  They make a *world*
(``toy.World``) of K responses, each as probable as the next, and everything exact that is known of
worlds holds for it: the win rate, t, pi_chosen, the optimum of each loss.  As K grows it becomes
the truth about the model; the Monte-Carlo error says how far off K leaves it.

In a world of K samples a response meets itself with chance 1/K, in the truth hardly ever.  P - 1/2
is therefore stretched by K/(K - 1): t(y) is then the mean of 2 P(y > y') - 1 over the *other*
samples, which is unbiased.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dil_tutorial import preferences
from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.experiments.rewards import get_reward, score
from dil_tutorial.llm.sampling import draw
from dil_tutorial.support import templates
from dil_tutorial.support.files import provenance, read_json, read_text, write_json, write_text
from toy.worlds import World

LABELS = ("bradley-terry", "hard", "cycle")
SPLITS = {"train": 0.6, "validation": 0.1, "held-out": 0.3}  # of the prompts
PROMPTS = Path(__file__).parent / "prompts.txt"


# --- The truth ------------------------------------------------------------------------------------


def preference_of(reward: Tensor, labels: str = "bradley-terry", noise: float = 0.0) -> Tensor:
    """P(y > y') of a labeler with rewards (X, K) in nats: (X, K, K).

    "bradley-terry" is sigmoid(R - R'), "hard" prefers the higher reward, ties even.  "cycle" is not
    transitive: responses fall into three classes by the sign of R; good beats neutral, neutral
    beats bad and bad beats good with probability sigmoid(1).  ``noise`` is the share of labels that
    are turned around.

    >>> preference_of(torch.tensor([[-1.0, 0.0, 1.0]]), "cycle").round(decimals=2)
    tensor([[[0.5000, 0.2700, 0.7300],
             [0.7300, 0.5000, 0.2700],
             [0.2700, 0.7300, 0.5000]]], dtype=torch.float64)
    """
    if labels not in LABELS:
        raise unknown_name("rule for labels", labels, LABELS)
    if not 0 <= noise <= 0.5:
        raise InputError(
            f"label noise is {noise}: give the share of labels turned around, from 0 to 0.5"
        )
    reward = reward.double()
    if labels == "cycle":
        kind = reward.sign()
        ahead = (
            kind.unsqueeze(-1) - kind.unsqueeze(-2)
        ) % 3  # 0: the same class, 1: beats it, 2: is beaten
        P = torch.sigmoid(torch.where(ahead == 2, -1.0, ahead))
    else:
        P = (
            preferences.hard_labels(reward)
            if labels == "hard"
            else preferences.bradley_terry(reward)
        )
    return (1 - noise) * P + noise * P.mT


def world_of_samples(preference: Tensor) -> World:
    """The world of K samples a prompt, preferences (X, K, K); its ``advantage`` is the unbiased
    estimate of t.

    >>> world_of_samples(torch.tensor([[[0.5, 0.25], [0.75, 0.5]]])).advantage
    tensor([[-0.5000,  0.5000]], dtype=torch.float64)
    """
    X, K = preference.shape[:2]
    if K < 2:
        raise InputError(f"samples is {K}: a win rate needs at least 2 responses a prompt")
    stretched = (0.5 + (preference.double() - 0.5) * K / (K - 1)).clamp(0, 1)
    return World(torch.full((X, K), 1 / K, dtype=torch.float64), stretched)


def log_ratio_error(preference: Tensor, advantage: Tensor) -> Tensor:
    """Standard error of log(1 + t) that comes from estimating t on K - 1 other samples: (X, K, K),
    (X, K) -> (X, K).

    >>> reward = torch.tensor([[0.0, 0.5, 1.5]])
    >>> preference = preference_of(reward)
    >>> log_ratio_error(preference, truth_of(reward, preference_of)[0]).shape
    torch.Size([1, 3])
    """
    # a response's edge over itself is 0
    edge, others = 2 * preference.double() - 1, preference.shape[-1] - 1
    variance = ((edge**2).sum(2) - edge.sum(2) ** 2 / others) / (others - 1)
    # rounding may leave a variance of zero below it
    return (variance.clamp(min=0) / others).sqrt() / (1 + advantage)


def truth_of(reward: Tensor, rule: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """t of every response and the standard error of log(1 + t), (X, K) each; ``rule`` maps rewards
    to preferences, as ``preference_of`` does.

    >>> t, error = truth_of(torch.tensor([[0.0, 0.5, 1.5]]), preference_of)
    >>> t.round(decimals=2)
    tensor([[-0.4400, -0.1100,  0.5500]], dtype=torch.float64)
    """
    estimates = []
    for row in reward:  # one K x K table at a time
        P = rule(row.unsqueeze(0))
        t = world_of_samples(P).advantage
        estimates.append((t, log_ratio_error(P, t)))
    t, error = (torch.cat(column) for column in zip(*estimates, strict=True))
    return t, error


# --- Prompts, roles, pairs ------------------------------------------------------------------------


def read_prompts(path: Path) -> list[str]:
    """Prompts of a text file, one a line, or of a .jsonl file's field ``prompt``; InputError names
    file and line.
    """
    prompts = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        if path.suffix == ".jsonl":
            try:
                line = json.loads(line)["prompt"]
            except (json.JSONDecodeError, KeyError, TypeError):
                raise InputError(
                    f'{path}:{number}: no field "prompt": give {{"prompt": "..."}} a line'
                ) from None
            if not isinstance(line, str) or not line.strip():
                raise InputError(f"{path}:{number}: field 'prompt' is not a text: give one")
        prompts.append(line)
    if twice := {prompt for prompt in prompts if prompts.count(prompt) > 1}:
        raise InputError(
            f"{path}: the prompt {sorted(twice)[0]!r} stands there twice: keep one, or splits "
            "would share it"
        )
    if len(prompts) < 10:
        raise InputError(
            f"{path}: holds {len(prompts)} prompts: give at least 10, to be split in three"
        )
    return prompts


def split_prompts(count: int, seed: int) -> list[str]:
    """The split that each of ``count`` prompts belongs to, drawn by seed: 60% train, 10%
    validation, 30% held-out.

    >>> split_prompts(10, 0).count("train")
    6
    """
    sizes = [round(share * count) for share in SPLITS.values()]
    names = ["train"] * sizes[0] + ["validation"] * sizes[1]
    names += ["held-out"] * (count - len(names))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return [names[place] for place in order]


def make_pairs(
    drawn: Sequence[dict[str, Any]],
    reward: Tensor,
    rule: Callable[[Tensor], Tensor],
    pairs: int,
    seed: int,
    soft: bool = False,
) -> tuple[list[dict[str, Any]], Tensor]:
    """``pairs`` labeled pairs a prompt from its K samples, and which samples they leave for
    evaluation, (X, K) bool.

    A pair is two samples that no other pair holds, in an order that ``rule`` draws by their rewards
    (X, K), and next to them as ``reference`` a sample of the next pair: an independent draw of
    pi_ref.  Which samples these are is drawn by ``seed``. With ``soft`` labels a pair says, as
    ``p_chosen``, how probable its label was.

    >>> drawn = [
    ...     {
    ...         "prompt": "Hi",
    ...         "prompt_ids": [9],
    ...         "responses": [{"text": text, "ids": [i]} for i, text in enumerate("abcdef")],
    ...     }
    ... ]
    >>> made, left = make_pairs(drawn, torch.arange(6.0)[None], preference_of, pairs=2, seed=0)
    >>> sorted(made[0])
    ['chosen', 'chosen_ids', 'prompt', 'prompt_ids', 'reference', 'reference_ids', 'rejected', 'rejected_ids']
    >>> left.sum().item()  # samples that no pair holds
    2
    """  # noqa: E501
    X, K = reward.shape
    if not 2 <= 2 * pairs <= K or (pairs == 1 and K < 3):
        raise InputError(
            f"{pairs} pairs a prompt from {K} samples: samples of at least twice the pairs "
            "are needed (3 for one)"
        )
    rng = torch.Generator().manual_seed(seed)
    rows, left = [], torch.ones(X, K, dtype=torch.bool)
    for x, row in enumerate(drawn):
        order = torch.randperm(K, generator=rng).tolist()
        coins = torch.rand(pairs, generator=rng, dtype=torch.float64).tolist()
        left[x, order[: max(2 * pairs, 3)]] = False
        wins = rule(reward[x, order[: 2 * pairs]].view(pairs, 2))[:, 0, 1].tolist()
        for i, coin in enumerate(coins):
            a, b = order[2 * i : 2 * i + 2]
            third = order[2 * (i + 1) % (2 * pairs)] if pairs > 1 else order[2]
            chosen, rejected = (a, b) if coin < wins[i] else (b, a)
            pair = {"prompt": row["prompt"], "prompt_ids": row["prompt_ids"]}
            for field, k in (("chosen", chosen), ("rejected", rejected), ("reference", third)):
                pair |= {
                    field: row["responses"][k]["text"],
                    f"{field}_ids": row["responses"][k]["ids"],
                }
            if soft:
                pair["p_chosen"] = wins[i] if chosen == a else 1 - wins[i]
            rows.append(pair)
    return rows, left


# --- dil simulate ---------------------------------------------------------------------------------


def rewards_of(drawn: Sequence[dict[str, Any]], name: str, scale: float) -> Tensor:
    """scale x reward of every drawn response, (X, K) in nats."""
    reward = get_reward(name)
    return scale * torch.tensor(
        [
            [score(reward, name, row["prompt"], r["text"], len(r["ids"])) for r in row["responses"]]
            for row in drawn
        ],
        dtype=torch.float64,
    )


def check(settings: dict[str, Any]) -> None:
    """InputError where labels, noise, reward or the number of pairs cannot be, before anything long
    begins.
    """
    preference_of(torch.zeros(1, 2), settings["labels"], settings["noise"])
    get_reward(settings["reward"])
    make_pairs([], torch.empty(0, settings["samples"]), preference_of, settings["pairs"], 0)


def simulate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    out: Path,
    settings: dict[str, Any],
    quiet: bool = False,
) -> dict[str, Any]:
    """Draw, score, label and write the files that the data card describes; returns the card's
    numbers.

    ``settings``: model, prompts (a name for them), reward, scale, labels, noise, soft, samples,
    pairs, max_new_tokens, chat, seed. An interrupted call continues where it stopped; a folder
    whose responses were drawn otherwise is refused."""
    check(settings)
    drawn = draw_once(model, tokenizer, prompts, out, settings, quiet)
    reward = rewards_of(drawn, settings["reward"], settings["scale"])
    rule = functools.partial(preference_of, labels=settings["labels"], noise=settings["noise"])
    t, error = truth_of(reward, rule)
    splits = split_prompts(len(prompts), settings["seed"])
    lines = []
    for x, row in enumerate(drawn):
        for k, response in enumerate(row["responses"]):
            truth = {
                "reward": reward[x, k],
                "t": t[x, k],
                "log_ratio": t[x, k].log1p(),
                "log_ratio_error": error[x, k],
            }
            response |= {name: value.item() for name, value in truth.items()}
        lines.append(
            {
                "prompt": row["prompt"],
                "split": splits[x],
                **{k: v for k, v in row.items() if k != "prompt"},
            }
        )
    counts = {}
    for split in SPLITS:
        rows = [x for x, name in enumerate(splits) if name == split]
        pairs, _ = make_pairs(
            [drawn[x] for x in rows],
            reward[rows],
            rule,
            settings["pairs"],
            settings["seed"],
            settings["soft"],
        )
        write_lines(out / f"{split.replace('-', '_')}.jsonl", pairs)
        counts[split] = {"prompts": len(rows), "pairs": len(pairs)}
    responses = [response for row in drawn for response in row["responses"]]
    numbers = {
        "splits": counts,
        "responses": len(responses),
        "tokens a response": sum(len(r["ids"]) for r in responses) / len(responses),
        "share that ended": sum(r["ended"] for r in responses) / len(responses),
        "reward, mean": reward.mean().item(),
        "reward, s.d. within a prompt": reward.std(1).mean().item(),
        "log(1 + t), s.d.": t.log1p().std().item(),
        "Monte-Carlo error of log(1 + t), mean": error.mean().item(),
        "KL(pi_chosen || pi_ref), nats": ((1 + t) * t.log1p()).mean().item(),
    }
    write_json(out / "card.json", {**provenance(), "settings": settings, "numbers": numbers})
    write_text(out / "README.md", data_card(settings, numbers))
    write_lines(out / "responses.jsonl", lines)  # last: a folder that holds it is whole
    return numbers


def draw_once(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    out: Path,
    settings: dict[str, Any],
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """``draw`` into ``out``/drawn.jsonl, continuing from what is there if it was made with the same
    settings.
    """
    how = {key: settings[key] for key in ("temperature", "top_p") if key in settings}
    sampling = {
        key: settings[key] for key in ("model", "samples", "max_new_tokens", "chat", "seed")
    } | how
    sampling["prompts"] = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    noted = out / "drawn.json"
    if noted.exists():
        before = read_json(noted)
        if changed := sorted(key for key in sampling if before.get(key) != sampling[key]):
            raise InputError(
                f"{out}: holds responses drawn with another {', '.join(changed)}: choose another "
                "--out"
            )
    write_json(noted, sampling)
    return draw(
        model,
        tokenizer,
        prompts,
        settings["samples"],
        settings["max_new_tokens"],
        settings["seed"],
        out / "drawn.jsonl",
        chat=settings["chat"],
        rows=256 if model.device.type == "cpu" else 4096,
        quiet=quiet,
        **how,
    )


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON lines, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


RULES = {  # what the data card says of each rule
    "bradley-terry": "Bradley–Terry: the first wins with probability sigmoid(R - R')",
    "hard": "hard: the higher reward wins, equal rewards by a fair coin",
    "cycle": "a cycle over the sign of R: good beats neutral, neutral beats bad, bad beats good, "
    "each with probability sigmoid(1)",
}


def data_card(settings: dict[str, Any], numbers: dict[str, Any]) -> str:
    """Markdown: exactly how the data were made, what the files hold, and what they are not good
    for.
    """
    scalars = {name: value for name, value in numbers.items() if name != "splits"}
    card = templates.load(Path(__file__).parent / "templates" / "data_card.md.j2")
    return (
        card.render(
            **settings, rule=RULES[settings["labels"]], splits=numbers["splits"], numbers=scalars
        )
        + "\n"
    )
