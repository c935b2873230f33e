"""Train the classifier whose features samples are compared in; it is never used to train a generator.

    python -m training.feature_classifier --dataset_name data/fashion --output_dir model_cards/fashion-features

Cross-entropy, AdamW and a one-cycle learning rate (Smith & Topin 2017, https://arxiv.org/abs/1708.07120), with flips
and small shifts. There is no label smoothing: it would pull the features of a class together, whose variety the metrics
need.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from training.data import ImageData, load_images
from training.files import write_json, write_whole
from training.machine import usual_dtype, versions
from training.metrics.features import FeatureClassifier, extract, to_input


@dataclass
class Options:
    """The flags of the command."""

    output_dir: str = field(metadata={"help": "the folder for the weights, config.json and metrics.json"})
    dataset_name: str | None = field(default=None, metadata={"help": "a Hub id, or a folder of parquet"})
    train_data_dir: str | None = field(default=None, metadata={"help": "a folder of class folders of images"})
    resolution: int | None = field(
        default=None, metadata={"help": "side in pixels that images are resized to; default: as they are"}
    )
    test_split: str = field(default="test", metadata={"help": "the split whose accuracy is reported"})
    num_train_epochs: int = field(default=10, metadata={"help": "passes over the training images"})
    train_batch_size: int = field(default=128, metadata={"help": "images per step"})
    learning_rate: float = field(default=4e-3, metadata={"help": "peak learning rate of the cycle"})
    weight_decay: float = field(default=0.05, metadata={"help": "weight decay of AdamW, on every weight"})
    max_shift: int = field(default=1, metadata={"help": "images are shifted by up to this many pixels"})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "train on only this many images, for a trial"}
    )
    mixed_precision: str = field(
        default_factory=lambda: "bf16" if usual_dtype() == "bfloat16" else "no",
        metadata={"help": "bf16 or no; default: no on a CPU that is slower in bf16", "choices": ["bf16", "no"]},
    )
    seed: int = 0


def augment(pixels: Tensor, max_shift: int, rng: torch.Generator) -> Tensor:
    """Images (N, C, H, W), flipped with probability 1/2 and shifted by up to `max_shift` pixels; edges repeat."""
    count, channels, height, width = pixels.shape
    flip = torch.rand(count, 1, 1, 1, generator=rng) < 0.5
    pixels = torch.where(flip, pixels.flip(-1), pixels)
    padded = pad(pixels, (max_shift,) * 4, mode="replicate")
    down, right = torch.randint(2 * max_shift + 1, (2, count, 1), generator=rng)
    rows = (torch.arange(height) + down).view(count, 1, height, 1)
    columns = (torch.arange(width) + right).view(count, 1, 1, width)
    return padded[
        torch.arange(count).view(count, 1, 1, 1), torch.arange(channels).view(1, channels, 1, 1), rows, columns
    ]


def batches(data: ImageData, options: Options, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order: full batches of augmented images (N, C, H, W) in [-1, 1] and classes (N,)."""
    labels = torch.from_numpy(data.labels)
    size = min(options.train_batch_size, len(labels))
    for chosen in torch.randperm(len(labels), generator=rng).split(size):
        if len(chosen) == size:
            pixels = to_input(data.images[chosen.numpy()])
            yield augment(pixels, options.max_shift, rng), labels[chosen]


def train(classifier: FeatureClassifier, data: ImageData, options: Options, device: torch.device) -> None:
    """Train `classifier` in place."""
    rng = torch.Generator().manual_seed(options.seed)
    steps = options.num_train_epochs * max(len(data.labels) // options.train_batch_size, 1)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=steps, pct_start=0.2)
    half = options.mixed_precision == "bf16"
    classifier.train()
    with tqdm(total=steps, desc="Training the classifier", unit="step", disable=None) as bar:
        for _ in range(options.num_train_epochs):
            for x, labels in batches(data, options, rng):
                x = x.to(device, memory_format=torch.channels_last)
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    loss = cross_entropy(classifier(x).float(), labels.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.3f}")


CARD = """---
library_name: diffusers
license: apache-2.0
pipeline_tag: image-classification
---
# {name}

A residual network of {parameters:,} parameters. The samples of generators are compared with real images in its
features: class accuracy, Frechet distance, precision and recall (`python -m training.evaluate`). **It is for measuring
only.** No generator is trained with it, so that the metrics stay independent of them; it is no general classifier.

Test accuracy {test_accuracy:.2%} on {test_samples:,} images, after {epochs} passes over {train_samples:,}
({train_seconds:,.0f} seconds). Settings, versions and fingerprints of the data are in metrics.json.

Images ({channels}, {size}, {size}) in [-1, 1]; classes: {classes}.

```python
from training.metrics.features import FeatureClassifier

classifier = FeatureClassifier.from_pretrained("model_cards/{name}").eval()
features = classifier.features(pixels)  # (N, {width})
logits = classifier(pixels)  # (N, {num_classes})
```

Numbers are comparable only in the same features: metrics.json of a model names the weights of this network.
"""


def card(folder: Path) -> str:
    """The README of a trained classifier, from its config.json and metrics.json."""
    config, metrics = (json.loads((folder / name).read_text()) for name in ("config.json", "metrics.json"))
    return CARD.format(
        name=folder.name,
        epochs=metrics["settings"]["num_train_epochs"],
        channels=config["in_channels"],
        size=config["sample_size"],
        classes=", ".join(config["class_names"] or map(str, range(config["num_classes"]))),
        width=config["block_out_channels"][-1],
        num_classes=config["num_classes"],
        **metrics,
    )


def load(options: Options, split: str, max_samples: int | None = None) -> ImageData:
    """Load one split. Raises ValueError if it has no labels."""
    data = load_images(
        dataset_name=options.dataset_name,
        train_data_dir=options.train_data_dir,
        split=split,
        resolution=options.resolution,
        max_samples=max_samples,
    )
    if data.labels is None:
        raise ValueError(f"{options.dataset_name or options.train_data_dir} has no labels: a classifier needs them")
    return data


def run(options: Options) -> dict:
    """Train, measure and save; returns the content of metrics.json."""
    for name in ("num_train_epochs", "train_batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(options, name)}")
    data, test = load(options, "train", options.max_train_samples), load(options, options.test_split)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    classifier = FeatureClassifier(
        in_channels=data.images.shape[1],
        num_classes=len(data.class_names or ()) or int(data.labels.max()) + 1,
        sample_size=data.images.shape[-1],
        class_names=data.class_names,
        dataset_fingerprint=data.fingerprint,
    ).to(device, memory_format=torch.channels_last)
    began = time.perf_counter()
    train(classifier, data, options, device)
    seconds = time.perf_counter() - began
    _, recognised = extract(classifier, test.images, "test images")
    metrics = {
        "test_accuracy": round(float(np.mean(recognised == test.labels)), 4),
        "test_samples": len(test.labels),
        "train_samples": len(data.labels),
        "train_seconds": round(seconds, 1),
        "parameters": classifier.num_parameters(),
        "dataset_fingerprint": {"train": data.fingerprint, options.test_split: test.fingerprint},
        "settings": asdict(options),
        "versions": versions(),
    }
    folder = Path(options.output_dir)
    classifier.to("cpu", memory_format=torch.contiguous_format).save_pretrained(folder)
    write_json(folder / "metrics.json", metrics)
    write_whole(folder / "README.md", card(folder).encode())
    return metrics


def main() -> None:
    """The command line."""
    (options,) = HfArgumentParser(Options, description=__doc__.splitlines()[0]).parse_args_into_dataclasses()
    try:
        metrics = run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"test accuracy {metrics['test_accuracy']:.2%} on {metrics['test_samples']} images: {options.output_dir}")


if __name__ == "__main__":
    main()
