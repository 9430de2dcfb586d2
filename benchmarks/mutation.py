"""Mutation testing of the exact core: break each line in turn and see whether a test notices.

    make mutation            # or: python benchmarks/mutation.py [--workers 2] [--only bregman]

cosmic-ray makes the mutants; each is tested in a fork of one warm process (importing torch a
thousand times would take longer than the tests).  Mutants of annotations and docstrings, which are
never executed, are left out.  Results go to ``benchmarks/mutation.json``: the score of each module
and every survivor, with the reason where it is equivalent (from
``benchmarks/equivalent_mutants.toml``).  An interrupted run continues where it stopped; when tests
change, only unexplained survivors are tried again (delete the results to try all), when the module
does, everything is.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.progress import track

from dil_tutorial.support.files import provenance, read_json, write_json
from dil_tutorial.support.mutants import mutants, reason

ROOT = Path(__file__).resolve().parent.parent
RESULTS, EQUIVALENT = (
    ROOT / "benchmarks" / "mutation.json",
    ROOT / "benchmarks" / "equivalent_mutants.toml",
)

# The tests of each module, fastest first.
TESTS = {
    "dil_tutorial/bregman.py": ["tests/derivation/test_bregman.py"],
    "dil_tutorial/losses.py": ["tests/derivation/test_losses.py"],
    "dil_tutorial/loss_spec.py": ["tests/derivation/test_losses.py"],
    "dil_tutorial/preferences.py": [
        "tests/derivation/test_preferences.py",
        *(
            f"tests/toy/test_extreme_worlds.py::{exact}"
            for exact in (
                "test_the_two_distributions",
                "test_win_rates_do_not_need_the_table",
                "test_best_of_n_is_exact_to_the_last_response",
            )
        ),
    ],
    "toy/optima.py": [
        "tests/toy/test_optima.py",
        *(
            f"--deselect=tests/toy/test_optima.py::{slow}"
            for slow in (
                "test_a_function_has_the_optimum_of_its_closed_form",
                "test_optima_are_policies_and_stationary",
            )
        ),
    ],
}


def mutants_of(module: str) -> list[dict[str, Any]]:
    """Every mutant of a module that changes what runs."""
    return mutants((ROOT / module).read_text())


def survives(module: str, source: str, timeout: int) -> bool:
    """Whether the module's tests pass with ``source`` in its place; run in a fork."""
    with tempfile.TemporaryDirectory() as folder:
        for package in ("dil_tutorial", "toy"):
            shutil.copytree(
                ROOT / package,
                Path(folder) / package,
                ignore=shutil.ignore_patterns("__pycache__", "llm"),
            )
        (Path(folder) / module).write_text(source)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(timeout)  # an endless loop is a mutant noticed
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            os.chdir(ROOT)
            for name in [n for n in sys.modules if n.split(".")[0] in ("dil_tutorial", "toy")]:
                del sys.modules[name]
            sys.path.insert(0, folder)
            sys.dont_write_bytecode = True
            import pytest

            options = [
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:nbval",
                "-p",
                "no:xdist",
                "-o",
                "addopts=",
            ]
            # the module's own examples first
            examples = ["--doctest-modules", f"{folder}/{module}"]
            os._exit(int(pytest.main([*options, *examples, *TESTS[module]])))
        return os.waitpid(child, 0)[1] == 0


def reason_for(module: str, mutant: dict[str, Any], known: dict[str, Any]) -> str | None:
    """Why a survivor is equivalent, if somebody has shown it to be."""
    return reason(module, mutant, known.get("mutant", []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="part of a module's name")
    parser.add_argument(
        "--timeout", type=int, default=120, help="seconds a mutant; slower counts as noticed"
    )
    arguments = parser.parse_args()
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)  # a fork must not inherit threads
    known = tomllib.loads(EQUIVALENT.read_text()) if EQUIVALENT.exists() else {}
    results = read_json(RESULTS)["modules"] if RESULTS.exists() else {}
    for module in [m for m in TESTS if arguments.only in m]:
        source = digest_of([ROOT / module])
        tests = digest_of(
            sorted(
                {ROOT / test.split("::")[0] for test in TESTS[module] if not test.startswith("--")}
            )
        )
        before = results.get(module, {})
        outcomes = before.get("outcomes", {}) if before.get("source") == source else {}
        every = mutants_of(module)
        # try survivors again, but for those known to be equivalent
        if before.get("tests") != tests:
            final = {key(m) for m in every if reason_for(module, m, known)}
            outcomes = {
                name: outcome
                for name, outcome in outcomes.items()
                if outcome == "killed" or name in final
            }
        todo = [m for m in every if key(m) not in outcomes]
        if not survives(module, (ROOT / module).read_text(), 600):
            sys.exit(f"{module}: its tests fail without any mutation: fix them first")
        with ThreadPoolExecutor(arguments.workers) as pool:
            judged = pool.map(
                lambda m, name=module: survives(name, m["source"], arguments.timeout), todo
            )
            for i, (mutant, survived) in enumerate(
                track(zip(todo, judged, strict=True), module, len(todo))
            ):
                outcomes[key(mutant)] = "survived" if survived else "killed"
                if i % 20 == 19 or i == len(todo) - 1:
                    results[module] = summary(module, (source, tests), every, outcomes, known)
                    save(results)
        results[module] = summary(module, (source, tests), every, outcomes, known)
        save(results)
        row = results[module]
        print(
            f"{module}: {row['killed']} of {row['tested']} mutants killed ({row['score']:.1%}), "
            f"{row['equivalent']} equivalent"
        )


def save(results: dict[str, Any]) -> None:
    """Write the results so far, the score over all modules first."""
    total = {
        name: sum(row[name] for row in results.values())
        for name in ("tested", "killed", "equivalent")
    }
    total["score"] = total["killed"] / total["tested"]
    total["score_without_equivalent"] = total["killed"] / (total["tested"] - total["equivalent"])
    write_json(RESULTS, {**provenance(), "total": total, "modules": results})


def key(mutant: dict[str, Any]) -> str:
    return f"{mutant['operator']}:{mutant['occurrence']}"


def digest_of(files: list[Path]) -> str:
    """sha256 of what the files do: their syntax trees without docstrings, so that a new example
    makes no result stale.
    """
    digest = hashlib.sha256()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and ast.get_docstring(node) is not None
            ):
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def summary(
    module: str,
    digests: tuple[str, str],
    every: list[dict[str, Any]],
    outcomes: dict[str, str],
    known: dict[str, Any],
) -> dict[str, Any]:
    """Counts, score and the list of survivors."""
    survivors = [m for m in every if outcomes.get(key(m)) == "survived"]
    listed = [
        {
            "operator": m["operator"],
            "from": m["from"],
            "to": m["to"],
            "equivalent": reason_for(module, m, known),
        }
        for m in survivors
    ]
    killed = sum(outcome == "killed" for outcome in outcomes.values())
    equivalent = sum(row["equivalent"] is not None for row in listed)
    return {
        "source": digests[0],
        "tests": digests[1],
        "mutants": len(every),
        "tested": len(outcomes),
        "killed": killed,
        "score": killed / max(1, len(outcomes)),
        "equivalent": equivalent,
        "score_without_equivalent": killed / max(1, len(outcomes) - equivalent),
        "survivors": listed,
        "outcomes": outcomes,
    }


if __name__ == "__main__":
    main()
