"""One frozen dataclass, whose fields are the trainer's flags, and one table: a row a recipe, with what differs.

Above each shipped row stand its command and the score of what is shipped, as `training.evaluate` measured it.
"""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

# those of diffusers.optimization.get_scheduler that need no further settings
LR_SCHEDULERS = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")
OBJECTIVES = ("denoising", "noisy_classifier")
VARIANCE_TYPES = ("fixed_small", "fixed_large", "learned_range")


def flag(default: Any, help: str) -> Any:
    """A dataclass field whose metadata carry the help text of its flag."""
    return field(default=default, metadata={"help": help.replace("%", "%%")})  # argparse formats its help texts


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run depends on. Flags are named as in diffusers' example scripts."""

    recipe: str = flag("", "row of the table to start from")
    output_dir: str | None = flag(None, "where checkpoints, samples and the model go [runs/RECIPE]")
    # data
    dataset_name: str | None = flag(None, "Hub id, or a folder of parquet")
    dataset_config_name: str | None = flag(None, "configuration of the Hub data set")
    train_data_dir: str | None = flag(None, "folder of images: class folders, metadata.csv/.jsonl, or flat")
    resolution: int | None = flag(None, "side in pixels [that of the data, if all images agree]")
    image_column: str = flag("image", "column of the images")
    label_column: str = flag("label", "column of the class labels")
    max_train_samples: int | None = flag(None, "use only this many images")
    random_flip: bool = flag(False, "mirror images at random")
    # what is learned
    objective: str = flag("denoising", "denoising, or noisy_classifier (to steer a pipeline)")
    class_conditional: bool = flag(False, "train on labels, dropped now and then, for classifier-free guidance")
    label_dropout: float = flag(0.1, "share of examples whose label is dropped")
    prediction_type: str = flag("v_prediction", "epsilon, sample or v_prediction")
    ddpm_num_steps: int = flag(1000, "length T of the noise schedule")
    ddpm_beta_schedule: str = flag("squaredcos_cap_v2", "linear, scaled_linear, squaredcos_cap_v2 or sigmoid")
    variance_type: str = flag(
        "fixed_small",
        "variance of the reverse step: fixed_small, fixed_large or learned_range, which trains L_hybrid and doubles "
        "the output channels",
    )
    timestep_sampling: str = flag(
        "stratified",
        "stratified (one a slice of [0, T)), uniform, or importance: by the size of L_vlb, for learned_range",
    )
    snr_gamma: float | None = flag(None, "weight the loss by min-SNR with this gamma [5 is usual]")
    # the network
    pretrained_model_name_or_path: str | None = flag(None, "folder or Hub id of a pipeline to fine-tune or steer")
    model_config_name_or_path: str | None = flag(None, "folder or JSON file with the network's config")
    # optimization
    train_batch_size: int = flag(64, "examples a process and a micro-step")
    gradient_accumulation_steps: int = flag(1, "micro-steps an update")
    max_train_steps: int = flag(10_000, "updates")
    learning_rate: float = flag(1e-3, "peak learning rate of AdamW")
    lr_scheduler: str = flag("cosine", ", ".join(LR_SCHEDULERS))
    lr_warmup_steps: int = flag(100, "updates of linear warm-up")
    adam_beta1: float = flag(0.9, "AdamW's beta_1")
    adam_beta2: float = flag(0.99, "AdamW's beta_2")
    adam_weight_decay: float = flag(1e-2, "AdamW's weight decay")
    adam_epsilon: float = flag(1e-8, "AdamW's epsilon")
    max_grad_norm: float = flag(1.0, "gradients are clipped to this norm; 0: not clipped")
    ema_decay: float = flag(0.999, "decay of the averaged weights, reached by (1 + n) / (10 + n)")
    seed: int = flag(0, "every random number of the run follows from it")
    # how it runs
    mixed_precision: str = flag("no", "no, bf16 or fp16: the dtype of the network under autocast")
    channels_last: bool = flag(True, "memory format of the network")
    torch_compile: bool = flag(False, "compile the network (about a minute, then 10 to 20 % faster)")
    checkpointing_steps: int = flag(500, "updates between checkpoints")
    checkpoints_total_limit: int | None = flag(2, "how many checkpoints are kept")
    resume_from_checkpoint: str | None = flag(None, "a checkpoint folder, or latest")
    validation_steps: int = flag(500, "updates between grids of samples")
    report_to: str = flag("tensorboard", "tensorboard, trackio, all or none")
    # where it goes
    push_to_hub: bool = flag(False, "upload the finished pipeline, its card and its code")
    hub_model_id: str | None = flag(None, "OWNER/NAME, or NAME for one of your own [the name of output_dir]")
    hub_private_repo: bool = flag(False, "only you can see the repository that is created")
    hub_token: str | None = flag(None, "instead of that of `hf auth login` or HF_TOKEN")

    def __post_init__(self) -> None:
        """Refuse, by name, what cannot work, before any work."""
        choices = {
            "prediction_type": ("epsilon", "sample", "v_prediction"),
            "timestep_sampling": ("stratified", "uniform", "importance"),
            "objective": OBJECTIVES,
            "variance_type": VARIANCE_TYPES,
            "mixed_precision": ("no", "bf16", "fp16"),
            "ddpm_beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
            "report_to": ("tensorboard", "trackio", "all", "none"),
            "lr_scheduler": LR_SCHEDULERS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        positive = (
            "train_batch_size gradient_accumulation_steps max_train_steps ddpm_num_steps "
            "checkpointing_steps validation_steps resolution checkpoints_total_limit max_train_samples"
        )
        for name in positive.split():
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        bounds = {
            "label_dropout": (0.0, 1.0),
            "ema_decay": (0.0, 1.0),
            "learning_rate": (0.0, 10.0),
            "adam_weight_decay": (0.0, math.inf),
            "adam_epsilon": (0.0, math.inf),
            "max_grad_norm": (0.0, math.inf),
            "lr_warmup_steps": (0, math.inf),
            "seed": (0, 2**32 - 1),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in [{low:g}, {high:g}], got {getattr(self, name)!r}")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)!r}")
        if self.hub_model_id is not None and not self.push_to_hub:
            raise ValueError(f"hub_model_id goes with --push_to_hub, which was not given, got {self.hub_model_id!r}")
        if self.snr_gamma is not None and not self.snr_gamma > 0:
            raise ValueError(f"snr_gamma must be above 0, got {self.snr_gamma}")
        self._check_together()

    def settings(self) -> dict[str, Any]:
        """What a record of the run keeps: all but where it went and with which token."""
        left_out = ("output_dir", "push_to_hub", "hub_model_id", "hub_private_repo", "hub_token")
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    def _check_together(self) -> None:
        """Refuse values that are good, but not beside each other."""
        if self.timestep_sampling == "importance" and self.variance_type != "learned_range":
            raise ValueError(
                "timestep_sampling must be stratified or uniform, unless variance_type is learned_range, got "
                f"'importance' with {self.variance_type}"
            )
        if self.objective == "denoising":
            return
        if self.timestep_sampling == "importance":
            raise ValueError(
                "timestep_sampling must be stratified or uniform for --objective noisy_classifier, got 'importance'"
            )
        if self.pretrained_model_name_or_path is None:
            raise ValueError(
                "pretrained_model_name_or_path must name the pipeline that the classifier will steer, and was not given"
            )


_FAST_CPU = {"mixed_precision": "bf16", "torch_compile": True}

RECIPES: dict[str, dict[str, Any]] = {
    # accelerate launch -m training.train --recipe fashion-cfg
    # model_cards/fashion-cfg, 544,000 images: Frechet distance 0.503 at guidance 2 (real pictures: 0.335)
    "fashion-cfg": {"dataset_name": "data/fashion", "class_conditional": True, **_FAST_CPU},
    # accelerate launch -m training.train --recipe fashion-ddpm
    # model_cards/fashion-ddpm, with --variance_type learned_range, 396,800 images on from fashion-cfg: Frechet distance
    # 1.747 in 50 steps
    "fashion-ddpm": {"dataset_name": "data/fashion", **_FAST_CPU},
    # accelerate launch -m training.train --recipe fashion-noisy-classifier
    # model_cards/fashion-classifier-guidance, 128,000 images: 86.4 % at t = 0, 68.5 % at t = 750; guided by 4, in 25
    # steps of DDPM: class accuracy 89.1 %, Frechet distance 0.744
    "fashion-noisy-classifier": {
        "objective": "noisy_classifier",
        "dataset_name": "data/fashion",
        "pretrained_model_name_or_path": "model_cards/fashion-ddpm",
        "learning_rate": 3e-4,
        "adam_weight_decay": 0.05,
        "max_train_steps": 3000,  # in float32: so small a network gains little from bfloat16, if anything
    },
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
    # accelerate launch -m training.train --recipe unconditional --train_data_dir mine
    "unconditional": {},
    # accelerate launch -m training.train --recipe conditional --train_data_dir mine
    "conditional": {"class_conditional": True},
}

assert all(set(row) <= {f.name for f in fields(Recipe)} for row in RECIPES.values())
