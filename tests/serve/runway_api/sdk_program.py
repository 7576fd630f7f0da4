"""What a program of Runway's customers does, with nothing but the SDK and another URL; prints JSON at the end.

Arguments: a picture, and a sound.
"""

import json
import sys
import time
from pathlib import Path

import runwayml
from runwayml import RunwayML

picture, sound = map(Path, sys.argv[1:])
client = RunwayML()


def until(retrieve, object_id: str, *statuses: str):
    begin = time.monotonic()
    while (found := retrieve(object_id)).status not in statuses:
        assert time.monotonic() - begin < 60, found
        time.sleep(0.05)
    return found


upload = client.uploads.create_ephemeral(file=picture)
sample = client.uploads.create_ephemeral(file=sound)
voice = client.voices.create(name="Mine", from_={"type": "audio", "audio": sample.uri, "rights": "I am the speaker."})
heard = until(client.voices.retrieve, voice.id, "READY")
document = client.documents.create(name="Hours", content="Nine to five.")
avatar = client.avatars.create(
    name="Vera",
    personality="Be brief.",
    reference_image=upload.uri,
    voice={"type": "custom", "id": voice.id},
    document_ids=[document.id],
)
ready = until(client.avatars.retrieve, avatar.id, "READY", "FAILED")
session = client.realtime_sessions.create(model="gwm1_avatars", avatar={"type": "custom", "avatar_id": avatar.id})
opened = until(client.realtime_sessions.retrieve, session.id, "READY")
client.realtime_sessions.delete(session.id)
film = client.avatar_videos.create(
    model="gwm1_avatars",
    avatar={"type": "custom", "avatar_id": avatar.id},
    speech={"type": "text", "text": "Hello there."},
)
done = until(client.tasks.retrieve, film.id, "SUCCEEDED", "FAILED")
for number in range(60):
    client.documents.create(name=f"{number}", content="x")
try:
    client.avatars.retrieve("00000000-0000-4000-8000-000000000000")
    missing = None
except runwayml.NotFoundError as error:
    missing = error.status_code
try:
    RunwayML(api_key="key_wrong", max_retries=0).avatars.list(limit=1)
    wrong = None
except runwayml.AuthenticationError as error:
    wrong = error.status_code
print(
    json.dumps(
        {
            "avatar": ready.status,
            "voice": heard.description,
            "known_by": [user.name for user in client.documents.retrieve(document.id).used_by],
            "session_key": len(opened.session_key),
            "cancelled": client.realtime_sessions.retrieve(session.id).status,
            "film": done.status,
            "documents": sum(1 for _ in client.documents.list(limit=7, order="asc", sort="createdAt")),
            "credits": client.organization.retrieve().credit_balance,
            "missing": missing,
            "wrong": wrong,
        }
    )
)
