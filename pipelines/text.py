"""What a prompt says to a network: the hidden states of a text encoder, its tokens, and one embedding of all of it.

The tokens are for cross-attention (Rombach et al. 2022, https://arxiv.org/abs/2112.10752, section 3.3); the embedding
is added to that of the time, as a class is. Any encoder of transformers does that gives a `last_hidden_state`. Of
CLIP's, tokens and padding count alike, and the embedding is the one it was trained to compare with images; of all
others, only the tokens of the prompt count, and the embedding is their mean (Reimers & Gurevych 2019,
https://arxiv.org/abs/1908.10084).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .conditions import Conditions

logger = logging.getLogger(__name__)

MAX_TOKENS = 77  # of CLIP; encoders of sentences take more, and say no more of them


def joined(texts: list[str] | str | None) -> str | None:
    """Texts as one, with | between: diffusers takes a list in model_index.json for a library and a class."""
    return texts if texts is None or isinstance(texts, str) else "|".join(texts)


@dataclass(frozen=True)
class Embeddings:
    """Prompts, float32.

    Attributes:
        tokens: (N, tokens, width)
        mask: (N, tokens), 1 for those that count
        pooled: (N, width), each of root mean square 1
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


def takes_tokens(config: Mapping[str, Any]) -> bool:
    """Whether a network with this config attends to tokens."""
    kinds = [
        *(config.get("down_block_types") or ()),
        config.get("mid_block_type"),
        *(config.get("up_block_types") or ()),
    ]
    return any("CrossAttn" in str(kind) for kind in kinds)


def takes_embedding(config: Mapping[str, Any]) -> bool:
    """Whether a network with this config is given one embedding of the prompt, as its `class_labels`."""
    return config.get("class_embed_type") in ("projection", "simple_projection")


def length_of(tokenizer: Any) -> int:
    """How many tokens of a prompt count, the first and the last that a tokenizer adds included."""
    return min(tokenizer.model_max_length, MAX_TOKENS)


@torch.no_grad()
def embed(
    text_encoder: nn.Module,
    tokenizer: Any,
    prompts: list[str],
    padded: bool = True,
    device: torch.device | None = None,
) -> Embeddings:
    """The embeddings of N prompts; what is beyond `length_of(tokenizer)` is cut off.

    `padded`: to that length, so that the tokens of a prompt do not depend on the others. Without it, to the longest.
    `device`: where the encoder computes; None: where its weights are, which of an offloaded one is elsewhere.
    """
    given = tokenizer(
        prompts,
        padding="max_length" if padded else "longest",
        truncation=True,
        max_length=length_of(tokenizer),
        return_tensors="pt",
    )
    device = next(text_encoder.parameters()).device if device is None else device
    ids, mask = given["input_ids"].to(device), given["attention_mask"].to(device).float()
    clip = text_encoder.config.model_type.startswith("clip")
    with torch.autocast(device.type, enabled=False):  # it has a dtype of its own, which autocast would mix with another
        output = text_encoder(ids, attention_mask=None if clip else mask.long())
    tokens = output.last_hidden_state.float()
    if clip:
        mask, pooled = torch.ones_like(mask), output.pooler_output.float()
    else:
        pooled = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return Embeddings(tokens, mask, pooled / pooled.square().mean(1, keepdim=True).sqrt())


def conditions_of(config: Mapping[str, Any], embeddings: Embeddings) -> Conditions:
    """What a network with this config is given of prompts."""
    found = {"class_labels": embeddings.pooled} if takes_embedding(config) else {}
    if takes_tokens(config):
        found |= {"encoder_hidden_states": embeddings.tokens, "encoder_attention_mask": embeddings.mask}
    return found


def text_conditions(
    config: Mapping[str, Any], text_encoder: nn.Module, tokenizer: Any, prompts: list[str], device: torch.device
) -> Conditions:
    """What a network with this config is given of N prompts, each embedded alone: it says the same in any batch."""
    told, padded = (text_encoder, tokenizer), takes_tokens(config)
    each = {p: conditions_of(config, embed(*told, [p], padded, device)) for p in dict.fromkeys(prompts)}
    return {name: torch.cat([each[prompt][name] for prompt in prompts]) for name in each[prompts[0]]}


def check_text_encoder(config: Mapping[str, Any], text_encoder: nn.Module | None) -> None:
    """Raise ValueError unless a network with this config is told what this encoder, or none, says."""
    takes = takes_tokens(config) or takes_embedding(config)
    if takes != (text_encoder is not None):
        told = "given for a network that is told prompts" if takes else "None for a network that takes no prompts"
        raise ValueError(f"text_encoder must be {told}, got {type(text_encoder).__name__}")
    if text_encoder is None:
        return
    if type(text_encoder).__name__ == "CLIPTextModelWithProjection":
        raise ValueError(
            "text_encoder must be a CLIPTextModel, without the projection, got CLIPTextModelWithProjection"
        )
    width, names = text_encoder.config.hidden_size, {"cross_attention_dim": takes_tokens(config)}
    names["projection_class_embeddings_input_dim"] = takes_embedding(config)
    for name in (name for name, used in names.items() if used):
        if config.get(name) != width:
            raise ValueError(f"text_encoder must have the network's {name}, {config.get(name)}, got {width}")


def check_prompts(name: str, prompts: str | list[str] | tuple[str, ...] | None, count: int | None) -> list[str] | None:
    """One prompt per image, of a single one or of a list; None where none is given.

    Raises:
        ValueError: what is no text, no entry at all, or a list of another length than `count`.
    """
    if prompts is None:
        return None
    many = list(prompts) if isinstance(prompts, (list, tuple)) else [prompts] * (count or 1)
    for prompt in many:
        if not isinstance(prompt, str):
            raise ValueError(f"{name} must be a str or a list of them, got {type(prompt).__name__}")
    if not many or len(many) != (count or len(many)):
        raise ValueError(f"{name} must have one entry per image, got {len(many)} for {count or 'no'} images")
    return many


def unread(tokenizer: Any, prompt: str) -> str:
    """What of a prompt is not read: words that the tokenizer does not know, and all that is longer than the encoder
    takes; "" for most."""
    fast = tokenizer.is_fast  # which alone tells where in the prompt a token stands
    found = tokenizer(prompt, truncation=False, verbose=False, return_offsets_mapping=fast)
    length, ids = length_of(tokenizer), found["input_ids"]
    if not fast:
        return tokenizer.decode(ids[length - 1 : -1]) if len(ids) > length else ""
    places = found["offset_mapping"]
    end = places[length - 1][0] if len(ids) > length else len(prompt)
    unknown = [place for token, place in zip(ids, places, strict=True) if token == tokenizer.unk_token_id]
    parts: list[list[int]] = []
    for start, stop in [*((start, stop) for start, stop in unknown if start < min(stop, end)), (end, len(prompt))]:
        if parts and parts[-1][1] == start:  # of one word
            parts[-1][1] = stop
        else:
            parts.append([start, stop])
    return " ".join(filter(None, (prompt[start:stop].strip() for start, stop in parts)))


def warn_of_unread(tokenizer: Any, prompts: list[str]) -> None:
    """Log what of each prompt is not read."""
    for prompt in dict.fromkeys(prompts):
        rest = unread(tokenizer, prompt)
        if rest:
            shown = rest if len(rest) <= 80 else f"{rest[:77]}..."
            most = length_of(tokenizer)
            logger.warning("not read of the prompt, as it is unknown or beyond %d tokens: %r", most, shown)
