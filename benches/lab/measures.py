"""What is measured, one function each: it puts load on a running pair and returns figures by name."""

import dataclasses
from typing import Callable

MICRO = 1e6


@dataclasses.dataclass
class Measure:
    """`figures` maps each figure to its unit; `higher` names those that are better when higher."""

    name: str
    title: str
    figures: dict
    run: Callable
    higher: tuple = ()
    # Which pairs it makes sense for.
    applies: Callable = lambda peer: True
    quick: bool = False
    # Only with `--full` or by its name: what would double the time of a usual run.
    extra: bool = False


def all_measures():
    return [
        _requests("http1_64", "HTTP/1.1, 64 connections", 64, quick=True),
        _requests("http1_256", "HTTP/1.1, 256 connections", 256),
        _open("open_1000", 1000),
        _open("open_3000", 3000),
        Measure("grpc", "gRPC-shaped HTTP/2, 8 connections of 32 calls", {"cpu": "µs/call", "rate": "/s"}, _grpc,
                higher=("rate",), applies=_standard, quick=True),
        Measure("per_connection", "one connection per request, 32 at once", {"cpu": "µs", "rate": "/s"}, _per_connection,
                higher=("rate",), applies=_standard),
        Measure("handshake", "full mutual handshake, inbound side", {"cpu": "µs"}, _handshake,
                applies=lambda peer: not peer.is_direct and _standard(peer)),
        _bulk(1),
        _bulk(8),
        _sse("sse", 50, 10, quick=True),
        _sse("sse_200", 200, 100, extra=True),
        *(_added(percent) for percent in (25, 50, 75)),
    ]


def _standard(peer):
    """Policies of other sizes are compared on small requests only."""
    return not peer.options or peer.options["rules"] == 10


def _requests(name, title, connections, quick=False):
    def run(pair, load, seconds):
        report = load.run("http", target=_address(pair.out), connections=connections, seconds=seconds, pids=_pids(pair))
        return report, {"cpu": _cpu_per(report, report["count"]), "rate": report["rate"],
                        "p50": report["latency_us"]["p50"], "p99": report["latency_us"]["p99"]}

    return Measure(name, title, {"cpu": "µs/request", "rate": "/s"}, run, higher=("rate",), quick=quick)


def _open(name, rate):
    def run(pair, load, seconds):
        report = load.run("http", target=_address(pair.out), connections=64, rate=rate, seconds=seconds, pids=_pids(pair))
        expected = rate * report["seconds"]
        if report["count"] < 0.95 * expected:
            report["first_error"] = f"{report['count']} of {expected:.0f} requests were answered in time"
            report["errors"] += 1
            report["too_slow"] = True
        return report, _latency(report) | {"cpu": _cpu_per(report, report["count"])}

    return Measure(name, f"open loop, {rate:,}/s", LATENCY, run)


def _grpc(pair, load, seconds):
    # Peers that don't multiplex open up to 256 connections with a handshake each before they are at rest.
    report = load.run("grpc", warmup=max(0.3, seconds / 2), target=_address(pair.out_h2), connections=8, streams=32, seconds=seconds, pids=_pids(pair))
    return report, {"cpu": _cpu_per(report, report["count"]), "rate": report["rate"]}


def _per_connection(pair, load, seconds):
    report = load.run("http", close=True, target=_address(pair.out), connections=32, seconds=seconds, pids=_pids(pair))
    return report, {"cpu": _cpu_per(report, report["count"]), "rate": report["rate"]}


def _handshake(pair, load, seconds):
    report = load.run("handshake", target=_address(pair.inbound_port), connections=8, folder=pair.lab.certificates,
                      seconds=seconds, pids=pair.inbound_pid, post_quantum=pair.peer.ours, alpn=pair.peer.alpn)
    return report, {"cpu": _cpu_per(report, report["count"]), "rate": report["rate"]}


def _bulk(streams):
    def run(pair, load, seconds):
        report = load.run("bulk", target=_address(pair.out), connections=streams, seconds=seconds, pids=_pids(pair))
        cpu = sum(report["cpu_seconds"])
        gigabytes = report["bytes"] / 1e9
        return report, {"per_cpu": gigabytes / cpu if cpu else None, "rate": gigabytes / report["seconds"]}

    plural = "s" if streams > 1 else ""
    return Measure(f"bulk_{streams}", f"bulk, {streams} stream{plural}", {"per_cpu": "GB/CPU-s", "rate": "GB/s"}, run,
                   higher=("per_cpu", "rate"), applies=_standard)


def _sse(name, streams, interval, extra=False, quick=False):
    def run(pair, load, seconds):
        report = load.run("sse", target=_address(pair.out), connections=streams, interval=interval, seconds=seconds,
                          pids=_pids(pair))
        return report, _latency(report) | {"cpu": _cpu_per(report, report["count"])}

    return Measure(name, f"server-sent events, {streams} streams of {interval} ms", LATENCY, run, applies=_standard,
                   extra=extra, quick=quick)


def _added(percent):
    """What a pair adds to the latency of no proxy at all, at a share of the pair's own saturation."""

    def run(pair, load, seconds):
        # The pair's own saturation is found once, and `direct` is asked at the same rate in the same round.
        if pair.saturation is None:
            saturated = load.run("http", target=_address(pair.out), connections=64, seconds=seconds)
            pair.saturation = saturated["rate"]
        rate = max(1, int(pair.saturation * percent / 100))
        direct = load.run("http", target=_address(pair.lab.backend_address[1]), connections=64, rate=rate, seconds=seconds)
        report = load.run("http", target=_address(pair.out), connections=64, rate=rate, seconds=seconds)
        without = _latency(direct)
        return report, {name: value - without[name] for name, value in _latency(report).items()} | {"rate": rate}

    return Measure(f"added_{percent}", f"latency added over no proxy at {percent} % of the pair's saturation",
                   LATENCY | {"rate": "/s"}, run, higher=("rate",),
                   applies=lambda peer: not peer.is_direct and _standard(peer), extra=True)


LATENCY = {"p50": "µs", "p99": "µs", "p99.9": "µs"}


def _latency(report):
    return {name: report["latency_us"][name] for name in LATENCY}


def memory(pair, load, steps):
    """Resident KiB of each process at rest, and with each of `steps` idle connections."""
    idle = pair.resident_kib()
    taken = {"outbound_kib": idle[0], "inbound_kib": idle[1], "with_connections": {}}
    for connections in steps:
        held = load.hold(target=_address(pair.out), connections=connections)
        try:
            resident = pair.resident_kib()
        finally:
            held.stop()
        taken["with_connections"][connections] = resident
        # The last step is the largest, and says best what one more costs.
        taken["kib_per_connection"] = (sum(resident) - sum(idle)) / connections
    return taken


def _address(port):
    return f"127.0.0.1:{port}"


def _pids(pair):
    return ",".join(map(str, pair.pids)) or None


def _cpu_per(report, count):
    cpu = report["cpu_seconds"]
    return sum(cpu) * MICRO / count if cpu and count else None
