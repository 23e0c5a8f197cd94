"""How to cite lucidcube: the same facts as in CITATION.cff, which is not part of an installed package."""

from lucidcube import __version__

AUTHORS = "The lucidcube developers"
TITLE = "lucidcube"


def citation() -> str:
    """Return a reference to this version of lucidcube."""
    return f"{AUTHORS}: {TITLE}, version {__version__} [computer software]."


def bibtex() -> str:
    """Return an entry for BibTeX."""
    return (
        f"@software{{lucidcube,\n  author = {{{{{AUTHORS}}}}},\n  title = {{{TITLE}}},\n"
        f"  version = {{{__version__}}}\n}}"
    )
