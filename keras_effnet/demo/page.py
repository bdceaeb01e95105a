"""The page of ``effnet demo``; the only importer of Gradio."""

from __future__ import annotations

import os
import tempfile
import threading

import gradio as gr

from keras_effnet.demo.classification import TOP, Demo, explain_photo

_FONTS = {
    "font": ["system-ui", "sans-serif"],  # of the system: nothing is loaded from elsewhere
    "font_mono": ["ui-monospace", "monospace"],
}
# A small image fills its box, with visible pixels.
_CSS = """
#prepared img, #heat img {
  width: 100%; height: 100%; object-fit: contain !important; image-rendering: pixelated;
}
"""


def make_page(demo: Demo, title: str) -> gr.Blocks:
    """The page of a model."""
    predictors = [demo.original, *([demo.converted] if demo.converted else [])]
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"# {title}\nThe model gets: {demo.original.image_input}.")
        with gr.Row():
            photo = gr.Image(
                label="Photo",
                type="filepath",
                image_mode=None,  # the file as it is: this package decodes it
                sources=["upload", "webcam", "clipboard"],
                webcam_options=gr.WebcamOptions(mirror=False),
                height=360,
                elem_id="photo",
            )
            labels = [
                gr.Label(label=predictor.name, num_top_classes=TOP, elem_id=f"top-{i}")
                for i, predictor in enumerate(predictors)
            ]
        summary = gr.Markdown(elem_id="summary")
        with gr.Row():
            pictures = [
                gr.Image(
                    label=label,
                    format="png",
                    interactive=False,
                    height=360,
                    buttons=["download", "fullscreen"],
                    elem_id=name,
                )
                for label, name in (
                    ("As the network sees it", "prepared"),
                    ("Grad-CAM of the best class", "heat"),
                )
            ]
        outputs = [*labels, summary, *pictures]

        def show(path):
            if path is None:  # removed
                return [None] * len(outputs)
            try:
                explanation = explain_photo(demo, path)
            except (ValueError, OSError) as error:
                text = str(error).replace(path, os.path.basename(path))
                return [*[None] * len(labels), f"**Error:** {text}", None, None]
            bests = [prediction.best for prediction in explanation.predictions]
            text = "\n\n".join(filter(None, [_summary(explanation.predictions), explanation.note]))
            return [*bests, text, explanation.prepared, explanation.heat]

        photo.change(show, photo, outputs, show_progress="minimal", api_visibility="private")
    return page


def _summary(predictions):
    """Markdown: the latency of each model, and whether they agree."""
    lines = [f"{p.model}: **{p.milliseconds:.1f} ms** for one image" for p in predictions]
    first = [next(iter(p.best)) for p in predictions]
    if len(first) > 1:
        verdict = "the same class" if first[0] == first[1] else "different classes"
        lines.append(f"The models predict {verdict}")
    return " · ".join(lines)


def serve(demo: Demo, title: str, port: int) -> None:
    """Serves the page of a model on this computer until the process is interrupted."""
    with tempfile.TemporaryDirectory() as folder:  # photos do not outlive the page
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when a page is made
        make_page(demo, title).launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=True,
            ssr_mode=False,
            footer_links=[],
            css=_CSS,
            theme=gr.themes.Default(**_FONTS),
        )
        print(f"http://127.0.0.1:{port} shows the demo; Ctrl-C ends it", flush=True)
        threading.Event().wait()
