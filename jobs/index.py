"""`retort index` as a script, for `ray job submit --working-dir . -- python jobs/index.py --help`."""

import sys

from retort.cli import main

if __name__ == "__main__":
    sys.exit(main(["index", *sys.argv[1:]]))
