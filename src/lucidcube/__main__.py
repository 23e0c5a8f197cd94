"""``python -m lucidcube``."""

from lucidcube.cli.start import main

if __name__ == "__main__":
    main()
