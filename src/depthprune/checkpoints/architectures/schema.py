"""What a row of the table of architectures can say: the particulars of a type, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["verified", "refused", "not a decoder"]


@dataclass(frozen=True)
class Pattern:
    """A list that the config class derives from each block's number when the file has none.

    Block `i` is special where `(i + offset) % period == 0`.

    Attributes:
        field: The list's name.
        period: The period, or the name of the field that holds it.
        special: The entry of a special block.
        usual: The entry of any other.
        default: The period where its field is missing.
        offset: 1 where the last block of each period is the special one, 0 where the first is.
        indices: The field is the set of special blocks rather than one entry a block.
        when: A field without which every block is alike, so that nothing need be written out.
        unless: A field that says the same in another form, which is rewritten instead.
        also: Further special blocks, whatever the period.
    """

    field: str
    period: int | str
    special: Any = "full_attention"
    usual: Any = "sliding_attention"
    default: int = 1
    offset: int = 1
    indices: bool = False
    when: str = ""
    unless: str = ""
    also: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prefix:
    """A list that the config class derives as some entries of one kind and the rest of another.

    Attributes:
        field: The list's name.
        count: How many entries at the start are of the first kind, or the field that says so.
        first: The entry of those.
        rest: The entry of the others.
        default: The count where its field is missing.
        indices: The field is the set of those at the start rather than one entry a block.
        flags: A field that may hold one entry a block, where a 0 makes a block of the first kind
            too.
    """

    field: str
    count: int | str
    first: Any = "dense"
    rest: Any = "sparse"
    default: int = 0
    indices: bool = False
    flags: str = ""


@dataclass(frozen=True)
class Cycle:
    """A list that the config class derives by repeating a pattern of several kinds.

    Attributes:
        field: The list's name.
        entries: The pattern.
    """

    field: str
    entries: tuple[str, ...]


@dataclass(frozen=True)
class Phase:
    """Two numbers that say which blocks are special, where no list can: `i % period == offset`.

    Attributes:
        period: The field of the period.
        offset: The field of the offset.
        default: Both, where their fields are missing.
        special: What a special block is of.
        usual: What any other is of.
        unless_1: A field that makes all blocks alike where it is 1.
    """

    period: str
    offset: str
    default: tuple[int, int]
    special: str
    usual: str
    unless_1: str = ""


@dataclass(frozen=True)
class LeadingBlocks:
    """Blocks at the start that are given something by number, and so must stay.

    Attributes:
        field: The field of the whole config, with dots, whose entries are as many as the blocks.
        default: How many they are where the field is missing.
        why: What they are given.
    """

    field: str
    default: int
    why: str


@dataclass(frozen=True)
class RequiredList:
    """A list that must be in the file, because its derivation is not worth expressing.

    Attributes:
        field: The list's name.
        when: The field that, when set, makes blocks differ; without one, they always do.
        unless: A field that says the same in another form, with dots.
    """

    field: str
    when: str = ""
    unless: str = ""


@dataclass(frozen=True)
class RequiredType:
    """A block type that must stand somewhere in what is kept.

    Attributes:
        end: Where.
        entry: The type, as in `layer_types`.
        why: What goes wrong otherwise.
        forced: The config class makes the block there of that type, whatever the file says.
    """

    end: Literal["first", "last", "some"]
    entry: str
    why: str
    forced: bool = False


@dataclass(frozen=True)
class PackedTensor:
    """A tensor that holds every block's part side by side.

    Attributes:
        name: What its name ends with.
        axis: The axis along which the parts stand.
    """

    name: str
    axis: int


@dataclass(frozen=True)
class Architecture:
    """One model type.

    Attributes:
        model_type: As in `config.json`.
        status: `"verified"`, `"refused"` or `"not a decoder"`.
        count: The field that holds the number of blocks.
        patterns: Lists to be written out before they are cut.
        phases: Periods with an offset, to be fitted anew to the kept blocks.
        needs: Lists that the file must have.
        defaults: What the config class assumes of a count of blocks, of a scale that the depth
            enters, of GPT-Neo's pattern, or of a pattern's `when`, when the file says nothing.
        keep: Blocks that must stay, because they alone have a tensor or lack one; -1 is the last.
        places: Block types that the ends of what is kept must have.
        packed: Tensors outside the blocks that hold a part for each.
        stored: How the names of tensors end that the class computes from a block's number where
            the file has none.
        lead: Blocks at the start that must stay.
        tower: Of a model of several modalities, the type of its language model where that has
            none of its own.
        loader: The automatic class of transformers that makes the whole model.
        why: For a refused type, the reason; for a verified one, what is notable, if anything.
    """

    model_type: str
    status: Status = "verified"
    count: str = "num_hidden_layers"
    patterns: tuple[Pattern | Prefix | Cycle, ...] = ()
    phases: tuple[Phase, ...] = ()
    needs: tuple[RequiredList, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    keep: tuple[int, ...] = ()
    places: tuple[RequiredType, ...] = ()
    packed: tuple[PackedTensor, ...] = ()
    stored: tuple[str, ...] = ()
    lead: LeadingBlocks | None = None
    tower: str = ""
    loader: str = "AutoModelForCausalLM"
    why: str = ""

    @property
    def rule(self) -> str:
        """What surgery does for this type beyond the rules that hold for every field, briefly."""
        if self.status != "verified":
            return ""
        parts = [] if self.count == "num_hidden_layers" else [f"count in {self.count}"]
        parts += [f"{pattern.field} written out" for pattern in self.patterns]
        parts += [f"{phase.period} and {phase.offset} fitted anew" for phase in self.phases]
        parts += [
            f"{need.field} needed" + (f" with {need.when}" if need.when else "")
            for need in self.needs
        ]
        parts += [f"the {'last' if block else 'first'} block must stay" for block in self.keep]
        parts += [f"the {place.end} kept block must be {place.entry}" for place in self.places]
        parts += [f"{packed.name} sliced" for packed in self.packed]
        parts += [f"{', '.join(self.stored)} needed in the weights"] if self.stored else []
        parts += [f"as many first blocks as {self.lead.field} must stay"] if self.lead else []
        parts += [f"its language model by its own row, else as {self.tower}"] if self.tower else []
        return "; ".join(parts) or "by field"
