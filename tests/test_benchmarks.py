"""Each benchmark runs end to end on tiny settings and prints its table; the peers do what diffusers does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler
from evaluation_runs import tiny_feature_classifier, tiny_stages
from image_files import parquet_folder
from PIL import Image
from text_models import text_pipeline
from torch import nn
from toys import ddpm, guided, quiet, seeded, tiny_unet
from training_runs import network_file, noise

from benchmarks import augmentation, prompts, quality, sampling, training
from benchmarks.frechet import portions, to_pixels
from benchmarks.ours import load_data, our_recipe, our_trainer
from benchmarks.stock import StockTrainer, Transform, guided_ddim, without_classes
from benchmarks.timing import alternate, network_time
from pipelines import CascadePipeline
from ui.fields import FIELDS

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny data (8 x 8 grey, three classes), a model, a classifier and the config of a network."""
    folder = tmp_path_factory.mktemp("benchmarks")
    names = ("Cat", "Dog", "Fish")
    pixels = noise(24, 8, 8)
    parquet_folder(folder / "data", {"train": pixels[:12], "test": pixels[12:]}, names)
    guided().save_pretrained(folder / "model")
    tiny_feature_classifier(names).save_pretrained(folder / "features")
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    network_file(folder / "unet.json", block_out_channels=[16, 16], norm_num_groups=4, **blocks)
    return folder


def table_of(printed: str) -> list[list[str]]:
    """The cells of the Markdown table in what a command printed, without the heads and the rule."""
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# --- the commands ---


def test_sampling_prints_and_writes_its_table(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = f"--model {place}/model --images 2 --repeats 2 --steps 2 --json {tmp_path}/out.json"
    judging = f"--frechet --samples 6 --dataset_name {place}/data --features {place}/features"
    sampling.main(f"{flags} {judging}".split())
    printed = capsys.readouterr().out
    assert "torch threads" in printed and "bf16" in printed and f"torch {torch.__version__}" in printed
    rows = table_of(printed)
    assert [row[0].split(",")[0] for row in rows[:3]] == ["stock DDIM-2", "stock DDIM-2", "ours"]
    sampler, steps = (FIELDS[name].default for name in ("sampler", "steps"))
    assert rows[-1][0].startswith(f"the app: {sampler}, {steps} steps") and len(rows) == 7
    assert [row[4] for row in rows] == ["4", "2", "4", "4", "4", "4", "13"], "evaluations of the network an image"
    assert rows[0][3] == "1.00", "the peer is one times as fast as itself"
    assert [bool(row[6]) for row in rows] == [True, False, True, False, False, False, True]
    written = json.loads((tmp_path / "out.json").read_text())
    assert [row["name"] for row in written["rows"]] == [row[0] for row in rows]
    assert all(len(row["all_seconds"]) == 2 and 0 < row["outside_network"] < 1 for row in written["rows"])
    assert written["options"]["images"] == 2 and written["machine"]["threads"] == torch.get_num_threads()


def test_augmentation_measures_stages_at_each_level_on_drawn_and_on_real_images(place: Path, tmp_path: Path) -> None:
    whole, told = tiny_stages(("Cat", "Dog", "Fish"))
    base = CascadePipeline(whole.unet, whole.scheduler, id2label=dict(whole.config.id2label))
    _, untold = tiny_stages(("Cat", "Dog", "Fish"), told=False)
    for name, pipe in {"base": base, "told": told, "untold": untold}.items():
        pipe.save_pretrained(tmp_path / name)
    flags = [f"--{name}={tmp_path / name}" for name in ("base", "told", "untold")]
    flags += [f"--dataset_name={place}/data", f"--features={place}/features", "--num_inference_steps=1"]
    flags += ["--base_steps=1", "--dtype=float32", "--num_samples=12"]
    flags += ["--seeds", "0", "1", "2", f"--output={tmp_path}/plot.png"]
    rows = augmentation.main([*flags, "--levels", "0", "0.5"])
    points = [(row["stage"], row["inputs"], row["level"]) for row in rows]
    assert len(set(points)) == len(points) == 8 and (tmp_path / "plot.png").stat().st_size > 5000
    assert all(len(row["of_seeds"]) == 3 and row["distance"] > 0 for row in rows)
    assert len({row["distance"] for row in rows}) == 8, "level, images and stage all matter"
    with pytest.raises(SystemExit, match="levels must be at most 0.5, the highest of told in training, got 0.6"):
        augmentation.main([*flags, "--levels", "0.6"])


def test_sampling_takes_a_model_without_classes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    ddpm().save_pretrained(tmp_path / "model")
    sampling.main(f"--model {tmp_path}/model --images 1 --repeats 1 --steps 2".split())
    rows = table_of(capsys.readouterr().out)
    assert rows[0][0] == "stock DDIM-2, float32, no classes" and len(rows) == 6
    assert [row[4] for row in rows] == ["2", "2", "2", "2", "2", "8"]


def test_training_prints_and_writes_its_table(
    place: Path, tmp_path: Path, bfloat16_cpu: None, capsys: pytest.CaptureFixture
) -> None:
    flags = f"--dataset_name {place}/data --network {place}/unet.json --no_compile --batch_size 4"
    training.main(f"{flags} --repeats 2 --steps 2 --json {tmp_path}/out.json".split())
    rows = table_of(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["stock loop, float32", "ours, bf16"] and rows[0][3] == "1.00"
    written = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert all(len(row["all"]) == 2 and min(row["all"]) > 0 for row in written)


def test_prompts_prints_where_the_seconds_go(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text_pipeline().save_pretrained(tmp_path / "words")
    rows = prompts.main(f"--model {tmp_path}/words --images 2 --repeats 1 --steps 3".split())
    assert [row["evaluations"] for row in rows][0] == 6 and all(0 < row["outside"] < 1 for row in rows)
    assert "outside the networks" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="model must be a flow that is told prompts"):
        guided().save_pretrained(tmp_path / "classes")
        prompts.main(["--model", f"{tmp_path}/classes"])


@pytest.mark.parametrize("recipe", ["fashion-cfg", "fashion-ddpm"])
def test_quality_prints_and_writes_its_table(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, recipe: str
) -> None:
    flags = f"--minutes 0.01 --recipe {recipe} --network {place}/unet.json --no_compile --batch_size 4 --steps 2"
    where = f"--dataset_name {place}/data --features {place}/features --json {tmp_path}/out.json"
    quality.main(f"{flags} --stock_steps 2 --samples 6 {where}".split())
    rows = table_of(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["stock loop", "ours", "real training images"]
    assert rows[0][5] == "1.0" and all(row[4] for row in rows)
    stock, ours, real = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert stock["updates"] > 0 and stock["images"] == 4 * stock["updates"]
    assert ours["updates"] > 0 and ours["images"] == 4 * ours["updates"]
    assert real["frechet_distance"] < min(stock["frechet_distance"], ours["frechet_distance"])


@pytest.mark.parametrize(
    ("command", "flags", "named"),
    [
        (sampling, "--model nowhere/at/all", "nowhere/at/all"),
        (sampling, "--repeats 0", "repeats must be at least 1, got 0"),
        (sampling, "--timestep_spacing linspace", "timestep_spacing must be leading or trailing"),
        (sampling, "--repeat 3", "did you mean --repeats?"),
        (training, "--steps 0", "steps must be at least 1, got 0"),
        (training, "--dataset_name {place}/data --recipe fashion-dpm", "did you mean fashion-ddpm?"),
        (
            training,
            "--dataset_name {place}/data --network missing.json",
            "network must be recipe, stock or a JSON file",
        ),
        (training, "--dataset_name {place}/data --recipe finetune", "recipe must be one that trains from scratch"),
        (quality, "--minutes 0", "minutes must be above 0"),
        (quality, "--dataset_name {place}/data --features {place}/model", "features must be a classifier"),
    ],
)
def test_bad_input_ends_in_one_line_that_names_it(place: Path, command: object, flags: str, named: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(flags.format(place=place).split())
    message = str(stopped.value)
    assert message.startswith("error: ") and named in message and "\n" not in message


# --- the peers ---


def test_the_stock_loop_without_guidance_is_the_stock_pipeline_without_classes() -> None:
    unet, scheduler = tiny_unet(4), DDIMScheduler()
    labels = torch.tensor([0, 1])
    loop = guided_ddim(unet, scheduler, labels, 3, 5, 0.0, seeded())
    pipe = quiet(DDIMPipeline(without_classes(unet, 3), scheduler))
    stock = pipe(batch_size=2, num_inference_steps=5, generator=seeded()).images
    assert np.abs(to_pixels(loop).astype(int) - to_pixels(stock)).max() <= 1, "the bias is added in another order"
    guided_loop = guided_ddim(unet, scheduler, labels, 3, 5, 8.0, seeded())
    assert not np.array_equal(to_pixels(loop), to_pixels(guided_loop))
    assert unet.class_embedding is not None, "the model itself is to stay as it was"


def test_our_pipeline_draws_the_peers_image_from_the_peers_settings() -> None:
    pipe = guided(clip_sample=False, timestep_spacing="leading")
    label = torch.tensor([1])
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    stock = guided_ddim(pipe.unet, scheduler, label, pipe.null_label, 10, 2.0, seeded())
    ours = pipe(class_labels=[1], num_inference_steps=10, guidance_scale=2.0, generator=seeded()).images
    assert np.abs(to_pixels(stock).astype(int) - to_pixels(ours)).max() <= 1


def test_the_transform_keeps_pixels_and_halves_larger_images() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    same = Transform(8, 1)(Image.fromarray(pixels))
    assert same.shape == (1, 8, 8) and same.dtype == torch.float32
    assert torch.allclose(same[0], torch.from_numpy(pixels) / 127.5 - 1, atol=1e-6)
    wide = np.repeat(np.repeat(pixels // 2, 2, 0), 2, 1)
    wide = np.concatenate([wide, wide], 1)  # 32 x 16: the shorter side becomes 8, a square is cut out
    crop = Transform(8, 3)(Image.fromarray(wide))
    assert crop.shape == (3, 8, 8) and torch.equal(crop[0], crop[2]) and crop.min() >= -1 and crop.max() <= 0.01


def test_the_stock_loop_trains_as_the_script_does(place: Path) -> None:
    torch.manual_seed(0)
    network = tiny_unet()
    before = [weight.clone() for weight in network.parameters()]
    stock = StockTrainer(network, str(place / "data"), 8, 4, num_epochs=1000)
    losses = [stock.update() for _ in range(4)]  # into the second epoch of three batches
    assert stock.images == 16 and 0.5 < losses[0] < 2.0, "the loss of a network that knows nothing is about 1"
    assert stock.lr_scheduler.get_last_lr()[0] == pytest.approx(1e-4 * 4 / 500)
    assert stock.ema.cur_decay_value == pytest.approx(1 - (1 + 3) ** -0.75)
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    pipe = stock.pipeline()
    assert all(torch.equal(a, b) for a, b in zip(stock.ema.shadow_params, pipe.unet.parameters(), strict=True)), (
        "the averaged weights are drawn with"
    )


def test_both_trainers_keep_their_precision_in_one_process(place: Path, bfloat16_cpu: None) -> None:
    network, x, t = tiny_unet(), torch.randn(2, 1, 8, 8, generator=seeded()), torch.tensor([3, 700])
    with torch.no_grad():
        expected = network(x, t).sample
        stock = StockTrainer(network, str(place / "data"), 8, 4)
        recipe, options = our_recipe("fashion-ddpm", str(place / "data"), 4, torch_compile=False)
        ours = our_trainer(recipe, options, load_data(recipe, "recipe"), str(place / "unet.json"))
        assert torch.equal(stock.network(x, t).sample, expected), "float32, with or without ours beside it"
        half = ours.network(x, t).sample
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        full = type(ours.network).forward(ours.network, x, t).sample
    assert not torch.equal(half, full) and torch.allclose(half.float(), full, atol=0.1)
    assert np.isfinite([stock.update(), ours.update(), stock.update(), ours.update()]).all()


# --- what the numbers rest on ---


def test_the_learning_rate_falls_to_its_end_by_the_end_of_the_time(place: Path) -> None:
    recipe, options = our_recipe("fashion-ddpm", str(place / "data"), 4, torch_compile=False, lr_warmup_steps=4)
    trainer = our_trainer(recipe, options, load_data(recipe, "recipe"), str(place / "unet.json"))
    rates = []
    for step in range(12):
        if step == 3:
            quality.set_horizon(trainer, 12)
        trainer.update()
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert all(a > b for a, b in zip(rates[3:], rates[4:], strict=False)) and rates[-1] == pytest.approx(0, abs=1e-12)


class Clockwork:
    """A trainer whose updates take the seconds of `pace(step)` on a clock of its own."""

    images_per_update = 4

    def __init__(self, pace: Callable[[int], float]) -> None:
        self.pace, self.time, self.step, self.images, self.horizons = pace, 0.0, 0, 0, []

    def update(self) -> float:
        self.time += self.pace(self.step)
        self.step += 1
        self.images += 4
        return 1.0


def test_both_get_the_same_time_and_the_horizon_follows_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clockwork(lambda step: 20.0 if step < 3 else 1.0)  # three updates that compile
    monkeypatch.setattr(quality, "now", lambda: clock.time)
    monkeypatch.setattr(quality, "set_horizon", lambda trainer, total: trainer.horizons.append(total))
    row = quality.train_ours(clock, 300.0)
    assert row["seconds"] == 300.0 and row["updates"] == 243 and row["images"] == 972
    assert set(clock.horizons) == {243}
    clock = Clockwork(lambda step: 1.0 if step < 60 else 2.0)  # the machine slows down
    row = quality.train_ours(clock, 300.0)
    assert row["updates"] == 180 and clock.horizons[0] == 300
    assert 180 <= clock.horizons[-1] <= 190, "the last measure is to know that it has slowed down"
    clock = Clockwork(lambda step: 7.0)
    row = quality.train_stock(clock, 300.0)
    assert row["updates"] == 43 and row["seconds"] == 301.0, "it stops at the first update that ends after the time"


def test_contestants_take_turns_and_warm_ups_do_not_count() -> None:
    order = []

    def runner(name: str) -> object:
        return lambda: order.append(name) or len(order)

    results = alternate({"a": runner("a"), "b": runner("b")}, repeats=2, warmups=1, description="test")
    assert order == ["a", "b"] * 3 and results == {"a": [3, 5], "b": [4, 6]}


def test_network_time_counts_rows_and_leaves_no_hook_behind() -> None:
    network = nn.Linear(3, 3)
    with network_time(network) as spent:
        network(torch.zeros(5, 3))
        network(torch.zeros(2, 3))
    seconds = spent.seconds
    assert spent.rows == 7 and seconds > 0
    network(torch.zeros(4, 3))
    assert (spent.rows, spent.seconds) == (7, seconds)


def test_every_class_gets_its_share_of_the_samples() -> None:
    assert portions(7, 3) == [(0, 3), (1, 2), (2, 2)]
    assert portions(120, 0) == [(None, 50), (None, 50), (None, 20)]
    parts = portions(1003, 10)
    assert sum(count for _, count in parts) == 1003 and max(count for _, count in parts) <= 50
    assert to_pixels([Image.new("RGB", (4, 6)), Image.new("RGB", (4, 6))]).shape == (2, 3, 6, 4)
