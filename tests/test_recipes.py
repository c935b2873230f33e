"""The command line: every recipe parses, every mistake is named before any work."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from diffusers.optimization import get_scheduler
from training_runs import command, image_folder, network_file, run_here

from training import train
from training.objectives import find_objective
from training.recipes import LR_SCHEDULERS, RECIPES, Recipe
from training.train import parse

FLAGS = (
    "dataset_name train_data_dir resolution train_batch_size gradient_accumulation_steps learning_rate lr_scheduler "
    "lr_warmup_steps mixed_precision checkpointing_steps checkpoints_total_limit resume_from_checkpoint report_to "
    "output_dir seed max_train_steps pretrained_model_name_or_path model_config_name_or_path"
).split()
OUT_OF_RANGE = [
    ("train_batch_size", "0"),
    ("gradient_accumulation_steps", "-1"),
    ("max_train_steps", "0"),
    ("checkpointing_steps", "0"),
    ("checkpoints_total_limit", "0"),
    ("resolution", "0"),
    ("max_train_samples", "0"),
    ("ddpm_num_steps", "0"),
    ("label_dropout", "1.5"),
    ("ema_decay", "-0.1"),
    ("learning_rate", "nan"),
    ("learning_rate", "-1e-4"),
    ("adam_beta2", "1"),
    ("adam_weight_decay", "-1"),
    ("adam_epsilon", "-1"),
    ("max_grad_norm", "-1"),
    ("lr_warmup_steps", "-1"),
    ("snr_gamma", "0"),
    ("seed", "-1"),
    ("lr_scheduler", "cosin"),
    ("prediction_type", "v"),
    ("timestep_sampling", "random"),
    ("mixed_precision", "fp32"),
    ("ddpm_beta_schedule", "cosine"),
    ("report_to", "paper"),
    ("objective", "gan"),
    ("variance_type", "learned"),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWISE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading any data fails the test: the mistake was to be found before."""

    def load(recipe: Recipe) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr(train, "load_data", load)


def error_of(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    """What the command prints as it gives up, on one line."""
    with pytest.raises(SystemExit) as stopped:
        run_here(arguments)
    assert stopped.value.code not in (0, None)  # Python makes 1 of a text
    message = stopped.value.code if isinstance(stopped.value.code, str) else capsys.readouterr().err
    assert "error: " in message and len(message.split("error: ")[1].splitlines()) == 1
    return message


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_parses_with_its_row_over_the_defaults(name: str, bfloat16_cpu: None) -> None:
    recipe, options = parse(["--recipe", name])
    assert type(options) is find_objective(recipe.objective).Options
    expected = {f.name: f.default for kind in (Recipe, type(options)) for f in fields(kind)} | RECIPES[name]
    expected |= {"recipe": name, "output_dir": f"runs/{name}"}
    assert vars(recipe) | vars(options) == expected


def test_a_flag_beats_the_row_of_the_recipe(bfloat16_cpu: None) -> None:
    recipe, options = parse(
        "--recipe=fashion-cfg --class_conditional False --no_channels_last --learning_rate 3e-5".split()
    )
    assert (options.class_conditional, recipe.channels_last, recipe.learning_rate) == (False, False, 3e-5)
    assert recipe.torch_compile and recipe.mixed_precision == "bf16"


def test_own_images_replace_the_data_set_of_the_recipe() -> None:
    recipe, _ = parse(["--recipe", "fashion-cfg", "--train_data_dir", "mine"])
    assert (recipe.train_data_dir, recipe.dataset_name) == ("mine", None)


def test_the_flags_of_diffusers_examples_exist_and_help_lists_them(capsys: pytest.CaptureFixture) -> None:
    for arguments in (["--help"], ["--recipe", "nonsense", "-h"]):
        with pytest.raises(SystemExit) as stopped:
            parse(arguments)
        assert stopped.value.code == 0
        text = capsys.readouterr().out
        assert [flag for flag in FLAGS if f"--{flag} " not in text] == []
    assert "10 to 20 % faster" in " ".join(text.split())


@pytest.mark.parametrize("name", LR_SCHEDULERS)
def test_every_lr_scheduler_that_is_offered_can_be_built(name: str) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=10, num_training_steps=200)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([1e-3]), "warmed up, it is the rate that was asked for"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--recipe must be one of fashion-cfg"),
        (["--recipe"], "--recipe must be one of fashion-cfg"),
        (["--recipe", "fashoin-cfg"], "did you mean fashion-cfg?"),
        (["--recipe=fashion-ddmp"], "did you mean fashion-ddpm?"),
        (
            ["--recipe=fashion-flow", "--guide_step=10001"],
            "guide_step must be at most max_train_steps, 10000",
        ),
        (["--recipe=conditional", "--learning_rte", "1"], "unknown flag --learning_rte; did you mean --learning_rate?"),
        (["--recipe=conditional", "--batch_size=4"], "unknown flag --batch_size=4; did you mean --train_batch_size?"),
        (["--recipe=conditional", "--train_batch_size", "many"], "--train_batch_size"),
        (["--recipe=conditional", "--class_conditional", "perhaps"], "--class_conditional"),
    ],
)
def test_an_unknown_recipe_or_flag_is_an_error_with_the_nearest(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture, no_data: None
) -> None:
    assert expected in error_of(arguments, capsys)


@pytest.mark.parametrize(("flag", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_names_its_flag_and_what_is_allowed(
    flag: str, value: str, capsys: pytest.CaptureFixture, no_data: None
) -> None:
    message = error_of(["--recipe=conditional", f"--{flag}={value}"], capsys)
    assert f"{flag} must be " in message and "got " in message


def test_a_missing_checkpoint_is_named_with_those_there_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture, no_data: None
) -> None:
    for step in (10, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    arguments = command("--recipe conditional", output_dir=tmp_path, resume_from_checkpoint="checkpoint-7")
    message = error_of(arguments, capsys)
    assert "resume_from_checkpoint" in message and "(checkpoint-9, checkpoint-10)" in message
    assert "'checkpoint-7'" in message


def test_data_without_labels_cannot_be_class_conditional(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    loose = image_folder(tmp_path / "loose", names=())
    message = error_of(command("--recipe conditional", train_data_dir=loose, output_dir=tmp_path / "run"), capsys)
    assert "class_conditional must be False" in message and "labels" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("size", "works"), [(13, 12), (3, 4)])
def test_a_size_that_cannot_be_halved_names_one_that_works(
    size: int, works: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = image_folder(tmp_path / "images", count=4, size=8)
    flags = {"train_data_dir": folder, "output_dir": tmp_path / "run", "max_train_steps": 1, "train_batch_size": 2}
    flags |= {"model_config_name_or_path": network_file(tmp_path / "n.json", _class_name="PatchedUNet2DModel")}
    message = error_of(command("--recipe conditional", resolution=size, **flags), capsys)
    assert "--resolution" in message and "multiple of 4" in message and f"(try {works})" in message
    assert not (tmp_path / "run").exists()
    run_here(command("--recipe conditional", resolution=works, **flags))  # as it says
    assert (tmp_path / "run" / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--timestep_sampling=importance", "timestep_sampling must be stratified or uniform, unless variance_type is"),
        ("--objective=noisy_classifier", "pretrained_model_name_or_path must name the pipeline that the classifier"),
        (
            "--objective=noisy_classifier --timestep_sampling=importance --variance_type=learned_range",
            "timestep_sampling must be stratified or uniform for --objective noisy_classifier",
        ),
    ],
)
def test_values_that_do_not_go_together_are_named(
    flags: str, expected: str, capsys: pytest.CaptureFixture, no_data: None
) -> None:
    assert expected in error_of(["--recipe=conditional", *flags.split()], capsys)
    parse("--recipe=conditional --timestep_sampling=importance --variance_type=learned_range".split())


def test_no_data_at_all_says_how_to_give_them(capsys: pytest.CaptureFixture) -> None:
    message = error_of(["--recipe=unconditional"], capsys)
    assert "dataset_name" in message and "train_data_dir" in message


def test_the_prompts_and_the_column_of_a_recipe_are_of_its_own_data() -> None:
    """A model of one's own images does not open the page with emoji."""
    own, mine = (parse(["--recipe", "emoji-latent", *more]) for more in ([], ["--train_data_dir", "mine"]))
    assert own[1].example_prompts.startswith("a red apple") and own[0].caption_column == "captions"
    assert mine[1].example_prompts is None and mine[0].caption_column == "text"
