"""The command `studio`: the page in a browser."""

from __future__ import annotations

import click

from sis_rearrange.cli.options import device_option, open_pack, own_conditions


@click.command(
    epilog="\b\nExamples:\n"
    "  sis studio\n"
    "  sis studio my-pack toonhead --port 8000 --no-open\n"
    "  sis studio --host 0.0.0.0   # for everybody on the network; there is no password"
)
@click.argument("packs", metavar="[PACK]...", nargs=-1)
@click.option("--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="0: any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--allow-host", "hosts", multiple=True, help="A name that the server goes by, beside its address.")
@click.option("--open/--no-open", "opened", default=True, show_default=True, help="Open the page in a browser.")
@click.option("--upload-mb", type=click.FloatRange(1, 200), default=16, show_default=True, help="Largest picture file.")
@own_conditions
@device_option
@click.option("--backend", default="auto", show_default=True, help="What paints: torch, openvino (CPU), or auto.")
def studio(
    packs: tuple[str, ...],
    port: int,
    host: str,
    hosts: tuple[str, ...],
    opened: bool,
    upload_mb: float,
    device: str,
    backend: str,
) -> None:
    """Draw, edit, mix and label in a browser, with one or more PACKs (toonhead if left out); Ctrl-C ends it.

    Everything stays on this machine, and works without a network. Whoever can reach the address may use it.
    """
    import contextlib
    import threading
    import webbrowser

    from sis_rearrange.studio.server import bound, build, server_for, url_of
    from sis_rearrange.studio.values import Limits

    found = [open_pack(name) for name in packs or ("toonhead",)]
    limits = Limits(upload_bytes=round(upload_mb * 1e6))
    with bound(host, port) as listening:
        app, service = build(found, limits, device, backend, frozenset(name.lower() for name in hosts))
        try:
            service.warm_up()
            url = url_of(host, listening)
            click.echo(f"studio: {url}")
            if opened:
                threading.Timer(1.0, webbrowser.open, [url]).start()
            with contextlib.suppress(KeyboardInterrupt):
                server_for(app).run(sockets=[listening])
        finally:
            service.close()
