"""The manifest `depthprune.json`, and the records it is made of."""

from depthprune.manifest.calibration import CalibrationRecord, WindowRecord
from depthprune.manifest.draft import DraftPoint, DraftRecord
from depthprune.manifest.losses import BlockScore, Estimate, HeldOut, PathPoint
from depthprune.manifest.manifest import FirstModel, Manifest, SourceModel
from depthprune.manifest.measurement import (
    AnswerRecord,
    AnswerShare,
    ParityRecord,
    Sample,
    Size,
    Speed,
    Spread,
)
from depthprune.manifest.recovery import (
    RecoveredRun,
    RecoveryRecord,
    RefittedLayer,
    TrainingPoint,
    TrainingRecord,
)
from depthprune.manifest.search import (
    CostRecord,
    DrawRecord,
    RacingRecord,
    RoundingRecord,
    SearchRecord,
    Step,
)
from depthprune.manifest.software import Versions, versions
from depthprune.manifest.target import (
    TargetCalibration,
    TargetGoal,
    TargetJudged,
    TargetRecord,
    TargetRound,
    TargetSet,
)

__all__ = [
    "AnswerRecord",
    "AnswerShare",
    "BlockScore",
    "CalibrationRecord",
    "CostRecord",
    "DraftPoint",
    "DraftRecord",
    "DrawRecord",
    "Estimate",
    "FirstModel",
    "HeldOut",
    "Manifest",
    "ParityRecord",
    "PathPoint",
    "RacingRecord",
    "RecoveredRun",
    "RecoveryRecord",
    "RefittedLayer",
    "RoundingRecord",
    "Sample",
    "SearchRecord",
    "Size",
    "SourceModel",
    "Speed",
    "Spread",
    "Step",
    "TargetCalibration",
    "TargetGoal",
    "TargetJudged",
    "TargetRecord",
    "TargetRound",
    "TargetSet",
    "TrainingPoint",
    "TrainingRecord",
    "Versions",
    "WindowRecord",
    "versions",
]
