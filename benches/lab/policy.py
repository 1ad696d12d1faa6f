"""Policy documents for our pair: the measured door, and as many others as are asked for."""

import dataclasses

# Rules of the measured door: the last one matches, so that all are looked at.
RULES_OF_DOOR = 10

# What both ends must have proven, and the sidecars judge at each connection and request: the class, a claim, and of a
# client how lately.
PROVEN = "classes: [simulated], require: {simulated: {image: [bench-1, bench]}}"
ATTESTED = f"client: {{attested_within: 24h, {PROVEN}}}\n  server: {{{PROVEN}}}"
UNATTESTED = "client: {danger_unattested: true}\n  server: {danger_unattested: true}"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """`rules` of the whole mesh; 0 stands for one rule that allows any request. Without `attested` none asks for more than
    a name."""

    protocol: str
    rules: int = RULES_OF_DOOR
    revocations: int = 0
    attested: bool = True


def documents(wanted):
    parts = [_mesh(), _profile()]
    for name in ("client", "client-0"):
        parts += [_node(name), _workload(name, name)]
    parts += [_node("server"), _workload("server", "server", wanted.protocol)]
    if wanted.rules == 0 or wanted.protocol == "tcp":
        parts.append(_access(wanted, "server", "door", "allow: any" if wanted.protocol == "http" else ""))
    else:
        for number in range(RULES_OF_DOOR - 1):
            parts.append(_access(wanted, "server", f"door-{number}",
                                 f'allow: [{{methods: [GET], paths: ["/v{number}/items/*"]}}]'))
        parts.append(_access(wanted, "server", "door",
                             'allow:\n    - {methods: [GET], paths: [/small, "/bytes/*", "/pages/*", "/sse/*"]}\n'
                             '    - {grpc: {service: bench.Echo, methods: [Unary]}}'))
    # The other doors: ten rules each, as the measured one has. Both ends of the pair may come, so that both hold them all.
    for door in range(max(0, wanted.rules - RULES_OF_DOOR) // RULES_OF_DOOR):
        name = f"other-{door}"
        parts.append(_workload(name, "server", "http"))
        for number in range(RULES_OF_DOOR):
            parts.append(_access(wanted, name, f"{name}-{number}",
                                 f'allow: [{{methods: [GET], paths: ["/v{number}/items/*"]}}]', "client", "server"))
    parts += [_revocation(number) for number in range(wanted.revocations)]
    return "---\n".join(parts)


def _head(kind, name, namespace=True):
    place = ", namespace: bench" if namespace else ""
    return f"apiVersion: vouchsafe.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}{place}}}\n"


def _mesh():
    # Nothing is proven again or renewed while a run lasts.
    return _head("Mesh", "bench", namespace=False) + (
        "spec: {trust_domain: bench.test, certificates: {lifetime: 24h}, reattest: {root: 12h}, "
        "danger_accept_simulated: true}\n")


def _profile():
    return _head("AttestationProfile", "simulated") + "spec: {any_of: [{simulated: {images: [{name: bench}]}}]}\n"


def _node(name):
    return _head("Node", name) + f"spec: {{hardware: {{simulated_machine: {name}}}}}\n"


def _workload(name, node, protocol=None):
    ports = f"\n  ports:\n    - {{name: api, port: 8000, protocol: {protocol}}}" if protocol else ""
    return _head("Workload", name) + f"spec:\n  profile: simulated\n  members: {{nodes: [{node}]}}{ports}\n"


def _access(wanted, workload, name, allow, *callers):
    callers = ", ".join(f"{{workload: {caller}}}" for caller in callers or ("client", "client-0"))
    demands = ATTESTED if wanted.attested else UNATTESTED
    return _head("AccessPolicy", name) + (
        f"spec:\n  to: {{workload: {workload}, port: api}}\n  from: [{callers}]\n  {demands}\n  {allow}\n")


def _revocation(number):
    # Of certificates that nobody has: what is measured is that each is thought of.
    return _head("Revocation", f"gone-{number}") + (
        f"spec: {{match: {{serial: [5e{number:06x}]}}, action: cut, reason: bench}}\n")
