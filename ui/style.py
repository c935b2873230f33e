"""How the page looks: the theme, and CSS for what a theme cannot set. The fonts come with Gradio."""

import gradio as gr
from starlette.middleware import Middleware

from .head import HEAD, ICON, PreviewCard
from .laboratory.canvas import CSS as CANVAS_CSS
from .laboratory.images import CSS as IMAGES_CSS

THEME = gr.themes.Soft(
    primary_hue=gr.themes.colors.violet,
    secondary_hue=gr.themes.colors.violet,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_md,
    font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
    font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace"],
).set(
    block_title_background_fill="none",
    block_title_background_fill_dark="none",
    block_title_padding="0",
    block_title_text_color="*body_text_color",
    block_title_text_color_dark="*body_text_color",
    block_label_background_fill="none",
    block_label_background_fill_dark="none",
    block_label_text_color="*body_text_color",
    block_label_text_color_dark="*body_text_color",
    block_border_width="1px",
    block_info_text_color="*body_text_color_subdued",
    # violet and grey that white, or the page behind them, stands out from as WCAG AA asks
    color_accent="*primary_600",
    slider_color="*primary_600",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_hover_dark="*primary_700",
    checkbox_label_background_fill_selected="*primary_600",
    body_text_color_subdued="*neutral_600",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    link_text_color_dark="*secondary_400",
)

CSS = """
.gradio-container { width: 100%; min-width: 0 !important; max-width: 1200px !important; margin: 0 auto !important; }
#title .html-container, #status .html-container, .plain .html-container { padding: 0 !important; }
#title h1 { font-size: 1.75rem; font-weight: 700; margin: 0; letter-spacing: -0.02em; }
#left-out .html-container { padding: 0 !important; }
#left-out p { margin: 0.3rem 0 0; overflow-wrap: anywhere; }
#title p { margin: 0.15rem 0 0; color: var(--body-text-color-subdued); }
#stage, #settings { min-width: 0; }
#settings fieldset label { min-width: 0; max-width: 100%; overflow-wrap: anywhere; }
#settings { overflow-anchor: none; }
#status { scroll-margin-top: 2.5rem; }
#preview img, #gallery img { image-rendering: pixelated; }
#preview .image-frame, #preview .image-frame img { width: 100%; object-fit: contain; }
#status .bar, #compare-status .bar, .progress .bar { height: 4px; border-radius: 2px; overflow: hidden; }
#status .bar, #compare-status .bar, .progress .bar { background: var(--border-color-primary); }
#status .bar i, #compare-status .bar i, .progress .bar i {
  display: block; height: 100%; background: var(--color-accent);
}
#status p, #compare-status p, .progress p { margin: 0 0 0.4rem; min-height: 1.5em; font-variant-numeric: tabular-nums; }
#status [role=alert] p, #compare-status [role=alert] p, .plain [role=alert] {
  color: var(--error-text-color); overflow-wrap: anywhere;
}
#film-text p { margin: 0 0 0.3rem; font-variant-numeric: tabular-nums; }
:is(#captions, #stages) .captions { display: flex; margin: -0.6rem 0 0; text-align: center; font-weight: 700; }
:is(#captions, #stages) .captions span { flex: 1; }
#stages .captions { margin: 0; }
#film-text .formula { font-size: 1.05rem; }
#film-text .where, .step-lines .where { color: var(--body-text-color-subdued); font-size: 0.875rem; }
.step-lines .source { margin: 0.8rem 0 0.3rem; font-size: 0.875rem; overflow-wrap: anywhere; }
.step-lines summary { cursor: pointer; }
.step-lines .line { display: grid; grid-template-columns: 2.6rem minmax(0, 1fr); font-size: 0.8125rem; }
.step-lines .gap { margin-top: 0.35rem; padding-top: 0.35rem; border-top: 1px dotted var(--border-color-primary); }
.step-lines i { font-style: normal; color: var(--body-text-color-subdued); font-family: var(--font-mono); }
.step-lines code { font-family: var(--font-mono); white-space: pre-wrap; overflow-wrap: anywhere; }
.step-lines .line p { grid-column: 2; margin: 0; display: flex; flex-wrap: wrap; gap: 0 1.2rem; }
.step-lines .line p * { color: var(--code-value); font-variant-numeric: tabular-nums; }
.step-lines .line small { font-size: 0.75rem; }
.step-lines .k { color: var(--code-keyword); } .step-lines .f { color: var(--code-name); }
.step-lines .n, .step-lines .s { color: var(--code-number); } .step-lines .c { color: var(--body-text-color-subdued); }
.step-lines { --code-value: var(--primary-700); --code-keyword: #a21caf; --code-name: #1d4ed8; --code-number: #b45309; }
.dark .step-lines {
  --code-value: var(--primary-300); --code-keyword: #f0abfc; --code-name: #93c5fd; --code-number: #fcd34d;
}
#gallery .grid-wrap, #runs .grid-wrap { min-height: 0; height: auto; max-height: none; padding: 0; }
#gallery .grid-container { grid-template: none / 1fr; grid-auto-rows: auto; gap: 4px; padding-top: 2.4rem; }
#gallery .grid-container:has(> :nth-child(2)) { grid-template-columns: repeat(2, minmax(0, 1fr)); }
#gallery .grid-container:has(> :nth-child(5)) { grid-template-columns: repeat(3, minmax(0, 1fr)); }
#gallery .grid-container:has(> :nth-child(10)) { grid-template-columns: repeat(4, minmax(0, 1fr)); }
#gallery .thumbnail-item, #runs .thumbnail-item { border-radius: 4px; height: auto; aspect-ratio: 1; }
#gallery .grid-container .caption-label { display: none; }
#gallery .gallery-item { height: auto; }
#runs img, #large img { image-rendering: pixelated; }
#runs .grid-container { grid-template: none / repeat(6, minmax(0, 1fr)); grid-auto-rows: auto; padding-top: 2rem; }
#runs .thumbnail-item { display: flex; flex-direction: column; aspect-ratio: auto; justify-content: start; }
#runs .caption-label { position: static; max-width: 100%; border: 0; box-shadow: none; white-space: normal; }
#zip-file { display: none; }
#large .image-frame, #large img { width: 100%; object-fit: contain; }
#stage:is([data-shows=images], [data-shows=waiting]):has(#gallery .thumbnail-item) :is(#preview, #captions) {
  display: none;
}
#stage[data-shows=steps] #gallery { display: none; }
#stage:has(#viewer) :is(#preview, #gallery, #captions, #scrubber, #film, #film-text, #step-code, #film-file) {
  display: none;
}
.gradio-container:has(#viewer) :is(#history, #code, #copy-link) { display: none; }
#styles .wrap { gap: 0.4rem; }
#styles label { padding: 0.2rem 0.7rem; border-radius: 999px; cursor: pointer; }
#styles label:focus-within { outline: 2px solid var(--color-accent); outline-offset: 1px; }
#styles label input { position: absolute; opacity: 0; pointer-events: none; }
#styles label input + span { margin: 0; }
#styles label.selected { background: var(--button-primary-background-fill); color: var(--button-primary-text-color); }
#examples .gallery { gap: 0.4rem; }
#examples .gallery-item { border-radius: 999px; padding: 0 0.3rem; font-size: 0.85rem; }
.plain p { margin: 0 0 0.4rem; }
#compare-sheet img { width: auto; max-width: 100%; margin: 0 auto; }
#compare-file .upload-container { padding-top: 2.2rem; }
#settings { order: -1; }
.dark button[role="tab"].selected { color: var(--primary-400) !important; }
/* Gradio's light theme of code has no colour for a name, a number or a keyword that can be read on white */
body:not(.dark) #code .cm-content span { color: inherit !important; }
.dark #code .cm-editor, .dark #code .cm-gutters { background: var(--neutral-950) !important; }
footer, footer button, footer a { color: var(--body-text-color-subdued) !important; opacity: 1 !important; }
footer a, footer button { min-height: 44px; min-width: 44px; align-items: center; }
footer a { display: inline-flex; }
@media (max-width: 768px) {
  #settings { order: 0; }
  button:not([role="tab"]), .tab-container:not(.visually-hidden) button, fieldset label, input[type="number"],
  input[type="text"] { min-height: 44px !important; min-width: 44px !important; }
  input[type="range"] {
    height: 44px !important; padding: 18px 0 !important; box-sizing: border-box;
    background-clip: content-box !important;
  }
  fieldset label { display: flex; align-items: center; }
  .tab-like-container { height: 46px !important; margin-bottom: 0 !important; }
  /* Gradio's menu for tabs that find no room does not open: they are cut off instead */
  .tab-wrapper, .tab-container:not(.visually-hidden) { height: auto !important; }
  .tab-container:not(.visually-hidden) { flex-wrap: wrap; }
  .tab-container:not(.visually-hidden) button { flex: none; }
  #preview .image-container { display: flex; flex-direction: column; }
  #preview .icon-button-wrapper { position: static; order: 1; align-self: flex-end; margin: 4px; }
  #runs .grid-container { grid-template: none / repeat(3, minmax(0, 1fr)); }
  .gradio-container > .main { padding: 12px !important; }
}
"""

# The keyword arguments of `launch` that make the page what it is.
# Gradio keeps the stored steps of up to 200 visitors, about 2 MB per visitor, and 3 MB of an image to begin with. An
# upload is a photograph, at most.
LAUNCH = {
    "theme": THEME,
    "css": CSS + CANVAS_CSS + IMAGES_CSS,
    "head": HEAD,
    "favicon_path": ICON,
    "app_kwargs": {"middleware": [Middleware(PreviewCard)]},
    "ssr_mode": False,
    "state_session_capacity": 200,
    "max_file_size": "20mb",
}
