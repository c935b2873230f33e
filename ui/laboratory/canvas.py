"""The component that draws plots in the page, on canvases of its own: canvas.js."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from .plots import Plot

SCRIPT = Path(__file__).with_name("canvas.js")

CSS = """
.lab-settings { order: -1; }
@media (max-width: 768px) {
  .lab-settings { order: 0; }
  .lab-settings input:not([type]) { min-height: 44px !important; }
}
.lab-plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.lab-figure { margin: 0; min-width: 0; color: var(--body-text-color); }
.lab-figure[hidden], .lab-controls[hidden], .lab-legend[hidden], .lab-handle[hidden] { display: none !important; }
.lab-figure.lab-square { max-width: 36rem; width: 100%; justify-self: center; }
.lab-figure.lab-wide { grid-column: 1 / -1; }
.lab-figure figcaption { font-weight: 700; margin: 0 0 0.2rem; }
.lab-stage { position: relative; }
.lab-stage canvas { display: block; width: 100%; border-radius: 6px; }
.lab-handle { position: absolute; width: 44px; height: 44px; margin: -22px 0 0 -22px; padding: 0; border: 0;
  border-radius: 50%; background: transparent; cursor: grab; touch-action: none; }
.lab-handle:active { cursor: grabbing; }
.lab-handle:focus-visible { outline: 2px solid var(--color-accent); outline-offset: -8px; }
.lab-legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0 1rem; margin: 0.2rem 0 0; padding: 0;
  font-size: 0.9rem; }
.lab-legend li { display: flex; align-items: center; gap: 0.4rem; }
.lab-mark { display: inline-block; width: 1.2rem; border-top: 3px solid; }
.lab-mark.lab-dashed { border-top-style: dashed; }
.lab-mark.lab-points { width: 0.6rem; height: 0.6rem; border: 0; border-radius: 50%; background: currentColor; }
.lab-controls { display: flex; align-items: center; gap: 0.6rem; margin-top: 0.2rem; }
.lab-controls input { flex: 1; min-width: 0; height: 44px; accent-color: var(--color-accent); }
.lab-controls output { min-width: 5.5rem; font-variant-numeric: tabular-nums; }
.lab-play { min-height: 44px; min-width: 6.2rem; padding: 0 0.8rem; white-space: nowrap; border-radius: 6px;
  border: 1px solid var(--border-color-primary);
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color); cursor: pointer; }
"""


def canvas(plots: Sequence[Plot] = (), **options: Any) -> gr.HTML:
    """The component, whose value is plots as JSON.

    Its event `input` says that components were moved: {"at": [[x, y], ...], "radius": [...]}, and `select` to which
    frame a slider was moved: {"share": from 0 to 1}. A function, since Gradio
    would write a file of types beside a class.
    """
    return gr.HTML(
        packed(plots),
        html_template='<div class="lab-plots"></div>',
        js_on_load=SCRIPT.read_text(),
        apply_default_css=False,
        **options,
    )


def packed(plots: Sequence[Plot]) -> str:
    """Plots as the component takes them."""
    return json.dumps(list(plots), separators=(",", ":"), allow_nan=False)
