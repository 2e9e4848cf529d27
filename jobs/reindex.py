"""`retort reindex` as a script, for `ray job submit --working-dir . -- python jobs/reindex.py --help`."""

import sys

from retort.cli import main

if __name__ == "__main__":
    sys.exit(main(["reindex", *sys.argv[1:]]))
