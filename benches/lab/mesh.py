"""Control planes of a run, with simulated evidence: where our sidecars have their certificates, claims and policies from."""

import json
import time
from pathlib import Path

from . import policy
from .machine import LabError
from .processes import Process, free_port

START_DEADLINE = 30


class ControlPlane:
    """A running control plane with a policy folder of its own. It ends with `stack`."""

    def __init__(self, binary, core, folder, documents, stack):
        self.listen, self.folder = free_port(), Path(folder)
        (self.folder / "policy").mkdir(parents=True)
        (self.folder / "policy" / "policy.yaml").write_text(documents)
        configuration = self.folder / "control-plane.yaml"
        configuration.write_text(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: ControlPlane\n"
            f"spec: {{listen: '127.0.0.1:{self.listen}', data: data, policy: policy, metrics: none}}\n")
        self.process = Process("control-plane", [binary, "serve", "--config", configuration], core, self.folder,
                               cwd=self.folder)
        stack.callback(self.process.stop)
        self.root_pin = until("the control plane to be ready", self.process, self._said_root_pin)

    @property
    def pid(self):
        return self.process.pid

    def _said_root_pin(self):
        for line in self.process.log.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if entry.get("message") == "control plane ready":
                return entry["root_pin"]
        return None

    def identity(self, machine):
        """What a sidecar's configuration says of its identity; `machine` is what its evidence claims to be."""
        return (f"{{control_plane: {{addresses: ['127.0.0.1:{self.listen}'], root_pins: ['{self.root_pin}'], "
                f"attester: {{simulated: {{machine: {machine}, image: bench}}}}}}}}")

    def certify(self, load, folder):
        """A certificate with claims for a client that is no sidecar, as `client.pem`, `client.key` and `ca.pem`."""
        taken = load.run("issue", target=f"127.0.0.1:{self.listen}", root_pin=self.root_pin, workloads="bench/client-",
                         connections=1, count=1, seconds=START_DEADLINE, save=folder)
        if taken["errors"]:
            raise LabError(f"a client was not certified: {taken['first_error']}")


class Meshes:
    """A control plane for each policy that pairs are compared under, started when it is first asked for.

    They idle while load is measured: nothing is renewed for twelve hours, and the core is that of client and backend.
    """

    def __init__(self, binary, core, folder, load, stack):
        self.binary, self.core, self.folder, self.load, self.stack = binary, core, Path(folder), load, stack
        self.running = {}

    def of(self, options):
        """The control plane whose policy is as these options of a pair say, and the folder of a certified client."""
        wanted = policy.Wanted(**{name: options[name] for name in ("protocol", "rules", "revocations")})
        if wanted not in self.running:
            if not self.binary:
                raise LabError("our pairs need a control plane")
            folder = self.folder / f"mesh-{len(self.running)}"
            plane = ControlPlane(self.binary, self.core, folder, policy.documents(wanted), self.stack)
            plane.certify(self.load, folder / "client")
            self.running[wanted] = plane, folder / "client"
        plane, _ = self.running[wanted]
        plane.process.assert_alive()
        return self.running[wanted]


def until(what, process, question):
    deadline = time.monotonic() + START_DEADLINE
    while time.monotonic() < deadline:
        process.assert_alive()
        answer = question()
        if answer:
            return answer
        time.sleep(0.02)
    raise LabError(f"waited {START_DEADLINE} s for {what}:\n{process.tail()}")
