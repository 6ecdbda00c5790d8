"""Ways to damage bytes and JSON values, chosen by a seeded generator."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

_NUMBERS = (0, 1, -1, 2, 127, 255, 2**31 - 1, 2**32, 2**63 - 1, 2**63, 2**64, 10**30, 10**400)

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    False,
    "",
    [],
    {},
    [[]],
    {"": None},
    1e308,
    -0.5,
    float("nan"),
    float("inf"),
    "\x1b]0;x\x07\x1b[2J",
    "\u202eevil",
    "\ud800",
    "../../../etc/passwd",
    "/dev/zero",
    "no\0where",
    "x" * 5_000,
    "9" * 5_000,
    "re:(a|a)*(b|b)*c",
    "re:model.layers.[0-9]+.(.*.*)*x",
    "model.layers.04.w",
    "model.layers.٣.w",
    list(range(300)),
    [None] * 70,
    *_NUMBERS,
)


def nested(depth: int) -> Any:
    """Lists in lists, and objects in them."""
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def damaged(data: bytes, rng: random.Random, *, most: int | None = None) -> bytes:
    """Some bytes of the first `most` are changed, dropped, doubled or put elsewhere."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        end = min(len(found), most or len(found))
        if not end:
            break
        at = rng.randrange(end)
        span = rng.choice((1, 1, 2, 4, 8, 64))
        match rng.randrange(8):
            case 0:
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                found[at] = rng.randrange(256)
            case 2:
                del found[at : at + span]
            case 3:
                found[at:at] = bytes(rng.randrange(256) for _ in range(span))
            case 4:
                found[at:at] = found[at : at + span]
            case 5:
                number = rng.choice(_NUMBERS) % 2**64
                found[at : at + 8] = number.to_bytes(8, "little")
            case 6:
                found[at : at + 4] = (rng.choice(_NUMBERS) % 2**32).to_bytes(4, "little")
            case _:
                del found[at:]
    return bytes(found)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value: what holds it and the key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, (dict, list)):
            yield from _places(item)


def misshapen(document: Any, rng: random.Random) -> str:
    """A JSON text of a document in which some values, keys or the text itself are odd."""
    found = copy.deepcopy(document)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        places = list(_places(found))
        if not places:
            break
        holder, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1:
                holder[key] = copy.deepcopy(rng.choice(HOSTILE[-len(_NUMBERS) - 8 :]))
            case 2 if isinstance(holder, dict):
                odd = rng.choice(HOSTILE)
                holder[odd if isinstance(odd, str) else str(odd)[:5_000]] = holder.pop(key)
            case 3:
                holder[key] = nested(rng.choice((5, 150, 260)))
            case _:
                holder[key] = copy.deepcopy(rng.choice(HOSTILE))
    return _rewritten(found, rng)


def _rewritten(found: Any, rng: random.Random) -> str:
    text = json.dumps(found)
    match rng.randrange(8):
        case 0:  # a key twice
            return text.replace("{", '{"model_type": "llama", "model_type": "gpt2", ', 1)
        case 1:
            return text.replace(": ", ": " + "9" * 5_000, 1)
        case 2:
            return damaged(text.encode("utf-8", "replace"), rng).decode("utf-8", "replace")
    return text
