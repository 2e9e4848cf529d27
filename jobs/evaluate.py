"""`retort evaluate` as a script, for `ray job submit --working-dir . -- python jobs/evaluate.py --help`."""

import sys

from retort.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
