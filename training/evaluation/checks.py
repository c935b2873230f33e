"""Checks, before any work is done, that a model, the data and a feature network fit each other."""

from __future__ import annotations

from torch import nn

from pipelines.about import of_class
from training.data import ImageData
from training.data.sources import evenly_spaced
from training.evaluation.options import Options
from training.evaluation.sampling import FLOW_SOLVERS, Model
from training.metrics.sample_quality import NEIGHBOURS


def dimensions(shape: tuple[int, ...]) -> str:
    """(C, H, W) as text."""
    return f"{shape[0]} channel(s) of {shape[2]}x{shape[1]}"


def check_features(options: Options, network: nn.Module, test: ImageData) -> None:
    """Raise ValueError unless the network takes such images. Only our classifiers are particular about them."""
    if not hasattr(network, "head"):
        return
    size = network.config.sample_size
    expected = (network.config.in_channels, size, size)
    if test.images.shape[1:] != expected:
        raise ValueError(
            f"features must have been trained on images like those of dataset_name: {options.features} takes "
            f"{dimensions(expected)}, {options.dataset_name} has {dimensions(test.images.shape[1:])}"
        )


def check_splits(options: Options, train: ImageData, test: ImageData) -> None:
    """Raise ValueError unless both splits hold enough images, all of one shape."""
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"train_split and test_split must hold images of one shape: {dimensions(train.images.shape[1:])} and "
            f"{dimensions(test.images.shape[1:])}"
        )
    for name, data in ((options.train_split, train), (options.test_split, test)):
        if len(data.images) <= NEIGHBOURS:
            raise ValueError(f"split {name!r} must hold more than {NEIGHBOURS} images, got {len(data.images)}")


def check_fit(model: Model, options: Options, network: nn.Module, test: ImageData) -> None:
    """Raise ValueError unless model, data and network fit each other, and the model takes the settings."""
    if model.shape != test.images.shape[1:]:
        raise ValueError(
            f"model and dataset_name must agree in size: {model.name} draws {dimensions(model.shape)}, "
            f"{options.dataset_name} has {dimensions(test.images.shape[1:])}"
        )
    for name in ("guidance_scale", "guidance_interval"):
        if getattr(options, name) is not None and name not in model.arguments:
            raise ValueError(f"{name} must be left out: {type(model.pipe).__name__} does not take it")
    unknown = [name for name in options.call_arguments if name not in model.arguments]
    if unknown:
        raise ValueError(f"pipeline_arguments must be of {type(model.pipe).__name__}, which has no {unknown[0]}")
    check_schedulers(model, options)
    check_steps(model, options)
    if model.num_classes is not None and hasattr(network, "head"):
        check_classes(model, options, network, test)


def check_schedulers(model: Model, options: Options) -> None:
    """Raise ValueError for a scheduler of another family than the model's own, or that its class does not step by."""
    if options.scheduler and model.num_stages > 1:
        raise ValueError(f"scheduler must be left out: each stage of {model.name} has its own")
    about = of_class(type(model.pipe).__name__)
    others = about.says.get("samplers", {}) if about else {}
    for name in set(options.scheduler or []) & set(others):
        if name != model.scheduler:
            raise ValueError(
                f"scheduler must not be {name}: a {type(model.pipe).__name__} takes steps of its own whichever it has, "
                f"and {others[name]} takes those of {name}"
            )
    if "beta_schedule" in model.own_scheduler.config:
        return
    others = FLOW_SOLVERS if model.is_flow and "sampler" not in model.arguments else ()
    for name in options.scheduler or []:
        if name != model.scheduler and name not in others:
            raise ValueError(
                f"scheduler must be left out: {model.name} has a {model.scheduler}, whose steps {name} cannot take"
            )


def prompts_for(model: Model, options: Options, data: ImageData) -> tuple[str, ...]:
    """The prompts of a model that is told some: captions of the images, evenly spaced if there are fewer samples.

    Raises:
        ValueError: the data have no captions, or there are no prompts to choose.
    """
    if not model.is_told_prompts:
        if options.training_prompts:
            raise ValueError(f"training_prompts must be left out: {model.name} is told no prompts")
        return ()
    if data.captions is None:
        raise ValueError(f"dataset_name must have captions for {model.name}, which is told prompts: a column 'text'")
    chosen = evenly_spaced(len(data.captions), options.num_samples)
    return tuple(caption if isinstance(caption, str) else caption[0] for caption in (data.captions[i] for i in chosen))


def check_steps(model: Model, options: Options) -> None:
    """Raise ValueError for more steps than the noise process has."""
    most = model.own_scheduler.config.get("num_train_timesteps")
    for steps in options.num_inference_steps:
        if most is not None and steps > most:
            raise ValueError(f"num_inference_steps must be at most {most}, the length of the schedule, got {steps}")


def check_classes(model: Model, options: Options, network: nn.Module, test: ImageData) -> None:
    """Raise ValueError unless model, network and data have the same classes, as class accuracy needs."""
    if test.labels is None:
        raise ValueError(
            f"dataset_name must have labels: {model.name} is class-conditional, and class accuracy needs them"
        )
    theirs, ours = model.class_names, network.config.class_names
    differ = theirs and ours and [name.lower() for name in theirs] != [name.lower() for name in ours]
    if model.num_classes != network.config.num_classes or differ:
        raise ValueError(
            f"model and features must know the same classes: {model.name} has {model.num_classes} "
            f"({', '.join(theirs or ['no names'])}), {options.features} has {network.config.num_classes} "
            f"({', '.join(ours or ['no names'])})"
        )


def check_bits(model: Model, options: Options, test: ImageData) -> None:
    """Raise ValueError if bits/dim are requested that cannot be measured of this model."""
    for name in ("bits_per_dim", "ode_bits_per_dim"):
        if getattr(options, name):
            _check_likelihood(model, options, name, test)
    if options.bits_per_dim:
        _check_bound(model, options)


def _check_likelihood(model: Model, options: Options, name: str, test: ImageData) -> None:
    if getattr(options, name) > len(test.images):
        raise ValueError(
            f"{name} must be at most {len(test.images)}, the images of {options.test_split!r}, "
            f"got {getattr(options, name)}"
        )
    if not hasattr(model.pipe, "resolve_labels"):
        raise ValueError(f"{name} must be 0 for {type(model.pipe).__name__}, which is no pipeline of this project")
    if "max_augmentations" in model.pipe.config:
        raise ValueError(
            f"{name} must be 0 for {type(model.pipe).__name__}: each of its stages has a density of its own"
        )
    if getattr(model.pipe, "vae", None) is not None:
        raise ValueError(f"{name} must be 0: {model.name} diffuses latents, whose likelihood is not one of pixels")
    if model.facts.num_class_embeds is not None and model.facts.null_label is None:
        raise ValueError(f"{name} must be 0: {model.name} cannot be evaluated without a class")


def _check_bound(model: Model, options: Options) -> None:
    most = model.own_scheduler.config.get("num_train_timesteps", 0)
    if options.bits_per_dim_steps > most:
        raise ValueError(
            f"bits_per_dim_steps must be at most {most}, the length of the schedule, got {options.bits_per_dim_steps}"
        )
    if "sigma_max" in model.own_scheduler.config:
        raise ValueError(
            f"bits_per_dim must be 0: {model.name} was trained on the VE process, which has no variational bound here; "
            "--ode_bits_per_dim measures its likelihood"
        )
    if "learned_range" in (options.variance_type or []) and not model.facts.learns_variance:
        raise ValueError(f"variance_type must not be learned_range: {model.name} has learned no variance")


def own_variance(model: Model) -> str:
    """The variance that a model samples with, given by its output channels or its scheduler."""
    if model.facts.learns_variance:
        return "learned_range"
    large = "large" in model.own_scheduler.config.get("variance_type", "fixed_small")
    return "fixed_large" if large else "fixed_small"
