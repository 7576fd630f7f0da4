"""Talk to a character in the browser: `python -m serve`. See configs/serve.yaml."""

import asyncio
import logging
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from configs.command.main import command
from serve.live.http.server import LOCAL_HOSTS, serve_until_signal
from serve.live.http.session import Timeouts
from serve.live.log_lines import log_to_stdout
from serve.live.options import McpOptions, ServerOptions, SessionOptions
from serve.live.speech.agent import TurnTaking
from serve.live.speech.endpoints import Endpoint
from serve.runway_api.films import Generator
from serve.runway_api.mount import ApiOptions, mounted

log = logging.getLogger(__name__)


@command("serve", verbatim=("artifact", "characters", "text_encoder", "store", "public_url"))
def main(cfg: DictConfig) -> None:
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    log_to_stdout(as_json=values.pop("log_json"))
    turn_taking, timeouts = TurnTaking(**values.pop("turn_taking")), Timeouts(**values.pop("timeouts"))
    endpoints = {name: Endpoint(**there) for name, there in values.pop("endpoints").items()}
    api = ApiOptions(**{name: values.pop(name) for name in ApiOptions.__slots__})
    servers = {name: McpOptions(**there) for name, there in values.pop("mcp_servers").items()}
    sessions = SessionOptions(**values.pop("sessions"))
    options = ServerOptions(**values, mcp_servers=servers, sessions=sessions)
    mount = partial(
        mounted,
        options=api,
        make_film=Generator(options.artifact, options.characters, options.size),
        prints_first_key=options.host in LOCAL_HOSTS,
    )
    asyncio.run(
        serve_until_signal(options, timeouts=timeouts, turn_taking=turn_taking, endpoints=endpoints, mount=mount)
    )


if __name__ == "__main__":
    main()
