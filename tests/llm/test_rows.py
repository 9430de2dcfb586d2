"""Many tokenized pairs: what goes in comes out, from memory and from disk, and nothing is done
twice.
"""

import pyarrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("accelerate", reason="language models need the llm extra")

from datasets import Dataset

from dil_tutorial.llm import tokens
from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.fast import reference
from dil_tutorial.llm.fast.reference import bit_sum, score_reference
from dil_tutorial.llm.rows import Response, Rows, TokenizedPair, in_order
from dil_tutorial.llm.tiny import own_tokenizer
from dil_tutorial.llm.tokens import tokenize_pairs

PAIRS = read_pairs(tiny_preferences())
TOKENS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6)


@st.composite
def some_pairs(draw):
    """Pairs of which all, some or none have a third response, and prompts that are one for both
    sides, or not.
    """
    made = []
    for _ in range(draw(st.integers(1, 6))):
        prompts = [draw(TOKENS)] * 3 if draw(st.booleans()) else [draw(TOKENS) for _ in range(3)]
        sides = draw(st.sampled_from([2, 3]))
        made.append(TokenizedPair(*(Response(prompt, draw(TOKENS)) for prompt in prompts[:sides])))
    return made


def without_some(pairs):
    """As rows have them: a third response counts where every pair has one."""
    third = all(pair.reference for pair in pairs)
    return [
        TokenizedPair(pair.chosen, pair.rejected, pair.reference if third else None)
        for pair in pairs
    ]


@given(some_pairs())
def test_pairs_come_out_as_they_went_in(pairs):
    rows, expected = Rows.of(pairs), without_some(pairs)
    assert [*rows] == expected == rows[:]
    assert rows[-1] == expected[-1]
    assert rows.reach.tolist() == [
        [len(r.prompt) + len(r.tokens) for r in pair.responses] for pair in expected
    ]
    assert [*rows.without_reference()] == [
        TokenizedPair(pair.chosen, pair.rejected) for pair in pairs
    ]
    assert rows.digest() != Rows.of([*pairs, pairs[0]]).digest()


def test_prompts_of_both_sides_are_one_list():
    row = Rows.of([TokenizedPair(Response([5, 6], [7]), Response([5, 6], [8]))])[0]
    assert row.chosen.prompt is row.rejected.prompt


@pytest.fixture
def small_chunks(tmp_path, monkeypatch):
    monkeypatch.setenv("DIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "CHUNK", 3)
    return tmp_path / "cache" / "tokens"


def test_tokens_are_kept_from_run_to_run(small_chunks, monkeypatch):
    tokenizer = own_tokenizer()
    long = {"prompt": "word " * 200, "chosen": "a", "rejected": "b"}
    rows, dropped = tokenize_pairs([*PAIRS[:8], long], tokenizer, 100)
    assert dropped.total() == 1
    assert len([*small_chunks.glob("*.arrow")]) == 1
    with monkeypatch.context() as patched:
        patched.setattr(tokens, "_tokenize", lambda *a: pytest.fail("tokenized again"))
        again, counted = tokenize_pairs([*PAIRS[:8], long], own_tokenizer(), 100)
        assert [*again] == [*rows]
        assert counted == dropped
        for pairs, length, other in (
            (PAIRS[:8], 100, {}),  # fewer pairs
            # one letter more
            ([{**PAIRS[0], "chosen": PAIRS[0]["chosen"] + "!"}, *PAIRS[1:8], long], 100, {}),
            ([*PAIRS[:8], long], 99, {}),  # cut elsewhere
            ([*PAIRS[:8], long], 100, {"eos_token": "<s>"}),  # another end
        ):
            another = own_tokenizer()
            for name, value in other.items():
                setattr(another, name, value)
            with pytest.raises(pytest.fail.Exception, match="tokenized again"):
                tokenize_pairs(pairs, another, length)
    damaged = next(small_chunks.glob("*.arrow"))
    for content in (b"no tensors", some_of(damaged)):
        damaged.write_bytes(content)
        assert [*tokenize_pairs([*PAIRS[:8], long], tokenizer, 100)[0]] == [*rows]
    assert [*tokenize_pairs([*PAIRS[:8], long], tokenizer, 100)[0]] == [*rows]


def some_of(path):
    """The same file with its first rows alone, as if it had been cut between two of its parts."""
    table = Dataset.from_file(str(path))
    table.select(range(3)).to_parquet(path.with_suffix(".some"))
    few = Dataset.from_parquet(str(path.with_suffix(".some")))
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, few.data.schema) as stream:
        stream.write_table(few.data.table)
    path.with_suffix(".some").unlink()
    return sink.getvalue().to_pybytes()


def test_of_kept_tokens_only_the_latest_stay_and_a_full_disk_stops_nothing(
    small_chunks, monkeypatch, caplog
):
    for length in range(90, 102):
        tokenize_pairs(PAIRS[:8], own_tokenizer(), length)
    assert len([*small_chunks.glob("*")]) == 8
    monkeypatch.setattr(
        tokens, "_kept", lambda *a: (_ for _ in ()).throw(OSError("No space left on device"))
    )
    rows, _ = tokenize_pairs(PAIRS[:8], own_tokenizer(), 150)
    assert len(rows) == 8


def test_a_reference_scored_in_part_is_not_scored_again(tmp_path, monkeypatch):
    rows = tokenize_pairs(PAIRS[:8], own_tokenizer(), 100)[0]
    groups, path, seen = [[0, 3], [1, 2], [4, 7], [5, 6]], tmp_path / "ref.safetensors", []

    def score(part, stop_at=99):
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        seen.append(part)
        return torch.tensor([-1.0 * len(response.tokens) for response in in_order(part)])

    with pytest.raises(KeyboardInterrupt):
        score_reference(rows, groups, lambda part: score(part, 2), path, "key", quiet=True)
    assert not path.exists()
    score_reference(rows, groups, score, path, "key", quiet=True)
    assert len(seen) == 4
    assert rows.ref_logps.tolist() == [
        [-1.0 * len(r.tokens) for r in row.responses] for row in rows
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["ref.safetensors"]
    score_reference(rows, groups, score, path, "another key", quiet=True)
    assert len(seen) == 8
    monkeypatch.setattr(reference, "SAVE_EVERY", -1.0)  # a kill leaves what was kept last
    with pytest.raises(KeyboardInterrupt):
        score_reference(rows, groups, lambda part: score(part, 9), path, "third", quiet=True)
    assert (tmp_path / "ref.0.unfinished").exists()


@given(
    st.integers(0, 10_000),
    st.integers(1, 300),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.uint8]),
)
def test_a_weight_is_known_by_its_bits(seed, size, dtype):
    """Any one element changed, or two exchanged, and it is another; how many are taken at a time
    changes nothing.
    """
    rng = torch.Generator().manual_seed(seed)
    weight = (200 * torch.rand(size, generator=rng)).to(dtype)
    known = bit_sum(weight)
    assert {bit_sum(weight, size=step) for step in (1, 7, 4096)} == {known}
    place = int(torch.randint(size, (1,), generator=rng))
    other = weight.clone()
    other[place] += 1
    # 1 may be too small a step in bfloat16
    assert torch.equal(other, weight) or bit_sum(other) != known
    turned = weight.flip(0)
    assert torch.equal(turned, weight) or bit_sum(turned) != known
    assert bit_sum(weight[::2]) == bit_sum(weight[::2].clone())  # as a view, too


def test_changed_pairs_have_another_digest_also_behind_one_reading(tmp_path):
    """What decides the reference's scores are the tokens, whatever a Reading said before."""
    from dil_tutorial.llm.data import Reading

    reading = Reading(list(PAIRS[:4]), [], 4)
    before = tokens.tokenize_pairs(reading, own_tokenizer(), 100)[0].digest()
    digest = reading.digest
    reading.pairs = reading.pairs[::-1]
    assert reading.digest != digest
    assert tokens.tokenize_pairs(reading, own_tokenizer(), 100)[0].digest() != before
