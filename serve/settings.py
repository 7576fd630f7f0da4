"""What a server is started with, of configs/serve.yaml."""

from dataclasses import dataclass
from typing import Any

from serve.live.http.session import Timeouts
from serve.live.options import McpOptions, ServerOptions, SessionOptions
from serve.live.speech.agent import TurnTaking
from serve.live.speech.endpoints import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    options: ServerOptions
    timeouts: Timeouts
    turn_taking: TurnTaking
    endpoints: dict[str, Endpoint]

    @classmethod
    def of(cls, values: dict[str, Any]) -> "ServerSettings":
        """Read and check; values: all that is left of the file.

        Raises:
            ValueError: as `ServerOptions` and its parts.
        """
        values = dict(values)
        return cls(
            turn_taking=TurnTaking(**values.pop("turn_taking")),
            timeouts=Timeouts(**values.pop("timeouts")),
            endpoints={name: Endpoint(**there) for name, there in values.pop("endpoints").items()},
            options=ServerOptions(
                mcp_servers={name: McpOptions(**there) for name, there in values.pop("mcp_servers").items()},
                sessions=SessionOptions(**values.pop("sessions")),
                **values,
            ),
        )
