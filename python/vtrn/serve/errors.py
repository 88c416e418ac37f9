"""What a request can be refused for; a door gives it the form of its protocol."""


class RequestError(Exception):
    """status: of HTTP. The message is a sentence that says what to do."""

    def __init__(self, status: int, message: str, parameter: str | None = None):
        super().__init__(message)
        self.status, self.message, self.parameter = status, message, parameter


def bad_request(message: str, parameter: str | None = None) -> RequestError:
    return RequestError(400, message, parameter)


def overloaded(what: str, n: int, limit: int) -> RequestError:
    return RequestError(503, f"the queue of {what} is full: {n} of {limit} are waiting; send it again later")


def whole_text(text: str, parameter: str) -> str:
    """The text, unless it has halves of characters: JSON can name those, no encoding has them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise bad_request(f"character {error.start} of the text is half of a surrogate pair; send whole characters", parameter) from None
    return text
