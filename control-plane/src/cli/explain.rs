//! `vouchsafe explain`: why a request is allowed or denied, by the very walk that the sidecar makes.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use vouchsafe_attestation::claims::{ClaimValue, Claims, Class, EvidenceKind, definition};
use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::result::{AttestationResult, DeviceResult, InstanceId};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::svid::{ATTESTATION_RESULT_OID, sha256};
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_config::load;
use vouchsafe_config::policy::{Binding, Decision, Direction, Question, Request, normalize_path};
use vouchsafe_config::revocation::{Bearer, Match};
use vouchsafe_config::set::{Options, PolicySet};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use super::Outcome;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Explain {
    /// Files and folders of policy.
    pub policy: Vec<PathBuf>,
    /// The client: `namespace/name` or a SPIFFE ID. May be left out where `peer` says it.
    pub from: Option<String>,
    /// The workload that is called: `namespace/name`.
    pub to: String,
    /// Its port.
    pub port: String,
    /// HTTP method; without it the connection alone is asked about.
    pub method: Option<String>,
    /// Path of the request; default `/`.
    pub path: Option<String>,
    /// Whether the request is gRPC.
    pub grpc: bool,
    /// PEM certificate of the client, whose attestation result is read (and not verified).
    pub peer: Option<PathBuf>,
    /// Class that the client has; default `hardware`.
    pub class: Option<String>,
    /// Claims that the client has proven: `tpm.image=llm-1`.
    pub claims: Vec<String>,
    /// Age of its evidence; default none.
    pub evidence_age: Duration,
    /// It has no attestation result.
    pub unattested: bool,
}

/// Answers; the status is 0 where the request would be admitted, 1 where it would be denied, 2 for a bad question.
pub fn explain(asked: &Explain, now: SystemTime) -> Outcome {
    let set = match load::policy(&asked.policy, Options { now: Some(now) }) {
        Ok(set) => set,
        Err(problems) => return Outcome::misused(problems.to_string()),
    };
    match answer(asked, &set, now) {
        Ok(outcome) => outcome,
        Err(message) => Outcome::misused(format!("error: {message}\n")),
    }
}

fn answer(asked: &Explain, set: &PolicySet, now: SystemTime) -> Result<Outcome, String> {
    let mesh = set
        .mesh()
        .ok_or("the policy has no Mesh document, so the trust domain is unknown")?;
    let trust_domain = &mesh.trust_domain;
    let to: WorkloadName = parse("--to", &asked.to)?;
    let port: Name = parse("--port", &asked.port)?;
    let peer = match &asked.peer {
        Some(file) => read_peer(file)?,
        None => {
            let from = asked
                .from
                .as_deref()
                .ok_or("say who asks: --from or --peer")?;
            let id = client_id(from, trust_domain)?;
            let result = if asked.unattested {
                None
            } else {
                Some(claimed(asked, now)?)
            };
            Client {
                id,
                certificate: None,
                result,
            }
        }
    };
    let Client {
        id,
        certificate,
        result,
    } = &peer;
    let shown = certificate.as_ref();
    let path =
        normalize_path(asked.path.as_deref().unwrap_or("/")).map_err(|error| error.to_string())?;
    let request = asked.method.as_deref().map(|method| Request {
        method,
        path: &path,
        grpc: asked.grpc,
    });
    let policy = set.policy(trust_domain);
    let explanation = policy.explain(&Question {
        direction: Direction::Inbound,
        local: &to,
        peer: Bearer {
            id,
            serial: shown.map(|shown| shown.serial.as_slice()),
            spki_sha256: shown.map(|shown| &shown.spki_sha256),
            authority_spki_sha256: shown.and_then(|shown| shown.authorities.last()),
            // Whoever is named in the file counts: which of them ends the chain is the bundle's to say.
            intermediate_spki_sha256: shown.map_or(&[][..], |shown| &shown.authorities),
            result: result.as_ref(),
        },
        // As our sidecars do wherever a rule asks for it.
        binding: Binding::Exporter(now),
        port: &port,
        number: None,
        request: request.as_ref(),
        now,
    });
    let unknown = not_judged(set, shown, now);
    let shown = match &request {
        Some(request) => format!("{} {} ", request.method, request.path),
        None => String::new(),
    };
    let class = result
        .as_ref()
        .map_or("unattested", |result| result.class.as_str());
    let output = format!("{id} ({class}) -> {to}:{port} {shown}\n{explanation}{unknown}");
    Ok(match explanation.decision {
        Decision::Allow(_) | Decision::Audit(_) => Outcome::good(output),
        Decision::Deny(_) => Outcome::bad(output),
    })
}

fn parse<T>(option: &str, text: &str) -> Result<T, String>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse()
        .map_err(|error| format!("{option} `{text}`: {error}"))
}

fn client_id(from: &str, trust_domain: &TrustDomain) -> Result<SpiffeId, String> {
    if from.starts_with("spiffe://") {
        return parse("--from", from);
    }
    let workload = parse("--from", from)?;
    Ok(SpiffeId::for_workload(trust_domain, &workload))
}

/// The result that the options describe.
fn claimed(asked: &Explain, now: SystemTime) -> Result<AttestationResult, String> {
    let class: Class = parse("--class", asked.class.as_deref().unwrap_or("hardware"))?;
    let mut devices: Vec<DeviceResult> = Vec::new();
    for claim in &asked.claims {
        let shape = || {
            format!("--claim `{claim}`: expected `<kind>.<claim>=<value>`, like `tpm.image=llm-1`")
        };
        let (name, value) = claim.split_once('=').ok_or_else(shape)?;
        let (kind, name) = name.split_once('.').ok_or_else(shape)?;
        let kind: EvidenceKind = parse("--claim", kind)?;
        let value = claim_value(kind, name, value)?;
        let at = devices.iter().position(|device| device.kind == kind);
        let at = at.unwrap_or_else(|| {
            devices.push(DeviceResult {
                kind,
                index: 0,
                claims: Claims::default(),
            });
            devices.len() - 1
        });
        if let Some(device) = devices.get_mut(at) {
            device
                .claims
                .set(kind, name, value)
                .map_err(|error| error.to_string())?;
        }
    }
    let stated = EvidenceKind::binding_root(devices.iter().map(|device| device.kind));
    let root = stated.unwrap_or(match class {
        Class::Simulated => EvidenceKind::Simulated,
        Class::Software | Class::Hardware => EvidenceKind::Tpm,
    });
    if !devices.iter().any(|device| device.kind == root) {
        devices.push(DeviceResult {
            kind: root,
            index: 0,
            claims: Claims::default(),
        });
    }
    Ok(AttestationResult {
        class,
        root,
        instance: InstanceId([0; 16]),
        evidence_time: now
            .checked_sub(asked.evidence_age)
            .unwrap_or(SystemTime::UNIX_EPOCH),
        policy_revision: Revision::default(),
        ear_sha256: [0; 32],
        devices,
        inclusion_promise: None,
    })
}

fn claim_value(kind: EvidenceKind, name: &str, text: &str) -> Result<ClaimValue, String> {
    let definition =
        definition(kind, name).ok_or_else(|| format!("`{kind}` has no claim `{name}`"))?;
    ClaimValue::parse(definition.value, text)
        .map_err(|error| format!("--claim: `{text}` for `{name}` is {error}"))
}

/// Revocations in force that mean certificates by what the question does not say: they are not judged, and that is said.
fn not_judged(set: &PolicySet, shown: Option<&Certificate>, now: SystemTime) -> String {
    let in_force = || set.revocations().filter(|one| one.is_in_force(now));
    let names = |means: fn(&Match) -> bool| -> Vec<String> {
        let found = in_force().filter(|one| means(&one.matches));
        found.map(|one| one.name.to_string()).collect()
    };
    let (unjudged, remedy) = match shown {
        None => (
            names(|one| {
                !(one.serials.is_empty() && one.spkis.is_empty() && one.authorities.is_empty())
            }),
            "give the client's certificate, with its chain: --peer FILE",
        ),
        Some(shown) if shown.authorities.is_empty() => (
            names(|one| !one.authorities.is_empty()),
            "give the whole chain: the file has no certificate of an authority",
        ),
        Some(_) => return String::new(),
    };
    match unjudged.is_empty() {
        true => String::new(),
        false => format!(
            "  not judged: revocations by certificate ({}): {remedy}\n",
            unjudged.join(", ")
        ),
    }
}

/// Whom the question is about.
struct Client {
    id: SpiffeId,
    certificate: Option<Certificate>,
    result: Option<AttestationResult>,
}

/// What revocations look for in a certificate.
struct Certificate {
    serial: Vec<u8>,
    spki_sha256: [u8; 32],
    /// Keys of the authorities behind it in the file, the one that signed it first.
    authorities: Vec<[u8; 32]>,
}

/// What a certificate says of itself. It explains; it admits nobody.
fn read_peer(file: &std::path::Path) -> Result<Client, String> {
    let shown = file.display();
    let failed = |what: &str| format!("{shown}: {what}");
    let text = std::fs::read(file).map_err(|error| failed(&error.to_string()))?;
    let mut blocks = Vec::new();
    for block in Pem::iter_from_buffer(&text).take(MAX_CHAIN) {
        blocks.push(block.map_err(|_| failed("no certificate in PEM"))?);
    }
    let mut chain = Vec::new();
    for block in blocks.iter().filter(|block| block.label == "CERTIFICATE") {
        let parsed = X509Certificate::from_der(&block.contents);
        chain.push(parsed.map_err(|_| failed("no certificate"))?.1);
    }
    let Some((certificate, authorities)) = chain.split_first() else {
        return Err(failed("no certificate in PEM"));
    };
    let key = |one: &X509Certificate<'_>| sha256(one.public_key().raw);
    let certified = Certificate {
        serial: certificate.raw_serial().to_vec(),
        spki_sha256: key(certificate),
        authorities: authorities.iter().map(key).collect(),
    };
    let mut id = None;
    let mut result = None;
    for extension in certificate.extensions() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            id = names.general_names.iter().find_map(|name| match name {
                GeneralName::URI(uri) => uri.parse::<SpiffeId>().ok(),
                _ => None,
            });
        }
        let is_result = extension
            .oid
            .iter()
            .is_some_and(|arcs| arcs.eq(ATTESTATION_RESULT_OID));
        if is_result {
            let decoded = AttestationResult::decode(extension.value);
            result = Some(decoded.map_err(|error| failed(&error.to_string()))?);
        }
    }
    let id = id.ok_or_else(|| failed("the certificate has no SPIFFE ID"))?;
    Ok(Client {
        id,
        certificate: Some(certified),
        result,
    })
}

/// More than any chain has; a file with a whole bundle behind the certificate is no chain.
const MAX_CHAIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(folder: &std::path::Path) -> Explain {
        Explain {
            policy: vec![folder.to_owned()],
            from: Some("edge/gateway".to_owned()),
            to: "inference/llm".to_owned(),
            port: "openai".to_owned(),
            method: Some("POST".to_owned()),
            path: Some("/v1/chat/completions".to_owned()),
            grpc: false,
            peer: None,
            class: Some("software".to_owned()),
            claims: vec!["tpm.image=base-1".to_owned()],
            evidence_age: Duration::ZERO,
            unattested: false,
        }
    }

    fn example() -> PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/ai-factory")
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Explain), status: u8, words: &str) {
        let mut asked = asked(&example());
        change(&mut asked);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let outcome = explain(&asked, now);
        let shown = format!("{}{}", outcome.output, outcome.error);
        assert!(shown.contains(words), "{shown}");
        assert_eq!(outcome.status, status, "{shown}");
    }

    #[test]
    fn an_answer_names_the_rule_with_document_and_line() {
        check(
            |_| {},
            0,
            "ALLOW\n  + AccessPolicy inference/gateway-to-llm (",
        );
        check(|_| {}, 0, "llm.yaml:15) allows");
    }

    #[test]
    fn a_denial_names_the_first_condition_that_failed() {
        check(
            |asked| asked.path = Some("/v1/files".into()),
            1,
            "does not allow this request",
        );
        check(
            |asked| asked.unattested = true,
            1,
            "demands an attestation result",
        );
        check(
            |asked| asked.evidence_age = Duration::from_secs(1300),
            1,
            "demands evidence of the last 20m, and the peer's is 21m40s old",
        );
        check(
            |asked| asked.from = Some("inference/llm".into()),
            1,
            "is not for this client",
        );
        check(|asked| asked.port = "other".into(), 1, "DENY: unknown_door");
    }

    #[test]
    fn a_question_without_sense_says_what_is_wrong() {
        check(
            |asked| asked.to = "llm".into(),
            2,
            "--to `llm`: expected `<namespace>/<name>`",
        );
        check(
            |asked| asked.claims = vec!["tpm.imagee=x".into()],
            2,
            "no claim `imagee`",
        );
        check(
            |asked| asked.path = Some("/a/../b".into()),
            2,
            "dot segment",
        );
        check(|asked| asked.from = None, 2, "--from or --peer");
    }
}
