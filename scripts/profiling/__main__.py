"""Run the command, which Ctrl-C ends with one line, also during its imports."""

import sys

from scripts.profiling import INTERRUPTED

if __name__ == "__main__":
    try:
        from scripts.profiling.command import main

        sys.exit(main())
    except KeyboardInterrupt:
        # The process of one row is silent: the one that started it prints the line.
        if "--limits" not in sys.argv:
            print("profile: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
