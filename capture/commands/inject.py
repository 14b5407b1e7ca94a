"""`capture inject`: manifests of Kubernetes with our init container, or without it again."""

from __future__ import annotations

import os

import click

from capture.commands.base import SettingsCommand, reporting, settings_given
from capture.errors import CaptureError
from capture.inject.injecting import injected, undone
from capture.inject.proxy import proxy_from
from capture.output import print_for_programs
from capture.settings.declared import MEANING

STDIN = "-"
IMAGE = "registry.example/traffic-capture:latest"


@click.command(cls=SettingsCommand, uses=MEANING)
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    help="A file of manifests, - for stdin; by default that. May be repeated.",
)
@click.option("--image", default=IMAGE, show_default=True, help="The image of the init container.")
@click.option(
    "--proxy-container", metavar="FILE", help="A file with the container of a proxy, which is put in as well."
)
@click.option("--undo", is_flag=True, help="Take out again what was put in: the text is as it was, to the byte.")
def command(files: tuple[str, ...], image: str, proxy_container: str | None, undo: bool) -> None:
    """Write manifests with an init container that captures, for every pod and pod template in them.

    Its settings are those given here, by flags or --config, and for each pod what its annotations say
    (traffic.sidecar.istio.io/… and others of Istio's injector). Everything else stays as it is written, comments and
    layout included. Again it changes nothing. A pod that cannot be captured is named, and nothing is written.
    """
    with reporting():
        settings = settings_given()
        proxy = proxy_from(read(proxy_container), proxy_container) if proxy_container else None
        texts = [read(path) for path in files or (STDIN,)]
        written = [undone(text) if undo else injected(text, settings, image, proxy) for text in texts]
        for number, text in enumerate(written):
            if number and not text.startswith("---"):
                print_for_programs("---\n")
            print_for_programs(text if text.endswith("\n") or number == len(written) - 1 else f"{text}\n")


def read(path: str) -> str:
    """Raises CaptureError."""
    try:
        with open(0 if path == STDIN else path, "rb", closefd=path != STDIN) as file:
            return file.read().decode()
    except OSError as error:
        raise CaptureError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from error
    except UnicodeDecodeError as error:
        raise CaptureError(f"cannot read {path}: it is not UTF-8 at byte {error.start + 1}") from error
