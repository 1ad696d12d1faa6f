//! What becomes of revocations, for the record: nothing that was revoked comes back unless the record says why.
//!
//! The store keeps which revocations were in force, each under a key of its own: there may be thousands. Whatever changes that (an operator's command, a file that somebody
//! edited or removed, also while no control plane ran, or the hour of its own end) is seen as a difference between
//! what is kept and the policy in force, and is recorded before it acts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use vouchsafe_api::convert::record::Event;
use vouchsafe_api::convert::record::acts::RevocationAct;
use vouchsafe_api::convert::unix_ms;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_config::document::Kind;
use vouchsafe_config::set::PolicySet;

use crate::store::redb::RedbStore;
use crate::store::{Expect, Store, StoreError, Write};

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

/// What was told of revocations.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Those in force, as the record has them.
    held: Held,
    /// Names of those that the store has otherwise.
    unwritten: BTreeSet<String>,
    /// Whether the store has them all in one value, as earlier versions wrote them.
    is_in_one: bool,
}

impl Told {
    /// What the store has.
    ///
    /// # Errors
    /// [`StoreError`] when it can't be read or is damaged.
    pub(crate) async fn read(store: &RedbStore) -> Result<Self, StoreError> {
        let mut told = Self::default();
        for (key, entry) in store.list(ALL_IN_ONE).await?.0 {
            let damaged = |_| StoreError::Engine(format!("entry `{key}` is damaged"));
            match key.strip_prefix(EACH) {
                Some(name) => {
                    let held = serde_json::from_slice(&entry.value).map_err(damaged)?;
                    told.held.insert(name.to_owned(), held);
                }
                None => {
                    let all: Held = serde_json::from_slice(&entry.value).map_err(damaged)?;
                    told.is_in_one = true;
                    told.unwritten.extend(all.keys().cloned());
                    told.held.extend(all);
                }
            }
        }
        Ok(told)
    }

    /// What is to be recorded of each revocation that is not as it was told.
    pub(crate) fn changes(
        &self,
        in_force: &Held,
        actor: &Actor,
        now: SystemTime,
    ) -> Vec<(String, Vec<Event>)> {
        let names = self.held.keys().chain(in_force.keys());
        let changed = |name: &&String| self.held.get(*name) != in_force.get(*name);
        let names: BTreeSet<&String> = names.filter(changed).collect();
        let of = |held: &Held, name: &String| -> Held {
            let held = held.get_key_value(name);
            held.map(|(name, one)| (name.clone(), one.clone()))
                .into_iter()
                .collect()
        };
        let changes = names.into_iter().map(|name| {
            let events = events(&of(&self.held, name), &of(in_force, name), actor, now);
            (name.clone(), events)
        });
        changes.collect()
    }

    /// The record has what became of one.
    pub(crate) fn told(&mut self, name: String, in_force: &Held) {
        match in_force.get(&name) {
            Some(held) => drop(self.held.insert(name.clone(), held.clone())),
            None => drop(self.held.remove(&name)),
        }
        self.unwritten.insert(name);
    }

    /// Writes down what the store has otherwise.
    ///
    /// # Errors
    /// [`StoreError`]; the same is tried again at the next call.
    pub(crate) async fn write(&mut self, store: &RedbStore) -> Result<(), StoreError> {
        if self.unwritten.is_empty() && !self.is_in_one {
            return Ok(());
        }
        let mut writes: Vec<Write> = { self.unwritten.iter() }
            .map(|name| Write {
                key: format!("{EACH}{name}"),
                expect: Expect::Any,
                // Texts and numbers always have a JSON form.
                value: { self.held.get(name) }
                    .map(|held| serde_json::to_vec(held).unwrap_or_default()),
            })
            .collect();
        if self.is_in_one {
            writes.push(Write {
                key: ALL_IN_ONE.to_owned(),
                expect: Expect::Any,
                value: None,
            });
        }
        store.txn(writes).await?;
        self.unwritten.clear();
        self.is_in_one = false;
        Ok(())
    }
}

/// Revocations in force, by name.
pub(crate) type Held = BTreeMap<String, HeldRevocation>;

/// One of them, as it is stored.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct HeldRevocation {
    document_sha256: String,
    /// Digest of what the documents of its nodes say of those machines; empty without any. Whoever changes such a document
    /// changes whom it means.
    #[serde(default)]
    machines_sha256: String,
    action: String,
    /// Its beginning; the document's digest tells one from another.
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
            machines_sha256: match one.matches.machines.as_slice() {
                [] => String::new(),
                machines => hex::encode(sha256(machines.join("\n").as_bytes())),
            },
            action: one.action.as_str().to_owned(),
            reason: {
                let end = one.reason.floor_char_boundary(MAX_REASON_BYTES);
                one.reason.get(..end).unwrap_or_default().to_owned()
            },
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
/// Where earlier versions kept all of them.
const ALL_IN_ONE: &str = "mesh/revocations";
/// Before the name of each.
const EACH: &str = "mesh/revocations/";
/// As much as the record keeps of a text.
const MAX_REASON_BYTES: usize = 4096;

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

    #[test]
    fn a_node_document_that_changes_whom_a_revocation_means_is_a_change_of_it() {
        let of = |machine: &str| {
            let text = format!(
                "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: m}}\nspec: {{trust_domain: factory.example}}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Node\nmetadata: {{name: n, namespace: a}}\nspec: {{hardware: {{tpm_ek_sha256: {machine}}}}}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: r, namespace: a}}\nspec: {{match: {{node: [n]}}, action: cut, reason: stolen}}\n"
            );
            let set = PolicySet::parse(vec![Source::new("r.yaml", text)], Options::default());
            in_force(&set.unwrap_or_else(|problems| panic!("{problems}")), at(0))
        };
        let (one, other) = (of(&"a".repeat(64)), of(&"b".repeat(64)));
        let changed = [
            ("ended", "a/r", "changed", "uid 7"),
            ("revoked", "a/r", "changed", "uid 7"),
        ];
        check(&one, &other, at(0), &changed);
        check(&one, &one, at(0), &[]);
    }

    #[tokio::test]
    async fn thousands_of_revocations_are_kept_and_those_of_an_earlier_version_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store.redb")).unwrap();
        let one = held(&[("r", "cut", "")], at(0));
        let value = serde_json::to_vec(&one).unwrap();
        store.put_if(ALL_IN_ONE, value, Expect::Any).await.unwrap();
        let actor = Actor::folder();
        let mut told = Told::read(&store).await.unwrap();
        assert_eq!(told.held, one);
        let many: Held = (0..5000)
            .map(|number| {
                let mut held = one["a/r"].clone();
                held.reason = "x".repeat(MAX_REASON_BYTES);
                (format!("a/r-{number}"), held)
            })
            .collect();
        for (name, events) in told.changes(&many, &actor, at(0)) {
            assert_eq!(events.len(), 1);
            told.told(name, &many);
        }
        assert!(told.changes(&many, &actor, at(0)).is_empty());
        told.write(&store).await.unwrap();
        let again = Told::read(&store).await.unwrap();
        assert_eq!(again.held, many);
        assert!(!again.is_in_one && again.unwritten.is_empty());
        assert_eq!(store.get(ALL_IN_ONE).await.unwrap(), None);
    }
}
