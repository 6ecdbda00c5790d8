"""Calibrations: sources of text, the windows drawn from them, and their names."""

from depthprune.calibration.calibration import (
    NOISY_BELOW,
    Calibration,
    Part,
    calibrate,
    parse_calibration,
)
from depthprune.calibration.presets import PRESETS, Preset
from depthprune.calibration.sources import SOURCES, Document, Source
from depthprune.calibration.spec import CalibrationSpec
from depthprune.calibration.windows import Item, Window

__all__ = [
    "NOISY_BELOW",
    "PRESETS",
    "SOURCES",
    "Calibration",
    "CalibrationSpec",
    "Document",
    "Item",
    "Part",
    "Preset",
    "Source",
    "Window",
    "calibrate",
    "parse_calibration",
]
