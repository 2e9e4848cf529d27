"""`retort run` as a script, for `ray job submit --working-dir . -- python jobs/run.py quickstart`."""

import sys

from retort.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
