"""The model card `README.md`: what a stranger who finds the checkpoint should know.

It states what was done and measured and nothing else; the licence of the original is not known
here, so none is named. Names and specs come from elsewhere and are escaped for Markdown, so that a
pipe does not break a table and markup in a name is shown, not obeyed.
"""

from __future__ import annotations

import json
import re

from depthprune.checkpoints.architectures.table import find
from depthprune.manifest import Manifest
from depthprune.report.templating import environment

_TASKS = {
    "AutoModel": "feature-extraction",
    "AutoModelForImageTextToText": "image-text-to-text",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
}
"""The hub's names of what models do, by the class that loads them; any other writes text."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$])")
_BLANK = re.compile(r"\s+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def render_card(manifest: Manifest) -> str:
    """The model card as Markdown with the YAML front matter of the Hugging Face hub.

    Args:
        manifest: Fields that are None leave their part out.
    """
    made = environment(autoescape=False)
    made.filters.update(md=_escaped, code=_code, fence=_fence, yaml=_yaml)
    row = find(manifest.model.model_type) if manifest.model.kind != "gguf" else None
    usual = row.loader if row is not None else "AutoModelForCausalLM"
    loader = manifest.model.loader or usual
    return made.get_template("model_card.md.jinja").render(
        m=manifest, loader=loader, task=_TASKS.get(loader, "text-generation")
    )


def _one_line(text: str) -> str:
    return _CONTROL.sub("", _BLANK.sub(" ", text)).strip()


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, also in a table."""
    text = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


def _code(text: str) -> str:
    """A code span, fenced by more backticks than the text has in a row."""
    text = _one_line(text)
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _fence(text: str, language: str) -> str:
    """A fenced block of code."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{_CONTROL.sub('', text)}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _yaml(text: str) -> str:
    """A double-quoted YAML scalar; JSON's strings are YAML's."""
    return json.dumps(_one_line(text), ensure_ascii=False)
