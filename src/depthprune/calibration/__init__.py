"""Calibrations: sources of text, the windows drawn from them, and their names."""

from depthprune.calibration.calibration import (
    NOISY_BELOW,
    Calibration,
    calibrate,
    require_positions,
)
from depthprune.calibration.loading import documents_of_spec, load_source
from depthprune.calibration.model_limits import HasTokenizer, context_of
from depthprune.calibration.overlap import Overlap, measure_overlap, shared_documents, window_words
from depthprune.calibration.parsing import beside, file_schema, seen_from
from depthprune.calibration.parts import LoadedSource, Part
from depthprune.calibration.presets import PRESETS, Preset, parse_calibration
from depthprune.calibration.reading.documents import Document
from depthprune.calibration.rules import check_files, files_of
from depthprune.calibration.sources import SOURCES, Source, is_generated
from depthprune.calibration.spec import CalibrationSpec
from depthprune.calibration.windows import Item, Window

__all__ = [
    "NOISY_BELOW",
    "PRESETS",
    "SOURCES",
    "Calibration",
    "CalibrationSpec",
    "Document",
    "HasTokenizer",
    "Item",
    "LoadedSource",
    "Overlap",
    "Part",
    "Preset",
    "Source",
    "Window",
    "beside",
    "calibrate",
    "check_files",
    "context_of",
    "documents_of_spec",
    "file_schema",
    "files_of",
    "is_generated",
    "load_source",
    "measure_overlap",
    "parse_calibration",
    "require_positions",
    "seen_from",
    "shared_documents",
    "window_words",
]
