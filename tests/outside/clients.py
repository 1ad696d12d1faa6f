#!/usr/bin/env python3
"""Clients and servers of other makers, to be run through the sidecars. `tests/run` prepares the Python that has them.

    clients.py grpc-server PORT
    clients.py grpc-client HOST:PORT
    clients.py websocket-server PORT
    clients.py websocket-client ws://HOST:PORT/path
    clients.py websocket-session ws://HOST:PORT/path
    clients.py openai-client http://HOST:PORT/v1
    clients.py httpx-client http://HOST:PORT

A client ends with status 0 only when everything that it checks holds; a server runs until it is killed, and a session
passes on what it reads, line by line, until there is no more.
"""

import asyncio
import os
import sys
import threading
import time


# ---------------------------------------------------------------------------------------------------------------------
# gRPC: grpcio on both ends, messages as plain bytes, so that no generated code is needed

SERVICE = "test.v1.Echo"


def grpc_server(port):
    import grpc
    from concurrent import futures
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    def unary(request, context):
        context.send_initial_metadata((("x-initial", "first"),))
        context.set_trailing_metadata((("x-trailer", "last"), ("x-trailer-bin", b"\x00\xff")))
        return request

    def refuse(request, context):
        context.set_trailing_metadata((("x-trailer", "refused"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: ä%")

    def count(request, context):
        for number in range(int(request)):
            yield str(number).encode()

    def both(requests, context):
        for request in requests:
            yield request
        context.set_trailing_metadata((("x-trailer", "last"),))

    def hang(request, context):
        stopped = threading.Event()
        context.add_callback(stopped.set)
        yield b"begun"
        stopped.wait(30)
        print("cancelled" if stopped.is_set() else "never cancelled", flush=True)

    handlers = grpc.method_handlers_generic_handler(SERVICE, {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Both": grpc.stream_stream_rpc_method_handler(both),
        "Hang": grpc.unary_stream_rpc_method_handler(hang),
        "Secret": grpc.unary_unary_rpc_method_handler(unary),
    })
    server = grpc.server(futures.ThreadPoolExecutor(16), options=SIZES)
    server.add_generic_rpc_handlers((handlers,))
    checks = health.HealthServicer()
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


def grpc_client(target):
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    channel = grpc.insecure_channel(target, options=SIZES)

    def method(kind, name):
        return getattr(channel, kind)(f"/{SERVICE}/{name}", None, None)

    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    check("health check", answer.status, health_pb2.HealthCheckResponse.SERVING)

    for size in [0, 1, 16_384, 8 << 20]:
        message = os.urandom(size)
        answer, call = method("unary_unary", "Unary").with_call(message, timeout=60)
        check(f"unary of {size} bytes", answer == message, True)
    check("initial metadata", dict(call.initial_metadata()).get("x-initial"), "first")
    trailers = dict(call.trailing_metadata())
    check("trailer", trailers.get("x-trailer"), "last")
    check("binary trailer", trailers.get("x-trailer-bin"), b"\x00\xff")

    try:
        method("unary_unary", "Refuse")(b"x", timeout=20)
        check("status of a failed call", "success", "failure")
    except grpc.RpcError as error:
        check("status of a failed call", error.code(), grpc.StatusCode.FAILED_PRECONDITION)
        check("message of a failed call", error.details(), "not now: ä%")
        check("trailer of a failed call", dict(error.trailing_metadata()).get("x-trailer"), "refused")

    numbers = list(method("unary_stream", "Count")(b"1000", timeout=60))
    check("server stream of 1000 messages", numbers == [str(n).encode() for n in range(1000)], True)

    # Each message is sent only after the answer to the one before: a proxy that buffers would stop here for ever.
    turn = threading.Semaphore(1)

    def requests():
        for number in range(200):
            turn.acquire()
            yield str(number).encode()

    call = method("stream_stream", "Both")(requests(), timeout=60)
    seen = []
    for answer in call:
        seen.append(answer)
        turn.release()
    check("turns of a bidirectional stream", seen == [str(n).encode() for n in range(200)], True)
    check("trailer of a stream", dict(call.trailing_metadata()).get("x-trailer"), "last")

    call = method("unary_stream", "Hang")(b"", timeout=60)
    check("first message of a stream", next(call), b"begun")
    call.cancel()
    check("cancelled", call.code(), grpc.StatusCode.CANCELLED)

    begun = time.monotonic()
    try:
        list(method("unary_stream", "Hang")(b"", timeout=1))
        check("deadline", "success", "failure")
    except grpc.RpcError as error:
        check("deadline", error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        check("deadline before the server's own end", time.monotonic() - begun < 25, True)

    try:
        method("unary_unary", "Secret")(b"x", timeout=20)
        check("a method that policy denies", "success", "denied")
    except grpc.RpcError as error:
        check("a method that policy denies", error.code(), grpc.StatusCode.PERMISSION_DENIED)


SIZES = [("grpc.max_send_message_length", 32 << 20), ("grpc.max_receive_message_length", 32 << 20)]


# ---------------------------------------------------------------------------------------------------------------------
# websockets on both ends


def websocket_server(port):
    from websockets.asyncio.server import serve

    async def echo(connection):
        await connection.send("welcome")
        async for message in connection:
            await connection.send(message)

    async def run():
        async with serve(echo, "127.0.0.1", port, max_size=16 << 20, subprotocols=["echo.v1"]):
            print("listening", flush=True)
            await asyncio.get_running_loop().create_future()

    asyncio.run(run())


def websocket_client(url):
    from websockets.asyncio.client import connect

    async def run():
        async with connect(url, max_size=16 << 20, subprotocols=["echo.v1"], proxy=None) as connection:
            check("subprotocol", connection.subprotocol, "echo.v1")
            check("the server speaks first", await connection.recv(), "welcome")
            for size in [0, 1, 125, 126, 65_536, 4 << 20]:
                message = os.urandom(size)
                await connection.send(message)
                check(f"binary message of {size} bytes", await connection.recv() == message, True)
            await connection.send("grüße")
            check("text message", await connection.recv(), "grüße")
            await asyncio.wait_for(await connection.ping(), 20)
            check("ping", True, True)
            await connection.close(4000, "done")
        check("close code", connection.close_code, 4000)

    asyncio.run(run())


def websocket_session(url):
    from websockets.sync.client import connect

    with connect(url, subprotocols=["echo.v1"], proxy=None) as connection:
        if (first := connection.recv(timeout=20)) != "welcome":
            sys.exit(f"the server says {first!r} first")
        for line in sys.stdin:
            connection.send(line.rstrip("\n"))
            print(connection.recv(timeout=20), flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# The OpenAI client, against the model server of deploy/local/components


def openai_client(base):
    import openai

    client = openai.OpenAI(base_url=base, api_key="unused", timeout=60, max_retries=0)
    messages = [{"role": "user", "content": "What is evidence?"}]

    answer = client.chat.completions.create(model="trigram-1", messages=messages, seed=7)
    text = answer.choices[0].message.content
    check("a completion has words", len(text.split()) > 5, True)

    pieces, times = [], []
    stream = client.chat.completions.create(model="trigram-1", messages=messages, seed=7, stream=True,
                                            stream_options={"include_usage": True})
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            if choice.delta.content:
                pieces.append(choice.delta.content)
                times.append(time.monotonic())
    check("the stream says the same as the completion", "".join(pieces), text)
    check("the usage comes at the end of the stream", usage.completion_tokens, len(pieces))
    # The model server pauses between tokens; a proxy that holds the stream back would deliver them at once.
    check("tokens arrive one by one", times[-1] - times[0] > 0.1, True)

    check("models", [model.id for model in client.models.list()], ["trigram-1"])

    try:
        client.embeddings.create(model="trigram-1", input="x")
        check("a path that policy denies", "success", "denied")
    except openai.PermissionDeniedError as error:
        check("a path that policy denies", error.status_code, 403)

    # A client that hangs up in the middle of a stream must not disturb the next request.
    with client.chat.completions.create(model="trigram-1", messages=messages, stream=True) as stream:
        next(iter(stream))
    check("after a stream was dropped", client.models.list().data[0].id, "trigram-1")


def httpx_client(base):
    """HTTP/1.1 and HTTP/2 with prior knowledge, many requests on one connection."""
    import httpx

    for version, options in [("HTTP/1.1", {}), ("HTTP/2", {"http1": False, "http2": True})]:
        with httpx.Client(base_url=base, timeout=30, trust_env=False, **options) as client:
            for number in range(20):
                body = os.urandom(number * 1000)
                answer = client.post("/echo", content=body)
                check(f"{version} request {number}", (answer.status_code, answer.http_version), (200, version))
            answer = client.get("/not-allowed")
            check(f"{version} denied", answer.status_code, 403)


# ---------------------------------------------------------------------------------------------------------------------


def check(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: found {found!r}, wanted {wanted!r}")
    print(f"ok: {what}", flush=True)


def main():
    actions = {
        "grpc-server": lambda port: grpc_server(int(port)),
        "grpc-client": grpc_client,
        "websocket-server": lambda port: websocket_server(int(port)),
        "websocket-client": websocket_client,
        "websocket-session": websocket_session,
        "openai-client": openai_client,
        "httpx-client": httpx_client,
    }
    if len(sys.argv) != 3 or sys.argv[1] not in actions:
        sys.exit(__doc__)
    actions[sys.argv[1]](sys.argv[2])


if __name__ == "__main__":
    main()
