"""Reasons for which footage is left out: every second of every file is either kept or counted under one of these."""

REASONS: dict[str, str] = {
    "other_file": "neither a video by its name nor the side-car of one",
    "duplicate": "the same bytes as another file",
    "unreadable": "it may not be opened, FFmpeg cannot read it, or finds no picture in it",
    "changed": "it grew or changed while it was read; run again when it is complete",
    "no_picture": "no video stream",
    "bad_sidecar": "its .txt, .json or .npz cannot be read; correct it and run again",
    "colour": "its colours are stored in a way that cannot be converted to BT.709",
    "bad_sound": "most of its sound is damaged, or its samples are no numbers in [-1, 1]",
    "scene_too_short": "between two cuts, too short for a clip and a reference frame outside it",
    "rest": "what remains of a scene behind its last whole clip",
    "no_face": "a face is not seen for most of the clip (face=required)",
    "face_moves": "the face leaves its crop, or two people take turns",
    "too_small": "the crop would be enlarged more than allowed",
    "blank": "the crop of the clip, or of its reference frame, shows nothing: one colour, such as black",
    "no_reference": "no frame near the clip, outside it, serves as its reference",
}
