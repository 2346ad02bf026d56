"""A twin's tables made anew, without a run: after a rule for names changed, or a reader."""

from pathlib import Path

from leverlab.profile import tables
from leverlab.profile.analysis import unnamed
from leverlab.profile.classes import kernel_classes
from leverlab.profile.keeping import read_twin
from leverlab.profile.recorders import RAW, read_profiles
from leverlab.units import format_share


def again(folder: Path, root: Path = Path()) -> str:
    """Make the tables in `folder` anew, from the profiler's own files where they are there; what was done, in words.

    Raises FileNotFoundError where `folder` holds no twin that recorded, NothingRecordedError, and ConfigError.
    """
    record = read_twin(folder)
    if record is None:
        raise FileNotFoundError(f"{folder} holds no twin.json that can be read")
    classes = kernel_classes(root)
    if any((folder / RAW).rglob("*.parquet")) or any((folder / RAW).rglob("*trace.json*")):
        servers = list(record.commands) or [tables.ALONE]
        trace, _ = read_profiles(folder, record.tool, servers, classes, record.layers)
        how = f"read again from {RAW}/"
    else:
        trace, how = tables.read(folder), "classed again"
        trace.kernels["class"] = trace.kernels["kernel"].map(classes.mapping(trace.kernels["kernel"]))
    tables.write(trace, folder)
    other = unnamed(trace)
    share = sum(share for _, share in other)
    named = (
        f"; {format_share(share, 1)} of the kernels' time has no class: {', '.join(name for name, _ in other[:5])}"
        if other
        else ""
    )
    return f"{how}: {len(trace.kernels)} kernels{named}"
