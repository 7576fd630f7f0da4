"""Why footage does not become clips: every second of every file is either kept or counted under one of these."""

REASONS: dict[str, str] = {
    "other_file": "neither a video by its name nor the side-car of one",
    "duplicate": "the same bytes as another file",
    "unreadable": "FFmpeg cannot read it, or finds no picture in it",
    "no_picture": "no video stream",
    "bad_sidecar": "its .txt, .json or .npz cannot be read; correct it and run again",
    "scene_too_short": "between two cuts, too short for a clip and a reference frame outside it",
    "rest": "what remains of a scene behind its last whole clip",
    "no_face": "a face is not seen for most of the clip (face=required)",
    "face_moves": "the face leaves its crop, or two people take turns",
    "too_small": "the crop would be enlarged more than allowed",
    "no_reference": "no frame near the clip, outside it, serves as its reference",
}
