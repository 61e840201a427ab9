"""``python -m hedgehogd``."""

from hedgehogd.cli import main

if __name__ == "__main__":
    main()
