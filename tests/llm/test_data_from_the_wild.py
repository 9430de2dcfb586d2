"""Files of strangers: read whole, reported, refused with every reason or skipped with a count."""

import bz2
import gzip
import json
import lzma

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

pytest.importorskip("accelerate", reason="language models need the llm extra")

import zstandard
from command import dil, refused
from datasets import Dataset, DatasetDict
from tokenizers.processors import TemplateProcessing

from dil_tutorial.errors import InputError
from dil_tutorial.llm import data, data_report
from dil_tutorial.llm.data import check_pair, read, read_pairs, with_prompt
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
from dil_tutorial.llm.tokens import tokenize_pair, tokenize_pairs
from dil_tutorial.llm.trainer import DILConfig, DILTrainer

GOOD = {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}


def like_hh(rows=200, empty=5, melting=38):
    """A file in the form of Anthropic's HH-RLHF: whole dialogues, no prompt; some differ only
    inside of the last answer, and of some one side ends where the other continues.
    """
    made = []
    for i in range(rows):
        asked = f"\n\nHuman: Question {i}?\n\nAssistant:"
        if i < empty:
            chosen, rejected = f" Answer {i}.", ""
        elif i < empty + melting:
            chosen, rejected = f" I think that {i} is good.", f" I think that {i} is bad."
        else:
            chosen, rejected = f" Yes, {i}.", f" No, {i}."
        made.append({"chosen": asked + chosen, "rejected": asked + rejected})
    return made


def test_a_file_like_hh_is_read_whole_and_reported(write, tiny_model, tmp_path):
    path = write("hh.jsonl", like_hh())
    reading = read(path, on_bad_line="skip")
    assert (reading.total, len(reading.pairs), len(reading.bad), reading.cut_back) == (
        200,
        195,
        5,
        38,
    )
    assert all(pair["prompt"].endswith("\n\nAssistant:") for pair in reading.pairs)
    with pytest.raises(InputError) as refusal:
        read_pairs(path)
    assert "5 of 200 rows cannot be used" in str(refusal.value)
    assert str(refusal.value).count("is empty") == 5
    assert "--on-bad-line skip" in str(refusal.value)
    run = dil("data", path, "--model", tiny_model, "--out", tmp_path / "report")
    assert run.returncode == 0, run.stderr
    assert "38 (19%)" in run.stdout
    assert "field 'rejected' is empty" in run.stdout
    found = json.loads((tmp_path / "report" / "data.json").read_text())
    assert found["cut back"] == 38
    assert (tmp_path / "report" / "data.png").exists()


def test_one_command_trains_on_it(write, tiny_model, tmp_path):
    path = write("hh.jsonl", like_hh(rows=12, empty=2, melting=3))
    recipe = write("r.yaml", f"model: {tiny_model}\nloss: nca\nmax_steps: 2\nuse_cpu: true\n")
    refused(
        dil("train", "--config", recipe, "--data", path, "--output-dir", tmp_path / "a"),
        "2 of 12 rows",
        "skip",
    )
    run = dil(
        "train",
        "--config",
        recipe,
        "--data",
        path,
        "--output-dir",
        tmp_path / "a",
        "--on-bad-line",
        "skip",
    )
    assert run.returncode == 0, run.stderr
    assert "on 10 pairs" in run.stdout
    assert "2 left out" in run.stdout
    assert "3 prompts cut back" in run.stdout
    some = write(
        "some.yaml", f"model: {tiny_model}\nloss: nca\nmax_steps: 2\nuse_cpu: true\nlimit: 8\n"
    )
    run = dil(
        "train",
        "--config",
        some,
        "--data",
        path,
        "--output-dir",
        tmp_path / "b",
        "--on-bad-line",
        "skip",
    )
    assert "the first 8 rows of more" in run.stdout


@given(
    prompt=st.text(alphabet="ab \n", min_size=1),
    shared=st.text(alphabet="ab ", max_size=8),
    ends=st.tuples(st.text(alphabet="xy", min_size=1), st.text(alphabet="xy", min_size=1)).filter(
        lambda e: e[0][0] != e[1][0]
    ),
)
def test_a_dialogue_is_cut_at_its_last_answer(prompt, shared, ends):
    before = f"\n\nHuman: {prompt}\n\nAssistant:"
    row = with_prompt({"chosen": before + shared + ends[0], "rejected": before + shared + ends[1]})
    assert (row["prompt"], row["chosen"], row["rejected"]) == (
        before,
        shared + ends[0],
        shared + ends[1],
    )


def test_more_than_ten_bad_rows_are_counted_and_ten_are_named(write):
    rows = [GOOD] * 3 + [{**GOOD, "rejected": " "}] * 14
    with pytest.raises(InputError) as refusal:
        read_pairs(write("many.jsonl", rows))
    assert "14 of 17 rows" in str(refusal.value)
    assert str(refusal.value).count("is empty") == 10
    assert "13: field" in str(refusal.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**GOOD, "images": ["cat.png"]}, "pairs with pictures"),
        ({**GOOD, "reference": [1]}, "'reference' is of type list"),
    ],
)
def test_what_would_be_ignored_is_refused(row, words):
    with pytest.raises(InputError, match=words):
        check_pair(row, "here")


@pytest.mark.parametrize(
    "extra", [{"reference": ""}, {"reference": None}, {"images": []}, {"tools": None}]
)
def test_empty_columns_do_not_matter(extra):
    assert check_pair({**GOOD, **extra}, "here") == GOOD


def test_a_byte_order_mark_does_not_matter(tmp_path):
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\n")
    assert read_pairs(tmp_path / "bom.jsonl") == [GOOD]


def test_twins_after_truncation_are_dropped_and_counted(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    twins = {"prompt": "Hi", "chosen": " word" * 40 + " a", "rejected": " word" * 40 + " b"}
    rows, dropped = tokenize_pairs([GOOD, twins], tokenizer, max_length=20)
    assert len(rows) == 1
    assert dict(dropped) == {"both responses are the same within max_length, 20": 1}


CHAT = {
    "prompt": [{"role": "user", "content": "Hi"}],
    **{side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")},
}


def test_a_template_sees_tools_and_its_settings(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = "{% if tools %}tools {% endif %}{{ mood }}{% for m in messages %}{{ m['content'] }}|{% endfor %}"  # noqa: E501
    pair = check_pair(
        {**CHAT, "tools": [{"name": "sum"}], "chat_template_kwargs": {"mood": "calm "}}, "here"
    )
    assert tokenizer.decode(tokenize_pair(pair, tokenizer).chosen.prompt) == "tools calm Hi|"


def test_a_template_that_refuses_is_one_line(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match="refuses the messages: roles must alternate"):
        tokenize_pair(CHAT, tokenizer)


def test_a_template_that_renders_the_prompt_otherwise_is_told(tiny_model, caplog):
    import logging

    logging.getLogger("transformers").propagate = True
    tokenizer = load_tokenizer(str(tiny_model))
    first = "{% if add_generation_prompt %}a very long system prompt {% endif %}"
    tokenizer.chat_template = first + "{% for m in messages %}{{ m['content'] }}|{% endfor %}"
    row = tokenize_pair({**CHAT, "prompt": [{"role": "user", "content": "a question"}]}, tokenizer)
    assert row.chosen.rendered_otherwise
    tokenize_pairs(
        [{**CHAT, "prompt": [{"role": "user", "content": "a question"}]}], tokenizer, 100
    )
    assert any("renders the prompt otherwise" in record.getMessage() for record in caplog.records)


def test_the_report_finds_traps(write, tiny_model):
    rows = [
        GOOD,
        GOOD,
        {**GOOD, "chosen": "No.", "rejected": "Hello!"},
        {**GOOD, "chosen": "He\x07llo"},
    ]
    found = data_report.describe(read(write("traps.jsonl", rows)))
    assert (found["duplicates"], found["both ways"], found["control characters"]) == (1, 1, 1)
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}</s></s>{% endfor %}"
    reading = data.Reading([CHAT], [], 1)
    assert data_report.describe(reading, tokenizer)["double end"] == 1


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=30))
def test_the_share_of_longer_winners_is_counted(sizes):
    pairs = [{"prompt": "p", "chosen": "w " * a, "rejected": "w " * b} for a, b in sizes]
    found = data_report.describe(data.Reading(pairs, [], len(pairs)))
    expected = sum((a > b) + (a == b) / 2 for a, b in sizes) / len(sizes)
    assert found["chosen longer"][0] == pytest.approx(expected)


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12
).filter(str.strip)


def chat(prompt, chosen, rejected):
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS, st.booleans()), min_size=1, max_size=8))
def test_many_pairs_at_once_are_each_by_itself(tiny_model, drawn):
    """Texts and messages mixed, prompts that repeat: the same tokens as the tokenizer gives each,
    called by itself.

    It puts a sign before texts, which messages must not get: their template writes such signs
    itself.
    """
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    prompts = [text + ": " for text, *_ in drawn]
    pairs = [
        chat(f"{prompt}{prompts[0]}", a, b + ".")
        if messages
        else {"prompt": prompts[0], "chosen": a, "rejected": b + "."}
        for prompt, (_, a, b, messages) in zip(prompts, drawn, strict=True)
    ]
    assume(any(a != b + "." for _, a, b, _ in drawn))
    together, dropped = tokenize_pairs(pairs, tokenizer, max_length=10_000)
    kept = [
        row
        for pair in pairs
        if (row := tokenize_pair(pair, tokenizer)).chosen.tokens != row.rejected.tokens
    ]
    assert [*together] == kept
    assert dropped.total() == len(pairs) - len(kept)
    for pair in pairs:
        row = tokenize_pair(pair, tokenizer)
        if isinstance(pair["prompt"], str):
            whole = tokenizer(pair["prompt"] + pair["chosen"] + tokenizer.eos_token)["input_ids"]
        else:
            whole = tokenizer.apply_chat_template(
                pair["prompt"] + pair["chosen"], return_dict=True
            )["input_ids"]
        assert row.chosen.prompt + row.chosen.tokens == whole


# --- Labeled responses, no pairs -----------------------------------------------------------------


@pytest.mark.parametrize("label", [{}, {"label": 1}, {"label": "yes"}])
def test_a_completion_needs_a_label(label):
    with pytest.raises(
        InputError, match=r"f:1: a 'completion' whose label is .*: give label true or false"
    ):
        check_pair({"prompt": "Hi", "completion": "Hello!", **label}, "f:1")


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=20))
def test_labelled_responses_are_joined(drawn):
    """Every response is in one pair at most, none is lost, and pairs of one prompt come first."""
    rows = [
        {"prompt": f"p{prompt}", "completion": f"{i}", "label": label}
        for i, (prompt, label) in enumerate(drawn)
    ]
    good, bad = (
        {row["completion"] for row in rows if row["label"] == side} for side in (True, False)
    )
    if not (good and bad):
        with pytest.raises(InputError, match="labels are the same"):
            data.check_all(((row, "f:1") for row in rows), "f")
        return
    found = data.check_all(((row, "f:1") for row in rows), "f")
    chosen, rejected = ([pair[side] for pair in found.pairs] for side in ("chosen", "rejected"))
    assert len({*chosen}) == len({*rejected}) == len(found.pairs) == min(len(good), len(bad))
    assert {*chosen} <= good
    assert {*rejected} <= bad
    assert found.alone == abs(len(good) - len(bad))
    of = {row["completion"]: row["prompt"] for row in rows}
    for pair in found.pairs:
        assert of[pair["chosen"]] == pair["prompt"]
        assert of[pair["rejected"]] == pair.get("rejected_prompt", pair["prompt"])
    assert found.across == sum("rejected_prompt" in pair for pair in found.pairs)
    alone = [sum(p == prompt and label for p, label in drawn) for prompt in range(4)]
    others = [sum(p == prompt and not label for p, label in drawn) for prompt in range(4)]
    assert len(found.pairs) - found.across == sum(map(min, alone, others))
    # as the trainer reads them again
    assert data.check_all(((pair, "f:1") for pair in found.pairs), "f").pairs == found.pairs


@pytest.mark.parametrize("messages", [False, True])
@pytest.mark.parametrize("layout", ["auto", "shared", "packed", "padded"])
def test_responses_to_two_prompts_give_the_loss_of_each_by_itself(
    tiny_model, tmp_path, messages, layout
):
    """KTO's rows, in every layout: a term of y_w plus a term of y_l, each with its own prompt."""
    rows = [
        ("What?", "This one.", True),
        ("Why is it so long?", "No.", False),
        ("Who?", "They.", True),
        ("Where to?", "Off.", False),
    ]
    rows = [{"prompt": p, "completion": f" {c}", "label": label} for p, c, label in rows]
    if messages:
        rows = [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "label": row["label"],
                "completion": [{"role": "assistant", "content": row["completion"]}],
            }
            for row in rows
        ]
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    settings = {
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "max_steps": 2,
        "layout": layout,
    }
    config = DILConfig(
        str(tmp_path), loss="nca", learning_rate=1e-2, per_device_train_batch_size=2, **settings
    )
    trainer = DILTrainer(model, config, rows, processing_class=tokenizer)
    for row, (first, second) in zip(trainer.train_dataset, ((0, 1), (2, 3)), strict=True):
        for response, number in zip(row.responses, (first, second), strict=True):
            alone = tokenize_pair(
                {
                    "prompt": rows[number]["prompt"],
                    "chosen": rows[number]["completion"],
                    "rejected": rows[number]["completion"],
                },
                tokenizer,
            ).chosen
            assert (response.prompt, response.tokens) == (alone.prompt, alone.tokens)
            logits = model(torch.tensor([alone.prompt + alone.tokens])).logits[0].log_softmax(-1)
            logp = sum(
                logits[len(alone.prompt) + k - 1, token] for k, token in enumerate(alone.tokens)
            )
            assert response.ref_logp == pytest.approx(logp.item(), abs=1e-4)
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert history[0]["logratios/chosen"] == history[0]["logratios/rejected"] == 0
    assert history[1]["loss"] < history[0]["loss"]
    config.loss = "dpo"
    with pytest.raises(
        InputError, match="2 labeled responses have no partner of their own prompt, and loss 'dpo'"
    ):
        DILTrainer(model, config, rows, processing_class=tokenizer)


def test_messages_that_call_a_tool_need_no_text():
    """A table gives every message the fields of any: those of no value are left out, as a template
    must see them.
    """
    ask = [{"role": "user", "content": "Dim the light", "tool_calls": None}]
    call = [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "dim", "arguments": {"to": 5, "in": None}}}],
        }
    ]
    say = [{"role": "assistant", "content": "No.", "tool_calls": None}]
    other = [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]
    row = {"prompt": ask, "chosen": call, "rejected": say, "tools": None}
    [row, _] = data.without_fill(Dataset.from_list([row, {**row, "chosen": other}]))
    pair = check_pair(row, "f:1")
    assert pair["prompt"] == [{"role": "user", "content": "Dim the light"}]
    assert pair["chosen"][0] == {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "dim", "arguments": {"to": 5}}}],
    }
    assert "tools" not in pair
    assert "dim" in data.text_of(pair["chosen"])
    with pytest.raises(InputError, match="field 'chosen' is of type list"):
        check_pair(
            {"prompt": ask, "chosen": [{"role": "assistant", "content": None}], "rejected": say},
            "f:1",
        )


def test_nulls_that_are_values_stay():
    """In JSON a null is a value, in what a tool is called with and in its schema; so it is in a
    column of the type Json.
    """
    arguments = {"to": None, "by": [1, None], "how": {"fast": None}}
    schema = {"properties": {"to": {"type": ["string", "null"], "default": None}}}
    row = {
        "prompt": [{"role": "user", "content": "Dim", "tool_calls": None}],
        "chosen": [
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "dim", "arguments": arguments}}],
            }
        ],
        "rejected": [{"role": "assistant", "content": "No."}],
        "tools": [{"type": "function", "function": {"name": "dim", "parameters": schema}}],
    }
    function = {"name": "f", "parameters": {"properties": {"to": {"type": "string"}}}}
    other = {**row, "tools": [{"type": "function", "function": function}]}
    table = Dataset.from_list([row, other], on_mixed_types="use_json")
    from_table = next(iter(data.without_fill(table)))
    for one in (row, {**row, "tools": from_table["tools"]}):
        pair = check_pair(one, "f:1")
        assert pair["chosen"][0]["tool_calls"][0]["function"]["arguments"] == arguments
        assert pair["tools"][0]["function"]["parameters"] == schema
        assert pair["prompt"] == [{"role": "user", "content": "Dim"}]


# --- Rows that only a tokenizer, its template or a model refuses ----------------------------------


def vocabulary_rows(ids):
    return {
        **dict.fromkeys(("prompt", "chosen", "rejected"), ""),
        "prompt_ids": [5],
        "chosen_ids": [6],
        "rejected_ids": ids,
    }


MERGES = {"prompt": " ", "chosen": "the end", "rejected": "that"}
REFUSED = {
    "half a character": (
        {**GOOD, "chosen": "Hello \ud83d"},
        r"field 'chosen' holds half of a character \('\\ud83d'\)",
    ),
    "half a character in a message": (
        {
            "prompt": [{"role": "user", "content": "a \udc00"}],
            "chosen": [{"role": "assistant", "content": "x"}],
            "rejected": [{"role": "assistant", "content": "y"}],
        },
        "field 'prompt' holds half of a character",
    ),
    "a role that the template refuses": (
        {
            "prompt": [{"role": "narrator", "content": "a"}],
            "chosen": [{"role": "assistant", "content": "x"}],
            "rejected": [{"role": "assistant", "content": "y"}],
        },
        "refuses the messages: no narrator",
    ),
    "a template that fails by itself": (
        {
            "prompt": [{"role": "user", "content": "a"}],
            "chosen": [{"role": "assistant", "content": "x"}],
            "rejected": [{"role": "assistant", "content": "y"}],
            "chat_template_kwargs": {"divide": 0},
        },
        "refuses the messages: .*zero",
    ),
    "a token beyond the vocabulary": (vocabulary_rows([600]), "token 600 is beyond the 500"),
}
STRICT = (
    "{% if divide is defined %}{{ 1 // divide }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'narrator' %}{{ raise_exception('no narrator') }}"
    "{% endif %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("source", [pytest.param("rows", marks=pytest.mark.slow), "file"])
def test_a_row_that_cannot_be_read_is_named_or_skipped(case, source, tmp_path, write):
    """In a run from Python or from a file: all rows that are wrong are named with their place, or
    skipped and counted.
    """
    bad, words = REFUSED[case]
    chat = not isinstance(bad["prompt"], str)
    fine = {"prompt": [{"role": "user", "content": "b"}]} if chat else {}
    fine |= (
        {f: [{"role": "assistant", "content": f}] for f in ("chosen", "rejected")} if chat else {}
    )
    rows = [fine or GOOD, bad, {**(fine or GOOD)}, bad]
    tokenizer, model = own_tokenizer(), tiny_model()
    tokenizer.chat_template = STRICT
    path = write("pairs.jsonl", rows)
    for on_bad_line in ("refuse", "skip"):
        config = DILConfig(
            str(tmp_path / "run"),
            loss="nca",
            use_cpu=True,
            max_steps=1,
            on_bad_line=on_bad_line,
            report_to=[],
            disable_tqdm=True,
        )

        def made(config=config, on_bad_line=on_bad_line):
            given = read(path, on_bad_line=on_bad_line) if source == "file" else rows
            return DILTrainer(model, config, given, processing_class=tokenizer)

        if on_bad_line == "refuse":
            with pytest.raises(InputError, match=words) as refusal:
                made()
            said = str(refusal.value)
            assert "2 of 4 rows cannot be used" in said
            assert ("2: " in said and "4: " in said) if source == "file" else "row 1: " in said
        else:
            trainer = made()
            assert len(trainer.train_dataset) == 2
            assert trainer.dropped["they cannot be used"] == 2
            trainer.train()


def test_prompts_that_merge_are_named_or_skipped():
    """A prompt of which nothing is left as a token of its own."""
    tokenizer = own_tokenizer()
    whole = tokenizer(" the end", add_special_tokens=False)["input_ids"]
    assert whole[0] != tokenizer(" ", add_special_tokens=False)["input_ids"][0]
    with pytest.raises(InputError, match="data row 1: prompt and response merge into one token"):
        tokenize_pairs([GOOD, MERGES], tokenizer, 100)
    rows, dropped = tokenize_pairs([GOOD, MERGES], tokenizer, 100, on_bad_line="skip")
    assert (len(rows), dropped) == (1, {"they cannot be used": 1})


def test_dil_data_sees_them(write, tiny_model, tmp_path):
    path = write("pairs.jsonl", [GOOD, REFUSED["half a character"][0], vocabulary_rows([9999])])
    shown = dil("data", path, "--model", tiny_model, "--out", tmp_path / "out")
    assert shown.returncode == 0, shown.stderr
    assert "pairs.jsonl:2: field 'chosen' holds half of a character" in shown.stdout
    report = json.loads((tmp_path / "out" / "data.json").read_text())
    assert report["left out"]["they cannot be used"] == 1


# --- Where rows are -------------------------------------------------------------------------------


ROWS = [{**GOOD, "chosen": f'Answer \u2028 {i}, "quoted".'} for i in range(5)]


def saved(kind, folder):
    table, text = Dataset.from_list(ROWS), "".join(json.dumps(row) + "\n" for row in ROWS)
    path = folder / f"pairs{kind}"
    if kind in (".jsonl", ".json"):
        path.write_text(text, encoding="utf-8")
    elif kind == "list.json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif kind == "folder":
        table.save_to_disk(path)
    elif kind == ".parquet":
        table.to_parquet(path)
    elif kind == ".csv":
        table.to_csv(path)
    elif kind == ".arrow":
        table.save_to_disk(folder / "saved")
        return next((folder / "saved").glob("*.arrow"))
    else:
        packages = {".gz": gzip, ".bz2": bz2, ".xz": lzma, ".zst": zstandard}
        with packages[f".{kind.split('.')[-1]}"].open(path, "wt", encoding="utf-8") as file:
            file.write(text)
    return path


KINDS = [".jsonl", ".json", "list.json", "folder", ".parquet", ".csv", ".arrow"]


@pytest.mark.parametrize("kind", [*KINDS, ".jsonl.gz", ".jsonl.bz2", ".jsonl.xz", ".jsonl.zst"])
def test_rows_are_read_wherever_they_are(kind, tmp_path):
    path = saved(kind, tmp_path)
    assert read_pairs(path) == ROWS
    assert read(path, limit=2).more
    shown = dil("data", path, "--out", tmp_path / "out")
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("kind", [".jsonl.gz", ".jsonl.bz2", ".jsonl.xz", ".jsonl.zst", ".parquet"])
def test_half_a_file_is_one_line(kind, tmp_path):
    path = saved(kind, tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    refused(dil("data", path), path.name)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"prompt": 1' + "0" * 5000 + "}"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_line_that_json_gives_up_on_is_one_line(line, name, write):
    text = line if name == "a.json" and line[0] == "[" else json.dumps(GOOD) + "\n" + line + "\n"
    refused(dil("data", write(name, text)), "broken JSON") if text == line else read(
        write(name, text), on_bad_line="skip"
    )


def test_what_json_does_not_hold_is_named():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {1, 2}}}]
    chat = {
        "prompt": [{"role": "user", "content": "a"}],
        "chosen": [{"role": "assistant", "content": "x"}],
        "rejected": [{"role": "assistant", "content": "y"}],
    }
    tokenizer = own_tokenizer()
    tokenizer.chat_template = STRICT
    with pytest.raises(InputError, match="data row 1: holds what JSON does not"):
        tokenize_pairs([chat, {**chat, "tools": tools}], tokenizer, 100)


def test_a_folder_of_splits_names_them(tmp_path):
    DatasetDict(one=Dataset.from_list(ROWS), two=Dataset.from_list(ROWS)).save_to_disk(
        tmp_path / "saved"
    )
    refused(dil("data", tmp_path / "saved"), "holds several splits", "saved/one", "saved/two")
    assert read_pairs(tmp_path / "saved" / "two") == ROWS
    refused(dil("data", tmp_path), "not a folder of Dataset.save_to_disk")


def test_names_and_texts_are_shown_as_they_are(tmp_path, write):
    """Brackets, colons and backslashes mean nothing to the terminal."""
    folder = tmp_path / "[red] :train:"
    folder.mkdir()
    path = folder / "a [bold]b :smile: \\.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "chosen": 3}) + "\n")
    shown = dil("data", path, "--out", tmp_path / "out")
    assert shown.returncode == 0, shown.stderr
    flat = "".join(shown.stdout.split())
    assert "".join(path.name.split()) in flat
    assert "[red]:train:" in flat
