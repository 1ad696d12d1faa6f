"""Who is compared: each peer as a pair of sidecars, outbound and inbound, on one core."""

import dataclasses
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from . import machine, policy
from .machine import LabError
from .processes import Process, free_port, wait_for_answer

CONFIGURATIONS = Path(__file__).resolve().parents[1] / "peers"

# How long a pair may take to its first answer; ours with 10,000 rules has them read and compiled first.
START_DEADLINE = 15
LONG_START_DEADLINE = 60


@dataclasses.dataclass
class Peer:
    """A pair that can be started. `copies` says that it copies bytes rather than terminate HTTP."""

    name: str
    copies: bool
    binary: str | None = None
    command: tuple = ()
    ours: bool = False
    # Where HTTP/2 needs a listener of its own.
    separate_h2: bool = False
    # How many workers it can be told to have: one process that stands for all of it.
    scales: bool = True
    # Descriptors that an idle connection of a client takes in each of the two.
    descriptors: int = 2
    # Whether requests in flight at once share a connection to the inbound side.
    multiplexes: bool = True
    # Protocol that the inbound proxy wants offered in a bare handshake.
    alpn: str | None = None
    # Compared only where it is asked for.
    by_name: bool = False
    options: dict = dataclasses.field(default_factory=dict)

    @property
    def is_direct(self):
        return self.name == "direct"


def others(envoy_path):
    """The peers that a machine may have; those whose binary is missing are left out by the caller."""
    haproxy, nginx, stunnel = (machine.find(name) for name in ("haproxy", "nginx", "stunnel"))
    return [
        Peer("haproxy_http", False, haproxy, ("-f", "@configuration@"), separate_h2=True, descriptors=1),
        Peer("haproxy_tcp", True, haproxy, ("-f", "@configuration@")),
        # With more workers than one nginx is a master with processes of their own.
        Peer("nginx_http", False, nginx, NGINX, separate_h2=True, descriptors=1, scales=False,
             multiplexes=False),
        Peer("nginx_tcp", True, nginx, NGINX, scales=False),
        Peer("envoy_http", False, envoy_path, ENVOY, separate_h2=True, descriptors=1),
        Peer("envoy_tcp", True, envoy_path, ENVOY),
        Peer("stunnel_tcp", True, stunnel, ("@configuration@",)),
    ]


NGINX = ("-p", "@folder@", "-c", "@configuration@")
ENVOY = ("-c", "@configuration@", "--concurrency", "@workers@", "--disable-hot-restart", "-l", "error")


def ours(binary):
    """Our sidecar: both protocols on both lanes, attested by a control plane, and by name the same under other policies."""

    def one(name, protocol, lane, **options):
        return Peer(name, protocol == "tcp", binary, ("--config", "@configuration@"), ours=True,
                    # Idle HTTP clients have nothing upstream, and the flows of a shared lane share its connections.
                    descriptors=2 if (protocol, lane) == ("tcp", "dedicated") else 1,
                    multiplexes=lane == "shared", by_name=bool(options),
                    options={"protocol": protocol, "lane": lane, **USUAL, **options})

    return [
        one("ours_http_shared", "http", "shared"),
        one("ours_http_dedicated", "http", "dedicated"),
        one("ours_tcp_shared", "tcp", "shared"),
        one("ours_tcp_dedicated", "tcp", "dedicated"),
        *(one(f"ours_http_{name}", "http", "shared", **options) for name, options in VARIANTS.items()),
    ]


# What the rules of a pair are like unless it is called otherwise.
USUAL = {"rules": policy.RULES_OF_DOOR, "revocations": 0, "attested": True, "upstream_http": "auto"}

# What differs from the usual pair: policies whose cost is asked for, and what the application speaks.
VARIANTS = {
    "any": {"rules": 0},
    "1000": {"rules": 1000},
    "10000": {"rules": 10_000},
    "revocations_1000": {"revocations": 1000},
    "unattested": {"attested": False},
    "upstream_http2": {"upstream_http": "http2"},
}


DIRECT = Peer("direct", True)


class Pair:
    """A running pair. A context manager: what it started ends with it.

    `connections` is how many clients it must hold (some set memory aside for each), `core` where both processes run, and
    `workers` how many each has.
    """

    def __init__(self, peer, lab, connections=None, core=None, workers=1):
        self.peer, self.lab = peer, lab
        self.connections = connections or lab.connections
        self.core = lab.proxy_core if core is None else core
        self.workers = workers
        # Pairs of the same that a measure started beside it.
        self._others = {}
        # Where a client that is no sidecar has its certificate.
        self.certificates = lab.certificates
        self.processes = []
        self.folder = tempfile.TemporaryDirectory(prefix=f"{peer.name}-", dir=lab.folder)
        self.seconds_to_first_answer = None
        # Requests per second that it can serve, by kind of load, once a measure asked.
        self.saturation = {}
        # Measurements that failed.
        self.failures = 0
        # Under an instrument everything takes longer.
        usual = LONG_START_DEADLINE if peer.options.get("rules", 0) > 1000 else START_DEADLINE
        self.patience = max(getattr(lab, "patience", 0), usual)

    def __enter__(self):
        try:
            return self._start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        for other in self._others.values():
            other.__exit__()
        self._others.clear()
        for process in reversed(self.processes):
            process.stop()
        self.processes.clear()
        self.folder.cleanup()

    def restart(self):
        """Ends what runs and starts it again, on other ports."""
        if self.peer.is_direct:
            return
        self.__exit__()
        self.folder = tempfile.TemporaryDirectory(prefix=f"{self.peer.name}-", dir=self.lab.folder)
        self.saturation = {}
        self.__enter__()

    def wide(self, cores):
        """The same pair with a worker for each of these cores, started when it is first asked for."""
        return self._beside("wide", self.peer, cores, len(cores))

    def under(self, name):
        """The same pair as one of [`VARIANTS`], started when it is first asked for."""
        options = self.peer.options | VARIANTS[name]
        return self._beside(name, dataclasses.replace(self.peer, options=options), self.core, self.workers)

    def over_http2(self):
        """The same pair for an application that speaks HTTP/2: by default ours speaks it for gRPC alone, and the others
        have it in their configuration."""
        return self.under("upstream_http2") if self.peer.ours and not self.peer.copies else self

    def _beside(self, name, peer, core, workers):
        if name not in self._others:
            self._others[name] = Pair(peer, self.lab, self.connections, core, workers).__enter__()
        return self._others[name]

    def _start(self):
        if self.peer.is_direct:
            self.out = self.out_h2 = self.inbound_port = self.lab.backend_address[1]
            return self
        self.out, self.inbound_port = free_port(), free_port()
        self.out_h2 = free_port() if self.peer.separate_h2 else self.out
        in_h2 = free_port() if self.peer.separate_h2 else self.inbound_port
        values = {
            "out": self.out, "in": self.inbound_port, "out_h2": self.out_h2, "in_h2": in_h2,
            "backend": self.lab.backend_address[1], "certificates": self.lab.certificates,
            "nginx_modules": "/usr/lib/nginx/modules", "connections": self.connections,
            # nginx counts a client and what is opened for it as two.
            "both_ends": 2 * self.connections, "workers": self.workers,
        }
        for side in ("inbound", "outbound"):
            folder = Path(self.folder.name) / side
            folder.mkdir()
            values["folder"] = folder
            configuration = self._configuration(side, folder, values)
            if side == "outbound":
                self._wait_until_it_listens(self.inbound_port)
            process = Process(side, self._command(configuration, folder), self.core, folder, cwd=folder)
            self.processes.append(process)
        try:
            self.seconds_to_first_answer = wait_for_answer(self.out, self.patience, self.assert_alive)
        except LabError as error:
            tails = "\n".join(f"  {process.name} said:\n{process.tail()}" for process in self.processes)
            raise LabError(f"{error}\n{tails}") from None
        return self

    def _wait_until_it_listens(self, port):
        """The outbound side starts against an inbound side that is there, as in life; what is timed is its own start."""
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            self.assert_alive()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.005)
        raise LabError(f"the inbound side of {self.peer.name} does not listen")

    def _configuration(self, side, folder, values):
        if self.peer.ours:
            values = values | self.peer.options | {"identity": self._identity(side, folder)}
            template = CONFIGURATIONS / f"vouchsafe-{side}.yaml"
        else:
            program, _, kind = self.peer.name.partition("_")
            template = next(CONFIGURATIONS.glob(f"{program}-{kind}-{side}.*"))
        text = template.read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        written = folder / template.name
        written.write_text(text)
        return written

    def _identity(self, side, folder):
        workload = "server" if side == "inbound" else "client"
        options = self.peer.options
        if options["attested"]:
            plane, self.certificates = self.lab.meshes.of(options)
            return plane.identity(workload)
        (folder / "policy").mkdir()
        (folder / "policy" / "policy.yaml").write_text(policy.documents(policy.Wanted(**{
            name: options[name] for name in ("protocol", "rules", "revocations", "attested")})))
        made = self.lab.certificates
        return (f"{{files: {{chain: {made}/{workload}.pem, key: {made}/{workload}.key, bundle: [{{file: {made}/bundle.pem}}], "
                f"policy: {folder}/policy}}}}")

    def _command(self, configuration, folder):
        places = {"@configuration@": str(configuration), "@folder@": str(folder), "@workers@": str(self.workers)}
        return [self.peer.binary, *(places.get(part, part) for part in self.peer.command)]

    @property
    def pids(self):
        return [process.pid for process in self.processes]

    @property
    def inbound_pid(self):
        return self.processes[0].pid

    def resident_kib(self):
        """Of the outbound and of the inbound process."""
        inbound, outbound = self.processes
        return [outbound.resident_kib(), inbound.resident_kib()]

    def assert_alive(self):
        for process in self.processes:
            process.assert_alive()
        for other in self._others.values():
            other.assert_alive()


def version(peer):
    if peer.is_direct:
        return None
    flag = {"haproxy": "-v", "nginx": "-v", "stunnel": "-version"}.get(peer.name.partition("_")[0], "--version")
    return machine.output([peer.binary, flag])


def stripped_size(binary, folder):
    """Bytes of a binary, and of it without debugging information; `None` where `strip` is missing."""
    copy = Path(folder) / "stripped"
    try:
        subprocess.run(["strip", "-o", str(copy), str(binary)], check=True, capture_output=True)
        stripped = copy.stat().st_size
        copy.unlink()
    except (OSError, subprocess.CalledProcessError):
        stripped = None
    return Path(binary).stat().st_size, stripped
