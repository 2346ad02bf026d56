"""Columns of the tables of samples: each with its unit and definition in the schema."""

import pyarrow as pa


def column(name: str, kind: pa.DataType, unit: str, definition: str) -> pa.Field:
    """A column that may be null, with its unit and definition as the schema's metadata."""
    return pa.field(name, kind, metadata={"unit": unit, "definition": definition})
