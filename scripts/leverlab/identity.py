"""Identity of results: a canonical form of what was asked for, its hash, and a slug that people can read.

An id is `<slug>-<hash>`. The slug is for the eye; the hash decides. Both are functions of the identity alone, so that a
comment, a partition or the name of a study changes no id.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

MAXIMUM_ID_LENGTH: Final = 120
HASH_LENGTH: Final = 10


def canonical_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """`value` as JSON that is the same for equal values: sorted keys, no spaces, no NaN.

    A float with an integral value is written as an integer, so that `4` and `4.0` in a study are one load point.
    """
    return json.dumps(canonical(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: Any) -> Any:  # noqa: ANN401
    """`value` in its canonical form: keys sorted, tuples as lists, a float with an integral value as an integer.

    This is what is hashed and what is kept, so that a record holds the same bytes whichever study asked first.
    """
    if isinstance(value, Mapping):
        return {key: canonical(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def content_hash(value: Any, length: int = HASH_LENGTH) -> str:  # noqa: ANN401
    """The first `length` hexadecimal digits of the SHA-256 of the canonical form of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def slug(text: str) -> str:
    """`text` in lower case with everything but letters, digits, `.`, `_` and `-` folded to `-`: safe in a path and a URL."""
    return re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9._-]+", "-", text.lower())).strip("-.")


def joined(parts: Sequence[str], room: int) -> str:
    """As many of the parts' slugs, joined by `_`, as `room` characters hold.

    The first is cut where it must be; another one that does not fit is left out whole.
    """
    readable = slug(parts[0])[:room].rstrip("-_.")
    for part in map(slug, parts[1:]):
        if part and len(readable) + 1 + len(part) <= room:
            readable += f"_{part}"
    return readable


def slug_of(identifier: str) -> str:
    """The readable part of an id."""
    return identifier.rpartition("-")[0]


def make_id(parts: Sequence[str], identity: Any, limit: int = MAXIMUM_ID_LENGTH) -> str:  # noqa: ANN401
    """The id of `identity`, at most `limit` characters: the readable parts that fit, and the hash."""
    return f"{joined(parts, limit - HASH_LENGTH - 1)}-{content_hash(identity)}"


def seed_from(*parts: object) -> int:
    """A 63-bit seed that depends on every one of `parts` and on nothing else."""
    return int(content_hash([str(part) for part in parts], 16), 16) >> 1
