"""Sphinx extension: formulas as MathML, which browsers draw without scripts and without a network."""

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def setup(sphinx: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    sphinx.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(writer: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def block(writer: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own, which scrolls where it is wider than the page."""
    writer.body.append(f'<div class="formula">{tex2mathml(node.astext().strip(), as_block=True)}</div>\n')
    raise nodes.SkipNode
