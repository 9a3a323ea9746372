"""Colours, fonts and the style sheet of the report: one calm palette, safe for colour-blind readers [Okabe, Ito]."""

from __future__ import annotations

from collections.abc import Sequence

INK, SOFT, FAINT, RULE, PAPER = "#1d2733", "#5b6775", "#97a1ad", "#e3e7ec", "#ffffff"
OURS, PAPERS, SEED = "#1f6fa8", "#d1602f", "#9fc3dd"
GOOD, BAD = "#1f6fa8", "#d1602f"
NAMED = ("#1f6fa8", "#d1602f", "#2a9d7c", "#b5739d", "#c99a1b", "#4bb0d6", "#6b7785", "#7b5ea7")
ORDERED = ("#173f5f", "#2c7fb8", "#4fb3a5", "#c9b13b", "#d9772b")  # dark blue to orange, ordered by lightness
FONT = "-apple-system, 'Segoe UI', 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"
SERIF = "Charter, 'Iowan Old Style', 'Palatino Linotype', Georgia, 'Liberation Serif', serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'Liberation Mono', monospace"


def colours(count: int, *, ordered: bool) -> Sequence[str]:
    """``count`` colours: a ramp where the values have an order, else distinct hues (repeated after eight)."""
    if not ordered:
        return [NAMED[index % len(NAMED)] for index in range(count)]
    if count == 1:
        return [OURS]
    return [_blend(index * (len(ORDERED) - 1) / (count - 1)) for index in range(count)]


def fade(colour: str, opacity: float) -> str:
    """``#rrggbb`` with an opacity, as CSS."""
    red, green, blue = _channels(colour)
    return f"rgba({red},{green},{blue},{opacity:g})"


def _blend(position: float) -> str:
    left = min(int(position), len(ORDERED) - 2)
    share = position - left
    pairs = zip(_channels(ORDERED[left]), _channels(ORDERED[left + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


SHEET = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: {PAPER}; color: {INK}; font: 16px/1.55 {FONT}; -webkit-font-smoothing: antialiased; }}
main {{ max-width: 1060px; margin: 0 auto; padding: 44px 28px 72px; }}
header .study {{ color: {SOFT}; font: 600 13px/1.4 {MONO}; letter-spacing: .02em; }}
h1 {{ font: 400 21px/1.35 {SERIF}; color: {SOFT}; margin: 6px 0 0; }}
.verdict {{ font: 400 31px/1.3 {SERIF}; margin: 14px 0 22px; max-width: 31em; text-wrap: pretty; }}
ul {{ margin: 0 0 26px; padding-left: 1.1em; max-width: 60em; }} li {{ margin: 5px 0; }}
li::marker {{ color: {FAINT}; }}
.cards {{ display: grid; gap: 0 36px; margin-bottom: 12px; }}
.cards {{ grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); }}
.cards h3 {{ margin: 12px 0 4px; padding-top: 10px; border-top: 1px solid {RULE}; }}
.cards ul {{ font-size: 14px; line-height: 1.45; margin-bottom: 8px; }}
h2 {{ font: 600 18px/1.3 {FONT}; margin: 42px 0 6px; padding-top: 16px; border-top: 1px solid {RULE}; }}
h3 {{ font: 600 15px/1.3 {FONT}; margin: 24px 0 4px; }}
p.note, figcaption {{ color: {SOFT}; font-size: 14px; margin: 2px 0 12px; max-width: 68em; }}
.strip {{ display: flex; flex-wrap: wrap; border: 1px solid {RULE}; border-radius: 8px; overflow: hidden; }}
.strip div {{
  flex: 1 1 auto; padding: 10px 16px; border-right: 1px solid {RULE}; margin-right: -1px; min-width: 96px;
}}
.strip b {{ display: block; font-size: 18px; font-weight: 600; font-variant-numeric: tabular-nums; }}
.strip span {{ color: {SOFT}; font-size: 12.5px; }} .strip .bad b {{ color: {BAD}; }}
.scroll {{ overflow-x: auto; }} .figure {{ margin: 6px 0; }} .figure > div {{ min-width: 620px; }}
table {{ border-collapse: collapse; width: 100%; font-size: 14.5px; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; font-weight: 600; padding: 14px 0 6px; }}
caption small {{ font-weight: 400; color: {SOFT}; }}
th {{ text-align: right; font-weight: 600; color: {SOFT}; font-size: 13px; padding: 5px 12px; vertical-align: bottom; }}
td {{ text-align: right; padding: 5px 12px; border-top: 1px solid {RULE}; white-space: nowrap; }}
thead tr:first-child th {{ border-top: 2px solid {INK}; }} tbody tr:first-child td {{ border-top: 1px solid {INK}; }}
tbody tr:last-child td {{ border-bottom: 2px solid {INK}; }}
thead tr:first-child th:first-child, td:first-child {{ text-align: left; padding-left: 2px; }}
thead .span {{ text-align: center; }} tr.other td {{ color: {SOFT}; }} td.none {{ color: {FAINT}; }}
td small {{ color: {SOFT}; }}
table.text td {{ white-space: normal; text-align: left; vertical-align: top; }} table.text th {{ text-align: left; }}
.crops {{
  display: grid; grid-template-columns: repeat(var(--columns), 1fr); gap: 14px 10px; margin: 8px 0 22px;
}}
.crops figure {{ margin: 0; }}
.crops img {{ width: 100%; display: block; border-radius: 3px; image-rendering: pixelated; }}
.crops figcaption {{ margin: 5px 0 0; font-size: 13px; line-height: 1.35; color: {INK}; }}
.crops small {{ color: {SOFT}; }}
.box {{
  border-left: 4px solid {PAPERS}; background: #fdf5f0; padding: 12px 18px; border-radius: 0 6px 6px 0; margin: 20px 0;
}}
.box ul {{ margin: 4px 0 0; padding-left: 1.1em; }} .box b {{ font-weight: 600; }}
pre {{
  font: 13px/1.5 {MONO}; background: #f5f7f9; border-radius: 6px; padding: 12px 16px; overflow-x: auto;
  white-space: pre-wrap;
}}
code {{ font: 13px {MONO}; }} details {{ margin: 10px 0; }} summary {{ cursor: pointer; color: {SOFT}; }}
footer {{ margin-top: 56px; color: {FAINT}; font-size: 13px; }}
@media (max-width: 640px) {{ main {{ padding: 24px 16px; }} .verdict {{ font-size: 24px; }}
  .crops {{ grid-template-columns: repeat(3, 1fr); }} .cards {{ grid-template-columns: 1fr; }}
}}
@media print {{
  main {{ max-width: none; padding: 0; }} body {{ font-size: 11pt; }} .verdict {{ font-size: 20pt; }}
  h2, h3, caption {{ break-after: avoid; }} .figure, .crops figure, table, .box {{ break-inside: avoid; }}
  .modebar {{ display: none !important; }} .cards ul {{ font-size: 9.5pt; }}
  .cards {{ grid-template-columns: 1fr 1fr; gap: 0 24px; }}
  .scroll, .figure {{ overflow: visible; }} .figure > div {{ min-width: 0; }} table {{ font-size: 9.5pt; }}
  td, th {{ padding: 3px 6px; }}
}}
"""
