"""The text encoder of a run: that of a pipeline, or one alone, with its tokenizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForTextEncoding, AutoTokenizer, CLIPTextModel

from training.networks.open import pretrained_json


def open_text_encoder(name_or_path: str) -> tuple[nn.Module, Any]:
    """A text encoder in float16, as it is saved, and its tokenizer: of a pipeline, or alone, by folder or Hub id.

    Raises:
        ValueError: there is none in that place; it names the flag.
    """
    flag = "text_encoder"
    file, config = pretrained_json(name_or_path, "text_encoder/config.json", "config.json", flag=flag)
    parts = {"subfolder": "text_encoder"}, {"subfolder": "tokenizer"}
    encoder_at, tokenizer_at = ({}, {}) if file == "config.json" else parts
    kind = _kind_of(config)
    options = {"dtype": torch.float16, "use_safetensors": True}
    try:
        encoder = kind.from_pretrained(name_or_path, **options, **encoder_at)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **tokenizer_at)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        told = f"{flag} must hold a text encoder and its tokenizer, {name_or_path!r} does not: {reason}"
        raise ValueError(told) from error
    return encoder.eval(), tokenizer


def _kind_of(config: dict[str, Any]) -> type:
    """The class that loads what encodes text: of CLIP, and of T5 and others that also write text, one half."""
    if str(config.get("model_type", "")).startswith("clip"):
        return CLIPTextModel
    return AutoModelForTextEncoding if config.get("is_encoder_decoder") else AutoModel
