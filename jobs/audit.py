"""`retort audit` as a script, for `ray job submit --working-dir . -- python jobs/audit.py --help`."""

import sys

from retort.cli import main

if __name__ == "__main__":
    sys.exit(main(["audit", *sys.argv[1:]]))
