"""The stage of a cascade that a run goes on from: the first, or that which enlarges images of --low_resolution."""

from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline, SchedulerMixin
from torch import nn

from pipelines import CascadePipeline
from pipelines.cascade_stages import NETWORKS
from pipelines.facts import Facts
from training.model_index import FILE, parse_index
from training.networks.open import load_pipeline, pretrained_json


@dataclass(frozen=True)
class Stage:
    """What a run takes over of a stage, by the names that pipelines of one network have."""

    unet: nn.Module
    scheduler: SchedulerMixin
    class_names: list[str] | None
    facts: Facts
    config: dict[str, Any]

    @property
    def null_label(self) -> int | None:
        """The label that means "no class"."""
        return self.facts.null_label


def load_start(name_or_path: str, low_resolution: int | None) -> DiffusionPipeline | Stage:
    """The pipeline to go on from or, of a cascade, its stage.

    Raises:
        ValueError: no such stage.
    """
    if low_resolution is not None:
        name, _ = enlarging(name_or_path, low_resolution)
    pipeline = load_pipeline(name_or_path)
    if not isinstance(pipeline, CascadePipeline):
        return pipeline
    stage = 0 if low_resolution is None else NETWORKS.index(name)
    network = pipeline.networks[stage]
    facts = Facts(network.config, last_label_is_null=pipeline.config.last_label_is_null)
    path = pipeline.config.paths.get(NETWORKS[stage])
    return Stage(network, pipeline.schedulers[stage], pipeline.class_names, facts, {"path": path})


def enlarging(name_or_path: str, low_resolution: int) -> tuple[str, dict[str, Any]]:
    """The name and the config of the network in a cascade that enlarges images of this side, without its weights.

    Raises:
        ValueError: no cascade, or none of its stages does.
    """
    index, found = parse_index(pretrained_json(name_or_path, FILE)[1]), {}
    if "unet_2" not in index.components:
        raise ValueError(
            "pretrained_model_name_or_path must be a cascade, or a stage of one, with --low_resolution, got a "
            f"{index.class_name}"
        )
    before = index.content.get("base_size")
    for name in (name for name in NETWORKS if name in index.components):
        config = pretrained_json(name_or_path, f"{name}/config.json")[1]
        found |= {} if before is None else {before: (name, config)}
        before = config["sample_size"]
    if low_resolution not in found:
        allowed = " or ".join(map(str, found))
        raise ValueError(
            f"low_resolution must be {allowed}, the side of images that {name_or_path} enlarges, got {low_resolution}"
        )
    return found[low_resolution]
