"""`retort mine` as a script, for `ray job submit --working-dir . -- python jobs/mine.py --help`."""

import sys

from retort.cli import main

if __name__ == "__main__":
    sys.exit(main(["mine", *sys.argv[1:]]))
