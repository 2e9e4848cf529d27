"""`retort tune` as a script, for `ray job submit --working-dir . -- python jobs/tune.py --help`."""

import sys

from retort.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
