"""Builds what is measured, and returns the paths that cargo reports, never stale ones."""

import json
import subprocess

from . import machine
from .machine import LabError

PACKAGES = {"vouchsafe-load": "vouchsafe-benches", "vouchsafe": "vouchsafe-control-plane", "vouchsafe-micro": "vouchsafe-benches",
            "vouchsafe-proxy": "vouchsafe-proxy"}


def build(profile, binaries, say):
    command = ["cargo", "build", "--locked", "--profile", profile, "--message-format=json-render-diagnostics"]
    for binary in binaries:
        command += ["-p", PACKAGES[binary], "--bin", binary]
    say(f"building in profile {profile}" + ("; the first time takes several minutes" if profile == "release" else ""))
    done = subprocess.run(command, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise LabError("the build failed")
    built = {}
    for message in map(json.loads, done.stdout.splitlines()):
        if message.get("executable"):
            built[message["target"]["name"]] = message["executable"]
    return built
