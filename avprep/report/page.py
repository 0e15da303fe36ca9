"""The page: what it shows as one value, the template that renders it, and where its media go."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from avprep.errors import shown
from avprep.report.evaluation import Table
from avprep.report.players import Player
from avprep.report.selections import Selection
from avprep.report.summary import Summary
from avprep.report.training import Picture
from avprep.shards.ledger import LedgerRow

_TYPES = {"mp4": ("mp4", "video/mp4"), "strip": ("jpg", "image/jpeg"), "poster": ("jpg", "image/jpeg")}
_PNG = ("png", "image/png")
_SECTIONS = {
    "damages": ("damage", "Damaged"),
    "facts": ("overview", "Overview"),
    "funnel": ("funnel", "Funnel"),
    "selections": ("selections", "Selections"),
    "players": ("clips", "Clips"),
    "histograms": ("histograms", "Histograms"),
    "summary": ("sources", "Labels and sources"),
    "failures": ("failures", "Failures"),
    "times": ("time", "Time"),
    "planes_table": ("planes", "Planes"),
    "curves": ("curves", "Curves"),
    "pictures": ("pictures", "Pictures"),
    "tables": ("evaluation", "Evaluation"),
}


@dataclass(frozen=True)
class Step:
    """A line of the funnel."""

    name: str
    count: int
    share: float  # of the largest
    meaning: str = ""
    depth: int = 0
    colour: str = "s0"


@dataclass(frozen=True)
class Times:
    text: str
    chart: Markup | None


@dataclass
class Card:
    """A player with the addresses of its media, and what the filters look at."""

    player: Player
    media: dict[str, str]
    find: str
    labels: list[int]
    why: list[int]
    scores: dict[str, float]


@dataclass
class Page:
    """All that the page shows; what is empty has no section."""

    title: str
    kind: str
    damages: list[str] = field(default_factory=list)
    damaged: int = 0
    facts: list[tuple[str, str]] = field(default_factory=list)
    funnel: list[Step] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)
    summary: Summary | None = None
    histograms: list[tuple[str, str, Markup]] = field(default_factory=list)
    failures: list[tuple[str, int, str, str, list[tuple[LedgerRow, str]]]] = field(default_factory=list)
    times: Times | None = None
    clips_title: str = "Clips"
    players: list[Card] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    scores: list[str] = field(default_factory=list)
    planes: str = ""
    planes_table: list[tuple[str, str, str, str]] = field(default_factory=list)
    curves: list[tuple[str, Markup]] = field(default_factory=list)
    pictures: list[tuple[Picture, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    @property
    def sections(self) -> list[tuple[str, str]]:
        """(anchor, title) of those that are not empty."""
        return [place for name, place in _SECTIONS.items() if self._has(name)]

    def add_damage(self, what: str) -> None:
        self.damages.append(what)
        self.damaged += 1

    def _has(self, name: str) -> bool:
        if name == "summary":
            return self.summary is not None and bool(len(self.summary.labels) + len(self.summary.sources))
        return bool(getattr(self, name))


class Media(Protocol):
    """Where the bytes of a picture or a video go."""

    def add(self, kind: str, data: bytes) -> str:
        """The address by which the page finds them."""


class FolderMedia:
    """Files with numbers for names: no name comes from what the report reads."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        folder.mkdir()

    def add(self, kind: str, data: bytes) -> str:
        suffix, _ = _TYPES.get(kind, _PNG)
        self._count += 1
        name = f"{self._count:05d}.{suffix}"
        (self._folder / name).write_bytes(data)
        return f"{self._folder.name}/{name}"


class InlineMedia:
    """Bytes inside of the page itself."""

    def add(self, kind: str, data: bytes) -> str:
        _, mime = _TYPES.get(kind, _PNG)
        return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def add_players(page: Page, players: Sequence[Player], media: Media) -> None:
    """Puts the clips on the page, and what they can be filtered by."""
    page.labels = sorted({label for player in players for label in player.header["labels"]})
    page.reasons = list(dict.fromkeys(why for player in players for why in player.why))
    page.scores = list(dict.fromkeys(name for player in players for name in player.scores))
    labels = {label: i for i, label in enumerate(page.labels)}
    for player in players:
        header = player.header
        texts = (player.key, *header["labels"], header["caption"], header["source"])
        card = Card(
            player=player,
            media={kind: media.add(kind, data) for kind, data in player.media.items()},
            find=shown(" ".join(texts).lower(), 1000),
            labels=sorted({labels[label] for label in header["labels"]}),
            why=[page.reasons.index(why) for why in player.why],
            scores={str(page.scores.index(name)): value for name, value in player.scores.items()},
        )
        page.players.append(card)


def render(page: Page) -> str:
    """The HTML of the page. Its policy allows its own script and style by their hashes, media beside the page
    or inside of it, and no connection."""
    style, script = _resource("page.css"), _resource("page.js")
    environment = Environment(
        loader=PackageLoader("avprep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    values: dict[str, Any] = {"page": page, "style": Markup(style), "script": Markup(script)}
    return environment.get_template("page.html.j2").render(policy=policy_of(style, script), **values)


def policy_of(style: str, script: str) -> str:
    """The Content-Security-Policy of a page with this inline style and script."""
    return "; ".join(
        (
            "default-src 'none'",
            "img-src 'self' data:",
            "media-src 'self' data:",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _resource(name: str) -> str:
    return (files("avprep.report") / "templates" / name).read_text(encoding="utf-8")
