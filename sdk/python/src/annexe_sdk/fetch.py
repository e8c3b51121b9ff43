"""What ``ctx.fetch`` sends and gives. Imported at the first fetch alone.

Source: docs/how-to/reach-the-network.md.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

__all__ = ["Response", "params_of", "response_of"]


class Response:
    """What a server answered.

    Attributes:
        status: HTTP status; 404 and 500 are answers, too.
        headers: Name and value pairs as they came, names in lower case.
        body: The bytes, unpacked.
        url: Where they came from, after redirects.
    """

    __slots__ = ("body", "headers", "status", "url")

    def __init__(self, status: int, headers: "list[tuple[str, str]]", body: bytes, url: str) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.url = url

    def __repr__(self) -> str:
        return f"<Response {self.status} from {self.url}, {len(self.body)} bytes>"

    def header(self, name: str, default: str | None = None) -> str | None:
        """Return a header's value, those of several joined by commas."""
        values = [value for found, value in self.headers if found == name.lower()]
        return ", ".join(values) if values else default

    @property
    def text(self) -> str:
        """The body as text, in the charset that the server names, else UTF-8; what does not fit becomes a replacement character."""
        content_type = self.header("content-type", "") or ""
        charset = "utf-8"
        for part in content_type.split(";")[1:]:
            name, _, value = part.partition("=")
            if name.strip().lower() == "charset":
                charset = value.strip().strip("\"'")
        try:
            return self.body.decode(charset, "replace")
        except (LookupError, ValueError):  # a charset that is none, or is no text
            return self.body.decode("utf-8", "replace")

    def json(self) -> "Any":
        """Return the body as JSON; raises ``ValueError`` when it is none."""
        import json

        return json.loads(self.body)


def params_of(
    url: str,
    method: str,
    headers: "Mapping[str, str] | Iterable[tuple[str, str]] | None",
    body: "bytes | str | None",
    timeout_s: float | None,
) -> "dict[str, Any]":
    """Make the parameters of the request; text becomes UTF-8."""
    pairs: Iterable[tuple[str, str]] = ()
    if headers is not None:
        pairs = headers.items() if hasattr(headers, "items") else headers
    return {
        "url": url,
        "method": method,
        "headers": [[name, value] for name, value in pairs],
        "body": body.encode() if isinstance(body, str) else body,
        "timeout_s": timeout_s,
    }


def response_of(result: "Any") -> Response:
    """Make the response of what the host answered."""
    body = result["body"]
    if isinstance(body, str):  # the connection speaks JSON
        from binascii import a2b_base64

        body = a2b_base64(body)
    return Response(result["status"], [(name, value) for name, value in result["headers"]], body, result["url"])
