"""Win rates by a judge: a language model of the user's choice compares two answers to each prompt.

Every pair is judged in both orders, because judges prefer a place; a tie counts one half; the
interval is over prompts.  Requests and answers are files in the format of OpenAI's batches, so a
judge can be asked in three ways: `dil judge` writes the requests, and reads the answers that
somebody else got; or it asks an OpenAI-compatible endpoint itself, if one is given.  No call is
made otherwise.
"""

import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm.data import Unreadable, raw_rows
from dil_tutorial.support.files import write_text
from dil_tutorial.support.intervals import bootstrap

QUESTIONS = {  # what is asked, by the kind of data
    "helpful": (
        "Which of two responses to a user's message is more helpful?",
        "Message",
        "Response",
    ),
    "summary": (
        "Which of two summaries of a post covers its most important points better, precisely and "
        "without details that do not matter?",
        "Post",
        "Summary",
    ),
}
FORM = """{question}

{kind}:
{prompt}

{what} A:
{first}

{what} B:
{second}

Compare the two in one sentence. Then write a last line that holds nothing but "Preferred: A", \
"Preferred: B" or "Preferred: tie".
"""
# a line that holds a verdict and nothing else but marks
VERDICT = re.compile(
    r"^\W*(?:preferred|more helpful)[^\w\n]+(?:(?:response|summary) )?(a|b|(?:a )?tie)[^\w\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
ORDERS = ("ab", "ba")
RETRIES = 4
WORDS = {
    "ties": "ties, of all verdicts",
    "agree": "prompts judged alike in both orders",
    "first place": "the text that stands first is preferred",
    "comparisons": "prompts with a verdict in both orders",
    "equal": "prompts with equal texts, ties",
    "no verdict": "answers without a verdict",
    "missing": "requests without an answer",
}
SCORE = {"a": 1.0, "b": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class Comparison:
    """A prompt with the two texts that are compared."""

    prompt: str
    first: str
    second: str


def read_comparisons(path: Path, first: str, second: str) -> list[Comparison]:
    """Rows of ``prompt`` and two texts by their names, as ``dil sample --json`` writes them."""
    found = []
    for row, where in raw_rows(path):
        if isinstance(row, Unreadable):
            raise InputError(f"{where}: {row.reason}")
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: not an object: give prompt, {first} and {second}")
        for name in ("prompt", first, second):
            if not isinstance(row.get(name), str):
                raise InputError(
                    f"{where}: field '{name}' is not a text: give prompt and two texts, and their "
                    "names as --first and --second"
                )
        found.append(Comparison(row["prompt"], row[first], row[second]))
    if not found:
        raise InputError(f"{path}: holds no comparisons: give one JSON object per line")
    return found


def requests_of(
    comparisons: list[Comparison], model: str, question: str = "helpful"
) -> list[dict[str, Any]]:
    """Two requests for each comparison, one in each order, as OpenAI's batch files have them.

    Equal texts are a tie without being asked.  A request is named by its comparison, its order and
    a digest of its content, so that answers to other texts are not taken for answers to these.

    >>> made = requests_of([Comparison("Hi", "Hello.", "No."), Comparison("Hi", "Yes", "Yes")], "m")
    >>> [request["custom_id"][:5] for request in made]
    ['0-ab-', '0-ba-']
    """
    if question not in QUESTIONS:
        raise unknown_name("question", question, QUESTIONS)
    asked, kind, what = QUESTIONS[question]
    requests = []
    for i, one in enumerate(comparisons):
        if one.first.strip() == one.second.strip():
            continue
        for order in ORDERS:
            texts = (one.first, one.second) if order == "ab" else (one.second, one.first)
            content = FORM.format(
                question=asked,
                kind=kind,
                what=what,
                prompt=one.prompt,
                first=texts[0],
                second=texts[1],
            )
            message = {"role": "user", "content": content}
            body = {"model": model, "messages": [message], "temperature": 0}
            digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()[:8]
            requests.append(
                {
                    "custom_id": f"{i}-{order}-{digest}",
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": body,
                }
            )
    return requests


def verdict_of(text: str) -> str | None:
    """a, b or tie: what the last line with a verdict says; None where none does.

    >>> verdict_of("Both are fine, A is shorter.\\nPreferred: B"), verdict_of("I cannot say.")
    ('b', None)
    """
    found = VERDICT.findall(text)
    return found[-1].lower().removeprefix("a ") if found else None


def read_answers(path: Path, requests: list[dict[str, Any]]) -> dict[str, str]:
    """{custom_id: what the judge wrote}, from a file of a batch's output; InputError for answers
    that belong to no request.
    """
    known = {request["custom_id"] for request in requests}
    answers: dict[str, str] = {}
    for row, where in raw_rows(path):
        if isinstance(row, Unreadable) and path.read_text(encoding="utf-8")[-1:] != "\n":
            continue  # a last line that was cut: it is asked for again
        if not isinstance(row, Mapping) or not isinstance(row.get("custom_id"), str):
            raise InputError(
                f"{where}: not a line of a batch's output: give custom_id and response"
            )
        if row["custom_id"] not in known:
            raise InputError(
                f"{where}: {row['custom_id']!r} answers another request: give the answers to these "
                "comparisons, or another --out"
            )
        text = text_of(row.get("response"))
        if text is not None:
            answers[row["custom_id"]] = text
    return answers


def text_of(response: Any) -> str | None:
    """What a model wrote, from a response of a batch or of an endpoint; None where it failed.

    >>> text_of({"body": {"choices": [{"message": {"content": "Preferred: A"}}]}})
    'Preferred: A'
    """
    body = response.get("body", response) if isinstance(response, Mapping) else None
    try:
        content = body["choices"][0]["message"]["content"] or ""  # type: ignore[index]
        if isinstance(content, list):  # of parts
            content = "".join(str(part.get("text", "")) for part in content)
        return str(content)
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def ask(
    requests: list[dict[str, Any]],
    path: Path,
    url: str,
    key: str | None,
    done: Callable[[], None] = lambda: None,
    wait: float = 2.0,
) -> None:
    """Send the requests that ``path`` has no answer to, one after the other, and append each
    answer: a call that was interrupted continues.
    """
    answered = read_answers(path, requests) if path.is_file() else {}
    lines = path.read_text(encoding="utf-8") if path.is_file() else ""
    if lines and not lines.endswith("\n"):  # the last one may be cut
        whole, _, last = lines.rpartition("\n")
        try:
            json.loads(last)
            write_text(path, lines + "\n")
        except json.JSONDecodeError:
            write_text(path, whole + "\n" if whole else "")
    path.parent.mkdir(parents=True, exist_ok=True)
    for request in requests:
        if request["custom_id"] not in answered:
            body = post(f"{url.rstrip('/')}/chat/completions", request["body"], key, wait)
            line = {"custom_id": request["custom_id"], "response": {"body": body}}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        done()


def post(url: str, body: dict[str, Any], key: str | None, wait: float = 2.0) -> dict[str, Any]:
    """The endpoint's answer; busy servers are asked again, ``wait`` seconds later and then twice as
    long.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"--url {url}: give http:// or https://, up to /v1")
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    for attempt in range(RETRIES + 1):
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                content = json.load(response)
            if text_of(content) is None:
                raise InputError(f"{url}: the answer holds no choices: is it a chat endpoint?")
            return dict(content)
        except InputError:
            raise
        except urllib.error.HTTPError as error:
            busy = error.code == 429 or error.code >= 500
            if not busy or attempt == RETRIES:
                detail = error.read(200).decode("utf-8", "replace").replace("\n", " ")
                raise InputError(f"{url}: {error.code} {error.reason}: {detail}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
                raise InputError(
                    f"{url}: the answer is not JSON: give the address up to /v1"
                ) from None
            if attempt == RETRIES:
                raise InputError(f"{url}: cannot be reached ({error})") from None
        time.sleep(wait * 2**attempt)
    raise AssertionError("not reached")


def judged(comparisons: list[Comparison], answers: dict[str, str]) -> dict[str, Any]:
    """What the answers say of the first text against the second.

    ==================  ============================================================================
    Key                 Meaning
    ==================  ============================================================================
    win rate            of the first, ties one half, mean of both orders, with a 95% interval over
                        prompts
    comparisons         prompts with a verdict in both orders
    ties                share of verdicts
    agree               share of prompts judged alike in both orders
    first place         how often the text that stands first is preferred, of verdicts without ties
    equal               prompts whose two texts are the same: ties that nobody was asked about
    no verdict          answers that hold none
    missing             requests without an answer
    ==================  ============================================================================

    >>> answers = {"0-ab-1f": "Preferred: A", "0-ba-2e": "Preferred: B"}
    >>> found = judged([Comparison("Hi", "x", "y")], answers)
    >>> found["win rate"][0], found["agree"], found["first place"]
    (1.0, 1.0, 0.5)
    """
    texts = {tuple(name.split("-")[:2]): text for name, text in answers.items()}
    scores, verdicts, agree, places = [], [], [], []
    equal = no_verdict = missing = 0
    for i, one in enumerate(comparisons):
        if one.first.strip() == one.second.strip():
            equal += 1
            scores.append(0.5)
            continue
        of_prompt = []
        for order in ORDERS:
            text = texts.get((str(i), order))
            verdict = verdict_of(text) if text is not None else None
            missing += text is None
            no_verdict += text is not None and verdict is None
            if verdict is None:
                continue
            verdicts.append(verdict)
            if verdict != "tie":
                places.append(verdict == "a")
            score = SCORE[verdict]
            of_prompt.append(score if order == "ab" else 1 - score)
        if len(of_prompt) == 2:  # one order alone could be the place
            scores.append(sum(of_prompt) / 2)
            agree.append(of_prompt[0] == of_prompt[1])
    if not scores:
        raise InputError("no comparison has a verdict in both orders: see what the judge wrote")
    return {
        "win rate": bootstrap(torch.tensor(scores, dtype=torch.float64)),
        "comparisons": len(scores),
        "ties": share(verdict == "tie" for verdict in verdicts),
        "agree": share(iter(agree)),
        "first place": share(iter(places)),
        "equal": equal,
        "no verdict": no_verdict,
        "missing": missing,
    }


def share(values: Iterator[bool]) -> float | None:
    """The share that is true, None of nothing.

    >>> share(iter([True, False])), share(iter([]))
    (0.5, None)
    """
    found = [*values]
    return sum(found) / len(found) if found else None


def write_requests(requests: list[dict[str, Any]], path: Path) -> None:
    """The requests as a batch file."""
    write_text(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in requests))
