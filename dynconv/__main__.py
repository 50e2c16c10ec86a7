"""`python -m dynconv` is `dynconv`."""

import sys

from dynconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
