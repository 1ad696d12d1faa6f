"""Policy documents for our pair: the measured door, and as many others as are asked for."""

# Rules of the measured door: the last one matches, so that all are looked at.
RULES_OF_DOOR = 10


def documents(protocol, rules):
    """`rules` of the whole mesh; 0 stands for one rule that allows any request."""
    parts = [_mesh(), _nobody(), _workload("client"), _workload("server", protocol)]
    if rules == 0 or protocol == "tcp":
        parts.append(_access("server", "door", 'allow: any' if protocol == "http" else ""))
    else:
        for number in range(RULES_OF_DOOR - 1):
            parts.append(_access("server", f"door-{number}",
                                 f'allow: [{{methods: [GET], paths: ["/v{number}/items/*"]}}]'))
        parts.append(_access("server", "door", 'allow:\n    - {methods: [GET], paths: [/small, "/bytes/*", "/pages/*", "/sse/*"]}\n'
                                               '    - {grpc: {service: bench.Echo, methods: [Unary]}}'))
    # The other doors: ten rules each, as the measured one has.
    for door in range(max(0, rules - RULES_OF_DOOR) // RULES_OF_DOOR):
        name = f"other-{door}"
        parts.append(_workload(name, "http"))
        for number in range(RULES_OF_DOOR):
            parts.append(_access(name, f"{name}-{number}",
                                 f'allow: [{{methods: [GET], paths: ["/v{number}/items/*"]}}]'))
    return "---\n".join(parts)


def _head(kind, name, namespace=True):
    place = ", namespace: bench" if namespace else ""
    return f"apiVersion: vouchsafe.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}{place}}}\n"


def _mesh():
    return _head("Mesh", "bench", namespace=False) + "spec: {trust_domain: bench.test}\n"


def _nobody():
    """A profile and a node that no machine satisfies: identities come from files here, and documents must be whole."""
    zeros = "0" * 64
    return (_head("AttestationProfile", "nobody") + "spec:\n  any_of:\n    - tpm: {classes: [hardware, software], images: "
            f'[{{name: none, pcrs: {{sha256: {{11: "{zeros}"}}}}}}]}}\n---\n'
            + _head("Node", "nowhere") + f'spec: {{hardware: {{tpm_ek_sha256: "{zeros}"}}}}\n')


def _workload(name, protocol=None):
    ports = f"\n  ports:\n    - {{name: api, port: 8000, protocol: {protocol}}}" if protocol else ""
    return _head("Workload", name) + f"spec:\n  profile: nobody\n  members: {{nodes: [nowhere]}}{ports}\n"


def _access(workload, name, allow):
    return _head("AccessPolicy", name) + (
        f"spec:\n  to: {{workload: {workload}, port: api}}\n  from: [{{workload: client}}]\n"
        f"  client: {{danger_unattested: true}}\n  server: {{danger_unattested: true}}\n  {allow}\n")
