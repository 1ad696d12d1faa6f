#!/usr/bin/env python3
"""Runs the example factory: starts every process, shows what is allowed and what is refused, and cleans up.

`deploy/quickstart` builds the two binaries and calls this. Everything is a process of its own with files and sockets
below one temporary folder, written as an operator would write them; nothing here reaches into a process.
"""

import argparse
import contextlib
import ctypes
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
COMPONENTS = HERE / "components"
sys.path.insert(0, str(HERE))

import tpm  # noqa: E402: the module beside this file

# Longest wait for anything that should simply happen.
DEADLINE = 60.0


class Failed(Exception):
    """Something that the factory needs did not happen; the message says what and where to look."""


# ---------------------------------------------------------------------------------------------------------------------
# Processes


class Processes:
    """Children that end with this program, in whatever way it ends."""

    def __init__(self, folder):
        self.folder = folder
        self.children = []

    def spawn(self, name, command):
        log = self.folder / f"{name}.log"
        with open(log, "ab") as output:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                     cwd=self.folder, start_new_session=True, preexec_fn=die_with_parent)
        child.name, child.log = name, log
        self.children.append(child)
        return child

    def stop(self, child):
        """Asks a child to end, and insists after a while."""
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if child in self.children:
            self.children.remove(child)

    def stop_all(self):
        # Sidecars first, TPMs last, so that nobody complains in its log about a neighbour that left.
        for child in reversed(self.children):
            if child.poll() is None:
                child.terminate()
        for child in list(reversed(self.children)):
            self.stop(child)

    def check(self):
        for child in self.children:
            if child.poll() is not None:
                raise Failed(f"{child.name} ended with status {child.returncode}:\n{tail(child.log)}")


def die_with_parent():
    """In the child: asks the kernel for SIGKILL when the parent is gone, even if that was killed (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def tail(log, lines=15):
    return "\n".join("    " + line for line in log.read_text(errors="replace").splitlines()[-lines:])


def wait_for(what, probe, processes, log=None):
    """Polls until `probe` gives something true, and returns it."""
    deadline = time.monotonic() + DEADLINE
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            if value := probe():
                return value
        processes.check()
        if time.monotonic() > deadline:
            raise Failed(f"waited {DEADLINE:.0f} s in vain for {what}" + (":\n" + tail(log) if log else ""))
        time.sleep(0.05)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---------------------------------------------------------------------------------------------------------------------
# HTTP, as an application on the same machine would speak it


def request(url, method="GET", body=None):
    """Returns (status, headers, body as text)."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    with contextlib.closing(connection):
        data = None if body is None else json.dumps(body)
        connection.request(method, parts.path, data, {"content-type": "application/json"} if data else {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode(errors="replace")


def unix_request(path, target):
    """GET over a Unix socket: the admin of a sidecar."""
    connection = http.client.HTTPConnection("admin", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(os.path.relpath(path))
    with contextlib.closing(connection):
        connection.request("GET", target)
        answer = connection.getresponse()
        return json.loads(answer.read())


def ask(url, question):
    """Asks the gateway; returns the pieces of the answer with the time when each came."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    begun = time.monotonic()
    with contextlib.closing(connection):
        connection.request("POST", "/ask", json.dumps({"question": question}), {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            return answer.status, [], answer.read().decode(errors="replace")
        pieces = []
        while line := answer.readline():
            if line.startswith(b"data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    if text := choice["delta"].get("content"):
                        pieces.append((time.monotonic() - begun, text))
        return answer.status, pieces, ""


class LiveStream:
    """A completion that goes on for as long as it may; shows its words as they come, and notes how and when it ended."""

    def __init__(self, url):
        self.url, self.words, self.complete, self.ended, self.status = url, 0, False, None, None
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        parts = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        question = {"stream": True, "min_tokens": 1024, "max_tokens": 1024,
                    "messages": [{"role": "user", "content": "What is evidence, and who checks it?"}]}
        # However it breaks off, that it did is what counts.
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("POST", "/v1/chat/completions", json.dumps(question),
                               {"content-type": "application/json"})
            answer = connection.getresponse()
            self.status = answer.status
            while line := answer.readline():
                self.complete |= line.startswith(b"data: [DONE]")
                if line.startswith(b"data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        self.show(choice["delta"].get("content") or "")
        self.ended = time.monotonic()

    def show(self, text):
        if text:
            self.words += 1
            print(("\n      " if self.words % 16 == 1 else "") + text, end="", flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# The factory


class Machine:
    """Where one workload runs: a software TPM that has measured the workload's files, or a mere name."""

    def __init__(self, factory, name, files):
        self.name, self.factory, self.tpm = name, factory, None
        if not factory.simulated:
            self.tpm = tpm.SoftwareTpm(factory.folder / f"machine-{name}", factory.spawn_as(f"tpm-{name}"))
            self.tpm.boot(files)

    def attester(self, image):
        if self.tpm is None:
            return f"simulated: {{machine: {self.name}, image: {image}}}"
        return f"tpm: {{swtpm: 'unix:{self.tpm.socket}'}}"


class Sidecar:
    """One `vouchsafe-proxy` with its bootstrap file."""

    def __init__(self, factory, name, workload, machine, image, inbound=None, outbound=()):
        self.name, self.workload = name, workload
        self.folder = factory.folder / f"sidecar-{name}"
        self.folder.mkdir(mode=0o700)
        self.metrics = f"127.0.0.1:{free_port()}"
        self.admin = self.folder / "admin.sock"
        self.calls = {to: f"127.0.0.1:{free_port()}" for to, _ in outbound}
        self.config = self.folder / "proxy.yaml"
        lines = [
            "apiVersion: vouchsafe.dev/v1alpha1",
            "kind: Proxy",
            "spec:",
            f"  trust_domain: {factory.trust_domain}",
            f"  workload: {workload}",
            "  identity:",
            "    control_plane:",
            f"      addresses: ['{factory.address}']",
            f"      root_pins: [\"{factory.root_pin}\"]",
            f"      attester: {{{machine.attester(image)}}}",
            f"  admin: {self.admin}",
            f"  metrics: {self.metrics}",
            "  workers: 1",
        ]
        if inbound:
            port, upstream = inbound
            lines += ["  inbound:", f"    - listen: 127.0.0.1:{free_port()}",
                      f"      ports: [{{name: {port}, upstream: '{upstream}'}}]"]
        if outbound:
            lines += ["  outbound:"]
            lines += [f"    - {{listen: '{self.calls[to]}', to: {to}, port: {port}}}" for to, port in outbound]
        self.config.write_text("\n".join(lines) + "\n")
        self.process = factory.processes.spawn(f"sidecar-{name}", [factory.proxy, "--config", self.config])

    def is_ready(self):
        return request(f"http://{self.metrics}/readyz")[0] == 200

    def url(self, to, path=""):
        return f"http://{self.calls[to]}{path}"

    def certificates(self):
        return unix_request(self.admin, "/certs")


class Factory:
    def __init__(self, folder, vouchsafe, proxy, simulated):
        self.folder, self.vouchsafe, self.proxy, self.simulated = folder, vouchsafe, proxy, simulated
        self.processes = Processes(folder)
        self.policy = folder / "policy"
        self.trust_domain = "simulated.example" if simulated else "factory.example"
        self.address = f"127.0.0.1:{free_port()}"
        self.root_pin = None

    def spawn_as(self, name):
        """swtpm's own name is the same for all; the log is by machine."""
        return lambda _, command: self.processes.spawn(name, command)

    def start(self, say):
        self.write_policy()
        say("machines switched on" + ("" if self.simulated else ": six software TPMs, each with keys of its own"))
        self.start_control_plane()
        say(f"control plane up, trust domain {self.trust_domain}")
        self.start_components()
        self.start_sidecars()
        for sidecar in (self.gateway, self.llm, self.vectors, self.notebook):
            wait_for(f"the sidecar of {sidecar.workload} to get its identity", sidecar.is_ready, self.processes,
                     sidecar.process.log)
        say("four sidecars attested, each with a certificate of its own")
        wait_for("the gateway to fill the vector store", lambda: request(f"{self.app}/health")[0] == 200,
                 self.processes)
        say("the gateway has filled the vector store through the mesh")

    def write_policy(self):
        shutil.copytree(HERE / "policy", self.policy)
        shared = [COMPONENTS / "components.py", COMPONENTS / "text.txt"]
        self.boots = {
            "edge-1": [*shared, COMPONENTS / "gateway.py"],
            "gpu-1": [*shared, COMPONENTS / "model_server.py"],
            "store-1": [*shared, COMPONENTS / "vector_store.py"],
            "desk-1": shared,
            "lab-1": [*shared, COMPONENTS / "model_server.py"],
        }
        # The second GPU machine is listed like the first, but somebody has added a line to its model server.
        altered = self.folder / "model_server.py"
        altered.write_text((COMPONENTS / "model_server.py").read_text() + "\nprint('hello from a stranger')\n")
        self.boots["gpu-2"] = [*shared, altered]
        self.machines = {name: Machine(self, name, files) for name, files in self.boots.items()}
        if self.simulated:
            for file in (HERE / "simulated").iterdir():
                shutil.copy(file, self.policy)
        else:
            self.write_nodes()

    def write_nodes(self):
        """Writes the endorsement keys of the TPMs into the Node documents, as an operator who reviewed them."""
        lines, name = [], None
        for line in (self.policy / "nodes.yaml").read_text().splitlines():
            if line.startswith("metadata:"):
                name = line.split("name: ")[1].split(",")[0]
            if line.startswith("spec:"):
                key = self.machines[name].tpm.endorsement_key()
                line = f'spec: {{hardware: {{tpm_ek_sha256: "{key}"}}}}'
            lines.append(line)
        (self.policy / "nodes.yaml").write_text("\n".join(lines) + "\n")

    def start_control_plane(self):
        data = self.folder / "control-plane"
        self.data = data
        self.control_metrics = f"127.0.0.1:{free_port()}"
        config = self.folder / "control-plane.yaml"
        config.write_text(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: ControlPlane\nspec:\n"
            f"  listen: {self.address}\n  metrics: {self.control_metrics}\n  data: {data}\n  policy: {self.policy}\n")
        self.control = self.processes.spawn(
            "control-plane", [self.vouchsafe, "serve", "--config", config])
        wait_for("the control plane", lambda: request(f"http://{self.control_metrics}/readyz")[0] == 200,
                 self.processes, self.control.log)
        status = json.loads(self.cli("status", "-o", "json"))
        self.root_pin = next(a["spki_sha256"] for a in status["authorities"] if a["role"] == "root")

    def cli(self, *arguments):
        """Runs the operator's command line against the control plane's socket."""
        done = subprocess.run([self.vouchsafe, *arguments, "--data", self.data], capture_output=True, text=True,
                              timeout=60)
        if done.returncode != 0:
            raise Failed(f"`vouchsafe {' '.join(arguments)}` ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def start_components(self):
        self.model_port, self.vector_port, app = free_port(), free_port(), free_port()
        self.app = f"http://127.0.0.1:{app}"
        self.component("model-server", "model_server.py", "--port", self.model_port)
        self.component("vector-store", "vector_store.py", "--port", self.vector_port)
        self.app_port = app

    def component(self, name, program, *arguments):
        return self.processes.spawn(name, [sys.executable, "-B", COMPONENTS / program, *map(str, arguments)])

    def start_sidecars(self):
        machines = self.machines
        self.llm = Sidecar(self, "llm", "inference/llm", machines["gpu-1"], "model-server-1",
                           inbound=("openai", f"127.0.0.1:{self.model_port}"))
        self.vectors = Sidecar(self, "vectors", "data/vectors", machines["store-1"], "vector-store-1",
                               inbound=("api", f"127.0.0.1:{self.vector_port}"))
        self.gateway = Sidecar(self, "gateway", "edge/gateway", machines["edge-1"], "gateway-1",
                               outbound=[("inference/llm", "openai"), ("data/vectors", "api")])
        self.notebook = Sidecar(self, "notebook", "research/notebook", machines["desk-1"], "notebook-1",
                                outbound=[("inference/llm", "openai")])
        self.component("gateway", "gateway.py", "--port", self.app_port,
                       "--vectors", self.gateway.url("data/vectors"), "--model", self.gateway.url("inference/llm"))

    def refusal_of(self, name, workload, machine, image):
        """Starts a sidecar that must be refused; returns the reason and the details that the control plane recorded."""
        before = len(self.records_of(workload))
        sidecar = Sidecar(self, name, workload, machine, image)
        try:
            return wait_for(f"a verdict on {name}", lambda: self.verdict(sidecar, before), self.processes,
                            sidecar.process.log)
        finally:
            self.processes.stop(sidecar.process)

    def verdict(self, sidecar, before):
        if sidecar.is_ready():
            return "none: an identity was issued", ""
        records = self.records_of(sidecar.workload)
        # Newest first; the honest instance of the same name may have renewed meanwhile.
        for record in records[:len(records) - before]:
            if record["refused"]:
                return record["reason"], record["detail"]
        return None

    def records_of(self, workload):
        return json.loads(self.cli("workload", "explain", workload, "-o", "json"))


# ---------------------------------------------------------------------------------------------------------------------
# The show


class Show:
    """A table that grows by one row per expectation."""

    WIDTHS = (46, 34, 38)

    def __init__(self):
        self.held = True
        self.colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def head(self):
        self.line("", "what happens", "what must come of it", "what came of it")
        self.line("", *("-" * width for width in self.WIDTHS))

    def row(self, what, expected, seen, held):
        self.held &= held
        self.line(self.paint("ok  ", 32) if held else self.paint("FAIL", 31), what, expected, seen)

    def line(self, mark, *cells):
        columns = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, self.WIDTHS)]
        for index in range(max(map(len, columns))):
            parts = [(column[index] if index < len(column) else "").ljust(width)
                     for column, width in zip(columns, self.WIDTHS)]
            print((mark if index == 0 and mark else "    ") + "  " + "  ".join(parts).rstrip(), flush=True)

    def paint(self, text, code):
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text


def show(factory):
    table = Show()
    table.head()

    status, pieces, error = ask(factory.app, "What is evidence, and who checks it?")
    answer = "".join(text for _, text in pieces)
    streamed = len(pieces) > 5 and pieces[-1][0] - pieces[0][0] > 0.05
    table.row("the gateway asks the model, with documents from the vector store",
              "allowed; tokens arrive one by one",
              f"{status}, {len(pieces)} tokens over {pieces[-1][0] - pieces[0][0]:.1f} s" if pieces
              else f"{status} {error}", status == 200 and streamed)

    status, headers, _ = request(factory.gateway.url("inference/llm", "/v1/files"))
    table.row("the gateway asks the model server for /v1/files", "denied: no rule has that path",
              seen(status, headers), status == 403)

    status, headers, _ = request(factory.notebook.url("inference/llm", "/v1/chat/completions"), "POST",
                                 {"messages": [{"role": "user", "content": "hello"}]})
    table.row("a notebook, attested as well, asks the model for a completion", "denied: no rule names the notebook",
              seen(status, headers), status == 403)

    reason, detail = factory.refusal_of("impostor", "inference/llm", factory.machines["lab-1"], "model-server-1")
    table.row("the machine lab-1, listed for research/model-lab with the same image, asks for the name inference/llm",
              "refused an identity: not a member", f"refused: {reason}", reason == "not_a_member")

    reason, detail = factory.refusal_of("altered", "inference/llm", factory.machines["gpu-2"], "model-server-altered")
    table.row("the machine gpu-2, listed for inference/llm, boots a model server with one line changed",
              f"refused an identity: its {'image' if factory.simulated else 'PCRs'} differ{'s' if factory.simulated else ''}",
              f"refused: {reason}", reason == "image")

    identity = factory.llm.certificates()["identity"]
    result = identity["attestation_result"]
    table.row("the certificate that inference/llm shows its peers", "names it, and says what was proven",
              f"{identity['id'].rpartition('/ns/')[2]}, class {result['class']}",
              identity["id"] == f"spiffe://{factory.trust_domain}/ns/inference/workload/llm"
              and result["class"] == ("simulated" if factory.simulated else "software")
              and result["devices"][0]["claims"]["image"] == "model-server-1")

    show_revocation(factory, table)

    intact = factory.cli("log", "verify")
    table.row("the record of all issuances and refusals", "intact, by its own hashes", intact.split(",")[0].strip(),
              intact.startswith("intact"))

    print(f"\nThe model said:\n  {answer}\n")
    print(f"Why gpu-2 was refused, as the operator's record has it (the refused machine learns only the word):\n"
          f"  {detail}\n")
    show_certificate(factory.llm)
    return table.held


def show_revocation(factory, table):
    """The machine behind a live stream is revoked, and the stream dies; an act on the record gives it back."""
    name = "inference/stolen-gpu-1"
    stream = LiveStream(factory.gateway.url("inference/llm", "/v1/chat/completions"))
    wait_for("a stream of the model", lambda: stream.words > 40, factory.processes)
    begun = time.monotonic()
    made = json.loads(factory.cli("revoke", name, "--node", "inference/gpu-1", "--reason", "stolen from the rack",
                                  "--max-drop", "100%", "-o", "json"))
    wait_for("the stream to end", lambda: stream.ended, factory.processes)
    took = (stream.ended - begun) * 1000
    print(f" ...\n      [vouchsafe revoke {name} --node inference/gpu-1]"
          f"\n      [the stream ended {took:.0f} ms after the command was typed; the control plane needed"
          f" {made['in_force_us'] / 1000:.1f} ms, the sidecars at most"
          f" {max((s['applied_us'] or 0) for s in made['sidecars']) / 1000:.1f} ms more]\n", flush=True)
    table.row("an operator revokes the machine gpu-1 while a stream runs", "the live stream ends at once",
              f"ended after {stream.words} words, {took:.0f} ms after the command",
              made["made"] and not stream.complete and took < 5000)
    status, headers, _ = request(factory.gateway.url("inference/llm", "/v1/models"))
    table.row("the gateway asks the revoked machine for its models", "denied: revoked", seen(status, headers),
              status in (403, 502, 503))

    factory.cli("revoke", "end", name, "--reason", "it was only moved")
    status, pieces = wait_for("the model to answer again", lambda: answered(factory), factory.processes)
    records = [json.loads(line) for line in factory.cli("log", "tail", "-n", "1000", "-o", "json").splitlines()]
    told = [r for r in records if r["kind"] == "revocation_ended" and r["name"] == name]
    table.row("the operator ends the revocation, and says why", "service returns; the record names him and his reason",
              f"{status}, {len(pieces)} tokens; recorded: {told[-1]['why'] if told else 'nothing'}",
              status == 200 and bool(told) and told[-1]["why"] == "it was only moved")


def answered(factory):
    status, pieces, _ = ask(factory.app, "what is a lease?")
    return (status, pieces) if status == 200 and pieces else None


def seen(status, headers):
    reason = headers.get("vouchsafe-reason")
    return f"{status}" + (f", reason: {reason}" if reason else "")


def show_certificate(sidecar):
    """Prints what a peer sees of a sidecar: its certificate with the attestation result decoded."""
    certificates = sidecar.certificates()
    identity = certificates["identity"]
    result = identity["attestation_result"]
    print("The certificate that inference/llm shows its peers, decoded:")
    rows = [("SPIFFE ID", identity["id"]), ("serial", identity["serial"]), ("ends", moment(certificates["not_after"])),
            ("class", result["class"]), ("binding root", result["root"]), ("instance", result["instance"]),
            ("evidence of", moment(result["evidence_time"])), ("policy revision", result["policy_revision"])]
    for device in result["devices"]:
        rows += [(f"{device['kind']} {name}", value) for name, value in device["claims"].items()]
    for name, value in rows:
        print(f"  {name:<20} {value}")
    print()


def moment(seconds):
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def show_places(factory):
    print("Where to look while it runs:")
    print(f"  ask              curl -N {factory.app}/ask -d '{{\"question\": \"what is a lease?\"}}'")
    print(f"  files and logs   {factory.folder}")
    print(f"  control plane    {factory.vouchsafe} status --data {factory.data}")
    print(f"                   curl http://{factory.control_metrics}/metrics")
    for sidecar in (factory.gateway, factory.llm, factory.vectors, factory.notebook):
        print(f"  {sidecar.workload:<18} curl http://{sidecar.metrics}/metrics")
        print(f"  {'':<18} curl --unix-socket {sidecar.admin} http://admin/certs")


def main():
    arguments = argparse.ArgumentParser(description="Runs the example factory; called by deploy/quickstart.")
    arguments.add_argument("--vouchsafe", type=pathlib.Path, required=True)
    arguments.add_argument("--proxy", type=pathlib.Path, required=True)
    arguments.add_argument("--exit", action="store_true", help="end after the show")
    arguments.add_argument("--simulated", action="store_true", help="made-up evidence, in another trust domain")
    given = arguments.parse_args()

    # Both ways of being asked to end go through the cleaning up below.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if given.simulated:
        print("!!! SIMULATED: there is no TPM here, not even a software one. Every piece of evidence is made up.\n"
              "!!! What you see is the mesh, not its security: identities of this trust domain prove nothing.\n",
              flush=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vouchsafe-"))
    factory = Factory(folder, given.vouchsafe, given.proxy, given.simulated)
    try:
        return run(factory, given.exit)
    except KeyboardInterrupt:
        print("\nStopping ...")
        return 0
    except Failed as failure:
        print(f"\nquickstart: {failure}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        factory.processes.stop_all()
        shutil.rmtree(folder, ignore_errors=True)


def run(factory, only_show):
    begun = time.monotonic()
    factory.start(lambda text: print(f"  {time.monotonic() - begun:5.1f} s  {text}", flush=True))
    print()
    held = show(factory)
    if not held:
        print("Not every expectation held.", file=sys.stderr)
    if only_show:
        if factory.simulated and tpm_can_be_had():
            print("Simulated, although swtpm can be had here: this run proves nothing.", file=sys.stderr)
            return 1
        return 0 if held else 1
    show_places(factory)
    print("\nRunning. Ctrl-C stops everything and leaves nothing behind.", flush=True)
    while True:
        factory.processes.check()
        time.sleep(1)


def tpm_can_be_had():
    return bool(shutil.which("swtpm")) or (os.geteuid() == 0 and bool(shutil.which("apt-get")))


if __name__ == "__main__":
    sys.exit(main())
