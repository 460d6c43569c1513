"""`python -m bpflinkd` is the daemon."""

import sys

from bpflinkd.daemon import main

if __name__ == "__main__":
    sys.exit(main())
