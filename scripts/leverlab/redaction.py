"""Keeps secrets out of logs: the server's API key, and the tokens that the user's environment holds.

Uses the standard library alone, because the keeper of a server must start quickly and need nothing.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_SECRET_NAME: Final = re.compile(
    r"(^|_)(TOKEN|SECRET|[A-Z]*PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|JWT|(API|ACCESS|AUTH|PRIVATE|SECRET)_?KEY)($|_(?!FILE|PATH|DIR))",
    re.IGNORECASE,
)
_SHORTEST: Final = 8
"""A shorter value is no secret, and replacing it would garble the log."""


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name holds a secret: `HF_TOKEN`, `AWS_SECRET_ACCESS_KEY`."""
    return bool(_SECRET_NAME.search(name))


def secrets_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Name → value of the secrets in `environment`, and of the hub's token where it lies in its file."""
    found = {name: value for name, value in environment.items() if is_secret_name(name) and len(value) >= _SHORTEST}
    home = Path(environment.get("HF_HOME") or Path(environment.get("HOME", "/")) / ".cache" / "huggingface")
    try:
        token = Path(environment.get("HF_TOKEN_PATH") or home / "token").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        token = ""
    return found | ({"HF_TOKEN_PATH": token} if len(token) >= _SHORTEST else {})


class Redactor:
    """Replaces every secret it was told of by its name in angle brackets."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        # The longest first: one secret may begin like another.
        ordered = sorted(((value, name) for name, value in secrets.items() if value), key=lambda item: -len(item[0]))
        self._names = {value: f"<{name}>" for value, name in reversed(ordered)}
        self._pattern = re.compile("|".join(re.escape(value) for value, _ in ordered)) if ordered else None

    def text(self, text: str) -> str:
        """`text` without secrets."""
        return self._pattern.sub(lambda found: self._names[found[0]], text) if self._pattern else text

    def json(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """`value` without secrets; what JSON does not know becomes text."""
        return json.loads(self.text(json.dumps(value, default=str)))

    def line(self, line: bytes) -> bytes:
        """A line of a log without secrets; what is not UTF-8 is kept as it is."""
        if not self._pattern:
            return line
        return self.text(line.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def redactor_of_this_process(**more: str) -> Redactor:
    """A redactor of this process's own secrets, and of `more` by their names."""
    return Redactor({**secrets_of(os.environ), **more})
