"""The style of everything that is drawn: colours by variables, so that light and dark are one document."""

from __future__ import annotations

__all__ = ["PAGE_STYLE", "STYLE"]

_LIGHT = (
    "--paper:#fff;--fg:#1c1e21;--dim:#5c636b;--line:#d4d8dd;--head:#f1f3f5;--good:#17753a;--bad:#b3261e;--bar:#3b78c3;"
    "--box:#fff;--seen:#cfe3f7;--edge:#8a929b;--after:#1f5fae;--before:#8a6d1d;--tint:#e4572e"
)
_DARK = (
    "--paper:#14171a;--fg:#e6e6e6;--dim:#a2a8b0;--line:#4a4f57;--head:#2a2e34;--good:#6cc788;--bad:#ff8f85;--bar:#5b93d6;"
    "--box:#1e2125;--seen:#234668;--edge:#7d858e;--after:#8ab9f1;--before:#d9b95b;--tint:#c4491f"
)
# The preference of the eyes, unless the page around says what it is itself; and always on paper of its own, for a page
# that follows neither.
STYLE = f"""
.gbn{{{_LIGHT};color:var(--fg);background:var(--paper);font:14px/1.45 system-ui,sans-serif;overflow-x:auto;padding:4px}}
@media (prefers-color-scheme:dark){{.gbn{{{_DARK}}}}}
[data-jp-theme-light=true] .gbn,.vscode-light .gbn,[data-theme=light] .gbn,[theme=light] .gbn{{{_LIGHT}}}
[data-jp-theme-light=false] .gbn,.vscode-dark .gbn,[data-theme=dark] .gbn,[theme=dark] .gbn{{{_DARK}}}
.gbn .gbn-title{{font-size:15px;font-weight:600;margin:0 0 4px}}
.gbn .gbn-note{{color:var(--dim);margin:4px 0}}
.gbn .gbn-good{{color:var(--good)}}
.gbn .gbn-bad{{color:var(--bad)}}
.gbn dl.gbn-facts{{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:1px 12px;margin:4px 0 8px}}
.gbn .gbn-facts dt{{color:var(--dim);font-weight:400;width:auto;white-space:nowrap}}
.gbn .gbn-facts dd{{margin:0;width:auto;overflow-wrap:anywhere}}
.gbn .gbn-wide{{overflow-x:auto}}
.gbn table.gbn-table{{border-collapse:collapse;margin:4px 0;font-variant-numeric:tabular-nums;color:var(--fg)}}
.gbn .gbn-table th{{background:var(--head);text-align:left;font-weight:600;white-space:nowrap}}
.gbn .gbn-table th,.gbn .gbn-table td{{padding:2px 10px;border-bottom:1px solid var(--line);vertical-align:top}}
.gbn .gbn-table td{{text-align:left;max-width:32em;overflow-wrap:break-word}}
.gbn .gbn-table .gbn-number{{text-align:right;white-space:nowrap}}
.gbn .gbn-bar{{display:inline-block;height:8px;background:var(--bar);border-radius:2px}}
.gbn figure.gbn-image{{display:inline-block;margin:4px 8px 4px 0}}
.gbn .gbn-image img{{image-rendering:pixelated;display:block}}
.gbn .gbn-image figcaption{{color:var(--dim);font-size:12px}}
.gbn .gbn-fold{{margin:4px 0 8px}}
.gbn .gbn-fold>summary{{cursor:pointer;font-weight:600}}
.gbn .gbn-drawing{{overflow:auto;max-height:680px}}
@media print{{.gbn .gbn-drawing{{max-height:none}}}}
.gbn .gbn-drawing svg{{display:block;max-width:none;color:var(--fg)}}
.gbn .gbn-drawing text{{fill:currentColor;font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}}
.gbn .gbn-drawing text.gbn-small{{font-size:9.5px}}
.gbn .gbn-drawing image{{image-rendering:pixelated}}
.gbn .gbn-box>.gbn-frame{{fill:var(--box);stroke:currentColor}}
.gbn .gbn-parameter>.gbn-frame,.gbn .gbn-gap>.gbn-frame{{stroke:var(--edge);stroke-dasharray:4 2.5}}
.gbn .gbn-deterministic>.gbn-frame{{stroke:var(--edge)}}
.gbn .gbn-observed>.gbn-frame{{fill:var(--seen);stroke:var(--after);stroke-width:2.5}}
.gbn .gbn-box:hover>.gbn-frame{{stroke:var(--bar);stroke-width:2}}
.gbn .gbn-rim{{fill:none;stroke:currentColor}}
.gbn .gbn-tint{{fill:var(--tint)}}
.gbn .gbn-edge{{fill:none;stroke:var(--edge);stroke-width:1.2}}
.gbn .gbn-head{{fill:var(--edge)}}
.gbn .gbn-after{{stroke:var(--after);fill:var(--after)}}
.gbn .gbn-before{{stroke:var(--before);fill:none;stroke-dasharray:3 2}}
.gbn .gbn-axis{{stroke:var(--line);fill:none}}
.gbn .gbn-legend{{display:flex;flex-wrap:wrap;gap:2px 14px;color:var(--dim);font-size:12px;margin:4px 0}}
.gbn .gbn-legend svg{{vertical-align:-4px;margin-right:5px;color:var(--fg)}}
.gbn .gbn-columns{{display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start}}
.gbn .gbn-columns>section{{flex:1 1 320px;min-width:0}}
""".strip()
PAGE_STYLE = (
    ":root{color-scheme:light dark;background:#fff}"
    "@media (prefers-color-scheme:dark){:root{background:#14171a}}"
    "body{margin:24px auto;max-width:1100px;padding:0 16px;font-family:system-ui,sans-serif}"
    "h1{font-size:24px;overflow-wrap:anywhere}"
)
