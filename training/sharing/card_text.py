"""Renders the card of a model.

The words come from model_cards/TEMPLATE.md, every number from metrics.json, training.json and noise_accuracy.json.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from pipelines.facts import Facts
from training.files import read_json_object
from training.model_index import is_adapter, read_index
from training.run_record import pushed_id, pushed_revision, record_path
from training.sharing.adapter_card import render_adapter
from training.sharing.card_data import Dataset, base_model, datasets_of, runs_of, text_encoder_credit, training_text
from training.sharing.card_tables import (
    METRICS,
    alignment_table,
    best_rows,
    bits_table,
    by_features,
    call_arguments,
    is_stale,
    measured_on,
    metrics_table,
    noise_table,
    reconstruction_table,
    settings_text,
    sorted_rows,
)
from training.sharing.local_paths import without_path

TEMPLATE = Path(__file__).parents[2] / "model_cards" / "TEMPLATE.md"
WRITTEN = "<!-- written by training.card: take this line out to keep the card as it is -->"
PLOTS = {
    "contact_sheet.png": "Fixed classes or prompts, and fixed seeds",
    "guidance_sheet.png": "Fixed prompts or classes, at several guidance scales",
    "nearest.png": "Samples, each beside the nearest and the second-nearest training image, the likeliest copies first",
    "nearest_sheet.png": "Prompts, each drawn beside its nearest training images",
    "checkpoints.png": "Distances to real images and to training images, over the images seen in training",
    "guidance.png": "Guidance scale against fidelity and diversity",
    "steps.png": "Steps against the distance to real images",
    "likelihood.png": "The terms of the bound over t",
    "noise_accuracy.png": "Accuracy of the classifier by noise level",
    "reconstructions.png": "Real images, each beside its reconstruction",
}
CODE = (
    "The repository carries the code of its pipeline; `trust_remote_code=True` lets diffusers run it. From a clone of "
    "the\nproject, `pipelines.{kind}.from_pretrained(...)` runs the code of the clone instead."
)
DRAWS = {  # the words of a card, unless a pipeline says others as "card" in its `about`
    "task": "unconditional-image-generation",
    "title": "Draw with it",
    "measure": "python -m training.evaluate",
    "use": "For learning how diffusion models work and for trying out samplers.",
}
TOLD_PROMPTS = {"task": "text-to-image", "tags": ["diffusion", "text-to-image"]}
STOCK = "It carries no code: diffusers' own `{kind}` draws with it."


def render(folder: Path, repo_id: str | None = None) -> str:
    """The card of a folder with a model_index.json, or with an adapter, and records if there are any.

    `repo_id` is the repository that the card is for; by default the one that the folder was pushed to. The card pins
    the revision if the weights have not changed since that push.

    Raises:
        ValueError: a record or the model_index.json is not a JSON object.
    """
    if is_adapter(folder):
        return render_adapter(folder, WRITTEN, repo_id)
    index, path = read_index(folder), record_path(folder)
    rows, runs = sorted_rows(folder), runs_of(read_json_object(path) if path else None)
    known_id = pushed_id(folder)
    revision = pushed_revision(folder) if repo_id in (None, known_id) else None
    name = (repo_id or folder.resolve().name).rpartition("/")[2]
    kind, carries_code = index.class_name, index.source is not None
    examples = (index.content.get("example_prompts") or "a red apple").split("|")
    prompts = examples if "text_encoder" in index.components else []
    model = _Model(folder, index.class_names, index.about(folder), index.facts(folder), prompts)
    measured = metrics_table(rows) or reconstruction_table(folder)
    card = ModelCard.from_template(
        _card_data(name, model, rows, runs),
        template_path=str(TEMPLATE),
        name=name,
        written=WRITTEN,
        summary=model.about.get("summary", "Draws {subject}.").format(subject=_subject(model)),
        image=_image(model),
        source=_source(folder, repo_id or known_id, revision, carries_code),
        call=_call(model, rows),
        code=CODE.format(kind=kind) if carries_code else STOCK.format(kind=kind),
        title=model.words["title"],
        use=model.words["use"],
        table=(measured or f"Not measured yet: `{model.words['measure']}` does it.")
        + alignment_table(folder)
        + bits_table(folder)
        + noise_table(folder),
        measured_note=_note(rows, bool(model.prompts)) + ("" if is_stale(folder) else _plots(folder)),
        training=training_text(runs),
        limits=_limits(model, rows, runs),
        data="\n\n".join([data.attribution for data in datasets_of(runs)] + text_encoder_credit(runs))
        or "What it was trained on is not recorded.",
    )
    return str(card)


@dataclass(frozen=True)
class _Model:
    """The facts that the text of a card depends on."""

    folder: Path
    class_names: list[str]
    about: dict[str, Any]  # the pipeline's description of itself
    facts: Facts
    prompts: list[str]  # to try; none where the model is not told any

    @property
    def words(self) -> dict[str, Any]:
        return DRAWS | (TOLD_PROMPTS if self.prompts else {}) | self.about.get("card", {})

    @property
    def conditional(self) -> bool:
        return bool(self.class_names or self.facts.num_classes)

    @property
    def only_enlarges(self) -> bool:
        parts = read_index(self.folder).components
        return "unet_2" in parts and "unet" not in parts


def is_own_card(folder: Path) -> bool:
    """Whether the README.md of a folder was written by hand, so that it must not be overwritten."""
    path = folder / "README.md"
    return path.is_file() and WRITTEN not in path.read_text()


def _subject(model: _Model) -> str:
    if model.prompts:
        return "what a prompt asks for"
    if not model.conditional:
        return "images, unconditionally"
    if not model.class_names:
        return "images by class labels, which have no names"
    names = model.class_names
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f"images of {len(names)} class{'es' if len(names) > 1 else ''} ({shown})"


def _card_data(name: str, model: _Model, rows: list[dict[str, Any]], runs: list[dict[str, Any]]) -> ModelCardData:
    data = datasets_of(runs)
    trained_on = data or [Dataset("unknown", None, "")]
    results = [
        EvalResult(
            task_type=model.words["task"],
            dataset_type=best.get("elsewhere") or (trained_on[-1].hub_id or trained_on[-1].name).rpartition("/")[2],
            dataset_name=best.get("elsewhere") or trained_on[-1].name,
            metric_type=metric,
            metric_name=f"{METRICS[metric]} ({settings_text(best)})",
            metric_value=round(best["measured"][metric], 4),
        )
        for best in best_rows(rows)
        for metric in METRICS
        if metric in best["measured"]
    ]
    licenses, kind = {each.license for each in data}, "class-conditional" if model.conditional else "unconditional"
    return ModelCardData(
        library_name="diffusers",
        license=licenses.pop() if len(licenses) == 1 else None,
        pipeline_tag=model.words["task"],
        tags=list(model.words.get("tags", ["diffusion", kind])),
        datasets=[each.hub_id for each in data if each.hub_id] or None,
        base_model=base_model(runs),
        model_name=name if results else None,
        eval_results=results or None,
    )


def _image(model: _Model) -> str:
    if not (model.folder / "samples.png").is_file():
        return "*No samples were drawn yet.*"
    columns = ", one class per column" if model.conditional else ""
    usual = f"Samples, not selected{columns}"
    if model.only_enlarges:
        usual = "Training images made small: enlarged without a network, by the model, and as they were"
    caption = model.words.get("caption", usual)
    return f"![Samples](samples.png)\n\n*{caption}.*"


def _source(folder: Path, repo_id: str | None, revision: str | None, carries_code: bool) -> str:
    pinned = f', revision="{revision}"' if revision else ""
    trust = ", trust_remote_code=True" if carries_code else ""
    comment = "" if repo_id else "  # a folder or a Hub id"
    return f'"{repo_id or folder.resolve().name}"{pinned}{trust}){comment}'


def _call(model: _Model, rows: list[dict[str, Any]]) -> str:
    if "call" in model.words:
        return model.words["call"]
    chosen = _best_settings(model, rows).items()
    settings = ", ".join(f"{name}={json.dumps(value) if isinstance(value, str) else value}" for name, value in chosen)
    if model.prompts:
        return f"pipe({json.dumps(model.prompts[0], ensure_ascii=False)}, {settings}).images[0]"
    if not model.conditional:
        return f"pipe(batch_size=4, {settings}).images[0]"
    names = model.class_names or [0, 1]
    labels = json.dumps(list(dict.fromkeys([names[len(names) // 3], names[-1]])), ensure_ascii=False)
    return f"pipe(class_labels={labels}, {settings}).images[0]"


def _best_settings(model: _Model, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Arguments of a call: of the best row drawn with the folder's own scheduler, or what the pipeline suggests."""
    path = model.folder / "scheduler" / "scheduler_config.json"
    own = read_json_object(path).get("_class_name", "") if path.is_file() else ""
    names = (own, own.removesuffix("Scheduler"))
    best = best_rows([row for row in rows if row["settings"]["scheduler"] in names and "inputs" not in row["settings"]])
    if not best:
        example = {"num_inference_steps": 20} | model.about.get("example", {})
        guided = model.conditional or model.prompts
        return {name: value for name, value in example.items() if guided or name != "guidance_scale"}
    settings = best[0]["settings"]
    found = {"num_inference_steps": settings["num_inference_steps"], "guidance_scale": settings["guidance_scale"]}
    found["guidance_interval"] = tuple(settings.get("guidance_interval") or ()) or None
    if found["guidance_interval"] == tuple(read_index(model.folder).content.get("guidance_interval") or (0.0, 1.0)):
        found["guidance_interval"] = None  # the model's own
    found |= {name: value for name, value in call_arguments(settings).items() if name != "prompts"}
    return {name: value for name, value in found.items() if value is not None}


def _plots(folder: Path) -> str:
    """The plots in a folder, one below the other."""
    found = [(name, text) for name, text in PLOTS.items() if (folder / name).is_file()]
    return "".join(f"\n\n![{text}]({name})" for name, text in found)


def _limits(model: _Model, rows: list[dict[str, Any]], runs: list[dict[str, Any]]) -> str:
    names = " and ".join(data.name for data in datasets_of(runs))
    encoder = "; the text encoder was trained on other texts before" if model.prompts else ""
    seen = f"Nothing but {names} was ever seen{encoder}. " if names else ""
    if "limits" in model.words:
        return seen + model.words["limits"]
    if any({"nearest_train_ratio", "nearest_to_second_ratio"} & set(row["measured"]) for row in rows):
        copies = "How near samples are to training images stands in the table above."
    else:
        copies = "Whether samples repeat training images has not been measured; a model of few images does repeat them."
    return _shape(model) + seen + copies


def _shape(model: _Model) -> str:
    if model.facts.vae is not None or model.facts.image_shape is None:
        return ""
    channels, height, width = model.facts.image_shape
    return f"The images are {width}x{height} and {'grey' if channels == 1 else 'in colour'}. "


def _note(rows: list[dict[str, Any]], told_prompts: bool) -> str:
    notes = [_features_note(group[0]) for group in by_features(rows)]
    if told_prompts and rows:
        notes.append(
            "Each image is drawn for a caption of a test image, where a row does not say that it is one of a training "
            "image; so are those of contact_sheet.png and nearest.png."
        )
    if any("nearest_train_ratio" in row["measured"] for row in rows):
        notes.append(
            "The distance to the training set is the median distance, in pixels, of a sample to the nearest training "
            f"image, over the same for {measured_on(rows[0])} images: well below 1, samples are copies."
        )
    if any("nearest_to_second_ratio" in row["measured"] for row in rows):
        notes.append(
            "Nearest to second-nearest is the median, in the features, of a sample's distance to the nearest training "
            "image over that to the second-nearest; below a third, a sample counts as a copy. "
            f"{_unseen_note(rows[0])}A copy of one of several similar training images is not found by this ratio: look "
            f"at the pairs.{_copies_note(rows)}"
        )
    return "\n\n".join(notes)


def _unseen_note(row: dict[str, Any]) -> str:
    """What stands beside the numbers of copies, unless nothing was held back."""
    kind = measured_on(row)
    if kind == "training":
        return ""
    return f"Beside them, in the line of real images, stand those of {kind} images, which were not seen in training. "


def _copies_note(rows: list[dict[str, Any]]) -> str:
    copies = [row["copies"] for row in rows if "copies" in row]
    if not copies:
        return ""
    ratio, share = copies[-1]["nearest_to_second_ratio"], copies[-1]["copied_share"]
    found = "" if share > 0.5 else "; the ratio is to be compared with theirs, the share would miss most of them"
    return (
        f" Training images that went through the autoencoder, as copies would, score {ratio:.3f}, and {share:.1%} of "
        f"them count as copies{found}."
    )


def _features_note(row: dict[str, Any]) -> str:
    features, real = row["features"], row["real"]
    if "frechet_distance" in row["measured"]:
        which = f"`{features['name']}` (test accuracy {features['test_accuracy']:.1%}), a classifier"
        name = "the Fréchet distance is to"
    else:
        which = f"{features['name']}, a network"
        name = "the distance is to"
    no_fid = "" if "fid" in row["measured"] else ", and is no FID"
    return (
        f"Measured by `training.evaluate` in the features of {which} that trains no generator: {name} "
        f"all {real['test']['frechet_images']:,} {measured_on(row)} images{no_fid}; precision and recall "
        f"([Kynkäänniemi et al. 2019](https://arxiv.org/abs/1904.06991), k = {real['neighbours']}) are against "
        f"{real['precision_recall_images']:,} of them. The command: `{without_path(row['command'])}`; seeds, versions "
        "and all other numbers are in metrics.json."
    )
