"""The status page, readable without JavaScript."""

from html import escape

import trio

from hedgehogd import __version__
from hedgehogd.fanout.instance import Instance

_OPERATOR_LINKS = """ ·
<a href="/metrics">metrics</a> · <a href="/api/v1/lines">lines</a> ·
<a href="/api/v1/instances">instances</a>"""
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5">
<title>hedgehogd {number}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }}
td {{ padding: .1rem 1.5rem .1rem 0; vertical-align: top }}
td + td {{ font-variant-numeric: tabular-nums }}
code {{ background: #f3f3f3; padding: .1rem .3rem }}
@media (prefers-color-scheme: dark) {{
  body {{ color: #ddd; background: #161616 }} code {{ background: #2a2a2a }} a {{ color: #8bf }} }}
</style>
<h1>hedgehogd <small>{version}, instance {number}</small></h1>
<table>{rows}</table>
<h2>Try it</h2>
<p><code>curl -N http://{host}/api/v1/subscribe/BTC-USD</code></p>
<p><code>wscat -c ws://{host}/ws</code></p>
<p><a href="/readyz">readyz</a> · <a href="/healthz">healthz</a> ·
<a href="/api/v1/health">health</a>{links}</p>
</html>
"""


def status_page(
    instance: Instance, host: str = "127.0.0.1:8001", *, serves_operators: bool = False
) -> str:
    """Return the HTML page for the present state of ``instance``.

    ``host`` is the request's Host, for the examples. A page that ``serves_operators`` has links to
    the operators' routes.
    """
    ready, reason = instance.readiness()
    health = instance.health
    age = (
        "never" if health.heard_at is None else f"{trio.current_time() - health.heard_at:.1f} s ago"
    )
    rows = {
        "ready": f"{'yes' if ready else 'no'} ({reason})",
        "feed last received": age,
        "messages in": f"{instance.broker.messages_in:,}",
        "subscribers": f"{len(instance.sessions):,}",
        "deliveries": f"{instance.pipe.hub.deliveries.total():,}",
    }
    cells = "".join(f"<tr><td>{escape(k)}<td>{escape(v)}" for k, v in rows.items())
    return _PAGE.format(
        number=instance.number,
        version=escape(__version__),
        rows=cells,
        host=escape(host),
        links=_OPERATOR_LINKS if serves_operators else "",
    )
