"""README.md is what the results and the ledger say, its figures are those of the tour, and the page
of commands has every command.
"""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from command import dil

pytest.importorskip("peft", reason="the results are of language models: the llm extra")

from dil_tutorial.book import readme
from dil_tutorial.experiments import tour
from dil_tutorial.support.paths import CLONE
from toy.gallery import bandit


@pytest.mark.slow
def test_the_readme_says_what_the_results_say():
    assert (CLONE / "README.md").read_text() == readme.text(), "run dil dev readme"


@pytest.mark.slow
def test_the_front_figures_are_those_of_the_tour(tmp_path):
    world = bandit()
    paths = tour.draw(world, tour.fit_all(world), tour.train_on_pairs(world), tmp_path)
    shown = [path for path in paths if path.suffix in (".png", ".gif")]
    assert len(shown) == 4
    for path in shown:
        ours, theirs = (pixels(one) for one in (path, CLONE / "book" / "images" / path.name))
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).mean() < 1, f"{path.name}: run dil dev readme"


def pixels(path: Path) -> np.ndarray:
    image = PIL.Image.open(path)
    image.seek(getattr(image, "n_frames", 1) - 1)
    return np.asarray(image.convert("RGB"), dtype=float)


def test_every_command_is_on_the_page():
    page = dil("dev", "commands").stdout
    for name in ("verify", "train", "experiment", "course grade", "dev readme"):
        assert f"## dil {name}\n" in page
    assert "`--set`" in page
    assert page.count("## dil ") > 25
