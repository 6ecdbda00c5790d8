"""Recovery of a removed set: fitted, judged, written, or handed to those who train."""
