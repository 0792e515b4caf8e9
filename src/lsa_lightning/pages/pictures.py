"""The pictures of the page of a run: its figures, read from its folder."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from lsa_lightning.runs.folder import save_svg
from lsa_lightning.runs.read import in_one_line

_LARGE_SVG = 400_000  # bytes; where dense drawings make the vector file larger than this, the PNG takes its place

_ENDS = {".svg": (b"<?xml", b"</svg>"), ".png": (b"\x89PNG", b"IEND\xaeB`\x82")}
"""What a whole file begins and ends with."""

_WIDE = ("adversarial_images", "largest_errors")

_CAPTIONS = {
    "training": (
        "Training",
        "Loss of the training batches, and accuracy on the validation set, clean and under attack, after each epoch "
        "(the last validation run in it). "
        "The dotted line marks the epoch whose weights were kept and are measured below.",
    ),
    "accuracy": (
        "Accuracy over eps",
        "Accuracy on the test set as the radius eps of the attack grows, one line per attack. The lower its line, the "
        "stronger the attack. The numbers are in the table Accuracy.",
    ),
    "layer_profile": (
        "Layers",
        "How far each attack moves each layer's representation, by the comparison measure: mean and, as bars that end "
        "at 0, standard deviation over the test samples. The shaded layers, whose mean is above the dashed threshold, "
        "are the Most Vulnerable Layers (MVL) of the weights that were kept. The numbers are in the table Layers.",
    ),
    "mvl_history": (
        "Layers over the epochs",
        "How far each layer's measure lies from the mean mu of the layers after each analysed epoch of training, on "
        "validation data: light blue below, orange to brown above. Algorithm 1 chooses layers more than eta sigma "
        "above; black bars mark those that were chosen.",
    ),
    "class_accuracy": (
        "Accuracy of each class",
        "Clean and under the attack, with 95 % Wilson intervals. The numbers are in the table Classes.",
    ),
    "confusion": (
        "What each class is taken for under attack",
        "A row shows the samples of a class, by the class that the model predicts under the attack, in percent; the "
        "diagonal is the accuracy of the class.",
    ),
    "decision_boundary": (
        "Decision boundary",
        "Predicted probability of class 1 over the plane, the decision boundary as a line, test points, and with a "
        "thin line where the attack moved those that were right and are wrong now.",
    ),
    "adversarial_images": (
        "Clean and adversarial images",
        "Test images, their adversarial partners, and the difference between the two.",
    ),
    "largest_errors": (
        "Images whose layers move farthest",
        "Of the test images that were looked at, those for which the attack moves the layers farthest, by the measure "
        "above each image, mean over the layers.",
    ),
}


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it.

    Attributes:
        title: what it is, also its alternative text.
        caption: what it shows.
        source: data URI.
        wide: whether a phone shows it at its full size, to be scrolled.
    """

    title: str
    caption: str
    source: str
    wide: bool = False


def pictures_of_run(folder: Path) -> tuple[dict[str, Picture], list[str]]:
    """The figures in a run folder by name, those with a caption first, and what kept others from being shown."""
    pictures: dict[str, Picture] = {}
    unread: list[str] = []
    for name, files in _figure_files(folder).items():
        try:
            pictures[name] = _file_picture(name, files)
        except (ValueError, OSError) as error:
            unread.append(in_one_line(error))
    return pictures, unread


def _figure_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each figure, those with a caption first."""
    files: dict[str, list[Path]] = {}
    for path in sorted((folder / "figures").glob("*")):
        if path.suffix in (".svg", ".png") and not path.is_symlink():  # which might show a file of the reader's own
            files.setdefault(path.stem, []).append(path)
    known = [name for name in _CAPTIONS if name in files]
    return {name: files[name] for name in [*known, *(name for name in files if name not in known)]}


def _file_picture(name: str, files: list[Path]) -> Picture:
    """The vector file, or the other one where it is large or broken."""
    readable: dict[str, bytes] = {}
    for path in files:
        content = path.read_bytes()
        start, end = _ENDS[path.suffix]
        if content.startswith(start) and content.rstrip().endswith(end):
            readable[path.suffix] = content
    if not readable:
        msg = f"expected {' or '.join(map(str, files))} to be a whole picture"
        raise ValueError(msg)
    is_small = len(readable.get(".svg", b"")) <= _LARGE_SVG
    suffix = ".svg" if ".svg" in readable and (is_small or ".png" not in readable) else ".png"
    title, caption = _CAPTIONS.get(name, (name, f"figures/{name}{suffix}"))
    return Picture(title, caption, _data_uri(readable[suffix], suffix), name in _WIDE)


def drawn(title: str, caption: str, figure: Figure) -> Picture:
    """A figure that is drawn here."""
    buffer = io.BytesIO()
    save_svg(figure, buffer, title)
    return Picture(title, caption, _data_uri(buffer.getvalue(), ".svg"))


def _data_uri(content: bytes, suffix: str) -> str:
    kind = {".svg": "svg+xml", ".png": "png"}[suffix]
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
