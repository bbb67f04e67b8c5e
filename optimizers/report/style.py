"""The style sheet of a report, for light and dark screens, narrow ones, and paper."""

from __future__ import annotations

from typing import Final

__all__ = ["STYLE"]

STYLE: Final = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --text: #1d2330; --quiet: #5b6472; --edge: #d5dae2; --soft: #f3f5f8;
  --plain: #4a6fa5; --best: #c2410c; --second: #0f766e; --gain: #3b7a57; --loss: #b3362b;
  --ins: #d9f2dd; --ins-edge: #1b7f3b; --del: #fbdcd9; --del-edge: #b3362b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171c; --text: #e4e7ec; --quiet: #9aa4b2; --edge: #333a45; --soft: #1d2229;
    --plain: #8fb3e8; --best: #f59e6c; --second: #5eccc0; --gain: #74c494; --loss: #f0897f;
    --ins: #173a22; --ins-edge: #6fce8b; --del: #47201d; --del-edge: #f0897f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--edge); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
h4 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
a { color: var(--plain); }
nav ol { margin: 0; padding-left: 1.5rem; columns: 18rem; column-gap: 2.5rem; }
footer, .missing, figcaption, .side { color: var(--quiet); font-size: .9rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--edge); padding-top: .75rem; }
.missing { font-style: italic; }
.verdict { font-size: 1.1rem; padding: .75rem 1rem; border-left: 4px solid var(--plain); background: var(--soft); }
.verdict.good { border-color: var(--ins-edge); }
.verdict.kept { border-color: var(--best); }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1.25rem; margin: .75rem 0; }
dt { color: var(--quiet); }
dd { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .75rem 0; overflow-wrap: normal; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--edge); vertical-align: top; }
th { color: var(--quiet); font-weight: 600; }
.figure { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th.figure { white-space: normal; }
.within { padding-left: 1rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
figure { margin: .75rem 0; }
svg { display: block; width: 100%; min-width: 34rem; max-width: 46rem; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--text); }
.grid { stroke: var(--edge); }
.axis { stroke: var(--quiet); }
.line { fill: none; stroke-width: 2; stroke: var(--plain); }
.line.best { stroke: var(--best); }
.line.second { stroke: var(--second); stroke-dasharray: 6 4; }
.mark circle { fill: var(--plain); }
.mark .whisker { stroke: var(--plain); }
.mark.best circle { fill: var(--best); }
.mark.best .whisker { stroke: var(--best); }
.mark.second circle, .mark.third circle { fill: var(--ground); stroke: var(--second); stroke-width: 2; }
.mark.second .whisker, .mark.third .whisker { stroke: var(--second); }
.mark.pruned circle { fill: var(--ground); stroke: var(--plain); stroke-width: 1.5; }
.mark.faint { opacity: .45; }
.cross { stroke: var(--loss); stroke-width: 1.5; }
.bar.gain { fill: var(--gain); opacity: .55; }
.bar.loss { fill: var(--loss); opacity: .55; }
.whisker { stroke: var(--text); }
.prompt { white-space: pre-wrap; background: var(--soft); padding: .5rem .75rem; border-radius: 4px; font-size: .9rem; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
@media (max-width: 44rem) { .sides { grid-template-columns: 1fr; } dl { grid-template-columns: 1fr; gap: 0; } }
.side { margin: .25rem 0; }
ins, del { text-decoration: none; border-radius: 2px; }
ins { background: var(--ins); border-bottom: 2px solid var(--ins-edge); }
del { background: var(--del); border-bottom: 2px dotted var(--del-edge); }
@media print { body { max-width: none; } svg, tr, .change { break-inside: avoid; } }
"""
