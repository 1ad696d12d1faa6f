"""What `./attestation` measures, and the small mesh that it needs: a control plane, software TPMs, two sidecars."""

import dataclasses
import re
import resource
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from typing import Callable

from . import machine
from .machine import LabError
from .mesh import ControlPlane, until
from .processes import Process, free_port, prepare

MICRO = 1e6
DOMAIN = "bench.test"
# Instances that attest at once with simulated evidence: enough to keep the control plane's core busy.
SLOTS = 8


@dataclasses.dataclass
class Measure:
    """`run` takes one variant once; `without` names the variant that others are compared with."""

    name: str
    title: str
    figures: dict
    variants: Callable
    run: Callable
    needs_mesh: bool = False
    without: str | None = None
    higher: tuple = ("rate",)


# ---------------------------------------------------------------------------------------------------------------------
# Judging, on one core and without any network

def _kinds(lab):
    return [case for case in _cases(lab) if case.startswith("evidence_")]


def _cases(lab):
    usage = subprocess.run([str(lab.built["vouchsafe-micro"])], capture_output=True, text=True).stderr
    return re.findall(r"[a-z0-9_]+", usage.partition("one of ")[2])


def _micro(lab, case):
    """Processor time of one more of many: start and parsing of fixtures fall out of the difference of two runs."""
    short = 1000 if case.startswith("verify") else 60
    short = max(2, short // 20) if lab.quick else short
    spent = []
    for times in (short, 3 * short):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([str(lab.built["vouchsafe-micro"]), case, str(times)], capture_output=True, text=True,
                              preexec_fn=lambda: prepare(lab.core))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise LabError(f"{case}: {done.stderr.strip()}")
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"cpu": (spent[1] - spent[0]) / (2 * short) * MICRO}


# ---------------------------------------------------------------------------------------------------------------------
# Handshakes

def _handshake(lab, variant):
    sidecar, folder = lab.sidecars[variant]
    taken = lab.load.run("handshake", target=f"127.0.0.1:{sidecar.port}", connections=8, folder=folder, seconds=lab.seconds,
                         pids=sidecar.pid, post_quantum=True)
    return {"cpu": _cpu_per_unit(taken), "rate": taken["rate"]}


# ---------------------------------------------------------------------------------------------------------------------
# Issuance

def _issue(lab, variant):
    return _issued(_run_issue(lab, variant, lab.seconds))


def _run_issue(lab, variant, seconds, **more):
    if variant == "tpm":
        more |= {"swtpm": ",".join(map(str, lab.tpms)), "workloads": "bench/tpm-", "connections": len(lab.tpms)}
    else:
        more |= {"connections": SLOTS}
    return lab.load.run("issue", target=f"127.0.0.1:{lab.control_plane.listen}", root_pin=lab.control_plane.root_pin, seconds=seconds,
                        pids=lab.control_plane.pid, **more)


def _issued(taken):
    return {"cpu": _cpu_per_unit(taken), "rate": taken["rate"], "p50": taken["latency_us"]["p50"] / 1000,
            "p99": taken["latency_us"]["p99"] / 1000}


def _cpu_per_unit(taken):
    if taken["errors"] or not taken["count"]:
        raise LabError(f"{taken['errors']} errors: {taken['first_error'] or 'nothing came through'}")
    return sum(taken["cpu_seconds"]) * MICRO / taken["count"]


CLAIMS_OFF, CLAIMS_ON = "without claims", "with claims"

MEASURES = [
    Measure("judge", "judging evidence, from files to verdict", {"cpu": "µs"}, _kinds, _micro),
    Measure("peer", "verifying a peer's certificate for the first time", {"cpu": "µs"},
            lambda lab: ["verify_peer", "verify_peer_claims"], _micro, without="verify_peer"),
    Measure("claims", "full mutual handshake with known certificates, inbound side", {"cpu": "µs", "rate": "/s"},
            lambda lab: [CLAIMS_OFF, CLAIMS_ON], _handshake, needs_mesh=True, without=CLAIMS_OFF),
    Measure("issue", "a renewed certificate, at the control plane",
            {"cpu": "µs", "rate": "/s", "p50": "ms", "p99": "ms"},
            lambda lab: ["simulated", *(["tpm"] if lab.tpms else [])], _issue, needs_mesh=True),
]


# ---------------------------------------------------------------------------------------------------------------------
# The mesh

def bring_up(lab, tpms, say):
    """Starts everything; it ends with `lab.stack`."""
    lab.tpms = _software_tpms(lab, tpms, say)
    documents = _documents([_endorsement_key(tpm) for tpm in lab.tpms])
    lab.control_plane = ControlPlane(lab.built["vouchsafe"], lab.core, lab.folder / "control-plane", documents, lab.stack)
    say("  up: control plane" + (f" and {len(lab.tpms)} software TPMs" if lab.tpms else ""))
    certificates, attested = lab.folder / "certificates", lab.folder / "attested"
    lab.load.certificates(certificates)
    # The client's certificate with claims, and all that attesting opens lazily.
    _cpu_per_unit(_run_issue(lab, "simulated", 0.3, save=attested))
    files = (f"{{files: {{chain: {certificates}/server.pem, key: {certificates}/server.key, "
             f"bundle: [{{file: {certificates}/bundle.pem}}], policy: {lab.control_plane.folder}/policy}}}}")
    lab.sidecars = {CLAIMS_OFF: (_sidecar(lab, "sidecar-of-files", files), certificates),
                    CLAIMS_ON: (_sidecar(lab, "sidecar-attested", lab.control_plane.identity("server")), attested)}
    say("  up: a sidecar without claims and one with them")


def _start(lab, name, command, core, folder):
    folder.mkdir(exist_ok=True)
    process = Process(name, command, core, folder, cwd=folder)
    lab.stack.callback(process.stop)
    return process


def _software_tpms(lab, count, say):
    if not shutil.which("swtpm"):
        say("left out: certificates by TPM, for swtpm is not installed (sudo apt-get install swtpm)")
        return []
    sockets = []
    for number in range(count):
        folder = lab.folder / f"tpm-{number}"
        path = folder / "tpm.sock"
        process = _start(lab, f"tpm-{number}", [
            "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--server", f"type=unixio,path={path}",
            "--flags", "not-need-init,startup-clear"], lab.other, folder)
        until(f"software TPM {number} to answer", process, lambda path=path: _connects(path))
        sockets.append(path)
    return sockets


def _connects(path):
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _endorsement_key(tpm):
    done = subprocess.run([str(machine.ROOT / "deploy/local/tpm.py"), "endorsement-key", str(tpm)], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"the software TPM says no endorsement key: {done.stderr.strip()}")
    return done.stdout.strip()


def _sidecar(lab, name, identity):
    folder, port, metrics = lab.folder / name, free_port(), free_port()
    folder.mkdir()
    (folder / "proxy.yaml").write_text(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: Proxy\nspec:\n"
        f"  trust_domain: {DOMAIN}\n  workload: bench/server\n  identity: {identity}\n"
        f"  inbound: [{{listen: '127.0.0.1:{port}', ports: [{{name: api, upstream: '127.0.0.1:9'}}]}}]\n"
        f"  metrics: '127.0.0.1:{metrics}'\n  admin: {folder}/admin.sock\n  workers: 1\n")
    process = _start(lab, name, [lab.built["vouchsafe-proxy"], "--config", folder / "proxy.yaml"], lab.core, folder)
    process.port = port
    until(f"{name} to be ready", process, lambda: _is_ready(metrics))
    return process


def _is_ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _documents(endorsement_keys):
    """Simulated machines and those with a TPM, each a workload of its own, and a door that the first may use."""
    zeros = "0" * 64
    parts = [
        _document("Mesh", "{name: bench}", f"{{trust_domain: {DOMAIN}, danger_accept_simulated: true}}"),
        _document("AttestationProfile", "{name: simulated, namespace: bench}",
                  "{any_of: [{simulated: {images: [{name: bench}]}}]}"),
        _document("AttestationProfile", "{name: tpm, namespace: bench}",
                  f"{{any_of: [{{tpm: {{classes: [software], images: [{{name: bench, pcrs: {{sha256: {{11: '{zeros}'}}}}}}]}}}}]}}"),
        _document("AccessPolicy", "{name: door, namespace: bench}",
                  "{to: {workload: server, port: api}, from: [{workload: sidecar-0}, {workload: client}], "
                  "client: {danger_unattested: true}, server: {danger_unattested: true}, allow: any}"),
    ]
    machines = [*(f"sidecar-{slot}" for slot in range(SLOTS)), "server", "client"]
    for name in machines:
        ports = ", ports: [{name: api, port: 8000, protocol: http}]" if name == "server" else ""
        parts += _machine(name, f"simulated_machine: {name}", "simulated", ports)
    for number, key in enumerate(endorsement_keys):
        parts += _machine(f"tpm-{number}", f"tpm_ek_sha256: '{key}'", "tpm", "")
    return "---\n".join(parts)


def _machine(name, hardware, profile, ports):
    return [_document("Node", f"{{name: {name}, namespace: bench}}", f"{{hardware: {{{hardware}}}}}"),
            _document("Workload", f"{{name: {name}, namespace: bench}}",
                      f"{{profile: {profile}, members: {{nodes: [{name}]}}{ports}}}")]


def _document(kind, metadata, spec):
    return f"apiVersion: vouchsafe.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n"
