"""``python -m trcl_policy`` is ``trcl``."""

import sys

from trcl_policy.cli import main

if __name__ == "__main__":
    sys.exit(main())
