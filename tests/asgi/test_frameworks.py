"""What the frameworks do themselves stays as it is; what they swallow, they can be told to render."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import django
import httpx
import pytest
from django.conf import settings as django_settings
from django.http import HttpRequest, HttpResponse
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.testclient import TestClient
from litestar import Litestar, get
from quart import Quart
from resilience_asgi import (
    CorrelationMiddleware,
    ResilienceMiddleware,
    client_address,
    dependency,
    header_key,
    problem_handler,
    problem_response,
)
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocket as StarletteWebSocket
from starlette.websockets import WebSocketDisconnect

from resilience import Bulkhead, BulkheadFullError, CircuitBreaker, RateLimiter, ResilienceError, correlation_id

LAYERS = (CircuitBreaker("app", minimum_calls=1000), RateLimiter(10_000, key=client_address()), Bulkhead(100))
Wrap = Callable[[Any], Any]


def guarded() -> list[Middleware]:
    return [Middleware(ResilienceMiddleware, layers=LAYERS, timeout=30.0, body_timeout=30.0)]


# -- Starlette and FastAPI, with and without ---------------------------------------------------------------------------

done: list[str] = []


def starlette_app(middleware: list[Middleware], folder: Path) -> Starlette:
    async def home(request: Request) -> Response:
        return JSONResponse({"path": request.url.path, "query": str(request.query_params)})

    def plain(request: Request) -> Response:
        return PlainTextResponse("plain", headers={"X-Own": "1"})

    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/octet-stream")

    async def missing(request: Request) -> Response:
        raise HTTPException(404, "no such thing")

    async def broken(request: Request) -> Response:
        raise ValueError("broken")

    async def stream(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(5):
                yield b"part %d\n" % number

        return StreamingResponse(parts(), media_type="text/plain")

    async def file(request: Request) -> Response:
        return FileResponse(folder / "a.txt")

    async def background(request: Request) -> Response:
        return PlainTextResponse("accepted", background=BackgroundTask(done.append, request.url.path))

    async def polite(request: Request) -> Response:
        return PlainTextResponse(str(await request.is_disconnected()))

    async def websocket(websocket: StarletteWebSocket) -> None:
        await websocket.accept(subprotocol="chat")
        await websocket.send_text((await websocket.receive_text()).upper())
        await websocket.close(4001)

    async def closed(websocket: StarletteWebSocket) -> None:
        await websocket.close(4003)

    async def through(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers["X-Through"] = "base"
        return response

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        done.append("startup")
        yield {"state": "shared"}
        done.append("shutdown")

    return Starlette(
        routes=[
            Route("/", home),
            Route("/plain", plain, methods=["GET", "PUT"]),
            Route("/echo", echo, methods=["POST"]),
            Route("/missing", missing),
            Route("/broken", broken),
            Route("/stream", stream),
            Route("/file", file),
            Route("/background", background),
            Route("/polite", polite),
            Route("/redirect", lambda request: RedirectResponse("/plain")),
            Mount("/static", StaticFiles(directory=folder)),
            WebSocketRoute("/ws", websocket),
            WebSocketRoute("/closed", closed),
        ],
        middleware=[
            Middleware(GZipMiddleware, minimum_size=10),
            *middleware,
            Middleware(BaseHTTPMiddleware, dispatch=through),
        ],
        lifespan=lifespan,
    )


def fastapi_app(middleware: list[Middleware], folder: Path) -> FastAPI:
    app = FastAPI(middleware=middleware)

    async def session() -> AsyncIterator[str]:
        done.append("open")
        yield "session"
        done.append("close")

    @app.get("/")
    async def home(q: int = 1, session: str = Depends(session)) -> dict[str, Any]:
        return {"q": q, "session": session}

    @app.get("/plain")
    def plain() -> dict[str, str]:
        return {"a": "b"}

    @app.post("/echo")
    async def echo(item: dict[str, int]) -> dict[str, int]:
        return item

    @app.get("/missing")
    async def missing() -> None:
        raise HTTPException(404, "no such thing", headers={"X-Own": "1"})

    @app.get("/broken")
    async def broken() -> None:
        raise ValueError("broken")

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(done.append, "/background")
        return "accepted"

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(iter([b"a", b"b"]))

    @app.websocket("/ws")
    async def websocket(websocket: WebSocket) -> None:
        await websocket.accept(subprotocol="chat")
        await websocket.send_text((await websocket.receive_text()).upper())
        await websocket.close(4001)

    return app


REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/?q=7", {}),
    ("GET", "/?q=x", {}),
    ("HEAD", "/", {}),
    ("GET", "/plain", {}),
    ("PUT", "/plain", {}),
    ("DELETE", "/plain", {}),
    ("OPTIONS", "/plain", {}),
    ("POST", "/echo", {"content": b"x" * 100_000}),
    ("POST", "/echo", {"json": {"a": 1}}),
    ("POST", "/echo", {"content": b"{"}),
    ("GET", "/missing", {}),
    ("GET", "/nowhere", {}),
    ("GET", "/broken", {}),
    ("GET", "/stream", {}),
    ("GET", "/file", {}),
    ("GET", "/file", {"headers": {"Range": "bytes=0-3"}}),
    ("GET", "/static/a.txt", {}),
    ("GET", "/static/b.txt", {}),
    ("GET", "/background", {}),
    ("GET", "/polite", {}),
    ("GET", "/redirect", {}),
    ("GET", "/docs", {}),
]
VARYING = {"date", "last-modified", "etag", "x-request-id"}


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
@pytest.mark.parametrize("debug", [False, True])
def test_a_framework_behaves_as_it_does_without(
    make: Callable[[list[Middleware], Path], Any], debug: bool, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("some text of a file")

    def everything(middleware: list[Middleware], wrap: Wrap) -> list[Any]:
        done.clear()
        app = make(middleware, tmp_path)
        app.debug = debug
        results: list[Any] = []
        with TestClient(wrap(app), raise_server_exceptions=False) as client:
            for method, url, more in REQUESTS:
                response = client.request(method, url, **more)
                headers = [(name, value) for name, value in response.headers.multi_items() if name not in VARYING]
                body = b"a page with a traceback" if debug and response.status_code == 500 else response.content
                if body == b"a page with a traceback":
                    headers = [(name, value) for name, value in headers if name != "content-length"]
                results.append((method, url, response.status_code, headers, body))
            with client.websocket_connect("/ws", subprotocols=["chat"]) as websocket:
                websocket.send_text("hello")
                results.append((websocket.accepted_subprotocol, websocket.receive_text()))
                with pytest.raises(WebSocketDisconnect) as caught:
                    websocket.receive_text()
                results.append(caught.value.code)
            with pytest.raises(WebSocketDisconnect), client.websocket_connect("/closed"):
                pass
        return [*results, *done]

    without = everything([], lambda app: app)
    assert everything(guarded(), lambda app: app) == without
    assert everything(guarded(), CorrelationMiddleware) == without
    assert {entry[2] for entry in without[: len(REQUESTS)]} >= {200, 404, 405, 500}


def test_a_500_of_the_error_layer_carries_the_id(tmp_path: Path) -> None:
    """With the middleware inside of that layer it would not."""
    app = CorrelationMiddleware(starlette_app(guarded(), tmp_path))
    client = TestClient(app, raise_server_exceptions=False)
    response = client.get("/broken", headers={"X-Request-ID": "order-7"})
    assert (response.status_code, response.headers["X-Request-ID"]) == (500, "order-7")


def test_a_handler_of_the_framework_for_all_errors_still_gets_its_errors() -> None:
    seen: list[Exception] = []

    async def handler(request: Request, error: Exception) -> Response:
        seen.append(error)
        return PlainTextResponse("ours", 500)

    async def broken(request: Request) -> Response:
        raise ValueError("broken")

    middleware = [Middleware(CorrelationMiddleware), *guarded()]
    app = Starlette(routes=[Route("/", broken)], middleware=middleware, exception_handlers={Exception: handler})
    response = TestClient(app, raise_server_exceptions=False).get("/")
    assert (response.status_code, response.text) == (500, "ours")
    assert [str(error) for error in seen] == ["broken"]


# -- FastAPI dependencies ----------------------------------------------------------------------------------------------

one_at_a_time = RateLimiter(1, 60.0, key=header_key("X-User"), name="user")
slots = Bulkhead(1)


def dependent_app() -> FastAPI:
    """With string annotations, as this whole module has them."""
    app = FastAPI()
    app.add_middleware(ResilienceMiddleware)

    @app.get("/async", dependencies=[Depends(dependency(one_at_a_time))])
    async def asynchronous() -> str:
        return "async"

    @app.get("/sync")
    def synchronous(_: Annotated[None, Depends(dependency(slots))], fail: bool = False) -> int:
        if fail:
            raise ValueError("broken")
        return slots.statistics().in_use

    @app.websocket("/ws")
    async def websocket(websocket: WebSocket, _: Annotated[None, Depends(dependency(one_at_a_time))]) -> None:
        await websocket.accept()
        await websocket.send_text("in")
        await websocket.close()

    return app


def test_a_policy_is_a_dependency_of_sync_async_and_websocket_endpoints() -> None:
    client = TestClient(dependent_app(), raise_server_exceptions=False)
    users = [{"X-User": name} for name in ("ada", "bob")]
    assert [client.get("/async", headers=user).status_code for user in users * 2] == [200, 200, 429, 429]
    assert client.get("/async", headers=users[0]).headers["retry-after"] == "60"
    assert client.get("/sync").json() == 1
    assert slots.statistics().in_use == 0
    assert client.get("/sync?fail=true").status_code == 500
    assert slots.statistics().in_use == 0
    with slots.guard():
        assert client.get("/sync").status_code == 503
    with client.websocket_connect("/ws", headers={"X-User": "eve"}) as websocket:
        assert websocket.receive_text() == "in"
    with pytest.raises(WebSocketDenialResponse) as caught, client.websocket_connect("/ws", headers={"X-User": "eve"}):
        pass
    assert caught.value.status_code == 429
    one_at_a_time.reset("ada")


def test_without_the_middleware_the_handler_renders_what_a_dependency_refuses() -> None:
    app = FastAPI(exception_handlers={ResilienceError: problem_handler})

    @app.get("/")
    async def home(_: Annotated[None, Depends(dependency(RateLimiter(1, 60.0)))]) -> str:
        return "home"

    client = TestClient(app)
    assert [client.get("/").status_code for _ in range(2)] == [200, 429]
    assert client.get("/").headers["content-type"] == "application/problem+json"


# -- frameworks that swallow exceptions --------------------------------------------------------------------------------


async def ask(app: Any, path: str = "/") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        return await client.get(path)


def assert_refused(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert response.headers["content-type"].startswith("application/problem+json")
    assert response.json()["correlation_id"] == response.headers["x-request-id"]


async def test_litestar_renders_with_the_handler() -> None:
    @get("/")
    async def home() -> str:
        raise BulkheadFullError("database")

    app = Litestar([home], exception_handlers={ResilienceError: problem_handler}, logging_config=None)
    assert_refused(await ask(CorrelationMiddleware(app)))


async def test_quart_renders_with_a_problem_response() -> None:
    app = Quart(__name__)

    @app.route("/")
    async def home() -> str:
        raise BulkheadFullError("database")

    @app.errorhandler(ResilienceError)
    async def refused(error: ResilienceError) -> Any:
        response = problem_response(error)
        assert response is not None
        return response.body, response.status, dict(response.headers)

    assert_refused(await ask(CorrelationMiddleware(app)))


class ProblemMiddleware:
    """What a Django project adds to its MIDDLEWARE."""

    def __init__(self, get_response: Any) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        response = problem_response(error)
        return response and HttpResponse(response.body, status=response.status, headers=dict(response.headers))


async def django_view(request: HttpRequest) -> HttpResponse:
    if request.path == "/refused":
        raise BulkheadFullError("database")
    return HttpResponse((correlation_id() or "").encode())


async def test_django_renders_with_a_problem_response() -> None:
    from django.core.asgi import get_asgi_application
    from django.urls import path

    if not django_settings.configured:
        django_settings.configure(
            ROOT_URLCONF=type("urls", (), {"urlpatterns": [path("", django_view), path("refused", django_view)]}),
            MIDDLEWARE=[f"{__name__}.ProblemMiddleware"],
            ALLOWED_HOSTS=["*"],
            SECRET_KEY="for this test",
            LOGGING_CONFIG=None,
        )
    django.setup(set_prefix=False)
    app = CorrelationMiddleware(ResilienceMiddleware(get_asgi_application(), layers=[Bulkhead(5)], timeout=5.0))
    response = await ask(app)
    assert response.text == response.headers["x-request-id"]
    assert_refused(await ask(app, "/refused"))
