"""How a model is asked for text of its own: the options of the source `self`.

Sampled text is near what the model saw in training, which no sample of a public set is for every
model; calibrating on it is competitive with real data (arXiv 2410.17170), and leaving out the
texts of the highest perplexity helps (arXiv 2410.17711).
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class OwnText(BaseModel):
    """How text is sampled from the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field("", description="Text that every sample goes on from; else BOS or EOS.")
    prefix: int = Field(0, ge=0, description="Tokens of real text that a sample goes on from.")
    temperature: float = Field(1.0, gt=0, le=10, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus that is sampled from.")
    filter: float = Field(
        0.2, ge=0, lt=1, description="Share of the samples, of highest perplexity, left out."
    )


OWN_OPTIONS = tuple(OwnText.model_fields)

_EXPECTED = {
    "prompt": "a text",
    "prefix": "a whole number of tokens from 0",
    "temperature": "a number above 0, to 10",
    "top_p": "a number above 0, to 1",
    "filter": "a number from 0, below 1",
}


def check_own(options: Mapping[str, str]) -> list[str]:
    """What is wrong with the options of `self`."""
    try:
        found = OwnText.model_validate(dict(options))
    except ValidationError as error:
        return [
            f"{e['loc'][0]}= expects {_EXPECTED.get(str(e['loc'][0]), 'nothing')}, "
            f"got {e['input']!r}"
            for e in error.errors()
        ]
    if found.prompt and found.prefix:
        return ["prompt= and prefix= are two ways to begin a text; give one"]
    return []
