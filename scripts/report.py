"""Write a study's report, or the index of all of them: reports/<study>.html, reports/index.html."""

import argparse
import json
import sys
from pathlib import Path

from leverlab.config import ConfigError, load
from leverlab.layout import Layout
from leverlab.records import write_bytes
from leverlab.report.index import render_index
from leverlab.report.page import render_study
from leverlab.report.source import DamagedTableError, read_study


def main() -> int:
    """Write what was asked for; 1, with a sentence, where its input is missing or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--study", help="name of a study of config/studies/")
    what.add_argument("--index", action="store_true", help="the list of all reports")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of config/, results/ and reports/")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of the command line, as JSON")
    arguments = parser.parse_args()
    layout = Layout(arguments.root)
    try:
        # Any study stands for the setting that every run must have: the report is of the one that is named.
        configuration = load(arguments.root, {**arguments.settings, "study": arguments.study or "all"})
        if arguments.index:
            target, page = layout.reports / "index.html", render_index(configuration, layout)
        else:
            target, page = (
                layout.report(arguments.study),
                render_study(read_study(arguments.study, configuration, layout)),
            )
    except (ConfigError, FileNotFoundError, DamagedTableError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    write_bytes(target, page.encode())
    print(f"{target}: {len(page.encode()) / 1e3:,.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
