#!/usr/bin/env python3
"""The firmware's part of the example: software TPMs, and the measuring of what boots on them.

On a real machine the firmware extends the PCRs while it boots, and the TPM is a chip. Here each "machine" is one swtpm
process, and "booting" a component measures its program files into PCR 11, one after the other.

    tpm.py measure FILE...         the value that PCR 11 has after these files: a reference value for the profile
    tpm.py endorsement-key SOCKET  the `tpm_ek_sha256` of the software TPM behind a Unix socket, for its Node
"""

import contextlib
import hashlib
import os
import pathlib
import socket
import struct
import sys
import time

# The PCR in which Linux images measure themselves too (systemd-stub); any PCR that firmware resets would do.
PCR = 11

TPM_ST_NO_SESSIONS, TPM_ST_SESSIONS = 0x8001, 0x8002
TPM_RH_ENDORSEMENT, TPM_RS_PW = 0x4000000B, 0x40000009
TPM_CC_CREATE_PRIMARY, TPM_CC_FLUSH_CONTEXT, TPM_CC_PCR_EXTEND = 0x131, 0x165, 0x182
TPM_ALG_SHA256 = 0x000B

# Template L-2 of the TCG EK Credential Profile 2.x: an ECC P-256 endorsement key.
EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
EK_TEMPLATE = (
    struct.pack(">HHI", 0x0023, TPM_ALG_SHA256, 0x000300B2)
    + struct.pack(">H", len(EK_POLICY)) + EK_POLICY
    + struct.pack(">HHH", 0x0006, 128, 0x0043)  # AES-128-CFB
    + struct.pack(">HHH", 0x0010, 0x0003, 0x0010)  # no scheme, NIST P-256, no KDF
    + (struct.pack(">H", 32) + bytes(32)) * 2
)


def measure(files):
    """The value of a PCR that was zero and into which these files were measured in turn."""
    value = bytes(32)
    for file in files:
        value = hashlib.sha256(value + digest(file)).digest()
    return value.hex()


def digest(file):
    return hashlib.sha256(pathlib.Path(file).read_bytes()).digest()


class Tpm:
    """A TPM behind a Unix socket."""

    def __init__(self, socket_path):
        self.socket = socket_path

    def boot(self, files):
        """Measures files as firmware would."""
        for file in files:
            authorization = struct.pack(">IHBH", TPM_RS_PW, 0, 0, 0)
            self.command(TPM_ST_SESSIONS, TPM_CC_PCR_EXTEND,
                         struct.pack(">I", PCR) + struct.pack(">I", len(authorization)) + authorization
                         + struct.pack(">IH", 1, TPM_ALG_SHA256) + digest(file))

    def endorsement_key(self):
        """SHA-256 of the endorsement key's public area: which TPM this is, as a `Node` says it."""
        authorization = struct.pack(">IHBH", TPM_RS_PW, 0, 0, 0)
        sensitive = struct.pack(">HH", 0, 0)
        body = (struct.pack(">I", TPM_RH_ENDORSEMENT) + struct.pack(">I", len(authorization)) + authorization
                + struct.pack(">H", len(sensitive)) + sensitive
                + struct.pack(">H", len(EK_TEMPLATE)) + EK_TEMPLATE
                + struct.pack(">HI", 0, 0))
        answer = self.command(TPM_ST_SESSIONS, TPM_CC_CREATE_PRIMARY, body)
        handle, _, size = struct.unpack_from(">IIH", answer)
        public = answer[10:10 + size]
        self.command(TPM_ST_NO_SESSIONS, TPM_CC_FLUSH_CONTEXT, struct.pack(">I", handle))
        return hashlib.sha256(public).hexdigest()

    def command(self, tag, code, body):
        with socket.socket(socket.AF_UNIX) as tpm:
            tpm.settimeout(20)
            # A path below the working directory keeps long temporary folders within the limit of socket addresses.
            tpm.connect(os.path.relpath(self.socket))
            tpm.sendall(struct.pack(">HII", tag, 10 + len(body), code) + body)
            head = self.receive(tpm, 10)
            _, size, status = struct.unpack(">HII", head)
            answer = self.receive(tpm, size - 10)
        if status != 0:
            raise RuntimeError(f"the TPM answered {status:#x} to command {code:#x}")
        return answer

    @staticmethod
    def receive(tpm, size):
        received = b""
        while len(received) < size:
            part = tpm.recv(size - len(received))
            if not part:
                raise RuntimeError("the TPM closed the connection")
            received += part
        return received


class SoftwareTpm(Tpm):
    """One swtpm process with state of its own: a machine that has just been switched on."""

    def __init__(self, folder, spawn):
        folder.mkdir(mode=0o700)
        super().__init__(folder / "tpm.sock")
        self.process = spawn("swtpm", [
            "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}",
            "--server", f"type=unixio,path={self.socket}", "--ctrl", f"type=unixio,path={folder / 'ctrl.sock'}",
            "--flags", "not-need-init,startup-clear",
        ])
        deadline = time.monotonic() + 20
        while not self.listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("swtpm does not start")
            time.sleep(0.01)

    def listens(self):
        # The socket's file is there a moment before anybody listens on it.
        with socket.socket(socket.AF_UNIX) as tpm, contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            tpm.connect(os.path.relpath(self.socket))
            return True
        return False


def main():
    match sys.argv[1:]:
        case ["measure", *files] if files:
            print(measure(files))
        case ["endorsement-key", path]:
            print(Tpm(pathlib.Path(path)).endorsement_key())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
