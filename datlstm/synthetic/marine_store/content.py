"""What each of the service's hosts answers: login, catalogue and objects, as the real ones do."""

import hashlib
import json
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from datlstm.synthetic.marine_store import arrays, catalogue
from datlstm.synthetic.marine_store.exchange import Answer, Request
from datlstm.synthetic.marine_store.world import World

LOGIN_HOST = "auth.marine.copernicus.eu"
LOGIN_ROOT = "/realms/MIS/protocol/openid-connect"
HOSTS = frozenset(
    {
        LOGIN_HOST,
        arrays.ARRAY_HOST,
        catalogue.CATALOGUE_HOST,
        catalogue.SECOND_CATALOGUE_HOST,
        catalogue.CONFIGURATION_HOST,
    }
)


def answer(world: World, request: Request) -> Answer:
    """Return what the world's hosts answer to a request for one of `HOSTS`."""
    if request.host == LOGIN_HOST:
        return _login(world, request)
    if request.method not in ("GET", "HEAD"):
        return object_error(HTTPStatus.FORBIDDEN, "AccessDenied", request.path)
    return _array_object(world, request) or _document(world, request)


def object_error(status: int, code: str, path: str) -> Answer:
    """Return an object store's error, its code (``NoSuchKey``, ``AccessDenied``, ``SlowDown``, …) in S3's XML."""
    key = escape(path.lstrip("/").partition("/")[2])
    xml = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Key>{key}</Key></Error>'
    return Answer(status, xml.encode(), "application/xml")


def _array_object(world: World, request: Request) -> Answer | None:
    if request.host != arrays.ARRAY_HOST:
        return None
    for dataset in world.datasets:
        for layout in arrays.LAYOUTS:
            root, _, key = request.path.partition(".zarr/")
            if key and f"{root}.zarr" == arrays.root(dataset, layout):
                body = arrays.read(world, dataset, layout, key)
                return None if body is None else Answer(body=body)
    return None


def _document(world: World, request: Request) -> Answer:
    document = catalogue.documents(world).get(f"https://{request.host}{request.path}")
    if document is not None:
        return _json(HTTPStatus.OK, document)
    is_listing = "/" not in request.path.strip("/")
    if is_listing:
        return object_error(HTTPStatus.FORBIDDEN, "AccessDenied", request.path)
    return object_error(HTTPStatus.NOT_FOUND, "NoSuchKey", request.path)


def _login(world: World, request: Request) -> Answer:
    match request.method, request.path.removeprefix(LOGIN_ROOT):
        case "POST", "/token":
            return _token(world, request)
        case "GET", "/userinfo" if request.headers.get("authorization") == f"Bearer {_access_token(world)}":
            return _json(HTTPStatus.OK, {"preferred_username": world.username})
        case "GET", "/userinfo":
            return _json(HTTPStatus.UNAUTHORIZED, {"error": "invalid_token"})
        case _:
            return _json(HTTPStatus.NOT_FOUND, {"error": "not_found"})


def _token(world: World, request: Request) -> Answer:
    form = parse_qs(request.body.decode("ascii", "replace"))
    if (form.get("username"), form.get("password")) == ([world.username], [world.password]):
        return _json(HTTPStatus.OK, {"access_token": _access_token(world), "token_type": "Bearer", "expires_in": 300})
    # The client takes nothing but this status with this word for wrong credentials.
    return _json(HTTPStatus.BAD_REQUEST, {"error": "invalid_grant", "error_description": "Invalid user credentials"})


def _access_token(world: World) -> str:
    return hashlib.sha256(f"{world.username}\n{world.password}".encode()).hexdigest()


def _json(status: int, content: Any) -> Answer:
    return Answer(status, json.dumps(content).encode(), "application/json")
