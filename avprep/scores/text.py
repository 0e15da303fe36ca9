"""How much of a clip's picture is text (captions, logos, credits), by RapidOCR.

The package brings the networks (PP-OCR). Lines of text are found, then read: the detector alone takes gravel,
water and fur for text. What cannot be read with confidence does not count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from avprep.scores.base import Column, Measure, Score, Value, WeightPaths
from avprep.scores.clip import ScoredClip

_SIDE = 320  # pixels: a smaller picture is enlarged to it; the package's 736 takes five times as long
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
        return {"text_share": _covered(found.boxes, picture.shape[:2])}

    return text_share


def _covered(boxes: np.ndarray | None, shape: tuple[int, int]) -> float:
    """The share of a picture (height, width) inside of any box, (n, 4, xy)."""
    if boxes is None:
        return 0.0
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
)
