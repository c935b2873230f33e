"""The accuracy of a classifier of noisy images, by noise level.

    python -m training.metrics.noise_accuracy model_cards/fashion-classifier-guidance --dataset_name data/fashion

measures a saved classifier (training/evaluation/noise_accuracy.py). Chance is the accuracy of always answering with the
most frequent class.
"""

from __future__ import annotations

import numpy as np
import torch
from tqdm.auto import tqdm

from pipelines import NoiseSchedule
from training.metrics.features import to_input


def noise_levels(schedule: NoiseSchedule) -> list[int]:
    """Five timesteps from 0 to three quarters of the process: 0, 100, 250, 500 and 750 of 1,000."""
    return sorted({int(share * len(schedule)) for share in (0.0, 0.1, 0.25, 0.5, 0.75)})


@torch.inference_mode()
def accuracy_by_noise_level(
    classifier: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    schedule: NoiseSchedule,
    timesteps: list[int],
    seed: int = 0,
    batch_size: int = 250,
) -> dict[int, float]:
    """The share in [0, 1] of 8-bit images (N, C, H, W) that `classifier` recognises at each timestep.

    The noise of image k depends on `seed` + k alone and is the same at every timestep. The classifier maps (x_t, t) to
    logits (N, K), and is left in evaluation mode.

    Raises:
        ValueError: labels that are not one per image, or a timestep outside the schedule.
    """
    if len(images) == 0 or labels.shape != (len(images),):
        raise ValueError(f"labels must be one per image ({len(images)}), got shape {labels.shape}")
    wrong = [t for t in timesteps if not 0 <= t < len(schedule)]
    if wrong or not timesteps:
        raise ValueError(f"timesteps must be in [0, {len(schedule) - 1}], got {wrong or timesteps}")
    device = next(classifier.eval().parameters()).device
    right = dict.fromkeys(timesteps, 0)
    for start in tqdm(range(0, len(images), batch_size), desc="Accuracy", disable=None, leave=False):
        x0 = to_input(images[start : start + batch_size])
        generators = [torch.Generator().manual_seed(seed + start + k) for k in range(len(x0))]
        noise = torch.stack([torch.randn(x0.shape[1:], generator=generator) for generator in generators])
        expected = torch.from_numpy(labels[start : start + batch_size])
        for t in timesteps:
            logits = classifier(schedule.add_noise(x0, noise, t).to(device), t)
            right[t] += int((logits.argmax(1).cpu() == expected).sum())
    return {t: count / len(images) for t, count in right.items()}


def chance(labels: np.ndarray) -> float:
    """The accuracy of always answering with the most frequent class."""
    return float(np.bincount(labels).max() / len(labels))


if __name__ == "__main__":
    from training.evaluation.noise_accuracy import main

    main()
