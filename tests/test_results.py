"""metrics.json: a row per setting, true of some weights and data, and the grid of samples beside it."""

import json
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDPMPipeline, DDPMScheduler
from toys import tiny_unet

from training.evaluation.results import find_done, grid, key_of, merge, on_one_line, read_rows
from training.files import weights_hash
from training.sharing.card_tables import sorted_rows


def row(weights: str, value: float, **settings: object) -> dict:
    return {"settings": {"model": "m", **settings}, "weights": weights, "measured": {"frechet_distance": value}}


def test_rows_merge_by_settings_and_rows_of_other_weights_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    assert merge(path, row("a", 1.0, seed=0)) == []
    assert merge(path, row("a", 2.0, seed=1)) == []
    assert merge(path, row("a", 3.0, seed=0)) == []
    values = {key: found["measured"]["frechet_distance"] for key, found in read_rows(path).items()}
    assert values == {"m seed=0": 3.0, "m seed=1": 2.0}
    assert merge(path, row("b", 4.0, seed=1)) == ["m seed=0", "m seed=1"]
    assert list(read_rows(path)) == [key_of({"model": "m", "seed": 1})]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_the_sections_of_metrics_json_keep_each_other_and_age_together(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    merge(path, row("a", 1.0, seed=0))
    assert json.loads(path.read_text()).keys() == {"results"}
    merge(path, row("a", 2.0, variance="fixed_small") | {"curve": {"t": [0, 1, 2]}}, "likelihood")
    merge(path, row("a", 3.0, seed=1))
    assert len(read_rows(path)) == 2 and len(read_rows(path, "likelihood")) == 1
    assert '"t": [0, 1, 2]' in path.read_text()
    assert merge(path, row("b", 3.0, seed=0)) == ["m seed=0", "m seed=1", "m variance=fixed_small"]


def test_lists_of_numbers_stand_on_one_line_and_mean_the_same() -> None:
    content = {"a": [1, -2.5e-7, 3], "b": [], "c": ["x, 1", [1, 2]], "d": "[ 1, 2 ]", "e": [{"f": [0]}]}
    text = on_one_line(json.dumps(content, indent=2))
    assert json.loads(text) == content and '"a": [1, -2.5e-07, 3]' in text


@pytest.mark.parametrize(
    "changed", [{"weights": "b"}, {"real": {"test": 2}}, {"features": {"weights": "g"}}, {"settings": {"model": "n"}}]
)
def test_a_row_is_done_only_if_all_that_decides_it_is_the_same(tmp_path: Path, changed: dict) -> None:
    path = tmp_path / "metrics.json"
    written = row("a", 1.0, seed=0) | {"features": {"weights": "f", "name": "x"}, "real": {"test": 1}}
    merge(path, written)
    wanted = {key: written[key] for key in ("settings", "weights", "real")} | {"features": {"weights": "f"}}
    assert find_done(path, wanted, {"frechet_distance"}) == written
    assert find_done(path, wanted, {"frechet_distance", "recall"}) is None
    assert find_done(path, wanted | changed, {"frechet_distance"}) is None


def test_a_config_is_part_of_what_a_row_is_true_of(tmp_path: Path) -> None:
    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(tmp_path)
    first, path = weights_hash(tmp_path), tmp_path / "scheduler" / "scheduler_config.json"
    for change, same in (({"_diffusers_version": "0"}, True), ({"timestep_spacing": "trailing"}, False)):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert (weights_hash(tmp_path) == first) is same


def test_another_kind_of_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"test_accuracy": 0.9}')
    with pytest.raises(ValueError, match="output must be a metrics.json"):
        merge(path, row("a", 1.0))
    assert path.read_text() == '{"test_accuracy": 0.9}'


def test_the_grid_has_a_class_a_column() -> None:
    pixels = np.zeros((25, 1, 2, 3), dtype=np.uint8) + np.arange(25, dtype=np.uint8).reshape(25, 1, 1, 1) % 10
    image = grid(pixels, columns=10)
    assert image.size == (10 * 3 * 3, 2 * 2 * 3) and image.mode == "L"
    assert (np.asarray(image) == np.repeat(np.arange(10), 9)).all()
    assert grid(np.zeros((4, 3, 2, 3), dtype=np.uint8), columns=10).mode == "RGB"


DAMAGE = {
    "is a list": ([1, 2], "must be an object, it is a list"),
    "is null": (None, "must be an object, it is a NoneType"),
    "lacks its numbers": ({"settings": {"model": "m"}, "weights": "a"}, "has no measured"),
    "lacks its weights": ({"settings": {"model": "m"}, "measured": {}}, "has no weights"),
    "settings are text": ({"settings": "m", "weights": "a", "measured": {}}, "has a str as settings"),
    "has no model": ({"settings": {}, "weights": "a", "measured": {}}, "has no model among its settings"),
    "text for a number": (row("a", "1.0"), "has '1.0' as measured.frechet_distance, which is no finite number"),
    "not a number": (row("a", float("nan")), "has nan as measured.frechet_distance, which is no finite number"),
    "in the floor": (row("a", 1.0) | {"floor": {"recall": None}}, "has None as floor.recall"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_row_is_named_wherever_rows_are_read(damage: str, tmp_path: Path) -> None:
    path, (broken, fault) = tmp_path / "metrics.json", DAMAGE[damage]
    written = json.dumps({"results": {"m seed=0": row("a", 1.0, seed=0), "m seed=1": broken}})
    path.write_text(written)
    reads = (lambda: read_rows(path), lambda: merge(path, row("a", 1.0, seed=2)), lambda: sorted_rows(tmp_path))
    for read in reads:
        with pytest.raises(ValueError, match="holds a damaged row in 'results': 'm seed=1' ") as raised:
            read()
        assert fault in str(raised.value) and str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert path.read_text() == written


def write_rows(path: Path, process: int) -> None:
    for number in range(25):
        merge(path, row("a", float(number), process=process, number=number))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_rows_of_several_processes_are_all_kept(tmp_path: Path) -> None:
    path, context = tmp_path / "new" / "metrics.json", get_context("fork")
    writers = [context.Process(target=write_rows, args=(path, process)) for process in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4 and len(read_rows(path)) == 100
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"], "no lock file is left"
