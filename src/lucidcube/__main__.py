"""``python -m lucidcube``."""

from lucidcube.cli import main

if __name__ == "__main__":
    main()
