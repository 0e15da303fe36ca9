"""An evaluation, from the options to the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from avmodel.evaluate.distances import (
    Selection,
    av_align_of,
    clip_mean,
    distance_names,
    feature_distances,
    pair_similarities,
    pair_similarity_names,
    resamples,
    text_similarity,
    text_similarity_name,
)
from avmodel.evaluate.observe import Looks, Rows, SideObserverRequest, observe
from avmodel.evaluate.options import EvaluationOptions
from avmodel.evaluate.planes import pairs_per_clip, plane_information
from avmodel.evaluate.protocol import Protocol, protocol_of
from avmodel.evaluate.published import FEATURES_OF_TABLE, PLANES_TABLE, RECONSTRUCTION_TABLES, rows_of
from avmodel.evaluate.reconstruction import (
    GENERATED,
    PAIR_METRICS,
    PAIRS,
    REFERENCE,
    ReconstructionRequest,
)
from avmodel.evaluate.report import Measurement, Report, not_computed
from avmodel.evaluate.sides import ClipSide, FolderSide, LatentSide, Side, SideRequest
from avmodel.metrics import MetricError
from avmodel.metrics.features import (
    PAIRED_NETWORKS,
    TEXT_NETWORKS,
    Extractor,
    PairedExtractor,
    TextExtractor,
    load_extractor,
    needed_file,
)
from avprep.spec import ClipSpec

AV_ALIGN_PACKAGES = ("cv2", "librosa")
WITHOUT_TABLE = ("i3d", "audioclip")  # the papers' networks: their rows say what they need
RECONSTRUCTION_PREFIX = "r"
StartProgress = Callable[[str, int], Callable[[int], None]]  # of a pass: its name and its clips


def evaluate(options: EvaluationOptions, start_progress: StartProgress) -> Report:
    """Measures what the options ask for.

    Raises:
        MetricError: a side, a network or an argument that cannot be used.
        AvprepError: shards or a checkpoint that cannot be used.
    """
    _check_table(options)
    protocol = protocol_of(options)
    loaded = [load_extractor(one.name, one.weights) for one in options.features if one.weights is not None]
    run = _Reconstructions if options.recon else _Comparison
    return run(options, protocol, loaded, start_progress).report()


def _check_table(options: EvaluationOptions) -> None:
    if options.table in RECONSTRUCTION_TABLES and not options.recon:
        raise MetricError(f"table = {options.table}: the paper's is of reconstructions; it needs `recon`")
    if options.recon and options.table not in (None, *RECONSTRUCTION_TABLES):
        raise MetricError(f"table = {options.table}: the paper's is of generated clips, without `recon`")


class _Run:
    """What both kinds of evaluation share."""

    prefix = ""

    def __init__(
        self,
        options: EvaluationOptions,
        protocol: Protocol,
        loaded: list[Extractor],
        start_progress: StartProgress,
    ) -> None:
        self.options, self.protocol, self.loaded = options, protocol, loaded
        self._start_progress = start_progress
        self.warnings: list[str] = []
        self.looks = Looks(
            features=tuple(one for one in options.features if one.weights is not None),
            size=protocol.size,
            has_av_align=not missing_packages(AV_ALIGN_PACKAGES),
        )

    def chosen(self, side: Side, name: str) -> list[np.ndarray]:
        """The positions of each seed's clips."""
        chosen = [
            self.protocol.choose(side.videos, self.options.n, seed) for seed in range(self.options.seeds)
        ]
        wanted = min(self.options.n, self.protocol.most)
        if len(chosen[0]) < wanted:
            self.warnings.append(
                f"{name} has {len(chosen[0]):,} windows under this protocol, not {wanted:,}: Fréchet "
                f"distances are biased upwards, more so for fewer clips"
            )
        return chosen

    def warn_of_departures(self, name: str, side: Side) -> None:
        self.warnings += [
            f"not as {self.protocol.name}: {departure}"
            for departure in self.protocol.departures(name, side.fields)
        ]

    def observed(self, request: Any, chosen: list[np.ndarray], name: str) -> list[Rows]:
        """The rows of each seed's clips; a clip that several seeds chose is looked at once."""
        union = np.unique(np.concatenate(chosen))
        progress = self._start_progress(name, len(union))
        rows = observe(request, union, workers=self.options.workers, progress=progress)
        places = [np.searchsorted(union, positions) for positions in chosen]
        return [{column: values[place] for column, values in rows.items()} for place in places]

    def selections(self, generated: list[Rows], reference: list[Rows]) -> list[Selection]:
        return [
            Selection(
                generated=ours,
                reference=theirs,
                times=resamples(_count(ours), _count(theirs), self.options.bootstrap, seed),
            )
            for seed, (ours, theirs) in enumerate(zip(generated, reference, strict=True))
        ]

    def distances(self, selections: list[Selection]) -> list[Measurement]:
        found = [
            one for extractor in self.loaded for one in feature_distances(selections, extractor, self.prefix)
        ]
        return found + self._not_computed()

    def _not_computed(self) -> list[Measurement]:
        """A row for each number whose network has no file."""
        asked = [one.name for one in self.options.features]
        table = self.options.table
        needed = WITHOUT_TABLE if table is None and not asked else FEATURES_OF_TABLE.get(table or 0, ())
        missing = [name for name in dict.fromkeys([*asked, *needed]) if name not in self._loaded_names()]
        rows = []
        for name in missing:
            needs = needed_file(name)
            metrics = [f"{self.prefix}{metric}" for metric in distance_names(name, needs.side)]
            if name in TEXT_NETWORKS:
                metrics.append(text_similarity_name(name))
            if name in PAIRED_NETWORKS:
                metrics += pair_similarity_names(name)
            rows += [not_computed(metric, needs.message) for metric in metrics]
        return rows

    def of_side(self, selections: list[Selection], side: str, fps: float) -> list[Measurement]:
        """What is measured of each side alone."""
        found: list[Measurement] = []
        for one in self.loaded:
            if isinstance(one, TextExtractor):
                names: tuple[str, ...] = (text_similarity_name(one.name),)
                found += _or_reason(partial(text_similarity, selections, one, side), names, side)
            if isinstance(one, PairedExtractor):
                names = pair_similarity_names(one.name)
                found += _or_reason(partial(pair_similarities, selections, one, side), names, side)
        return found + _or_reason(partial(_av_align, selections, side, fps), ("AV-Align",), side)

    def _loaded_names(self) -> set[str]:
        return {extractor.name for extractor in self.loaded}

    def finished(self, measurements: list[Measurement], sides: dict[str, Any]) -> Report:
        """The report of a run.

        Args:
            measurements: in the order in which they are printed.
            sides: what was measured, by name: {'generated': {...}, 'reference': {...}}, as JSON holds it.
        """
        options = self.options
        return Report(
            protocol=str(self.protocol),
            described={
                "protocol_fields": self.protocol.to_dict(),
                "sides": sides,
                "options": asdict(options),
                "extractors": {one.name: one.sha256 for one in self.loaded},
            },
            measurements=tuple(measurements),
            warnings=tuple(self.warnings),
            table=options.table,
            published=() if options.table is None else tuple(rows_of(options.table)),
        )


class _Comparison(_Run):
    """Generated clips against a reference."""

    def report(self) -> Report:
        """Observes both sides, and measures the distances between them, and the planes if asked for.

        Raises:
            MetricError: the planes are asked for and the reference is not latents.
        """
        requests = self._requests()
        sides = {name: request.open(batch_size=1) for name, request in requests.items()}
        self._warn(sides)
        has_planes = self.options.table == PLANES_TABLE
        if has_planes and not isinstance(sides["reference"], LatentSide):
            raise MetricError(f"table = {PLANES_TABLE}: the reference must be latents, with `mdsa`")
        rows = {}
        for name, side in sides.items():
            chosen = self.chosen(side, name)
            pairs = pairs_per_clip(len(chosen[0])) if has_planes and name == "reference" else 0
            request = SideObserverRequest(side=requests[name], looks=self.looks, plane_pairs=pairs)
            rows[name] = self.observed(request, chosen, name)
        selections = self.selections(rows["generated"], rows["reference"])
        measured = self.distances(selections)
        for name, side in sides.items():
            measured += self.of_side(selections, name, side.spec.fps)
        if has_planes:
            measured += plane_information(rows["reference"][0], seed=0)
        described = {name: _described(requests[name], side) for name, side in sides.items()}
        return self.finished(measured, described)

    def _requests(self) -> dict[str, SideRequest]:
        options = self.options
        if options.generated is None:
            raise MetricError("generated needs a path")
        plain = ClipSpec() if self.protocol.size is None else ClipSpec(size=self.protocol.size)
        paths = {"generated": options.generated, "reference": options.reference}
        requests = {
            name: SideRequest(
                path=path, mdsa=options.mdsa, spec=plain, crop=self.protocol.crop, device=options.device
            )
            for name, path in paths.items()
        }
        # A folder of video files is cut as the clips of the other side are.
        specs = [request.stored_spec() for request in requests.values()]
        spec = next((spec for spec in specs if spec is not None), plain)
        return {name: replace(request, spec=spec) for name, request in requests.items()}

    def _warn(self, sides: dict[str, Side]) -> None:
        generated, reference = sides["generated"], sides["reference"]
        self.warnings += [
            f"the sides differ in {difference} (generated and reference)"
            for difference in generated.fields.differences(reference.fields)
        ]
        for name, side in sides.items():
            self.warn_of_departures(name, side)
            if isinstance(side, FolderSide) and side.left_out:
                files = side.left_out
                self.warnings.append(f"{name}: {len(files)} files left out, first {files[0]}")


class _Reconstructions(_Run):
    """Clips against their reconstructions."""

    prefix = RECONSTRUCTION_PREFIX

    def report(self) -> Report:
        """Reconstructs the clips, and measures each against its original, and the distances between the sets.

        Raises:
            MetricError: there is no checkpoint.
        """
        options = self.options
        if options.mdsa is None:
            raise MetricError("mdsa needs a checkpoint")
        request = ReconstructionRequest(
            clips=options.reference,
            mdsa=options.mdsa,
            looks=self.looks,
            lpips=options.lpips,
            device=options.device,
        )
        side = ClipSide(options.reference)
        self.warn_of_departures("clips", side)
        rows = self.observed(request, self.chosen(side, "clips"), "reconstructions")
        generated, reference = ([_part(one, prefix) for one in rows] for prefix in (GENERATED, REFERENCE))
        selections = self.selections(generated, reference)
        pairs = [
            clip_mean(metric.name, selections, f"{PAIRS}{name}", better=metric.better, note=metric.note)
            for name, metric in PAIR_METRICS.items()
            if f"{PAIRS}{name}" in generated[0]
        ]
        measured = pairs + self.distances(selections)
        for name in ("generated", "reference"):
            measured += self.of_side(selections, name, side.spec.fps)
        described = {"clips": {"path": str(options.reference), **side.fields.to_dict()}}
        return self.finished(measured, described)


def _part(rows: Rows, prefix: str) -> Rows:
    """The rows of one side; those of the pairs go with the reconstructions."""
    own = {name.removeprefix(prefix): values for name, values in rows.items() if name.startswith(prefix)}
    pairs = {name: values for name, values in rows.items() if name.startswith(PAIRS)}
    return own | (pairs if prefix == GENERATED else {})


def _av_align(selections: list[Selection], side: str, fps: float) -> list[Measurement]:
    missing = missing_packages(AV_ALIGN_PACKAGES)
    if missing:
        raise MetricError(f"it needs {' and '.join(missing)}: pip install 'avprep[metrics]'")
    return av_align_of(selections, side, fps)


def _or_reason(
    measure: Callable[[], list[Measurement]], names: tuple[str, ...], side: str
) -> list[Measurement]:
    """What `measure` gives, or rows of these names that say why there is none."""
    try:
        return measure()
    except MetricError as error:
        return [replace(not_computed(name, str(error)), side=side) for name in names]


def missing_packages(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if find_spec(name) is None]


def _count(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def _described(request: SideRequest, side: Side) -> dict[str, Any]:
    return {
        "path": str(request.path),
        "kind": side.kind,
        "windows": len(side.videos),
        **side.fields.to_dict(),
    }
