"""`python -m training.card [FOLDER ...]`: write the models' cards from their metrics.json and training.json.

Every number on a card is read from these two files; the words come from model_cards/TEMPLATE.md.
"""

import json
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from training.card_data import Dataset, base_model, dataset_of, training_text
from training.card_tables import (
    METRICS,
    best_rows,
    bits_table,
    by_features,
    metrics_table,
    noise_table,
    settings_text,
    sorted_rows,
)
from training.metrics.report import write_whole
from training.outgoing import pushed_to, without_paths

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MARKERS = ("<!-- results: python -m training.card -->", "<!-- end of results -->")
TEMPLATE = ROOT / "model_cards" / "TEMPLATE.md"
WRITTEN = "<!-- written by training.card: take this line out to keep the card as it is -->"
PLOTS = {
    "guidance.png": "Guidance scale against fidelity and diversity",
    "steps.png": "Steps against the distance to real pictures",
    "likelihood.png": "The terms of the bound over t",
    "noise_accuracy.png": "Accuracy of the classifier by noise level",
}
SUMMARIES = {
    "ClassifierFreeGuidancePipeline": "Draws {subject}, with classifier-free guidance "
    "([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598)).",
    "ClassifierGuidancePipeline": "An unconditional model, steered towards {subject} by a classifier of noisy pictures "
    "([Dhariwal & Nichol 2021](https://arxiv.org/abs/2105.05233)); guidance scale 0 is off. A DDPMScheduler shifts the "
    "mean of each step, any other scheduler has eps shifted.",
    "DDPMPipeline": "Draws {subject} ([Ho et al. 2020](https://arxiv.org/abs/2006.11239)).",
    "DDIMPipeline": "Draws {subject} in few steps ([Song et al. 2021](https://arxiv.org/abs/2010.02502)).",
    "LatentDiffusionPipeline": "Draws {subject}, in the latent space of an autoencoder "
    "([Rombach et al. 2022](https://arxiv.org/abs/2112.10752)).",
}
STEPS = {"DDPMPipeline": 100, "ClassifierGuidancePipeline": 25, "LatentDiffusionPipeline": 50}


def render(folder: Path, repo_id: str | None = None) -> str:
    """The text of the card of a folder with a model_index.json and, where there are any, its records.

    `repo_id` is where the card goes; by default where the folder was pushed to. The revision is pinned on the card of
    a folder that has not changed since.
    """
    index = json.loads((folder / "model_index.json").read_text())
    kind = index["_class_name"] if isinstance(index["_class_name"], str) else index["_class_name"][1]
    rows, record = sorted_rows(folder), _read(folder / "training.json")
    data, names = dataset_of(record), _class_names(index)
    known_id, revision = pushed_to(folder)
    card = ModelCard.from_template(
        _card_data(folder.name, kind, rows, data, record),
        template_path=str(TEMPLATE),
        name=folder.name,
        written=WRITTEN,
        summary=SUMMARIES.get(kind, "Draws {subject}.").format(subject=_subject(names)),
        picture=_picture(folder, kind),
        source=_source(folder, repo_id or known_id, revision if repo_id in (None, known_id) else None),
        call=_call(kind, names),
        pipeline_class=kind,
        table=(metrics_table(rows) or "Not measured yet: `python -m training.evaluate` does it.")
        + bits_table(folder)
        + noise_table(folder),
        measured_note=_note(rows) + _plots(folder),
        training=training_text(record),
        limits=_limits(folder, rows, data),
        data=data.attribution,
    )
    return str(card)


def is_own_card(folder: Path) -> bool:
    """Whether the README.md of a folder was written by hand, and is to stay."""
    path = folder / "README.md"
    return path.is_file() and WRITTEN not in path.read_text()


def shipped_folders() -> list[Path]:
    """The folders of model_cards/ that hold a pipeline."""
    return sorted(index.parent for index in TEMPLATE.parent.glob("*/model_index.json"))


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _class_names(index: dict[str, Any]) -> list[str]:
    names = index.get("id2label") or {}
    return [names[key] for key in sorted(names, key=int)]


def _subject(names: list[str]) -> str:
    if not names:
        return "pictures, unconditionally"
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f"pictures of {len(names)} class{'es' if len(names) > 1 else ''} ({shown})"


def _card_data(
    name: str, kind: str, rows: list[dict[str, Any]], data: Dataset, record: dict[str, Any] | None
) -> ModelCardData:
    results = [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type=(data.hub_id or data.name).rpartition("/")[2],
            dataset_name=data.name,
            metric_type=metric,
            metric_name=f"{METRICS[metric]} ({settings_text(best)})",
            metric_value=round(best["measured"][metric], 4),
        )
        for best in best_rows(rows)
        for metric in METRICS
        if metric in best["measured"]
    ]
    return ModelCardData(
        library_name="diffusers",
        license=data.license,
        pipeline_tag="unconditional-image-generation",
        tags=["diffusion", "class-conditional" if kind.startswith("Classifier") else "unconditional"],
        datasets=[data.hub_id] if data.hub_id else None,
        base_model=base_model(record),
        model_name=name,
        eval_results=results or None,
    )


def _picture(folder: Path, kind: str) -> str:
    if not (folder / "samples.png").is_file():
        return "*No samples were drawn yet.*"
    columns = ", one class a column" if kind.startswith("Classifier") else ""
    return f"![Samples](samples.png)\n\n*Samples, not selected{columns}.*"


def _source(folder: Path, repo_id: str | None, revision: str | None) -> str:
    pinned = f', revision="{revision}"' if revision else ""
    comment = "" if repo_id else "  # a folder or a Hub id"
    return f'"{repo_id or folder.name}"{pinned}, trust_remote_code=True){comment}'


def _call(kind: str, names: list[str]) -> str:
    steps = f"num_inference_steps={STEPS.get(kind, 20)}"
    if not names:
        return f"pipe(batch_size=4, {steps}).images[0]"
    guided = kind not in ("DDPMPipeline", "DDIMPipeline")
    labels = json.dumps(list(dict.fromkeys([names[len(names) // 3], names[-1]])), ensure_ascii=False)
    return f"pipe(class_labels={labels}, {steps}{', guidance_scale=2.0' if guided else ''}).images[0]"


def _plots(folder: Path) -> str:
    """The plots that lie in a folder, below one another."""
    found = [(name, text) for name, text in PLOTS.items() if (folder / name).is_file()]
    return "".join(f"\n\n![{text}]({name})" for name, text in found)


def _limits(folder: Path, rows: list[dict[str, Any]], data: Dataset) -> str:
    config = _read(folder / "unet" / "config.json") or {}
    size = config.get("sample_size")
    width, height = (size, size) if isinstance(size, int) else (size or (None, None))
    channels = "grey" if config.get("in_channels") == 1 else "in colour"
    shape = f"The pictures are {width}x{height} and {channels}. " if width else ""
    if any("nearest_train_ratio" in row["measured"] for row in rows):
        copies = "How near samples are to training pictures stands in the table above."
    else:
        copies = (
            "Whether samples repeat training pictures has not been measured; a model of few pictures does repeat them."
        )
    return f"{shape}Nothing but {data.name} was ever seen. {copies}" if data.name != "unknown" else shape + copies


def _note(rows: list[dict[str, Any]]) -> str:
    notes = [_features_note(group[0]) for group in by_features(rows)]
    if any("nearest_train_ratio" in row["measured"] for row in rows):
        notes.append(
            "The distance to the training set is the median distance, in pixels, of a sample to the nearest training "
            "picture, over the same for test pictures: well below 1, samples are copies."
        )
    return "\n\n".join(notes)


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
        f"all {real['test']['frechet_images']:,} test pictures{no_fid}; precision and recall "
        f"([Kynkäänniemi et al. 2019](https://arxiv.org/abs/1904.06991), k = {real['neighbours']}) are against "
        f"{real['precision_recall_images']:,} of them. The command: `{without_paths(row['command'])}`; seeds, versions "
        "and all other numbers are in metrics.json."
    )


def results() -> str:
    """The README's results: the table of each shipped model."""
    sections = []
    for folder in shipped_folders():
        rows = sorted_rows(folder)
        sections.append(f"[`{folder.name}`](model_cards/{folder.name})\n\n{metrics_table(rows)}")
    return "\n\n".join(sections)


def with_results(readme: str) -> str:
    """The text of the project's README with the results between its two markers."""
    before, marker, rest = readme.partition(MARKERS[0])
    after = rest.partition(MARKERS[1])[2]
    return f"{before}{marker}\n\n{results()}\n\n{MARKERS[1]}{after}"


def main(folders: list[str]) -> None:
    """Write the card of each folder, all shipped ones by default, and the results in the README."""
    for folder in [Path(name) for name in folders] or shipped_folders():
        write_whole(folder / "README.md", render(folder).encode())
        print(f"wrote {folder / 'README.md'}")
    write_whole(README, with_results(README.read_text()).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
