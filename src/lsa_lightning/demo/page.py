"""The page itself, made of Gradio's components; what it shows comes from the other modules."""

# Without postponed annotations: Gradio reads those of the functions below, whose names exist inside of others alone.

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from lsa_lightning.demo.inputs import Canvas, Plane
from lsa_lightning.demo.partner import ATTACKS, Partner, adversarial_partner
from lsa_lightning.demo.pictures import PlanePicture, layer_bars
from lsa_lightning.demo.subject import Subject
from lsa_lightning.layers.report import in_words
from lsa_lightning.plotting import plot_adversarial_images

_POSITIONS = 30
"""Of the slider, up to the radius of training."""

_ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}  # attacks put hooks on the model


class _View(NamedTuple):
    """How one kind of input is given and shown.

    Attributes:
        value: the component whose value is the input.
        triggers: events after which it is another one.
        picture: the component that shows input and partner.
        read: makes a model's input of the value.
        draw: makes what ``picture`` shows.
    """

    value: Any
    triggers: Sequence[Any]
    picture: Any
    read: Callable[[Any], Tensor]
    draw: Callable[[Partner], Any]


def build_page(subject: Subject) -> Any:
    """A ``gradio.Blocks`` about a model; it asks for nothing outside of its own server."""
    import gradio as gr

    with gr.Blocks(title=f"lsa-demo: {subject.name}", analytics_enabled=False) as page:
        gr.Markdown(f"# {subject.name}\n{_explanation(subject)}")
        with gr.Row():
            with gr.Column():
                view = _plane(subject, subject.inputs) if isinstance(subject.inputs, Plane) else _canvas(subject.inputs)
            with gr.Column():
                attack = gr.Dropdown(list(ATTACKS), label="Attack", elem_id="attack")
                eps = _slider(subject)
                clean = gr.Label(label="Prediction for the input", num_top_classes=3, elem_id="clean")
                adversarial = gr.Label(label="Prediction for its partner", num_top_classes=3, elem_id="adversarial")
            bars = gr.Plot(show_label=False, elem_id="layers", format="png")

        def answer(value: Any, name: str, radius: float) -> tuple[Any, dict[str, float], dict[str, float], Figure]:
            x = view.read(value).to(next(subject.model.parameters()).device)
            partner = adversarial_partner(subject.model, subject.threat.with_eps(radius), name, x, subject.measure)
            return view.draw(partner), _named(partner.clean), _named(partner.adversarial), layer_bars(partner.report)

        triggers = [page.load, *view.triggers, attack.change, eps.release]
        gr.on(triggers, answer, [view.value, attack, eps], [view.picture, clean, adversarial, bars], **_ONE_AT_A_TIME)
    return page


def launch(page: Any, port: int | None = None) -> str:
    """Serve what :func:`build_page` made on this machine alone, and return its address at once.

    Args:
        page: the page.
        port: the port; None: a free one, from 7860 on.
    """
    import gradio as gr

    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        ssr_mode=False,
        quiet=True,
        show_error=True,
        prevent_thread_lock=True,
        footer_links=[],
        theme=gr.themes.Base(font=("system-ui", "sans-serif"), font_mono=("monospace",)),  # none is fetched
    )
    return str(address)


def _plane(subject: Subject, plane: Plane) -> _View:
    import gradio as gr

    picture = PlanePicture(subject.model, plane)
    place = gr.State(plane.points[0].tolist())
    image = gr.Image(picture.draw(), show_label=False, interactive=False, buttons=[], format="png", elem_id="plane")

    def chosen(event: gr.SelectData) -> list[float]:
        point: list[float] = plane.at(*event.index)[0].tolist()
        return point

    image.select(chosen, outputs=place, show_progress="hidden")
    return _View(place, [place.change], image, lambda value: Tensor([value]), picture.draw)


def _canvas(canvas: Canvas) -> _View:
    import gradio as gr

    height, width = (size * (280 // max(canvas.shape[1:]) or 1) for size in canvas.shape[1:])
    black = np.zeros((height, width, 3), dtype=np.uint8)
    brush = gr.Brush(
        default_size=max(1, height // 14), default_color="#ffffff", colors=["#ffffff", "#808080", "#000000"]
    )
    editor = gr.ImageEditor(
        black,
        label="Draw, light on dark, or upload",
        sources=["upload"],
        brush=brush,
        canvas_size=(width, height),
        layers=False,
        transforms=[],
        buttons=[],
        image_mode="RGB",
        elem_id="canvas",
    )
    button = gr.Button("Attack", variant="primary", elem_id="go")
    shown = gr.Plot(show_label=False, elem_id="partner", format="png")

    def draw(partner: Partner) -> Figure:
        before, after = partner.clean.argmax().view(1), partner.adversarial.argmax().view(1)
        bounds = canvas.bounds or (0.0, 1.0)
        return plot_adversarial_images(partner.x.cpu(), partner.x_adv.cpu(), before, before, after, bounds)

    return _View(editor, [button.click], shown, lambda value: canvas.read((value or {}).get("composite")), draw)


def _slider(subject: Subject) -> Any:
    """From 0 to the largest radius, with that of training among its positions."""
    import gradio as gr

    step = (subject.threat.eps or subject.largest_eps or 1.0) / _POSITIONS
    highest = max(round(subject.largest_eps / step), 1) * step
    label = f"eps ({subject.threat.norm}, in units of the input; the run's own: {subject.threat.eps:.4g})"
    return gr.Slider(0.0, highest, value=subject.threat.eps, step=step, label=label, elem_id="eps")


def _explanation(subject: Subject) -> str:
    what = (
        "Click a place. The star is the input, the circle its adversarial partner; the line is where the model "
        "changes its mind."
        if isinstance(subject.inputs, Plane)
        else "Draw or upload a picture, then press Attack."
    )
    measure = "relative error" if subject.measure is None else subject.measure.name
    return f"{what} The bars say how far the attack moves the representation of each layer: its {in_words(measure)}."


def _named(probabilities: Tensor) -> dict[str, float]:
    return {f"class {label}": value for label, value in enumerate(probabilities.tolist())}
