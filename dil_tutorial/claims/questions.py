"""What people ask in public, of the paper and in practice, and the checks that settle it (THEORY
§11): ``questions.yaml``, read.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from dil_tutorial.support.files import read_text


@dataclass(frozen=True)
class Question:
    """A question, our answer, and the claims that settle it; ``page`` where numbers and figures
    are.
    """

    text: str
    answer: str
    claims: list[str]
    page: str = ""  # a page of the book, relative to generated/
    asked: str = "paper"  # of the paper, or in "practice"
    threads: tuple[str, ...] = ()  # where it was asked, as owner/repository#number
    search: tuple[str, ...] = ()  # what people type who look for it


QUESTIONS = [
    Question(**asked)
    for asked in yaml.safe_load(read_text(Path(__file__).with_name("questions.yaml")))
]
