"""`retort score` as a script, for `ray job submit --working-dir . -- python jobs/score.py --help`."""

import sys

from retort.cli import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
