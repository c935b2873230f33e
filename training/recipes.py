"""The flags of every training run, as a frozen dataclass, and one table with a row for each recipe.

A row holds the flags that differ from the defaults, those of the objective included. The comment above a row has its
command and the score of the shipped model, as `training.evaluate` measured it.
"""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

# the schedulers of diffusers.optimization.get_scheduler that need no further settings
LR_SCHEDULERS = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")


def flag(default: Any, help: str) -> Any:
    """A dataclass field with the help text of its flag in its metadata."""
    return field(default=default, metadata={"help": help.replace("%", "%%")})  # argparse formats its help texts


def check_one_of(settings: Any, **choices: tuple[str, ...]) -> None:
    """Raise ValueError unless each named field has one of its allowed values."""
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(settings, name)!r}")


def check_at_least_one(settings: Any, *names: str) -> None:
    """Raise ValueError unless each named field is at least 1, or None."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_range(settings: Any, **bounds: tuple[float, float]) -> None:
    """Raise ValueError unless each named field is within its bounds, both included."""
    for name, (low, high) in bounds.items():
        if not low <= getattr(settings, name) <= high:
            raise ValueError(f"{name} must be in [{low:g}, {high:g}], got {getattr(settings, name)!r}")


@dataclass(frozen=True)
class Recipe:
    """The settings of every training run, whatever its objective. Flags are named as in diffusers' example scripts."""

    _argument_group_name: ClassVar[str] = "flags of every run"
    FIXED: ClassVar[tuple[str, ...]] = (
        "recipe",
        "objective",
        "resolution",
        "resize",
        "second_ema_decay",
        "validation_share",
        "lora_rank",
        "lora_alpha",
        "lora_target_modules",
    )  # when a run goes on

    recipe: str = flag("", "the recipe whose values are the defaults of the other flags")
    output_dir: str | None = flag(None, "folder for checkpoints, samples and the model [runs/RECIPE]")
    # data
    dataset_name: str | None = flag(None, "Hub id, or a folder of parquet")
    dataset_config_name: str | None = flag(None, "configuration of the Hub data set")
    train_data_dir: str | None = flag(None, "folder of images: class folders, metadata.csv/.jsonl, or flat")
    resolution: int | None = flag(None, "side in pixels [that of the images, if all are of one size]")
    resize: str = flag("lanczos", "how images are brought to --resolution: lanczos, or area, to means of pixels")
    image_column: str = flag("image", "name of the column with the images")
    label_column: str = flag("label", "name of the column with the class labels")
    caption_column: str = flag("text", "name of the column with the captions; of a list of them one is drawn")
    max_train_samples: int | None = flag(None, "use only this many images")
    validation_share: float | None = flag(
        None,
        "share of the images that is held back for training.evaluate; nothing where there is a split to measure on [a "
        "tenth, if that is at least 4 images]",
    )
    random_flip: bool = flag(False, "mirror images at random")
    # what is learned
    objective: str = flag(
        "denoising",
        "denoising, noisy_classifier (guides a pipeline), any other file of training/objectives, or your own "
        "module:Class",
    )
    # the network
    pretrained_model_name_or_path: str | None = flag(None, "folder or Hub id of the pipeline to fine-tune or guide")
    model_config_name_or_path: str | None = flag(None, "folder or JSON file with the network's config")
    # an adapter instead of the whole network
    lora_rank: int | None = flag(
        None, "train an adapter of this rank (LoRA) of the pipeline that is fine-tuned, and save it alone"
    )
    lora_alpha: float | None = flag(None, "its layers are scaled by lora_alpha / lora_rank [lora_rank]")
    lora_target_modules: str | None = flag(
        None,
        "which layers it changes: ends of names, with commas between, or all [attention, residual blocks, and what "
        "they are told of time and caption]",
    )
    # optimization
    train_batch_size: int = flag(64, "examples per process and micro-step")
    gradient_accumulation_steps: int = flag(1, "micro-steps per update")
    max_train_steps: int = flag(10_000, "updates")
    learning_rate: float = flag(1e-3, "peak learning rate of AdamW")
    lr_scheduler: str = flag("cosine", ", ".join(LR_SCHEDULERS))
    lr_warmup_steps: int = flag(100, "updates of linear warm-up")
    adam_beta1: float = flag(0.9, "AdamW's beta_1")
    adam_beta2: float = flag(0.99, "AdamW's beta_2")
    adam_weight_decay: float = flag(1e-2, "AdamW's weight decay")
    adam_epsilon: float = flag(1e-8, "AdamW's epsilon")
    max_grad_norm: float = flag(1.0, "gradients are clipped to this norm; 0: no clipping")
    ema_decay: float = flag(0.999, "decay of the averaged weights; after n updates at most (1 + n) / (10 + n)")
    second_ema_decay: float | None = flag(None, "keep a second average too, saved as OUTPUT_DIR/ema-DECAY")
    guide_step: int | None = flag(
        None, "keep the average of this update in the model as guide_unet, the worse version for autoguidance"
    )
    seed: int = flag(0, "decides all random numbers of the run")
    # how it runs
    mixed_precision: str = flag(
        "no",
        "no, bf16 or fp16: the dtype of the network under autocast; a recipe's bf16 is no on a CPU slower in it",
    )
    channels_last: bool = flag(True, "memory format of the network")
    torch_compile: bool = flag(False, "compile the network (about a minute, then 10 to 20 % faster)")
    checkpointing_steps: int = flag(500, "updates between checkpoints")
    checkpoints_total_limit: int | None = flag(2, "number of checkpoints that are kept")
    resume_from_checkpoint: str | None = flag(
        None, "go on from a checkpoint folder, or latest: flags that are not given are those of the checkpoint"
    )
    overwrite_output_dir: bool = flag(False, "delete the run that output_dir holds, and start afresh")
    validation_steps: int = flag(500, "updates between grids of samples")
    report_to: str = flag("tensorboard", "tensorboard, trackio, all or none")
    # where it goes
    push_to_hub: bool = flag(False, "upload the finished pipeline, its card and its code")
    hub_model_id: str | None = flag(None, "OWNER/NAME, or NAME for one of your own [the name of output_dir]")
    hub_private_repo: bool = flag(False, "only you can see the repository that is created")
    hub_token: str | None = flag(None, "use this token instead of that of `hf auth login` or HF_TOKEN")

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot work, naming the flag."""
        check_one_of(
            self,
            mixed_precision=("no", "bf16", "fp16"),
            report_to=("tensorboard", "trackio", "all", "none"),
            lr_scheduler=LR_SCHEDULERS,
            resize=("lanczos", "area"),
        )
        counts = (
            "train_batch_size gradient_accumulation_steps max_train_steps checkpointing_steps validation_steps "
            "resolution checkpoints_total_limit max_train_samples guide_step lora_rank"
        )
        check_at_least_one(self, *counts.split())
        check_range(
            self,
            ema_decay=(0.0, 1.0),
            learning_rate=(0.0, 10.0),
            adam_weight_decay=(0.0, math.inf),
            adam_epsilon=(0.0, math.inf),
            max_grad_norm=(0.0, math.inf),
            lr_warmup_steps=(0, math.inf),
            seed=(0, 2**32 - 1),
        )
        if self.validation_share is not None:
            check_range(self, validation_share=(0.0, 0.9))
        if self.second_ema_decay is not None:
            check_range(self, second_ema_decay=(0.0, 1.0))
        if self.guide_step is not None and self.guide_step > self.max_train_steps:
            raise ValueError(
                f"guide_step must be at most max_train_steps, {self.max_train_steps}, got {self.guide_step}"
            )
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)!r}")
        self._check_lora()
        if self.hub_model_id is not None and not self.push_to_hub:
            raise ValueError(f"hub_model_id goes with --push_to_hub, which was not given, got {self.hub_model_id!r}")
        if self.hub_private_repo and not self.push_to_hub:
            raise ValueError("hub_private_repo goes with --push_to_hub, which was not given, got True")

    def _check_lora(self) -> None:
        if self.lora_rank is None:
            given = [name for name in ("lora_alpha", "lora_target_modules") if getattr(self, name) is not None]
            if given:
                got = getattr(self, given[0])
                raise ValueError(f"{given[0]} goes with --lora_rank, which was not given, got {got}")
            return
        if self.pretrained_model_name_or_path is None:
            raise ValueError(
                f"lora_rank goes with --pretrained_model_name_or_path, the model that it adapts: --recipe "
                f"{self.recipe or 'NAME'} trains a new one, got {self.lora_rank}"
            )
        if self.lora_alpha is not None and not 0 < self.lora_alpha < math.inf:
            raise ValueError(f"lora_alpha must be above 0, got {self.lora_alpha}")
        if self.guide_step is not None:
            raise ValueError(f"guide_step must be None with --lora_rank, got {self.guide_step}")

    def previews_at(self, step: int) -> bool:
        """Whether a grid of samples is drawn after `step` updates.

        A short run that leaves validation_steps as its recipe has them draws a first one after a twentieth of it.
        """
        usual = RECIPES.get(self.recipe, {}).get("validation_steps", Recipe.validation_steps)
        early = self.validation_steps == usual and step == max(1, min(usual, self.max_train_steps // 20))
        return early or step % self.validation_steps == 0

    def settings(self, options: Any) -> dict[str, Any]:
        """The settings for training.json, as one flat dict, without output folder, Hub repository and token.

        The objective's `options`, a dataclass, come after its name.
        """
        left_out = (
            "output_dir",
            "overwrite_output_dir",
            "push_to_hub",
            "hub_model_id",
            "hub_private_repo",
            "hub_token",
        )
        kept = {}
        for name, value in asdict(self).items():
            if name not in left_out:
                kept[name] = value
            if name == "objective":
                kept |= asdict(options)
        return kept


def fields_in(row: dict[str, Any], kind: type) -> dict[str, Any]:
    """The entries of `row` that are fields of the dataclass `kind`."""
    return {f.name: row[f.name] for f in fields(kind) if f.name in row}


_FAST_CPU = {"mixed_precision": "bf16", "torch_compile": True}

_EMOJI_CAPTIONS = {
    "dataset_name": "data/emoji",
    "caption_column": "captions",
    "random_flip": True,
    "text_encoder": "sentence-transformers/all-MiniLM-L6-v2",
    "example_prompts": "a red apple, fluent 3d style|a fox, twemoji style|a grinning face, noto style|"
    "a blue heart, twemoji style|a penguin, fluent flat style|a sunflower, noto v1 style|"
    "a birthday cake, emojione style|a crying face, fluent style",
    **_FAST_CPU,
}

_EMOJI_TEXT = {"objective": "flow_matching", "weighting_scheme": "logit_normal", **_EMOJI_CAPTIONS}

_LORA = {
    "objective": "flow_matching",
    "weighting_scheme": "logit_normal",
    "pretrained_model_name_or_path": "model_cards/emoji-latent",
    "lora_rank": 16,
    "validation_share": 0.0,  # where there are few, each one counts
    "learning_rate": 1e-3,
    "lr_warmup_steps": 20,
    "max_train_steps": 400,
    "train_batch_size": 8,
    "ema_decay": 0.99,
    "checkpointing_steps": 100,
    "validation_steps": 100,
    "mixed_precision": "bf16",
}

RECIPES: dict[str, dict[str, Any]] = {
    # accelerate launch -m training.train --recipe fashion-cfg
    # model_cards/fashion-cfg, 544,000 images: Frechet distance 0.350 in 16 steps of UniPC at guidance 2, the mean of
    # three seeds (real images: 0.244)
    "fashion-cfg": {"dataset_name": "data/fashion", "class_conditional": True, **_FAST_CPU},
    # accelerate launch -m training.train --recipe fashion-ddpm
    # model_cards/fashion-ddpm, with --variance_type learned_range, 396,800 images on from fashion-cfg: Frechet distance
    # 1.747 in 50 steps
    "fashion-ddpm": {"dataset_name": "data/fashion", **_FAST_CPU},
    # accelerate launch -m training.train --recipe fashion-flow
    # model_cards/fashion-flow, with --pretrained_model_name_or_path model_cards/fashion-cfg, 522,432 images on from
    # there, the first 100,032 at uniform times: Frechet distance 0.243 and recall 0.859, the means of three seeds, at
    # guidance 1.5 in 12 steps of Heun (real images: 0.244 and 0.895)
    "fashion-flow": {
        "objective": "flow_matching",
        "weighting_scheme": "logit_normal",
        "dataset_name": "data/fashion",
        "class_conditional": True,
        "second_ema_decay": 0.9998,
        **_FAST_CPU,
    },
    # accelerate launch -m training.train --recipe fashion-ve
    "fashion-ve": {
        "objective": "score_matching",
        "dataset_name": "data/fashion",
        "class_conditional": True,
        **_FAST_CPU,
    },
    # accelerate launch -m training.train --recipe fashion-noisy-classifier
    # model_cards/fashion-classifier-guidance, 128,000 images: 86.4 % at t = 0, 68.5 % at t = 750; guided by 4, in 25
    # steps of DDPM: class accuracy 89.1 %, Frechet distance 0.744
    "fashion-noisy-classifier": {
        "objective": "noisy_classifier",
        "dataset_name": "data/fashion",
        "pretrained_model_name_or_path": "model_cards/fashion-ddpm",
        "learning_rate": 3e-4,
        "adam_weight_decay": 0.05,
        "max_train_steps": 3000,  # in float32: a network this small gains little from bfloat16
    },
    # accelerate launch -m training.train --recipe emoji-autoencoder
    # model_cards/emoji-autoencoder, 40,000 images, then its decoder alone on 30,400 with --freeze_encoder True
    # --latent_noise 0.2 --learning_rate 5e-4 --max_train_steps 1900: concepts that were held back come back with
    # 26.9 dB, SSIM 0.889, FD-EffNet-Lite0 51 (before the decoder's own training 27.2 dB, 0.891 and 55)
    "emoji-autoencoder": {
        "objective": "autoencoder",
        "dataset_name": "data/emoji",
        "train_batch_size": 16,
        "max_train_steps": 2500,  # 40,000 images
        "random_flip": True,
        "mixed_precision": "bf16",
    },
    # accelerate launch -m training.train --recipe emoji-latent
    # model_cards/emoji-latent, with --max_train_steps 8500, 544,000 images, FD-EffNet-Lite0 148 in 10 steps of UniPC at
    # guidance 4 (real images: 49); from there with --learning_rate 7e-4 --max_train_steps 5000, 864,000 in all, 140;
    # these mirrored half of the images, which turns letters and arrows round; from there without, --max_train_steps
    # 4000, 1,120,000 in all, 137; from there with --logit_mean -0.4 --logit_std 1.2 --max_train_steps 3300, 1,331,200
    # in all, and with a decoder trained for inexact latents, 110; and from there the same with --max_train_steps 5700,
    # twice, 1,696,000 and 2,060,800 in all, 109 and 105: the right concept for 46 % of training captions at that
    # guidance within 0.2 to 1, the right subgroup for 62.5 % (reconstructions: 81 and 91 %)
    # after 64,000 images each, 300 drawn at guidance 3 in 16 steps of DPM-Solver++: FD-EffNet-Lite0 231 and Monge
    # distance 79; with --objective denoising, which predicts v, 236 and 90; the right subgroup for 13 and 10 % of them
    "emoji-latent": {
        **_EMOJI_TEXT,
        "random_flip": False,
        "vae": "model_cards/emoji-autoencoder",
        "max_train_steps": 30_000,  # 1.9 million images
    },
    # accelerate launch -m training.train --recipe emoji-base-32
    # the first stage of a cascade; model_cards/emoji-cascade, with --max_train_steps 1900 and from there 1600 more at
    # --learning_rate 7e-4, 224,000 images, and 41,600 of the second: FD-EffNet-Lite0 182 in 20 and 5 steps at
    # guidance 3
    "emoji-base-32": {**_EMOJI_TEXT, "resolution": 32, "resize": "area", "max_train_steps": 20_000},  # 1.3 million
    # accelerate launch -m training.train --recipe emoji-sr-128
    # its second; `python -m training.cascade runs/emoji-cascade runs/emoji-base-32 runs/emoji-sr-128` joins them
    # x_0, of which the small image tells most: with the velocity of a flow, most of which is noise, images were grainy
    # after 22,400 training images
    "emoji-sr-128": {
        **_EMOJI_CAPTIONS,
        "objective": "denoising",
        "prediction_type": "sample",
        "low_resolution": 32,
        "train_batch_size": 32,
        "max_train_steps": 10_000,
    },  # 320,000 images
    # accelerate launch -m training.train --recipe finetune --train_data_dir mine --output_dir runs/mine
    "finetune": {
        "pretrained_model_name_or_path": "model_cards/fashion-cfg",
        "class_conditional": True,
        "learning_rate": 2e-4,
        "lr_warmup_steps": 20,
        "max_train_steps": 400,
        "train_batch_size": 32,
        "ema_decay": 0.99,
        "checkpointing_steps": 100,
        "validation_steps": 100,
    },
    # accelerate launch -m training.train --recipe lora --train_data_dir mine --output_dir runs/mine
    "lora": _LORA,
    # accelerate launch -m training.train --recipe emoji-streamline-lora
    # model_cards/emoji-streamline-lora, 6,400 images: the style in 27 % of images (base: 0 %; all of it trained: 24 %)
    "emoji-streamline-lora": {**_LORA, "dataset_name": "data/emoji-streamline", "train_batch_size": 16},
    # accelerate launch -m training.train --recipe unconditional --train_data_dir mine
    "unconditional": {},
    # accelerate launch -m training.train --recipe conditional --train_data_dir mine
    "conditional": {"class_conditional": True},
}
