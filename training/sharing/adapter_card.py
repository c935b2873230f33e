"""Renders the card of an adapter: its base and revision, the words that call it up, and images without and with it."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from training.files import read_json_object, weights_hash
from training.model_index import ADAPTER
from training.run_record import base_of, pushed_id, pushed_revision, record_path
from training.sharing.card_data import datasets_of, runs_of, training_text
from training.sharing.local_paths import without_path

SECTION = "style"  # of metrics.json
TEMPLATE = """---
{{ card_data }}
---

{{ written }}

# {{ name }}

An adapter (LoRA, rank {{ rank }}, {{ size }}) of {{ base }}{{ at }}. The base is
not part of it.{{ words }}

{{ images }}

## Draw with it

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({{ source }}, trust_remote_code=True)
pipe.load_lora_weights({{ own }}, weight_name="{{ file }}", adapter_name="style")
pipe.set_adapters("style", 1.0)  # the strength: 0 is the base as it was
image = pipe({{ prompt }}num_inference_steps=20).images[0]
```

Two adapters add up: load another one under a name of its own, then `pipe.set_adapters(["style", "other"], [0.7, 0.5])`.
`pipe.unload_lora_weights()` takes them off again, and `pipe.fuse_lora()` draws at the speed of the base.

## Measured

{{ measured }}

## Training

{{ training }}

Data: {{ data }}
"""
IMAGES = {
    "before.png": "Without the adapter",
    "samples.png": "With it, from the same noise and prompts, not selected",
    "strengths.png": "The same prompts and noise at several strengths, from left to right",
}


def render_adapter(folder: Path, written: str, repo_id: str | None = None) -> str:
    """The card of an adapter's folder, for the repository `repo_id` or the one that it was pushed to.

    Raises:
        ValueError: there is no record of its training, or it is not a JSON object.
    """
    path = record_path(folder)
    if path is None:
        raise ValueError(f"folder must hold training.json, which says of which base an adapter is; {folder} does not")
    record, known = read_json_object(path), pushed_id(folder)
    lacking = [name for name in ("base", "trigger_words", "recipe") if name not in record]
    if lacking:
        raise ValueError(f"{path} must be of a run with --lora_rank, it lacks {lacking[0]}")
    (base, revision), own = base_of(record), repo_id or known
    own_revision = pushed_revision(folder) if repo_id in (None, known) else None
    words, run = record["trigger_words"], runs_of(record)[-1:]
    size = (folder / ADAPTER).stat().st_size / 1e6
    data = datasets_of(run)
    card = ModelCard.from_template(
        _card_data(record, base, data),
        template_str=TEMPLATE,
        name=(own or folder.resolve().name).rpartition("/")[2],
        written=written,
        rank=record["recipe"]["lora_rank"],
        size=f"{size:.1f} MB",
        base=f"[{base}](https://huggingface.co/{base})" if "/" in base else f"`{base}`",
        at=f" at revision `{revision}`" if revision else "",
        words=f" The words that call it up: {', '.join(f'**{each}**' for each in words)}." if words else "",
        images=_images(folder),
        source=_place(base, revision),
        own=_place(own or folder.resolve().name, own_revision),
        file=ADAPTER,
        prompt=f"{json.dumps(f'a red apple, {words[0]}', ensure_ascii=False)}, " if words else "",
        measured=_measured(folder),
        training=training_text(run),
        data="\n\n".join(each.attribution for each in data) or "not recorded.",
    )
    return str(card)


def _card_data(record: dict[str, Any], base: str, data: list[Any]) -> ModelCardData:
    words, licenses = record["trigger_words"], {each.license for each in data}
    return ModelCardData(
        library_name="diffusers",
        license=licenses.pop() if len(licenses) == 1 else None,
        pipeline_tag="text-to-image" if words else "unconditional-image-generation",
        tags=["lora", "diffusers", "template:diffusion-lora"],
        datasets=[each.hub_id for each in data if each.hub_id] or None,
        base_model=base,
        base_model_relation="adapter",
        instance_prompt=", ".join(words) or None,
    )


def _place(name: str, revision: str | None) -> str:
    return json.dumps(name, ensure_ascii=False) + (f', revision="{revision}"' if revision else "")


def _images(folder: Path) -> str:
    found = [f"![{text}]({name})\n\n*{text}.*" for name, text in IMAGES.items() if (folder / name).is_file()]
    return "\n\n".join(found) or "*No samples were drawn yet.*"


def _measured(folder: Path) -> str:
    """The shares of training.evaluation.style, as it wrote them to metrics.json, for the adapter's current weights."""
    path = folder / "metrics.json"
    rows = list(read_json_object(path).get(SECTION, {}).values()) if path.is_file() else []
    weights = weights_hash(folder)
    commands = list(dict.fromkeys(row["command"] for row in rows if row["weights"].endswith(f"-{weights}")))
    rows = [row for row in rows if row["command"] in commands]  # with the base and the model beside it
    if not rows:
        return "Not measured yet: `python -m training.evaluation.style` does it."
    lines = ["| drawn by | prompts | style | concept | subgroup | group |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        for kind, shares in row["measured"].items():
            values = " | ".join(f"{shares[name]:.1%}" for name in ("style", "concept", "subgroup", "group"))
            lines.append(f"| {_drawn_by(row['settings'], len(commands) > 1)} | {kind} | {values} |")
    what = "The share of images whose nearest real image, in the features of a network, has what the prompt asked for."
    how = "Measured by " + " and ".join(f"`{without_path(command)}`" for command in commands) + "."
    return f"{what} {how}\n\n" + "\n".join(lines)


def _drawn_by(settings: dict[str, Any], is_one_of_several: bool) -> str:
    """What drew the images of a row; where several commands did, also with which settings."""
    how = f"{settings['scheduler']}, {settings['num_inference_steps']} steps, guidance {settings['guidance_scale']:g}"
    return settings["drawn by"] + (f" ({how}, seed {settings['seed']})" if is_one_of_several else "")
