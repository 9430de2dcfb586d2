"""The book builds with warnings as errors, holds what it promises, and asks no other server for
anything.

The build takes a minute: what reads the built pages is marked slow.
"""

import html
import importlib
import json
import re
import shutil
import urllib.parse
from pathlib import Path

import pytest

pytest.importorskip("myst_nb", reason="the book needs the book extra")


from dil_tutorial import claims
from dil_tutorial.book import architecture, crossref, pair
from dil_tutorial.book import build as book
from dil_tutorial.claims.questions import QUESTIONS
from dil_tutorial.errors import InputError
from dil_tutorial.support.symbols import prose
from toy.compare import COMPARED

ROOT = Path(__file__).parents[2]


def anchor(claim):
    """Where the book shows a claim: in the ledger, or a single loss's on the page of losses."""
    page = "losses.html" if claim.kind == "loss" else "ledger.html"
    return f"{page}#{crossref.label(claim.id)}"


@pytest.mark.slow
def test_every_claim_is_on_the_page_with_its_explanation(site):
    page = (site / "generated" / "ledger.html").read_text()
    of_losses = (site / "generated" / "losses.html").read_text()
    for claim in claims.CLAIMS:
        if claim.kind == "loss":
            assert f'id="{crossref.label(claim.id)}"' in of_losses
            assert f'id="{crossref.label(claim.id)}"' not in page
            continue
        assert f'id="{crossref.label(claim.id)}"' in page
        longest_plain_passage = max(
            re.findall(r"[A-Za-z ,]+", prose(claim.explanation)), key=len
        ).strip()
        assert longest_plain_passage in page
    assert page.count("fails as published") >= 4
    front = (site / "generated" / "paper_checked.html").read_text()
    for claim in claims.select("paper"):
        assert f'href="{anchor(claim)}"' in front
    assert "expected" not in front


@pytest.mark.slow
def test_the_measured_page_shows_the_committed_results(site):
    page = (site / "generated" / "measured.html").read_text()
    cells = json.loads((ROOT / "benchmarks" / "llm.json").read_text())["cells"]
    for cell in cells:
        assert cell["cell"] in page
        assert f"{cell['times_faster']:.2f}" in page
    assert "bench_llm" in page
    assert "one pair at a time" in page


@pytest.mark.slow
def test_questions_lead_to_claims_that_exist(site):
    page = (site / "generated" / "questions.html").read_text()
    known = {claim.id: claim for claim in claims.CLAIMS}
    for question in QUESTIONS:
        assert set(question.claims) <= set(known), question.text
        for claim in question.claims:
            assert f'href="{anchor(known[claim])}"' in page
    assert len(QUESTIONS) >= 25
    assert {question.asked for question in QUESTIONS} == {"paper", "practice"}


@pytest.mark.slow
def test_losses_figures_and_dynamics_have_their_pages(site):
    losses = (site / "generated" / "losses.html").read_text()
    for entry in COMPARED:
        assert entry.described in losses
    figures = (site / "generated" / "figures.html").read_text()
    assert figures.count("<img alt=") >= 5
    dynamics = (site / "generated" / "12_training_dynamics.html").read_text()
    assert "Where does “the chosen likelihood is preserved” hold?" in dynamics
    assert dynamics.count("<img alt=") >= 7
    assert dynamics.count("<table") >= 4  # tables that the notebook displays as Markdown
    assert "core.display.Markdown object" not in dynamics


@pytest.mark.slow
def test_the_layers_are_drawn_with_their_links_and_a_pair_goes_all_the_way(site):
    page = (site / "generated" / "architecture.html").read_text()
    api = (site / "api.html").read_text()
    layers = [module for row in architecture.layers(ROOT) for module in row]
    linked = re.findall(r'href="../api.html#(module-[a-z-]+)"', page)
    assert len(layers) > 10
    assert all(module in page for module in layers)
    assert len(set(linked)) >= len(layers) - 6  # those without a part of the API
    for name in set(linked):
        assert f'id="{name}"' in api, name
    page = (site / "generated" / "pair.html").read_text()
    for name in (
        "read_pairs",
        "tokenize_pair",
        "pack",
        "response_logps",
        "dil_loss",
        "compute_loss",
        "population_loss",
    ):
        assert re.search(rf'href="[^"]*#[\w.]*\.{name}"', page), name


def test_the_way_of_a_pair_ends_lower_and_at_the_optimum():
    model, toy = pair.through_a_language_model(), pair.through_a_toy_world()
    before, after = (float(model[name].replace("−", "-")) for name in ("loss", "after"))
    assert after < before
    assert toy["newton"] == toy["exact"]
    assert toy["away"] == "0.000000"


@pytest.mark.slow
def test_notebooks_are_pages_with_their_figures_and_panels(site):
    page = (site / "generated" / "02_preference_data.html").read_text()
    # the alternative text reaches the page
    assert '<img alt="Eight responses: where chosen responses exceed the reference' in page
    frames = re.findall(
        r'<div class="frame" data-at="(\d+)"( hidden)?>(.*?)</figure>', page, re.DOTALL
    )
    assert [place for place, _, _ in frames] == [str(n) for n in range(8)]  # of the slider
    assert sum(not hidden for _, hidden, _ in frames) == 1
    for _, hidden, frame in frames:
        assert ('loading="lazy"' in frame) == bool(hidden)
        assert 'alt="Chart' in frame
        [picture] = re.findall(r'src="../(panels/\w+\.png)"', frame)
        assert (site / picture).stat().st_size > 2000
    assert "application/vnd.jupyter.widget" not in page


def test_a_notebook_that_failed_or_was_not_run_makes_no_page(tmp_path):
    """As it is it makes one; with an error among its outputs, a cell not run, or code that is not
    the script's it does not.
    """
    script = ROOT / "notebooks" / "00_why_care.py"
    copy = tmp_path / "00_why_care.ipynb"
    content = json.loads(script.with_suffix(".ipynb").read_text())
    error = {"output_type": "error", "ename": "NameError", "evalue": "one", "traceback": []}
    number = next(i for i, cell in enumerate(content["cells"]) if cell["cell_type"] == "code")
    changes = {
        "": {},
        f"cell {number} ended in NameError": {"outputs": [error]},
        f"cell {number} was not run": {"execution_count": None},
        f"cell {number} is not in 00_why_care.py": {"source": ["1 + one"]},
    }
    for message, change in changes.items():
        cells = [
            {**cell, **change} if i == number else cell for i, cell in enumerate(content["cells"])
        ]
        copy.write_text(json.dumps({**content, "cells": cells}))
        if message:
            with pytest.raises(
                InputError, match=f"{copy.name}: {message}: .*notebooks --write 00_why_care"
            ):
                book.for_the_book(copy, script)
        else:
            assert "Where this breaks" in book.for_the_book(copy, script)


@pytest.mark.slow
def test_a_warning_fails_the_build(tmp_path, monkeypatch):
    """On a book of one page; it builds as it is, and does not with a link to nowhere, nor at a
    second try.
    """
    shutil.copytree(
        ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("_build", "generated")
    )
    (tmp_path / "book" / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (tmp_path / "book" / "generated" / "extra").mkdir(parents=True)
    monkeypatch.setattr(book, "generate", lambda root: None)
    for text, passes in (
        ("# A book\n", True),
        ("# A book\n\n[gone](nowhere.md)\n", False),
        (None, False),
    ):
        if text:
            (tmp_path / "book" / "index.md").write_text(text)
        assert (book.build(tmp_path)[0] == 0) == passes


# --- Everything leads somewhere -------------------------------------------------------------------


def pages(site):
    """All pages but those that only show a module's source."""
    return sorted(
        page for page in site.rglob("*.html") if not {"_modules", "_static"} & set(page.parts)
    )


@pytest.mark.slow
def test_no_internal_link_is_dead(site):
    texts = {page: page.read_text() for page in site.rglob("*.html")}
    anchors = {
        page: set(re.findall(r'\s(?:id|name)="([^"]+)"', text)) for page, text in texts.items()
    }
    dead, checked = [], 0
    for page, text in texts.items():
        for link in re.findall(r'<a\s[^>]*?href="([^"]*)"', text):
            path, _, anchor = html.unescape(link).partition("#")
            if re.match(r"[a-z]+:", path):
                continue  # an outside address or mailto
            target = (
                (page.parent / urllib.parse.unquote(path.split("?")[0])).resolve() if path else page
            )
            target = target / "index.html" if target.is_dir() else target
            checked += 1
            if target.parent.name == "playground":
                anchor = ""  # a state to open it with: tests/book/test_playground.py
            if not target.exists() or (
                anchor and target in anchors and urllib.parse.unquote(anchor) not in anchors[target]
            ):
                dead.append((page.name, link))
    assert checked > 1000
    assert not dead, dead[:5]


@pytest.mark.slow
def test_every_equation_is_referenced_and_claims_lead_both_ways(site):
    text = "".join(page.read_text() for page in pages(site))
    labels = set(re.findall(r'id="equation-(eq-[\w-]+)"', text))
    assert len(labels) >= 12
    assert not {label for label in labels if f'#equation-{label}"' not in text}
    theory = (site / "theory.html").read_text()
    ledger = (site / "generated" / "ledger.html").read_text()
    for claim in claims.CLAIMS:
        if claim.id[0] != "0":
            # from the equations to the claim
            assert f'href="generated/{anchor(claim)}"' in theory
    in_ledger = [claim for claim in claims.CLAIMS if claim.kind != "loss"]
    assert ledger.count('href="../theory.html#theory-') >= len(in_ledger)  # and back
    # from the claim to the code
    assert 'href="../api.html#dil_tutorial.rlhf.rlhf_optimum"' in ledger
    api = (site / "api.html").read_text()
    assert 'href="generated/ledger.html#claim-2-gibbs"' in api  # and back
    assert 'href="theory.html#theory-4"' in api
    assert 'href="07_the_dil_loss.html"' in ledger  # from the claim to the notebook
    # and back
    assert (
        'href="ledger.html#claim-4-mixture"'
        in (site / "generated" / "07_the_dil_loss.html").read_text()
    )


def symbols(text):
    """Policies and single letters that occur in the formulas of a Markdown text."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    found = set()
    for formula in re.findall(r"\$\$.+?\$\$|\$[^$\n]+?\$", text, flags=re.DOTALL):
        policy = r"\\pi_(?:\\text\{\w+\}|\\?\w+)"
        found |= set(re.findall(policy, formula))
        rest = re.sub(rf"{policy}|\\(?:text|mathrm|operatorname)\{{[^}}]*\}}", " ", formula)
        greek = r"\\(?:alpha|beta|gamma|delta|epsilon|lambda|mu|tau|phi|theta|sigma|ell|eta|rho)\b"
        found |= set(re.findall(greek, rest))
        found |= set(
            re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", re.sub(r"\\[a-zA-Z]+", " ", rest))
        )
    return found - {"d"}  # of a derivative


def test_every_symbol_is_in_the_glossary():
    explained = symbols((ROOT / "book" / "glossary.md").read_text())
    texts = {"theory": (ROOT / "book" / "theory.md").read_text()}
    for script in (ROOT / "notebooks").glob("[0-9]*.py"):
        texts[script.stem] = re.sub(
            r"^# ?",
            "",
            "\n".join(re.findall(r"^#.*", script.read_text(), re.MULTILINE)),
            flags=re.MULTILINE,
        )
    assert {"w", "K", r"\beta", r"\pi_\text{ref}"} <= symbols(texts["theory"])
    assert {
        name: missing for name, text in texts.items() if (missing := symbols(text) - explained)
    } == {}


def test_every_function_of_the_api_has_an_example_that_runs():
    """A doctest of its own, or a notebook that calls it: the page links there."""
    scripts = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
    without, seen = [], 0
    for module, members in re.findall(
        r"automodule:: (\S+)\n +:members:(.*)", (ROOT / "book" / "api.md").read_text()
    ):
        content = vars(importlib.import_module(module))
        for name in re.findall(r"\w+", members) or content:
            thing = content[name]
            if (
                name.startswith("_")
                or getattr(thing, "__module__", None) != module
                or not callable(thing)
            ):
                continue
            seen += 1
            if ">>> " not in (thing.__doc__ or "") and not crossref.in_use(
                f"{module}.{name}", scripts
            ):
                without.append(f"{module}.{name}")
    assert seen > 100
    assert not without


@pytest.mark.parametrize(
    "module",
    [
        "dil_tutorial.preferences",
        "dil_tutorial.rlhf",
        "dil_tutorial.bregman",
        "dil_tutorial.losses",
        "toy.optima",
        "toy.fit",
    ],
)
def test_the_core_is_listed_whole(module):
    assert re.search(
        rf"automodule:: {re.escape(module)}\n +:members:\s*\n",
        (ROOT / "book" / "api.md").read_text(),
    )


# --- In a browser ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_serious_accessibility_violation(browser, site, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright",
        reason="needs the browser extra: make test-all installs it",
    ).Axe()
    found = []
    for name in (
        "index",
        "generated/02_preference_data",
        "generated/06_density_ratios",
        "generated/12_training_dynamics",
        "generated/paper_checked",
        "generated/family",
        "generated/losses",
        "_static/playground/index",
        "slides/02_preference_data",
        "glossary",
    ):
        page = browser.new_page(color_scheme=scheme)
        page.goto((site / f"{name}.html").as_uri())
        for violation in axe.run(page).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                found.append(
                    (name, violation["id"], [node["html"][:120] for node in violation["nodes"]])
                )
        page.close()
    assert not found
