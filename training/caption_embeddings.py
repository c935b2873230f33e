"""Embeddings of captions, computed once by a text encoder, on disk: `<cache>/captions-<key>/part-00000.npy`, ...

The key is a hash of the captions, of their tokens, and of the encoder's weights and config.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.text import embed, length_of, unread
from training.data import cache
from training.metrics.features import classifier_hash
from training.parts import kept_in_parts

logger = logging.getLogger(__name__)

PART, BATCH = 4096, 64  # captions per file, and embedded together: always the same ones
LAYOUT = 1  # part of every key: increase it when the embedding or the layout of the files changes


@dataclass(frozen=True)
class CaptionEmbeddings:
    """The embeddings of all captions of a data set, and of the empty one, which stands for those that are dropped.

    Attributes:
        rows: the row of each caption
        pooled: float16 (captions, width)
    """

    rows: dict[str, int]
    pooled: Tensor

    def of(self, captions: list[str]) -> Tensor:
        """(N, width)"""
        return self.pooled[[self.rows[caption] for caption in captions]]


def caption_embeddings(
    captions: Iterable[str | tuple[str, ...]], text_encoder: nn.Module, tokenizer: Any, cache_dir: Path | None = None
) -> CaptionEmbeddings:
    """The embeddings of all captions, several of which an image may have, from the cache where they are there.

    `text_encoder` is on the device to compute on; the embeddings are computed in float32.
    """
    several = ((caption,) if isinstance(caption, str) else caption for caption in captions)
    texts = sorted({"", *(text for some in several for text in some)}, key=lambda text: (len(text), text))
    tokens = tokenizer(texts, truncation=True, max_length=length_of(tokenizer))["input_ids"]
    warn_of_cut(texts, tokens, tokenizer)
    key = _hash(texts, tokens, text_encoder.config.to_diff_dict())
    key = _hash(key, classifier_hash(text_encoder), LAYOUT)
    folder = (cache_dir or cache.default_cache_dir()) / f"captions-{key[:24]}"
    encoder = copy.deepcopy(text_encoder).float().eval()

    def make(some: slice) -> np.ndarray:
        return _pooled(encoder, tokenizer, texts[some])

    pooled = kept_in_parts(folder, len(texts), PART, make, "Embedding captions")
    return CaptionEmbeddings({text: row for row, text in enumerate(texts)}, torch.from_numpy(pooled))


def warn_of_cut(texts: list[str], tokens: list[list[int]], tokenizer: Any) -> None:
    """Log how many captions are longer than the text encoder reads, and what is not read of one of them."""
    full = [text for text, row in zip(texts, tokens, strict=True) if len(row) == length_of(tokenizer)]
    cut = [(text, rest) for text in full if (rest := unread(tokenizer, text))]
    if cut:
        text, rest = cut[0]
        logger.warning(
            "%d of %d captions are longer than the %d tokens that the text encoder reads: of %r it does not read %r",
            len(cut),
            len(texts) - 1,
            length_of(tokenizer),
            f"{text[:40]} ...",
            rest[:200],
        )


def _pooled(encoder: nn.Module, tokenizer: Any, texts: list[str]) -> np.ndarray:
    batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
    return torch.cat([embed(encoder, tokenizer, batch, padded=False).pooled for batch in batches]).half().cpu().numpy()


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
