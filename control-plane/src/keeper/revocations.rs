//! What becomes of revocations, for the record: nothing that was revoked comes back unless the record says why.
//!
//! The store keeps which revocations were in force. Whatever changes that (an operator's command, a file that somebody
//! edited or removed, also while no control plane ran, or the hour of its own end) is seen as a difference between
//! what is kept and the policy in force, and is recorded before it acts.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use vouchsafe_api::convert::record::{Event, RevocationAct};
use vouchsafe_api::convert::unix_ms;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_config::document::Kind;
use vouchsafe_config::set::PolicySet;

/// Whose act a change of policy is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Actor {
    /// Who.
    pub(crate) name: String,
    /// Why, in his words.
    pub(crate) why: String,
}

impl Actor {
    /// Somebody who wrote to the policy folder.
    pub(crate) fn folder() -> Self {
        Self {
            name: "whoever wrote to the policy folder".to_owned(),
            why: String::new(),
        }
    }
}

/// Revocations in force, by name.
pub(crate) type Held = BTreeMap<String, HeldRevocation>;

/// One of them, as it is stored.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct HeldRevocation {
    document_sha256: String,
    action: String,
    reason: String,
    /// 0: never.
    expires_ms: u64,
}

/// The revocations of a policy that are in force at `now`.
pub(crate) fn in_force(set: &PolicySet, now: SystemTime) -> Held {
    let revocations = set.revocations().filter(|one| one.is_in_force(now));
    let documents = set.documents().iter();
    let documents = documents.filter(|document| document.kind == Kind::Revocation);
    let texts: HashMap<_, _> = documents
        .map(|one| ((one.namespace.as_ref(), &one.name), one.text.as_str()))
        .collect();
    let held = revocations.map(|one| {
        let key = (Some(&one.name.namespace), &one.name.name);
        let text = texts.get(&key).copied().unwrap_or_default();
        let held = HeldRevocation {
            document_sha256: hex::encode(sha256(text.as_bytes())),
            action: one.action.as_str().to_owned(),
            reason: one.reason.clone(),
            expires_ms: one.expires.map_or(0, unix_ms),
        };
        (one.name.to_string(), held)
    });
    held.collect()
}

/// What to record when `before` becomes `after`.
pub(crate) fn events(before: &Held, after: &Held, actor: &Actor, now: SystemTime) -> Vec<Event> {
    let act = |name: &str, held: &HeldRevocation, how: &str| {
        let is_expiry = how == EXPIRED;
        let mut document_sha256 = [0; 32];
        // What was stored is what this file wrote; a damaged digest only fails to name the document.
        let _ = hex::decode_to_slice(&held.document_sha256, &mut document_sha256);
        Box::new(RevocationAct {
            name: name.to_owned(),
            document_sha256,
            action: held.action.clone(),
            reason: held.reason.clone(),
            expires_ms: held.expires_ms,
            how: how.to_owned(),
            actor: match is_expiry {
                true => "its own `expires`".to_owned(),
                false => actor.name.clone(),
            },
            why: match is_expiry {
                true => String::new(),
                false => actor.why.clone(),
            },
        })
    };
    let mut events = Vec::new();
    for (name, held) in before {
        let has_expired = held.expires_ms != 0 && held.expires_ms <= unix_ms(now);
        match after.get(name) {
            Some(same) if same == held => {}
            Some(_) => events.push(Event::RevocationEnded(act(name, held, "changed"))),
            None if has_expired => events.push(Event::RevocationEnded(act(name, held, EXPIRED))),
            None => events.push(Event::RevocationEnded(act(name, held, "removed"))),
        }
    }
    for (name, held) in after {
        match before.get(name) {
            Some(same) if same == held => {}
            Some(_) => events.push(Event::Revoked(act(name, held, "changed"))),
            None => events.push(Event::Revoked(act(name, held, "new"))),
        }
    }
    events
}

const EXPIRED: &str = "expired";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vouchsafe_config::set::Options;
    use vouchsafe_config::source::Source;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn held(documents: &[(&str, &str, &str)], now: SystemTime) -> Held {
        let mesh = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec: {trust_domain: factory.example}\n";
        let mut text = mesh.to_owned();
        for (name, action, more) in documents {
            text.push_str(&format!("---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: {name}, namespace: a}}\nspec: {{match: {{class: [software]}}, action: {action}, reason: they said so{more}}}\n"));
        }
        let set = PolicySet::parse(vec![Source::new("r.yaml", text)], Options::default());
        in_force(&set.unwrap_or_else(|problems| panic!("{problems}")), now)
    }

    #[track_caller]
    fn check(before: &Held, after: &Held, now: SystemTime, expected: &[(&str, &str, &str, &str)]) {
        let actor = Actor {
            name: "uid 7".to_owned(),
            why: "found it".to_owned(),
        };
        let events = events(before, after, &actor, now);
        let said: Vec<_> = events
            .iter()
            .map(|event| match event {
                Event::Revoked(act) => ("revoked", act),
                Event::RevocationEnded(act) => ("ended", act),
                other => panic!("{other:?}"),
            })
            .map(|(kind, act)| (kind, &*act.name, &*act.how, &*act.actor))
            .collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn what_comes_goes_and_changes_is_told_with_its_actor() {
        let none = held(&[], at(0));
        let one = held(&[("r", "cut", "")], at(0));
        let milder = held(&[("r", "drain", "")], at(0));
        check(&none, &one, at(0), &[("revoked", "a/r", "new", "uid 7")]);
        check(&one, &none, at(0), &[("ended", "a/r", "removed", "uid 7")]);
        check(&one, &one, at(0), &[]);
        let both = [
            ("ended", "a/r", "changed", "uid 7"),
            ("revoked", "a/r", "changed", "uid 7"),
        ];
        check(&one, &milder, at(0), &both);
    }

    #[test]
    fn an_end_by_the_clock_is_nobodys_act() {
        let expiring = [("r", "cut", ", expires: 2027-01-15T08:00:00Z")];
        // 2027-01-15T08:00:00Z is second 1,800,000,000.
        let early = SystemTime::UNIX_EPOCH + Duration::from_secs(1_799_999_999);
        let (before, after) = (held(&expiring, early), held(&expiring, at(0)));
        assert_eq!((before.len(), after.len()), (1, 0));
        let told = [("ended", "a/r", "expired", "its own `expires`")];
        check(&before, &after, at(0), &told);
        // Who takes the document away before its hour has ended it himself.
        check(
            &before,
            &after,
            early,
            &[("ended", "a/r", "removed", "uid 7")],
        );
    }
}
