"""Convert a published checkpoint to a folder that diffusers loads.

    python -m training.convert guided-diffusion --unet 64x64_diffusion.pt --classifier 64x64_classifier.pt \\
        --flags imagenet-64 --out adm-64
    python -m training.convert improved-diffusion --unet ema.pt --out mine \\
        --flags "--image_size 64 --num_channels 128 --num_res_blocks 3 --learn_sigma True"
    python -m training.convert latent-diffusion --unet model.ckpt --config config.yaml --out ldm-celebahq

OpenAI's guided-diffusion (ADM) and improved-diffusion are converted with the flags in their READMEs and scripts, or
with the name of a published set of flags. A U-Net becomes a DDPMPipeline; a U-Net and a classifier become a
ClassifierGuidancePipeline. Both take the published ancestral steps (`timestep_spacing` "linspace"), and the command
prints what `--timestep_respacing` is in diffusers. A super-resolution U-Net becomes a CascadePipeline that enlarges
images, and `python -m training.cascade OUTPUT BASE UPSAMPLER` puts it behind a model of its smaller images. An
unconditional latent-diffusion model of CompVis, whose file also holds the autoencoder, becomes a
LatentDiffusionPipeline.

Weights may be wrapped, under `state_dict`, `ema` or with `module.` before their names: the command says which it takes,
averaged ones first. Flags may be pasted as they are, with backslashes at the ends of lines and the flags of training.

The flags of the attention cannot be checked against the weights: --num_heads, --num_head_channels and
--use_new_attention_order must be those that the model was trained with. conversion/flags.py lists what each flag does.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from diffusers import DDPMScheduler, DiffusionPipeline, ModelMixin, UNet2DModel
from torch import Tensor

from pipelines import CascadePipeline, ClassifierGuidancePipeline, DDPMPipeline, NoisyClassifier
from pipelines.staging import staged
from training.conversion.architecture import (
    Architecture,
    classifier_architecture,
    parameter_count,
    unet_architecture,
)
from training.conversion.checkpoint import check_finite, read_state_dict
from training.conversion.flag_checks import check_flags
from training.conversion.flags import CLASSIFIER, PATHS, PUBLISHED, SAMPLING, TRAINING, Flags, parse_flags
from training.conversion.latent import read_latent
from training.conversion.respacing import spacing_for
from training.conversion.weights import expected_shapes, fill, shapes_of


def convert(family: str, unet: str, flags: str, out: str | Path, classifier: str | None = None) -> None:
    """Write the folder `out` from published files; `flags` is a published set's name or a line of flags.

    Raises:
        ValueError: flags, files or a folder that do not fit; nothing has been written then.
    """
    out, given = _checked_out(out), parse_flags(family, flags)
    for path in (unet, classifier):
        if path is not None and not Path(path).is_file():
            raise ValueError(f"no such file: {path}")
    _check_combination(given, classifier)
    scheduler = build_scheduler(given)
    guide = None if classifier is None else convert_classifier(classifier, given)
    network = convert_unet(unet, given)
    if given.super_resolution:
        _write_pipeline(out, _upsampler(network, scheduler, given))
    elif guide is None:
        _write_pipeline(out, DDPMPipeline(network, scheduler))
    else:
        _write_pipeline(out, ClassifierGuidancePipeline(network, scheduler, guide))


def convert_latent(checkpoint: str, config: str, out: str | Path) -> None:
    """Write the folder `out` from a checkpoint of latent-diffusion and its config.yaml.

    Raises:
        ValueError: files or a folder that do not fit; nothing has been written then.
    """
    out = _checked_out(out)
    _write_pipeline(out, read_latent(checkpoint, config))


def _checked_out(out: str | Path) -> Path:
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out must be a new or an empty folder, got {out}")
    return out


def _check_combination(flags: Flags, classifier: str | None) -> None:
    concern = ", because they only concern "
    for unused, why in ((PATHS, ""), (SAMPLING, f"{concern}sampling"), (TRAINING, f"{concern}training")):
        given = sorted(flags.given & set(unused))
        if given:
            print(f"ignored{why}: {', '.join(given)}")
    if flags.timestep_respacing:
        print(f"--timestep_respacing {flags.timestep_respacing}: {spacing_for(flags)}")
    if classifier is None:
        unused = sorted(flags.given & set(CLASSIFIER))
        if unused:
            print(f"ignored without --classifier: {', '.join(unused)}")
        return
    if flags.family != "guided-diffusion":
        raise ValueError(f"--classifier: {flags.family} has no classifiers, guided-diffusion has")
    if flags.super_resolution:
        raise ValueError("--classifier: no pipeline here steers a super-resolution network")
    if flags.rescale_timesteps and flags.diffusion_steps != 1000:
        raise ValueError("--classifier: a NoisyClassifier cannot scale the timestep, as --rescale_timesteps asks for")


def build_scheduler(flags: Flags) -> DDPMScheduler:
    """The published process: betas, prediction type, variance, clipping and spacing of steps.

    Raises:
        ValueError: so few steps that a linear beta would be above 1.
    """
    steps, scale = (
        flags.diffusion_steps,
        1000 / flags.diffusion_steps,
    )  # more steps have smaller betas, so that abar_T stays the same
    if flags.noise_schedule == "linear" and 0.02 * scale > 1:
        raise ValueError(f"--flags: diffusion_steps must be at least 20 with the linear schedule, got {steps}")
    fixed = "fixed_small" if flags.sigma_small else "fixed_large"
    return DDPMScheduler(
        num_train_timesteps=steps,
        beta_start=1e-4 * scale,
        beta_end=0.02 * scale,
        beta_schedule="linear" if flags.noise_schedule == "linear" else "squaredcos_cap_v2",
        prediction_type="sample" if flags.predict_xstart else "epsilon",
        variance_type="learned_range" if flags.learn_sigma else fixed,
        clip_sample=flags.clip_denoised,
        timestep_spacing="linspace",
    )


def convert_unet(path: str, flags: Flags) -> UNet2DModel:
    """The U-Net in a file.

    Raises:
        ValueError: the file cannot be read, or the flags describe another network.
    """
    architecture, state = unet_architecture(flags), read_state_dict(path)
    channels = _channels(state, flags)
    inputs, outputs = channels * (2 if flags.super_resolution else 1), channels * (2 if flags.learn_sigma else 1)
    model = architecture.build_unet(
        inputs, outputs, _num_classes(state, "label_emb.weight", 1000) if flags.class_cond else None
    )
    return _with_weights(path, flags, model, architecture, state)


def convert_classifier(path: str, flags: Flags) -> NoisyClassifier:
    """The classifier in a file.

    Raises:
        ValueError: the file cannot be read, or the flags describe another network.
    """
    architecture, state = classifier_architecture(flags), read_state_dict(path)
    last = {"attention": "out.2.c_proj", "adaptive": "out.3", "spatial": "out.2", "spatial_v2": "out.3"}
    num_classes = _num_classes(state, f"{last[flags.classifier_pool]}.bias", 1000)
    model = architecture.build_classifier(_channels(state, flags), num_classes, flags.classifier_pool)
    return _with_weights(path, flags, model, architecture, state, classifier=True)


def _with_weights(
    path: str, flags: Flags, model: ModelMixin, architecture: Architecture, state: dict[str, Tensor], **kind: bool
) -> ModelMixin:
    check_flags(path, flags, expected_shapes(model, architecture), shapes_of(state), **kind)
    check_finite(path, state)
    fill(model, state, architecture)
    print(f"{path}: {len(state)} tensors, {parameter_count(model) / 1e6:.1f} M weights -> {type(model).__name__}")
    return model


def _channels(state: dict[str, Tensor], flags: Flags) -> int:
    """Channels of an image: 1 if the first convolution of the file takes one, else 3 as published."""
    weight = state.get("input_blocks.0.0.weight")
    inputs = 2 if flags.super_resolution else 1
    return 1 if weight is not None and weight.ndim == 4 and weight.shape[1] == inputs else 3


def _num_classes(state: dict[str, Tensor], key: str, default: int) -> int:
    """The number of classes, from the rows of a weight or `default` without it: the scripts have no flag for it."""
    return len(state[key]) if key in state and state[key].ndim else default


def _upsampler(network: UNet2DModel, scheduler: DDPMScheduler, flags: Flags) -> CascadePipeline:
    """The stage of a cascade. The published ones are trained on smaller images as they are, without augmentation."""
    if not flags.small_size < flags.large_size:
        raise ValueError(
            f"--flags: small_size must be less than large_size, {flags.large_size}, got {flags.small_size}"
        )
    stage = {"unet_2": network, "scheduler_2": scheduler, "base_size": flags.small_size, "max_augmentations": [0.0]}
    return CascadePipeline(**stage, last_label_is_null=not flags.class_cond)


def _write_pipeline(out: Path, pipeline: DiffusionPipeline) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with staged(out) as temporary:  # renamed in the end, so that a failure leaves nothing behind
        pipeline.save_pretrained(temporary)
        os.replace(temporary, out)
    print(f"wrote {out}")
    print(f"a {type(pipeline).__name__}: DiffusionPipeline.from_pretrained({str(out)!r}, trust_remote_code=True)")


def _attach_flags(arguments: list[str]) -> list[str]:
    """Turn `--flags --x` into `--flags=--x`: argparse would take a lone `--x` for a flag of this command."""
    if "--flags" not in arguments[:-1]:
        return arguments
    place = arguments.index("--flags")
    return [*arguments[:place], f"--flags={arguments[place + 1]}", *arguments[place + 2 :]]


def main(arguments: list[str] | None = None) -> None:
    """The command line. Bad input exits with a one-line message."""
    parser = argparse.ArgumentParser(
        prog="python -m training.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "family", choices=[*PUBLISHED, "latent-diffusion"], help="the repository that the files come from"
    )
    parser.add_argument("--unet", required=True, help="the .pt file of the U-Net")
    parser.add_argument("--classifier", help="the .pt file of a noisy classifier (guided-diffusion)")
    sets = "; ".join(f"{family}: {', '.join(names)}" for family, names in PUBLISHED.items())
    parser.add_argument("--flags", default="", help=f"flags in quotes, or the name of a published set of flags. {sets}")
    parser.add_argument("--config", help="the config.yaml of a latent-diffusion model, instead of flags")
    parser.add_argument("--out", required=True, help="a new or empty folder to write")
    options = parser.parse_args(_attach_flags(sys.argv[1:] if arguments is None else arguments))
    try:
        if options.family == "latent-diffusion":
            if not options.config or options.flags or options.classifier:
                raise ValueError("latent-diffusion takes --unet, --config and --out")
            convert_latent(options.unet, options.config, options.out)
        elif options.config:
            raise ValueError(f"--config is of latent-diffusion; {options.family} takes --flags")
        else:
            convert(options.family, options.unet, options.flags, options.out, options.classifier)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
