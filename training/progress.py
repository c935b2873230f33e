"""What a run shows on the terminal: its bar, what its checkpoints cost, and at the end the commands that come next."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm

from training.files import read_json_object
from training.model_index import is_adapter, read_index

SCALE = {"kB": 1e3, "MB": 1e6, "GB": 1e9}  # bytes


class Progress:
    """A bar over the updates of a run. An update is done when all that follows from it is done, too."""

    def __init__(self, name: str, total: int, initial: int, silent: bool) -> None:
        self.name = name
        self._bar = tqdm(total=total, initial=initial, desc=name, disable=silent)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def values(self, loss: float, rate: float) -> None:
        """Show the loss and the images per second of an update."""
        self._bar.set_postfix(loss=f"{loss:.4f}", images_s=f"{rate:.0f}", refresh=False)

    def advance(self) -> None:
        """One update more is done."""
        self._bar.update()

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Show what the run does instead of updates."""
        self._bar.set_description(f"{self.name}, {what}")
        yield
        self._bar.set_description(self.name, refresh=False)

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        if not self._bar.disable:
            self._bar.write(line)


def size_of(folder: Path) -> str:
    """The size of the files in a folder, as 12.3 MB."""
    size = float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    unit = next((unit for unit in ("kB", "MB") if size < 1000 * SCALE[unit]), "GB")
    return f"{size / SCALE[unit]:.1f} {unit}"


def next_commands(folder: Path, pushed: bool = False) -> str:
    """The commands that use the finished pipeline or adapter in `folder`: draw, open the page, push unless that is
    done."""
    if is_adapter(folder):
        return _commands_of_adapter(folder, pushed)
    index, place = read_index(folder), shlex.quote(str(folder))
    if index.about(folder).get("card", {}).get("task") == "image-to-image":
        commands = [
            f"python -m training.metrics.reconstruction {place} --dataset_name DATA",
            f"accelerate launch -m training.train --recipe conditional --vae {place} --train_data_dir IMAGES",
        ]
    else:
        call = f"class_labels={_quoted(index.class_names[0])}" if index.class_names else ""
        load = f"DiffusionPipeline.from_pretrained({_quoted(str(folder))}, trust_remote_code=True)"
        draw = f'from diffusers import DiffusionPipeline; {load}({call}).images[0].save("drawn.png")'
        commands = [f"python -c {shlex.quote(draw)}", f"python app.py --model {place}"]
    if not pushed:
        commands.append(f"python -m training.hub push {place} OWNER/NAME")
    return "\n".join(f"  {command}" for command in commands)


def _commands_of_adapter(folder: Path, pushed: bool) -> str:
    """The same of an adapter: with its base, which it was trained on."""
    record, place = read_json_object(folder / "training.json"), shlex.quote(str(folder))
    base = record["recipe"]["pretrained_model_name_or_path"]
    words = record["trigger_words"]
    prompt = f"prompt={_quoted(words[0])}" if words else ""
    load = f"pipe = DiffusionPipeline.from_pretrained({_quoted(base)}, trust_remote_code=True)"
    draw = f"from diffusers import DiffusionPipeline; {load}; pipe.load_lora_weights({_quoted(str(folder))})"
    draw = f'{draw}; pipe({prompt}).images[0].save("drawn.png")'
    commands = [f"python -c {shlex.quote(draw)}", f"python app.py --model {shlex.quote(base)} --adapter {place}"]
    commands += [] if pushed else [f"python -m training.hub push {place} OWNER/NAME"]
    return "\n".join(f"  {command}" for command in commands)


def _quoted(text: str) -> str:
    """A Python literal in double quotes, which the shell's single ones do not touch."""
    return json.dumps(text, ensure_ascii=False)
