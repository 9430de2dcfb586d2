"""Recipes: what YAML 1.2 says a value is, and whether the field takes it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("accelerate", reason="recipes need the llm extra")

from dil_tutorial.errors import InputError
from dil_tutorial.llm.recipe import read_recipe


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("save_strategy: no", "no"),  # a word, not false
        ("learning_rate: 1e-6", 1e-6),  # a number also without a point
        ("learning_rate: 1", 1),
        ("beta: .5", 0.5),
        ("beta: null", None),
        ("bf16: true", True),
        ("fsdp: true", True),
        ("lora_target_modules: [q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("lr_scheduler_kwargs: {num_cycles: 2}", {"num_cycles": 2}),
        ("run_name: 2026-11-25 on", "2026-11-25 on"),
    ],
)
def test_values_are_what_they_look_like(write, text, value):
    key = text.split(":")[0]
    read = read_recipe(write("r.yaml", text), [])
    assert read == {key: value}
    assert type(read[key]) is type(value)
    assert read_recipe(write("empty.yaml", "seed: 1"), [text.replace(": ", "=", 1)])[key] == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bf16: yes", "bf16 is 'yes', of type str: give a valid boolean"),
        ("seed: true", "seed is True, of type bool: give a valid integer"),
        ("seed: '3'", "seed is '3', of type str: give a valid integer"),
        ("learning_rate: true", "learning_rate is True, of type bool: give a valid number"),
        ("optim: 3", "optim is 3, of type int: give a valid string"),
        ("lora_target_modules: 3", "give a valid list or a valid string"),
    ],
)
def test_other_types_are_refused_with_their_line(write, text, words):
    with pytest.raises(InputError) as refusal:
        read_recipe(write("r.yaml", f"max_length: 64\n{text}"), [])
    assert "r.yaml:2: " in str(refusal.value)
    assert words in str(refusal.value)


@given(
    number=st.floats(allow_nan=False, allow_infinity=False),
    form=st.sampled_from(["{!r}", "{:e}", "{:.17g}", "{:E}"]),
)
def test_every_number_is_read_as_it_was_written(tmp_path_factory, number, form):
    path = tmp_path_factory.getbasetemp() / "number.yaml"
    path.write_text(f"learning_rate: {form.format(number)}\n", encoding="utf-8")
    assert read_recipe(path, [])["learning_rate"] == float(form.format(number))
