"""A self-contained HTML document with Plotly inside, which loads nothing from any network."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

from plotly.offline import get_plotlyjs

from cluster.report.style import SHEET
from cluster.results.files import explained

# The browser itself refuses every request: a report that a paper carries must not depend on, or tell, anyone.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
PRINTING = """
const plots = () => document.querySelectorAll('.plotly-graph-div');
addEventListener('beforeprint', () => plots().forEach(p => Plotly.relayout(p, {width: 690, autosize: false})));
addEventListener('afterprint', () => plots().forEach(p => Plotly.relayout(p, {width: null, autosize: true})));
"""


def document(title: str, body: str, head: str = "") -> str:
    """The whole document; ``body`` and ``head`` are finished HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{head}<title>{escape(title)}</title><style>{SHEET}</style><script>{get_plotlyjs()}</script></head>\n"
        f"<body><main>{body}</main><script>{PRINTING}</script></body></html>\n"
    )


def write(path: Path, text: str) -> Path:
    """Writes a page aside and renames it; returns its path. Raises OSError, StoreTrouble where the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    content = text.encode()
    with explained(path, len(content)):  # outside: what is left is counted without the half page
        try:
            aside.write_bytes(content)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    return path
