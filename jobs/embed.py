"""`retort embed` as a script, for `ray job submit --working-dir . -- python jobs/embed.py --help`."""

import sys

from retort.cli import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))
