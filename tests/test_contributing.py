"""CONTRIBUTING's table, executed: an example of each row is added to a copy of the repository, and
what the row promises is run there.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("accelerate", reason="two rows train a language model")

ROOT = Path(__file__).parents[1]
TABLE = dict(
    re.findall(
        r"^\| ([\w ]+) \|.*\| (\d) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
)


class Copy:
    """A copy of the repository, in which files are changed and counted, and commands run."""

    def __init__(self, folder):
        self.root, self.touched = folder, set()
        keep = shutil.ignore_patterns("__pycache__", "generated", "_build", "vendor", "*.ipynb")
        for part in ("dil_tutorial", "toy", "book", "recipes", "notebooks"):
            shutil.copytree(ROOT / part, folder / part, ignore=keep)
        shutil.copytree(
            ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copy(ROOT / "pyproject.toml", folder)

    def add(self, name, text, after=None):
        """Append ``text`` to a file, or insert it behind ``after``; a new file is made."""
        path = self.root / name
        before = path.read_text() if path.exists() else ""
        if after is None:
            path.write_text(before + text)
        else:
            assert after in before, (name, after)
            path.write_text(before.replace(after, after + text, 1))
        self.touched.add(name)

    def run(self, *command):
        env = {**os.environ, "PYTHONPATH": str(self.root), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=self.root,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def dil(self, *command):
        return self.run("-m", "dil_tutorial", *command)


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


def done(copy, row):
    """The files that were touched are as many as the table says."""
    assert len(copy.touched) == int(TABLE[row]), copy.touched


LOSS = '''

@loss(
    "focal-dpo",
    Variant(
        "Focal DPO",
        {"beta": 1.0, "focus": 2.0},
        color="#123456",
        formula=r"$-(1 - \\sigma(z))^\\gamma \\log\\sigma(z)$",
        optimum="numerical",
        claims=("5.dpo",),
    ),
)
def focal_dpo_loss(
    f_chosen: Tensor, f_rejected: Tensor, beta: Positive = 0.1, focus: NonNegative = 1.0
) -> Tensor:
    """-(1 - sigmoid(z))^focus log sigmoid(z): pairs that are ranked well already count less."""
    z = margin(f_chosen, f_rejected, beta)
    return -torch.exp(focus * F.logsigmoid(-z)) * F.logsigmoid(z)
'''
LOSS_TEST = """

def test_focal_dpo_without_focus_is_dpo():
    f_w, f_l = pair(0)
    plain = losses.dpo_loss(f_w, f_l, beta=0.5)
    assert torch.allclose(make_loss("focal-dpo", beta=0.5, focus=0.0)(f_w, f_l), plain)
"""
KNOWN = """
import torch
from dil_tutorial.book import pages
from dil_tutorial.lessons.family_map import plane
from dil_tutorial.losses import CATALOG, colors, make_loss
from toy import family

row = family.row(CATALOG["Focal DPO"])
assert row["margins only"] and row["claims"] == ["5.dpo"], row
assert colors()["Focal DPO"] == "#123456"
rows = [family.row(CATALOG[label]) for label in ("DPO", "Focal DPO", "IPO")]
assert "Focal DPO, β 1" in pages.losses_page(rows, [])
figure, alt = plane(rows)
assert any("Focal DPO" in text.get_text() for text in figure.axes[0].texts)
try:
    make_loss("focal-dpo", focus=-1.0)
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_loss_with_a_new_setting(copy, tiny_model, tmp_path):
    copy.add("dil_tutorial/margins.py", LOSS)
    assert "focus is -1.0: give a number of at least 0" in copy.run("-c", KNOWN)
    recipe = copy.root / "recipe.yaml"
    recipe.write_text(
        f"model: {tiny_model}\nloss: focal-dpo\nloss_kwargs: {{focus: 1.0}}\nmax_steps: 1\n"
        "use_cpu: true\nreport_to: none\n"
    )
    output = copy.dil(
        "train",
        "--config",
        recipe,
        "--set",
        "loss_kwargs.focus=2.0",
        "--output-dir",
        copy.root / "out",
    )
    assert "focal-dpo (beta 0.1, focus 2.0)" in output
    done(copy, "loss")
    copy.add("tests/derivation/test_losses.py", LOSS_TEST)
    tests = ("tests/derivation/test_losses.py", "dil_tutorial/margins.py")
    assert " passed" in copy.run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "focal", *tests
    )


GENERATOR = """

CUBIC = Generator.from_function(lambda r: r**3 / 6 + r**2 / 2, name="cubic", max_ratio=1e4)
GENERATORS["cubic"] = CUBIC
"""


FITTED = """
from dil_tutorial.losses import make_loss
from toy import World
from toy.fit import fit

world = World.from_reward([0.5, 0.3, 0.2], [-1.0, 0.0, 1.0])
policy = fit(world, make_loss("dil", generator="cubic", denominator="mixture"))
print("chosen:", bool((policy - world.chosen).abs().max() < 1e-8))
"""


def test_a_generator(copy):
    copy.add("dil_tutorial/bregman.py", GENERATOR)
    assert "chosen: True" in copy.run("-c", FITTED)
    verified = copy.dil("verify", "3", "4.mixture", "--seeds", "2")
    assert "All verdicts as recorded" in " ".join(verified.split())
    done(copy, "generator h")


CLAIM = '''

@claim("3.toy", "3.3", worlds=ANY)
def weights_meet_at_one(world: World) -> Tensor:
    """The two gradient weights of a pair are equal where the ratio is 1.

    The weight of the reference term is r times that of the chosen term.
    """
    ones = world.ref / world.ref
    return over_generators(lambda w, gen: gap(ones * gen.d2h(ones), ones**2 * gen.d2h(ones)))(world)
'''


def test_a_claim(copy):
    copy.add("dil_tutorial/claims/ratios.py", CLAIM)
    output = copy.dil("verify", "3.toy", "--seeds", "2")
    assert "The two gradient weights of a pair are equal" in " ".join(output.split())
    assert "All verdicts as recorded" in " ".join(output.split())
    done(copy, "claim")


def test_a_quirk_of_a_model(copy):
    line = (
        '    if getattr(config, "odd_attention", None):\n        return f"{name} attends oddly"\n'
    )
    after = '        return f"{name} soft-caps its attention"\n'
    copy.add("dil_tutorial/llm/fast/probes.py", line, after=after)
    code = (
        "from dil_tutorial.llm.tiny import tiny_model; from dil_tutorial.llm.fast import probes; "
        "m = tiny_model(); print(probes.usable_layout(m)[0]); m.config.odd_attention = True; "
        "print(probes.usable_layout(m))"
    )
    before, after = copy.run("-c", code).splitlines()
    assert before == "shared"
    assert "padded" in after
    assert "attends oddly" in after
    done(copy, "quirk of a model")


EXPERIMENT = '''"""How often does the better of two responses win, as rewards grow?"""

from dataclasses import dataclass

from dil_tutorial.experiments.study import Study
from dil_tutorial.support import plotting
from toy import World


@dataclass(frozen=True)
class Settings:
    scales: tuple[float, ...] = (1.0, 2.0)


@dataclass
class Row:
    scale: float
    wins: float


def run(work):
    for scale in work.settings.scales:

        def make(scale=scale):
            world = World.from_reward([0.5, 0.5], [0.0, scale])
            return {"wins": world.win_rate[0, 1].item()}

        yield Row(scale, **work.piece(make, scale=scale))


def figures(results, stats):
    figure, (axes,) = plotting.new_figure()
    axes.plot([row.scale for row in results.rows], [row.wins for row in results.rows])
    return {"wins": (figure, "Win rate against the scale of rewards")}


STUDY = Study(
    name="coin",
    title="A coin",
    presets={"small": Settings()},
    row=Row,
    identifiers=("scale",),
    steps=lambda settings: len(settings.scales),
    run=run,
    summary=lambda results: {},
    figures=figures,
    words=lambda results, stats: {"most": max(row.wins for row in results.rows)},
)
'''
EXPERIMENT_PAGE = """# {{ title }}

![{{ alts.wins }}]({{ stem }}_wins.png)

The better response wins up to {{ "%.2f"|format(most) }} of the time.
"""


def test_an_experiment(copy):
    copy.add("dil_tutorial/experiments/coin.py", EXPERIMENT)
    copy.add("dil_tutorial/experiments/templates/coin.md.j2", EXPERIMENT_PAGE)
    copy.add(
        "dil_tutorial/experiments/__init__.py",
        '    "coin": Entry("coin", "How often the better response wins.", models=False),\n',
        after="STUDIES = {  # by the name of ``dil experiment NAME``\n",
    )
    out = copy.root / "out"
    copy.dil("experiment", "coin", "--set", "scales=1,3", "--out", out)
    assert "wins up to 0.73 of the time" in (out / "coin.md").read_text()
    assert (out / "coin_wins.svg").is_file()
    assert '"study": "coin"' in (out / "coin.json").read_text()
    done(copy, "experiment")


LESSON = """# %% [markdown]
# # 20 · A toy lesson
#
# **The question.** How often does the better of two responses win?

# %%
from dil_tutorial.lessons.puzzles import puzzle
from toy.gallery import bandit

print(f"{bandit().win_rate.max():.2f}")

# %%
puzzle("half")
"""
PUZZLE = """half:
  question: How often does a response win against itself?
  options:
  - {label: never, value: 0.0, why: The labeler must name one of the two.}
  - {label: half of the time, value: 0.5, why: P(y > y) = 1/2.}
"""


@pytest.mark.slow
def test_a_lesson(copy):
    copy.add("notebooks/20_toy.py", LESSON)
    copy.add("dil_tutorial/lessons/puzzles.yaml", PUZZLE)
    copy.add(
        "dil_tutorial/lessons/puzzles.py", '    "half": lambda: 0.5,\n',
        after="TRUTHS: dict[str, Callable[[], float]] = {\n",
    )  # fmt: skip
    copy.add(
        "book/_toc.yml", "      - file: generated/20_toy\n",
        after="      - file: generated/01_dil_in_60_lines\n",
    )  # fmt: skip
    copy.dil("dev", "notebooks", "--write", "20")
    copy.touched.add("notebooks/20_toy.ipynb")
    assert (copy.root / "notebooks" / "20_toy.ipynb").is_file()
    done(copy, "lesson")
    strict = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "notebooks/20_toy.ipynb")
    assert " passed" in copy.run(*strict)


def test_every_row_has_been_added():
    tested = {"loss", "generator h", "claim", "quirk of a model", "experiment", "lesson"}
    assert TABLE.keys() == tested
