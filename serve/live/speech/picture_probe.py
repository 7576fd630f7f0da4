"""Whether a language model takes pictures: asked once, when the server starts."""

import asyncio
import base64
import io
import logging
from typing import Any

from openai.types.chat import ChatCompletion
from PIL import Image

from serve.live.speech.endpoint_failures import EndpointError, explained
from serve.live.speech.endpoints import Caller
from serve.live.vision.pictures import PICTURE_BYTES

log = logging.getLogger(__name__)

PROBE_S = 30.0  # a server that loads its model meanwhile is asked again by nobody
PROBE_PX = 64  # some models refuse less than 28 px


async def takes_pictures(caller: Caller) -> bool:
    """Send one small picture; a line of the log says what came of it."""
    try:
        async with asyncio.timeout(PROBE_S):
            await _ask(caller)
    except (EndpointError, TimeoutError) as error:
        why = error if isinstance(error, EndpointError) else f"it did not answer within {PROBE_S:.0f} s"
        log.info("vision: %s is given no pictures: %s", caller.endpoint.model, why)
        return False
    log.info("vision: %s takes pictures, of at most %d kB", caller.endpoint.model, PICTURE_BYTES // 1000)
    return True


async def _ask(caller: Caller) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (PROBE_PX, PROBE_PX), (200, 30, 30)).save(buffer, "JPEG")
    url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [{"type": "text", "text": "Which colour is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    parameters = {"model": caller.endpoint.model, "messages": [{"role": "user", "content": content}], "max_tokens": 8}
    client = caller.endpoint.client()
    create: Any = client.chat.completions.create
    try:
        answer: Any = await caller.send(create, parameters)
        # Otherwise it is a page of a proxy, or an error that came as success.
        if not isinstance(answer, ChatCompletion) or not answer.choices:
            raise caller.place.error("does not answer as OpenAI's API does.")
    except (TypeError, ValueError, AttributeError) as error:
        raise explained(error, caller.place) from error
    finally:
        await client.close()
