"""The command that prints how to cite lucidcube."""

from typing import Annotated

from cyclopts import Parameter

from lucidcube.report.citation import bibtex, citation

_ONLY = Parameter("--bibtex", negative=(), help="print the entry for BibTeX only")


def cite(*, bibtex_only: Annotated[bool, _ONLY] = False) -> None:
    """Print how to cite this version of lucidcube, as text and as an entry for BibTeX."""
    print(bibtex() if bibtex_only else f"{citation()}\n\n{bibtex()}")
