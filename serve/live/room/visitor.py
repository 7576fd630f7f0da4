"""The client that talks with the character: the transport of its conversation."""

import asyncio
import contextlib
import logging
from typing import Any

from aiortc import MediaStreamTrack, RTCRtpReceiver
from livekit.protocol import models, rtc

from serve.live.http.conversation import Conversation
from serve.live.http.peer import Microphone, read_message
from serve.live.room.cameras import Camera
from serve.live.room.descriptions import CHARACTER_SID, FACE_SID, VOICE_SID, Wish, character_info
from serve.live.room.packets import Captions, TextStreams, from_character, user_packet
from serve.live.room.participant import Participant
from serve.live.room.tokens import Grant

log = logging.getLogger(__name__)

UNSUPPORTED_METHOD = 1400  # of LiveKit's calls
AGENT_STATES = {"talking": "speaking"}  # as LiveKit's own agents name it; the others have our names
TALKING_LEVEL = 0.5


def source_of(track: models.TrackInfo) -> str:
    """What a video shows; of programs that do not say, a camera."""
    return "screen" if track.source == models.SCREEN_SHARE else "camera"


class Visitor(Participant):
    """A `Transport`. Its microphone is the latest sound that it publishes, but for that of a shared screen."""

    def __init__(self, conversation: Conversation, grant: Grant, wish: Wish) -> None:
        self.conversation = conversation
        (voice, _), self._face = conversation.tracks()
        tracks: dict[str, MediaStreamTrack] = {VOICE_SID: voice, FACE_SID: self._face}
        super().__init__(grant, wish, tracks, conversation.ice_servers())
        self._microphone = Microphone(conversation.timing.sample_rate, conversation.on_microphone)
        self._captions, self._texts = Captions(grant.identity), TextStreams()
        self._channel_open, self._state = asyncio.Event(), "listening"
        self._num_sounds, self._num_videos, self._ended = 0, 0, False
        self._cameras: dict[str, Camera] = {}

    def others(self) -> list[models.ParticipantInfo]:
        return [self._character()]

    async def admitted(self) -> None:
        await self.conversation.attach(self, self._face)
        for camera in self._cameras.values():  # published while joining
            camera.sight.show(camera.source)

    def on_audio(self, track: MediaStreamTrack) -> bool:
        """Tracks come in the order in which they were published; the sound of a shared screen is nobody's voice."""
        sounds = [each for each in self.published if each.type == models.AUDIO][self._num_sounds :]
        self._num_sounds += 1
        if sounds and sounds[0].source == models.SCREEN_SHARE_AUDIO:
            return False
        self._microphone.listen(track)
        if sounds:
            self._captions.microphone_sid = sounds[0].sid
            self.signal(rtc.SignalResponse(track_subscribed=rtc.TrackSubscribed(track_sid=sounds[0].sid)))
        return True

    def on_video(self, track: MediaStreamTrack, receiver: RTCRtpReceiver) -> bool:
        """Where the server looks at it; in the order in which they were published."""
        videos = [each for each in self.published if each.type == models.VIDEO][self._num_videos :]
        self._num_videos += 1
        sight = self.conversation.sight
        if not videos or sight is None or (source := source_of(videos[0])) not in sight.vision.sources:
            return False
        if source in self._cameras:
            self._cameras[source].close()
        self._cameras[source] = Camera(source, track, receiver, sight)
        self.signal(rtc.SignalResponse(track_subscribed=rtc.TrackSubscribed(track_sid=videos[0].sid)))
        return True

    def on_mute(self, track: models.TrackInfo) -> None:
        sight, source = self.conversation.sight, source_of(track)
        if track.type != models.VIDEO or sight is None or source not in sight.vision.sources:
            return
        if track.muted:
            sight.hide(source)
        else:
            sight.show(source)

    def on_channel(self) -> None:
        self._channel_open.set()
        self.conversation.on_channel(self)

    def on_state(self, state: str) -> None:
        log.info("connection %s", state)
        if state == "connected":
            self.conversation.on_connected(self)
        if state in ("failed", "closed", "disconnected"):
            self.conversation.on_gone(self)

    def on_packet(self, packet: models.DataPacket) -> None:
        kind = packet.WhichOneof("value")
        try:
            if kind == "user":
                self.conversation.on_message(read_message(packet.user.payload.decode()))
            elif kind == "rpc_request":
                error = models.RpcError(code=UNSUPPORTED_METHOD, message="The character has no methods.")
                answer = models.RpcResponse(request_id=packet.rpc_request.id, error=error)
                self.links.send(from_character(rpc_response=answer))
            elif text := self._texts.take(packet):
                self.conversation.on_message({"type": "text", "text": text})
        except ValueError as error:
            self.send({"type": "error", "message": str(error)})

    def send(self, message: dict[str, Any]) -> None:
        """As LiveKit's clients know it where they do: captions are transcriptions; the rest is JSON as on our page."""
        if self.left:
            return
        kind = message["type"]
        if kind == "caption":
            self._say(message["who"], message["text"])
        elif kind != "numbers":  # clients have their own
            self.links.send(user_packet(message))
        if kind == "state":
            self._set_state(message["state"])
        self._ended = self._ended or kind == "ended"

    async def channel_opens(self, within_s: float) -> bool:
        """As `Transport.channel_opens`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._channel_open.wait(), within_s)
        return self._channel_open.is_set()

    def is_silent(self, for_s: float) -> bool:
        """Never: a client that is gone sends no pings, which ends its websocket."""
        return False

    async def close(self) -> None:
        """The conversation is over, or another client has taken its place."""
        await self.leave_by("ROOM_DELETED" if self._ended else "DUPLICATE_IDENTITY")

    async def _leave(self, reason: str) -> None:
        self._microphone.close()
        for camera in self._cameras.values():
            camera.close()
        await super()._leave(reason)
        self.conversation.on_gone(self)

    def _character(self) -> models.ParticipantInfo:
        character = self.conversation.character
        height, width, _ = character.picture.shape
        state = AGENT_STATES.get(self._state, self._state)
        return character_info(character.name, height, width, {"lk.agent.state": state})

    def _say(self, who: str, words: str) -> None:
        if who == "user":
            self._end_caption()
            self.links.send(self._captions.of_visitor(words))
        else:
            self.links.send(self._captions.of_character(words))

    def _end_caption(self) -> None:
        if last := self._captions.end():
            self.links.send(last)

    def _set_state(self, state: str) -> None:
        """Who speaks, and what the character does."""
        if state == self._state:
            return
        talks, talked = state == "talking", self._state == "talking"
        self._state = state
        if talks != talked:
            speaker = models.SpeakerInfo(sid=CHARACTER_SID, level=TALKING_LEVEL * talks, active=talks)
            self.signal(rtc.SignalResponse(speakers_changed=rtc.SpeakersChanged(speakers=[speaker])))
        if talked:
            self._end_caption()
        self.signal(rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=[self._character()])))
