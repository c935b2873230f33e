"""Start the demo: `python app.py`, or `python app.py --model <folder or Hub id>` for any other model."""

import argparse
import os
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from huggingface_hub import RepoCard

from pipelines.about import draws_in_steps, read_json
from ui import LAUNCH, Catalogue, build_demo
from ui.prompts import is_told_prompts

CARDS = Path(__file__).resolve().parent / "model_cards"


def shipped_models() -> dict[str, str]:
    """The folders of model_cards/ that hold a pipeline that draws in steps, the one that opens the page first."""
    folders = sorted(filter(_may_draw, (i.parent for i in CARDS.glob("*/model_index.json"))), key=_order)
    return {folder.name: _relative(folder) for folder in folders}


def _may_draw(folder: Path) -> bool:
    """Whether it draws in steps; a damaged folder is for the catalogue to name."""
    try:
        return draws_in_steps(folder)
    except Exception:  # its files may say anything
        return True


def _order(folder: Path) -> tuple[bool, bool, bool, str]:
    """Models that are told prompts, over latents first, which is fastest; then "cfg", then the rest, each by name."""
    try:
        index = read_json(folder / "model_index.json")
        told = is_told_prompts(index)
    except Exception:
        index, told = {}, False
    return not told, not (told and "vae" in index), "cfg" not in folder.name, folder.name


def _relative(folder: Path) -> str:
    """The path as the code on the page writes it: relative if the page was started inside the repository."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


def default_models() -> dict[str, str]:
    """The shipped models or, in a Space, which has none, those that the front matter of its README names."""
    shipped = shipped_models()
    readme = CARDS.parent / "README.md"
    if shipped or not readme.is_file():
        return shipped
    return named_models(RepoCard.load(readme).data.to_dict().get("models") or [])


def named_models(sources: list[str]) -> dict[str, str]:
    """Folders or Hub ids by the last part of their path, or by all of it where two end in the same."""
    names = [Path(os.path.abspath(source)).name for source in sources]
    return {name if names.count(name) == 1 else source: source for name, source in zip(names, sources, strict=True)}


def _models(given: list[str] | None) -> dict[str, str]:
    return named_models(given) if given else default_models()


def main() -> None:
    """Parse the command line, build the page, and serve it until interrupted."""
    parser = argparse.ArgumentParser(description="Draw with diffusion models in the browser.")
    parser.add_argument("--model", action="append", metavar="FOLDER_OR_HUB_ID", help="repeatable; runs its code")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="FOLDER_OR_HUB_ID", help="repeatable; a LoRA of such a model"
    )
    parser.add_argument("--port", type=int, help="7860 or the next free one unless given")
    parser.add_argument("--share", action="store_true", help="make a public link")
    arguments = parser.parse_args()
    try:
        catalogue = Catalogue(_models(arguments.model), arguments.adapter)
    except ValueError as error:
        parser.error(str(error))
    page = build_demo(catalogue)
    page.launch(server_port=arguments.port, share=arguments.share, prevent_thread_lock=True, **LAUNCH)
    catalogue.warm()  # after the page is up: importing and loading takes seconds
    page.block_thread()


@cache
def _page() -> gr.Blocks:
    return build_demo(default_models())


def __getattr__(name: str) -> Any:
    """`app.demo`, built when it is asked for."""
    if name == "demo":
        return _page()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    main()
