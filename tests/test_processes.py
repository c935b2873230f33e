"""How the examples of an update are split over processes and micro-steps changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from autoencoders import TINY
from conftest import ROOT
from fresh_processes import launch
from safetensors.torch import load_file
from torch import Tensor
from training_runs import alone, forget_accelerate, small_trainer, trainer_of

from training.launch import start_processes
from training.loop import Trainer
from training.objectives.autoencoder import Autoencoding
from training.objectives.flow_matching import FlowMatching
from training.objectives.score_matching import ScoreMatching

OTHERS = {
    "flow": (FlowMatching, {"weighting_scheme": "logit_normal", "augment": 0.5}),
    "vp": (ScoreMatching, {"sde": "vp", "loss_weighting": "likelihood", "importance_sampling": True}),
    "ve": (ScoreMatching, {"sde": "ve", "sigma_max": 5.0}),
    "autoencoder": (Autoencoding, {"equivariance": 0.5, "network": {"_class_name": "PatchedAutoencoderKL", **TINY}}),
}
STAGE = {
    "_class_name": "PatchedUNet2DConditionModel", "block_out_channels": [16, 16], "attention_head_dim": 8,
    "norm_num_groups": 4, "class_embed_type": None,
}  # fmt: skip
OTHERS["upsampling"] = (FlowMatching, {"low_resolution": 4, "network": STAGE})
FLAGS = {"random_flip": True, "learning_rate": 1e-3, "lr_scheduler": "constant", "lr_warmup_steps": 0}

SCRIPT = """
import sys
from pathlib import Path

sys.path[:0] = sys.argv[2:4]
import torch
from test_processes import FLAGS, OTHERS, account, learned, saved_config
from training_runs import small_trainer, trainer_of

torch.set_num_threads(1)
folder = Path(sys.argv[1])
trainer = small_trainer(folder / "double", double=True, train_batch_size=2, **FLAGS)
rank = trainer.accelerator.process_index
assert trainer.accelerator.num_processes == 2
torch.save(account(trainer), folder / f"rank-{rank}.pt")
for name, (kind, options) in OTHERS.items():
    trainer = trainer_of(kind, folder / name, double=True, train_batch_size=2, **FLAGS, **options)
    torch.save(learned(trainer), folder / f"{name}-{rank}.pt")
    torch.save(saved_config(trainer), folder / f"{name}-config-{rank}.pt")

flags = {"train_batch_size": 2, "dropout": 0.2, "checkpointing_steps": 2, "max_train_steps": 3, **FLAGS}
trainer = small_trainer(folder / "whole", **flags)
trainer.accelerator.end_training = lambda: None  # it would leave the group of processes
trainer.train()
resumed = small_trainer(
    folder / "resumed", **flags | {"resume_from_checkpoint": str(folder / "whole" / "checkpoint-2")}
)
resumed.train()
"""


def account(trainer: Trainer) -> dict[str, object]:
    """What this process sees of update 0, the gradients of it, and the weights after three updates."""
    seen: dict[str, list[Tensor]] = {}
    for micro_step in range(trainer.recipe.gradient_accumulation_steps):
        batch, rng = trainer.batch(micro_step)
        images, conditions = trainer.objective.examples(batch, rng)
        seen.setdefault("images", []).append(images)
        seen.setdefault("labels", []).append(conditions["class_labels"])
        seen.setdefault("noise", []).append(rng.normal("noise", (1, 8, 8)))
        seen.setdefault("timesteps", []).append(trainer.objective._timesteps(rng)[0])
    loss = trainer.gradients()
    gradients = {name: p.grad.clone() for name, p in trainer.network.named_parameters()}
    trainer.optimizer.zero_grad()
    losses = [trainer.update() for _ in range(3)]
    weights = {name: p.detach().clone() for name, p in trainer.network.named_parameters()}
    average = [p.clone() for p in trainer.averages[0].shadow_params]
    parts = {name: torch.cat(values) for name, values in seen.items()}
    return parts | {"loss": loss, "gradients": gradients, "losses": losses, "weights": weights, "average": average}


def learned(trainer: Trainer) -> dict[str, object]:
    """Gradients of update 0, and losses and weights of three updates."""
    trainer.gradients()
    gradients = {name: p.grad.clone() for name, p in trainer.network.named_parameters() if p.grad is not None}
    trainer.optimizer.zero_grad()
    losses = [trainer.update() for _ in range(3)]
    weights = {name: p.detach().clone() for name, p in trainer.network.named_parameters()}
    return {"gradients": gradients, "losses": losses, "weights": weights}


def saved_config(trainer: Trainer) -> dict[str, object]:
    """The config of the network in the pipeline that would be saved."""
    pipeline = trainer.pipeline_to_save()
    parts = pipeline.components
    return dict((parts.get("vae") or parts["unet"] or parts["unet_2"]).config)


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with alone(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """One process, one micro-step of four examples."""
    forget_accelerate()
    return account(small_trainer(tmp_path_factory.mktemp("one") / "run", double=True, train_batch_size=4, **FLAGS))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes of two examples each, in double precision; then runs of the two with checkpoints."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "script.py").write_text(SCRIPT)
    program = [str(folder / "script.py"), str(folder), str(ROOT), str(ROOT / "tests")]
    done = launch(folder, program, processes=2, HF_HOME=str(folder / "hf"))
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def both(folder: Path) -> list[dict[str, object]]:
    return [torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)]


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(
            other[key], value, rtol=0, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )


def assert_same_examples(one: dict[str, object], other: dict[str, object]) -> None:
    for name in ("images", "labels", "noise", "timesteps"):
        assert torch.equal(one[name], other[name]), name


def test_two_processes_see_the_examples_noise_and_timesteps_of_one(
    one_process: dict[str, object], two_processes: Path
) -> None:
    ranks = both(two_processes)
    names = ("images", "labels", "noise", "timesteps")
    assert_same_examples(one_process, {name: torch.cat([rank[name] for rank in ranks]) for name in names})
    assert not torch.equal(ranks[0]["noise"], ranks[1]["noise"])


def test_two_processes_average_to_the_gradients_and_weights_of_one(
    one_process: dict[str, object], two_processes: Path
) -> None:
    assert max(float(g.abs().max()) for g in one_process["gradients"].values()) > 1e-2
    ranks = both(two_processes)
    for rank in ranks:
        assert_close(one_process["gradients"], rank["gradients"], 1e-10)
        assert_close(one_process["weights"], rank["weights"], 1e-9)
        assert rank["losses"] == pytest.approx(one_process["losses"], abs=1e-10)
        for mine, theirs in zip(one_process["average"], rank["average"], strict=True):
            torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-9)
    assert float(ranks[0]["loss"]) != float(ranks[1]["loss"])
    assert all(torch.equal(ranks[0]["weights"][key], ranks[1]["weights"][key]) for key in ranks[0]["weights"])


@pytest.mark.parametrize("name", OTHERS)
def test_two_processes_learn_other_objectives_as_one_does(name: str, two_processes: Path, tmp_path: Path) -> None:
    forget_accelerate()
    kind, options = OTHERS[name]
    one = learned(trainer_of(kind, tmp_path / "run", double=True, train_batch_size=4, **FLAGS, **options))
    assert max(float(g.abs().max()) for g in one["gradients"].values()) > 1e-3
    for rank in (0, 1):
        other = torch.load(two_processes / f"{name}-{rank}.pt")
        assert_close(one["gradients"], other["gradients"], 1e-9)
        assert_close(one["weights"], other["weights"], 1e-8)
        assert other["losses"] == pytest.approx(one["losses"], rel=1e-9)


def test_two_processes_measure_the_scale_the_shift_and_the_map_of_one(two_processes: Path, tmp_path: Path) -> None:
    forget_accelerate()
    kind, options = OTHERS["autoencoder"]
    trainer = trainer_of(kind, tmp_path / "run", double=True, train_batch_size=4, **FLAGS, **options)
    learned(trainer)
    one = saved_config(trainer)
    for rank in (0, 1):
        other = torch.load(two_processes / f"autoencoder-config-{rank}.pt")
        for name in ("scaling_factor", "shift_factor", "latent_rgb_bias"):
            assert other[name] == pytest.approx(one[name], rel=1e-6)
        assert torch.tensor(other["latent_rgb_factors"]).allclose(torch.tensor(one["latent_rgb_factors"]), atol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_a_run_of_other_objectives_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    kind, options = OTHERS[name]
    flags = {"checkpointing_steps": 2, "max_train_steps": 3, **FLAGS, **options}
    ends = []
    for run, start in (("whole", {}), ("resumed", {"resume_from_checkpoint": str(tmp_path / "whole/checkpoint-2")})):
        forget_accelerate()
        trainer = trainer_of(kind, tmp_path / run, **flags, **start)
        trainer.train()
        ends.append(load_file(tmp_path / run / "checkpoint-3/state/model.safetensors"))
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_two_processes_resume_bit_for_bit(two_processes: Path) -> None:
    ends = [load_file(two_processes / name / "checkpoint-3/state/model.safetensors") for name in ("whole", "resumed")]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
    assert (two_processes / "resumed" / "model_index.json").is_file()


def test_one_process_where_several_were_asked_for_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`accelerate launch --cpu --num_processes 2` sets MASTER_PORT, and starts one process."""
    monkeypatch.delenv("MASTER_PORT", raising=False)
    forget_accelerate()
    start_processes()
    assert "one process runs" not in caplog.text
    monkeypatch.setenv("MASTER_PORT", "29500")
    start_processes()
    assert "one process runs, though several were asked for" in caplog.text


@pytest.mark.parametrize("size", [1, 2])
def test_micro_steps_add_up_to_one_batch(size: int, one_process: dict[str, object], tmp_path: Path) -> None:
    """Also the timesteps: they are stratified over the examples of an update, not of a micro-step."""
    forget_accelerate()
    split = {"train_batch_size": size, "gradient_accumulation_steps": 4 // size}
    trainer = small_trainer(tmp_path / "run", double=True, **split, **FLAGS)
    parts = account(trainer)
    assert_same_examples(one_process, parts)
    assert_close(one_process["gradients"], parts["gradients"], 1e-10)
    assert_close(one_process["weights"], parts["weights"], 1e-9)
    assert parts["losses"] == pytest.approx(one_process["losses"], abs=1e-10)


def test_the_gradients_are_those_of_the_mean_loss(one_process: dict[str, object], tmp_path: Path) -> None:
    """Against autograd alone, without accelerate's part in it."""
    forget_accelerate()
    trainer = small_trainer(tmp_path / "run", double=True, train_batch_size=4, **FLAGS)
    loss = trainer.objective.loss(*trainer.batch(0))
    names, parameters = zip(*trainer.network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    assert_close(one_process["gradients"], dict(zip(names, gradients, strict=True)), 1e-12)
    assert loss.item() == pytest.approx(float(one_process["loss"]), abs=1e-12)
