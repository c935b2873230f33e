"""What is special about a model that is told prompts: how it draws by default, and what it suggests to write.

Its model_index.json may hold `prompt_styles` ("noto style|twemoji style", in the words of its training captions) and
`example_prompts`, the first of which stands on the page as it opens.
"""

from collections.abc import Mapping
from typing import Any

MOST, LONGEST = 20, 100  # of either, and characters of one: what a folder says may come from anyone
DEFAULTS = {
    "steps": {"value": 10},  # of UniPC: 0.08 from the latents of 48 steps, against 0.13 for 8
    # what is drawn is decided while all is noise: guidance that begins later follows a prompt hardly at all
    "guidance_scale": {"value": 4.0, "info": "1 = the prompt alone, 0 = none, higher follows it more closely"},
    "guidance_low": {"value": 0.2},
    "guidance_high": {"value": 1.0},
}


def is_told_prompts(index: Mapping[str, Any]) -> bool:
    """Whether the pipeline of a model_index.json draws what a prompt says."""
    return any(index.get("text_encoder") or ())


def suggested(index: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The styles or the prompts of a model_index.json: what is short text, each once."""
    found = index.get(name)
    if not is_told_prompts(index) or not isinstance(found, str):
        return ()
    texts = (text.strip() for text in found.split("|") if len(text) <= LONGEST)
    return tuple(dict.fromkeys(filter(None, texts)))[:MOST]


def limits_of(index: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What follows from a model_index.json for settings of the page, by name (ui/fields.py)."""
    if not is_told_prompts(index):
        return {"prompt": {"visible": False}, "negative_prompt": {"visible": False}}
    first, *_ = *suggested(index, "example_prompts"), ""
    return DEFAULTS | {"prompt": {"visible": True, "value": first}, "negative_prompt": {"visible": True}}
