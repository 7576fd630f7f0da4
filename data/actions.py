"""The 52 facial actions of ARKit, in the order of the head asset: the face's state in every file of this repository."""

_SIDES = {
    "browDown": "LR", "browInnerUp": "", "browOuterUp": "LR", "cheekPuff": "", "cheekSquint": "LR", "eyeBlink": "LR",
    "eyeLookDown": "LR", "eyeLookIn": "LR", "eyeLookOut": "LR", "eyeLookUp": "LR", "eyeSquint": "LR", "eyeWide": "LR",
    "jawForward": "", "jawLeft": "", "jawOpen": "", "jawRight": "", "mouthClose": "", "mouthDimple": "LR",
    "mouthFrown": "LR", "mouthFunnel": "", "mouthLeft": "", "mouthLowerDown": "LR", "mouthPress": "LR",
    "mouthPucker": "", "mouthRight": "", "mouthRollLower": "", "mouthRollUpper": "", "mouthShrugLower": "",
    "mouthShrugUpper": "", "mouthSmile": "LR", "mouthStretch": "LR", "mouthUpperUp": "LR", "noseSneer": "LR",
    "tongueOut": "",
}  # fmt: skip
_WORD = {"L": "Left", "R": "Right"}

ACTION_NAMES: tuple[str, ...] = tuple(
    name + _WORD[side] if side else name for name, sides in _SIDES.items() for side in (sides or [""])
)


def index(name: str) -> int:
    """Column of an action.

    Raises:
        ValueError: there is no such action.
    """
    if name not in ACTION_NAMES:
        raise ValueError(f"action {name!r} must be one of {ACTION_NAMES}.")
    return ACTION_NAMES.index(name)
