"""`retort train-teacher` as a script, for `ray job submit --working-dir . -- python jobs/train_teacher.py --help`."""

import sys

from retort.cli import main

if __name__ == "__main__":
    sys.exit(main(["train-teacher", *sys.argv[1:]]))
