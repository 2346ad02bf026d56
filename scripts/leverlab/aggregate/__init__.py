"""From the cells of a study to its tables: requests.parquet, cells.parquet, effects.parquet, saturation.parquet."""
