"""A classifier of noisy images, to guide a diffusion model (Dhariwal & Nichol 2021, app. H).

    L = E [ -log p(y | x_t) ],   x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

t is stratified over the batch. abar is that of the guided pipeline, whose network is not changed.
"""

import inspect
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipelines import ClassifierGuidancePipeline, DDIMPipeline, DDPMPipeline, NoiseSchedule, NoisyClassifier
from training.data import ImageData
from training.metrics.noise_accuracy import accuracy_by_noise_level, chance, noise_levels
from training.networks.open import load_pipeline
from training.objectives.base import Batch, Objective
from training.objectives.conditions import class_names_of, why_unlabelled
from training.randomness import BatchRandom
from training.recipes import Recipe, flag

logger = logging.getLogger(__name__)

STEERED = (DDPMPipeline, DDIMPipeline, ClassifierGuidancePipeline)
MEASURED = 1000  # number of training images on which the accuracy is logged during a run

# the classifier without --model_config_name_or_path
CLASSIFIER: dict[str, Any] = {
    "_class_name": "NoisyClassifier",
    "pool": "attention",
    "patch_size": 2,
    "block_out_channels": [64, 128],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "layers_per_block": 2,
    "attention_head_dim": 64,
    "norm_num_groups": 32,
    "resnet_time_scale_shift": "scale_shift",
}


class NoisyClassification(Objective):
    """`build` the classifier, `loss` of a batch, `pipeline` to save, `diagnostics` to log."""

    @dataclass(frozen=True)
    class Options(Objective.Options):
        """How timesteps are drawn. The schedule and the prediction type are those of the guided pipeline."""

        timestep_sampling: str = flag(
            "stratified", "stratified (one t in each of N equal slices of [0, T)), or uniform"
        )

        def __post_init__(self) -> None:
            """Raise ValueError for values that cannot work, naming the flag."""
            if self.timestep_sampling not in ("stratified", "uniform"):
                raise ValueError(
                    "timestep_sampling must be stratified or uniform for --objective noisy_classifier, "
                    f"got {self.timestep_sampling!r}"
                )

        def check(self, recipe: Recipe) -> None:
            """Raise ValueError unless there is a pipeline to guide, and for an adapter: the classifier is new."""
            if recipe.lora_rank is not None:
                raise ValueError(f"lora_rank must be None with --objective noisy_classifier, got {recipe.lora_rank}")
            if recipe.pretrained_model_name_or_path is None:
                raise ValueError(
                    "pretrained_model_name_or_path must name the pipeline that the classifier will steer, and was not "
                    "given"
                )

    def __init__(
        self,
        options: Options,
        network: nn.Module,
        steered: DiffusionPipeline,
        class_names: tuple[str, ...],
        measured: tuple[np.ndarray, np.ndarray],
        seed: int,
    ) -> None:
        super().__init__(options, network, frozen={"unet": steered.unet})
        self.class_names, self.measured, self.seed = class_names, measured, seed
        self.scheduler = steered.scheduler
        self.schedule = NoiseSchedule.from_scheduler(self.scheduler)

    @classmethod
    def build(cls, recipe: Recipe, options: Options, data: ImageData) -> Self:
        """The objective with a new classifier, or the one that the guided pipeline already has.

        Raises:
            ValueError: data without labels, a pipeline that cannot be guided, or one of another size or other classes.
        """
        if data.labels is None:
            raise ValueError(
                f"objective must be denoising for data without labels, got noisy_classifier{why_unlabelled(data)}"
            )
        steered = load_pipeline(recipe.pretrained_model_name_or_path)
        if not isinstance(steered, STEERED):
            known = ", ".join(kind.__name__ for kind in STEERED)
            raise ValueError(f"pretrained_model_name_or_path must be one of {known}, got a {type(steered).__name__}")
        if steered.sample_shape != data.images.shape[1:]:
            raise ValueError(
                f"resolution must be that of the pipeline to be steered, {_size(steered.sample_shape)}, "
                f"got {_size(data.images.shape[1:])}"
            )
        names = class_names_of(data)
        classifier = steered.components.get("classifier")
        if classifier is None:
            classifier = build_classifier(recipe, data, len(names))
        else:
            _check_classifier(classifier, steered, names, recipe)
        chosen = np.linspace(0, len(data.images) - 1, min(MEASURED, len(data.images))).astype(int)
        measured = (data.images[chosen], data.labels[chosen])
        return cls(options, classifier.requires_grad_(True), steered, names, measured, recipe.seed)

    def loss(self, batch: Batch, rng: BatchRandom) -> Tensor:
        """Mean cross-entropy of a batch, in nats: "images" (N, C, H, W) in [-1, 1], "labels" (N,)."""
        x0 = batch["images"]
        noise = rng.normal("noise", tuple(x0.shape[1:])).to(x0)
        stratified = self.options.timestep_sampling == "stratified"
        share = rng.stratified("t") if stratified else rng.uniform("t").double()
        t = (share * len(self.schedule)).long().to(x0.device)
        logits = self.network(self.schedule.add_noise(x0, noise, t), t)
        return cross_entropy(logits.to(x0.dtype), batch["labels"])

    def pipeline(self, network: nn.Module) -> DiffusionPipeline:
        """The pipeline to save and to draw samples with: the guided network as it was, with `network` as classifier."""
        names = {str(i): name for i, name in enumerate(self.class_names)}
        unet = self.frozen["unet"]
        return ClassifierGuidancePipeline(unet=unet, classifier=network, scheduler=self.scheduler, id2label=names)

    def diagnostics(self, network: nn.Module) -> tuple[dict[str, float], dict[str, Image.Image]]:
        """Accuracy of `network` by noise level on up to 1,000 fixed training images, and its plot."""
        from training.evaluation.plots import accuracy_plot  # imported here, so that other runs do not load matplotlib

        images, labels = self.measured
        levels = noise_levels(self.schedule)
        accuracy = accuracy_by_noise_level(network, images, labels, self.schedule, levels, self.seed)
        plot = accuracy_plot(accuracy, chance(labels), len(self.schedule))
        return {f"accuracy/t={t}": share for t, share in accuracy.items()}, {"accuracy": plot}


def build_classifier(recipe: Recipe, data: ImageData, num_classes: int) -> NoisyClassifier:
    """A new classifier for images of the data's size and channels; its weights depend only on the seed.

    Raises:
        ValueError: a config of another class than NoisyClassifier, or one that cannot take the data.
    """
    config = _classifier_config(recipe)
    _, channels, height, width = data.images.shape
    config |= {"in_channels": channels, "num_classes": num_classes}
    config["sample_size"] = height if height == width else [height, width]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return NoisyClassifier(**config)


def _classifier_config(recipe: Recipe) -> dict[str, Any]:
    name = recipe.model_config_name_or_path
    if name is not None and not (Path(name).is_file() or (Path(name) / "config.json").is_file()):
        raise ValueError(f"model_config_name_or_path must be a JSON file or a folder with config.json, got {name!r}")
    config = dict(CLASSIFIER) if name is None else NoisyClassifier.load_config(name)
    if config.get("_class_name") != "NoisyClassifier":
        raise ValueError(
            f"model_config_name_or_path must be the config of a NoisyClassifier, got {config.get('_class_name')!r}"
        )
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    unknown = sorted(set(config) - set(inspect.signature(NoisyClassifier.__init__).parameters))
    if unknown:
        raise ValueError(f"model_config_name_or_path must hold arguments of NoisyClassifier, got {', '.join(unknown)}")
    return config


def _check_classifier(
    classifier: nn.Module, steered: DiffusionPipeline, names: tuple[str, ...], recipe: Recipe
) -> None:
    """Raise ValueError for a classifier whose training cannot be continued; log what changes."""
    if not isinstance(classifier, NoisyClassifier):
        raise ValueError(
            f"pretrained_model_name_or_path must have a NoisyClassifier to train on, got a {type(classifier).__name__}"
        )
    count = classifier.config.num_classes
    if count != len(names):
        raise ValueError(f"the data must have the {count} classes of the classifier to train on, got {len(names)}")
    if steered.class_names and steered.class_names != list(names):
        logger.warning("the classes change from %s to %s", ", ".join(steered.class_names), ", ".join(names))
    if recipe.model_config_name_or_path is not None:
        logger.warning("the training of the pipeline's classifier continues; model_config_name_or_path is not used")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} channel(s) of {shape[2]}x{shape[1]}"


OBJECTIVE = NoisyClassification
