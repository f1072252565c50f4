"""The page's style sheet: fonts of the system, colours as variables, light and dark."""

__all__ = ["CSS"]

CSS = """
:root{color-scheme:light dark;--bg:#fbfaf8;--card:#fff;--ink:#1d1f24;--soft:#646974;--rule:#e4e2dd;--good:#1d7a4f;--bad:#c0392b;--warn:#c98a12;
--numba:#0b66d6;--vectors:#3f8fe0;--unit:#2b4ea8;--numpy:#7fb2ee;--sklearn:#e08a1e;--torch:#d9482b;--compile:#9c3f8f;--jax:#2f9d76;--onnx:#6b7280}
@media (prefers-color-scheme:dark){:root{--bg:#14161a;--card:#1c1f25;--ink:#eceef2;--soft:#9aa1ad;--rule:#2e323a;--good:#4cc38a;--bad:#ff6b5e;--warn:#e5b04a;
--numba:#58a6ff;--vectors:#4a86d8;--unit:#8fb2f5;--numpy:#5f7fb8;--sklearn:#f0a94a;--torch:#ff7a5c;--compile:#d38ac9;--jax:#57c9a0;--onnx:#a3a9b5}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1000px;margin:0 auto;padding:48px 24px 80px}
h1{font-size:2.1rem;line-height:1.2;margin:0 0 .3em;letter-spacing:-.02em}
h2{font-size:1.3rem;margin:0 0 .2em;letter-spacing:-.01em}
p{margin:.3em 0 1em;max-width:72ch}
.soft,.label,.tick,.axis{color:var(--soft);fill:var(--soft)}
section{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:24px;margin:20px 0}
section p{color:var(--soft);font-size:.93rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin:24px 0}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:14px 18px}
.tile b{display:block;font-size:1.7rem;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.86rem}
.scroll{overflow-x:auto}
svg{display:block;width:100%;height:auto;min-width:420px;font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
.multiples{display:grid;grid-template-columns:repeat(auto-fit,minmax(400px,1fr));gap:20px}.scroll svg{min-width:760px}
text{fill:var(--ink)}
.group{font-weight:600;font-size:13.5px}.value{font-weight:600;font-variant-numeric:tabular-nums}.tick{font-size:11px}.axis{font-size:11.5px}
.grid{stroke:var(--rule);stroke-width:1}.one{stroke:var(--ink);stroke-width:1.4}.asked{stroke:var(--ink);stroke-width:2.2}
.whisker{stroke:var(--ink);stroke-width:1.3;opacity:.65}.tie{stroke:var(--rule);stroke-width:2}.roof{stroke:var(--ink);stroke-width:1.8;stroke-dasharray:6 4}
.faster{fill:var(--numba)}.short{fill:var(--numba);opacity:.5}.slower{fill:var(--bad)}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round;opacity:.85}.line.numba{stroke-width:3;opacity:1}
.dot{stroke:var(--card);stroke-width:1.2}.dot.best{fill:var(--card);stroke:var(--soft);stroke-width:2}
KEYS
ul.legend{list-style:none;display:flex;flex-wrap:wrap;gap:6px 18px;padding:0;margin:0 0 14px;font-size:.88rem}
ul.legend i{display:inline-block;width:11px;height:11px;border-radius:50%;margin-right:6px}
table{border-collapse:collapse;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th{font-weight:600;color:var(--soft)}th:first-child,td:first-child{text-align:left}
.PASS{color:var(--good);font-weight:600}.MISS{color:var(--bad);font-weight:600}.bad{color:var(--bad)}
td small{display:block;color:var(--soft)}details td small{max-width:15em;margin-left:auto;overflow:hidden;text-overflow:ellipsis}
.bar{padding:1px 6px 5px;background:linear-gradient(to left,var(--numba) var(--w),transparent var(--w)) bottom/100% 3px no-repeat}
h3{font-size:.95rem;margin:.6em 0}
summary{cursor:pointer;font-weight:600}
ul.notes{padding-left:1.2em;font-size:.9rem;color:var(--soft);overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;font-size:.9rem;margin:0}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media (max-width:640px){main{padding:28px 12px}section{padding:16px}.multiples{grid-template-columns:minmax(0,1fr)}.multiples svg{min-width:0}dl{grid-template-columns:1fr}}
"""
LIBRARIES = ("numba", "vectors", "unit", "numpy", "sklearn", "torch", "compile", "jax", "onnx")
CSS = CSS.replace(
    "KEYS",
    "\n".join(
        f".dot.{name},.key.{name}{{fill:var(--{name});background:var(--{name})}}.line.{name}{{stroke:var(--{name})}}"
        for name in LIBRARIES
    ),
)
