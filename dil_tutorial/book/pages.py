"""The generated pages of the book: each computes what its template in ``templates/`` fills in."""

import functools
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

import dil_tutorial
from dil_tutorial import claims
from dil_tutorial.book import architecture, crossref, figures, neighbors, pair, winners
from dil_tutorial.book.crossref import label, link
from dil_tutorial.claims import Result
from dil_tutorial.claims.questions import QUESTIONS
from dil_tutorial.lessons import measured
from dil_tutorial.lessons.family_map import plane
from dil_tutorial.lessons.puzzles import PUZZLES, puzzle
from dil_tutorial.llm import made as how_data_was_made
from dil_tutorial.losses import GROUP_LOSSES, LOSSES
from dil_tutorial.support import plotting, templates
from dil_tutorial.support.files import read_json, read_text, write_text
from dil_tutorial.support.paths import BENCHMARKS
from dil_tutorial.support.words import fixed
from toy import compare, family
from toy.gallery import bandit, rock_paper_scissors

TEMPLATES = Path(__file__).parent / "templates"


def page(name: str, **values: Any) -> str:
    """A page from its template, which may call ``note`` and ``label`` and the filters ``link``,
    ``cell`` and ``badge``.
    """
    template = templates.load(
        TEMPLATES / f"{name}.md.j2",
        filters={"link": link, "cell": cell, "thread": thread, "badge": badge},
    )
    return template.render(note=note, link=link, label=label, number=number, **values) + "\n"


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A property of a loss: a dash where there is none, infinite beyond a million.

    >>> number(0.125, 3), number(None), number(-1e9), number(0.5, sign="+")
    ('0.125', '–', '−∞', '+0.50')
    """
    if value is None:
        return "–"
    if abs(value) > 1e6:
        return "∞" if value > 0 else "−∞"
    return fixed(value, digits, sign)


def badge(verdict: str) -> str:
    """A verdict, colored.

    >>> badge("holds")
    '[holds]{.verdict .holds}'
    """
    kinds = {claims.HOLDS: "holds", claims.ASSUMES: "assumes"}
    return f"[{verdict}]{{.verdict .{kinds.get(verdict, 'fails')}}}"


def cell(text: object) -> str:
    """What stands in a cell of a Markdown table; bars in formulas become norms or are escaped."""
    return str(text).replace(r"\|", r"\Vert ").replace("|", r"\vert ")


def thread(name: str) -> str:
    """A link to a public thread by its name, owner/repository#number.

    >>> thread("huggingface/trl#800")
    '[trl#800](https://github.com/huggingface/trl/issues/800)'
    """
    repository, _, number = name.partition("#")
    return f"[{name.partition('/')[2]}](https://github.com/{repository}/issues/{number})"


def note(result: Result) -> str:
    """The assumption or the correction of a claim that needs one."""
    word = "Correction" if result.claim.fails else "If"
    return f" *{word}: {result.claim.note}.*" if result.claim.note else ""


def paper_page(results: Sequence[Result], seeds: int) -> str:
    """The paper's own statements, one by one, with our verdict: the front page of the theory
    part.
    """
    stated = [r.verdict for r in results if r.claim.paper]
    counts = [
        f"{stated.count(verdict)} {verdict if stated.count(verdict) == 1 else plural}"
        for verdict, plural in {
            claims.HOLDS: "hold",
            claims.ASSUMES: claims.ASSUMES.replace("holds", "hold"),
            claims.FAILS: "fail as published",
        }.items()
    ]
    losses = [r for r in results if r.claim.paper and r.claim.id.endswith("-published")]
    one_flaw = [r for r in losses if r.verdict == claims.FAILS]
    return page(
        "paper_checked",
        results=results,
        seeds=seeds,
        counts=", ".join(counts),
        one_flaw=one_flaw,
        sections=claims.PAPER_SECTIONS,
    )


def ledger_page(results: Sequence[Result], seeds: int, root: Path) -> str:
    """Every claim by section of THEORY: statement, verdict, numbers, explanation, and where its
    code and its notebooks are.
    """
    scripts, api = sorted((root / "notebooks").glob("[0-9]*.py")), root / "book" / "api.md"

    def source(r: Result) -> str:
        number = r.claim.source.removeprefix("THEORY §")
        theory = f"{{ref}}`THEORY §{number} <theory-{number.split('.')[0]}>`"
        stated = f"paper §{r.claim.paper}" if r.claim.paper else r.claim.published
        return theory + (f", stated by {stated}" if stated else "")

    def where(r: Result) -> str:
        links = [
            f"[notebook {script.stem[:2]}]({script.stem}.ipynb)"
            for script in crossref.shown_in(r.claim.id, scripts)
        ]
        return "; ".join(
            part for part in (crossref.code_links(r.claim, api), ", ".join(links)) if part
        )

    kinds = {kind: [r for r in results if r.claim.kind == kind] for kind in ("argument", "further")}
    return page(
        "ledger", kinds=kinds, seeds=seeds, sections=claims.SECTIONS, source=source, where=where
    )


def section_claims(results: Sequence[Result], section: str) -> str:
    """What stands below a section of the theory page: its claims with their verdicts."""
    claim_links = [
        f"{link(r.claim.id)} ({r.verdict})" for r in results if r.claim.id.split(".")[0] == section
    ]
    return f"*Checked:* {', '.join(claim_links)}.\n"


# claims that state what is often said, in the order of a reader's first week, and where it was said
# or put right
IN_PUBLIC = {
    "6.beta-direction": ["rasbt/LLMs-from-scratch#818", "huggingface/smol-course#307"],
    "7.log-two": ["huggingface/trl#1311"],
    "5.implicit-reward": ["eric-mitchell/direct-preference-optimization#8"],
    "8.every-chosen": ["eric-mitchell/direct-preference-optimization#32"],
    "9.loss-accuracy": [],
    "6.mean": ["huggingface/blog#1785"],
    "9.ranking": [],
    "13.proxy": [],
    "13.clip": [],
    "13.grpo": [],
    "13.length": [],
}


def questions_page(results: Sequence[Result], seeds: int) -> str:
    """What readers asked, our answers, and the claims that settle them; then what courses and
    threads say of preference losses, and what is so.
    """
    by_id = {r.claim.id: r for r in results}
    entries = [(by_id[claim], threads) for claim, threads in IN_PUBLIC.items()]
    return page("questions", questions=QUESTIONS, said=entries, seeds=seeds)


def family_page(rows: Sequence[dict[str, Any]], folder: Path) -> str:
    """The map: every loss (a row of ``toy.family``) on one plane, a table of properties, a guide;
    the figure goes into ``folder``.
    """
    from dil_tutorial.experiments import conclusions

    figure, alt = plane(rows)
    plotting.save(figure, folder / "family_plane")
    return page("family", rows=rows, alt=alt, anchor=crossref.anchor, found=conclusions.findings())


def conclusions_page() -> str:
    """What the studies of language models say together, and a reviewer's objections."""
    from dil_tutorial.experiments import conclusions

    return page("what_we_can_say", **conclusions.findings())


def losses_page(rows: Sequence[dict[str, Any]], results: Sequence[Result]) -> str:
    """Every loss one by one, what is proved of it, its settings, and the misspecified case."""
    return page(
        "losses",
        rows=rows,
        imitation=family.IMITATION,
        anchor=crossref.anchor,
        properties=[r for r in results if r.claim.kind == "loss"],
        losses=compare.table(bandit(), rock_paper_scissors()),
        misspecified=figures.misspecified(),
        settings=loss_settings(),
    )


def figures_page(folder: Path) -> str:
    """The figures of the exact theory, drawn into ``folder``, with their captions."""
    alts = {}
    for name, draw in figures.FIGURES.items():
        figure, alts[name] = draw()
        plotting.save(figure, folder / f"theory_{name}")
    return page("figures", alts=alts)


def with_figures(name: str, figures_of: dict[str, Any], folder: Path, **values: Any) -> str:
    """A page whose figures bring their alternative text and a caption that they computed."""
    alts, captions = {}, {}
    for figure_name, draw in figures_of.items():
        figure, alts[figure_name], captions[figure_name] = draw()
        plotting.save(figure, folder / f"{name.partition('_')[0]}_{figure_name}")
    return page(name, alts=alts, captions=captions, **values)


def pairs_made_page(folder: Path) -> str:
    """Which weight fits the way in which pairs were made; public datasets by name."""
    datasets = yaml.safe_load(
        read_text(Path(how_data_was_made.__file__).with_name("datasets.yaml"))
    )
    return with_figures(
        "pairs_made", winners.FIGURES, folder, datasets=datasets, costs=winners.costs()
    )


CARD, CARDS, MFU = "a100-80gb", 4, 0.4  # of the page on the paper's experiments


def paper_experiments_page() -> str:
    """The paper's section 5: commands, data, and hours as ``dil plan`` counts them."""
    from dil_tutorial.llm import plan as planning
    from dil_tutorial.llm.recipe import read_recipe
    from dil_tutorial.support.paths import RECIPES

    _, peak = planning.card_named(CARD)

    @functools.cache
    def hours(recipe: str, lengths: tuple[int, ...], rows: int, shape: str | None = None) -> float:
        values = read_recipe(RECIPES / f"{recipe}.yaml", [])
        config = planning.model_config(shape or values["model"])
        # hours hang on the average lengths alone
        planned = planning.plan(values, config, lengths, rows, CARDS, longest=lengths)
        return planned.hours(peak, CARDS, MFU)

    rows = yaml.safe_load(read_text(Path(__file__).with_name("paper_experiments.yaml")))
    for row in rows:
        row["hours"] = sum(
            hours(**{**run, "lengths": tuple(run["lengths"])}) for run in row["plan"]
        )
    return page("paper_experiments", rows=rows, card=CARD, mfu=MFU)


def neighbors_page(folder: Path) -> str:
    """Five related papers, each with a figure and claims."""
    return with_figures("neighbors", neighbors.FIGURES, folder)


def measured_page(folder: Path) -> str:
    """The training step against TRL's, on a GPU, and what low precision does to f, from the files
    that `dil gpu` and the scripts in benchmarks/ wrote.
    """
    names = ("llm", "step", "tokens", "noise", "plan", "sampling", "group_step")
    results = {name: read_json(BENCHMARKS / f"{name}.json") for name in names}
    llm, step = results["llm"], results["step"]
    plotting.save(measured.against_trl(llm["cells"]), folder / "bench_llm")
    plotting.save(measured.step_parts(step["step"]), folder / "bench_step")
    on_gpu = templates.load(BENCHMARKS / "gpu.md.j2").render(**read_json(BENCHMARKS / "gpu.json"))
    return page("measured", on_gpu=on_gpu.replace("# On a GPU", "## On a GPU").strip(), **results)


def trl_losses() -> dict[str, str]:
    """What a recipe says for each ``loss_type`` of TRL.

    >>> trl_losses()["ipo"]
    'loss: ipo, tau of beta, logprobs: mean'
    """
    from dil_tutorial.llm.trl_names import trl_names

    rows = {}
    for name, trl in trl_names():
        parts = [f"loss: {name}", *(f"{key}: {value}" for key, value in trl.settings.items())]
        parts += [f"{ours} of {theirs}" for theirs, ours in trl.fields.items() if ours != theirs]
        parts += [f"logprobs: {trl.logprobs}"] if trl.logprobs != "sum" else []
        rows[trl.loss_type] = ", ".join(parts)
    return rows


def loss_settings() -> list[dict[str, str]]:
    """Every loss by name: its settings with default and allowed values, what it is given, and TRL's
    name.

    >>> next(row["settings"] for row in loss_settings() if row["name"] == "ipo")
    '`tau` 0.5: a positive number'
    """
    rows, in_trl = [], trl_losses()
    for name, spec in {**LOSSES, **GROUP_LOSSES}.items():
        settings = []
        for key, default in spec.defaults.items():
            kind = spec.allowed[key]
            values = " or ".join(kind.choices) if kind.choices else kind.wanted
            wanted = "a generator" if kind.read else values
            settings.append(f"`{key}` {default}: {wanted}")
        given = "log-probabilities" if spec.reference_free else "log-ratios"
        given += ", means per token" if spec.means_only else ""
        given += " and weights of groups" if spec.of_groups else ""
        given += (
            ", of a batch" if spec.of_batch else "" if not spec.unpaired else ", no pairs needed"
        )
        unlike = {one.loss_type: in_trl[one.loss_type].split(", ")[1:] for one in spec.trl}
        trl = "; ".join(
            f"`{kind}`" + f": {', '.join(more)}" * bool(more) for kind, more in unlike.items()
        )
        paragraph = " ".join((spec.function.__doc__ or "").split("\n\n")[0].split())
        first = re.split(r": | \(", paragraph)[0]
        rows.append(
            {
                "name": name,
                "what": first,
                "settings": "; ".join(settings),
                "given": given,
                "trl": trl,
            }
        )
    return rows


def fits_page() -> str:
    """Which models, fields and habits of others work here, from the files that the scripts in
    tests/llm wrote.
    """
    from dil_tutorial.llm import arguments, trl_names
    from dil_tutorial.llm.fast.probes import PROVEN

    cases = tomllib.loads((BENCHMARKS / "cases.toml").read_text(encoding="utf-8"))["cases"]
    reports = tomllib.loads((BENCHMARKS / "reports.toml").read_text(encoding="utf-8"))["reports"]
    architectures, fields, trl = (
        read_json(BENCHMARKS / f"{name}.json")
        for name in ("architectures", "arguments", "trl_tests")
    )
    by_architecture: dict[str, Any] = architectures["architectures"]
    exact = {kind: row["layouts"] for kind, row in by_architecture.items() if "layouts" in row}
    steps = [step for row in exact.values() for step in row.values()]
    by_layout: dict[str, list[str]] = {}
    for kind, row in exact.items():
        by_layout.setdefault(row["shared"]["used"], []).append(kind)
    return page(
        "fits",
        cases=cases,
        reports=reports,
        proven=len(PROVEN),
        architectures=architectures,
        found=by_architecture,
        exact=exact,
        worst=max(step["gradient"] for step in steps),
        wrong=[step for step in steps if step["f"] != 0 or not step["gradient"] < 1e-6],
        by_layout=by_layout,
        refused=[kind for kind, row in by_architecture.items() if "refused" in row],
        untried=[kind for kind, row in by_architecture.items() if "not tiny" in row],
        arguments=fields,
        not_here=arguments.NOT_HERE,
        trl=trl,
        verdicts=Counter(row["verdict"] for row in trl["tests"].values()),
        trl_losses=trl_losses(),
        trl_divergences=trl_names.DIVERGENCES,
        trl_why_not=trl_names.WHY_NOT,
        trl_unlike=trl_names.UNLIKE,
        trl_no_matter=trl_names.NO_MATTER,
    )


def doctor_page() -> str:
    """What `dil doctor` can find."""
    from dil_tutorial.llm.doctor import ISSUES

    return page("doctor", issues=ISSUES)


def architecture_page(root: Path) -> str:
    """The layers of the code, drawn from the import contracts, for the README, too."""
    rows = architecture.layers()
    modules = [module for row in rows for module in row]
    anchors = set(re.findall(r"^\(([\w-]+)\)=$", read_text(root / "book" / "api.md"), re.MULTILINE))
    links = {module for module in modules if architecture.anchor(module) in anchors}
    svg = architecture.svg(rows, links)
    write_text(root / "book" / "images" / "architecture.svg", svg)
    texts = {module: architecture.summary(module) for module in modules}
    return page("architecture", svg=svg, rows=texts, links=links, anchor=architecture.anchor)


def plain_page() -> str:
    """The algorithm in one file, ``llm/plain.py``, whole."""
    source = Path(dil_tutorial.__file__).parent / "llm" / "plain.py"
    return page("plain", source=read_text(source))


def pair_page() -> str:
    """One pair from its line of JSON to the weights, and the same in a toy world, with the actual
    numbers.
    """
    return page(
        "pair",
        func=pair.func,
        model=pair.through_a_language_model(),
        toy=pair.through_a_toy_world(),
    )


EDITIONS = {  # file: what it is called on the front page
    "rlhf-is-imitation-learning.pdf": "Lessons and theory as PDF",
    "rlhf-is-imitation-learning.epub": "The same as EPUB",
    "cheat-sheet.pdf": "All results on two pages, as PDF",
}


def links(addresses: dict[str, str], css: str) -> str:
    """Links in a row, as HTML.

    >>> links({"a.html": "A"}, "hero")
    '<p class="hero"><a href="a.html">A</a></p>\\n'
    """
    inside = " ".join(f'<a href="{address}">{name}</a>' for address, name in addresses.items())
    return f'<p class="{css}">{inside}</p>\n'


def hero(repository: str) -> str:
    """The front page's first lines: what it is about, and where to go; ``repository`` is
    owner/name on GitHub, or empty.

    >>> "GitHub" in hero("owner/name"), "GitHub" in hero("")
    (True, False)
    """
    github = {f"https://github.com/{repository}": "GitHub"} if repository else {}
    buttons = {"generated/00_why_care.html": "Start", "install.html": "Install", **github}
    return (
        '<p class="lead">Winning a comparison of two at most doubles a response\'s probability ('
        '<a href="generated/ledger.html#claim-1-bound">claim 1.bound</a>). RLHF goes further. '
        "Which does your loss do?</p>\n<p>A tutorial on Direct Imitation Learning (Xiao et al., "
        "ICLR 2025) for people who know DPO: lessons, exact worlds, a trainer, and claims that are "
        "run.</p>\n" + links(buttons, "buttons")
    )


def formats(edition_paths: Sequence[Path]) -> str:
    """The front page's line on other formats: lectures and the cheat sheet, and the editions that
    were made.

    >>> "EPUB" in formats([Path("rlhf-is-imitation-learning.epub")]), "EPUB" in formats([])
    (True, False)
    """
    addresses = {f"editions/{path.name}": EDITIONS[path.name] for path in edition_paths}
    addresses |= {
        "slides/lecture-45.html": "Slides of a lecture, 45 minutes",
        "slides/lecture-90.html": "90 minutes",
    }
    if not edition_paths:
        addresses |= {"cheatsheet.html": "All results on two pages"}
    return links(addresses, "doors")


def llms(root: Path) -> str:
    """llms.txt: what this site is and where things stand, for programs that read it on behalf of
    people.
    """
    scripts = sorted((root / "notebooks").glob("[0-9]*.py"))
    titles = {
        s.stem: re.findall(r"^# # (.*)$", s.read_text(encoding="utf-8"), re.MULTILINE)[0]
        for s in scripts
    }
    return page("llms", titles=titles, claims=claims.CLAIMS)


def puzzles_page(root: Path) -> str:
    """Every puzzle, with the notebook that it is from."""
    scripts = sorted((root / "notebooks").glob("[0-9]*.py"))
    entries = [
        (name, next(s.stem for s in scripts if f'puzzle("{name}")' in read_text(s)))
        for name in PUZZLES
    ]
    return page(
        "puzzles", puzzles=[(name, notebook, puzzle(name).data) for name, notebook in entries]
    )


def cheat_sheet(results: Sequence[Result], figure: str) -> str:
    """All results on two pages, as HTML; each with the mark and the link of the claim that checks
    it; ``figure`` is SVG.
    """
    by_id = {result.claim.id: result for result in results}

    def verdict(claim: str) -> Markup:
        result = by_id[claim]
        where = "losses" if result.claim.kind == "loss" else "ledger"
        place = f"generated/{where}.html#{label(claim)}"
        return Markup(f'<a href="{place}">{result.mark}{claim}</a>')

    return (
        templates.load(TEMPLATES / "cheatsheet.html.j2").render(v=verdict, figure=Markup(figure))
        + "\n"
    )
