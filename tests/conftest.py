"""A tiny language model made on the spot, so that no test needs a network."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
from pathlib import Path

# workers share the cores, whatever the environment says; processes that they start (kernels, dil)
# inherit the share
if "PYTEST_XDIST_WORKER" in os.environ:
    share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ["OMP_NUM_THREADS"] = str(share)

import pytest
import torch
from book_site import site  # noqa: F401  # a fixture
from hypothesis import settings

# a busy machine is no failure; runs repeat
settings.register_profile("tutorial", deadline=None, derandomize=True)
# with --hypothesis-seed: see portability.py
settings.register_profile("another-seed", deadline=None, database=None)
settings.load_profile("tutorial")
if os.environ.get("OMP_NUM_THREADS", "").isdigit():
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# The files that take longest begin first, so that no worker is left alone with one of them at the
# end.
LONGEST = [
    "test_book",
    "test_course",
    "test_studies",
    "test_known_truth",
    "test_distributed",
    "test_architectures",
    "test_train_cli",
    "test_gpu",
    "16_known_truth",
    "test_llm",
]
# the longest lessons and those that load transformers, run by make test-all
SLOW_NOTEBOOKS = (
    "12_training_dynamics",
    "16_known_truth",
    "08_language_models",
    "13_sample_efficiency",
    "14_running_rlhf",
    "17_before_and_after",
)
SEED = "TEST_SAMPLE_SEED"  # the environment's: which cases of sampled tests run


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "run every case of the tests that make test-all draws a random sample of"
    parser.addoption("--whole", action="store_true", help=about)


def pytest_configure(config: pytest.Config) -> None:
    # before workers start, so that all draw the same
    os.environ.setdefault(SEED, str(random.SystemRandom().randrange(10_000)))


def pytest_report_header(config: pytest.Config) -> str:
    return f"sampled tests: {SEED}={os.environ[SEED]} draws these again, --whole runs all"


@pytest.hookimpl(tryfirst=True)  # before slow tests are left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in SLOW_NOTEBOOKS and item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.slow)
    place = {stem: rank for rank, stem in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    groups: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled") and not config.getoption("--whole"):
            groups.setdefault((item.path, getattr(item, "originalname", "")), []).append(item)
    left_out = set()
    for (_, name), cases in groups.items():
        slow = [case for case in cases if case.get_closest_marker("slow")]
        (keep,) = cases[0].get_closest_marker("sampled").args  # type: ignore[union-attr]
        rng = random.Random(f"{os.environ[SEED]} {name}")
        left_out |= set(slow) - set(rng.sample(slow, min(keep, len(slow))))
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def whole(request: pytest.FixtureRequest) -> bool:
    """Whether every case is asked for."""
    return bool(request.config.getoption("--whole"))


def pytest_collection_finish() -> None:
    """Trainer collects garbage after each run: what imports made is none, and to walk through it
    takes a third of a second.
    """
    gc.freeze()


CHAT_TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with random weights and a byte-level BPE tokenizer trained on the
    tutorial's own pairs.
    """
    return make_model(tmp_path_factory.mktemp("tiny-model"), hidden_size=32)


@pytest.fixture(scope="session")
def wider_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with 128 numbers a token: 4-bit weights come in blocks of 64, and bitsandbytes wants
    whole ones in a row.
    """
    return make_model(tmp_path_factory.mktemp("wider-model"), hidden_size=128)


def make_model(folder: Path, hidden_size: int) -> Path:
    pytest.importorskip("accelerate")
    from transformers import LlamaConfig, LlamaForCausalLM

    from dil_tutorial.llm.tiny import own_tokenizer

    fast = own_tokenizer()
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def write(tmp_path: Path):
    """write(name, content): a file in a fresh folder; content is text, or anything JSON can hold,
    or a list of rows.
    """

    def writer(name: str, content: object) -> Path:
        path = tmp_path / name
        if isinstance(content, list) and name.endswith(".jsonl"):
            content = "".join(
                (row if isinstance(row, str) else json.dumps(row)) + "\n" for row in content
            )
        path.write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )
        return path

    return writer


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by playwright."""
    sync_api = pytest.importorskip(
        "playwright.sync_api",
        reason="browser tests need the browser extra: make test-all installs it",
    )
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not chromium:
        pytest.skip(
            "no chromium on this machine: install it (Debian, Ubuntu: apt install chromium; "
            "macOS: brew install chromium)"
        )
    with sync_api.sync_playwright() as play:
        launched = play.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()
