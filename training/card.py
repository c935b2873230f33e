"""`python -m training.card [FOLDER ...]`: write the models' cards from their metrics.json and training.json.

Every number on the card is read from these two files; the words come from model_cards/TEMPLATE.md.
"""

import json
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from training.metrics.report import write_whole
from training.refresh import shipped_folders

README = Path(__file__).parents[1] / "README.md"
MARKERS = ("<!-- results: python -m training.card -->", "<!-- end of results -->")
TEMPLATE = Path(__file__).parents[1] / "model_cards" / "TEMPLATE.md"
METRICS = {
    "class_accuracy": "class accuracy",
    "frechet_distance": "Fréchet distance",
    "fd_effnet_lite0": "FD-EffNet-Lite0",
    "fid": "FID",
    "precision": "precision",
    "recall": "recall",
    "nearest_train_ratio": "distance to the training set",
}
DISTANCES = ("frechet_distance", "fd_effnet_lite0", "fid")
PLOTS = {
    "guidance.png": "Guidance scale against fidelity and diversity",
    "steps.png": "Steps against the distance to real pictures",
    "likelihood.png": "The terms of the bound over t",
    "noise_accuracy.png": "Accuracy of the classifier by noise level",
}
SUMMARIES = {
    "ClassifierFreeGuidancePipeline": "Draws one of ten garments, with classifier-free guidance "
    "([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598)).",
    "ClassifierGuidancePipeline": "An unconditional model of garments, steered by a classifier of noisy pictures "
    "([Dhariwal & Nichol 2021](https://arxiv.org/abs/2105.05233)); guidance scale 0 is off. A DDPMScheduler shifts the "
    "mean of each step, any other scheduler has eps shifted.",
    "DDPMPipeline": "Draws garments, unconditionally ([Ho et al. 2020](https://arxiv.org/abs/2006.11239)).",
}
CALLS = {
    "ClassifierFreeGuidancePipeline": 'pipe(["Dress", "Bag"], num_inference_steps=20, guidance_scale=2.0).images[0]',
    "ClassifierGuidancePipeline": 'pipe(["Dress", "Bag"], num_inference_steps=25, guidance_scale=2.0).images[0]',
    "DDPMPipeline": "pipe(batch_size=4, num_inference_steps=100).images[0]",
}


def render(folder: Path) -> str:
    """The text of the card of a folder with model_index.json, metrics.json and training.json."""
    index = json.loads((folder / "model_index.json").read_text())
    rows = sorted_rows(folder)
    record = json.loads((folder / "training.json").read_text())
    kind = index["_class_name"][1]
    card = ModelCard.from_template(
        _card_data(folder.name, kind, rows),
        template_path=str(TEMPLATE),
        name=folder.name,
        summary=SUMMARIES[kind],
        caption=_caption(kind, rows),
        call=CALLS[kind],
        pipeline_class=kind,
        table=metrics_table(rows) + bits_table(folder) + noise_table(folder),
        measured_note=_note(rows) + _plots(folder),
        memorisation=_memorisation(rows),
        training=_training(record),
    )
    return str(card)


def sorted_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder's metrics.json, by scheduler, steps and guidance."""
    rows = json.loads((folder / "metrics.json").read_text())["results"].values()
    names = ("num_samples", "scheduler", "num_inference_steps", "guidance_scale")
    return sorted(rows, key=lambda row: [row["settings"][name] or 0 for name in names])


def _card_data(name: str, kind: str, rows: list[dict[str, Any]]) -> ModelCardData:
    results = [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type="fashion_mnist",
            dataset_name="Fashion-MNIST",
            metric_type=metric,
            metric_name=f"{METRICS[metric]} ({_settings(best)})",
            metric_value=round(best["measured"][metric], 4),
        )
        for best in best_rows(rows)
        for metric in METRICS
        if metric in best["measured"]
    ]
    return ModelCardData(
        library_name="diffusers",
        license="apache-2.0",
        pipeline_tag="unconditional-image-generation",
        tags=["diffusion", "class-conditional" if kind.startswith("Classifier") else "unconditional"],
        datasets=["zalando-datasets/fashion_mnist"],
        model_name=name,
        eval_results=results,
    )


def best_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The row of the lowest distance in each feature network."""
    found = []
    for name in DISTANCES:
        measured = [row for row in rows if name in row["measured"]]
        found += [min(measured, key=lambda row: row["measured"][name])] if measured else []
    return found


def by_features(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows of each feature network, in the order of DISTANCES: numbers in different features do not compare."""
    groups = [[row for row in rows if name in row["measured"]] for name in DISTANCES]
    return [group for group in groups if group]


def _settings(row: dict[str, Any]) -> str:
    settings = row["settings"]
    guided = "" if settings["guidance_scale"] is None else f", guidance {settings['guidance_scale']:g}"
    inside = settings.get("guidance_interval")
    interval = f" within {inside[0]:g} to {inside[1]:g}" if inside else ""
    scheduler = settings["scheduler"].removesuffix("Scheduler").removesuffix("Multistep")
    return f"{scheduler}, {settings['num_inference_steps']} steps{guided}{interval}"


def metrics_table(rows: list[dict[str, Any]]) -> str:
    """The rows of metrics.json as Markdown, a table for each feature network with its floor, that of the last row."""
    return "\n\n".join(map(_table, by_features(rows)))


def _table(rows: list[dict[str, Any]]) -> str:
    names = [name for name in METRICS if any(name in row["measured"] for row in rows)]
    lines = ["| setting | samples | " + " | ".join(METRICS[n] for n in names) + " | network evaluations |"]
    lines.append("|" + " --- |" * (len(names) + 3))
    for row in rows:
        lines.append(
            _line(_settings(row), row["settings"]["num_samples"], row["measured"], names, row["measured"]["nfe"])
        )
    floor = rows[-1]["floor"]
    lines.append(_line("real training pictures (the floor)", floor["num_samples"], floor, names, None))
    return "\n".join(lines)


def _line(what: str, count: int, measured: dict[str, Any], names: list[str], nfe: float | None) -> str:
    values = [_value(n, measured[n]) if n in measured else "" for n in names]
    return f"| {what} | {count:,} | " + " | ".join(values) + f" | {'' if nfe is None else format(nfe, 'g')} |"


def _value(name: str, value: float) -> str:
    return f"{value:.1%}" if name == "class_accuracy" else f"{value:.3f}"


def _caption(kind: str, rows: list[dict[str, Any]]) -> str:
    columns = "one class a column; " if kind.startswith("Classifier") else ""
    return f"Samples, not selected; {columns}seeds from 0 on."


def bits_table(folder: Path) -> str:
    """The bits/dim in a folder's metrics.json as a Markdown table after an empty line; nothing if there are none."""
    rows = json.loads((folder / "metrics.json").read_text()).get("likelihood", {}).values()
    if not rows:
        return ""
    lines = ["", "", "| variance | steps of the bound | test pictures | bits/dim |", "|" + " --- |" * 4]
    for row in rows:
        settings, measured = row["settings"], row["measured"]
        name, steps = settings["variance"].replace("_", " "), settings["num_inference_steps"]
        bits = f"{measured['bits_per_dim']:.3f} ± {measured['standard_error']:.3f}"
        lines.append(f"| {name} | {steps:,} | {settings['num_images']:,} | {bits} |")
    return "\n".join(lines)


def noise_table(folder: Path) -> str:
    """The accuracy of a noisy classifier by noise level as Markdown after an empty line; nothing without one."""
    path = folder / "noise_accuracy.json"
    if not path.is_file():
        return ""
    found = json.loads(path.read_text())
    levels = found["accuracy"]
    lines = ["", "", f"| accuracy of the classifier on {found['num_images']:,} noisy test pictures, by t | "]
    lines[-1] += " | ".join(levels) + " |"
    lines += ["|" + " --- |" * (len(levels) + 1), "|  | " + " | ".join(f"{v:.1%}" for v in levels.values()) + " |"]
    return "\n".join(lines)


def _plots(folder: Path) -> str:
    """The plots that lie in a folder, below one another."""
    found = [(name, text) for name, text in PLOTS.items() if (folder / name).is_file()]
    return "".join(f"\n\n![{text}]({name})" for name, text in found)


def _memorisation(rows: list[dict[str, Any]]) -> str:
    if any("nearest_train_ratio" in row["measured"] for row in rows):
        return "How near samples are to training pictures stands in the table above."
    return "Whether samples repeat training pictures has not been measured yet."


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
        f"{real['precision_recall_images']:,} of them. The command: `{row['command']}`; seeds, versions and all "
        "other numbers are in metrics.json."
    )


def _training(record: dict[str, Any]) -> str:
    lines = []
    while record:
        lines.append(_run(record))
        record = record["continues"]
    steps = [f"{number}. {line}" for number, line in enumerate(reversed(lines), start=1)]
    return "\n".join(steps) + "\n\nEach run continued from the weights of the one before it." * (len(steps) > 1)


def _run(record: dict[str, Any]) -> str:
    recipe = record["recipe"]
    steered = recipe.get("objective") == "noisy_classifier"
    learned = recipe.get("variance_type") == "learned_range"
    what = "cross-entropy on noisy pictures" if steered else recipe["prediction_type"] + ", learned variance" * learned
    return (
        f"`accelerate launch -m training.train --recipe {recipe['recipe']}`: {record['steps']:,} updates, "
        f"{record['images']:,} images, {record['seconds'] / 60:.0f} minutes on {record['device']}; "
        f"{what}, AdamW {recipe['learning_rate']:g}, {recipe['lr_scheduler']}, batch "
        f"{recipe['train_batch_size']}, EMA {recipe['ema_decay']:g}, {recipe['mixed_precision']} autocast."
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
