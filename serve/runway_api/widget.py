"""What a page that embeds a character may know of it before anybody talks."""

import re

from sqlalchemy.orm import Session as Db

from serve.runway_api.answers import WidgetAvatar
from serve.runway_api.avatars import found
from serve.runway_api.call import ApiError, Call
from serve.runway_api.presets import character_of
from serve.runway_api.requests import UUID, NoQuery


def read(db: Db, call: Call, query: NoQuery, body: None) -> WidgetAvatar:
    """Name, picture and page actions of an avatar, by its id or a preset's."""
    wanted = call.ids["avatar"]
    if re.fullmatch(UUID, wanted):
        avatar = found(db, wanted)
        shown = [tool["name"] for tool in avatar.tools if tool["type"] == "client_event"]
        return WidgetAvatar(name=avatar.name, image_url=call.file_url(avatar.processed_id), tools=shown)
    key = character_of(wanted, list(call.desk.characters))
    if key is None:
        raise ApiError(404, f"There is no preset avatar {wanted[:100]}.")
    name = call.desk.characters[key]
    return WidgetAvatar(name=name, image_url=f"{call.base_url}/v1/characters/{key}/image", tools=[])
