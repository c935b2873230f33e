"""The training runs whose checkpoints lie here: their pictures, networks and flags, for write.py and the test."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parent
SAVED_AT, STEPS = 7, 10

UNET = {
    "_class_name": "UNet2DModel",
    "block_out_channels": [4, 4],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "norm_num_groups": 2,
}
CLASSIFIER = {
    "_class_name": "NoisyClassifier",
    "block_out_channels": [4, 4],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "norm_num_groups": 2,
}
COMMON = {
    "train_data_dir": "pictures",
    "train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_train_steps": STEPS,
    "checkpointing_steps": SAVED_AT,
    "validation_steps": 1000,
    "lr_warmup_steps": 2,
    "learning_rate": 0.01,
    "random_flip": True,
    "report_to": "none",
    # some gradients are zero but for rounding, which a small epsilon would blow up to whole steps: no two processors
    # would end alike
    "adam_epsilon": 1e-3,
}
# by the folder of the checkpoint; every way is relative, so that training.json names no machine
RUNS = {
    "run_denoising": {"recipe": "conditional", "model_config_name_or_path": "unet.json", "ddpm_num_steps": 5},
    "run_history": {
        "recipe": "unconditional",
        "model_config_name_or_path": "unet.json",
        "variance_type": "learned_range",
        "timestep_sampling": "importance",
        "ddpm_num_steps": 4,
    },
    "run_classifier": {
        "recipe": "fashion-noisy-classifier",
        "model_config_name_or_path": "classifier.json",
        "pretrained_model_name_or_path": "ddpm",
    },
}


def place(folder: Path) -> None:
    """Write what the runs read into the folder that they are started in: pictures of noise, configs, a pipeline."""
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        (folder / "pictures" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "pictures" / "ab"[number % 2] / f"{number}.png")
    (folder / "unet.json").write_text(json.dumps(UNET))
    (folder / "classifier.json").write_text(json.dumps(CLASSIFIER))
    shutil.copytree(FOLDER / "ddpm", folder / "ddpm")


def arguments(name: str, **more: object) -> list[str]:
    """The command line of a run; what is said again in `more` wins."""
    return [f"--{key}={value}" for key, value in (COMMON | RUNS[name] | more).items()]
