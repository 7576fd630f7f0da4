"""A film by the settings of a file: `python -m serve.runway_api.film_process dub|edit SETTINGS.json PID-OF-THE-SERVER`.

Not by the command's own command line, where Hydra resolves what is written: a client's text could name a variable of
this server's environment, and read it in the refusal.
"""

import json
import logging
import sys
from pathlib import Path

from configs.command.refusal import refusals
from serve.workers import end_with_parent


def main() -> None:
    command, path, server = sys.argv[1:]
    end_with_parent(int(server))  # the next server makes the film
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
