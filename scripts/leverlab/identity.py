"""Identity of results: a canonical form of what was asked for, its hash, and a slug that people can read.

An id is `<slug>-<hash>`. The slug is for the eye; the hash decides. Both are functions of the identity alone, so that a
comment, a partition or the name of a study changes no id.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

MAXIMUM_ID_LENGTH: Final = 120
_HASH_LENGTH: Final = 10


def canonical_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """`value` as JSON that is the same for equal values: sorted keys, no spaces, no NaN.

    A float with an integral value is written as an integer, so that `4` and `4.0` in a study are one load point.
    """
    return json.dumps(_normalised(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _normalised(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {str(key): _normalised(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normalised(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def content_hash(value: Any, length: int = _HASH_LENGTH) -> str:  # noqa: ANN401
    """The first `length` hexadecimal digits of the SHA-256 of the canonical form of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def slug(text: str) -> str:
    """`text` in lower case with everything but letters, digits, `.`, `_` and `-` folded to `-`: safe in a path and a URL."""
    return re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9._-]+", "-", text.lower())).strip("-.")


def make_id(parts: list[str], identity: Any, limit: int = MAXIMUM_ID_LENGTH) -> str:  # noqa: ANN401
    """The id of `identity`: the parts joined by `_`, cut to `limit` characters, and the hash."""
    readable = "_".join(slug(part) for part in parts if part)
    return f"{readable[: limit - _HASH_LENGTH - 1].rstrip('-_.')}-{content_hash(identity)}"


def seed_from(*parts: object) -> int:
    """A 63-bit seed that depends on every one of `parts` and on nothing else."""
    return int(content_hash([str(part) for part in parts], 16), 16) >> 1
