"""Our side of the training benchmarks: our trainer, and the networks that both sides train."""

from dataclasses import replace
from pathlib import Path

from diffusers import UNet2DModel

from benchmarks.stock import reset_accelerate
from training.data import ImageData, load_images
from training.loop import Trainer
from training.networks.build import build_network
from training.objectives.conditions import class_names_of
from training.objectives.denoising import Denoising
from training.recipes import Recipe
from training.train import parse

NETWORK_HELP = "recipe, stock (a plain UNet2DModel of 2.5 M parameters at 32x32), or a JSON file with a config"
STOCK_SIZE = 32


def our_recipe(name: str, dataset_name: str, batch_size: int, **changes: object) -> tuple[Recipe, Denoising.Options]:
    """A recipe with `changes` to its flags and without trackers, and the options of its objective.

    Raises:
        ValueError: no such recipe, one that fine-tunes, or a value out of range.
    """
    recipe, options = parse(["--recipe", name, "--dataset_name", dataset_name, "--report_to", "none"])
    if recipe.pretrained_model_name_or_path is not None:
        raise ValueError(f"recipe must be one that trains from scratch, as the stock loop does; {name} fine-tunes")
    return replace(recipe, train_batch_size=batch_size, **changes), options


def load_data(recipe: Recipe, network: str) -> ImageData:
    """Load the training images, which must be square, in the size that `network` ("stock" or another) takes."""
    data = load_images(
        dataset_name=recipe.dataset_name, resolution=STOCK_SIZE if network == "stock" else recipe.resolution
    )
    _, _, height, width = data.images.shape
    if height != width:
        raise ValueError(f"dataset_name must hold square images, {recipe.dataset_name} has {width}x{height}")
    return data


def new_network(network: str, recipe: Recipe, data: ImageData, num_class_embeds: int | None) -> UNet2DModel:
    """A new U-Net for the value of `--network`.

    Raises:
        ValueError: no such file, or a config that does not fit the data.
    """
    if network == "stock":
        return UNet2DModel(
            sample_size=STOCK_SIZE,
            in_channels=data.images.shape[1],
            out_channels=data.images.shape[1],
            block_out_channels=(32, 64, 128),
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
            layers_per_block=1,
            norm_num_groups=8,
            num_class_embeds=num_class_embeds,
        )
    if network != "recipe" and not Path(network).exists():
        raise ValueError(f"network must be recipe, stock or a JSON file, got {network!r}")
    config = recipe.model_config_name_or_path if network == "recipe" else network
    return build_network(replace(recipe, model_config_name_or_path=config), data, num_class_embeds)


def our_trainer(recipe: Recipe, options: Denoising.Options, data: ImageData, network: str) -> Trainer:
    """Our trainer, ready for `update()`; it writes no files."""
    names = class_names_of(data) if options.class_conditional else None
    unet = new_network(network, recipe, data, len(names) + 1 if names else None)
    reset_accelerate()
    return Trainer(recipe, data, Denoising(options, unet, names))
