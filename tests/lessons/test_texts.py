"""The panels that show texts: what stands in them is what the results hold, escaped, and the game
knows its right answers.
"""

import re

import pytest

pytest.importorskip("peft", reason="the results are of language models: the llm extra")

from dil_tutorial.experiments.runner import PolicyRow
from dil_tutorial.experiments.study import Results
from dil_tutorial.lessons.panels import reading

PROMPTS = ["Say <b>hello</b>", "Tell me of the sea and all its fish", "Why?"]


def run(loss, shift, seed=0):
    texts = [[f"a dog {loss} {place}"] for place in range(3)]
    tokens = [[["sea", 0.5], [" <br>", -0.25]], [["fish", -1.0]]]
    return PolicyRow(
        loss,
        seed=seed,
        validation_loss=1.0,
        own_text=texts,
        own_reward=[[shift + place] for place in range(3)],
        f_held_out=[[0.0, 1.0], [0.5, -0.5], [0.0, 0.0]],
        read=[{"place": 1, "best": 0, "worst": 1, "tokens": tokens}],
    )


HELD_OUT = {
    "prompts": PROMPTS,
    "text": [["kind", "unkind"], ["good", "bad"], ["so", "so"]],
    "reward": [[4.0, 0.0], [3.0, 0.0], [1.0, 1.0]],
}


def results(*rows):
    reference = {"own_text": [["a dog ran"]] * 3, "own_reward": [[0.0]] * 3}
    shared = {"truth": {"held-out": HELD_OUT}, "reference": reference}
    return Results(None, list(rows), shared)


RESULTS = results(run("SFT", 1.0), run("DPO", 2.0), run("DPO", 9.0, seed=1))


def html(panel):
    """All pages of a panel."""
    stack = panel.children[-1]
    found = []

    def walk(part):
        if hasattr(part, "value"):
            found.append(part.value)
        for child in getattr(part, "children", ()):
            walk(child)

    walk(stack)
    return found


def test_every_prompt_has_a_page_with_every_policy_marked_from_where_it_parts():
    pages = html(reading.before_after(RESULTS, ["SFT", "DPO"]))
    assert len(pages) == 3
    for place, page in enumerate(pages):
        assert re.findall(r"<td style='text-align:left'>(.*?)</td>", page) == [
            "a dog ran",
            f"a dog <mark>SFT {place}</mark>",
            f"a dog <mark>DPO {place}</mark>",
        ]
        # seed 0
        assert re.findall(r">([+-][\d.]+)</td>", page) == [
            "+0.0",
            f"+{1 + place:.1f}",
            f"+{2 + place:.1f}",
        ]
    assert "Say &lt;b&gt;hello&lt;/b&gt;" in pages[0]


def test_prompts_to_which_nothing_changed_are_left_out_and_counted():
    same = run("IPO", 1.0)
    same.own_text = [["a dog ran"], ["a dog ran"], ["a dog sat"]]
    [page] = html(reading.before_after(results(same), ["IPO"]))
    assert "Why?" in page
    assert reading.unchanged(results(same), "IPO") == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("before", "after"),
    [("a b", "a b"), ("", "x"), ("x", ""), ("a cat", "a cattle"), ("a\nb", "a b")],
)
def test_nothing_of_a_text_is_lost_where_it_parts(before, after):
    shown = reading.parted(before, after)
    assert re.sub("</?mark>", "", shown) == after
    assert ("<mark>" in shown) == (before != after and after != "")


def test_coloured_tokens_say_their_sum():
    [page, again] = html(reading.token_colors(RESULTS, ["SFT", "DPO"]))
    assert page == again
    assert "f = +0.25 nats" in page
    assert "f = -1.00 nats" in page
    assert "reward +3.0" in page
    assert "&lt;br&gt;" in page


def test_a_pair_is_wrong_where_f_and_a_sure_labeller_disagree():
    assert reading.wrong_pairs(RESULTS, "SFT") == [(PROMPTS[0], "unkind", "kind", 1.0)]


def test_the_game_marks_the_tuned_text_of_every_round():
    page = reading.blind(RESULTS, "DPO", rounds=3).data
    rounds = page.split("<fieldset>")[1:]
    assert len(rounds) == 3
    for place, part in enumerate(rounds):
        [right] = re.findall(r"class=right>\s*([AB]): (.*?)</label>", part)
        assert right[1] == f"a dog DPO {place}"
        assert f"The tuned one is {right[0]}." in part
    assert len(set(re.findall(r'name="([^"]+)"', page))) == 3  # a choice a round
