"""Build the book: write what is generated (ledger, questions, tables, figures, notebooks), then call jupyter-book with -W."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dil_tutorial import claims
from dil_tutorial.book import crossref
from dil_tutorial.book import figures as theory_figures
from dil_tutorial.book.crossref import label, link
from dil_tutorial.claims import PAPER_SECTIONS, SECTIONS, Result
from dil_tutorial.claims.questions import QUESTIONS
from dil_tutorial.support import plotting
from dil_tutorial.support.paths import BENCHMARKS
from dil_tutorial.support.provenance import read_json
from dil_tutorial.support.symbols import prose
from toy import compare
from toy.gallery import bandit, rock_paper_scissors


def row(*cells: object) -> str:
    """A row of a Markdown table; bars in formulas become norms or are escaped."""
    return "| " + " | ".join(str(cell).replace(r"\|", r"\Vert ").replace("|", r"\vert ") for cell in cells) + " |"


def note(result: Result) -> str:
    """The assumption or the repair of a claim that needs one."""
    word = {claims.ASSUMES: "If", claims.FAILS: "Repair"}.get(result.claim.verdict)
    return f" *{word}: {result.claim.note}.*" if word else ""


def numbers(result: Result) -> str:
    size = "" if result.size is None else f"; else off by {result.size:.2g}"
    return f"residual {result.residual:.0e} (tolerance {result.claim.tolerance:.0e}){size}"


def paper_page(results: Sequence[Result], seeds: int) -> str:
    """The paper's own statements, one by one, with our verdict: the front page of the theory part."""
    counts = {
        verdict: sum(r.verdict == verdict for r in results if r.claim.paper)
        for verdict in (claims.HOLDS, claims.ASSUMES, claims.FAILS)
    }
    lines = [
        "# The paper, checked",
        "",
        f"What the paper {{cite:p}}`xiao2025dil` states, in its own order, and whether it is so. Each row is a function that ran on {seeds} random worlds "
        "when this page was built (`dil verify paper`). Of the paper's statements "
        + ", ".join(f"{count} {verdict.replace('holds', 'hold').replace('fails', 'fail')}" for verdict, count in counts.items())
        + ". Follow a claim's name for the explanation and the numbers; [all claims](ledger.md) has the statements that are ours, too.",
        "",
    ]  # fmt: skip
    for section, title in PAPER_SECTIONS.items():
        lines += [f"## §{section} {title}", "", "| the paper states | verdict | claim |", "|---|---|---|"]
        lines += [
            row(r.claim.statement + note(r), f"**{r.verdict}**", link(r.claim.id)) for r in results if r.claim.paper == section
        ]
        lines.append("")
    return "\n".join(lines)


def ledger_page(results: Sequence[Result], seeds: int, root: Path) -> str:
    """Every claim by section of THEORY: statement, verdict, numbers, explanation, and where its code and its notebooks are."""
    scripts, api = sorted((root / "notebooks").glob("[0-9]*.py")), root / "book" / "api.md"
    lines = [
        "# The ledger",
        "",
        f"{len(results)} claims, each a function that ran when this page was built, on {seeds} random worlds (`dil verify`). *Residual*: the worst over "
        "the worlds of the statement, under its assumption or repaired where it needs that. *Else off by*: the smallest miss over the worlds of the "
        "statement without its assumption, or as published.",
        "",
    ]
    for section, title in SECTIONS.items():
        lines += [f"## §{section} {title}", ""]
        for r in results:
            if r.claim.id.split(".")[0] != section:
                continue
            number = r.claim.source.removeprefix("THEORY §")
            source = f"{{ref}}`THEORY §{number} <theory-{number.split('.')[0]}>`" + (
                f", paper §{r.claim.paper}" if r.claim.paper else ""
            )
            places = [f"[notebook {script.stem[:2]}]({script.stem}.ipynb)" for script in crossref.shown_in(r.claim.id, scripts)]
            where = [part for part in (crossref.code_links(r.claim, api), ", ".join(places)) if part]
            lines += [
                f"({label(r.claim.id)})=",
                f"**`{r.claim.id}`** · **{r.verdict}** · {numbers(r)} · {source}",
                "",
                f"> {r.claim.statement}{note(r)}",
                "",
                prose(r.claim.explanation),
                "",
                f"*See* {'; '.join(where)}." if where else "",
                "",
            ]
    return "\n".join(lines)


def section_claims(results: Sequence[Result], section: str) -> str:
    """What stands below a section of the theory page: its claims with their verdicts."""
    found = [f"{link(r.claim.id)} ({r.verdict})" for r in results if r.claim.id.split(".")[0] == section]
    return f"*Checked:* {', '.join(found)}.\n"


def questions_page() -> str:
    """What readers asked, our answers, and the claims that settle them."""
    lines = [
        "# Questions readers asked",
        "",
        "Asked in public reviews and discussions of the paper; each answer names the checks that settle it.",
        "",
    ]
    for question in QUESTIONS:
        lines += [f"## {question.text.replace('pi_chosen', 'the winners’ law')}", "", prose(question.answer), ""]
        where = ", ".join(link(claim) for claim in question.claims)
        lines += [f"Claims: {where}." + (f" Numbers and figures: [here]({question.page})." if question.page else ""), ""]
    return "\n".join(lines)


def losses_page() -> str:
    """Every loss side by side, and the misspecified case."""
    yes = {True: "yes", False: "no"}
    lines = [
        "# Every loss, side by side",
        "",
        "Optima in the full tabular class; $\\ell$ is a log-probability, $\\bar\\ell$ its mean per token. What a loss needs and how the pull of one pair "
        "grows with the log-ratio are computed from the loss. *Bandit*: eight responses, Bradley–Terry labels (`toy.gallery.bandit`). *Game*: "
        "rock–paper–scissors against a reference that likes rock, where no reward exists and the winners' law is (0.500, 0.300, 0.200). Your own "
        "world: `dil optima FILE`.",
        "",
        "::::{div} full-width",
        "",
        "| loss | objective | optimum, Bradley–Terry pairs | optimum, any preference | needs pairs? | reference? | pull |",
        "|---|---|---|---|---|---|---|",
    ]
    table = compare.table(bandit(), rock_paper_scissors())
    lines += [
        row(r["loss"], r["objective"], r["optimum"], r["optimum without transitivity"], yes[r["needs pairs"]],
            yes[r["needs a reference"]], r["gradient"]) for r in table
    ]  # fmt: skip
    lines += [
        "",
        "| loss | KL to $\\pi_\\text{chosen}$ | KL to RLHF | reward | rock, paper, scissors |",
        "|---|---:|---:|---:|---|",
    ]
    for r in table:
        played = ", ".join(f"{p:.3f}" for p in r["game"])
        lines.append(
            row(r["loss"], f"{abs(r['KL to pi_chosen']):.4f}", f"{abs(r['KL to RLHF']):.4f}", f"{r['reward']:+.3f}", played)
        )
    lines += [
        "",
        "## When the class does not contain the winners' law",
        "",
        "The same losses over two-parameter log-linear policies (discretised Gaussians on a line, a demonstrator with two modes), by descent from the "
        "reference. Losses that share an optimum in the full class have projections of their own, except repaired UKL and SFT, which are the same loss "
        f"({link('3.ukl-is-sft')}). Published LSIF, whose chosen term has no floor, may run to a single response.",
        "",
        "| loss | KL($\\pi_\\text{chosen}$ ‖ policy) | KL(policy ‖ $\\pi_\\text{chosen}$) | reward |",
        "|---|---:|---:|---:|",
    ]
    for r in theory_figures.misspecified():
        lines.append(row(r["loss"], f"{r['forward']:.5f}", f"{r['reverse']:.5f}", f"{r['reward']:+.3f}"))
    return "\n".join([*lines, ""])


CAPTIONS = {
    "generators": ("Generators", "A convex $h$ is all that tells one ratio loss from another. Shapes are scaled to $h''(1) = 1$; near $r = 1$, where training "
                   "starts, they agree."),
    "weights": ("Gradient weights", "The pull of one response, $r h''(r)$ on a winner and $r^2 h''(r)$ on a reference sample (claims " + link("3.table") + ", "
                + link("5.bounded") + "). One curve is always $r$ times the other (" + link("3.weights") + ")."),
    "projections": ("Mass covering against mode seeking", "A demonstrator with two modes, imitated by a Gaussian: the forward KL pays for what it misses and "
                    "covers both, the reverse KL pays for what it adds and picks one, depending on the start (" + link("2.mode-seeking") + ")."),
    "lengths": ("Sums against means", "31 responses of one to four tokens; rewards have the same mean and spread at each length. Losses fed means per token treat "
                "lengths differently all the same (" + link("6.mean") + ", " + link("6.mean-dpo") + ")."),
    "frontier": ("Reward for KL", "RLHF's optima are the best reward at their distance (" + link("1.frontier") + "). Best-of-$N$, iterated imitation and tempered "
                 "DIL lie close below: most of what separates the methods is how far they go."),
}  # fmt: skip


def figures_page(folder: Path) -> str:
    """The figures of the exact theory, drawn into ``folder``, with their captions."""
    lines = ["# The theory in figures", ""]
    for name, draw in theory_figures.FIGURES.items():
        figure, alt = draw()
        plotting.save(figure, folder / f"theory_{name}")
        title, caption = CAPTIONS[name]
        lines += [f"## {title}", "", f"```{{figure}} theory_{name}.svg", f":alt: {alt}", ":width: 100%", "", caption, "```", ""]
    return "\n".join(lines)


def measured_page(folder: Path) -> str:
    """The training step against TRL's, and what low precision does to f, from the files that `dil bench` wrote."""
    from dil_tutorial.bench.llm import figure

    llm, noise = (read_json(BENCHMARKS / f"{name}.json") for name in ("llm", "noise"))
    plotting.save(figure(llm["cells"]), folder / "bench_llm")
    versions = ", ".join(f"{name} {llm['versions'][name]}" for name in ("torch", "transformers", "trl"))
    lines = [
        "# The step, measured",
        "",
        f"`dil bench llm`, {llm['time'][:10]}, {llm['machine']['cores']} cores, {versions}. Same model ({llm['measurements'][0]['model']}), same pairs, same precision; TRL "
        "with its reference precomputed, its fastest setting; every run in a process of its own, interleaved, medians over rounds.",
        "",
        "```{figure} bench_llm.svg",
        ":alt: Bars: tokens a second and peak memory of our training step and of TRL's, for each workload and precision.",
        ":width: 100%",
        "",
        "A training step of ours and of TRL's `DPOTrainer`.",
        "```",
        "",
        "| workload, precision | tokens/s | TRL's | times faster | rounds | GiB | TRL's | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cell in llm["cells"]:
        speed, peak, rounds = cell["tokens_per_s"], cell["peak_gib"], cell["times_faster_rounds"]
        lines.append(
            row(
                cell["cell"], f"{speed['ours']:.0f}", f"{speed['trl']:.0f}", f"**{cell['times_faster']:.2f}**",
                f"{rounds[0]:.2f} to {rounds[-1]:.2f}", f"{peak['ours']:.2f}", f"{peak['trl']:.2f}", f"{cell['memory_ratio']:.2f}",
            )
        )  # fmt: skip
    lines += ["", "Each side at its fastest setting:", ""]
    lines += [
        f"- {best['workload']}: **{best['times_faster']:.2f}** times (ours: {best['ours']}; TRL: {best['trl']})"
        for best in llm["fastest"]
    ]
    lines += [
        "",
        "## Low precision: what happens if batches change",
        "",
        f"Before the first step policy and reference are the same model, so every $f$ is zero. But the same response may come out differently in another batch: below, $|f|$ in nats over "
        f"64 responses ({noise['model']}, `dil bench noise`), and the largest factor that $e^{{2f}}$ makes of it. This is why the trainer keeps its batches together "
        "([what happens in a step](../train.md)).",
        "",
        "| precision | reference scored in | root mean square | largest | in $e^{2f}$ |",
        "|---|---|---:|---:|---:|",
    ]
    for r in noise["noise"]:
        lines.append(
            row(
                r["precision"],
                r["reference scored in"],
                f"{r['rms']:.2g}",
                f"{r['largest']:.2g}",
                f"× {r['largest_factor']:.4g}",
            )
        )
    return "\n".join([*lines, ""])


def wrong_answers_table() -> str:
    """What ``dil course bank`` found, an assignment a line."""
    from dil_tutorial.course.wrong_answers import caught

    found = read_json(BENCHMARKS / "wrong_answers.json")
    rows, cores = found["rows"], found["machine"]["cores"]
    lines = [
        row("assignment", "wrong answers", "lose on their question", "and on no other", "reference", "untouched"),
        row(*["---"] * 6),
    ]
    for name, *counts, full, untouched in caught(rows):
        lines.append(row(name.upper(), *counts, full, f"{untouched:.0f}"))
    seconds = sum(entry["seconds"] for entry in rows) / len(rows)
    return "\n".join(lines) + f"\n\n{seconds:.1f} seconds a notebook on a machine of {cores} cores.\n"
