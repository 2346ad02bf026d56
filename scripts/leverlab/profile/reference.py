"""The tables of docs/profiles.md, generated from their schemas: `python -m leverlab.profile.reference` writes them."""

import re
from pathlib import Path
from typing import Final

from leverlab.profile.tables import FILES
from leverlab.records import write_bytes

PAGE: Final = Path("docs/profiles.md")
_MARKED: Final = re.compile(r"(<!-- generated: profile-tables -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str) -> str:
    """`text` of the page with its generated part as it should be."""
    parts = []
    for name, schema in FILES.items():
        rows = [
            f"| `{field.name}` | {'text' if 'string' in str(field.type) else field.type} | "
            f"{field.metadata[b'unit'].decode() or '–'} | {field.metadata[b'definition'].decode()} |"
            for field in schema
        ]
        header = ["| column | type | unit | definition |", "| --- | --- | --- | --- |"]
        parts.append("\n".join([f"**`{name}.parquet`**", "", *header, *rows]))
    content = "\n\n".join(parts)
    return _MARKED.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def main() -> None:
    """Write the page."""
    write_bytes(PAGE, page(PAGE.read_text(encoding="utf-8")).encode())


if __name__ == "__main__":
    main()
