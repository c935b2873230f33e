"""One small run on few images, looked at as it goes on: first it generalises, then it memorises.

    python -m benchmarks.memorization

A small network is trained by our trainer on `--images` of Fashion-MNIST. At some updates it draws images of the same
seeds, each of which is set beside the nearest training image, and its x_0 is compared with that of the optimal denoiser
of those few images (training/metrics/optimal_denoiser.py), at x_t of images that it trains on and of images that it
never sees. How long the first part lasts grows with the number of images (Bonnaire et al. 2025,
https://arxiv.org/abs/2505.17638).

Written for the page: ui/laboratory/data/memorization.json with the numbers of each checkpoint, memorization.png with
the first `SHOWN` images that it draws, a row a checkpoint, and memorization_images.png with the training images.
"""

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.ours import our_recipe, our_trainer
from benchmarks.recorded import FOLDER, rms, rounded, written
from benchmarks.table import check_at_least, parse, table
from pipelines import DDIMPipeline, NoiseSchedule
from training.data import ImageData, load_images
from training.loop import Trainer
from training.metrics.feature_memorization import COPIED_BELOW, two_nearest
from training.metrics.optimal_denoiser import posterior
from training.networks.build import NETWORK
from training.randomness import seeded
from training.recipes import flag

MODULE = "benchmarks.memorization"
SMALL = {  # 0.8 M parameters: one level, over patches of 4x4 pixels, which attend to each other
    "patch_size": 4,
    "block_out_channels": [64],
    "down_block_types": ["AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D"],
}
TIMESTEPS = (50, 250, 450, 650, 850)
SHOWN = 16  # images of each checkpoint
UNSEEN = 32  # images of the test split, and at most as many training images, at which x_0 is compared


@dataclass
class Options:
    """The flags of the command."""

    dataset_name: str = flag("data/fashion", "a Hub id, or a folder of parquet, with the splits train and test")
    images: int = flag(16, "training images, evenly spaced through the training split")
    steps: int = flag(1200, "updates")
    checkpoints: int = flag(12, "when the run is looked at: that many updates, in a geometric series")
    first: int = flag(20, "the first of them")
    batch_size: int = flag(16, "images per update")
    learning_rate: float = flag(2e-3, "of AdamW, constant after the warm-up")
    drawn: int = flag(16, "images that each checkpoint draws")
    inference_steps: int = flag(12, "of DDIM")
    seed: int = flag(0, "of the run and of what it draws")
    threads: int | None = flag(None, "of torch [as many as it takes]")
    output_dir: str = flag(str(FOLDER), "folder for the three files")

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot work, naming the flag."""
        lowest = {"images": 2, "first": 1, "checkpoints": 2, "batch_size": 1, "inference_steps": 1, "seed": 0}
        check_at_least(self, **lowest, drawn=SHOWN, steps=self.first)


def moments(options: Options) -> list[int]:
    """The updates after which the run is looked at; the last is its end."""
    series = np.geomspace(options.first, options.steps, options.checkpoints)
    return sorted({int(step) for step in series.round()})


class Comparison:
    """x_0 of a network and of the optimal denoiser of the training images, at x_t of one set of images."""

    def __init__(self, points: Tensor, x0: Tensor, schedule: NoiseSchedule, name: str, seed: int) -> None:
        self.x0, self.schedule = x0, schedule
        noises = [torch.randn(x0.shape[1:], generator=seeded(seed, name, i)).double() for i in range(len(x0))]
        levels = [[float(level) for level in schedule.marginal(t)] for t in TIMESTEPS]
        self.x_t = [a * x0 + b * torch.stack(noises) for a, b in levels]
        self.exact = [posterior(points, x_t, a, b).mean for x_t, (a, b) in zip(self.x_t, levels, strict=True)]

    @torch.no_grad()
    def measure(self, pipe: Any) -> dict[str, list[float]]:
        """By t: how far the network's x_0 is from the exact one, and from the image; means of RMS over the images."""
        to_exact, error = [], []
        for t, x_t, exact in zip(TIMESTEPS, self.x_t, self.exact, strict=True):
            output = pipe.network(x_t.float(), t)[:, : x_t.shape[1]]
            found = self.schedule.predict_x0(output, x_t.float(), t, pipe.scheduler.config.prediction_type)
            found = found.clamp(-1, 1).double()
            to_exact.append(float(rms(found - exact).mean()))
            error.append(float(rms(found - self.x0).mean()))
        return {"to_exact": rounded(to_exact), "error": rounded(error)}


def trainer_of(options: Options, data: ImageData, folder: Path) -> Trainer:
    """A run of the recipe fashion-ddpm with a small network, which writes nothing."""
    config = folder / "network.json"
    config.write_text(json.dumps(NETWORK | SMALL))
    changes = {"mixed_precision": "no", "torch_compile": False, "model_config_name_or_path": str(config)}
    changes |= {"learning_rate": options.learning_rate, "lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 20}
    changes |= {"ema_decay": 0.99, "max_train_steps": options.steps, "seed": options.seed, "output_dir": str(folder)}
    recipe, denoising = our_recipe("fashion-ddpm", options.dataset_name, options.batch_size, **changes)
    return our_trainer(recipe, denoising, data, "recipe")


def drawn(trainer: Trainer, options: Options) -> np.ndarray:
    """Images of seeds from `seed` on, (N, H, W) uint8, by DDIM."""
    scheduler = trainer.objective.scheduler
    pipe = DDIMPipeline(unet=trainer.pipeline().unet, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(options.seed + i) for i in range(options.drawn)]
    settings = {"num_inference_steps": options.inference_steps, "output_type": "np"}
    images = pipe(batch_size=options.drawn, generator=generators, **settings).images
    return (images[..., 0] * 255).round().astype(np.uint8)


def looked_at(trainer: Trainer, options: Options, data: ImageData, sets: dict[str, Comparison]) -> dict[str, Any]:
    """A checkpoint: what it draws, how near that is to training images, and both comparisons."""
    images = drawn(trainer, options)
    flat = [each.reshape(len(each), -1) / 255.0 for each in (images, np.array(data.images))]
    near = two_nearest(*flat)
    distance = near.distance / np.sqrt(flat[0].shape[1])  # as a root mean square of the pixels
    found = {name: comparison.measure(trainer.pipeline()) for name, comparison in sets.items()}
    return {
        "step": trainer.step,
        "copied": float(np.mean(near.ratio < COPIED_BELOW)),
        "distance": float(distance[:, 0].mean()),
        "nearest": near.index[:SHOWN, 0].tolist(),
        "nearest_distance": rounded(distance[:SHOWN, 0].tolist()),
        "nearest_to_second": rounded(near.ratio[:SHOWN].tolist()),
        **found,
        "images": images[:SHOWN],
    }


def run(options: Options) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The numbers; the sheet, (checkpoints, images, H, W); and the training images, (1, images, H, W)."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    load = {"dataset_name": options.dataset_name, "channels": 1}
    data = load_images(**load, max_samples=options.images)
    unseen = load_images(**load, split="test", max_samples=UNSEEN)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(options, data, Path(folder))
        points, others = (torch.from_numpy(np.array(each.images)).double() / 127.5 - 1 for each in (data, unseen))
        seen = {"seen": points[:UNSEEN], "unseen": others}
        schedule = trainer.objective.schedule
        sets = {name: Comparison(points, x0, schedule, name, options.seed) for name, x0 in seen.items()}
        rows = []
        for step in (bar := tqdm(moments(options), desc="Checkpoints", disable=None)):
            while trainer.step < step:
                trainer.update()
            rows.append(looked_at(trainer, options, data, sets))
            bar.set_postfix(update=step, copied=rows[-1]["copied"])
    sheet = np.stack([row.pop("images") for row in rows])
    about = {
        "timesteps": list(TIMESTEPS),
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "dataset": data.fingerprint,
        "options": asdict(options) | {"output_dir": None},
        "copied_below": COPIED_BELOW,
        "checkpoints": rows,
    }
    return about, sheet, np.array(data.images[:, 0])[None]


def show(numbers: dict[str, Any]) -> str:
    """A line a checkpoint; distances of x_0 at the middle t."""
    middle = TIMESTEPS.index(450)
    columns = [(name, split) for split in ("seen", "unseen") for name in ("to_exact", "error")]
    heads = ["update", "copies", "to nearest", *(f"{name}, {split}" for name, split in columns)]
    lines = [
        [
            str(row["step"]),
            f"{row['copied']:.0%}",
            f"{row['distance']:.3f}",
            *(f"{row[split][name][middle]:.3f}" for name, split in columns),
        ]
        for row in numbers["checkpoints"]
    ]
    return table(heads, lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parse(Options, arguments, MODULE, __doc__)
        folder = Path(options.output_dir)
        numbers = written(folder / "memorization", MODULE, arguments, run(options))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{show(numbers)}\nwritten to {folder}")


if __name__ == "__main__":
    main()
