"""What may be printed or kept of a text from outside: no secrets, and no characters that steer a terminal."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
SHORTEST = 4  # characters; a shorter secret is hidden in its URL, but not in every place with the same letters
NAMES_A_SECRET = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|_KEY$", re.IGNORECASE)
SCHEME = re.compile(r"(?!file:|sqlite)[a-z][a-z0-9+.-]*:/+", re.IGNORECASE)  # of URLs that may have a user or a key
ADDRESSES = ("QUARTET_MNIST", "MLFLOW_TRACKING_URI")  # may have lost their scheme by mistake
# The user, with what a password should not hold but may, and the query of any URL; the query after a bare path.
USER = re.compile(r"""(?<=:/)(/*)(?:[^\s/?#@'"<>]*|[^\s/?#@:'"<>]*:[^\s'"<>]*)@""")
END = r"""(?=[).,:;\]]*(?:[\s'"<>]|$))"""  # of a URL in a sentence
QUERY = re.compile(rf"""([a-z][a-z0-9+.-]*:/[^\s?'"<>]*)\?[^\s'"<>]*?{END}""", re.IGNORECASE)
BARE_QUERY = re.compile(rf"""(/[^\s?'"<>]*)\?[^\s?'"<>=]+=[^\s'"<>]*?{END}""")


def shown(text: str) -> str:
    """Make a text safe to print: `redacted`, and with control and bidirectional characters as escapes."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in redacted(text))


def redacted(text: str) -> str:
    """Remove secrets from a text: the environment's, in any usual encoding, and user and query of every URL."""
    settings = tuple(
        (name, value)
        for name, value in sorted(os.environ.items())
        if "@" in value or "?" in value or "#" in value or NAMES_A_SECRET.search(name)
    )
    if pattern := _known(settings):
        text = pattern.sub(HIDDEN, text)
    text = USER.sub(rf"\1{HIDDEN}@", text)
    return BARE_QUERY.sub(rf"\1?{HIDDEN}", QUERY.sub(rf"\1?{HIDDEN}", text))


@lru_cache(maxsize=8)
def _known(settings: tuple[tuple[str, str], ...]) -> re.Pattern[str] | None:
    """Return a pattern of the secrets in these environment variables; None if there are none."""
    secrets: set[str] = set()
    for name, value in settings:
        if NAMES_A_SECRET.search(name):
            secrets.update([value.strip()] if _is_telling(value.strip()) else [])
        if SCHEME.match(value.strip()) or (name in ADDRESSES and re.match(r"[^/.~]*@", value.strip())):
            secrets.update(_of_user(value.strip()), _of_query(value.strip()))
    forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST}
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE) if forms else None


def _of_user(url: str) -> Iterator[str]:
    """Return the password of a URL, or its only name, which is a token; read both by the standard and as people write it."""
    rest = SCHEME.sub("", url, count=1)
    for place in {re.split(r"[/?#]", rest, maxsplit=1)[0], rest}:
        user, found, _ = place.rpartition("@")
        name, colon, password = user.partition(":")
        if found:
            yield password if colon else name
            yield from [name] if _is_telling(name) else []
            yield base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode().rstrip("=")


def _of_query(url: str) -> Iterator[str]:
    """Return the values after the path of a URL, and the values within these values."""
    for part in re.split(r"[?#&;]", url)[1:]:
        _, found, after = part.partition("=")
        value = after if found else part
        if _is_telling(value):
            yield value
        plain = unquote_plus(value)
        if plain != value:
            yield from _of_query(f"?{plain}")


def _is_telling(value: str) -> bool:
    """Tell whether a value may be a secret: words such as `true` and `require` are in many texts."""
    return len(value) >= 8 or (len(value) >= SHORTEST and not value.isalpha())


def _forms(secret: str) -> Iterator[str]:
    """Write the secret as it is, and as URLs, JSON, Python, HTML and a line of words would have it."""
    for plain in {secret, unquote(secret), unquote_plus(secret)}:
        yield from (plain, quote(plain), quote(plain, safe=""), quote_plus(plain))
        yield from (json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1], repr(plain)[1:-1])
        yield from (html.escape(plain), " ".join(plain.split()))
