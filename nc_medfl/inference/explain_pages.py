"""What ``nc-medfl explain`` writes: overlays, raw maps, and one page that holds them all.

Images are numbered in the order given; no file name, path or identifier enters what is written.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nc_medfl.data.store import write_atomic, write_json
from nc_medfl.errors import UserError, writing
from nc_medfl.inference.looking import ATTENTION, Maps, look_at
from nc_medfl.inference.model_file import PortableModel
from nc_medfl.inference.overlay import jpeg, overlay, png
from nc_medfl.inference.pixels import to_input
from nc_medfl.inference.predict import Prediction
from nc_medfl.inference.scoring import Answer, FindingAnswer
from nc_medfl.pages import environment

PAGE = "explain.html"
_TOP = 3


@dataclass(frozen=True)
class _Picture:
    caption: str
    uri: str


def choose_findings(answer: Answer, wanted: Sequence[str]) -> list[FindingAnswer]:
    """The findings to explain: those named, else those called present, else the three most probable."""
    if wanted:
        return [f for f in answer.findings if f.finding in wanted]
    present = [f for f in answer.findings if f.positive]
    return present or sorted(answer.findings, key=lambda f: -f.probability)[:_TOP]


def check_findings(model: PortableModel, wanted: Sequence[str]) -> None:
    """Raise a UserError if the model does not know a finding."""
    for name in wanted:
        if name not in model.description.findings:
            raise UserError(f"--findings {name}: the model has {', '.join(model.description.findings)}.")


class ExplainWriter:
    """Writes images as they come, and the page at the end.

    Args:
        model: as read.
        out: the folder; made if missing.
        findings: names to explain; none: chosen by :func:`choose_findings`.
    """

    def __init__(self, model: PortableModel, out: Path, findings: Sequence[str] = ()) -> None:
        check_findings(model, findings)
        self._model, self._out, self._findings = model, out, tuple(findings)
        self._shown: list[dict[str, Any]] = []
        with writing(out, "Give --out another folder."):
            for name in ("overlays", "maps"):
                (out / name).mkdir(parents=True, exist_ok=True)
                for stale in (out / name).glob("image-*"):
                    stale.unlink()

    def add(self, prediction: Prediction) -> int:
        """Explain one image that was answered; its number."""
        answer, square = prediction.answer, prediction.given.square
        if answer is None or square is None:
            raise ValueError("only what was answered can be explained")
        number = len(self._shown) + 1
        maps = look_at(self._model.network, to_input(square[None], self._model.description))
        chosen = choose_findings(answer, self._findings)
        self._raw(number, maps)
        shown = [self._finding(number, square, maps, found) for found in chosen]
        unlike = answer.likeness
        self._shown.append(
            {
                "number": number,
                "radiograph": _uri(jpeg(square)),
                "unlike": unlike.reason if unlike is not None and unlike.flagged else "",
                "findings": shown,
            }
        )
        return number

    def _raw(self, number: int, maps: Maps) -> None:
        buffer = io.BytesIO()
        arrays: dict[str, npt.NDArray[np.float32]] = {"maps": maps.values[0], "mean": maps.mean[0]}
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_atomic(self._out / "maps" / f"image-{number:04d}.npz", buffer.getvalue())
        heads = maps.values.shape[1]
        about = {
            "schema_version": 1,
            "image": number,
            "kind": maps.kind,
            "model": self._model.description.fingerprint,
            "findings": list(self._model.description.findings),
            "arrays": {
                "maps": {"axes": ["head", "finding", "row", "column"], "shape": list(maps.values.shape[1:])},
                "mean": {"axes": ["finding", "row", "column"], "over": f"{heads} maps"},
            },
            "scale": "sums to one over rows and columns" if maps.kind == ATTENTION else "0 or more, no fixed scale",
        }
        write_json(self._out / "maps" / f"image-{number:04d}.json", about)

    def _finding(self, number: int, square: npt.NDArray[np.uint8], maps: Maps, found: FindingAnswer) -> dict[str, Any]:
        c = self._model.description.findings.index(found.finding)
        heads = maps.values[0, :, c]
        layers = [("mean of all heads" if maps.kind == ATTENTION else "Grad-CAM", "mean", maps.mean[0, c])]
        if maps.kind == ATTENTION:
            layers += [(f"head {k}", f"head{k}", head) for k, head in enumerate(heads, start=1)]
        pictures = []
        for caption, name, map_ in layers:
            drawn = overlay(square, map_)
            # By number: a finding's name may hold anything.
            write_atomic(self._out / "overlays" / f"image-{number:04d}-finding{c + 1:02d}-{name}.png", png(drawn))
            pictures.append(_Picture(caption, _uri(jpeg(drawn))))
        return {"answer": found, "pictures": pictures, "empty": not bool(heads.any())}

    def finish(self) -> Path:
        """Write the page."""
        path = self._out / PAGE
        template = environment("nc_medfl.inference").get_template("explain.html.j2")
        kind = self._model.description.network.kind
        text = template.render(images=self._shown, model=self._model.description, kind=kind)
        write_atomic(path, text.encode())
        return path


def explain_each(writer: ExplainWriter, predictions: Iterable[Prediction]) -> Iterable[tuple[Prediction, int | None]]:
    """Explain what was answered, in order; the image's number, or None where there was no answer."""
    for prediction in predictions:
        yield prediction, None if prediction.answer is None else writer.add(prediction)


def _uri(content: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()
