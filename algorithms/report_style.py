"""How the page of a finished run looks; it serves light and dark screens."""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --line: #d9d9e0;
  --page: #ffffff; --panel: #f6f6f8; --good: #18794e; --bad: #ce2c31; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --soft: #b0b4ba; --line: #43484e;
  --page: #111113; --panel: #1d1e21; --good: #3dd68c; --bad: #ff9592; } }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px; }
h1 { margin: 0 0 8px; } h2 { margin: 36px 0 8px; } h3 { margin: 28px 0 0; } h4 { margin: 0 0 8px; }
.headline { margin: 2px 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr));
  gap: 16px; }
figure { margin: 0; padding: 12px; background: var(--panel); border-radius: 8px; }
figcaption { display: flex; justify-content: space-between; flex-wrap: wrap; }
svg { width: 100%; height: auto; }
.grid { stroke: var(--line); }
.tick { fill: var(--soft); font-size: 12px; }
g polyline { fill: none; stroke: currentColor; stroke-width: 2; }
g line { stroke: currentColor; stroke-width: 1.5; opacity: .7; }
g circle { fill: currentColor; }
.legend span { margin-left: 14px; font-weight: 600; }
.c0 { color: #3e63dd; } .c1 { color: #d6732a; } .c2 { color: #30a46c; }
.c3 { color: #ab4aba; } .c4 { color: #12a5c4; } .c5 { color: #98893c; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: 4px 12px; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(380px, 100%), 1fr));
  gap: 16px; }
section { padding: 12px; background: var(--panel); border-radius: 8px; min-width: 0;
  border-top: 3px solid var(--bad); }
section.solved { border-color: var(--good); }
section p { margin: 4px 0 12px; } section i { color: var(--soft); }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
code { padding: 1px 6px; border: 1px solid var(--line); border-radius: 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
code.invalid { border-color: var(--bad); text-decoration: line-through; }
details { margin-top: 16px; }
"""
