"""How data were made is read from candidates, prompts and names, and held against a recipe."""

import random

import pytest

from dil_tutorial.llm.made import Made, contradiction, how_made
from dil_tutorial.losses import make_loss


def rows_of(rule, K, count=200, seed=0):
    """Rows with K scored candidates and a pair cut from them by a rule."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        texts = [f"{i} {k}" for k in range(K)]
        scores = [rng.gauss(0, 1) for _ in texts]
        order = sorted(range(K), key=scores.__getitem__)
        chosen, rejected = {
            "best, another": (order[-1], rng.choice(order[:-1])),
            "best, worst": (order[-1], order[0]),
            "any two": tuple(sorted(rng.sample(range(K), 2), key=scores.__getitem__)[::-1]),
        }[rule]
        rows.append(
            {
                "prompt": f"Q{i}",
                "all_generated_responses": texts,
                "all_rm_scores": scores,
                "chosen": [
                    {"role": "user", "content": f"Q{i}"},
                    {"role": "assistant", "content": texts[chosen]},
                ],
                "rejected": [
                    {"role": "user", "content": f"Q{i}"},
                    {"role": "assistant", "content": texts[rejected]},
                ],
            }
        )
    return rows


@pytest.mark.parametrize("K", [3, 4, 7])
@pytest.mark.parametrize("rule", ["best, another", "best, worst", "any two"])
def test_the_rule_is_seen_from_the_candidates(rule, K, write):
    path = write("rows.jsonl", rows_of(rule, K, seed=K))
    expected = {"best, another": f"1/{K}", "best, worst": "none", "any two": ""}[rule]
    made = how_made(str(path))
    assert made.weight == expected
    assert made.reads == ("pairs", "groups")


def test_one_against_all_others_is_seen_from_the_prompts(write):
    rows = [
        {"prompt": f"Q{i}", "chosen": f"{i} 0", "rejected": f"{i} {k}"}
        for i in range(20)
        for k in (1, 2, 3)
    ]
    assert how_made(str(write("rows.jsonl", rows))).weight == "1/4"
    other = [{**row, "chosen": f"{row['prompt']} {i}"} for i, row in enumerate(rows)]
    assert how_made(str(write("other.jsonl", other))).weight == ""


def test_pairs_that_show_nothing_are_not_guessed_at(write):
    rows = [{"prompt": f"Q{i}", "chosen": "a", "rejected": "b"} for i in range(9)]
    made = how_made(str(write("rows.jsonl", rows)))
    assert made.weight == ""
    assert "not seen here" in made.lines[-1][1]


@pytest.mark.parametrize(
    ("settings", "weight", "words"),
    [
        ({"denominator": "mixture"}, "1/2", None),
        ({"denominator": "mixture"}, "1/4", "mixture weight 1/4, the recipe 1/2"),
        ({"denominator": "mixture", "mixture_weight": 0.25}, "1/4", None),
        ({"denominator": "mixture", "mixture_weight": "1/3"}, "1/3", None),
        ({"denominator": "mixture", "mixture_weight": "1/3"}, "1/4", "the recipe 1/3"),
        ({"denominator": "rejected"}, "1/4", "0 (as published)"),
        ({"denominator": "reference"}, "1/4", None),
        ({"denominator": "mixture"}, "none", "read the whole group"),
        ({"denominator": "mixture"}, "", None),
    ],
)
def test_a_recipe_is_held_against_the_data(settings, weight, words):
    found = contradiction(make_loss("dil", **settings), Made(weight))
    assert found is None if words is None else words in found


def test_groups_are_for_losses_of_groups(write):
    rows = [
        {k: v for k, v in row.items() if k not in ("chosen", "rejected")}
        for row in rows_of("best, worst", 3)
    ]
    made = how_made(str(write("rows.jsonl", rows)))
    assert made.reads == ("groups",)
    assert "take loss: group" in contradiction(make_loss("dpo"), made)
    assert contradiction(make_loss("group"), made) is None
    assert ("groups without a correct answer", "50%") in how_made(
        str(
            write(
                "verified.jsonl",
                [
                    {"prompt": "Q", "responses": ["a", "b"], "correct": [i % 2 == 0, False]}
                    for i in range(8)
                ],
            )
        )
    ).lines


def test_sizes_that_vary_and_few_rows_give_no_weight(write):
    mixed = [*rows_of("best, another", 2), *rows_of("best, another", 4)]
    assert how_made(str(write("mixed.jsonl", mixed))).weight == ""
    few = rows_of("best, another", 4, count=20)
    assert how_made(str(write("few.jsonl", few))).weight == ""


def test_ties_in_the_scores_do_not_hide_the_rule(write):
    """Scores from 1 to 3: the worst is often tied, also of others at random."""
    rng = random.Random(0)
    rows = rows_of("best, another", 4, count=400)
    for row in rows:
        texts = row["all_generated_responses"]
        scores = [rng.randint(1, 3) for _ in texts]
        best = max(range(4), key=scores.__getitem__)
        other = rng.choice([k for k in range(4) if k != best])
        row |= {"all_rm_scores": scores}
        row["chosen"][1]["content"], row["rejected"][1]["content"] = texts[best], texts[other]
    assert how_made(str(write("ties.jsonl", rows))).weight == "1/4"


def test_a_pair_that_stands_there_twice_is_not_a_group(write):
    rows = [{"prompt": f"Q{i}", "chosen": "a", "rejected": "b"} for i in range(20)] * 2
    assert how_made(str(write("twice.jsonl", rows))).weight == ""
