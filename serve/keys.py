"""API keys of the store: list them, make one, revoke one.

python -m serve.keys                                                     the keys that there are
python -m serve.keys name=backend                                        a secret key, for servers
python -m serve.keys name=site origins=[https://shop.example]            a publishable key, for pages of these origins
python -m serve.keys revoke=ID                                           nobody gets in with it any more
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from omegaconf import DictConfig, OmegaConf
from sqlalchemy.orm import Session

from configs.command.main import command
from serve.store.database import Store
from serve.store.keys import Limits, add_key, list_keys, publishable, revoke_key

log = logging.getLogger(__name__)


def work(db: Session, *, name: str | None, revoke: str | None, limits: Limits) -> Iterator[str]:
    """Do what is asked, and say it line by line.

    Raises:
        ValueError: both are asked, or there is no such key.
    """
    if name is not None and revoke is not None:
        raise ValueError(f"name={name} and revoke={revoke} exclude each other. Make a key, or revoke one.")
    if name is not None:
        yield f"key {name}, shown once: {add_key(db, name, limits)}"
    if revoke is not None:
        revoke_key(db, revoke)
    for key in list_keys(db):
        made = datetime.fromtimestamp(key.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        state = "revoked" if key.revoked_ms else "valid"
        yield f"{key.id} {key.prefix}... {state} since {made} UTC, {', '.join(key.origins) or 'secret'}: {key.name}"


@command("keys", verbatim=("store", "name", "revoke"))
def main(cfg: DictConfig) -> None:
    values: Any = OmegaConf.to_container(cfg)
    origins, given = values["origins"], {name: value for name, value in values["limits"].items() if value is not None}
    limits = replace(publishable(origins) if origins else Limits(origins=[]), **given)
    store = Store(cfg.store)
    try:
        lines = store.do(lambda db: list(work(db, name=cfg.name, revoke=cfg.revoke, limits=limits)))
    finally:
        store.close()
    for line in lines:
        log.info("%s", line)


if __name__ == "__main__":
    main()
