"""The style of the HTML report: one column on a phone, black on white in print."""

STYLE = """
:root { font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; color: #1a1a1a; background: #fff }
body { margin: 0 auto; padding: 1rem; max-width: 72rem }
h1 { font-size: 1.5rem; margin: 0 0 .25rem }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #bbb }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem }
p { margin: .3rem 0 .6rem } .small, small { color: #555; font-size: .85rem }
small { display: block; white-space: nowrap }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { padding: .25rem .5rem; text-align: right; vertical-align: top; border-bottom: 1px solid #e2e2e2 }
th:first-child, td:first-child { text-align: left } thead th { border-bottom: 2px solid #999; vertical-align: bottom }
tbody th { font-weight: 500 }
.scroll { overflow-x: auto; max-width: 100% }
.verdict { font-weight: 600; white-space: nowrap } .pass { color: #11652a } .fail { color: #b00020 }
.unresolved { color: #8a5a00 } .other { color: #555 }
.counts span { display: inline-block; margin-right: 1.2rem; font-weight: 600 }
.reasons li { margin: .35rem 0; overflow-wrap: anywhere }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem }
figure { min-width: 0; margin: 0; flex: 1 1 21rem; max-width: 36rem }
figure > svg { width: 100%; height: auto; display: block } svg text { font-size: 11px; fill: #1a1a1a }
svg .axis { font-size: 12px } svg .number { font-size: 12px; font-weight: 700 } svg .grid { stroke: #ddd }
.legend span { margin-right: 1rem; white-space: nowrap }
.key { width: 14px; height: 14px; vertical-align: -2px; margin-right: .3rem }
figcaption { font-size: .85rem; color: #333 } figcaption ol { margin: .3rem 0; padding-left: 1.6rem }
.heat { width: auto; font-size: .85rem } .heat td { text-align: center; min-width: 2.4rem; border: 1px solid #fff }
.heat th { white-space: nowrap } .heat .class { text-align: center }
.heat tbody th { position: sticky; left: 0; background: #fff }
.facts th { text-align: left; width: 9rem } .facts td { text-align: left; overflow-wrap: anywhere }
@media (max-width: 44rem) {
 .wide { display: none } th, td { padding: .25rem .3rem } body { padding: .75rem }
 .heat tbody th { white-space: normal; min-width: 6.5rem; max-width: 7.5rem }
}
@media print {
 :root { font-size: 10px } body { max-width: none; padding: 0 }
 * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
 tr, figure, li { break-inside: avoid } h2, h3 { break-after: avoid } .scroll { overflow: visible }
 thead { display: table-header-group }
 .heat { font-size: 8px } .heat th, .heat td { padding: .1rem .15rem; min-width: 0 } .heat tbody th { position: static }
}
"""
