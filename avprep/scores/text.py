"""How much of a clip's picture is text (captions, logos, credits), by RapidOCR.

The package brings the networks (PP-OCR). Lines of text are found, then read: the detector alone takes gravel,
water and fur for text. What cannot be read with confidence does not count. Shapes that fill the picture are
read as one character (a drum as O, a gear as 4), so that a line of one has to be read with more confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from avprep.scores.base import Column, Measure, Score, Value, WeightPaths
from avprep.scores.clip import ScoredClip

_SIDE = 320  # pixels: a smaller picture is enlarged to it; the package's 736 takes five times as long
# Of a line of one character. In 273 pictures shapes were read with up to 0.97, the digits of a countdown
# with more than 0.999.
_LEAST_ALONE = 0.99
_SETTINGS = {
    "Global.use_cls": False,
    "Global.text_score": 0.8,  # the confidence of reading from which a line counts
    "Global.log_level": "critical",
    "Det.limit_side_len": _SIDE,
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
}


def open_text(paths: WeightPaths) -> Measure:
    """Loads the networks, on one thread."""
    from rapidocr import RapidOCR

    find = RapidOCR(params=_SETTINGS)

    def text_share(clip: ScoredClip) -> dict[str, Value]:
        """The share of the middle frame's area within the boxes of lines of text that can be read."""
        picture = clip.frames[len(clip.frames) // 2]
        found: Any = find(np.ascontiguousarray(picture[..., ::-1]), use_cls=False)  # OpenCV's BGR
        lines = zip(found.boxes, found.txts, found.scores, strict=True) if found.boxes is not None else ()
        boxes = [box for box, line, score in lines if _is_text(line, score)]
        return {"text_share": _covered(boxes, picture.shape[:2])}

    return text_share


def _is_text(line: str, score: float) -> bool:
    return len(line.strip()) > 1 or score >= _LEAST_ALONE


def _covered(boxes: Sequence[np.ndarray], shape: tuple[int, int]) -> float:
    """The share of a picture (height, width) inside of any box, (4, xy)."""
    mask = Image.new("1", (shape[1], shape[0]))
    draw = ImageDraw.Draw(mask)
    for box in boxes:
        draw.polygon([(float(x), float(y)) for x, y in box], fill=1)
    return float(np.asarray(mask).mean())


TEXT_SHARE = Score(
    name="text_share",
    columns=(
        Column(name="text_share", kind="float", unit="share", low=0, high=1, meaning="area in boxes of text"),
    ),
    needs=("frames",),
    cost="network",
    open=open_text,
    source="PaddleOCR's PP-OCR, by RapidOCR",
    modules=("rapidocr", "onnxruntime"),
    extra="tags",
    edition=2,
)
