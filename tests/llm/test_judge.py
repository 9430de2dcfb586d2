"""Win rates by a judge, against a server of our own: both orders, ties, retries, interruptions."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from command import dil

from dil_tutorial.errors import InputError
from dil_tutorial.llm import judge
from dil_tutorial.llm.judge import Comparison, judged, read_answers, requests_of, verdict_of


class Server:
    """An endpoint that prefers the longer text, or what ``decide`` says, and may fail first."""

    def __init__(self, decide=None, failures=()):
        self.requests, self.failures, self.keys = [], list(failures), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.keys.append(self.headers.get("Authorization"))
                if outer.failures:
                    code, content = outer.failures.pop(0)
                else:
                    outer.requests.append((self.path, body))
                    text = body["messages"][0]["content"]
                    a, b = re.search(r" A:\n(.*?)\n\n\w+ B:\n(.*?)\n\nCompare", text, re.S).groups()
                    said = decide(a, b) if decide else "A" if len(a) > len(b) else "B"
                    code, content = 200, f"They differ.\nPreferred: {said}"
                    content = json.dumps({"choices": [{"message": {"content": content}}]})
                self.send_response(code)
                self.end_headers()
                self.wfile.write(content.encode())

            def log_message(self, *args):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server():
    made = []

    def make(*args, **kwargs):
        made.append(Server(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.server.shutdown()
        one.server.server_close()


ROWS = [
    {"prompt": f"Q {i}", "trained": "long answer " * (1 + i % 2), "reference": "mid-size answer"}
    for i in range(6)
]


def test_a_judge_is_asked_in_both_orders_and_its_preference_counted(
    server, write, tmp_path, monkeypatch
):
    monkeypatch.setenv("MY_KEY", "secret")
    stub = server()
    file = write("answers.jsonl", [*ROWS, {"prompt": "same", "trained": "x", "reference": "x "}])
    out = tmp_path / "out"
    run = dil("judge", file, "--model", "m", "--url", stub.url, "--out", out, "--key-env", "MY_KEY")
    assert run.returncode == 0, run.stderr
    found = json.loads((out / "judge.json").read_text())
    # the longer one wins: that of every second prompt, and an equal pair is a tie
    assert found["win rate"][0] == pytest.approx((3 * 1 + 3 * 0 + 0.5) / 7)
    assert found["agree"] == 1
    assert found["first place"] == 0.5
    assert (found["equal"], found["missing"], found["comparisons"]) == (1, 0, 7)
    assert len(stub.requests) == 12
    assert {path for path, _ in stub.requests} == {"/v1/chat/completions"}
    assert set(stub.keys) == {"Bearer secret"}
    assert "secret" not in (run.stdout + "".join(p.read_text() for p in out.iterdir()))


def test_a_judge_of_places_alone_sees_no_difference(server, write, tmp_path):
    """It always takes what stands first: the win rate is one half, and the table says why."""
    stub = server(decide=lambda a, b: "A")
    file = write("answers.jsonl", ROWS)
    run = dil("judge", file, "--model", "m", "--url", stub.url, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out/judge.json").read_text())
    assert found["win rate"] == [0.5, 0.5, 0.5]
    assert (found["first place"], found["agree"]) == (1, 0)
    assert "100%" in run.stdout


def test_without_an_address_nobody_is_asked_and_a_batch_is_read(server, write, tmp_path):
    stub = server()
    file = write("answers.jsonl", ROWS)
    out = tmp_path / "out"
    run = dil("judge", file, "--model", "m", "--out", out)
    assert run.returncode == 0
    assert "none was sent" in run.stdout
    assert stub.requests == []
    requests = [json.loads(line) for line in (out / "requests.jsonl").read_text().splitlines()]
    assert all(set(one) == {"custom_id", "method", "url", "body"} for one in requests)
    body = {"choices": [{"message": {"content": "Preferred: tie"}}]}
    batch = [
        {"id": "x", "custom_id": one["custom_id"], "response": {"status_code": 200, "body": body}}
        for one in requests
    ]
    answers = write("batch.jsonl", batch[:-1])
    run = dil("judge", file, "--model", "m", "--answers", answers, "--out", out)
    found = json.loads((out / "judge.json").read_text())
    assert (found["win rate"][0], found["ties"], found["missing"]) == (0.5, 1, 1)
    # other texts, the same places: these answers are not theirs
    other = write("other.jsonl", [{**row, "trained": "changed"} for row in ROWS])
    run = dil("judge", other, "--model", "m", "--answers", answers, "--out", out)
    assert run.returncode == 2
    assert "answers another request" in run.stderr


def test_a_busy_server_is_asked_again_and_a_refusal_is_one_line(server, tmp_path, monkeypatch):
    monkeypatch.setattr(judge.time, "sleep", lambda seconds: None)
    requests = requests_of([Comparison("Q", "a long one", "short")], "m")
    stub = server(failures=[(429, "slow"), (503, "down")])
    judge.ask(requests, tmp_path / "a.jsonl", stub.url, None)
    assert len(read_answers(tmp_path / "a.jsonl", requests)) == 2
    for failure, words in (
        ((401, "no key"), "401 .*no key"),
        ((200, "<html>"), "not JSON"),
        ((200, "{}"), "no choices"),
    ):
        with pytest.raises(InputError, match=words):
            judge.ask(
                requests,
                tmp_path / f"{failure[0]}{words[:3]}.jsonl",
                server(failures=[failure]).url,
                None,
            )
    with pytest.raises(InputError, match="cannot be reached"):
        judge.ask(requests, tmp_path / "b.jsonl", "http://127.0.0.1:9", None)
    with pytest.raises(InputError, match="give http"):
        judge.ask(requests, tmp_path / "b.jsonl", "file:///etc/passwd", None)


def test_an_interrupted_judge_continues(server, tmp_path):
    requests = requests_of([Comparison(f"Q{i}", "a long one", "short") for i in range(3)], "m")
    path = tmp_path / "answers.jsonl"
    first = server(failures=[])

    class Stop(Exception):
        pass

    count = iter(range(10))

    def done():
        if next(count) == 2:
            raise Stop

    with pytest.raises(Stop):
        judge.ask(requests, path, first.url, None, done)
    text = path.read_text()
    path.write_text(text[:-20])  # cut within the last line
    second = server()
    judge.ask(requests, path, second.url, None)
    assert len(first.requests) + len(second.requests) == 7  # the one that was cut, again
    assert len(read_answers(path, requests)) == 6


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("A is better.\nPreferred: A", "a"),
        ("**Preferred:** B.", "b"),
        ("More helpful: b", "b"),
        ("preferred: TIE\n", "tie"),
        ("Preferred: A\nOn reflection:\nPreferred: B", "b"),
        ("I prefer A.", None),
        ("Preferred: Apples", None),
        ("Preferred: a tie", "tie"),
        ("Preferred: A or B", None),
        ("Preferred: A/B", None),
        ("Preferred:\nA careful look shows that B is better.", None),
        ("Preferred: Response B", "b"),
        ("", None),
    ],
)
def test_verdicts_are_read_from_the_last_line_that_has_one(text, verdict):
    assert verdict_of(text) == verdict


def test_answers_without_a_verdict_are_counted_and_left_out():
    comparisons = [Comparison("Q", "x", "y"), Comparison("R", "x", "y")]
    comparisons.append(Comparison("S", "x", "y"))
    both = {"2-ab-1": "Preferred: B", "2-ba-1": "Preferred: A"}
    one_order = {"0-ab-1": "Preferred: A", "0-ba-1": "Hm.", "1-ab-1": "no"}
    found = judged(comparisons, one_order | both)
    assert found["win rate"][0] == 0.0  # a verdict in one order alone does not count
    assert (found["no verdict"], found["missing"], found["comparisons"]) == (2, 1, 1)
    with pytest.raises(InputError, match="no comparison has a verdict"):
        judged(comparisons, {})


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([{"prompt": "Q", "trained": "x"}], [], "field 'reference' is not a text"),
        ([{"prompt": "Q", "trained": "x", "reference": 3}], [], "field 'reference'"),
        (["{"], [], "broken JSON"),
        ([], [], "holds no comparisons"),
        (ROWS, ["--question", "funny"], "unknown question 'funny'"),
        (ROWS, ["--url", "http://x/v1", "--answers", "y"], "keep one"),
        (ROWS, ["--answers", "nowhere.jsonl"], "no such file"),
    ],
)
def test_bad_input_is_one_line(rows, options, words, write, tmp_path):
    file = write("answers.jsonl", rows)
    run = dil("judge", file, "--model", "m", "--out", tmp_path / "out", *options)
    assert run.returncode == 2
    assert words in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
