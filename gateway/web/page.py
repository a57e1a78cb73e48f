"""The document of the API as one page: no script, nothing from outside, readable in the dark."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from typing import Any

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6470;--line:#dfe3e8;--paper:#fff;--tint:#f5f7f9;--get:#0a6cbd;--post:#1a7f4b;--put:#9a5b00}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa4b0;--line:#2e353e;--paper:#14181d;--tint:#1c2127;--get:#6cb6ff;--post:#5bd08f;--put:#e0a54a}}
*{box-sizing:border-box}html{scroll-behavior:smooth}
body{margin:0;color:var(--ink);background:var(--paper);font:16px/1.55 system-ui,sans-serif;display:grid;grid-template-columns:17rem minmax(0,1fr)}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:2rem 1.25rem;border-right:1px solid var(--line);font-size:.875rem}
nav h2{font-size:.75rem;letter-spacing:.06em;text-transform:uppercase;color:var(--soft);margin:1.25rem 0 .25rem}
nav a{display:block;padding:.1rem 0;color:inherit;text-decoration:none}nav a:hover{text-decoration:underline}
main{padding:2rem 3rem 6rem;max-width:60rem}h1{font-size:1.75rem;margin:0 0 .5rem}h2{margin:3rem 0 .25rem;font-size:1.25rem}
p{margin:.5rem 0}.soft{color:var(--soft)}
code,pre{font:.875em/1.5 ui-monospace,monospace}code{background:var(--tint);padding:.05em .3em;border-radius:.25em}
pre{background:var(--tint);border:1px solid var(--line);border-radius:.5rem;padding:.75rem 1rem;overflow:auto}
details{border:1px solid var(--line);border-radius:.5rem;margin:.5rem 0;scroll-margin-top:1rem}
summary{cursor:pointer;padding:.6rem .9rem;display:flex;gap:.75rem;align-items:baseline;flex-wrap:wrap;list-style:none}
summary::-webkit-details-marker{display:none}summary:focus-visible{outline:2px solid var(--get);border-radius:.5rem}
details>div{padding:0 .9rem .9rem;border-top:1px solid var(--line)}
.verb{font:700 .75rem ui-monospace,monospace;width:2.6rem}.get{color:var(--get)}.post{color:var(--post)}.put{color:var(--put)}
.path{font:.9rem ui-monospace,monospace}h3{font-size:.8rem;color:var(--soft);margin:1.1rem 0 .3rem}
table{border-collapse:collapse;width:100%;font-size:.875rem}td{border-top:1px solid var(--line);padding:.3rem .75rem .3rem 0;vertical-align:top}
td:first-child{white-space:nowrap;font:.85rem ui-monospace,monospace}a{color:var(--get)}
@media(max-width:50rem){body{display:block}nav{position:static;height:auto;border-right:0;border-bottom:1px solid var(--line)}main{padding:1.5rem}}
"""
_CODE = re.compile(r"`([^`]+)`")
_STRESS = re.compile(r"(?<![\w*])\*(\w[^*<>]*)\*(?!\w)")


def page(document: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI *document*."""
    info = document["info"]
    operations = [
        (method, path, operation) for path, methods in document["paths"].items() for method, operation in methods.items()
    ]  # fmt: skip
    index, body = [], []
    for tag in document["tags"]:
        name = tag["name"]
        mine = [entry for entry in operations if name in entry[2]["tags"]]
        index.append(f"<h2>{escape(name)}</h2>" + "".join(_link(operation) for _, _, operation in mine))
        body.append(f'<h2 id="{escape(name)}">{escape(name)}</h2><p class="soft">{_prose(tag["description"])}</p>')
        body += [_operation(method, path, operation) for method, path, operation in mine]
    schemas = document["components"]["schemas"]
    body.append('<h2 id="schemas">schemas</h2>' + "".join(_schema(name, schemas[name]) for name in sorted(schemas)))
    key = document["components"]["securitySchemes"]["key"]["description"]
    about = "".join(f"<p>{_prose(part)}</p>" for part in info["description"].split("\n\n"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])} API</title><style>{STYLE}</style></head><body>"
        f"<nav><strong>{escape(info['title'])}</strong> <span class=soft>{escape(info['version'])}</span>{''.join(index)}"
        f'<h2><a href="#schemas">schemas</a></h2></nav>'
        f"<main><h1>{escape(info['title'])} API</h1>{about}<p>Send <code>Authorization: Bearer KEY</code>. {_prose(key)}</p>"
        f'<p class="soft">For programs: <a href="openapi.json">openapi.json</a> ({escape("OpenAPI " + document["openapi"])})</p>'
        f"{''.join(body)}</main></body></html>"
    )


def _link(operation: Mapping[str, Any]) -> str:
    return f'<a href="#{escape(operation["operationId"])}">{escape(operation["summary"])}</a>'


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = "".join(f"<p>{_prose(part)}</p>" for part in operation.get("description", "").split("\n\n") if part)
    if operation.get("parameters"):
        rows = [
            (p["name"], f"{_type(p['schema'])}, in the {p['in']}", p["description"]) for p in operation["parameters"]
        ]
        parts += "<h3>Parameters</h3>" + _table(rows)
    if "requestBody" in operation:
        ((media, content),) = operation["requestBody"]["content"].items()
        parts += f"<h3>Body</h3><p>{_type(content['schema'])} as <code>{escape(media)}</code></p>"
    rows = []
    for status, told in operation["responses"].items():
        kinds = ", ".join(
            _type(c["schema"]) if "json" in media else escape(media) for media, c in told["content"].items()
        )
        rows.append((status, kinds, told["description"]))
    parts += "<h3>Answers</h3>" + _table(rows)
    return (
        f'<details id="{escape(operation["operationId"])}"><summary><span class="verb {method}">{method.upper()}</span>'
        f'<span class="path">{escape(path)}</span><span class="soft">{escape(operation["summary"])}</span></summary>'
        f"<div>{parts}</div></details>"
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    needed = schema.get("required", [])
    rows = [
        (field + ("" if field in needed else "?"), _type(about), about.get("description", ""))
        for field, about in schema.get("properties", {}).items()
    ]  # fmt: skip
    examples = "".join(
        f"<h3>Example</h3><pre>{escape(json.dumps(given, ensure_ascii=False, indent=2))}</pre>"
        for given in schema.get("examples", [])
    )
    about = "".join(f"<p>{_prose(part)}</p>" for part in schema.get("description", "").split("\n\n") if part)
    return (
        f'<details id="schema-{escape(name)}"><summary><span class="path">{escape(name)}</span></summary>'
        f"<div>{about}{_table(rows)}{examples}</div></details>"
    )


def _table(rows: list[tuple[str, str, str]]) -> str:
    cells = (f"<tr><td>{escape(a)}</td><td>{b}</td><td>{_prose(c)}</td></tr>" for a, b, c in rows)
    return f"<table>{''.join(cells)}</table>" if rows else ""


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    several = schema.get("anyOf") or schema.get("oneOf")
    if several:
        return " or ".join(dict.fromkeys(_type(option) for option in several))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = escape(str(schema.get("format") or schema.get("type", "anything")))
    bounds = [f"{sign} {schema[key]}" for key, sign in (("minimum", "≥"), ("maximum", "≤")) if key in schema]
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if most is not None:
        bounds.append(f"{least} to {most} characters" if least > 1 else f"at most {most} characters")
    return ", ".join([kind, *map(escape, bounds)])


def _prose(text: str) -> str:
    """Text with its `code` and its *stress* marked as such."""
    text = _CODE.sub(r"<code>\1</code>", escape(" ".join(text.split()), quote=False))
    return _STRESS.sub(r"<em>\1</em>", text)
