"""A visitor and a program that answers calls, both with LiveKit's Python SDK; prints JSON at the end.

Argument: JSON of the two rooms, `visitor` and `backend`.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from livekit import rtc

RATE, HERTZ = 48_000, 440
WATCH_S, DEADLINE_S = 4.0, 40.0
seen: dict[str, Any] = {
    "pictures": [],
    "sound_s": 0.0,
    "loud": 0,
    "events": [],
    "final": [],
    "speakers": [],
    "states": [],
}


async def until(found: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not found():
            await asyncio.sleep(0.02)


async def look(track: rtc.RemoteVideoTrack) -> None:
    async for event in rtc.VideoStream(track):
        seen["pictures"].append((time.monotonic(), event.frame.width, event.frame.height))


async def listen(track: rtc.RemoteAudioTrack) -> None:
    async for event in rtc.AudioStream(track):
        seen["sound_s"] += event.frame.samples_per_channel / event.frame.sample_rate
        seen["loud"] += bool(np.abs(np.frombuffer(event.frame.data, np.int16)).max() > 1_000)


async def hum(source: rtc.AudioSource) -> None:
    """The visitor's microphone."""
    samples = (8_000 * np.sin(2 * np.pi * HERTZ * np.arange(RATE) / RATE)).astype(np.int16)
    while True:
        for part in np.split(samples, 100):
            await source.capture_frame(rtc.AudioFrame(part.tobytes(), RATE, 1, len(part)))


def watch(room: rtc.Room, tasks: list[asyncio.Task[None]]) -> None:
    room.on("track_subscribed", lambda track, *_: tasks.append(
        asyncio.create_task(look(track) if track.kind == rtc.TrackKind.KIND_VIDEO else listen(track))
    ))  # fmt: skip
    room.on("data_received", lambda packet: seen["events"].append(json.loads(packet.data)))
    room.on("active_speakers_changed", lambda found: seen["speakers"].append([each.identity for each in found]))
    room.on("participant_attributes_changed", lambda new, _: seen["states"].append(new["lk.agent.state"]))
    room.on("transcription_received", lambda segments, who, track: seen["final"].extend(
        (who.identity, track.sid, each.text) for each in segments if each.final
    ))  # fmt: skip


def said(words: str, times: int = 1) -> bool:
    return sum(words in text for _, _, text in seen["final"]) >= times


async def main(visitor: dict[str, str], backend: dict[str, str]) -> None:
    room, program, gone, tasks, calls = rtc.Room(), rtc.Room(), asyncio.Event(), list[asyncio.Task[None]](), list[Any]()
    room.on("disconnected", lambda reason: gone.set())
    watch(room, tasks)
    await program.connect(backend["url"], backend["token"])

    async def lamp(call: rtc.RpcInvocationData) -> str:
        calls.append((call.caller_identity, json.loads(call.payload)))
        if call.payload and calls[-1][1]["args"]["room"] == "attic":
            raise rtc.RpcError(1500, "No lamp there.")
        return json.dumps({"on": True})

    program.local_participant.register_rpc_method("lamp", lamp)
    begin_s = time.monotonic()
    await room.connect(visitor["url"], visitor["token"])
    seen["joined_s"] = time.monotonic() - begin_s
    source = rtc.AudioSource(RATE, 1)
    microphone = rtc.LocalAudioTrack.create_audio_track("mic", source)
    options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
    published = await room.local_participant.publish_track(microphone, options)
    tasks.append(asyncio.create_task(hum(source)))
    await asyncio.wait_for(published.wait_for_subscription(), DEADLINE_S)
    await until(lambda: said("Hi!"))
    await room.local_participant.publish_data(json.dumps({"type": "text", "text": 'show_card {"title": "Hours"}'}))
    await until(lambda: said("Done."))
    await room.local_participant.send_text('lamp {"room": "hall"}', topic="lk.chat")
    await until(lambda: said("Done.", 2))
    await room.local_participant.send_text('lamp {"room": "attic"}', topic="lk.chat")
    await until(lambda: said("No lamp there."))
    first = len(seen["pictures"])
    await asyncio.sleep(WATCH_S)
    shown = seen["pictures"][first:]
    await room.local_participant.publish_data(json.dumps({"type": "END_CALL"}))
    await asyncio.wait_for(gone.wait(), DEADLINE_S)
    for task in tasks:
        task.cancel()
    await asyncio.gather(room.disconnect(), program.disconnect())
    seen["fps"] = (len(shown) - 1) / (shown[-1][0] - shown[0][0])
    seen["pictures"], seen["size"] = len(seen["pictures"]), shown[-1][1:]
    print(json.dumps(seen | {"calls": calls}))


asyncio.run(main(**json.loads(sys.argv[1])))
