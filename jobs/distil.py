"""`retort distil` as a script, for `ray job submit --working-dir . -- python jobs/distil.py --help`."""

import sys

from retort.cli import main

if __name__ == "__main__":
    sys.exit(main(["distil", *sys.argv[1:]]))
