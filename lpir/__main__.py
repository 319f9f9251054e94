"""`python -m lpir` is the command line."""

from __future__ import annotations

from lpir.cli import main

if __name__ == "__main__":
    main()
