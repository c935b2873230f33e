"""Objectives: found by name or by module:Class, with flags, frozen modules and an encoding of their own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from fresh_processes import launch
from PIL import Image
from torch import Tensor, nn
from toys import tiny_unet
from training_runs import SMALL, image_folder, noise, noise_images, run_here, small_settings

from pipelines import DDPMPipeline
from training.loop import Trainer
from training.objectives import find_objective, objective_here
from training.objectives.base import Batch, Objective
from training.objectives.conditions import drop
from training.objectives.denoising import Denoising
from training.objectives.noisy_classifier import NoisyClassification
from training.randomness import BatchRandom
from training.recipes import RECIPES, Recipe, flag
from training.sharing.card_data import command_of, runs_of, text_encoder_credit, training_text
from training.train import load_data, parse

pytestmark = pytest.mark.usefixtures("alone")


# --- which one ---


def test_an_objective_is_found_by_the_name_of_its_file() -> None:
    assert find_objective("denoising") is Denoising and find_objective("noisy_classifier") is NoisyClassification
    for name in ("base", "importance", "conditions", "augmentation", "latents", "gan", "", "training.loop"):
        assert objective_here(name) is None
        with pytest.raises(
            ValueError,
            match="must be one of autoencoder, denoising, flow_matching, noisy_classifier, score_matching, or mod",
        ):
            find_objective(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Mine", "can be imported, got 'no_such_module:Mine': No module named 'no_such_module'"),
        ("training.loop:Mine", "can be imported, got .*has no attribute 'Mine'"),
        ("training.loop:Trainer", "inherits training.objectives.base.Objective, got 'training.loop:Trainer'"),
        ("training.recipes:RECIPES", "inherits training.objectives.base.Objective"),
    ],
)
def test_a_class_that_is_no_objective_is_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"objective must be a class that {message}"):
        parse(["--recipe=unconditional", f"--objective={name}"])


@pytest.mark.parametrize("name", RECIPES)
def test_a_row_holds_flags_of_the_run_and_of_its_objective_alone(name: str) -> None:
    row = RECIPES[name]
    kinds = (Recipe, find_objective(row.get("objective", "denoising")).Options)
    assert set(row) <= {f.name for kind in kinds for f in fields(kind)}


# --- flags ---


def test_help_shows_the_flags_of_the_run_and_of_the_objective(capsys: pytest.CaptureFixture) -> None:
    theirs = {}
    for name in ("conditional", "fashion-noisy-classifier"):
        with pytest.raises(SystemExit) as stopped:
            parse(["--recipe", name, "--help"])
        assert stopped.value.code == 0
        run, objective = capsys.readouterr().out.split("flags of every run:")[1].split("flags of the objective:")
        assert "--learning_rate " in run and "--timestep_sampling " not in run
        theirs[name] = " ".join(objective.split())
    assert "--label_dropout " in theirs["conditional"] and "or importance" in theirs["conditional"]
    assert "--label_dropout " not in theirs["fashion-noisy-classifier"]
    assert "--timestep_sampling " in theirs["fashion-noisy-classifier"]


def test_a_flag_of_another_objective_is_unknown() -> None:
    arguments = "--recipe=fashion-noisy-classifier --timestep_sampling uniform".split()
    _, options = parse(arguments)
    assert vars(options) == {"timestep_sampling": "uniform"}
    with pytest.raises(ValueError, match="unknown flag --label_dropout; did you mean --label_column?"):
        parse([*arguments, "--label_dropout", "0.2"])


def test_the_row_of_a_recipe_serves_another_objective_too() -> None:
    flags = "--recipe conditional --objective noisy_classifier --pretrained_model_name_or_path runs/base"
    recipe, options = parse(flags.split())
    assert recipe.objective == "noisy_classifier" and isinstance(options, NoisyClassification.Options)


class Greedy(Denoising):
    """Wants a seed of its own."""

    @dataclass(frozen=True)
    class Options(Objective.Options):
        seed: int = flag(0, "another seed")


def test_a_flag_cannot_be_the_runs_and_the_objectives(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="objective must have flags of its own, 'test_objectives:Greedy' has seed"):
        parse(["--recipe=unconditional", "--objective=test_objectives:Greedy"])


def test_the_record_of_a_run_is_flat_with_the_options_after_the_objective() -> None:
    recipe, options = parse(["--recipe", "fashion-ddpm"])
    record = recipe.settings(options)
    assert record == {name: value for name, value in (asdict(recipe) | asdict(options)).items() if name in record}
    assert not any("hub" in name for name in record) and "output_dir" not in record
    names = [*record]
    first = names.index("objective") + 1
    assert names[first : first + len(asdict(options))] == [f.name for f in fields(options)]
    shipped = json.loads((ROOT / "model_cards/fashion-ddpm/training.json").read_text())["recipe"]
    assert [name for name in names if name in shipped] == [*shipped], "older records have fewer flags"


# --- in a card ---

TRAINED = {"learning_rate": 1e-3, "lr_scheduler": "cosine", "train_batch_size": 64, "ema_decay": 0.999}
RUN = {"steps": 6, "images": 24, "seconds": 60.0, "processes": 1, "device": "a far machine"}


def test_a_card_reads_records_of_old_and_new_noisy_classifiers_alike() -> None:
    _, options = parse(["--recipe=fashion-noisy-classifier"])
    recipe = {"recipe": "fashion-noisy-classifier", "objective": "noisy_classifier", "mixed_precision": "no"} | TRAINED
    recipe["adam_weight_decay"] = 0.1
    old = recipe | {"prediction_type": "epsilon", "ddpm_num_steps": 5, "timestep_sampling": "stratified"}
    expected = "accelerate launch -m training.train --recipe fashion-noisy-classifier --learning_rate 0.001"
    for record in (recipe | vars(options), old):
        assert command_of(record) == f"{expected} --adam_weight_decay 0.1"
        assert "cross-entropy on noisy images" in training_text(runs_of(RUN | {"recipe": record}))


def test_a_card_says_which_runs_continued_and_whose_text_encoder_is_in_the_folder() -> None:
    recipe = {"recipe": "emoji-base-32", "objective": "flow_matching", "mixed_precision": "no"} | TRAINED
    starts, record = (None, "model_cards/emoji-cascade", None), None
    for start in starts:
        told = {"pretrained_model_name_or_path": start, "text_encoder": None if start else "org/encoder"}
        record = RUN | {"recipe": recipe | told, "continues": record}
    text = training_text(runs_of(record))
    assert text.endswith("weights of the one before it, but for run 3, which began with new ones.")
    (said,) = text_encoder_credit(runs_of(record))
    assert said.startswith("Prompts are read by `org/encoder`, whose weights are in text_encoder/")
    assert text_encoder_credit(runs_of(RUN | {"recipe": recipe})) == []
    known = RUN | {"recipe": recipe | {"text_encoder": "sentence-transformers/all-MiniLM-L6-v2"}}
    assert "all-MiniLM-L6-v2), Apache-2.0, whose" in text_encoder_credit(runs_of(known))[0]


def test_a_card_does_not_import_what_a_record_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = {"recipe": "unconditional", "objective": "theirs:Mine", "strength": 2.0, "mixed_precision": "no"}
    text = training_text(runs_of(RUN | {"recipe": recipe | TRAINED | {"seed": 0, "resolution": None}}))
    command = "`accelerate launch -m training.train --recipe unconditional --objective theirs:Mine --strength 2.0`"
    assert command in text and "objective `theirs:Mine`" in text


# --- in the loop ---


class Captioned(Denoising):
    """Denoising that notes what `encode` and `loss` are given, and turns captions into numbers."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.encoded, self.seen, self.lengths = [], [], []

    def encode(self, batch: Batch) -> Batch:
        assert not torch.is_grad_enabled()
        self.encoded.extend(batch["captions"])
        return batch | {"lengths": torch.tensor([len(caption) for caption in batch["captions"]], dtype=torch.float16)}

    def loss(self, batch: Batch, rng: BatchRandom) -> Tensor:
        assert torch.is_grad_enabled() and len(batch["captions"]) == len(batch["images"])
        self.seen.extend(zip(batch["captions"], batch["images"].double(), strict=True))
        self.lengths.append(batch["lengths"])
        return super().loss(batch, rng)


@pytest.mark.parametrize(("size", "micro_steps"), [(4, 1), (2, 2), (1, 4)])
def test_an_objective_sees_the_captions_of_the_images_of_its_batch(size: int, micro_steps: int, tmp_path: Path) -> None:
    data = replace(noise_images(10), captions=tuple("image" + "!" * i for i in range(10)))
    flags = {"train_batch_size": size, "gradient_accumulation_steps": micro_steps}
    recipe, options = small_settings(tmp_path / "run", **flags)
    task = Captioned.build(recipe, options, data)
    trainer = Trainer(recipe, data, task)
    for _ in range(5):
        trainer.update()
    index = trainer.order.indices(0, 20).tolist()
    assert [caption for caption, _ in task.seen] == task.encoded == [data.captions[i] for i in index]
    for (_, image), i in zip(task.seen, index, strict=True):
        torch.testing.assert_close(image, torch.from_numpy(data.images[i]) / 127.5 - 1.0, check_dtype=False)
    lengths = torch.cat(task.lengths)
    assert lengths.dtype == torch.float32 and lengths.tolist() == [5.0 + i for i in index]


def test_data_without_captions_make_batches_without_them(tmp_path: Path) -> None:
    recipe, options = small_settings(tmp_path / "run")
    trainer = Trainer(recipe, noise_images(), Denoising.build(recipe, options, noise_images()))
    assert {*trainer.batch(0)[0]} == {"images", "labels"}


class Frozen(Denoising):
    """Denoising with two modules that are not trained: the pipeline holds `steered`, and knows nothing of `judge`."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.frozen = {"steered": tiny_unet(), "judge": nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))}

    def encode(self, batch: Batch) -> Batch:
        return batch | {"seen": self.frozen["judge"](batch["images"])}

    def loss(self, batch: Batch, rng: BatchRandom) -> Tensor:
        assert batch["seen"].dtype == torch.float32 and not batch["seen"].requires_grad
        return super().loss(batch, rng)

    def pipeline(self, network: nn.Module) -> DDPMPipeline:
        return DDPMPipeline(unet=self.frozen["steered"], scheduler=self.scheduler)


@pytest.mark.parametrize(
    ("precision", "dtypes"),
    [
        ("no", {"steered": torch.float32, "judge": torch.float32}),
        ("bf16", {"steered": torch.float32, "judge": torch.bfloat16}),
    ],
)
def test_frozen_modules_are_still_and_cast_unless_they_are_saved(precision: str, dtypes: dict, tmp_path: Path) -> None:
    recipe, options = small_settings(tmp_path / "run", class_conditional=False, mixed_precision=precision)
    task = Frozen.build(recipe, options, noise_images())
    trainer = Trainer(recipe, noise_images(), task)
    before = {name: [v.clone() for v in module.state_dict().values()] for name, module in task.frozen.items()}
    assert torch.isfinite(torch.tensor([trainer.update() for _ in range(2)])).all()
    for name, module in task.frozen.items():
        assert not module.training and not any(p.requires_grad for p in module.parameters())
        assert {p.dtype for p in module.parameters()} == {dtypes[name]}
        assert all(torch.equal(a, b) for a, b in zip(before[name], module.state_dict().values(), strict=True))
    assert {p.dtype for p in trainer.network.parameters()} == {torch.float32}


# --- conditions ---


def test_any_condition_with_a_null_is_dropped_by_the_same_code() -> None:
    count = 2000
    conditions = {"class_labels": torch.arange(count) % 3, "prompt": torch.randn(count, 5, 2)}
    nulls = {"class_labels": 3, "prompt": torch.full((5, 2), 7.0)}
    rng = BatchRandom(0, 3, 0, count, count)
    found = drop(conditions, nulls, 0.3, rng)
    dropped = rng.uniform("label dropout") < 0.3
    assert 500 < int(dropped.sum()) < 700
    for name, value in conditions.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name][~dropped], value[~dropped])
        assert torch.equal(found[name][dropped], torch.as_tensor(nulls[name]).expand_as(value[dropped]))
    other = drop(conditions, nulls, 0.3, rng, stream="prompt dropout")
    assert not torch.equal(other["class_labels"], found["class_labels"])
    assert drop({}, {}, 0.3, rng) == {}
    kept = drop(conditions, {"class_labels": 3}, 1.0, rng)
    assert bool((kept["class_labels"] == 3).all()) and torch.equal(kept["prompt"], conditions["prompt"])


# --- one that is not ours ---

OUTSIDE = """
from dataclasses import dataclass

from diffusers import DDPMScheduler, UNet2DModel

from pipelines import DDPMPipeline
from training.objectives.base import Objective
from training.recipes import flag


class Blurred(Objective):
    @dataclass(frozen=True)
    class Options(Objective.Options):
        strength: float = flag(1.0, "how much the error counts")
        net_width: int = flag(8, "channels")

        def __post_init__(self):
            if self.strength <= 0:
                raise ValueError(f"strength must be above 0, got {self.strength}")

    @classmethod
    def build(cls, recipe, options, data):
        _, channels, size, _ = data.images.shape
        blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 4}
        widths = {"block_out_channels": (options.net_width,), "layers_per_block": 1}
        return cls(options, UNet2DModel(size, channels, channels, **blocks, **widths))

    def loss(self, batch, rng):
        noise = rng.normal("noise", batch["images"].shape[1:])
        output = self.network(batch["images"] + noise, 0).sample
        return self.options.strength * (output - noise).square().mean()

    def pipeline(self, network):
        return DDPMPipeline(network, DDPMScheduler(num_train_timesteps=4))
"""


def arguments_of(**flags: object) -> list[str]:
    """A small run of the objective in my_objective.py."""
    given = {k: v for k, v in SMALL.items() if k not in ("class_conditional", "ddpm_num_steps")} | flags
    own = ["--recipe=unconditional", "--objective=my_objective:Blurred"]
    return [*own, *[f"--{name}={value}" for name, value in given.items()]]


def test_an_objective_of_ones_own_trains_through_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_objective.py").write_text(OUTSIDE)
    flags = {"train_data_dir": image_folder(tmp_path / "images"), "output_dir": tmp_path / "run"}
    flags |= {"max_train_steps": 3, "checkpointing_steps": 2, "strength": 0.5}
    own = {"PYTHONPATH": str(tmp_path), "STEPWISE_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}
    done = launch(ROOT, ["-m", "training.train", *arguments_of(**flags)], **own)
    assert done.returncode == 0, done.stderr
    assert f"The pipeline is in {tmp_path / 'run'}" in done.stdout
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert (record["steps"], record["recipe"]["objective"]) == (3, "my_objective:Blurred")
    assert (record["recipe"]["strength"], record["recipe"]["net_width"]) == (0.5, 8)
    assert "label_dropout" not in record["recipe"] and (tmp_path / "run" / "checkpoint-2").is_dir()
    pipe = DDPMPipeline.from_pretrained(tmp_path / "run")
    assert len(pipe(batch_size=2, num_inference_steps=2).images) == 2
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit, match="error: strength must be above 0, got 0.0"):
        run_here(arguments_of(**flags | {"strength": 0}))
    with pytest.raises(SystemExit, match=r"error: unknown flag --net_widht=4; did you mean --net_width\?"):
        run_here(arguments_of(**flags, net_widht=4))


def test_a_column_of_captions_of_any_name_reaches_the_objective(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Image.fromarray(noise(8, 8)).save(tmp_path / f"{name}.png")
    rows = [{"file_name": f"{name}.png", "words": f"a {name}"} for name in ("one", "two")]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe, options = parse(
        ["--recipe", "unconditional", "--train_data_dir", str(tmp_path), "--caption_column", "words"]
    )
    assert load_data(recipe, options).captions == ("a one", "a two")
    assert load_data(replace(recipe, caption_column="text"), options).captions is None
