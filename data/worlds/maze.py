"""A maze that is walked through and seen from within: numpy alone, no licence, a `World` without Gymnasium.

670 frames of 64 x 64 px a second of one core (2-core CPU, 2026-11-29).
"""

import numpy as np
from jaxtyping import Float, Int, UInt8

from data.synthetic import derive_seed
from gwm.condition.spec import Kind

NAMES = ("forward", "back", "turn_left", "turn_right")
ROOMS = 4  # along a side, each of 2 x 2 cells of the grid; walls of one cell stand between them
KEPT_WALLS = 0.4  # of the inner walls that a maze without loops has
STEP = 0.08  # cells of the grid in a frame of 1/24 s
TURN = 0.08  # radians in a frame
BODY = 0.42  # half the width of whoever walks
FIELD = 1.25  # radians that are seen from left to right
EYE = 0.6  # height of the eye, in cells
ABOVE = 0.7  # height of walls above the eye, as a share of that below it
SAMPLES = 2  # rays a pixel along each axis: without them edges flicker
COLOURS = np.array(
    [(214, 84, 72), (232, 170, 66), (92, 160, 92), (70, 128, 196), (150, 98, 178), (206, 196, 180)], np.float32
)
FLOOR, FLOOR_DARK, SKY = np.array([(112, 104, 96), (84, 78, 74), (150, 186, 214)], np.float32)


def layout(seed: int) -> Int[np.ndarray, "n n"]:
    """The grid of a maze: 0 is free, k the k-th colour of a wall. All rooms can be reached."""
    rng = np.random.default_rng(derive_seed("maze", seed))
    size = 3 * ROOMS + 1
    solid = np.ones((size, size), bool)
    solid[np.ix_(np.arange(size) % 3 > 0, np.arange(size) % 3 > 0)] = False
    doors = _tree(rng)
    for y, x in np.ndindex(ROOMS, ROOMS):
        for dy, dx in ((0, 1), (1, 0)):
            if max(y + dy, x + dx) < ROOMS and ((y, x, dy, dx) in doors or rng.random() > KEPT_WALLS):
                rows = slice(3 * y + 3, 3 * y + 4) if dy else slice(3 * y + 1, 3 * y + 3)
                columns = slice(3 * x + 3, 3 * x + 4) if dx else slice(3 * x + 1, 3 * x + 3)
                solid[rows, columns] = False
    return solid * (1 + rng.integers(len(COLOURS), size=solid.shape))


def _tree(rng: np.random.Generator) -> set[tuple[int, int, int, int]]:
    """Doors, as room and direction, by which every room is reached in one way (depth first)."""
    seen, stack, doors = {(0, 0)}, [(0, 0)], set()
    while stack:
        y, x = stack[-1]
        ways = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        ways = [way for way in ways if 0 <= min(way) and max(way) < ROOMS and way not in seen]
        if not ways:
            stack.pop()
            continue
        way = ways[rng.integers(len(ways))]
        doors.add((min(y, way[0]), min(x, way[1]), abs(way[0] - y), abs(way[1] - x)))
        seen.add(way)
        stack.append(way)
    return doors


class Maze:
    """`step` takes one number for each of NAMES, 1 where it is pressed; the picture is seen from inside.

    The reward is 1 in every room that was not entered before; an episode ends when all were.
    """

    names: tuple[str, ...] = NAMES
    kinds: tuple[Kind, ...] = ("discrete",) * len(NAMES)
    rate = 24.0  # steps a second
    most_pressed = 2  # walking and turning

    def __init__(self, size: int, *, seed: int = 0) -> None:
        """size: px along a side. seed: of the layout."""
        self.size, self.grid = size, layout(seed)
        self._free = np.argwhere(self.grid == 0)
        self.place, self.angle, self.entered = np.zeros(2), 0.0, set[tuple[int, int]]()

    def reset(self, *, seed: int) -> None:
        """Somewhere, looking anywhere."""
        rng = np.random.default_rng(derive_seed("start", seed))
        self.place = self._free[rng.integers(len(self._free))] + 0.5
        self.angle = rng.uniform(-np.pi, np.pi)
        self.entered = {self.room}

    @property
    def room(self) -> tuple[int, int]:
        """Row and column of the room; a door belongs to the room before it."""
        y, x = (self.place.astype(int) - 1) // 3
        return int(y), int(x)

    @property
    def state(self) -> Float[np.ndarray, "3"]:
        """Row and column in the grid, and the angle in radians; it grows to the right."""
        return np.array([*self.place, self.angle], np.float32)

    def step(self, numbers: Float[np.ndarray, " k"]) -> tuple[float, bool]:
        """Reward, and whether the episode is over."""
        forward, back, left, right = numbers > 0.5
        self.angle = (self.angle + TURN * (int(right) - int(left)) + np.pi) % (2 * np.pi) - np.pi
        ahead = np.array([np.sin(self.angle), np.cos(self.angle)]) * STEP * (int(forward) - int(back))
        for axis in (0, 1):  # along each by itself: walls are slid along
            wished = self.place.copy()
            wished[axis] += ahead[axis]
            corners = wished + BODY * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
            if not self.grid[tuple(corners.astype(int).T)].any():
                self.place = wished
        new = self.room not in self.entered
        self.entered.add(self.room)
        return float(new), len(self.entered) == ROOMS**2

    def guide(self, rng: np.random.Generator, numbers: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """What somebody might press after `numbers` who looks around: ahead while there is room, else turn."""
        room = self._cast(np.array([self.angle]))[0][0]
        if not numbers[0] and numbers[2] != numbers[3] and room < 2.5:  # on the spot, until there is room
            return np.array([0, 0, *numbers[2:]], np.float32)
        if room < 1.2:
            left = rng.random() < 0.5
            return np.array([0, 0, left, not left], np.float32)
        if not numbers[0] or rng.random() < 0.08:  # straight on, or in a bend
            side = rng.integers(4) if numbers[0] else 0
            return np.array([1, 0, side == 1, side == 2], np.float32)
        return np.array([1, 0, *numbers[2:]], np.float32)

    def around(self) -> Float[np.ndarray, "f k"]:
        """Actions of a full turn to the left, after which nearly the same is seen."""
        return np.tile(np.array([0, 0, 1, 0], np.float32), (round(2 * np.pi / TURN), 1))

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        """What is seen."""
        rays = self.size * SAMPLES
        screen = (np.arange(rays) + 0.5) / rays * 2 - 1
        angles = self.angle + np.arctan(screen * np.tan(FIELD / 2))
        distance, colour, shade = self._cast(angles)
        straight = np.cos(angles - self.angle)
        height = EYE / np.maximum(distance * straight * np.tan(FIELD / 2), 1e-3)  # of a wall, in halves of the picture
        down = screen[:, None]  # -1 above, 1 below
        ground = EYE / np.maximum(np.abs(down) * straight * np.tan(FIELD / 2), 1e-3)
        y = self.place[0] + np.sin(angles) * ground
        x = self.place[1] + np.cos(angles) * ground
        dark = (np.floor(y) + np.floor(x)) % 2 == 0
        floor = np.where(dark[..., None], FLOOR_DARK, FLOOR) / (1 + 0.12 * ground[..., None] ** 2)
        sky = SKY * (1 - 0.35 * (1 + down[..., None]))
        wall = colour * (shade / (1 + 0.03 * distance**2))[:, None]
        picture = np.where(down[..., None] > 0, floor, np.broadcast_to(sky, floor.shape))
        picture = np.where(((down < height) & (-down < ABOVE * height))[..., None], wall[None], picture)
        foot = (down > 0.75 * height) & (down < height)
        picture = np.where(foot[..., None], 0.6 * picture, picture)
        small = picture.reshape(self.size, SAMPLES, self.size, SAMPLES, 3).mean((1, 3))
        return small.round().clip(0, 255).astype(np.uint8)

    def _cast(
        self, angles: Float[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
        """Distance to the first wall along each ray, its colour, and how light that side of it is.

        Source: Amanatides and Woo 1987, "A fast voxel traversal algorithm".
        """
        way = np.stack([np.sin(angles), np.cos(angles)], -1)
        way = np.where(np.abs(way) < 1e-9, 1e-9, way)
        cell = np.broadcast_to(self.place.astype(int), way.shape).copy()
        side = np.sign(way).astype(int)
        each = np.abs(1 / way)  # length of the ray from one line of the grid to the next, along each axis
        reach = np.where(way > 0, cell + 1 - self.place, self.place - cell) * each
        distance, axis = np.zeros(len(way)), np.zeros(len(way), int)
        rows, going = np.arange(len(way)), np.ones(len(way), bool)
        while going.any():
            near = reach.argmin(1)
            distance = np.where(going, reach[rows, near], distance)
            axis = np.where(going, near, axis)
            cell[rows[going], near[going]] += side[rows[going], near[going]]
            reach[rows[going], near[going]] += each[rows[going], near[going]]
            going &= self.grid[cell[:, 0], cell[:, 1]] == 0
        colour = COLOURS[self.grid[cell[:, 0], cell[:, 1]] - 1]
        return np.maximum(distance, 1e-3), colour, np.where(axis == 0, 0.72, 1.0)
