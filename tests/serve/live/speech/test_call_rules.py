"""Which tool a question calls where no model decides, with which arguments, and how the result is said."""

from typing import Any

import pytest

from serve.live.speech.call_rules import chosen_call, spoken_result
from serve.live.speech.tools import Tool


def tool(name: str, description: str, required: tuple[str, ...] = (), **properties: dict[str, Any]) -> Tool:
    async def run(arguments: dict[str, Any]) -> Any:
        return arguments

    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return Tool(name=name, description=description, parameters=parameters, timeout_s=1.0, run=run)


STOCK = tool("check_stock", "How many of an item are in stock.", ("item",), item={"type": "string"})
LAMP = tool(
    "switchLamp",
    "Switches a lamp on.",
    ("room", "level"),
    room={"type": "string", "enum": ["hall", "attic"]},
    level={"type": "integer"},
)
FAN = tool(
    "set_fan",
    "Sets a fan.",
    ("fan", "speed"),
    fan={"type": "integer"},
    speed={"type": "number"},
    silent={"type": "boolean"},
)
TRIP = tool("book_trip", "Books a trip.", ("start", "goal"), start={"type": "string"}, goal={"type": "string"})
CARD = tool("show_card", "Shows a card on the page.", ("title",), title={"type": "string"})
TOOLS = [STOCK, LAMP, CARD, FAN, TRIP]


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ("Please check the stock of teapots.", (STOCK, {"item": "teapots"})),
        ("How many red umbrellas are in stock, as an item?", (STOCK, {"item": "red umbrellas"})),
        ("Switch the lamp in the attic to three.", (LAMP, {"room": "attic", "level": 3})),
        ("Show me a card about opening hours.", (CARD, {"title": "opening hours"})),
        ("Set fan two to 1.5 please.", (FAN, {"fan": 2, "speed": 1.5})),
        ("Set fan two to 1.5, and silent.", (FAN, {"fan": 2, "speed": 1.5, "silent": True})),
        ("Set fan 2 to three, not silent.", (FAN, {"fan": 2, "speed": 3, "silent": False})),
        ("Don't set fan 2 to 3.", None),
        ("Set fan 2.", None),
        ("Set fan 1.5 to 2.", None),
        ("Book a trip from Rome to Paris.", None),
        ("Shall we switch the lamp to 3?", None),
        ("Switch the lamp in the cellar to 3.", None),
        ("Switch the lamp in the hall.", None),
        ("Show a card.", None),
        ("I have a stock of jokes.", None),
        ("What is your name?", None),
        ("", None),
    ],
)
def test_a_question_calls_the_tool_whose_words_it_has_with_arguments_that_it_names(heard: str, expected: Any):
    assert chosen_call(heard, TOOLS) == expected


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ({"result": {"item": "teapots", "inStock": 12}}, "Check stock: item teapots, in stock 12."),
        ({"result": [3, "four"]}, "Check stock: 3, four."),
        ({"result": None}, "Check stock: nothing."),
        ({"result": {"status": "event_sent"}}, "I have put it on your page."),
        ({"error": "No program is connected."}, "I could not do that. No program is connected."),
    ],
)
def test_a_result_is_said_with_its_names_and_a_failure_with_its_cause(outcome: dict[str, Any], said: str):
    assert spoken_result(STOCK, outcome) == said
