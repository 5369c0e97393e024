"""``python -m jaxphot``."""

import sys

from jaxphot.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
