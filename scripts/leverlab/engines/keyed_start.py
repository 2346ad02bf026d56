"""Starting a server whose key is a flag, without a command line that shows it."""

from typing import Final

from leverlab.load.plan import KEY_VARIABLE

_CODE: Final = (
    "import os, runpy, sys\n"
    "sys.argv.append('--api-key=' + os.environ.pop('{variable}'))\n"  # one word: a key may begin with a dash
    "runpy.run_module('{module}', run_name='__main__', alter_sys=True)"
)


def keyed_start(module: str) -> list[str]:
    """What `python -m module` runs, with the key from the environment (`KEY_VARIABLE`) as its last flag.

    A process's command line is open to every user of a machine. With `alter_sys` the processes that the server spawns find
    the same main module as they would with `-m`.
    """
    return ["-c", _CODE.format(variable=KEY_VARIABLE, module=module)]
