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


LSIF = "model: m\nloss: dil\ngenerator: bce\ndenominator: mixture\nbeta: 1.0\n"


@pytest.mark.parametrize(
    ("text", "overrides", "left", "noted"),
    [
        (LSIF, ["loss=dpo"], {"loss": "dpo"}, True),
        (LSIF, ["loss=dil"], {"generator": "bce", "denominator": "mixture", "beta": 1.0}, False),
        (LSIF.replace("loss: dil\n", ""), ["loss=dil"], {"generator": "bce", "beta": 1.0}, False),
        (LSIF, ["loss=dpo", "loss=dil"], {"loss": "dil", "generator": "bce"}, False),
        (LSIF, ["loss=ipo", "loss_kwargs.tau=0.3"], {"loss_kwargs": {"tau": 0.3}}, True),
        (LSIF, ["beta=0.3", "loss=dpo"], {"loss": "dpo", "beta": 0.3}, True),
        ("model: m\nloss: ipo\nloss_kwargs: {tau: 2.0}", ["loss_kwargs.tau=0.3"],
         {"loss_kwargs": {"tau": 0.3}}, False),
        ("model: m\nloss: ipo\nloss_kwargs: {tau: 2.0}", ["loss=bonbon", "loss_kwargs.n=3"],
         {"loss_kwargs": {"n": 3}}, True),
    ],
)  # fmt: skip
def test_another_loss_leaves_the_settings_of_the_first(write, text, overrides, left, noted):
    notes = []
    recipe = read_recipe(write("r.yaml", text), overrides, notes.append)
    assert {key: recipe.get(key) for key in left} == left
    if noted:
        assert recipe.keys() <= {"model", "loss", *left}
        assert len(notes) == 1
        assert "left out of r.yaml" in notes[0]
    else:
        assert not notes


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("tau: 0.5", [], "r.yaml:1: tau is a setting of a loss: write loss_kwargs: {tau: 0.5}"),
        ("loss_kwargs: 0.5", ["loss_kwargs.tau=1"], "loss_kwargs is 0.5: give {key: value}"),
        ("loss_kwargs: {tau: 1, tau: 2}", [], "key 'tau' is given twice"),
        ("loss_kwargs: [1]", [], "loss_kwargs is [1], of type list"),
        ("seed: 1", ["beta.x=1"], "only loss_kwargs and online have parts"),
    ],
)
def test_settings_of_a_loss_in_the_wrong_place(write, text, overrides, words):
    with pytest.raises(InputError) as refusal:
        read_recipe(write("r.yaml", text), overrides)
    assert words in str(refusal.value)


@pytest.mark.parametrize("kwargs", [{"name": 1}, [1], "tau", {1: 2}, {"tau": 0.5, "beta": 1.0}])
def test_loss_kwargs_that_are_no_settings(tmp_path, kwargs):
    from dil_tutorial.llm.config import DILConfig

    with pytest.raises(InputError):
        DILConfig(str(tmp_path), loss="ipo", loss_kwargs=kwargs, use_cpu=True)
