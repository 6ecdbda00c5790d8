"""`python -m depthprune`, and the script `depthprune`: the command line.

Until it listens to signals itself, which takes the import of all that reads its flags, Ctrl-C ends
the process without a word: nothing was begun, and a traceback of imports would say nothing.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line and leave with its exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from depthprune.cli import main as run

    run()


if __name__ == "__main__":
    main()
