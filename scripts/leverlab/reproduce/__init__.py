"""One cell again, alone: a fresh server, measured and compared with what was recorded.

`recorded` finds a cell's server (all that Snakemake needs to know), `evidence` what was recorded of it, `again` measures,
`comparison` judges, `page` prints.
"""

from leverlab.reproduce.recorded import RecordedServer, recorded_server

__all__ = ["RecordedServer", "recorded_server"]
