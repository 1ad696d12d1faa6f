"""Processes of a run: pinned to a core, ended with the run whatever ends it."""

import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

from .machine import LabError

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)

_given = set()


def free_port():
    """A free loopback port below the range from which clients get theirs, so that no client takes it meanwhile."""
    for _ in range(1000):
        port = random.randint(20_000, 32_000)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise LabError("no free port from 20000 to 32000")


class Process:
    """One child process held on one core, or on several; its standard error goes to a file that is shown when it dies."""

    def __init__(self, name, command, core, folder, **options):
        self.name = name
        self.log = Path(folder) / f"{name}.log"
        with open(self.log, "ab") as log:
            self.popen = subprocess.Popen(
                [str(part) for part in command],
                preexec_fn=lambda: prepare(core),
                stdin=options.pop("stdin", subprocess.DEVNULL),
                stdout=options.pop("stdout", subprocess.DEVNULL),
                stderr=log,
                **options,
            )

    @property
    def pid(self):
        return self.popen.pid

    def assert_alive(self):
        status = self.popen.poll()
        if status is not None:
            raise LabError(f"{self.name} ended with status {status}:\n{self.tail()}")

    def tail(self):
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return "\n".join("    " + line for line in lines[-15:])

    def resident_kib(self):
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise LabError(f"{self.name} has no resident memory: it has ended")

    def stop(self):
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(timeout=2)
            except subprocess.TimeoutExpired:
                # Some drain for longer than anyone here waits.
                self.popen.kill()
                self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream:
                stream.close()


def cores_of(core):
    return {core} if isinstance(core, int) else set(core)


def prepare(core):
    if core is not None:
        os.sched_setaffinity(0, cores_of(core))
    # If this run is killed, the kernel ends its children.
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Load:
    """The load generator, and the backend that it also is."""

    def __init__(self, binary, core, folder):
        self.binary, self.core, self.folder = binary, core, folder

    def backend(self):
        process = Process("backend", [self.binary, "backend"], self.core, self.folder,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        line = process.popen.stdout.readline()
        if not line:
            process.popen.wait()
            process.assert_alive()
        host, _, port = json.loads(line)["listen"].rpartition(":")
        self.backend_process = process
        return process, (host, int(port))

    @contextlib.contextmanager
    def spread_over(self, cores):
        """Lets client and backend use these cores meanwhile."""
        home = self.core
        try:
            self._move(cores)
            yield
        finally:
            self._move(home)

    def _move(self, core):
        self.core = core
        self.backend_process.assert_alive()
        for task in Path(f"/proc/{self.backend_process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores_of(core))

    def run(self, kind, **options):
        """Runs one load to its end and returns its report."""
        command = [self.binary, kind, *_options(options)]
        patience = float(options.get("seconds", 2)) + float(options.get("warmup", 0.3)) + 60
        done = subprocess.run([str(part) for part in command], preexec_fn=lambda: prepare(self.core),
                              capture_output=True, text=True, timeout=patience)
        if done.returncode:
            raise LabError(done.stderr.strip() or f"the load generator ended with {done.returncode}")
        return json.loads(done.stdout)

    def hold(self, **options):
        """Opens idle connections and returns the process that holds them."""
        process = Process("idle", [self.binary, "idle", *_options(options)], self.core, self.folder,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if not process.popen.stdout.readline():
            process.popen.wait()
            raise LabError(f"idle connections could not be opened:\n{process.tail()}")
        return process

    def certificates(self, folder):
        subprocess.run([self.binary, "certificates", "--folder", str(folder)], check=True)


def _options(options):
    for key, value in options.items():
        if value is True:
            yield f"--{key.replace('_', '-')}"
        elif value is not None and value is not False:
            yield f"--{key.replace('_', '-')}"
            yield str(value)


def wait_for_answer(port, deadline, alive):
    """Asks for `/small` until it is answered with 200; returns the seconds that took."""
    started = time.monotonic()
    last = "nothing listens"
    while time.monotonic() - started < deadline:
        alive()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                connection.settimeout(max(2, deadline / 5))
                connection.sendall(b"GET /small HTTP/1.1\r\nhost: backend.test\r\nconnection: close\r\n\r\n")
                answer = connection.recv(400)
                if answer.startswith(b"HTTP/1.1 200"):
                    return time.monotonic() - started
                last = answer.split(b"\r\n")[0].decode(errors="replace") or "closed without an answer"
        except OSError as error:
            last = str(error)
        time.sleep(0.002)
    raise LabError(f"no answer within {deadline} s: {last}")
