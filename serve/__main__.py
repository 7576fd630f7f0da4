"""Talk to a character in the browser: `python -m serve`. See configs/serve.yaml."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from configs.command.main import command
from serve.live.avatar.engines import serve_engines
from serve.live.http.server import LOCAL_HOSTS, serve_until_signal
from serve.live.http.session_maker import ServeEngines
from serve.live.log_lines import log_to_stdout
from serve.runway_api.films import Generator
from serve.runway_api.mount import ApiOptions, mounted
from serve.settings import ServerSettings


def serving(values: dict[str, Any], *, serve: ServeEngines = serve_engines) -> Coroutine[Any, Any, None]:
    """The life of a server with these settings, which are checked now. serve: what engine processes run.

    Raises:
        ValueError: as `ServerSettings.of`.
    """
    log_to_stdout(as_json=values.pop("log_json"))
    api = ApiOptions.of(values)
    settings = ServerSettings.of(values)
    options = settings.options
    mount = partial(
        mounted,
        options=api,
        make_film=Generator(options.artifact, options.characters, options.size, api.films),
        prints_first_key=options.host in LOCAL_HOSTS,
    )
    parts = {"timeouts": settings.timeouts, "turn_taking": settings.turn_taking, "endpoints": settings.endpoints}
    return serve_until_signal(options, **parts, mount=mount, serve=serve)


@command("serve", verbatim=("artifact", "characters", "text_encoder", "store", "public_url"))
def main(cfg: DictConfig) -> None:
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    asyncio.run(serving(values))


if __name__ == "__main__":
    main()
