"""The stages of a cascade: their networks and schedulers by number, and whether these fit one another.

Stage 0 draws small images, and is missing from a pipeline that only enlarges images of a user's own; stages 1 and 2
enlarge. What a call says of all stages by one number, and what each network is told of labels or prompts, is here, too.
"""

from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from .base_413f06f7 import check_count, check_number
from .conditions_5712ea1d import Classes, Conditions, Labels, Nulls
from .facts_c265849c import Facts
from .flow_matching_8b11bae0 import find_path, is_of_flows
from .low_resolution_e75463e0 import is_told_levels
from .run_32486b83 import plain
from .text_a01b215d import (
    check_prompts,
    check_text_encoder,
    takes_embedding,
    takes_tokens,
    text_conditions,
    unread,
    warn_of_unread,
)

NETWORKS = ("unet", "unet_2", "unet_3")  # and scheduler, scheduler_2, scheduler_3
PerStage = float | list[float] | tuple[float, ...]


class CascadeStages:
    """What a pipeline of one to three stages is made of, without the drawing: a part of `CascadePipeline`."""

    @property
    def networks(self) -> dict[int, torch.nn.Module]:
        """By stage; the first is missing from a pipeline that only enlarges images."""
        found = {stage: getattr(self, name) for stage, name in enumerate(NETWORKS)}
        return {stage: network for stage, network in found.items() if network is not None}

    @property
    def schedulers(self) -> dict[int, SchedulerMixin]:
        """By stage."""
        return {stage: getattr(self, NETWORKS[stage].replace("unet", "scheduler")) for stage in self.networks}

    @property
    def num_stages(self) -> int:
        """1 to 3, one that is missing included."""
        return max(self.networks) + 1

    @property
    def denoising_network(self) -> torch.nn.Module:
        """That of the first stage that there is."""
        return next(iter(self.networks.values()))

    @property
    def denoising_networks(self) -> list[torch.nn.Module]:
        """All networks whose evaluations count as `nfe`."""
        return list(self.networks.values())

    @property
    def channels(self) -> int:
        """Of an image."""
        config = self.denoising_network.config
        return config.in_channels if self.unet is not None else config.in_channels // 2

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(H, W) of each stage's images."""
        found = [Facts(network.config).sample_shape[1:] for network in self.networks.values()]
        base = self.config.base_size
        return found if self.unet is not None else [(base, base) if isinstance(base, int) else tuple(base), *found]

    @property
    def classes(self) -> Classes:
        """What labels mean: to the first network of classes, as all of them know the same."""
        last = self.config.last_label_is_null
        told = [Facts(network.config, last_label_is_null=last) for network in self.networks.values()]
        facts = next((one for one in told if one.num_class_embeds is not None), told[0])
        required = facts.num_class_embeds is not None and facts.null_label is None
        return Classes(facts.num_classes, self.class_names, facts.null_label, required)

    @property
    def takes_prompts(self) -> bool:
        """Whether the networks are told prompts, rather than classes or nothing."""
        return self.text_encoder is not None

    def unread(self, prompt: str) -> str:
        """What of a prompt is not read, as the tokenizer does not know it or it is too long; "" for most."""
        return unread(self.tokenizer, prompt) if self.takes_prompts else ""

    def _own(self, name: str) -> list[Any]:
        """What the config has for each stage but the first, by the name of the list; [] for nothing."""
        return self.config[name] or []

    def _levels(self, asked: PerStage | None) -> list[float]:
        """The level of augmentation of each stage but the first; ValueError outside of what it was trained with."""
        asked = self._own("augmentations") if asked is None else asked
        levels = self._each("conditioning_augmentation", asked, self.num_stages - 1)
        for level, highest in zip(levels, self._own("max_augmentations"), strict=True):
            check_number("conditioning_augmentation", level, 0.0, highest)
        return levels

    @staticmethod
    def _each(name: str, value: Any, count: int) -> list[Any]:
        """`value` for each of `count` stages, or a list with one for each."""
        given = list(value) if isinstance(value, (list, tuple, np.ndarray, Tensor)) else [value] * count
        if len(given) != count:
            raise ValueError(f"{name} must be a number, or a list with one for each of {count} stages, got {value!r}")
        return [plain(one) for one in given]

    def _of_stages(self, name: str, asked: Any, first: int, usual: list[Any]) -> list[Any]:
        """What a call asks for in each stage; with one number, those after the `first` take the `usual`, if any."""
        found = self._each(name, asked, self.num_stages)
        is_number = not isinstance(asked, (list, tuple, np.ndarray, Tensor))
        return [*found[: first + 1], *usual[first:]] if usual and is_number else found

    def _of_stage(self, stage: int, given: dict[str, Any], count: int) -> tuple[Conditions, Nulls]:
        """What a stage's network is told of labels or prompts, and what instead of that to guide away from it."""
        config = self.networks[stage].config
        if "prompts" in given:
            if not takes_tokens(config) and not takes_embedding(config):
                return {}, {}
            parts, device = (config, self.text_encoder, self.tokenizer), self._execution_device
            wanted, unwanted = given["prompts"], given["negative_prompts"]
            conditions = text_conditions(*parts, wanted, device)
            return conditions, {} if wanted == unwanted else text_conditions(*parts, unwanted, device)
        facts = Facts(config, last_label_is_null=self.config.last_label_is_null)
        if facts.num_class_embeds is None:
            return {}, {}
        if given["labels"] is None:
            return {"class_labels": torch.full((count,), facts.null_label)}, {}
        return {"class_labels": given["labels"]}, {} if facts.null_label is None else {"class_labels": facts.null_label}

    def _given(
        self, prompt: Labels, class_labels: Labels, negative_prompt: str | list[str] | None, batch_size: int | None
    ) -> dict[str, Any]:
        """Prompts or labels, one per image, and how many images; ValueError for what the networks are not told."""
        if batch_size is not None:
            check_count("batch_size", batch_size)
        if self.takes_prompts:
            if class_labels is not None:
                raise ValueError(f"class_labels must be None for networks that take prompts, got {class_labels!r}")
            wanted = check_prompts("prompt", "" if prompt is None else prompt, batch_size)
            unwanted = check_prompts("negative_prompt", "" if negative_prompt is None else negative_prompt, len(wanted))
            warn_of_unread(self.tokenizer, wanted + unwanted)
            return {"prompts": wanted, "negative_prompts": unwanted, "count": len(wanted)}
        if negative_prompt is not None:
            raise ValueError(f"negative_prompt must be None for networks that take no prompts, got {negative_prompt!r}")
        if prompt is not None and class_labels is not None:
            raise ValueError(f"prompt must be None where class_labels are given, got {prompt!r}")
        asked = prompt if class_labels is None else class_labels
        labels, count = self.classes.resolve(asked, batch_size)
        return {"labels": None if asked is None else labels, "count": count}

    # ------------------------------------------------------------------------------------------------ what fits what

    def _check_parts(self) -> None:
        """Raise ValueError where the parts do not fit one another."""
        pairs = [("text_encoder", "tokenizer"), *((name, name.replace("unet", "scheduler")) for name in NETWORKS)]
        for one, other in pairs:
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                missing = one if getattr(self, one) is None else other
                raise ValueError(f"{missing} must be given, as {one} and {other} go together, got None")
        if not self.networks:
            raise ValueError("unet must be given, or unet_2 to enlarge images, got neither")
        if self.unet_2 is None and self.unet_3 is not None:
            raise ValueError("unet_2 must be given with unet_3, got None")
        if self.unet is None and self.config.base_size is None:
            raise ValueError("base_size must be given without a unet: the size of images to enlarge, got None")
        wanted = self.num_stages - 1
        for name in ("max_augmentations", "enlarging_steps", "enlarging_guidance_scales"):
            if len(self._own(name)) != wanted and (self._own(name) or name == "max_augmentations"):
                raise ValueError(f"{name} must have {wanted} entries, got {self.config[name]}")
        for level in self._own("max_augmentations"):
            check_number("max_augmentations", level, 0.0, 0.999)
        for count in self._own("enlarging_steps"):
            check_count("enlarging_steps", count)
        for scale in self._own("enlarging_guidance_scales"):
            check_number("enlarging_guidance_scales", scale, 0.0)
        known = [NETWORKS[stage] for stage in self.networks]
        for name, path in self.config.paths.items():
            if name not in known:
                raise ValueError(f"paths must be by the names of networks, {', '.join(known)}, got {name!r}")
            find_path(path)
        for stage in self.networks:
            self._check_stage(stage)
        known = {Facts(network.config).num_class_embeds for network in self.networks.values()} - {None}
        if len(known) > 1 and self.text_encoder is None:
            raise ValueError(f"num_class_embeds must be the same in all networks with classes, got {sorted(known)}")
        self._levels(None)

    def _check_stage(self, stage: int) -> None:
        name, config = NETWORKS[stage], self.networks[stage].config
        is_flow = name in self.config.paths
        if is_of_flows(self.schedulers[stage]) != is_flow:
            allowed = "a FlowMatchEulerDiscreteScheduler or one with use_flow_sigmas" if is_flow else "one of diffusion"
            got = type(self.schedulers[stage]).__name__
            raise ValueError(f"{name.replace('unet', 'scheduler')} must be {allowed} for its network, got {got}")
        if self.text_encoder is not None and (takes_tokens(config) or takes_embedding(config)):
            check_text_encoder(config, self.text_encoder)
        if stage == 0:
            return
        channels, size = self.channels, self.sizes[stage]
        if config.in_channels != 2 * channels:
            raise ValueError(
                f"{name} must have {2 * channels} in_channels, x_t and the smaller image, got {config.in_channels}"
            )
        before = self.sizes[stage - 1]
        if not (size[0] > before[0] and size[1] > before[1]):
            raise ValueError(f"{name} must draw larger images than the stage before it, {before}, got {size}")
        if self.config.max_augmentations[stage - 1] > 0 and not is_told_levels(config):
            told = "a time_cond_proj_dim, by which it is told the level of augmentation"
            raise ValueError(f"{name} must have {told}, got {config.get('time_cond_proj_dim')}")


# what the imports above import: diffusers' loader fetches only the files that this one names
from .lora_462a865d import __doc__ as _  # noqa: E402, F401
from .packaging_51c09d16 import __doc__ as _  # noqa: E402, F401
from .saved_files_ce9a389c import __doc__ as _  # noqa: E402, F401
from .staging_5ca18f0b import __doc__ as _  # noqa: E402, F401
from .classifier_free_guidance_a374c9d8 import __doc__ as _  # noqa: E402, F401
from .ddim_73614dd6 import __doc__ as _  # noqa: E402, F401
from .image_inputs_34f57068 import __doc__ as _  # noqa: E402, F401
from .process_713930e3 import __doc__ as _  # noqa: E402, F401
from .repaint_2b0eba8e import __doc__ as _  # noqa: E402, F401
from .from_image_af70dd4e import __doc__ as _  # noqa: E402, F401
from .schedule_a630c80b import __doc__ as _  # noqa: E402, F401
from .solvers_e8ffdf50 import __doc__ as _  # noqa: E402, F401
