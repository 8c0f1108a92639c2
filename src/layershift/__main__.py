"""`python -m layershift` is `layershift`."""

import sys

from layershift.cli import main

if __name__ == "__main__":
    sys.exit(main())
