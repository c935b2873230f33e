"""The command-line flags of guided-diffusion and improved-diffusion: their defaults, and the published sets of flags.

They are those of `script_util.py` in the two repositories. architecture.py reads the flags of the network; the others:

    diffusion_steps, noise_schedule, predict_xstart  } go into the scheduler: T and betas, what the network predicts,
    learn_sigma, sigma_small                         } and the variance of a step
    rescale_timesteps                                the network sees t 1000 / T: `timestep_scale` of ADMUNet2DModel
    use_fp16, use_checkpoint, classifier_use_fp16    how it was computed: ignored, weights are written in float32
    use_kl, rescale_learned_sigmas                   the loss of its training: ignored
    clip_denoised                                    the scheduler's `clip_sample`
    timestep_respacing                               the steps it was sampled at, see respacing.py
    classifier_scale, ...                            how it was sampled: ignored (`guidance_scale` is its name here)
    lr, batch_size, ...                              how it was trained: ignored
    model_path, classifier_path, base_samples        ignored: --unet and --classifier name the files

https://github.com/openai/guided-diffusion, https://github.com/openai/improved-diffusion
"""

from __future__ import annotations

import argparse
import re
import shlex
from typing import Any, NoReturn

from training.command_line import did_you_mean

DIFFUSION = {
    "learn_sigma": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "timestep_respacing": "",
    "use_kl": False,
    "predict_xstart": False,
    "rescale_timesteps": False,
    "rescale_learned_sigmas": False,
}
NETWORK = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "attention_resolutions": "16,8",
    "dropout": 0.0,
    "class_cond": False,
    "use_checkpoint": False,
    "use_scale_shift_norm": True,
}
SUPER_RESOLUTION = {"large_size": 256, "small_size": 64}
CLASSIFIER = {
    "classifier_use_fp16": False,
    "classifier_width": 128,
    "classifier_depth": 2,
    "classifier_attention_resolutions": "32,16,8",
    "classifier_use_scale_shift_norm": True,
    "classifier_resblock_updown": True,
    "classifier_pool": "attention",
}
# flags of the sampling scripts: accepted, because the lines in the READMEs contain them, but not used in a conversion
# (nor is timestep_respacing, which the scripts list with the flags of the process)
SAMPLING = {"classifier_scale": 1.0, "use_ddim": False, "batch_size": 16, "num_samples": 10000}
# flags of the training scripts, likewise
TRAINING = dict.fromkeys(
    "data_dir val_data_dir schedule_sampler lr weight_decay lr_anneal_steps anneal_lr iterations microbatch ema_rate "
    "noised log_interval eval_interval save_interval resume_checkpoint fp16_scale_growth".split(),
    "",
)
PATHS = {"model_path": "", "classifier_path": "", "base_samples": ""}
DEFAULTS = {
    "guided-diffusion": DIFFUSION
    | NETWORK
    | SUPER_RESOLUTION
    | CLASSIFIER
    | SAMPLING
    | TRAINING
    | PATHS
    | {
        "clip_denoised": True,
        "num_head_channels": -1,
        "channel_mult": "",
        "resblock_updown": False,
        "use_fp16": False,
        "use_new_attention_order": False,
        "conv_resample": True,  # an argument of the network for which the published scripts have no flag
    },
    "improved-diffusion": DIFFUSION
    | NETWORK
    | SUPER_RESOLUTION
    | SAMPLING
    | TRAINING
    | PATHS
    | {
        "clip_denoised": True,
        "sigma_small": False,
        "use_fp16": False,
        "rescale_timesteps": True,
        "rescale_learned_sigmas": True,
        "conv_resample": True,
    },
}
CHOICES = {
    "noise_schedule": ("linear", "cosine"),
    "classifier_pool": ("attention", "adaptive", "spatial", "spatial_v2"),
}
COUNTS = (  # at least 1
    "image_size",
    "large_size",
    "small_size",
    "num_channels",
    "classifier_width",
    "num_res_blocks",
    "classifier_depth",
    "num_heads",
    "diffusion_steps",
)

_ADM = "--attention_resolutions 32,16,8 --learn_sigma True --resblock_updown True --use_scale_shift_norm True"
_256 = f"{_ADM} --image_size 256 --num_channels 256 --num_head_channels 64 --use_fp16 True"
_LSUN = f"{_256} --class_cond False --dropout 0.1"
_COSINE = "--learn_sigma True --num_res_blocks 3 --diffusion_steps 4000 --noise_schedule cosine"
_PLAIN_TIME = "--rescale_learned_sigmas False --rescale_timesteps False"
_BEDROOM = "--image_size 256 --num_heads 1 --learn_sigma True --use_scale_shift_norm False --attention_resolutions 16"
_UPSAMPLER = "--num_channels 192 --num_res_blocks 2 --learn_sigma True --class_cond True"
PUBLISHED = {
    "guided-diffusion": {
        "imagenet-64": f"{_ADM} --class_cond True --dropout 0.1 --image_size 64 --noise_schedule cosine"
        " --num_channels 192 --num_head_channels 64 --num_res_blocks 3 --use_new_attention_order True --use_fp16 True"
        " --classifier_depth 4",
        "imagenet-128": f"{_ADM} --class_cond True --image_size 128 --num_channels 256 --num_heads 4 --use_fp16 True",
        "imagenet-256": f"{_256} --class_cond True",
        "imagenet-256-uncond": f"{_256} --class_cond False",
        "imagenet-512": f"{_ADM} --class_cond True --image_size 512 --num_channels 256 --num_head_channels 64",
        "upsampler-64-256": f"{_ADM} --class_cond True --large_size 256 --small_size 64 --num_channels 192"
        " --num_heads 4 --use_fp16 True",
        "upsampler-128-512": f"{_ADM} --class_cond True --large_size 512 --small_size 128 --num_channels 192"
        " --num_head_channels 64 --use_fp16 True --attention_resolutions 32,16",
        "lsun-bedroom": _LSUN,
        "lsun-cat": _LSUN,
        "lsun-horse": _LSUN,
        "lsun-horse-nodropout": f"{_LSUN} --dropout 0.0",
    },
    "improved-diffusion": {
        "imagenet-64-uncond": f"{_COSINE} --image_size 64 --num_channels 128",
        "imagenet-64-cond": f"{_COSINE} --image_size 64 --num_channels 192 --class_cond True {_PLAIN_TIME}",
        "cifar10": f"{_COSINE} --image_size 32 --num_channels 128 --dropout 0.3",
        "upsampler-64-256": f"{_UPSAMPLER} --large_size 256 --small_size 64 --diffusion_steps 4000 {_PLAIN_TIME}",
        "lsun-bedroom": f"{_BEDROOM} --num_channels 128 --num_res_blocks 2 {_PLAIN_TIME}",
    },
}
_SAME = {  # checkpoints that differ only in the loss or the learning rate of their training
    "imagenet-64": "imagenet-64-uncond",
    "imagenet-64-uncond-vlb": "imagenet-64-uncond",
    "cifar10-vlb": "cifar10",
    "lsun": "lsun-bedroom",
}
PUBLISHED["improved-diffusion"] |= {name: PUBLISHED["improved-diffusion"][same] for name, same in _SAME.items()}


class Flags(argparse.Namespace):
    """The value of each flag of a repository as an attribute, and in `given` the names of those on the command line.

    A flag that improved-diffusion lacks has guided-diffusion's default: `num_head_channels` is -1, and so on.
    """

    family: str
    given: frozenset[str]

    def __getattr__(self, name: str) -> Any:
        if name in DEFAULTS["guided-diffusion"]:
            return DEFAULTS["guided-diffusion"][name]
        if name == "sigma_small":
            return False
        raise AttributeError(name)

    @property
    def super_resolution(self) -> bool:
        """Whether the flags describe a network that enlarges images."""
        return bool(self.given & set(SUPER_RESOLUTION))


def parse_flags(family: str, text: str) -> Flags:
    """The flags of `family` in `text`: the name of a published set, flags, or a name and flags that override it.

    Raises:
        ValueError: an unknown set or flag, or an invalid value; it names the flag.
    """
    defaults, words = DEFAULTS[family], _words(text)
    if words and not words[0].startswith("--"):
        words = [*shlex.split(_published(family, words[0])), *words[1:]]
    given, rest = _parser(defaults).parse_known_args(words)
    if rest:
        _refuse(rest[0], family)
    flags = Flags(**defaults | vars(given), family=family, given=frozenset(vars(given)))
    for name in COUNTS:
        if getattr(flags, name) < 1:
            raise ValueError(f"--flags: {name} must be at least 1, got {getattr(flags, name)}")
    if not 0 <= flags.dropout < 1:
        raise ValueError(f"--flags: dropout must be at least 0 and below 1, got {flags.dropout}")
    if flags.super_resolution and flags.image_size != flags.large_size and "image_size" in flags.given:
        raise ValueError(f"--flags: image_size must be large_size, {flags.large_size}, got {flags.image_size}")
    return flags


def _words(text: str) -> list[str]:
    """The words of a line of flags, or of several lines as they stand in a README or a shell script.

    A backslash at the end of a line goes on with the next, also where the lines have been joined; MODEL_FLAGS="..." is
    what stands in the quotes, and "python scripts/image_train.py" is left out.
    """
    text = re.sub(r"\\(?=\s|$)", " ", text)
    text = re.sub(r"""\b[A-Z_]+FLAGS=(["'])(.*?)\1""", r" \2 ", text, flags=re.DOTALL)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"--flags: {error} in {text!r}") from error
    first = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    return words[first:] if any(word.endswith(".py") for word in words[:first]) else words


def _published(family: str, name: str) -> str:
    known = PUBLISHED[family]
    if name not in known:
        raise ValueError(f"--flags: the published sets of {family} are {', '.join(known)}, got {name!r}")
    return known[name]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"--flags: {message}")


def _parser(defaults: dict[str, Any]) -> argparse.ArgumentParser:
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name, default in defaults.items():
        kind = _boolean if isinstance(default, bool) else type(default)
        parser.add_argument(f"--{name}", type=kind, choices=CHOICES.get(name))
    return parser


def _boolean(text: str) -> bool:
    if text.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"True or False expected, got {text!r}")


def _refuse(word: str, family: str) -> NoReturn:
    name = word.lstrip("-").partition("=")[0]
    hint = did_you_mean(name, DEFAULTS[family]) or f"; its flags are {', '.join(DEFAULTS[family])}"
    raise ValueError(f"--flags: {family} has no flag {name}{hint}")
