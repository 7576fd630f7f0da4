"""Keys that open one connection each."""

import secrets

from serve.live.http.refusals import WrongKeyError


class OneTimeKey:
    """`use` it once; the key after it is then in `value`."""

    def __init__(self, first: str | None = None) -> None:
        self.value = first or secrets.token_urlsafe(24)

    def check(self, key: str) -> None:
        """Compare in constant time.

        Raises:
            WrongKeyError: the key was used before, or never given out.
        """
        if not secrets.compare_digest(key.encode(), self.value.encode()):
            raise WrongKeyError("The session key is not valid, or was used before. Begin a new session.")

    def use(self, key: str) -> None:
        """Accept the key and make the next one.

        Raises:
            WrongKeyError: as `check`.
        """
        self.check(key)
        self.value = secrets.token_urlsafe(24)
