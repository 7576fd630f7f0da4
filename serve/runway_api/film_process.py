"""A film by the settings of a file: `python -m serve.runway_api.film_process dub|edit SETTINGS.json`.

Not by the command's own command line, where Hydra resolves what is written: a client's text could name a variable of
this server's environment, and read it in the refusal.
"""

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

from configs.command.refusal import refusals


def end_with_parent() -> None:
    """End this process when the server has ended, also where it was killed: the next one makes the film."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    end_with_parent()
    command, path = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    with refusals():
        settings = json.loads(Path(path).read_text())
        if command == "dub":
            from serve.dub import DubRequest, dub

            dub(DubRequest(**settings))
        else:
            from serve.edit import EditRequest, edit

            edit(EditRequest(**settings))


if __name__ == "__main__":
    main()
