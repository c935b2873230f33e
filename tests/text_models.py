"""Prompts in small: a BERT and a CLIP of a few thousand random weights, and networks that are told what they say."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin, UNet2DConditionModel
from latent_folders import tiny_vae
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from toys import quiet
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from pipelines import CascadePipeline, LatentDiffusionPipeline, PatchedUNet2DConditionModel

WIDTH = 32
WORDS = "a red blue green apple pear fox with hat in the style of noto twemoji , b c d e one two".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def tiny_tokenizer(length: int = 12) -> PreTrainedTokenizerFast:
    """One token per word, and one for all other words, between [CLS] and [SEP]."""
    words = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **names)


def tiny_bert() -> BertModel:
    torch.manual_seed(2)
    shape = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertModel(BertConfig(vocab_size=len(SPECIAL) + len(WORDS), max_position_embeddings=32, **shape)).eval()


def tiny_clip() -> CLIPTextModel:
    torch.manual_seed(2)
    shape = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = CLIPTextConfig(vocab_size=len(SPECIAL) + len(WORDS), max_position_embeddings=12, **shape, **ids)
    return CLIPTextModel(config).eval()


NETWORKS = {  # what a network is told: one embedding, tokens, or both
    "embedding": {},
    "tokens": {
        "class_embed_type": None,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "both": {"mid_block_type": "UNetMidBlock2DCrossAttn"},
}


def text_unet(told: str = "embedding", stock: bool = False, **changes: object) -> nn.Module:
    """A network over 8 x 8 x 4 latents that is told prompts, with random weights that a prompt changes much."""
    torch.manual_seed(3)
    shape = dict(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 16), attention_head_dim=8,
        norm_num_groups=4, cross_attention_dim=WIDTH, projection_class_embeddings_input_dim=WIDTH, layers_per_block=1,
    )  # fmt: skip
    kind = UNet2DConditionModel if stock else PatchedUNet2DConditionModel
    return kind(**shape | NETWORKS[told] | changes).eval()


def text_pipeline(
    told: str = "embedding", scheduler: SchedulerMixin | None = None, path: str | None = "linear", **changes: object
) -> LatentDiffusionPipeline:
    scheduler = scheduler or FlowMatchEulerDiscreteScheduler()
    parts = {"unet": text_unet(told), "text_encoder": tiny_bert(), "tokenizer": tiny_tokenizer()} | changes
    return quiet(LatentDiffusionPipeline(tiny_vae(), scheduler, path=path, **parts))


def text_cascade() -> CascadePipeline:
    """A cascade that draws colour images of 4 pixels and enlarges them to 8; both stages are told prompts."""
    parts = {"text_encoder": tiny_bert(), "tokenizer": tiny_tokenizer(), "paths": {"unet": "linear"}}
    small = text_unet(sample_size=4, in_channels=3, out_channels=3)
    large = text_unet(sample_size=8, in_channels=6, out_channels=3, time_cond_proj_dim=16)
    stages = small, FlowMatchEulerDiscreteScheduler(), large, DDIMScheduler(timestep_spacing="trailing")
    return quiet(CascadePipeline(*stages, max_augmentations=[0.5], **parts))
