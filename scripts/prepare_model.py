"""Fetches, checks or makes a model's files and writes its model.json."""

import sys
from pathlib import Path

from leverlab.config import Configuration
from leverlab.config.command import entry_command
from leverlab.config.model import AdaptersSource
from leverlab.layout import Layout
from leverlab.models.prepare import prepare_adapters, prepare_model
from leverlab.records import read_json


def made(configuration: Configuration, model: str, output: Path) -> str:
    """Make the files of `model` beside its model.json `output`; what to say of it. Raises ConfigError."""
    layout, source = Layout(output.parents[3]), configuration.models[model].source
    if isinstance(source, AdaptersSource):
        prepare_adapters(model, configuration.models, layout)
        return f"{model}: {source.count} LoRA adapters of rank {source.rank} for {source.base}"
    record = prepare_model(model, configuration.models[model], layout)
    size = read_json(record)["dimensions"]
    count = f"{size['parameters'] / 1e6:,.1f} million parameters" if size["parameters"] else "parameters not counted"
    return f"{model}: {size['layers']} layers, hidden {size['hidden']}, {count}"


if __name__ == "__main__":
    sys.exit(
        entry_command(
            __doc__,
            "model",
            "scripts/prepare_model.py --model tiny-llama --output results/models/tiny-llama/model.json",
            "results/models/<model>/model.json",
            made,
        )
    )
