"""What a simulated smoke size says of the real engine that it stands in for: whether its flags were parsed."""

from typing import Any

from leverlab.records import read_json
from leverlab.report.source import StudyData


def stand_in_sentences(data: StudyData) -> list[str]:
    """A sentence for each real engine of the full-size study; empty where the study is no simulated smoke size."""
    if not (data.simulated and data.configuration.is_smoke(data.name)):
        return []
    full = data.configuration.full_name(data.name)
    path = data.layout.full_size_flags(data.name)
    if not path.is_file():
        return [f"The real flags of {full} were not parsed."]
    return [_sentence(full, found) for found in read_json(path)["engines"]]


def _sentence(full: str, found: dict[str, Any]) -> str:
    servers = "1 server" if found["servers"] == 1 else f"{found['servers']} servers"
    asked = f"The real flags of {servers} of {found['engine']} in {full}"
    if found["through"] is None:
        return f"{asked} were not parsed: no environment of that engine is on this machine."
    own = found["through"] == found["engine"]
    parser = "its own parser" if own else f"the parser of {found['through']}, another build of it"
    if not found["refusals"]:
        return f"{asked} were put to {parser}, and are accepted."
    return f"{asked} were put to {parser}, and {len(found['refusals'])} are refused: {'; '.join(found['refusals'])}."
