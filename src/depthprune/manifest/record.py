"""What all records of the manifest share: frozen, and no field more than is declared."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Made field by field, or of an object that has attributes of the same names."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="strings", from_attributes=True
    )
