"""Formulas for people: from LaTeX to a terminal, from plain words to a page, from docstrings to the
API's pages.
"""

import re

GREEK = {
    "pi": "π",
    "theta": "θ",
    "phi": "φ",
    "beta": "β",
    "tau": "τ",
    "lambda": "λ",
    "sigma": "σ",
    "mu": "μ",
    "rho": "ρ",
    "gamma": "γ",
    "delta": "δ",
    "epsilon": "ε",
    "eps": "ε",
    "eta": "η",
    "chi": "χ",
    "alpha": "α",
}


def plain(latex: str) -> str:
    r"""A statement's LaTeX as it can stand in a terminal.

    >>> plain(r"$KL(\pi_\text{chosen}\,\|\,\pi_\text{ref}) \le \log 2 - \frac12$")
    'KL(π_chosen ‖ π_ref) ≤ log 2 - 1/2'
    """
    text = re.sub(r"\\text\{([^}]*)\}", r"\1", latex)
    text = re.sub(r"\\frac\{([^}]*)\}\{([^}]*)\}", r"(\1)/(\2)", text).replace(r"\frac12", "1/2")
    text = re.sub(r"\((\w)\)/", r"\1/", re.sub(r"/\((\w)\)", r"/\1", text))
    text = re.sub(r"\\frac(\d)(\d)", r"\1/\2", text)
    text = re.sub(r"\\frac(\d)\{([^}]*)\}", r"\1/(\2)", text)
    text = re.sub(r"\\frac(\d)([A-Z])", r"\1/\2", text).replace(r"\log", r" log ")
    text = re.sub(r"\^\{([^{}]{2,})\}", r"^(\1)", text)
    symbols = {"\\" + name: letter for name, letter in GREEK.items()}
    symbols |= {
        r"\le": "≤",
        r"\ge": "≥",
        r"\ne": "≠",
        r"\|": "‖",
        r"\succ": "≻",
        r"\sim": "~",
        r"\to": "→",
        r"\cdot": "·",
        r"\approx": "≈",
        r"\gg": "≫",
        r"\propto": "∝",
        r"^\top": "ᵀ",
        r"\pm": "±",
        r"\infty": "∞",
        r"\nabla": "∇",
        r"\Delta": "Δ",
        r"\ell": "l",
        r"\bar R": "R\u0304",
        r"^*": "*",
    }
    symbols |= {
        r"\sum": "Σ",
        r"\prod": "Π",
        r"\log": "log",
        r"\max": "max",
        r"\min": "min",
        r"\tanh": "tanh",
    }
    symbols |= {rf"\hat {letter}": letter + "\u0302" for letter in "rwPR"} | {
        r"\hat\pi": "π\u0302",
        r"\mid": "|",
    }
    symbols |= {
        r"\bigl": "",
        r"\bigr": "",
        r"\big": "",
        r"\dots": "…",
        r"\,": " ",
        r"\ ": " ",
        "$": "",
        "{=}": "=",
    }
    for symbol in sorted(symbols, key=len, reverse=True):
        text = text.replace(symbol, symbols[symbol])
    return re.sub(r"[{}]", "", text).replace("  ", " ")


def prose(text: str) -> str:
    """Plain explanations as Markdown: names of policies and of Greek letters become symbols,
    Markdown's own signs are kept.

    >>> prose("pi_ref (r*)^{1/beta} < 2")
    '$\\\\pi_\\\\text{ref}$ (r\\\\*)^{1/β} &lt; 2'
    """
    text = text.replace("<", "&lt;").replace("*", r"\*").replace("_l ", r"\_l ")
    text = re.sub(r"\bpi_(ref|chosen|rejected|theta|phi|safe)\b", r"$\\pi_\\text{\1}$", text)
    text = re.sub(r"\bpi_(\w)\b", r"$\\pi_\1$", text)
    for name in ("beta", "lambda", "theta", "gamma", "delta", "eps"):
        text = re.sub(rf"\b{name}\b", GREEK[name], text)
    return text


def typeset(line: str) -> str:
    r"""A line of a docstring with its policies and Greek letters as formulas, but for what is code.

    >>> print(typeset("``beta`` scales KL(pi_theta || pi_ref)/beta."))
    ``beta`` scales KL(\ :math:`\pi_\theta`\  || \ :math:`\pi_\text{ref}`\ )/\ :math:`\beta`\ .
    """
    apart = r"(?<![\w`.*])"
    greek = "beta|lambda|theta|gamma|tau|epsilon"
    policy = rf"{apart}pi_(ref|chosen|rejected|safe)\b|{apart}pi_(theta|phi|mu)\b|{apart}({greek})\b(?!=)"  # noqa: E501

    def formula(match: re.Match[str]) -> str:
        words, letter, alone = match.groups()
        tex = rf"\pi_\text{{{words}}}" if words else rf"\pi_\{letter}" if letter else rf"\{alone}"
        return rf"\ :math:`{tex}`\ "

    parts = re.split(r"(``.*?``|:\w+:`.*?`)", line)  # the odd ones are code and roles
    return "".join(part if i % 2 else re.sub(policy, formula, part) for i, part in enumerate(parts))
