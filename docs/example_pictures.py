"""Make the pictures of the page of examples from the examples themselves: images/example-NAME.png.

The cells of an example are executed in this process, and its picture with the truth is saved.
"""

import os
import re
import runpy
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

DOCS = Path(__file__).parent
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(?::tags:[^\n]*\n|---\n.*?^---\n)?(.*?)^```", re.M | re.S)


def main() -> None:
    os.chdir(DOCS / "examples")
    sys.path.insert(0, ".")
    for page in sorted(Path().glob("*.md")):
        if cells := CELL.findall(page.read_text()):
            plt.show = lambda name=page.stem: save(name)
            with NamedTemporaryFile("w", suffix=".py") as script:
                script.write("\n".join(cells))
                script.flush()
                runpy.run_path(script.name)


def save(name: str) -> None:
    """Save the current figure if it is the first with the truth, and close it."""
    figure = plt.gcf()
    if any("truth" in axes.get_title() for axes in figure.axes) and name not in saved:
        saved.add(name)
        figure.savefig(DOCS / "images" / f"example-{name}.png", dpi=50)
    plt.close(figure)


saved: set[str] = set()

if __name__ == "__main__":
    main()
