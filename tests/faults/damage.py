"""Ways in which the content of a file is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any


def random_bytes(data: bytes, random: Random) -> bytes:
    """A run of bytes replaced; in one of ten cases all of them."""
    if random.random() < 0.1 or not data:
        return random.randbytes(max(len(data), 1))
    start = random.randrange(len(data))
    new = random.randbytes(random.randint(1, 64))[: len(data) - start]
    return data[:start] + new + data[start + len(new) :]


def flipped_bits(data: bytes, random: Random) -> bytes:
    """One to eight bits turned."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 8)):
        changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncated(data: bytes, random: Random) -> bytes:
    """The beginning alone; in one of ten cases nothing."""
    return data[: 0 if random.random() < 0.1 else random.randrange(len(data))]


def doubled(data: bytes, random: Random) -> bytes:
    """A block that stands there twice."""
    start = random.randrange(len(data))
    block = data[start : start + random.choice((16, 256, 4096))]
    return data[:start] + block + data[start:]


def zeroed(data: bytes, random: Random) -> bytes:
    """A block of zeros, as a file system leaves where it had promised room and written nothing."""
    size = min(random.choice((16, 512, 4096)), len(data))
    start = random.randrange(len(data) - size + 1) // size * size
    return data[:start] + bytes(size) + data[start + size :]


WAYS: Mapping[str, Callable[[bytes, Random], bytes]] = {
    "random bytes": random_bytes,
    "bit flips": flipped_bits,
    "truncated": truncated,
    "doubled block": doubled,
    "zeroed block": zeroed,
}

_OTHERS = (None, True, -1, 0, 10**400, 1e308, "", "x", "\x00", "<b>", [], [None], {}, {"x": 1}, [[]], -0.5)


def other_value(data: bytes, random: Random) -> bytes:
    """JSON, with one value that is another, or missing; still JSON."""
    content = json.loads(data)
    places = list(_places(content))
    holder, key = random.choice(places)
    if random.random() < 0.2:
        del holder[key]
    else:
        holder[key] = random.choice(_OTHERS)
    return json.dumps(content).encode()


def _places(value: Any) -> Any:
    """Every value inside, as what holds it and where; few of a long list, so that numbers do not crowd out the rest."""
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(min(len(value), 3)))
    else:
        return
    for key in keys:
        yield value, key
        yield from _places(value[key])


def damaged(data: bytes, random: Random, *, ways: Mapping[str, Callable[[bytes, Random], bytes]] = WAYS) -> tuple:
    """The name of a way, and the data damaged by it: never the same as before."""
    while True:
        name = random.choice(list(ways))
        changed = ways[name](data, random)
        if changed != data:
            return name, changed
