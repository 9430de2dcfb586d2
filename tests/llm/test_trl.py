"""TRL as an oracle: its DPOTrainer computes DPO, NCA and BCO from the same log-ratios, and
tokenizes the same pairs.
"""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

trl = pytest.importorskip("trl", reason="TRL is in the bench extra")

from dil_tutorial.llm.data import as_chat, read_pairs, tiny_preferences  # noqa: E402
from dil_tutorial.llm.models import load_tokenizer  # noqa: E402
from dil_tutorial.llm.tokens import tokenize_pair  # noqa: E402
from dil_tutorial.losses import make_loss  # noqa: E402
from dil_tutorial.margins import aot_loss  # noqa: E402


class Outputs:
    """What TRL reads off a model's output: the log-probs, and for its other metrics zeros."""

    def __init__(self, log_probs: torch.Tensor) -> None:
        self.log_probs = log_probs
        self.is_top1 = torch.ones_like(log_probs, dtype=torch.bool)

    def __getattr__(self, name: str) -> torch.Tensor:
        return torch.zeros_like(self.log_probs)


def trl_loss(
    loss_type: str,
    beta: float,
    f_chosen: float | list[float],
    f_rejected: float | list[float],
    divergence: str = "reverse_kl",
    alpha: float = 1.0,
    smoothing: float = 0.0,
    ref: tuple[list[float], list[float]] | None = None,
) -> float:
    """TRL's mean loss of some pairs: responses of one token, whose reference has the log-probs
    ``ref``, or 0.
    """
    trainer = MagicMock()
    trainer.configure_mock(
        beta=beta,
        loss_types=[loss_type],
        loss_weights=[1.0],
        f_divergence_type=divergence,
        f_alpha_divergence_coef=alpha,
        precompute_ref_logps=True,
        ld_alpha=None,
        use_weighting=False,
        aux_loss_enabled=False,
        label_smoothing=smoothing,
    )
    trainer.args.discopop_tau = 0.05
    trainer.accelerator.device = "cpu"
    trainer.accelerator.gather_for_metrics = lambda x: x
    f = torch.tensor(
        [f_chosen, f_rejected], dtype=torch.float32 if alpha != 1.0 else torch.float64
    ).view(2, -1)
    refs = torch.zeros_like(f) if ref is None else torch.tensor(ref, dtype=f.dtype)
    logps = (f + refs).view(-1, 1)
    N = len(logps)
    outputs = Outputs(logps)
    inputs = {
        "input_ids": torch.zeros(N, 2, dtype=torch.long),
        "attention_mask": torch.ones(N, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]] * N),
        "ref_chosen_logps": refs[0],
        "ref_rejected_logps": refs[1],
    }
    return float(
        trl.DPOTrainer._compute_loss(trainer, MagicMock(return_value=outputs), inputs, False)
    )


SETTINGS = [
    ("dpo", "sigmoid", lambda beta: {"beta": beta}),
    ("ipo", "ipo", lambda beta: {"tau": beta}),
    ("nca", "nca_pair", lambda beta: {"beta": beta}),
    ("bco", "bco_pair", lambda beta: {"beta": beta}),
    ("sppo", "sppo_hard", lambda beta: {"beta": beta}),
    # KTO with its reference point at zero
    ("kto", "apo_zero", lambda beta: {"beta": beta, "kl": 0.0}),
    ("hinge", "hinge", lambda beta: {"beta": beta}),
    ("exo", "exo_pair", lambda beta: {"beta": beta, "label_smoothing": 0.2}),
    ("robust-dpo", "robust", lambda beta: {"beta": beta, "label_smoothing": 0.2}),
    ("discopop", "discopop", lambda beta: {"beta": beta, "tau": 0.05}),
    ("apo-down", "apo_down", lambda beta: {"beta": beta}),
]


def random_pairs() -> list[list[float]]:
    rng = torch.Generator().manual_seed(0)
    return (2 * torch.randn(20, 2, generator=rng, dtype=torch.float64)).tolist()


def ours_of(name: str, f_w: float, f_l: float, **settings: object) -> float:
    return make_loss(name, **settings)(
        torch.tensor([f_w]).double(), torch.tensor([f_l]).double()
    ).item()


@pytest.mark.parametrize(("ours", "theirs", "settings"), SETTINGS, ids=[row[0] for row in SETTINGS])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_losses_equal_trls(ours, theirs, settings, beta):
    for f_w, f_l in random_pairs():
        assert ours_of(ours, f_w, f_l, **settings(beta)) == pytest.approx(
            trl_loss(theirs, beta, f_w, f_l, smoothing=0.2), rel=1e-5, abs=1e-6
        )


@pytest.mark.parametrize(
    ("generator", "divergence", "alpha"),
    [
        ("ukl", "reverse_kl", 1.0),
        ("itakura-saito", "forward_kl", 1.0),
        ("bce", "js_divergence", 1.0),
        ("power(-0.5)", "alpha_divergence", 0.5),
        ("power(0.5)", "alpha_divergence", 1.5),
    ],
)
def test_f_dpo_equals_trls(generator, divergence, alpha):
    for f_w, f_l in random_pairs():
        theirs = trl_loss("sigmoid", 0.5, f_w, f_l, divergence, alpha)
        assert ours_of("f-dpo", f_w, f_l, generator=generator, beta=0.5) == pytest.approx(
            theirs, rel=1e-4, abs=1e-6
        )


def test_conservative_dpo_equals_trls():
    """Its "sigmoid" ignores label_smoothing; its "aot" sorts a batch, which of one pair leaves
    conservative DPO.
    """
    for f_w, f_l in random_pairs():
        theirs = trl_loss("aot", 0.5, f_w, f_l, smoothing=0.2)
        ignored = trl_loss("sigmoid", 0.5, f_w, f_l, smoothing=0.2)
        assert ignored == pytest.approx(ours_of("dpo", f_w, f_l, beta=0.5), abs=1e-6)
        assert ours_of("dpo", f_w, f_l, beta=0.5, label_smoothing=0.2) == pytest.approx(
            theirs, rel=1e-6, abs=1e-6
        )


def test_unpaired_aot_equals_trls():
    f_w, f_l = (list(side) for side in zip(*random_pairs(), strict=True))
    ours = aot_loss(torch.tensor(f_w), torch.tensor(f_l), beta=0.7).mean().item()
    assert ours == pytest.approx(trl_loss("aot_unpaired", 0.7, f_w, f_l), rel=1e-5)
    assert ours != pytest.approx(
        make_loss("dpo", beta=0.7)(torch.tensor(f_w), torch.tensor(f_l)).mean().item(), rel=1e-2
    )


def test_paired_aot_equals_trls():
    f_w, f_l = (list(side) for side in zip(*random_pairs(), strict=True))
    ref = f_l[::-1], f_w[:10] + f_l[10:]
    fed = {
        name: torch.tensor(values)
        for name, values in zip(("ref_chosen", "ref_rejected"), ref, strict=True)
    }
    ours = make_loss("aot", beta=0.7)(torch.tensor(f_w), torch.tensor(f_l), **fed).mean().item()
    assert ours == pytest.approx(trl_loss("aot", 0.7, f_w, f_l, ref=ref), rel=1e-5)
    # the reference's margins count
    assert ours != pytest.approx(trl_loss("aot", 0.7, f_w, f_l), rel=1e-2)


def test_hinge_cpo_simpo_alphapo_and_orpo_equal_trls(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    for l_w, l_l in random_pairs():
        l_w, l_l = -abs(l_w) - 0.01, -abs(l_l) - 0.01
        assert ours_of("slic", l_w, l_l, sft_weight=0.0) == pytest.approx(
            trl_loss("hinge", 1.0, l_w, l_l), abs=1e-6
        )
        logps = torch.tensor([l_w]), torch.tensor([l_l])
        for loss_type, alpha, mine in (
            ("sigmoid", 0.0, ours_of("cpo", l_w, l_l, beta=0.3, sft_weight=0.0)),
            ("simpo", 0.0, ours_of("simpo", l_w, l_l, beta=0.3, gamma=0.6)),
            ("simpo", 0.4, ours_of("alphapo", l_w, l_l, alpha=0.4, beta=0.3, gamma=0.6)),
        ):
            trainer = SimpleNamespace(
                alpha=alpha,
                beta=0.3,
                loss_type=loss_type,
                simpo_gamma=0.6,
                label_smoothing=0.0,
                accelerator=SimpleNamespace(device="cpu"),
            )
            assert mine == pytest.approx(CPOTrainer.cpo_loss(trainer, *logps)[0].item(), abs=1e-5)
        trainer = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
        theirs = -l_w - ORPOTrainer.odds_ratio_loss(trainer, *logps)[0].item()
        assert ours_of("orpo", l_w, l_l, weight=0.3) == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("chat", [False, True])
def test_tokens_equal_trls(tiny_model, chat):
    from datasets import Dataset

    tokenizer = load_tokenizer(str(tiny_model))
    pairs = [as_chat(pair) if chat else pair for pair in read_pairs(tiny_preferences())]
    args = SimpleNamespace(dataset_num_proc=None, max_length=1024, truncation_mode="keep_start")
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    rows = trl.DPOTrainer._prepare_dataset(
        trainer, Dataset.from_list(pairs), tokenizer, args, "train"
    )
    for pair, row in zip(pairs, rows, strict=True):
        ours = tokenize_pair(pair, tokenizer)
        assert ours.chosen.prompt == ours.rejected.prompt == row["prompt_ids"]
        assert (ours.chosen.tokens, ours.rejected.tokens) == (
            row["chosen_ids"],
            row["rejected_ids"],
        )


@pytest.mark.parametrize(
    ("loss", "theirs", "more"),
    [
        ("dpo", "sigmoid", {}),
        ("nca", "nca_pair", {}),
        ("bco", "bco_pair", {}),
        ("aot", "aot", {}),
        ("dpo", "sigmoid", {"ld_alpha": 0.3}),
        ("dpo", "sigmoid", {"use_weighting": True}),
    ],
    ids=["dpo", "nca", "bco", "aot", "ld-dpo", "wpo"],
)
def test_a_batch_equals_trls(tiny_model, tmp_path, loss, theirs, more):
    """Loss, gradients and logged metrics of a whole batch, through both trainers, after the policy
    has moved.
    """
    from datasets import Dataset

    from dil_tutorial.llm.models import load_model
    from dil_tutorial.llm.trainer import DILConfig, DILTrainer

    pairs, tokenizer = read_pairs(tiny_preferences())[:6], load_tokenizer(str(tiny_model))
    common = {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "beta": 0.5,
        "per_device_train_batch_size": 6,
        "max_length": 512,
        "logging_steps": 1,
        "max_steps": 2,
        "learning_rate": 0.03,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1e9,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        **more,
    }
    config = DILConfig(loss=loss, **common)
    ours = DILTrainer(load_model(str(tiny_model)), config, pairs, processing_class=tokenizer)
    dataset = Dataset.from_list(pairs)
    config = trl.DPOConfig(loss_type=[theirs], precompute_ref_log_probs=True, **common)
    other = trl.DPOTrainer(
        load_model(str(tiny_model)), args=config, train_dataset=dataset, processing_class=tokenizer
    )
    logs = []
    for trainer in (ours, other):
        trainer.train()
        logs.append([row for row in trainer.state.log_history if "loss" in row])
    names = [
        "loss",
        "grad_norm",
        *(f"rewards/{n}" for n in ("chosen", "rejected", "margins", "accuracies")),
    ]
    names += ["logps/chosen", "logps/rejected"]
    for step in (0, 1):  # the second after a step of size 0.03, with f far from 0
        for name in names:
            assert logs[0][step][name] == pytest.approx(logs[1][step][name], rel=1e-4, abs=2e-5), (
                step,
                name,
            )
    assert abs(logs[0][1]["rewards/margins"]) > 0.01
    for a, b in zip(ours.model.parameters(), other.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("learning_rate", "sicknesses"), [(0.0, ["nothing moves"]), (1e-3, [])])
def test_the_doctor_reads_a_log_of_trl(learning_rate, sicknesses, tmp_path, tiny_model):
    """Its DPOTrainer's own log, of a run that stands still and of one that is well."""
    from datasets import Dataset

    from dil_tutorial.llm.doctor import diagnose

    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.pad_token = tokenizer.eos_token
    config = trl.DPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        learning_rate=learning_rate,
        max_steps=6,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        gradient_checkpointing=False,
    )
    pairs = Dataset.from_list(read_pairs(tiny_preferences()))
    trainer = trl.DPOTrainer(
        str(tiny_model), args=config, train_dataset=pairs, processing_class=tokenizer
    )
    trainer.train()
    trainer.state.save_to_json(str(tmp_path / "trainer_state.json"))
    what, found = diagnose(str(tmp_path))
    assert what == "6 logged steps"
    assert [finding.name for finding in found] == sicknesses
