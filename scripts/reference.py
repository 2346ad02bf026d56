"""Keep measured studies as a reference: their tables and pages in reports/reference/NAME/, with a list of them.

    python scripts/reference.py h100 week05-prefix-caching week10-cuda-graphs    # add or replace these studies
    python scripts/reference.py h100                                             # make the list again from what is there

A study is taken as `snakemake --cores all --config study=…` left it in results/.
"""

import argparse
import sys
from pathlib import Path

from leverlab.config import ConfigError, load
from leverlab.config.files import read_mapping
from leverlab.layout import Layout
from leverlab.records import write_bytes
from leverlab.report.reference import publish, render_reference
from leverlab.report.source import DamagedTableError


def main() -> int:
    """Write the pages, the tables and the list; 1, with a sentence, where a study is unknown or was not aggregated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the reference: the folder below reports/reference/")
    parser.add_argument("studies", nargs="*", help="studies of config/studies/ that were measured")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of config/, results/ and reports/")
    parser.add_argument("--configfile", type=Path, help="the file that was given to snakemake with --configfile")
    arguments = parser.parse_args()
    layout = Layout(arguments.root)
    folder = layout.reference(arguments.name)
    try:
        settings = read_mapping(arguments.configfile) if arguments.configfile else {}
        configuration = load(arguments.root, {**settings, "study": arguments.studies or "all"})
        chosen = configuration.selected_studies() if arguments.studies else []
        # First those whose twins explain others: a page leads to another where that is there.
        for study in sorted(chosen, key=lambda name: len(configuration.study(name).explained_by)):
            publish(study, configuration, layout, folder)
            print(f"{folder / study}.html")
        write_bytes(folder / "index.html", render_reference(arguments.name, configuration, layout, folder).encode())
    except (ConfigError, FileNotFoundError, DamagedTableError) as error:
        print(f"reference: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder / 'index.html'}; {size / 1e6:.1f} MB in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
