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
    # Only by its name: what would double the time of a full run.
    by_name: bool = False
    # Times in each round: more where one time says little, spread over the round.
    repeats: int = 1


def all_measures():
    return [
        # Taken once for each pair while it is started, not in rounds.
        Measure("rest", "at rest", RESTS, None, applies=lambda peer: False, quick=True),
        _requests("http1_64", "HTTP/1.1, 64 connections", 64, quick=True),
        _requests("http1_256", "HTTP/1.1, 256 connections", 256),
        _open("open_1000", 1000),
        _open("open_3000", 3000),
        _in_flight("http2", "HTTP/2, 8 connections of 32 GETs", "request"),
        _in_flight("grpc", "gRPC-shaped HTTP/2, 8 connections of 32 calls", "call"),
        Measure("per_connection", "one connection per request, 32 at once", {"cpu": "µs", "rate": "/s"}, _per_connection,
                higher=("rate",)),
        Measure("handshake", "full mutual handshake, inbound side", {"cpu": "µs", "rate": "new connections/s"}, _handshake,
                higher=("rate",), applies=lambda peer: not peer.is_direct),
        _bulk(1),
        _bulk(8),
        Measure("bulk_8_cores_2", "bulk, 8 streams through two workers each on two cores",
                {"rate": "GB/s", "scale": "of 1 stream on 1 core", "per_cpu": "GB/CPU-s", "rate_1": "GB/s"}, _two_cores,
                higher=("rate", "scale", "per_cpu", "rate_1"), quick=True,
                applies=lambda peer: not peer.is_direct and peer.scales),
        _sse("sse", 50, 10, quick=True),
        _sse("sse_200", 200, 100, extra=True),
        _policy("policy_10", "ten rules with claims, to one rule with claims for any request", "any", inverse=True),
        _policy("policy_1000", "1,000 rules, to ten", "1000"),
        _policy("policy_10000", "10,000 rules, to ten", "10000"),
        _policy("revocations_1000", "1,000 revocations, to none", "revocations_1000"),
        _policy("claims", "attested with claims, to neither", "unattested", inverse=True),
        *(_added(percent, "http", "") for percent in (25, 50, 75)),
        *(_added(percent, kind, f"_{kind}") for kind in ("http2", "grpc") for percent in (25, 50, 75)),
    ]


RESTS = {"idle": "MiB, both", "first": "KiB per connection", "most": "KiB per connection", "start": "ms to first answer"}


def _requests(name, title, connections, **more):
    def run(pair, load, seconds):
        report = load.run("http", target=_address(pair.out), connections=connections, seconds=seconds, pids=_pids(pair))
        return report, _throughput(report)

    return Measure(name, title, {"cpu": "µs/request", "rate": "/s", "p50": "µs", "p99": "µs"}, run, higher=("rate",), **more)


def _throughput(report):
    return {"cpu": _cpu_per(report, report["count"]), "rate": report["rate"],
            "p50": report["latency_us"]["p50"], "p99": report["latency_us"]["p99"]}


def _open(name, rate):
    def run(pair, load, seconds):
        report = load.run("http", target=_address(pair.out), connections=64, rate=rate, seconds=seconds, pids=_pids(pair))
        expected = rate * report["seconds"]
        if report["count"] < 0.95 * expected:
            report["first_error"] = f"{report['count']} of {expected:.0f} requests were answered in time"
            report["errors"] += 1
            report["too_slow"] = True
        return report, _latency(report) | {"cpu": _cpu_per(report, report["count"])}

    return Measure(name, f"open loop, {rate:,}/s", LATENCY, run, repeats=3)


def _in_flight(kind, title, unit):
    def run(pair, load, seconds):
        pair = pair.over_http2() if kind == "http2" else pair
        report = load.run(kind, target=_address(pair.out_h2), seconds=seconds, pids=_pids(pair), **_in_flight_shape(pair))
        return report, _throughput(report)

    return Measure(kind, title, {"cpu": f"µs/{unit}", "rate": "/s", "p50": "µs", "p99": "µs"}, run, higher=("rate",),
                   quick=True, repeats=3)


def _in_flight_shape(pair):
    # Who terminates HTTP/2 and doesn't multiplex opens up to 256 connections, with a handshake each, before it is at rest.
    alike = pair.peer.multiplexes or pair.peer.copies
    return {"connections": 8, "streams": 32, "warmup": 0.3 if alike else 2.0}


def _per_connection(pair, load, seconds):
    report = load.run("http", close=True, target=_address(pair.out), connections=32, seconds=seconds, pids=_pids(pair))
    return report, {"cpu": _cpu_per(report, report["count"]), "rate": report["rate"]}


def _handshake(pair, load, seconds):
    report = load.run("handshake", target=_address(pair.inbound_port), connections=8, folder=pair.certificates,
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
                   higher=("per_cpu", "rate"))


def _two_cores(pair, load, seconds):
    """Client and backend need a place on the same two cores, so both cost as little as the kernel allows, and what is
    compared with is one stream through the same pair with one worker on one core."""
    wide = pair.wide(pair.lab.both_cores)
    one = load.run("bulk", cheap=True, target=_address(pair.out), connections=1, seconds=seconds, pids=_pids(pair))
    with load.spread_over(pair.lab.both_cores):
        report = load.run("bulk", cheap=True, target=_address(wide.out), connections=8, seconds=seconds, pids=_pids(wide))
    cpu = sum(report["cpu_seconds"])
    alone, rate = (each["bytes"] / 1e9 / each["seconds"] for each in (one, report))
    report["errors"] += one["errors"]
    report["first_error"] = report["first_error"] or one["first_error"]
    return report, {"rate": rate, "rate_1": alone, "scale": rate / alone if alone else None,
                    "per_cpu": report["bytes"] / 1e9 / cpu if cpu else None}


def _sse(name, streams, interval, extra=False, quick=False):
    def run(pair, load, seconds):
        report = load.run("sse", target=_address(pair.out), connections=streams, interval=interval, seconds=seconds,
                          pids=_pids(pair))
        return report, _latency(report) | {"cpu": _cpu_per(report, report["count"])}

    return Measure(name, f"server-sent events, {streams} streams of {interval} ms", LATENCY, run, extra=extra, quick=quick, repeats=1 if extra else 2)


def _added(percent, kind, suffix):
    """What a pair adds to the latency of no proxy at all, at a share of the pair's own saturation."""

    def run(pair, load, seconds):
        pair = pair.over_http2() if kind == "http2" else pair
        shape = {"connections": 64} if kind == "http" else _in_flight_shape(pair)
        target = _address(pair.out if kind == "http" else pair.out_h2)
        # The pair's own saturation is found once, and `direct` is asked at the same rate in the same round.
        if kind not in pair.saturation:
            pair.saturation[kind] = load.run(kind, target=target, seconds=seconds, **shape)["rate"]
        rate = max(1, int(pair.saturation[kind] * percent / 100))
        direct = load.run(kind, target=_address(pair.lab.backend_address[1]), rate=rate, seconds=seconds, **shape)
        report = load.run(kind, target=target, rate=rate, seconds=seconds, **shape)
        without = _latency(direct)
        return report, {name: value - without[name] for name, value in _latency(report).items()} | {"rate": rate}

    of = {"http": "HTTP/1.1", "http2": "HTTP/2", "grpc": "gRPC"}[kind]
    return Measure(f"added_{percent}{suffix}", f"{of}, latency added over no proxy at {percent} % of the pair's saturation",
                   LATENCY | {"rate": "/s"}, run, higher=("rate",),
                   # Who copies bytes saturates the client before itself: a share of that says nothing.
                   applies=lambda peer: not peer.is_direct and (kind == "http" or not peer.copies),
                   extra=True, by_name=kind != "http" and percent != 50)


def _policy(name, title, policy, inverse=False):
    """What one policy costs over another: the same pair under both, one directly after the other. `inverse` where the pair's
    own policy is the dearer one."""

    def run(pair, load, seconds):
        reports = [load.run("http", target=_address(each.out), connections=64, seconds=seconds, pids=_pids(each))
                   for each in (pair, pair.under(policy))]
        usual, other = (_cpu_per(report, report["count"]) for report in reports)
        dear, cheap = (usual, other) if inverse else (other, usual)
        reports[1]["errors"] += reports[0]["errors"]
        reports[1]["first_error"] = reports[1]["first_error"] or reports[0]["first_error"]
        return reports[1], {"cpu": dear, "times": dear / cheap if dear and cheap else None}

    return Measure(name, f"policy, HTTP/1.1 at 64 connections: {title}", {"cpu": "µs/request", "times": "times"}, run,
                   applies=lambda peer: peer.ours and not peer.by_name and not peer.copies and peer.multiplexes,
                   extra=name != "policy_10000", repeats=3)


LATENCY = {"p50": "µs", "p99": "µs", "p99.9": "µs"}


def _latency(report):
    return {name: report["latency_us"][name] for name in LATENCY}


def memory(pair, load, steps):
    """Resident KiB of each process at rest, and with each of `steps` idle connections."""
    idle = pair.resident_kib()
    taken = {"outbound_kib": idle[0], "inbound_kib": idle[1], "with_connections": {}, "kib_per_connection": {}}
    for connections in steps:
        held = load.hold(target=_address(pair.out), connections=connections)
        try:
            pair.assert_alive()
            resident = pair.resident_kib()
        finally:
            held.stop()
        taken["with_connections"][connections] = resident
        taken["kib_per_connection"][connections] = (sum(resident) - sum(idle)) / connections
    return taken


def _address(port):
    return f"127.0.0.1:{port}"


def _pids(pair):
    return ",".join(map(str, pair.pids)) or None


def _cpu_per(report, count):
    cpu = report["cpu_seconds"]
    return sum(cpu) * MICRO / count if cpu and count else None
