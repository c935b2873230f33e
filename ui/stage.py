"""What the stage shows: the steps of a run, or its images in their place, so that none is seen twice.

All of it runs in the browser. style.py hides what `data-shows` does not name, and everything else while an image is
shown large.
"""

from typing import Any

import gradio as gr

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
PRESSED = """() => {
    const stage = document.querySelector("#stage"), looked = Date.now();
    const look = () => {
        if (stage.dataset.shows !== "waiting" || Date.now() > looked + 60000) return;
        if (document.querySelector("#stop").disabled) setTimeout(look, 50);
        else stage.dataset.shows = "steps";
    };
    if (stage.dataset.shows === "images") stage.dataset.shows = "waiting";
    look();
}"""
IMAGES = """() => { document.querySelector("#stage").dataset.shows = "images"; }"""
POSITION = """() => {
    const handle = document.querySelector("#scrubber input[type=range]");
    if (handle) document.querySelector("#stage").dataset.shows = handle.value === handle.max ? "images" : "steps";
}"""


def connect(draw_button: gr.Button, scrubber: gr.Slider, gallery: gr.Gallery) -> None:
    """Show the steps once a run begins, as Stop says, or as they are looked back on; the images at the end of both."""
    draw_button.click(None, js=PRESSED, **QUIET)
    scrubber.change(None, js=POSITION, **QUIET)  # by hand, or as the film plays
    gallery.change(None, js=IMAGES, **QUIET)
