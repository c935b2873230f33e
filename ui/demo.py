"""The page: its title, its tabs and the endpoint."""

from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from . import links, stage
from .api import add_endpoint
from .catalogue import Catalogue
from .head import SUMMARY, TITLE
from .history import History
from .laboratory import api as laboratory_api
from .laboratory import exact_api
from .own_image import api as own_image_api
from .queueing import set_up
from .tabs.compare import CompareTab
from .tabs.exact_and_learned import ExactAndLearnedTab
from .tabs.generate import GenerateTab
from .tabs.laboratory import LaboratoryTab
from .tabs.own_image import OwnImageTab
from .viewer import Viewer

CACHE_SECONDS = (3600, 3600)  # how often image files are deleted, and from which age on


def build_demo(models: Mapping[str, str | Path] | Catalogue) -> gr.Blocks:
    """The page over models by name (folders or Hub ids); it opens with the first.

    Works for any pipeline whose class has a method `stream`: the arguments of its call decide which controls are shown.
    Launch with `demo.launch(**ui.LAUNCH)` for the theme.

    Raises:
        ValueError: no model, or none that can be read, by name.
    """
    catalogue = models if isinstance(models, Catalogue) else Catalogue(models)
    with gr.Blocks(title=TITLE, delete_cache=CACHE_SECONDS, analytics_enabled=False) as demo:
        gr.HTML(f"<h1>{TITLE}</h1><p>{SUMMARY}</p>", elem_id="title", padding=False)
        if catalogue.left_out:
            gr.HTML(_left_out(catalogue), elem_id="left-out", padding=False)
        with gr.Tabs() as tabs:
            with gr.Tab("Generate", id=links.GENERATE):
                tab = GenerateTab(catalogue)
                with tab.stage:
                    viewer = Viewer(catalogue)
                history = History()
                stage.connect(tab.draw_button, tab.film.scrubber, tab.gallery)
                viewer.connect(tab.controls, tab.status, tab.draw_button)
                history.connect(tab.gallery, viewer)
            with gr.Tab("Compare", id="compare") as compare:
                CompareTab(catalogue, tab.controls.settings(), tab.controls.start).connect(compare)
            with gr.Tab("Laboratory", id="laboratory") as opened:
                laboratory = LaboratoryTab()
                laboratory.connect(opened)
            with gr.Tab("Your image", id="image") as opened:
                own_image = OwnImageTab(catalogue)
                own_image.connect(opened)
            with gr.Tab("Exact or learned", id="exact"):
                exact = ExactAndLearnedTab()
        add_endpoint(catalogue)
        laboratory_api.add_endpoint()
        own_image_api.add_endpoints(catalogue)
        exact_api.add_endpoint()
        tab.open(demo)
        own_image.open(demo)
        exact.open(demo)
        quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        laboratory.open(demo).then(_opened([each.id for each in tabs.children]), None, tabs, **quiet)
    set_up(demo)
    return demo


def _opened(names: list[str]) -> Callable[[gr.Request], Any]:
    """Selects the tab that the page's address names, or the first."""

    def select(request: gr.Request) -> Any:
        asked = request.query_params.get(links.TAB)
        return gr.update(selected=asked if asked in names else names[0])

    return select


def _left_out(catalogue: Catalogue) -> str:
    """Which models cannot be drawn with, and why."""
    return "".join(f"<p>{escape(f'{name} is left out: {why}')}</p>" for name, why in catalogue.left_out.items())
