//! What ports in `audit` admitted although policy would deny it: counted by caller and by what he asked for, in a bounded
//! table that the control plane is told of, so that nobody has to gather logs to know which rules are missing.
//!
//! Only what policy would deny takes the lock, and each such request writes a line of the log as well. Paths are kept with
//! `*` where a segment looks like an identifier; what finds no place, or can't be told plainly, is counted as beyond.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use vouchsafe_api::convert::mesh_state::report::{
    Audited, AuditedClient, AuditedRequest, MAX_AUDITED, MAX_CLIENTS, Report,
};
use vouchsafe_config::policy::normalize_path;
use vouchsafe_config::reason::suggest::generalized;

use crate::reason::Reason;
use crate::tls::peer_verifier::Verified;

/// What was decided at this sidecar's doors since it started.
#[derive(Debug, Default)]
pub struct Audits {
    denied: AtomicU64,
    ended: AtomicU64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    clients: Vec<AuditedClient>,
    sorts: HashMap<Sort, Tally>,
    beyond: u64,
}

#[derive(Debug, Eq, Hash, PartialEq)]
struct Sort {
    client: u32,
    port: String,
    reason: Reason,
    ask: Option<AuditedRequest>,
}

#[derive(Debug)]
struct Tally {
    count: u64,
    first: SystemTime,
    last: SystemTime,
}

/// What was asked for: method, path without query, whether it was gRPC.
pub(crate) type Ask<'a> = Option<(&'a str, &'a str, bool)>;

impl Audits {
    pub(crate) fn denied(&self) {
        self.denied.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes one request or flow that audit admitted.
    pub(crate) fn admitted(
        &self,
        peer: &Verified,
        port: &str,
        reason: Reason,
        ask: Ask<'_>,
        now: SystemTime,
    ) {
        let shown = match ask {
            None => Some(None),
            Some(ask) => plain(ask).map(Some),
        };
        let mut table = self.lock();
        match shown {
            Some(ask) => table.add(peer, port, reason, ask, now),
            None => table.beyond += 1,
        }
    }

    /// All of it, as much as fits into a message; what came most often first.
    pub(crate) fn report(&self) -> Report {
        let table = self.lock();
        let sorts = table.sorts.iter();
        let mut audited: Vec<Audited> = sorts
            .map(|(sort, tally)| Audited {
                client: sort.client,
                port: sort.port.clone(),
                reason: sort.reason.as_str().to_owned(),
                ask: sort.ask.clone(),
                count: tally.count,
                first: tally.first,
                last: tally.last,
            })
            .collect();
        audited.sort_by(|one, other| {
            let text = |one: &Audited| {
                let ask = one
                    .ask
                    .as_ref()
                    .map(|ask| (ask.path.clone(), ask.method.clone()));
                (one.client, one.port.clone(), ask, one.reason.clone())
            };
            other
                .count
                .cmp(&one.count)
                .then_with(|| text(one).cmp(&text(other)))
        });
        let report = Report {
            denied: self.denied.load(Ordering::Relaxed),
            ended: self.ended.load(Ordering::Relaxed),
            clients: table.clients.clone(),
            audited,
            beyond: table.beyond,
        };
        drop(table);
        report.fitting()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves at worst one count out.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What can be told of a request; `None` where its path or method can't.
fn plain((method, path, grpc): (&str, &str, bool)) -> Option<AuditedRequest> {
    let path = normalize_path(path).ok()?;
    let path = match grpc {
        true => path.into_owned(),
        false => generalized(&path)?,
    };
    let ask = AuditedRequest {
        method: method.to_owned(),
        path,
        grpc,
    };
    ask.is_plain().then_some(ask)
}

impl Table {
    fn add(
        &mut self,
        peer: &Verified,
        port: &str,
        reason: Reason,
        ask: Option<AuditedRequest>,
        now: SystemTime,
    ) {
        let Some(client) = self.client(peer) else {
            self.beyond += 1;
            return;
        };
        let sort = Sort {
            client,
            port: port.to_owned(),
            reason,
            ask,
        };
        if let Some(tally) = self.sorts.get_mut(&sort) {
            tally.count += 1;
            tally.last = tally.last.max(now);
        } else if self.sorts.len() < MAX_AUDITED {
            let tally = Tally {
                count: 1,
                first: now,
                last: now,
            };
            self.sorts.insert(sort, tally);
        } else {
            self.beyond += 1;
        }
    }

    /// The place of a client, with what its newest certificate says.
    fn client(&mut self, peer: &Verified) -> Option<u32> {
        let (id, class) = (peer.peer.id().as_str(), peer.class());
        let serial = peer.peer.serial().as_bytes();
        let held = self.clients.iter();
        let place = { held }.position(|one| one.id == id && one.class == class);
        let place = match place {
            Some(place) => place,
            None if self.clients.len() < MAX_CLIENTS => {
                self.clients.push(AuditedClient {
                    id: id.to_owned(),
                    class: class.to_owned(),
                    serial: Vec::new(),
                    result: Vec::new(),
                });
                self.clients.len() - 1
            }
            None => return None,
        };
        let client = self.clients.get_mut(place)?;
        if client.serial != serial {
            client.serial = serial.to_vec();
            let result = peer.peer.result();
            // It was decoded from a certificate, so it has an encoding within its bounds.
            client.result = result.and_then(|one| one.encode().ok()).unwrap_or_default();
        }
        u32::try_from(place).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_as_a_rule_would_say_them_or_not_at_all() {
        for (method, path, grpc, expected) in [
            ("GET", "/v1/files/17", false, Some("/v1/files/*")),
            ("GET", "/v1/a%2Db", false, Some("/v1/a-b")),
            ("POST", "/pkg.Service/Call", true, Some("/pkg.Service/Call")),
            ("GET", "/v1/*", false, None),
            ("GET", "/a\"b", false, None),
            ("G]T", "/a", false, None),
            ("GET", "/../a", false, None),
        ] {
            let found = plain((method, path, grpc)).map(|ask| ask.path);
            assert_eq!(found.as_deref(), expected, "{method} {path}");
        }
    }
}
