"""How tables of measurements are encoded as Parquet."""

from typing import Any

import pyarrow as pa


def encoding(schema: pa.Schema) -> dict[str, Any]:
    """Options of pyarrow's Parquet writers for flat tables of `schema`. The same rows give the same bytes.

    Measured floats hardly repeat: a dictionary of them is longer than they are, while their bytes compress better when those of equal place
    stand together (Parquet's encoding BYTE_STREAM_SPLIT). The tables are read whole, so that a column's least and greatest value, which a
    reader could skip parts by, are left out: in a table of few rows and many columns they take a quarter of the file.
    """
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    return {
        "compression": "zstd",
        "compression_level": 15,
        "use_byte_stream_split": floats,
        "use_dictionary": [name for name in schema.names if name not in floats],
        "write_statistics": False,
    }
