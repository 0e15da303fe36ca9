"""Credentials in addresses: refused where an address is given, removed from texts that others wrote.

An address ends up in spec.json, in ledgers, in messages and in the command lines of worker processes, all of
which more people read than may use the credentials. They belong into the environment, a profile or a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from urllib.parse import unquote

from avprep.errors import ArgumentError

REMEDY = "give credentials by environment variables, a profile or a credentials file"
_HIDDEN = "***"
# Each is linear in the text, which may be hostile. One slash suffices: a Path of 's3://bucket' has lost
# the other. A secret may hold slashes; a port, which may stand before a path with '@' in it, is not one.
_USER = re.compile(
    r"(?<![a-z0-9+.-])(?P<scheme>[a-z][a-z0-9+.-]{1,20}):/+"
    r"(?P<user>[^\s/?#@:'\"]{0,256}:(?!\d{1,5}/)[^\s?#@'\"]{0,200}|[^\s/?#@:'\"]{1,512})@",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"(?<![\w.%-])(?P<name>[\w.%-]+)(?P<equals>=)(?P<value>[^\s&;#'\"<>,)]+)")
_QUERY = re.compile(r"[?&;#]")
# Here the part before '@' names no secret: a user, or a container of Azure.
_USER_IS_PUBLIC = frozenset({"hdfs", "viewfs", "abfs", "abfss", "wasb", "wasbs", "sftp", "ssh", "http+unix"})
_SECRET_WORDS = ("secret", "token", "passw", "signature", "credential", "accesskey", "apikey", "privatekey")
_SECRET_NAMES = frozenset({"sig", "key", "pwd", "pass", "pw", "auth", "authorization", "sas", "jwt"})
_LEAST_VALUE = 8  # characters: a shorter value of an environment variable is a word of ordinary texts, too


def credentials_in(text: str) -> str | None:
    """What kind of credentials the addresses in a text hold, for a message that repeats none; None: none."""
    if ":/" not in text:
        return None
    for address in (word for word in text.split() if ":/" in word):
        if any(map(_is_secret_user, _USER.finditer(address))):
            return "a user or password before '@'"
        if any(_is_secret_name(part.partition("=")[0]) for part in _QUERY.split(address)[1:] if "=" in part):
            return "a parameter of the query that is a key, token or signature"
    return None


def require_no_credentials(name: str, address: object) -> None:
    """Raises ArgumentError, which does not repeat the address, where it holds credentials.

    Args:
        name: of the argument.
        address: a path or URI; what is neither text nor a path is left to other checks.
    """
    if not isinstance(address, (str, os.PathLike)):
        return
    found = credentials_in(os.fsdecode(address))
    if found is not None:
        raise ArgumentError(f"{name} must not hold credentials ({found}); {REMEDY}")


def require_no_credentials_in(options: object) -> None:
    """As `require_no_credentials`, for each field of a dataclass that is text or a path."""
    for field in fields(options):  # type: ignore[arg-type]
        require_no_credentials(field.name, getattr(options, field.name))


def scrubbed(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with '***' in the place of each credential: of addresses, of query parameters, and the values
    of environment variables that are credentials.

    Args:
        environment: None: this process's.
    """
    for name, value in (os.environ if environment is None else environment).items():
        is_path = value.startswith(("/", "~"))
        if len(value) >= _LEAST_VALUE and not is_path and _is_secret_name(name):
            text = text.replace(value, _HIDDEN)
    text = _USER.sub(_hidden_user, text)
    return _PARAMETER.sub(_hidden_value, text)


def _is_secret_user(found: re.Match[str]) -> bool:
    scheme, user = found["scheme"].lower(), unquote(found["user"])
    if scheme == "file":
        return False
    return ":" in user or not (user == "anonymous" or scheme in _USER_IS_PUBLIC)


def _is_secret_name(name: str) -> bool:
    plain = re.sub(r"[\W_]", "", unquote(name).lower())
    return plain in _SECRET_NAMES or any(word in plain for word in _SECRET_WORDS)


def _hidden_user(found: re.Match[str]) -> str:
    return f"{found['scheme']}://{_HIDDEN}@" if _is_secret_user(found) else found[0]


def _hidden_value(found: re.Match[str]) -> str:
    if not _is_secret_name(found["name"]):
        return found[0]
    return f"{found['name']}{found['equals']}{_HIDDEN}"
