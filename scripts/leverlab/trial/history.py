"""What earlier starts of the same server tell a later one."""

from leverlab.layout import Layout
from leverlab.records import TrialRecord, read_json
from leverlab.trial.trial import TRIAL_FILE


def has_served(server: str, layout: Layout) -> bool:
    """Whether some trial of this very server, in whichever replicate, got as far as telling its configuration.

    Its engine then accepts the configuration and need not be asked in full again, which takes a third of a start on a GPU.
    A record that cannot be read says nothing.
    """
    for path in layout.server(server).glob(f"*/trials/*/{TRIAL_FILE}"):
        try:
            record = TrialRecord.model_validate(read_json(path))
        except (OSError, ValueError):
            continue
        if record.effective:
            return True
    return False
